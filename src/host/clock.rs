//! firstlight's own UTC, above the machine's clocks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tracing::{info, warn};

use crate::clock::{Nanos, UnixTime, describe, magnitude, nanos};
use crate::config::ClockMode;
use crate::host::kernel::{KernelStatus, OsClock, OsClockError};
use crate::node::ports::{Clock, Steer, Wall};

/// A difference between the OS clock and ours that only another hand can have made.
pub const FOREIGN_STEP: Nanos = 50_000_000;

/// The greatest frequency correction the kernel takes, in parts per million.
pub const MAX_FREQUENCY: f64 = 500.0;

/// firstlight's UTC: a line through an anchor on the monotonic clock.
///
/// In observe mode that is all, and its slope carries the frequency correction.
/// In steer mode the OS clock is kept on the same line; the kernel steers the
/// monotonic clock too, so the slope stays 1. Reads take no lock.
#[derive(Debug)]
pub struct MachineClock {
    os: Arc<dyn OsClock>,
    anchor: ArcSwap<Anchor>,
    steering: AtomicBool,
    refusal: Option<OsClockError>,
    /// Serializes writers.
    writer: Mutex<Written>,
}

/// UTC as a function of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Anchor {
    at: Instant,
    utc: UnixTime,
    /// How much faster than the monotonic clock it runs.
    slope_ppm: f64,
}

/// What this process last did to the machine's clock.
#[derive(Debug)]
struct Written {
    /// How far the OS clock was ahead of ours then.
    os_ahead: Nanos,
    /// The frequency then.
    frequency: f64,
    leap: u8,
    /// In observe mode, the end of the day that ends with a leap second, and of the last that did.
    leap_day: Option<UnixTime>,
    leap_taken: Option<UnixTime>,
}

impl MachineClock {
    /// A clock that reads `start`, wherever the OS clock stands.
    ///
    /// If the kernel does not let it be steered, it observes, and
    /// [`Self::refusal`] says why. The OS clock is not moved yet.
    #[must_use]
    pub fn new(mode: ClockMode, start: UnixTime, os: Arc<dyn OsClock>) -> Self {
        let refusal = match mode {
            ClockMode::Observe => None,
            ClockMode::Steer => os.take_control().err(),
        };
        let steering = mode == ClockMode::Steer && refusal.is_none();
        let frequency = if steering { os.frequency().unwrap_or_default() } else { 0.0 };
        let anchor = Anchor { at: os.mono(), utc: start, slope_ppm: 0.0 };
        let clock = Self {
            os,
            anchor: ArcSwap::from_pointee(anchor),
            steering: AtomicBool::new(steering),
            refusal,
            writer: Mutex::new(Written {
                os_ahead: 0,
                frequency,
                leap: 0,
                leap_day: None,
                leap_taken: None,
            }),
        };
        clock.lock().os_ahead = clock.os_ahead();
        clock
    }

    /// Whether the OS clock is moved with ours.
    #[must_use]
    pub fn mode(&self) -> ClockMode {
        if self.steering.load(Ordering::Relaxed) { ClockMode::Steer } else { ClockMode::Observe }
    }

    /// Why steering was asked for and is not done.
    #[must_use]
    pub fn refusal(&self) -> Option<OsClockError> {
        self.refusal
    }

    /// What the OS clock reads.
    #[must_use]
    pub fn os_utc(&self) -> UnixTime {
        self.os.utc()
    }

    /// Leaves the OS clock alone from here on. Ours goes on as it stands.
    ///
    /// An engine over this clock has to be rebuilt: the frequency starts at zero.
    pub fn observe(&self) {
        let mut written = self.lock();
        self.steering.store(false, Ordering::Relaxed);
        written.frequency = 0.0;
    }

