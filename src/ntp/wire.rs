//! The NTP packet header and its time formats (RFC 5905 sections 6 and 7.3).

use std::net::IpAddr;
use std::time::Duration;

use md5::{Digest, Md5};

use crate::clock::{Nanos, UnixTime};

/// Octets of the header; extension fields and a MAC may follow it.
pub const HEADER_LEN: usize = 48;

/// Mode of a client's question (RFC 5905 figure 10).
pub const MODE_CLIENT: u8 = 3;

/// Mode of a server's answer (RFC 5905 figure 10).
pub const MODE_SERVER: u8 = 4;

/// Leap indicator of a clock that is not synchronized (RFC 5905 figure 9).
pub const LEAP_UNKNOWN: u8 = 3;

/// Stratum of a clock that is not synchronized (RFC 5905 figure 11).
pub const STRATUM_UNSYNCHRONIZED: u8 = 16;

/// The packet header (RFC 5905 figure 8), every field as it stands on the wire.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Header {
    /// Leap indicator, 2 bits.
    pub leap: u8,
    /// Version number, 3 bits.
    pub version: u8,
    /// Association mode, 3 bits.
    pub mode: u8,
    /// 0 is a kiss code, 1 a primary server, 16 not synchronized.
    pub stratum: u8,
    /// log2 of the longest interval between messages, in seconds.
    pub poll: i8,
    /// log2 of the clock's precision, in seconds.
    pub precision: i8,
    /// Round trip to the primary source, short format.
    pub root_delay: u32,
    /// Error bound to the primary source, short format.
    pub root_dispersion: u32,
    /// Names the source, or spells a kiss code.
    pub reference_id: [u8; 4],
    /// When the clock was last set or corrected, timestamp format.
    pub reference_timestamp: u64,
    /// In an answer: the question's transmit timestamp, bit for bit.
    pub origin_timestamp: u64,
    /// When the question arrived, timestamp format.
    pub receive_timestamp: u64,
    /// When this packet left, timestamp format.
    pub transmit_timestamp: u64,
}

impl Header {
    /// Reads the first 48 octets; what follows them is left alone. `None` if there are fewer.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (head, _) = packet.split_first_chunk::<HEADER_LEN>()?;
        let (&[bits, stratum, poll, precision], rest) = head.split_first_chunk::<4>()?;
        let (&root_delay, rest) = rest.split_first_chunk::<4>()?;
        let (&root_dispersion, rest) = rest.split_first_chunk::<4>()?;
        let (&reference_id, rest) = rest.split_first_chunk::<4>()?;
        let (&reference, rest) = rest.split_first_chunk::<8>()?;
        let (&origin, rest) = rest.split_first_chunk::<8>()?;
        let (&receive, rest) = rest.split_first_chunk::<8>()?;
        let (&transmit, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            leap: bits >> 6,
            version: bits >> 3 & 0b111,
            mode: bits & 0b111,
            stratum,
            poll: poll.cast_signed(),
            precision: precision.cast_signed(),
            root_delay: u32::from_be_bytes(root_delay),
            root_dispersion: u32::from_be_bytes(root_dispersion),
            reference_id,
            reference_timestamp: u64::from_be_bytes(reference),
            origin_timestamp: u64::from_be_bytes(origin),
            receive_timestamp: u64::from_be_bytes(receive),
            transmit_timestamp: u64::from_be_bytes(transmit),
        })
    }

    /// The header as 48 octets.
    #[must_use]
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut packet = [0; HEADER_LEN];
        packet[0] = self.leap << 6 | (self.version & 0b111) << 3 | self.mode & 0b111;
        packet[1] = self.stratum;
        packet[2] = self.poll.cast_unsigned();
        packet[3] = self.precision.cast_unsigned();
        packet[4..8].copy_from_slice(&self.root_delay.to_be_bytes());
        packet[8..12].copy_from_slice(&self.root_dispersion.to_be_bytes());
        packet[12..16].copy_from_slice(&self.reference_id);
        packet[16..24].copy_from_slice(&self.reference_timestamp.to_be_bytes());
        packet[24..32].copy_from_slice(&self.origin_timestamp.to_be_bytes());
        packet[32..40].copy_from_slice(&self.receive_timestamp.to_be_bytes());
        packet[40..48].copy_from_slice(&self.transmit_timestamp.to_be_bytes());
        packet
    }
}

