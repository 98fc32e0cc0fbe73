//! Our clock and our units in the terms of ntp-proto.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ntp_proto::{NtpClock, NtpDuration, NtpLeapIndicator, NtpTimestamp};

use super::MAX_OFFSET;
use crate::clock::{Nanos, UnixTime};
use crate::node::ports::Steer;

/// Our clock as the library wants to see one. It never fails: the library would panic.
#[derive(Clone, Debug)]
pub(super) struct SteeredClock(pub(super) Arc<dyn Steer>);

impl NtpClock for SteeredClock {
    type Error = Infallible;

    fn now(&self) -> Result<NtpTimestamp, Infallible> {
        Ok(timestamp(self.0.utc()))
    }

    fn set_frequency(&self, frequency: f64) -> Result<NtpTimestamp, Infallible> {
        self.0.set_frequency(frequency * 1e6);
        self.now()
    }

    fn get_frequency(&self) -> Result<f64, Infallible> {
        Ok(self.0.frequency() * 1e-6)
    }

    fn step_clock(&self, offset: NtpDuration) -> Result<NtpTimestamp, Infallible> {
        // It may add up to more than any source is ahead (measured: 1.23 s); what is left it finds
        // with the next readings.
        self.0.step(nanos_of(offset).clamp(1 - MAX_OFFSET, MAX_OFFSET - 1));
        self.now()
    }

    fn disable_ntp_algorithm(&self) -> Result<(), Infallible> {
        // Done when the clock was opened.
        Ok(())
    }

    fn error_estimate_update(&self, _: NtpDuration, _: NtpDuration) -> Result<(), Infallible> {
        // What the kernel is told depends on trust, which the library knows nothing of.
        Ok(())
    }

    fn status_update(&self, _: NtpLeapIndicator) -> Result<(), Infallible> {
        Ok(())
    }
}

/// `time` without its era, as the library keeps it.
pub(super) fn timestamp(time: UnixTime) -> NtpTimestamp {
    // From the start of NTP's era 0 to that of Unix time; eras wrap, as in the library.
    let secs = time.secs().wrapping_add(2_208_988_800).rem_euclid(1 << 32);
    let nanos = time.since(UnixTime::from_secs(time.secs()));
    NtpTimestamp::from_seconds_nanos_since_ntp_era(
        u32::try_from(secs).unwrap_or_default(),
        u32::try_from(nanos).unwrap_or_default(),
    )
}

/// The library asserts that seconds are finite; it saturates at 68 years by itself.
pub(super) fn ntp_duration(seconds: f64) -> NtpDuration {
    NtpDuration::from_seconds(if seconds.is_finite() { seconds } else { 0.0 })
}

pub(super) fn seconds(span: Nanos) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "less than a second: 30 bits of nanoseconds")]
    let nanos = span as f64;
    nanos * 1e-9
}

pub(super) fn nanos_of(duration: NtpDuration) -> Nanos {
    let (secs, nanos) = duration.as_seconds_nanos();
    Nanos::from(secs) * 1_000_000_000 + Nanos::from(nanos)
}

pub(super) fn duration_of(duration: NtpDuration) -> Duration {
    u64::try_from(nanos_of(duration)).map_or(Duration::ZERO, Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_survive_the_way_through_the_library_to_a_nanosecond() {
        for span in [0, 1_000, -1_000, 999_999_999, -999_999_999, -300_000_000] {
            let back = nanos_of(ntp_duration(seconds(span)));

            assert!((back - span).abs() <= 1, "{span} became {back}");
        }
    }

    #[test]
    fn what_is_no_number_is_no_span() {
        assert_eq!(ntp_duration(f64::NAN), NtpDuration::ZERO);
        assert_eq!(duration_of(ntp_duration(-1.0)), Duration::ZERO);
    }

    #[test]
    fn timestamps_wrap_at_the_end_of_an_era() {
        let turn: UnixTime = "2036-02-07T06:28:16Z".parse().unwrap();

        let across = timestamp(turn) - timestamp(turn - Duration::from_millis(1500));

        assert_eq!(timestamp(turn), NtpTimestamp::default());
        assert_eq!(nanos_of(across), 1_500_000_000);
    }
}
