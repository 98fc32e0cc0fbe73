//! What a reference clock's samples are worth (pure): whether they are fresh, go on, and agree.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Sample, Spec, Trouble};
use crate::clock::{Nanos, Reading, magnitude, nanos};

/// A clock that has given no usable sample for so long has stopped; an older sample is none.
const FRESH: Duration = Duration::from_secs(4);
/// Samples follow each other no faster; what comes between is passed over.
const LEAST_GAP: Duration = Duration::from_millis(20);
/// A clock whose time has moved no more since its last sample stands still. An offset is a number with
/// 53 bits, by which a time that is repeated trembles, for microseconds if it is far off; one that goes
/// has moved by [`LEAST_GAP`].
const STILL: Duration = Duration::from_millis(1);
/// Its time and the monotonic clock may part by this much, from one sample to the next few.
const APART: Nanos = 500 * MS;
/// Samples have to agree for so long before the first counts.
const WARM_UP: Duration = Duration::from_secs(2);
/// Samples that are kept, and for how long.
const MOST: usize = 64;
const WINDOW: Duration = Duration::from_secs(8);
/// The time is the median of so many.
const MEDIAN_OF: usize = 5;
/// Readings are given out about once a second.
const PACE: Duration = Duration::from_millis(900);

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1000 * MS;

/// Makes readings of the samples of one clock.
///
/// Each sample is held against the monotonic clock: what stands still, or jumps, parts from it, and
/// the samples before are forgotten. So a clock that is stuck gives no reading, however often it
/// repeats itself, and one that has jumped gives some only after it has kept its word for a while.
#[derive(Debug)]
pub(super) struct Judge {
    spec: Spec,
    /// When each sample was taken, and how far it was ahead of the monotonic clock.
    window: VecDeque<(Instant, Nanos)>,
    last: Option<Sample>,
    origin: Instant,
    /// When the last reading, or word of silence, was given out.
    heard: Instant,
    given: Option<Instant>,
    trouble: Option<Trouble>,
}

impl Judge {
    pub(super) const fn new(spec: Spec, now: Instant) -> Self {
        Self {
            spec,
            window: VecDeque::new(),
            last: None,
            origin: now,
            heard: now,
            given: None,
            trouble: None,
        }
    }

    /// Takes a sample; gives a reading if one is due.
    pub(super) fn handle_sample(&mut self, sample: Sample, now: Instant) -> Option<Reading> {
        let age = now.saturating_duration_since(sample.at);
        if age > FRESH || sample.at > now + LEAST_GAP {
            self.trouble = Some(Trouble::Old { age, ahead: sample.at > now });
            return None;
        }
        if let Some(last) = self.last {
            if sample.at < last.at + LEAST_GAP {
                return None;
            }
            if magnitude(sample.utc.since(last.utc)) <= STILL {
                self.trouble = Some(Trouble::StandsStill(sample.utc));
                return None;
            }
        }
        self.last = Some(sample);

        let mut ahead = sample.utc.nanos() - self.since_origin(sample.at);
        if let Some((_, before)) = self.window.front() {
            let mut step = ahead - before;
            if self.spec.pulse {
                // Which second it is nobody has said.
                step = (step + SECOND / 2).rem_euclid(SECOND) - SECOND / 2;
                ahead = before + step;
            }
            if step.abs() > if self.spec.pulse { APART / 50 } else { APART } {
                self.trouble = Some(Trouble::Jumps(step));
                self.window.clear();
            }
        }
        self.window.push_back((sample.at, ahead));
        while self.window.len() > MOST
            || self.window.front().is_some_and(|(at, _)| sample.at > *at + WINDOW)
        {
            self.window.pop_front();
        }
        self.reading(sample, now)
    }

    /// Notes what was found in place of a sample.
    pub(super) fn handle_trouble(&mut self, trouble: Trouble) {
        self.trouble = Some(trouble);
    }