/// A packet as what a symmetric key vouches for, header and extension fields, and what follows these: the
/// key's number and its code, a crypto-NAK, or nothing. `None` if there is no telling.
///
/// Fields and code look alike. So in version 4 the last 20 to 24 octets are a code's (RFC 7822 section 3: a
/// field that comes last is longer), and all before them has to be fields; before version 4 there are none.
#[must_use]
pub fn before_code(packet: &[u8]) -> Option<(&[u8], &[u8])> {
    let version = packet.first()? >> 3 & 0b111;
    let mut at = HEADER_LEN;
    loop {
        let rest = packet.get(at..)?;
        let is_code = rest.is_empty()
            || version < 4
            || (SHORTEST_CODE..=LONGEST_CODE).contains(&rest.len())
            || (at == HEADER_LEN && rest.len() == CRYPTO_NAK);
        if is_code {
            return packet.split_at_checked(at);
        }
        let &[_, _, high, low] = rest.first_chunk()?;
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len < SHORTEST_FIELD || len % 4 != 0 {
            return None;
        }
        at += len;
    }
}

/// Octets of the shortest extension field (RFC 7822 section 7.5).
pub const SHORTEST_FIELD: usize = 16;

/// Octets of a code with the number of its key: of 128 bits, or of 160.
const SHORTEST_CODE: usize = 20;
const LONGEST_CODE: usize = 24;

/// Octets of a crypto-NAK: the number 0 and no code (RFC 5905 section 7.3).
const CRYPTO_NAK: usize = 4;

/// A timestamp (32 bits of seconds, 32 of fraction) as a point in UTC.
///
/// The wire carries no era (RFC 5905 section 6), so a timestamp names a point
/// every 136 years. The one taken is the first that is not before `pivot`, less
/// a minute for the server's own error. With the floor as pivot a server that
/// claims 1970 lands in 2106: refuse what lies too far ahead.
#[must_use]
pub fn to_utc(timestamp: u64, pivot: UnixTime) -> UnixTime {
    let first = pivot - PIVOT_SLACK;
    let ahead = since_era(timestamp) - first.offset(UNIX_EPOCH).nanos();
    first.offset(ahead.rem_euclid(ERA))
}

/// A point in UTC as a timestamp of its era, to the nearest 2^-32 s.
///
/// Never 0, which stands for an unknown time (RFC 5905 section 6).
#[must_use]
pub fn from_utc(time: UnixTime) -> u64 {
    let since_era = time.offset(UNIX_EPOCH).nanos().rem_euclid(ERA);
    let fixed = ((since_era << 32) + PER_SECOND / 2) / PER_SECOND;
    // `fixed` is at most 2^64, which is the start of the next era.
    u64::try_from(fixed).unwrap_or(0).max(1)
}

/// The span from one timestamp to a later one, taken as less than 68 years either way.
#[must_use]
pub fn between(earlier: u64, later: u64) -> Nanos {
    let fixed = later.wrapping_sub(earlier).cast_signed();
    (Nanos::from(fixed) * PER_SECOND) >> 32
}

/// A short-format value (16 bits of seconds, 16 of fraction) as a duration.
#[must_use]
pub fn from_short(short: u32) -> Duration {
    Duration::from_nanos((u64::from(short) * 1_000_000_000) >> 16)
}

/// The reference id that stands for a source at `address` (RFC 5905 section 7.3: the
/// IPv4 address, or the first four octets of the MD5 hash of the IPv6 address).
#[must_use]
pub fn reference_id(address: IpAddr) -> [u8; 4] {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..]: [u8; 16] = Md5::digest(v6.octets()).into();
            [a, b, c, d]
        }
    }
}

