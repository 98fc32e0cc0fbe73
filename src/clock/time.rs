//! Points on the UTC scale, wide enough for any clock a machine may boot with.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

/// A signed span of time in nanoseconds, for differences between clocks.
///
/// 128 bits hold the 56 years between a boot in 1970 and today with room to
/// spare, where the 32.32 format of NTP saturates at 34 years (RFC 5905
/// section 6).
pub type Nanos = i128;

const PER_SECOND: Nanos = 1_000_000_000;

/// A point in UTC: nanoseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UnixTime(Nanos);

impl UnixTime {
    /// The start of the Unix era, where a clock without a battery wakes up.
    pub const EPOCH: Self = Self(0);

    /// The point `nanos` nanoseconds after the epoch.
    #[must_use]
    pub const fn from_nanos(nanos: Nanos) -> Self {
        Self(nanos)
    }

    /// The point `secs` seconds after the epoch.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs as Nanos * PER_SECOND)
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub const fn nanos(self) -> Nanos {
        self.0
    }

    /// Whole seconds since the epoch, rounded down, clamped to 64 bits.
    #[must_use]
    pub fn secs(self) -> i64 {
        let secs = self.0.div_euclid(PER_SECOND);
        i64::try_from(secs).unwrap_or(if secs < 0 { i64::MIN } else { i64::MAX })
    }

    /// How far this point lies after `earlier`; negative if before it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Nanos {
        self.0 - earlier.0
    }

    /// This point moved by a signed number of nanoseconds.
    #[must_use]
    pub const fn offset(self, by: Nanos) -> Self {
        Self(self.0 + by)
    }
}

impl std::ops::Add<Duration> for UnixTime {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0 + nanos(rhs))
    }
}

impl std::ops::Sub<Duration> for UnixTime {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        Self(self.0 - nanos(rhs))
    }
}

/// RFC 3339 in UTC, whole seconds: `2026-03-14T06:11:40Z`.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_second(self.secs()) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "@{}", self.secs()),
        }
    }
}

/// Accepts RFC 3339 (`2026-03-14T06:11:40Z`) and `@SECONDS` since the epoch.
impl FromStr for UnixTime {
    type Err = ParseTimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParseTimeError(text.to_owned());
        if let Some(secs) = text.strip_prefix('@') {
            return secs.parse().map(Self::from_secs).map_err(|_| fail());
        }
        let time: Timestamp = text.parse().map_err(|_| fail())?;
        Ok(Self(time.as_nanosecond()))
    }
}

/// A text that is neither RFC 3339 nor `@SECONDS`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a time; write 2026-03-14T06:11:40Z or @1773468700")]
pub struct ParseTimeError(String);

/// A duration as signed nanoseconds.
#[must_use]
pub fn nanos(duration: Duration) -> Nanos {
    // A Duration holds at most 2^64 s < 2^94 ns.
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

/// The magnitude of a signed span as a duration.
#[must_use]
pub fn magnitude(span: Nanos) -> Duration {
    let abs = span.unsigned_abs();
    let secs = u64::try_from(abs / PER_SECOND.unsigned_abs()).unwrap_or(u64::MAX);
    let rest = u32::try_from(abs % PER_SECOND.unsigned_abs()).unwrap_or(0);
    Duration::new(secs, rest)
}

/// A signed span for people: `+4 h 0 min`, `-12.5 ms`.
#[must_use]
pub fn describe(span: Nanos) -> String {
    let sign = if span < 0 { '-' } else { '+' };
    let size = magnitude(span);
    let secs = size.as_secs();
    match secs {
        0 if size.as_millis() == 0 => format!("{sign}{} us", size.as_micros()),
        0 => format!("{sign}{} ms", size.as_millis()),
        1..=119 => format!("{sign}{secs} s"),
        120..=7_199 => format!("{sign}{} min", secs / 60),
        7_200..=172_799 => format!("{sign}{} h {} min", secs / 3600, secs / 60 % 60),
        172_800..=63_115_199 => format!("{sign}{} d", secs / 86_400),
        _ => format!("{sign}{} y {} d", secs / 31_557_600, secs % 31_557_600 / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_rfc_3339_and_epoch_seconds() {
        let time: UnixTime = "2026-03-14T06:11:40Z".parse().unwrap();

        assert_eq!(time.to_string(), "2026-03-14T06:11:40Z");
        assert_eq!("@1773468700".parse(), Ok(time));
        assert!("yesterday".parse::<UnixTime>().is_err());
    }

    #[test]
    fn the_56_years_since_the_epoch_do_not_saturate() {
        let time: UnixTime = "2026-03-14T06:11:40Z".parse().unwrap();

        assert_eq!(time.since(UnixTime::EPOCH), 1_773_468_700_000_000_000);
        assert_eq!(describe(time.since(UnixTime::EPOCH)), "+56 y 72 d");
        assert_eq!(UnixTime::from_nanos(-1).secs(), -1);
    }
}
