//! A clock on an oscillator whose frequency is off as recorded, beside the truth.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use firstlight::clock::{Nanos, UnixTime};
use firstlight::host::kernel::{KernelClock, OsClock};
use firstlight::node::ports::{Clock, Steer};

use crate::trace::OFF;

const START: UnixTime = UnixTime::from_secs(1_800_000_000);
const SECOND: u64 = 1_000_000_000;

/// A clock on an oscillator whose frequency is off as recorded.
#[derive(Debug)]
pub(crate) struct Oscillator {
    origin: Instant,
    freq: Vec<f64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Nanoseconds of the truth since the start.
    truth: u64,
    /// How far the oscillator has gone ahead of it, in nanoseconds.
    ahead: f64,
    /// The clock's time at `anchor`, in nanoseconds of the oscillator, and its correction.
    utc: UnixTime,
    anchor: Nanos,
    ppm: f64,
}

impl Oscillator {
    pub(crate) fn new(freq: Vec<f64>) -> Self {
        let state = State { truth: 0, ahead: 0.0, utc: START.offset(OFF), anchor: 0, ppm: 0.0 };
        Self { origin: KernelClock.mono(), freq, state: Mutex::new(state) }
    }

    /// Lets time pass until `until`, in nanoseconds of the truth since the start.
    pub(crate) fn pass_until(&self, until: u64) {
        let mut state = self.state.lock().unwrap();
        while state.truth < until {
            let second = state.truth / SECOND;
            let next = ((second + 1) * SECOND).min(until);
            let freq = self.freq[second as usize % self.freq.len()];
            state.ahead += freq * (next - state.truth) as f64;
            state.truth = next;
        }
    }

    /// Nanoseconds of the truth since the start.
    pub(crate) fn truth(&self) -> u64 {
        self.state.lock().unwrap().truth
    }

    /// When the oscillator will show `at`, in nanoseconds of the truth. Up to some microseconds early or
    /// late, but never at once.
    pub(crate) fn truth_of(&self, at: Instant) -> u64 {
        let left = at.saturating_duration_since(self.mono());
        self.truth() + (left.as_nanos() as u64).max(1)
    }

    /// The true time at `truth`.
    pub(crate) fn utc_of(truth: u64) -> UnixTime {
        START.offset(truth.into())
    }

    /// How far the clock is ahead of the truth, in seconds.
    pub(crate) fn error(&self) -> f64 {
        self.utc().since(Self::utc_of(self.truth())) as f64 / 1e9
    }
}

impl Clock for Oscillator {
    fn mono(&self) -> Instant {
        let state = self.state.lock().unwrap();
        let ahead = state.ahead as i64;
        self.origin + Duration::from_nanos(state.truth.saturating_add_signed(ahead))
    }

    fn utc_at(&self, at: Instant) -> UnixTime {
        let state = self.state.lock().unwrap();
        let shown = at.saturating_duration_since(self.origin).as_nanos() as Nanos;
        let passed = shown - state.anchor;
        state.utc.offset(passed + (passed as f64 * state.ppm * 1e-6) as Nanos)
    }
}

impl Steer for Oscillator {
    fn step(&self, by: Nanos) {
        let mut state = self.state.lock().unwrap();
        state.utc = state.utc.offset(by);
    }

    fn set_frequency(&self, ppm: f64) {
        let now = self.mono();
        let utc = self.utc_at(now);
        let mut state = self.state.lock().unwrap();
        state.anchor = now.saturating_duration_since(self.origin).as_nanos() as Nanos;
        (state.utc, state.ppm) = (utc, ppm);
    }

    fn frequency(&self) -> f64 {
        self.state.lock().unwrap().ppm
    }
}