/// A duration in short format, rounded up, at most 18 hours.
#[must_use]
pub fn to_short(duration: Duration) -> u32 {
    let fixed = (duration.as_nanos() << 16).div_ceil(1_000_000_000);
    u32::try_from(fixed).unwrap_or(u32::MAX)
}

/// 2^`exponent` seconds, as poll and precision are written; 18 hours at most.
#[must_use]
pub fn from_exponent(exponent: i8) -> Duration {
    Duration::from_secs_f64(f64::from(exponent.min(16)).exp2())
}

const PER_SECOND: Nanos = 1_000_000_000;

/// One era: 2^32 seconds.
const ERA: Nanos = PER_SECOND << 32;

/// From the start of era 0 (1900-01-01) to that of Unix time.
const UNIX_EPOCH: Nanos = 2_208_988_800 * PER_SECOND;

const PIVOT_SLACK: Duration = Duration::from_secs(60);

/// Nanoseconds since the start of the timestamp's era, rounded to the nearest.
fn since_era(timestamp: u64) -> Nanos {
    (Nanos::from(timestamp) * PER_SECOND + (1 << 31)) >> 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_header_of_a_recorded_answer_is_read() {
        // chronyd 4.3, stratum 2, LI 0, version 4, mode 4.
        let mut packet = [0u8; HEADER_LEN + 20];
        packet[..16]
            .copy_from_slice(&[0x24, 2, 6, 0xe9, 0, 0, 0x10, 0, 0, 0, 0x20, 0, 192, 0, 2, 1]);
        packet[40..48].copy_from_slice(&[0xed, 0x5f, 0x7a, 0x9c, 0x80, 0, 0, 0]);

        let header = Header::parse(&packet).unwrap();

        assert_eq!((header.leap, header.version, header.mode), (0, 4, MODE_SERVER));
        assert_eq!((header.stratum, header.poll, header.precision), (2, 6, -23));
        assert_eq!(from_short(header.root_delay), Duration::from_micros(62_500));
        assert_eq!(header.reference_id, [192, 0, 2, 1]);
        let pivot = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(to_utc(header.transmit_timestamp, pivot).to_string(), "2026-03-14T06:11:40Z");
    }

    #[test]
    fn a_short_packet_is_no_header() {
        assert_eq!(Header::parse(&[0x23; HEADER_LEN - 1]), None);
        assert_eq!(Header::parse(&[]), None);
    }

    #[test]
    fn the_era_is_the_one_after_the_pivot() {
        // The first second of era 1 (RFC 5905 figure 4).
        let turn: UnixTime = "2036-02-07T06:28:16Z".parse().unwrap();
        let before: UnixTime = "2026-03-14T06:11:40Z".parse().unwrap();

        assert_eq!(
            to_utc(from_utc(turn + Duration::from_secs(5)), before).since(turn),
            5 * PER_SECOND
        );
        assert_eq!(
            to_utc(from_utc(turn - Duration::from_secs(5)), before).since(turn),
            -5 * PER_SECOND
        );
        assert_eq!(to_utc(from_utc(UnixTime::EPOCH), before).to_string(), "2106-02-07T06:28:16Z");
    }

    #[test]
    fn a_server_a_little_before_the_pivot_is_not_taken_for_one_an_era_ahead() {
        let pivot: UnixTime = "2026-03-14T06:11:40Z".parse().unwrap();

        let near = to_utc(from_utc(pivot - Duration::from_secs(59)), pivot);

        assert_eq!(near.since(pivot), -59 * PER_SECOND);
    }

    #[test]
    fn the_start_of_an_era_is_not_sent_as_an_unknown_time() {
        let turn: UnixTime = "2036-02-07T06:28:16Z".parse().unwrap();

        assert_eq!(from_utc(turn), 1);
    }

    #[test]
    fn an_ipv6_source_is_named_by_the_hash_of_its_address() {
        assert_eq!(reference_id("192.0.2.1".parse().unwrap()), [192, 0, 2, 1]);
        assert_eq!(reference_id("::ffff:192.0.2.1".parse().unwrap()), [192, 0, 2, 1]);
        // md5sum of fifteen zero octets and a one.
        assert_eq!(reference_id("::1".parse().unwrap()), [0xcf, 0x40, 0x4d, 0xc8]);
    }

    #[test]
    fn short_values_never_understate_an_error() {
        assert_eq!(to_short(Duration::from_nanos(1)), 1);
        assert_eq!(to_short(Duration::from_secs(1)), 1 << 16);
        assert_eq!(to_short(Duration::MAX), u32::MAX);
    }

    proptest! {
        #[test]
        fn whatever_is_emitted_is_parsed_back(header in any_header()) {
            prop_assert_eq!(Header::parse(&header.emit()), Some(header));
        }

        #[test]
        fn no_octets_panic_and_48_of_them_come_back(packet in prop::collection::vec(any::<u8>(), 0..90)) {
            match Header::parse(&packet) {
                Some(header) => prop_assert_eq!(&header.emit()[..], &packet[..HEADER_LEN]),
                None => prop_assert!(packet.len() < HEADER_LEN),
            }
        }

        #[test]
        fn whatever_follows_a_header_a_packet_is_parted_behind_the_header_or_not_at_all(
            packet in prop::collection::vec(any::<u8>(), 0..200),
            fields in prop::collection::vec((any::<u8>(), any::<u8>(), 0u16..48), 0..6),
        ) {
            let mut packets = vec![packet.clone()];
            let mut hostile = [&[0x23; HEADER_LEN][..], &packet].concat();
            packets.push(hostile.clone());
            hostile.truncate(HEADER_LEN);
            for (high, low, len) in fields {
                hostile.extend([high, low]);
                hostile.extend(len.to_be_bytes());
                hostile.resize(hostile.len() + usize::from(len).saturating_sub(5), 0);
                packets.push(hostile.clone());
            }
            for packet in packets {
                let Some((message, code)) = before_code(&packet) else { continue };
                prop_assert!(message.len() >= HEADER_LEN);
                prop_assert_eq!(&[message, code].concat(), &packet);
                prop_assert!(packet[0] >> 3 & 7 < 4 || [0, 4, 20, 21, 22, 23, 24].contains(&code.len()));
            }
        }

        #[test]
        fn a_time_within_an_era_of_the_pivot_survives_to_the_nanosecond(
            pivot in 0i64..8_000_000_000,
            ahead in -60_000_000_000i128..ERA - 60_000_000_001,
        ) {
            let pivot = UnixTime::from_secs(pivot);
            let time = pivot.offset(ahead);

            prop_assert!((to_utc(from_utc(time), pivot).since(time)).abs() <= 1);
        }

        #[test]
        fn any_timestamp_lands_in_the_era_after_the_pivot(
            timestamp: u64,
            pivot in -62_000_000_000i64..200_000_000_000,
        ) {
            let first = UnixTime::from_secs(pivot) - PIVOT_SLACK;

            let ahead = to_utc(timestamp, UnixTime::from_secs(pivot)).since(first);

            prop_assert!((0..ERA).contains(&ahead));
        }

        #[test]
        fn spans_are_signed(timestamp: u64, span in -2_000_000_000_000_000_000i128..2_000_000_000_000_000_000) {
            let time = UnixTime::from_nanos(Nanos::from(timestamp));

            let measured = between(from_utc(time), from_utc(time.offset(span)));

            prop_assert!((measured - span).abs() <= 1);
        }
    }

    fn any_header() -> impl Strategy<Value = Header> {
        let small = (0u8..4, 0u8..8, 0u8..8, any::<u8>(), any::<i8>(), any::<i8>());
        let root = (any::<u32>(), any::<u32>(), any::<[u8; 4]>());
        (small, root, any::<[u64; 4]>()).prop_map(|(small, root, stamps)| Header {
            leap: small.0,
            version: small.1,
            mode: small.2,
            stratum: small.3,
            poll: small.4,
            precision: small.5,
            root_delay: root.0,
            root_dispersion: root.1,
            reference_id: root.2,
            reference_timestamp: stamps[0],
            origin_timestamp: stamps[1],
            receive_timestamp: stamps[2],
            transmit_timestamp: stamps[3],
        })
    }
}
