//! The time engine behind a wall: a panic in it costs its memory, nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

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
}

impl Filter {
    /// A fresh engine over `clock`.
    pub(super) fn new(clock: Arc<dyn Steer>) -> Self {
        Self { engine: Engine::new(Arc::clone(&clock), MINIMUM), clock, panics: 0 }
    }

    /// Starts afresh: the clock was moved, or is another.
    pub(super) fn reset(&mut self) {
        self.engine = Engine::new(Arc::clone(&self.clock), MINIMUM);
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
