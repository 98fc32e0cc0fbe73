//! The kernel's clocks, and the one place that moves them.

use std::fmt;
use std::time::{Duration, Instant};

use clock_steering::unix::UnixClock;
use clock_steering::{Clock as _, LeapIndicator, TimeOffset};
use nix::time::{ClockId, clock_gettime};

use crate::clock::{Nanos, UnixTime};

/// What the machine has: a monotonic clock, and a wall clock that may be moved.
///
/// The kernel steers both clocks together, so the wall clock never drifts
/// against the monotonic one: what parts them is a step.
pub trait OsClock: fmt::Debug + Send + Sync {
    /// The monotonic clock.
    fn mono(&self) -> Instant;

    /// The wall clock.
    fn utc(&self) -> UnixTime;

    /// Moves the wall clock by `by`.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn step(&self, by: Nanos) -> Result<(), OsClockError>;

    /// The frequency correction in force, in parts per million.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn frequency(&self) -> Result<f64, OsClockError>;

    /// Sets the frequency correction, in parts per million.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn set_frequency(&self, ppm: f64) -> Result<(), OsClockError>;

    /// Switches the kernel's own discipline off and marks the clock unsynchronized.
    ///
    /// # Errors
    ///
    /// The kernel refuses: the capability `CAP_SYS_TIME` is missing.
    fn take_control(&self) -> Result<(), OsClockError>;

    /// Tells the kernel what the clock is worth.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn set_status(&self, status: KernelStatus) -> Result<(), OsClockError>;
}

/// What the kernel is told of its clock: `timedatectl` shows it, and the kernel
/// copies a synchronized clock to the RTC each 11 minutes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KernelStatus {
    /// Whether the clock is disciplined.
    pub synchronized: bool,
    /// Expected error.
    pub est_error: Duration,
    /// Error bound; the kernel lets it grow and gives up at 16 s, so repeat it.
    pub max_error: Duration,
    /// Leap second at the end of the UTC day: 0 none, 1 inserted, 2 deleted (RFC 5905 figure 9).
    pub leap: u8,
}

/// The kernel's refusal to move its clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the kernel refuses to {what}: {reason}")]
pub struct OsClockError {
    pub(super) what: &'static str,
    pub(super) reason: clock_steering::unix::Error,
}

/// The kernel's clocks: `CLOCK_MONOTONIC` and `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelClock;

impl OsClock for KernelClock {
    #[expect(clippy::disallowed_methods, reason = "here is where clocks are read")]
    fn mono(&self) -> Instant {
        Instant::now()
    }

    fn utc(&self) -> UnixTime {
        // A vDSO read. It cannot fail for this clock; 1970 would be an honest answer if it did.
        clock_gettime(ClockId::CLOCK_REALTIME).map_or(UnixTime::EPOCH, |time| {
            let seconds = Nanos::from(time.tv_sec()) * PER_SECOND;
            UnixTime::from_nanos(seconds + Nanos::from(time.tv_nsec()))
        })
    }

    fn step(&self, by: Nanos) -> Result<(), OsClockError> {
        let refused = refused("step the clock");
        let offset =
            time_offset(by).ok_or(clock_steering::unix::Error::Invalid).map_err(&refused)?;
        UnixClock::CLOCK_REALTIME.step_clock(offset).map(drop).map_err(refused)
    }

    fn frequency(&self) -> Result<f64, OsClockError> {
        UnixClock::CLOCK_REALTIME.get_frequency().map_err(refused("tell its frequency"))
    }

    fn set_frequency(&self, ppm: f64) -> Result<(), OsClockError> {
        let set = UnixClock::CLOCK_REALTIME.set_frequency(ppm);
        set.map(drop).map_err(refused("set the frequency"))
    }

    fn take_control(&self) -> Result<(), OsClockError> {
        let clock = UnixClock::CLOCK_REALTIME;
        let outcome = clock
            .disable_kernel_ntp_algorithm()
            .and_then(|()| clock.set_leap_seconds(LeapIndicator::Unknown));
        outcome.map_err(refused("hand its clock over"))
    }

    fn set_status(&self, status: KernelStatus) -> Result<(), OsClockError> {
        let clock = UnixClock::CLOCK_REALTIME;
        let leap = match status {
            KernelStatus { synchronized: false, .. } => LeapIndicator::Unknown,
            KernelStatus { leap: 1, .. } => LeapIndicator::Leap61,
            KernelStatus { leap: 2, .. } => LeapIndicator::Leap59,
            KernelStatus { .. } => LeapIndicator::NoWarning,
        };
        let outcome = clock
            .error_estimate_update(status.est_error, status.max_error)
            .and_then(|()| clock.set_leap_seconds(leap));
        outcome.map_err(refused("take the clock's status"))
    }
}

const PER_SECOND: Nanos = 1_000_000_000;

/// `by` as whole seconds, rounded down, and the nanoseconds above them.
fn time_offset(by: Nanos) -> Option<TimeOffset> {
    Some(TimeOffset {
        seconds: by.div_euclid(PER_SECOND).try_into().ok()?,
        nanos: by.rem_euclid(PER_SECOND).try_into().ok()?,
    })
}

fn refused(what: &'static str) -> impl Fn(clock_steering::unix::Error) -> OsClockError {
    move |reason| OsClockError { what, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_back_is_whole_seconds_down_and_nanoseconds_up() {
        assert_eq!(time_offset(-1), Some(TimeOffset { seconds: -1, nanos: 999_999_999 }));
        assert_eq!(time_offset(1_500_000_000), Some(TimeOffset { seconds: 1, nanos: 500_000_000 }));
        assert_eq!(time_offset(Nanos::MAX), None);
    }

    #[test]
    fn the_clocks_can_be_read() {
        let earlier = KernelClock.mono();

        assert!(KernelClock.utc() > UnixTime::EPOCH);
        assert!(KernelClock.mono() >= earlier);
    }
}