    /// In steer mode, moves an OS clock that is behind `guess` forward to it; says by how much.
    ///
    /// Ours is not touched: a guess is not time.
    pub fn move_os_forward_to(&self, guess: UnixTime) -> Option<Nanos> {
        let mut written = self.lock();
        let behind = guess.since(self.os.utc());
        if self.mode() == ClockMode::Observe || behind <= 0 {
            return None;
        }
        let outcome = self.os.step(behind);
        written.os_ahead = self.os_ahead();
        match outcome {
            Ok(()) => Some(behind),
            Err(error) => {
                warn!(%error, "the OS clock stays behind");
                None
            }
        }
    }

    /// How far another hand moved the OS clock since we last did; `None` below [`FOREIGN_STEP`].
    ///
    /// In observe mode nobody's hand is foreign. A leap second that the kernel
    /// inserted or deleted on our word is no foreign step: ours follows it.
    pub fn foreign_step(&self) -> Option<Nanos> {
        if self.mode() == ClockMode::Observe {
            return None;
        }
        let mut written = self.lock();
        let moved = self.os_ahead() - written.os_ahead;
        if moved.abs() < FOREIGN_STEP {
            return None;
        }
        let leap = match written.leap {
            1 => -LEAP_SECOND,
            2 => LEAP_SECOND,
            _ => 0,
        };
        if leap != 0 && (moved - leap).abs() < FOREIGN_STEP {
            written.leap = 0;
            self.move_anchor(leap);
            info!(leap_seconds = leap / LEAP_SECOND, "leap second taken");
            return None;
        }
        Some(moved)
    }

    /// The frequency another hand set, in parts per million, if it is not ours.
    #[must_use]
    pub fn foreign_frequency(&self) -> Option<f64> {
        let ours = self.lock().frequency;
        let theirs = self.os.frequency().ok()?;
        // The kernel keeps it in units of 2^-16 ppm.
        (self.mode() == ClockMode::Steer && (theirs - ours).abs() > 0.001).then_some(theirs)
    }

    /// In steer mode, sets the OS clock and its frequency back to ours.
    pub fn resync_os(&self) {
        let mut written = self.lock();
        self.align_os(&mut written);
        if self.mode() == ClockMode::Steer
            && let Err(error) = self.os.set_frequency(written.frequency)
        {
            warn!(%error, "the kernel keeps its frequency");
        }
    }

    /// In steer mode, tells the kernel what its clock is worth. Repeat it: the kernel's
    /// error bound grows by 500 ppm, and at 16 s it takes itself for unsynchronized. In observe mode
    /// the leap second alone is noted.
    pub fn set_status(&self, status: KernelStatus) {
        let mut written = self.lock();
        if self.mode() == ClockMode::Observe {
            let ends = UnixTime::from_secs((self.utc().secs().div_euclid(DAY) + 1) * DAY);
            written.leap = if written.leap_taken == Some(ends) { 0 } else { status.leap };
            written.leap_day = Some(ends);
            return;
        }
        match self.os.set_status(status) {
            Ok(()) => written.leap = status.leap,
            Err(error) => warn!(%error, "the kernel does not know what its clock is worth"),
        }
    }

    /// In observe mode, takes the leap second that was announced once its time has come; how long
    /// that is, zero when it is taken. (In steer mode the kernel takes it, and ours follows.)
    pub fn leap_second(&self) -> Option<Duration> {
        let mut written = self.lock();
        let ends = written.leap_day.filter(|_| written.leap != 0)?;
        if self.mode() == ClockMode::Steer {
            return None;
        }
        let (leap, moment) = match written.leap {
            1 => (-LEAP_SECOND, ends),
            _ => (LEAP_SECOND, ends.offset(-LEAP_SECOND)),
        };
        let left = moment.since(self.utc());
        if left > 0 {
            return Some(magnitude(left));
        }
        written.leap = 0;
        written.leap_taken = Some(ends);
        self.move_anchor(leap);
        info!(leap_seconds = leap / LEAP_SECOND, "leap second taken");
        Some(Duration::ZERO)
    }