    /// Says why nothing was heard, if that has lasted. Spurious calls do nothing.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Trouble> {
        if now < self.poll_timeout() {
            return None;
        }
        self.heard = now;
        Some(self.trouble.take().unwrap_or(Trouble::Silent))
    }

    /// When [`Self::handle_timeout`] must be called next.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.heard + FRESH
    }

    fn reading(&mut self, sample: Sample, now: Instant) -> Option<Reading> {
        let (first, _) = self.window.front()?;
        let warm = self.window.len() >= 3 && sample.at >= *first + WARM_UP;
        if !warm || self.given.is_some_and(|given| sample.at < given + PACE) {
            return None;
        }
        let mut latest: Vec<_> =
            self.window.iter().rev().take(MEDIAN_OF).map(|(_, ahead)| *ahead).collect();
        latest.sort_unstable();
        let median = latest[latest.len() / 2];
        let spread = latest.iter().map(|ahead| magnitude(ahead - median)).max()?;
        let error = self.spec.error + spread;

        self.given = Some(sample.at);
        self.heard = now;
        self.trouble = None;
        let ahead = median + self.spec.offset - (sample.utc.nanos() - self.since_origin(sample.at));
        Some(Reading {
            at: sample.at,
            utc: sample.utc.offset(ahead),
            error,
            delay: Duration::ZERO,
            stratum: 0,
            reference_id: self.spec.reference_id,
            root_delay: Duration::ZERO,
            root_dispersion: error,
            leap: sample.leap,
            precision: PRECISION,
        })
    }

    fn since_origin(&self, at: Instant) -> Nanos {
        nanos(at.saturating_duration_since(self.origin))
            - nanos(self.origin.saturating_duration_since(at))
    }
}

