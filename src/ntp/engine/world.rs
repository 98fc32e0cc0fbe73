//! A small world in virtual time: the truth, an oscillator, and servers that may lie.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::library::seconds;
use super::{Engine, EngineUpdate, Refused, SAMPLES_WITHHELD};
use crate::clock::{Nanos, Reading, UnixTime, nanos};
use crate::node::ports::{Clock, Steer};

pub(super) const MS: Nanos = 1_000_000;

/// The machine's oscillator against the true time.
const DRIFT_PPM: f64 = 20.0;

/// The truth, a clock that is 20 ms off and 20 ppm fast, and sources that may lie.
pub(super) struct World {
    pub(super) clock: Arc<SimClock>,
    pub(super) engine: Engine<usize>,
    pub(super) lies: Vec<Nanos>,
    rtt_ms: f64,
    /// How much longer a leg may take, as a share of the round trip, or of 2 ms if that is less.
    pub(super) jitter: f64,
    rng: StdRng,
}

impl World {
    pub(super) fn new(seed: u64, lies: &[Nanos], rtt_ms: f64) -> Self {
        let clock = Arc::new(SimClock::new(20 * MS));
        Self {
            engine: Engine::new(clock.clone(), 2),
            clock,
            lies: lies.to_vec(),
            rtt_ms,
            jitter: 0.2,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Nine polls of every source, a second apart.
    pub(super) fn burst(&mut self) {
        for _ in 0..SAMPLES_WITHHELD {
            self.poll_all();
            self.pass(1.0);
        }
    }

    /// Polls each 16 s until `secs` after the start; the greatest error seen, in ms.
    pub(super) fn run_until(&mut self, secs: f64) -> f64 {
        let mut worst = 0f64;
        let mut next_poll = self.clock.truth_secs();
        while self.clock.truth_secs() < secs {
            if self.clock.truth_secs() >= next_poll {
                self.poll_all();
                next_poll += 16.0;
            }
            self.pass(0.1);
            worst = worst.max(self.clock.error_ms().abs());
        }
        worst
    }

    fn poll_all(&mut self) {
        for source in 0..self.lies.len() {
            // A refusal is an outcome too: some tests step the clock on purpose.
            drop(self.ask(source));
        }
    }

    pub(super) fn ask(&mut self, source: usize) -> Result<EngineUpdate<usize>, Refused> {
        let reading = self.exchange(source);
        self.engine.handle_reading(source, &reading, self.clock.mono())
    }

    /// A sample of a reference clock, good to 10 ms at worst and a tenth of a millisecond mostly.
    pub(super) fn hear_reference_clock(&mut self, source: usize) {
        let jitter = self.rng.random_range(-100_000..=100_000);
        let error = Duration::from_millis(10);
        let reading = Reading {
            at: self.clock.mono(),
            utc: self.clock.truth().offset(self.lies[source] + jitter),
            error,
            delay: Duration::ZERO,
            stratum: 0,
            reference_id: *b"GPS\0",
            leap: 0,
            root_delay: Duration::ZERO,
            root_dispersion: error,
            precision: -20,
        };
        self.engine.handle_reading(source, &reading, self.clock.mono()).unwrap();
    }

    pub(super) fn exchange(&mut self, source: usize) -> Reading {
        let mut leg = || {
            let jitter: f64 = self.rng.random_range(0.0..=self.jitter) * self.rtt_ms.min(2.0);
            Duration::from_secs_f64((self.rtt_ms / 2.0 + jitter) * 1e-3)
        };
        let (out, back) = (leg(), leg());
        let sent = self.clock.mono();
        self.clock.pass(out);
        let utc = self.clock.truth().offset(self.lies[source]);
        self.clock.pass(back);
        let delay = self.clock.mono() - sent;
        Reading {
            at: sent + delay / 2,
            utc,
            delay,
            error: delay,
            stratum: 2,
            reference_id: [0; 4],
            leap: 0,
            root_delay: Duration::from_millis(1),
            root_dispersion: Duration::from_micros(500),
            precision: -20,
        }
    }

    /// Lets time pass, and ends slews in it when they are due.
    pub(super) fn pass(&mut self, secs: f64) {
        let end = self.clock.mono() + Duration::from_secs_f64(secs);
        while let Some((at, _)) = self.engine.poll_timeout().filter(|(at, _)| *at <= end) {
            self.clock.pass(at.saturating_duration_since(self.clock.mono()));
            // The clocks' rates differ by rounding; the timer must not be early.
            self.engine.handle_timeout(at.max(self.clock.mono()));
        }
        self.clock.pass(end.saturating_duration_since(self.clock.mono()));
    }
}

/// A clock on an oscillator that is [`DRIFT_PPM`] fast.
#[derive(Debug)]
pub(super) struct SimClock {
    origin: Instant,
    state: Mutex<SimState>,
}

#[derive(Debug)]
struct SimState {
    truth: Duration,
    anchor: Duration,
    utc: UnixTime,
    ppm: f64,
    writes: u32,
    greatest_step: Nanos,
}

const START: UnixTime = UnixTime::from_secs(1_773_468_700);

impl SimClock {
    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    fn new(off: Nanos) -> Self {
        let state = SimState {
            truth: Duration::ZERO,
            anchor: Duration::ZERO,
            utc: START.offset(off),
            ppm: 0.0,
            writes: 0,
            greatest_step: 0,
        };
        Self { origin: Instant::now(), state: Mutex::new(state) }
    }

    fn pass(&self, time: Duration) {
        self.state.lock().unwrap().truth += time;
    }

    pub(super) fn truth(&self) -> UnixTime {
        START + self.state.lock().unwrap().truth
    }

    pub(super) fn truth_secs(&self) -> f64 {
        self.state.lock().unwrap().truth.as_secs_f64()
    }

    pub(super) fn error_ms(&self) -> f64 {
        seconds(self.utc().since(self.truth())) * 1e3
    }

    pub(super) fn greatest_step(&self) -> Nanos {
        self.state.lock().unwrap().greatest_step
    }

    pub(super) fn writes(&self) -> u32 {
        self.state.lock().unwrap().writes
    }
}

impl Clock for SimClock {
    fn mono(&self) -> Instant {
        let truth = self.state.lock().unwrap().truth;
        self.origin + truth + truth.mul_f64(DRIFT_PPM * 1e-6)
    }

    fn utc_at(&self, at: Instant) -> UnixTime {
        let state = self.state.lock().unwrap();
        let passed = nanos(at - self.origin) - nanos(state.anchor);
        #[expect(clippy::cast_possible_truncation, reason = "nanoseconds of a test")]
        let corrected = (seconds(passed) * state.ppm * 1e3) as Nanos;
        state.utc.offset(passed + corrected)
    }
}

impl Steer for SimClock {
    fn step(&self, by: Nanos) {
        let mut state = self.state.lock().unwrap();
        state.utc = state.utc.offset(by);
        state.writes += 1;
        state.greatest_step = state.greatest_step.max(by.abs());
    }

    fn set_frequency(&self, ppm: f64) {
        let now = self.mono();
        let utc = self.utc_at(now);
        let mut state = self.state.lock().unwrap();
        state.anchor = now - self.origin;
        state.utc = utc;
        state.ppm = ppm;
        state.writes += 1;
    }

    fn frequency(&self) -> f64 {
        self.state.lock().unwrap().ppm
    }
}
