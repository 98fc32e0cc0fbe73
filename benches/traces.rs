//! Steers a simulated clock with the time engine along recorded traces of delay and frequency, and
//! writes how far it is off, a line for each second: `benches/chrony-traces` compares that with chrony.
//!
//! * `traces record FOLDER SEED DELAY SPREAD WANDER SECONDS` makes the traces: `freq`, a frequency error for
//!   each second, which begins at 20 ppm and walks by WANDER a second; `out` and `back`, a delay in seconds
//!   for each packet, DELAY give or take SPREAD.
//! * `traces steer FOLDER SECONDS [FROM TO]` steers along them. Between the seconds FROM and TO nobody
//!   answers.
#![expect(clippy::unwrap_used, reason = "a benchmark")]
#![expect(clippy::print_stdout, reason = "its output")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "nanoseconds of a simulation"
)]

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use firstlight::clock::{Nanos, Reading, UnixTime};
use firstlight::host::kernel::{KernelClock, OsClock};
use firstlight::node::ports::{Clock, Steer};
use firstlight::ntp::engine::Engine;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// What the clock is off at the start, in nanoseconds.
const OFF: Nanos = 20_000_000;
const START: UnixTime = UnixTime::from_secs(1_800_000_000);
/// Questions of a burst, and the shortest interval afterwards, as the trust machine has them.
const BURST: u32 = 8;
const STEADY: u64 = 16;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|it| it != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["record", folder, seed, ref numbers @ ..] => {
            let numbers: Vec<f64> = numbers.iter().map(|it| it.parse().unwrap()).collect();
            let [delay, spread, wander, seconds] = numbers[..] else { return usage() };
            record(Path::new(folder), seed.parse().unwrap(), (delay, spread), wander, seconds);
        }
        ["steer", folder, seconds, ref window @ ..] => {
            let lost = match window {
                [from, to] => from.parse().unwrap()..to.parse().unwrap(),
                _ => 0..0,
            };
            steer(Path::new(folder), seconds.parse().unwrap(), &lost);
        }
        _ => usage(),
    }
}

fn usage() {
    println!("usage: traces record FOLDER SEED DELAY SPREAD WANDER SECONDS");
    println!("       traces steer FOLDER SECONDS [FROM TO]");
}

fn record(folder: &Path, seed: u64, (delay, spread): (f64, f64), wander: f64, seconds: f64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut freq = 20e-6;
    let mut lines = String::new();
    for _ in 0..seconds as u64 {
        writeln!(lines, "{freq:.12e}").unwrap();
        // The sum of twelve is near enough to a normal distribution of deviation 1.
        let normal = (0..12).map(|_| random.random_range(-0.5..0.5)).sum::<f64>();
        freq += wander * normal;
    }
    fs::write(folder.join("freq"), lines).unwrap();
    for (name, packets) in [("out", 20_011), ("back", 20_021)] {
        let mut line = || format!("{:.9}\n", delay + spread * random.random_range(-1.0..1.0));
        let lines: String = (0..packets).map(|_| line()).collect();
        fs::write(folder.join(name), lines).unwrap();
    }
}

fn steer(folder: &Path, seconds: u64, lost: &Range<u64>) {
    let read = |name: &str| -> Vec<f64> {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        text.split_whitespace().map(|value| value.parse().unwrap()).collect()
    };
    let (mut out, mut back) = (read("out").into_iter().cycle(), read("back").into_iter().cycle());
    let clock = Arc::new(Oscillator::new(read("freq")));
    // The first quorum sets the clock, whatever it shows, and the engine starts on that.
    let mut first: Vec<_> = (0..3)
        .map(|_| {
            let reading = exchange(&clock, out.next().unwrap(), back.next().unwrap());
            reading.utc.since(clock.utc_at(reading.at))
        })
        .collect();
    first.sort_unstable();
    println!("0 {:.9}", clock.error());
    clock.step(first[1]);
    let mut engine: Engine<usize> = Engine::new(Arc::clone(&clock) as Arc<dyn Steer>, 1);
    // When each source is asked next, in nanoseconds of the truth, and how often it was.
    let mut due = [10_u64, 11, 12, 13, 14].map(|tenth| (tenth * 100_000_000, 0_u32));

    for second in 1..seconds {
        clock.pass_until(second * 1_000_000_000);
        println!("{second} {:.9}", clock.error());
        let end = (second + 1) * 1_000_000_000;
        loop {
            let (source, (at, asked)) =
                due.into_iter().enumerate().min_by_key(|(_, it)| it.0).unwrap();
            let timer = engine.poll_timeout().map(|(at, _)| at);
            let slew = timer.map(|at| clock.truth_of(at));
            let next = slew.unwrap_or(u64::MAX).min(at);
            if next >= end {
                break;
            }
            clock.pass_until(next);
            if slew == Some(next) {
                engine.handle_timeout(timer.unwrap().max(clock.mono()));
                continue;
            }
            let mut interval = if asked < BURST { 1 } else { STEADY };
            if !lost.contains(&second) {
                let reading = exchange(&clock, out.next().unwrap(), back.next().unwrap());
                if let Ok(update) = engine.handle_reading(source, &reading, clock.mono())
                    && update.estimate.poll > 0
                    && asked >= BURST
                {
                    interval = STEADY.max(1 << update.estimate.poll.min(10));
                }
            }
            due[source] = (at + interval * 1_000_000_000, asked + 1);
        }
        clock.pass_until(end);
    }
}

fn exchange(clock: &Oscillator, out: f64, back: f64) -> Reading {
    let leg = |seconds: f64| (seconds * 1e9) as u64;
    let sent = clock.mono();
    clock.pass(leg(out));
    let utc = clock.utc_of_truth();
    clock.pass(leg(back));
    let delay = clock.mono() - sent;
    Reading {
        at: sent + delay / 2,
        utc,
        delay,
        error: delay / 2,
        stratum: 1,
        reference_id: [192, 0, 2, 1],
        leap: 0,
        root_delay: Duration::ZERO,
        root_dispersion: Duration::from_micros(1),
        precision: -23,
    }
}

/// A clock on an oscillator whose frequency is off as recorded.
#[derive(Debug)]
struct Oscillator {
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
    fn new(freq: Vec<f64>) -> Self {
        let state = State { truth: 0, ahead: 0.0, utc: START.offset(OFF), anchor: 0, ppm: 0.0 };
        Self { origin: KernelClock.mono(), freq, state: Mutex::new(state) }
    }

    fn pass(&self, nanos: u64) {
        let until = self.state.lock().unwrap().truth + nanos;
        self.pass_until(until);
    }

    fn pass_until(&self, until: u64) {
        let mut state = self.state.lock().unwrap();
        while state.truth < until {
            let second = state.truth / 1_000_000_000;
            let next = ((second + 1) * 1_000_000_000).min(until);
            let freq = self.freq[second as usize % self.freq.len()];
            state.ahead += freq * (next - state.truth) as f64;
            state.truth = next;
        }
    }

    /// When the oscillator will show `at`, in nanoseconds of the truth: to a microsecond or so.
    fn truth_of(&self, at: Instant) -> u64 {
        let left = at.saturating_duration_since(self.mono());
        self.state.lock().unwrap().truth + left.as_nanos() as u64
    }

    fn utc_of_truth(&self) -> UnixTime {
        START.offset(self.state.lock().unwrap().truth.into())
    }

    /// How far the clock is ahead of the truth, in seconds.
    fn error(&self) -> f64 {
        self.utc().since(self.utc_of_truth()) as f64 / 1e9
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