    /// In steer mode, puts the OS clock where ours is.
    fn align_os(&self, written: &mut Written) {
        if self.mode() == ClockMode::Observe {
            return;
        }
        let by = -self.os_ahead();
        if let Err(error) = self.os.step(by) {
            warn!(%error, by = describe(by), "the OS clock is not where ours is");
        }
        written.os_ahead = self.os_ahead();
    }

    fn os_ahead(&self) -> Nanos {
        let mut best = (Duration::MAX, 0);
        for _ in 0..OS_READS {
            let before = self.os.mono();
            let os = self.os.utc();
            let took = self.os.mono().saturating_duration_since(before);
            if took < best.0 {
                best = (took, os.since(self.utc_at(before + took / 2)));
            }
        }
        best.1
    }

    fn move_anchor(&self, by: Nanos) {
        let anchor = **self.anchor.load();
        self.anchor.store(Arc::new(Anchor { utc: anchor.utc.offset(by), ..anchor }));
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for MachineClock {
    fn mono(&self) -> Instant {
        self.os.mono()
    }

    fn utc_at(&self, at: Instant) -> UnixTime {
        self.anchor.load().utc_at(at)
    }

    fn moment_of(&self, stamp: UnixTime) -> Option<Instant> {
        let before = self.os.mono();
        let os = self.os.utc();
        let took = self.os.mono().saturating_duration_since(before);
        let age = u64::try_from(os.since(stamp)).ok().map(Duration::from_nanos)?;
        if took > STAMP_GRAIN || age > STAMP_AGE {
            return None;
        }
        (before + took / 2).checked_sub(age)
    }
}

impl Wall for MachineClock {
    fn wall(&self) -> (UnixTime, Instant) {
        let before = self.os.mono();
        let utc = self.os.utc();
        let took = self.os.mono().saturating_duration_since(before);
        (utc, before + took / 2)
    }
}

impl Steer for MachineClock {
    fn step(&self, by: Nanos) {
        let mut written = self.lock();
        self.move_anchor(by);
        self.align_os(&mut written);
    }

    fn set_frequency(&self, ppm: f64) {
        let ppm = if ppm.is_nan() { 0.0 } else { ppm.clamp(-MAX_FREQUENCY, MAX_FREQUENCY) };
        let mut written = self.lock();
        match self.mode() {
            ClockMode::Observe => {
                let at = self.mono();
                let utc = self.utc_at(at);
                self.anchor.store(Arc::new(Anchor { at, utc, slope_ppm: ppm }));
            }
            ClockMode::Steer => {
                if let Err(error) = self.os.set_frequency(ppm) {
                    warn!(%error, ppm, "the kernel keeps its frequency");
                    return;
                }
            }
        }
        written.frequency = ppm;
    }

    fn frequency(&self) -> f64 {
        self.lock().frequency
    }
}

impl Anchor {
    fn utc_at(&self, at: Instant) -> UnixTime {
        let elapsed = nanos(at.saturating_duration_since(self.at))
            - nanos(self.at.saturating_duration_since(at));
        self.utc.offset(elapsed + scaled(elapsed, self.slope_ppm))
    }
}

/// Two clocks cannot be read at once: of so many tries the least interrupted counts.
const OS_READS: usize = 3;

/// A stamp of the machine's clock that is older, or in the future, says that the clock was moved.
const STAMP_AGE: Duration = Duration::from_millis(100);

/// Two readings of the clocks further apart say too little of a stamp.
const STAMP_GRAIN: Duration = Duration::from_micros(20);

const PER_SECOND: Nanos = 1_000_000_000;
const LEAP_SECOND: Nanos = PER_SECOND;
const DAY: i64 = 86_400;

/// `elapsed` times `ppm` millionths.
fn scaled(elapsed: Nanos, ppm: f64) -> Nanos {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "years of nanoseconds times 500 ppm keep 53 good bits"
    )]
    let scaled = (elapsed as f64 * ppm * 1e-6) as Nanos;
    scaled
}

#[cfg(test)]
mod tests;
