//! Limits what one address may ask, in bounded memory and without a lock.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much one address may ask: an IPv4 address, or an IPv6 network of 64 bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// Questions a second, for ever.
    pub per_second: u32,
    /// Questions at once after a rest.
    pub burst: u32,
}

/// A token bucket for each address, as the time at which it will be full again.
///
/// Two addresses that share a slot take it from each other, which forgives and
/// never punishes: the newcomer starts with a full bucket. Which addresses do
/// is secret.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    start: Instant,
    hasher: RandomState,
    /// Of each slot: 20 bits that tell its owner, 44 bits of ticks since `start`.
    slots: Box<[AtomicU64]>,
}

impl Limiter {
    /// A limiter that starts at `now` with all buckets full.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            start: now,
            hasher: RandomState::new(),
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Takes a token for a question of `address` at `now`; false if there is none.
    #[must_use]
    pub fn take(&self, address: IpAddr, now: Instant) -> bool {
        let hash = self.hasher.hash_one(network(address));
        let Some(slot) = usize::try_from(hash % SLOTS).ok().and_then(|at| self.slots.get(at))
        else {
            return true;
        };
        let owner = hash >> TIME_BITS;
        // One tick before `start` is zero, so that an empty slot is a full bucket.
        let now = (1 + ticks(now.saturating_duration_since(self.start))) & TIME_MASK;
        let interval = (TICKS_PER_SECOND / u64::from(self.rate.per_second.max(1))).max(1);
        let depth = interval * u64::from(self.rate.burst.max(1) - 1);
        slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |value| {
            let full_at = if value >> TIME_BITS == owner { value & TIME_MASK } else { 0 };
            let full_at = full_at.max(now);
            (full_at - now <= depth)
                .then_some(owner << TIME_BITS | ((full_at + interval) & TIME_MASK))
        })
        .is_ok()
    }
}

/// 128 KiB in all.
const SLOTS: u64 = 1 << 14;
/// Lasts for 34 years of uptime.
const TIME_BITS: u32 = 44;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
const TICKS_PER_SECOND: u64 = 1 << 14;

/// A customer's network in IPv6 (RFC 6177) is one address here.
fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => u64::try_from(v6.to_bits() >> 64).unwrap_or_default(),
    }
}

fn ticks(span: Duration) -> u64 {
    span.as_secs() * TICKS_PER_SECOND
        + u64::from(span.subsec_nanos()) * TICKS_PER_SECOND / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 5 };

    #[test]
    fn after_the_burst_questions_pass_at_the_rate() {
        let (limiter, now) = limiter();

        let burst = answered(&limiter, "192.0.2.1", now, 20);
        let later = answered(&limiter, "192.0.2.1", now + Duration::from_millis(300), 20);
        let rested = answered(&limiter, "192.0.2.1", now + Duration::from_secs(60), 20);

        assert_eq!((burst, later, rested), (5, 3, 5));
    }

    #[test]
    fn one_address_does_not_take_anothers_tokens() {
        let (limiter, now) = limiter();
        answered(&limiter, "192.0.2.1", now, 20);

        assert_eq!(answered(&limiter, "192.0.2.2", now, 20), 5);
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let (limiter, now) = limiter();
        answered(&limiter, "2001:db8::1", now, 20);

        assert_eq!(answered(&limiter, "2001:db8::ffff:2", now, 20), 0);
        assert_eq!(answered(&limiter, "2001:db8:0:1::1", now, 20), 5);
    }

    #[test]
    fn a_flood_of_addresses_locks_nobody_out() {
        let (limiter, now) = limiter();
        for number in 0..200_000u32 {
            let _ = limiter.take(IpAddr::V4(number.into()), now);
        }

        assert!(limiter.take("203.0.113.9".parse().unwrap(), now));
    }

    fn answered(limiter: &Limiter, address: &str, at: Instant, questions: usize) -> usize {
        let address = address.parse().unwrap();
        (0..questions).filter(|_| limiter.take(address, at)).count()
    }

    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    fn limiter() -> (Limiter, Instant) {
        let now = Instant::now();
        (Limiter::new(RATE, now), now)
    }
}
