//! The time engine behind a wall: a panic in it costs its memory, nothing else. And the frequencies that it
//! found, for when it was deceived.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::error;

use crate::clock::SourceId;
use crate::node::ports::Steer;
use crate::ntp::engine::Engine;

/// The engine, and what became of those before it.
#[derive(Debug)]
pub(super) struct Filter {
    clock: Arc<dyn Steer>,
    engine: Engine<SourceId>,
    panics: u64,
    /// The clock's frequency each hour of the last day, in parts per million, the latest last.
    past: VecDeque<f64>,
    next: Option<Instant>,
}

/// How often the frequency is remembered, and how many times at most.
const REMEMBER_EACH: Duration = Duration::from_secs(3600);
const REMEMBERED: usize = 24;
/// Fewer may have been dragged, most of them: at its limit a drag takes less than two hours until it is seen.
const ENOUGH: usize = 5;
/// A crystal's frequency changes by less in a day.
const CHANGES: f64 = 5.0;

impl Filter {
    /// A fresh engine over `clock`.
    pub(super) fn new(clock: Arc<dyn Steer>) -> Self {
        Self {
            engine: Engine::new(Arc::clone(&clock), MINIMUM),
            clock,
            panics: 0,
            past: VecDeque::new(),
            next: None,
        }
    }

    /// Starts afresh: the clock was moved, or is another.
    pub(super) fn reset(&mut self) {
        self.engine = Engine::new(Arc::clone(&self.clock), MINIMUM);
    }

    /// Remembers the clock's frequency each hour; to be called while nothing speaks against it.
    pub(super) fn remember(&mut self, now: Instant) {
        let next = *self.next.get_or_insert(now + REMEMBER_EACH);
        if now < next {
            return;
        }
        self.next = Some(now + REMEMBER_EACH);
        if self.past.len() == REMEMBERED {
            self.past.pop_front();
        }
        self.past.push_back(self.clock.frequency());
    }

    /// The sources have led the clock too far, and its frequency with it, which would go on without them:
    /// puts it back to what it mostly was, and starts afresh. Gives both, in parts per million.
    pub(super) fn fall_back(&mut self) -> Option<(f64, f64)> {
        if self.past.len() < ENOUGH {
            return None;
        }
        let mut sorted: Vec<_> = self.past.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let (from, to) = (self.clock.frequency(), sorted[sorted.len() / 2]);
        if (from - to).abs() < CHANGES {
            return None;
        }
        self.clock.set_frequency(to);
        self.reset();
        Some((from, to))
    }

    /// Runs the engine; `None` if that panicked.
    pub(super) fn run<T>(
        &mut self,
        run: impl FnOnce(&mut Engine<SourceId>, Instant) -> T,
    ) -> Option<T> {
        let now = self.clock.mono();
        let done = catch_unwind(AssertUnwindSafe(|| run(&mut self.engine, now))).ok();
        if done.is_none() {
            self.panics += 1;
            let panics = self.panics;
            error!(panics, "the time engine failed and starts afresh; the clock runs on");
            self.reset();
        }
        done
    }

    /// The engine, for reading.
    pub(super) const fn engine(&self) -> &Engine<SourceId> {
        &self.engine
    }

    /// How often it failed.
    pub(super) const fn panics(&self) -> u64 {
        self.panics
    }
}

/// The trust machine has found the majority already: any of its members may steer.
const MINIMUM: usize = 1;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::clock::{Nanos, UnixTime};
    use crate::node::ports::Clock;

    #[test]
    fn a_panic_in_the_engine_is_counted_and_the_clock_runs_on() {
        let clock = Arc::new(Soft::default());
        let mut filter = Filter::new(Arc::clone(&clock) as Arc<dyn Steer>);
        clock.set_frequency(12.0);

        let outcome = filter.run(|_, _| -> u8 { panic!("a NaN inside the library") });

        assert_eq!(outcome, None);
        assert_eq!(filter.panics(), 1);
        assert!(filter.run(|engine, _| engine.consensus().is_none()).unwrap());
        assert!((clock.frequency() - 12.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_frequency_that_was_dragged_is_put_back_to_what_it_was_before() {
        let clock = Arc::new(Soft::default());
        let mut filter = Filter::new(Arc::clone(&clock) as Arc<dyn Steer>);
        let start = clock.mono();
        let hours = |filter: &mut Filter, from: u32, frequencies: &[f64]| {
            for (hour, frequency) in (from..).zip(frequencies) {
                clock.set_frequency(*frequency);
                filter.remember(start + REMEMBER_EACH * hour);
            }
        };

        hours(&mut filter, 0, &[0.0, 12.0, 500.0]);
        assert_eq!(filter.fall_back(), None, "too little is known");
        // Two hours of an attack among those of before.
        hours(&mut filter, 3, &[12.5, 12.2, 500.0]);
        assert_eq!(filter.fall_back(), Some((500.0, 12.5)));
        assert_eq!(filter.fall_back(), None);

        clock.set_frequency(14.0);
        assert_eq!(filter.fall_back(), None, "a crystal may do that by itself");
    }

    #[derive(Debug, Default)]
    struct Soft(Mutex<f64>);

    impl Clock for Soft {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant")]
        fn mono(&self) -> Instant {
            Instant::now()
        }

        fn utc_at(&self, _: Instant) -> UnixTime {
            UnixTime::from_secs(1_800_000_000)
        }
    }

    impl Steer for Soft {
        fn step(&self, _: Nanos) {}

        fn set_frequency(&self, ppm: f64) {
            *self.0.lock().unwrap() = ppm;
        }

        fn frequency(&self) -> f64 {
            *self.0.lock().unwrap()
        }
    }
}
