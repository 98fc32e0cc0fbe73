//! Which readings waited in a queue on the way.

use std::time::{Duration, Instant};

use super::SAMPLES_WITHHELD;

/// A reading whose round trip is longer than usual by so many standard deviations waited in a queue.
const UNUSUAL: f64 = 3.0;
/// A round trip longer than usual by less than this is no sign of one, in seconds.
const GRAIN: f64 = 50e-6;
/// What lasts longer than this is no queue but another way.
const LONGEST: Duration = Duration::from_secs(4 * 3600);
/// The usual is that of so many readings, more or less.
const MEMORY: f64 = 32.0;

/// The usual round trip to one source.
///
/// A queue is on one way mostly, and shifts an offset by half of what it adds. The library's filter sees
/// that a round trip scatters, not that it grew: it takes the clock along with a queue that comes and goes
/// (measured: docs/time.md). Meanwhile the clock keeps the frequency it has, which is good for as long
/// ahead as it was watched before; so a queue is waited out no longer than the source has been heard.
#[derive(Debug)]
pub(super) struct RoundTrips {
    mean: f64,
    variance: f64,
    taken: f64,
    first: Instant,
    last: Instant,
}

impl RoundTrips {
    /// Those of a source that is first heard at `at`.
    pub(super) const fn new(at: Instant) -> Self {
        Self { mean: 0.0, variance: 0.0, taken: 0.0, first: at, last: at }
    }

    /// Whether a reading that took `delay` did not wait in a queue; it counts as usual then.
    pub(super) fn take(&mut self, delay: Duration, at: Instant) -> bool {
        let delay = delay.as_secs_f64();
        let usual = self.mean + (UNUSUAL * self.variance.sqrt()).max(GRAIN);
        if self.taken >= f64::from(SAMPLES_WITHHELD) && delay > usual {
            let heard = self.last.saturating_duration_since(self.first);
            if at.saturating_duration_since(self.last) < heard.min(LONGEST) {
                return false;
            }
            // Another way: it is learnt from the start.
            self.taken = 0.0;
        }
        self.taken = (self.taken + 1.0).min(MEMORY);
        let (away, weight) = (delay - self.mean, self.taken.recip());
        self.mean += weight * away;
        self.variance = (1.0 - weight) * (self.variance + weight * away * away);
        self.last = at;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_scatters_as_usual_is_taken_and_what_waited_is_not() {
        let mut link = Link::new(20.0);
        link.pass(64);

        for jitter in [0.0, 1.0, 2.0] {
            assert!(link.ask(20.0 + jitter), "{jitter} ms");
        }
        assert!(!link.ask(40.0));
        assert!(link.ask(20.0));
    }

    #[test]
    fn a_queue_of_twenty_minutes_is_waited_out_however_slowly_it_grows() {
        let mut link = Link::new(20.0);
        link.pass(64);

        let polls = 1200 / 16;
        let taken: Vec<_> = (0..polls)
            .map(|poll| f64::from(poll.min(polls - poll)) / f64::from(polls) * 80.0)
            .filter(|queued| link.ask(20.0 + queued))
            .collect();

        let worst = taken.iter().copied().fold(0.0, f64::max);
        assert!(worst < 10.0, "taken with a queue of {worst} ms");
        assert!(link.ask(20.0));
    }

    #[test]
    fn another_way_is_learnt_after_four_hours_or_as_long_as_the_source_was_heard() {
        for (heard, waits) in [(64, 63), (2000, 899)] {
            let mut link = Link::new(20.0);
            link.pass(heard);

            let refused = (0..2000).take_while(|_| !link.ask(60.0)).count();

            assert_eq!(refused, waits, "heard {heard} times");
            link.usual = 60.0;
            assert_eq!(link.pass(64), 64);
            assert!(!link.ask(100.0));
        }
    }

    #[test]
    fn a_quiet_burst_at_the_start_does_not_shut_out_what_follows() {
        let mut at = origin();
        let mut trips = RoundTrips::new(at);
        for _ in 0..SAMPLES_WITHHELD {
            at += Duration::from_secs(1);
            assert!(trips.take(Duration::from_millis(20), at));
        }

        at += Duration::from_secs(16);
        assert!(trips.take(Duration::from_millis(22), at));
    }

    #[test]
    fn a_link_that_never_scatters_bears_a_stir() {
        let mut at = origin();
        let mut trips = RoundTrips::new(at);
        for _ in 0..64 {
            at += Duration::from_secs(16);
            assert!(trips.take(Duration::from_micros(300), at));
        }

        assert!(trips.take(Duration::from_micros(340), at));
        assert!(!trips.take(Duration::from_micros(800), at));
    }

    /// A source that is asked each 16 s, over a link that scatters by 2 ms either way.
    struct Link {
        trips: RoundTrips,
        at: Instant,
        usual: f64,
        turn: u32,
    }

    impl Link {
        fn new(usual: f64) -> Self {
            let at = origin();
            Self { trips: RoundTrips::new(at), at, usual, turn: 0 }
        }

        fn ask(&mut self, delay_ms: f64) -> bool {
            self.at += Duration::from_secs(16);
            self.trips.take(Duration::from_secs_f64(delay_ms * 1e-3), self.at)
        }

        /// How many of so many usual readings are taken.
        fn pass(&mut self, readings: u32) -> usize {
            let jitter = [0.0, 2.0, -1.0, 1.0, -2.0];
            (0..readings)
                .filter(|_| {
                    self.turn += 1;
                    self.ask(self.usual + jitter[self.turn as usize % jitter.len()])
                })
                .count()
        }
    }

    #[expect(clippy::disallowed_methods, reason = "tests need some instant")]
    fn origin() -> Instant {
        Instant::now()
    }
}