/// About a microsecond, in which the kernel stamps what comes in.
const PRECISION: i8 = -20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;

    #[test]
    fn a_clock_that_goes_is_read_once_a_second_after_two() {
        for each in [100, 200, 1000] {
            let mut clock = World::new(false);

            let readings = clock.run(20, each, |_| 0);

            assert!((17..=20).contains(&readings.len()), "{} at {each} ms", readings.len());
            let worst = readings.iter().map(|reading| clock.off(reading).abs()).max();
            assert_eq!(worst, Some(0));
            assert_eq!((readings[0].stratum, readings[0].leap), (0, 1));
            assert_eq!(readings[0].error, ERROR);
        }
    }

    #[test]
    fn a_clock_that_stands_still_is_told_of_within_seconds_whatever_its_rate() {
        for each in [100, 200, 1000] {
            let mut clock = World::new(false);
            clock.run(10, each, |_| 0);
            let hung = clock.elapsed();

            let readings = clock.run(20, each, |at| nanos(hung) - nanos(at));

            assert!(readings.is_empty(), "{readings:?}");
            let stopped = clock.silences.first().unwrap();
            assert!(stopped.0 <= hung + FRESH + Duration::from_secs(1), "{stopped:?}");
            assert!(matches!(stopped.1, Trouble::StandsStill(_)), "{stopped:?}");
        }
    }

    #[test]
    fn a_clock_that_stands_still_and_trembles_gives_no_reading_either() {
        let mut clock = World::new(false);
        clock.run(10, 100, |_| 0);
        let hung = clock.elapsed();

        // As the rounding of a SOCK sample's offset does, to either side.
        let tremble = |at: Duration| Nanos::from(at.subsec_micros() * 7 % 1997) * 1000 - MS;
        let readings = clock.run(20, 100, |at| nanos(hung) - nanos(at) + tremble(at) / 2);

        assert!(readings.is_empty(), "{readings:?}");
        assert!(clock.silences.len() >= 3);
        for (_, trouble) in &clock.silences {
            assert!(matches!(trouble, Trouble::StandsStill(_)), "{trouble:?}");
        }
    }

    #[test]
    fn a_clock_that_jumps_has_to_keep_its_word_for_two_seconds() {
        let mut clock = World::new(false);
        clock.run(10, 1000, |_| 0);
        let jumped = clock.elapsed();

        let readings = clock.run(10, 1000, |_| 3600 * SECOND);

        assert!(readings[0].at - clock.start >= jumped + WARM_UP);
        assert!(readings.iter().all(|reading| clock.off(reading) == 3600 * SECOND));
    }

    #[test]
    fn one_stray_sample_among_five_moves_the_error_alone() {
        let mut clock = World::new(false);

        let stray = |at: Duration| if at.as_secs() % 5 == 4 { 80 * MS } else { 0 };
        let readings = clock.run(20, 1000, stray);

        assert!(readings[3..].iter().all(|reading| clock.off(reading) == 0));
        assert!(readings[5].error >= Duration::from_millis(80));
    }

    #[test]
    fn old_samples_and_those_of_the_future_are_none() {
        for shift in [-5_000, 1_000] {
            let mut clock = World::new(false);
            clock.shift = shift;

            assert!(clock.run(10, 1000, |_| 0).is_empty());
            assert!(matches!(clock.silences[0].1, Trouble::Old { .. }), "{:?}", clock.silences);
        }
    }

    #[test]
    fn silence_is_told_again_and_again_and_says_what_came_instead() {
        let mut clock = World::new(false);
        clock.judge.handle_trouble(Trouble::NoFix);

        clock.now += Duration::from_secs(4);
        assert!(matches!(clock.judge.handle_timeout(clock.now), Some(Trouble::NoFix)));
        assert!(clock.judge.handle_timeout(clock.now).is_none());
        clock.now += Duration::from_secs(4);
        assert!(matches!(clock.judge.handle_timeout(clock.now), Some(Trouble::Silent)));
    }

    #[test]
    fn pulses_need_no_number_but_have_to_come_in_step() {
        let mut pulses = World::new(true);
        let numbered_anyhow = |at: Duration| Nanos::from(at.as_secs() * 7 % 5) * SECOND;
        assert!(pulses.run(20, 1000, numbered_anyhow).len() > 15);

        let mut noise = World::new(true);
        let anywhere = |at: Duration| Nanos::from(at.as_secs() * 7919 % 997) * MS;
        assert!(noise.run(20, 1000, anywhere).is_empty());
    }

    const ERROR: Duration = Duration::from_millis(10);

    struct World {
        judge: Judge,
        start: Instant,
        now: Instant,
        /// How far its stamps are shifted, in milliseconds.
        shift: i64,
        silences: Vec<(Duration, Trouble)>,
    }

    impl World {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        fn new(pulse: bool) -> Self {
            let start = Instant::now() + Duration::from_secs(60);
            let spec = Spec { error: ERROR, offset: 0, pulse, reference_id: *b"GPS\0" };
            let judge = Judge::new(spec, start);
            Self { judge, start, now: start, shift: 0, silences: Vec::new() }
        }

        fn elapsed(&self) -> Duration {
            self.now - self.start
        }

        /// For so many seconds, a sample each so many milliseconds, that much off the truth.
        fn run(
            &mut self,
            seconds: u64,
            each: u64,
            off: impl Fn(Duration) -> Nanos,
        ) -> Vec<Reading> {
            let mut readings = Vec::new();
            for _ in 0..seconds * 1000 / each {
                self.now += Duration::from_millis(each);
                let shift = Duration::from_millis(self.shift.unsigned_abs());
                let at = if self.shift < 0 {
                    self.now.checked_sub(shift).unwrap()
                } else {
                    self.now + shift
                };
                let utc = (TRUTH + self.elapsed()).offset(off(self.elapsed()));
                readings.extend(self.judge.handle_sample(Sample { at, utc, leap: 1 }, self.now));
                if let Some(trouble) = self.judge.handle_timeout(self.now) {
                    self.silences.push((self.elapsed(), trouble));
                }
            }
            readings
        }

        /// How far a reading is off the truth.
        fn off(&self, reading: &Reading) -> Nanos {
            reading.utc.since(TRUTH + (reading.at - self.start))
        }
    }

    const TRUTH: UnixTime = UnixTime::from_secs(1_800_000_000);
}
