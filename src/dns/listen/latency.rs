//! How long questions took, counted in steps.
//!
//! A question arrives when the whole of it has been read, and is answered when its answer is about to be
//! handed to the kernel or to its connection. What is read together and answered at once is answered together:
//! two readings of the clock do for all of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::dns::Origin;

/// The steps: spans of at most so long are counted apart, and what is longer than all of them.
pub const STEPS: [Duration; 15] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// How long questions took until they were answered, by the origin of their answers.
#[derive(Debug, Default)]
pub struct Latencies([Histogram; Origin::ALL.len()]);

#[derive(Debug, Default)]
struct Histogram {
    steps: [AtomicU64; STEPS.len() + 1],
    nanos: AtomicU64,
}

/// The spans of one origin.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Spans {
    /// How many there were within each of [`STEPS`] and not the one before, and beyond all of them.
    pub steps: [u64; STEPS.len() + 1],
    /// All of them together.
    pub sum: Duration,
}

/// Answers that are given together, by origin.
#[derive(Debug, Default)]
pub struct Answered([u32; Origin::ALL.len()]);

impl Answered {
    /// Counts one.
    pub const fn add(&mut self, origin: Origin) {
        self.0[origin as usize] += 1;
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; Origin::ALL.len()]
    }
}

impl Latencies {
    /// Takes note of answers that took so long each; none of them is left in `answered`.
    pub fn note(&self, answered: &mut Answered, took: Duration) {
        let step = STEPS.partition_point(|most| *most < took);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        for (histogram, answers) in self.0.iter().zip(&mut answered.0) {
            if *answers > 0 {
                let answers = u64::from(std::mem::take(answers));
                histogram.steps[step].fetch_add(answers, Ordering::Relaxed);
                histogram.nanos.fetch_add(nanos.saturating_mul(answers), Ordering::Relaxed);
            }
        }
    }

    /// All that was noted, in the order of [`Origin::ALL`].
    pub fn read(&self) -> impl Iterator<Item = (Origin, Spans)> {
        Origin::ALL.into_iter().zip(&self.0).map(|(origin, histogram)| {
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let sum = Duration::from_nanos(read(&histogram.nanos));
            (origin, Spans { steps: histogram.steps.each_ref().map(read), sum })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_given_together_took_equally_long() {
        let (latencies, mut answered) = (Latencies::default(), Answered::default());
        for origin in [Origin::Cache, Origin::Local, Origin::Cache] {
            answered.add(origin);
        }

        latencies.note(&mut answered, Duration::from_micros(300));

        assert!(answered.is_empty());
        let (cache, local) = (of(&latencies, Origin::Cache), of(&latencies, Origin::Local));
        assert_eq!((cache.steps[2], cache.sum), (2, Duration::from_micros(600)));
        assert_eq!((local.steps[2], local.sum), (1, Duration::from_micros(300)));
        assert_eq!(of(&latencies, Origin::Stale), Spans::default());
    }

    #[test]
    fn a_step_ends_with_its_bound() {
        let latencies = Latencies::default();
        let tick = Duration::from_nanos(1);
        for took in [Duration::ZERO, STEPS[0], STEPS[0] + tick, STEPS[14], STEPS[14] + tick] {
            let mut answered = Answered::default();
            answered.add(Origin::Upstream);
            latencies.note(&mut answered, took);
        }

        let steps = of(&latencies, Origin::Upstream).steps;

        assert_eq!((steps[0], steps[1], steps[14], steps[15]), (2, 1, 1, 1));
        assert!(STEPS.is_sorted());
    }

    fn of(latencies: &Latencies, origin: Origin) -> Spans {
        latencies.read().find(|(of, _)| *of == origin).unwrap().1
    }
}
