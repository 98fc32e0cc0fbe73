//! Jitter from a seed: the same inputs give the same draw on every machine and in every release.

use std::time::Duration;

use crate::clock::UnixTime;

/// A duration below `most`, evenly distributed over `salt`.
pub(super) fn draw(seed: u64, salt: u64, most: Duration) -> Duration {
    let random = u128::from(mixed(seed ^ mixed(salt)));
    let nanos = (most.as_nanos().min(u128::from(u64::MAX)) * random) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A salt from texts (FNV-1a) and moments.
pub(super) fn salt(texts: &[&str], moments: &[UnixTime]) -> u64 {
    let octets = texts.iter().flat_map(|text| text.bytes().chain([0]));
    let texts = octets.fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
    });
    moments.iter().fold(texts, |hash, moment| mixed(hash ^ moment.secs().cast_unsigned()))
}

/// The output function of `SplitMix64`.
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_spread_evenly_and_are_the_same_each_time() {
        let most = Duration::from_secs(100);
        let draws: Vec<_> = (0..10_000).map(|salt| draw(7, salt, most)).collect();

        assert!(draws.iter().all(|drawn| *drawn < most));
        for tenth in 0..10 {
            let within = |drawn: &&Duration| drawn.as_secs() / 10 == tenth;
            let count = draws.iter().filter(within).count();
            assert!((850..1150).contains(&count), "{count}");
        }
        assert_eq!(draw(1, 2, most), Duration::from_nanos(87_667_562_141));
        assert_ne!(salt(&["ab", "c"], &[]), salt(&["a", "bc"], &[]));
        let moment = UnixTime::from_secs;
        assert_ne!(salt(&[], &[moment(1), moment(2)]), salt(&[], &[moment(2), moment(1)]));
    }
}
