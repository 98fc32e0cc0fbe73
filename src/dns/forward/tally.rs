//! Answers of one endpoint, collected until it is worth telling of them.

use std::time::{Duration, Instant};

use crate::upstream::Outcome;

/// What an endpoint that is known to answer has done since that was last told.
///
/// A report wakes the task that plans, which costs more than the answer it tells of. What may
/// change the plan at once is never held back: a failure, and the first answer after one.
#[derive(Debug, Default)]
pub(super) struct Tally {
    latencies: Vec<Duration>,
    /// When an answer was last told of; `None` if what was told last is a failure, or nothing.
    told: Option<Instant>,
}

/// Answers that came within this time of a report wait for the next.
const HOLD: Duration = Duration::from_millis(100);
/// So many are told of at once at most.
const BATCH: usize = 32;

impl Tally {
    /// Takes note of an answer; gives what is to be told.
    pub(super) fn answered(&mut self, latency: Duration, now: Instant) -> Option<Outcome> {
        self.latencies.push(latency);
        let held = |at| now.saturating_duration_since(at) < HOLD;
        if self.told.is_some_and(held) && self.latencies.len() < BATCH {
            return None;
        }
        self.told = Some(now);
        self.take()
    }

    /// Takes note of a failure; gives what is to be told before it.
    pub(super) fn failed(&mut self) -> Option<Outcome> {
        self.told = None;
        self.take()
    }

    fn take(&mut self) -> Option<Outcome> {
        let latencies = std::mem::take(&mut self.latencies);
        (!latencies.is_empty()).then_some(Outcome::Answered { latencies })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_is_told_at_once_and_those_soon_after_together() {
        let (mut tally, now) = (Tally::default(), now());

        assert_eq!(tally.answered(MS, now), Some(answers(1)));
        assert_eq!(tally.answered(MS, now + MS), None);
        assert_eq!(tally.answered(MS, now + MS * 2), None);
        assert_eq!(tally.answered(MS, now + HOLD), Some(answers(3)));
    }

    #[test]
    fn many_answers_are_told_before_they_are_too_many() {
        let (mut tally, now) = (Tally::default(), now());
        tally.answered(MS, now);

        for _ in 1..BATCH {
            assert_eq!(tally.answered(MS, now), None);
        }
        assert_eq!(tally.answered(MS, now), Some(answers(BATCH)));
    }

    #[test]
    fn neither_a_failure_nor_the_answer_after_it_waits() {
        let (mut tally, now) = (Tally::default(), now());
        tally.answered(MS, now);
        tally.answered(MS, now);

        assert_eq!(tally.failed(), Some(answers(1)));
        assert_eq!(tally.failed(), None);
        assert_eq!(tally.answered(MS, now), Some(answers(1)));
    }

    const MS: Duration = Duration::from_millis(1);

    fn answers(count: usize) -> Outcome {
        Outcome::Answered { latencies: vec![MS; count] }
    }

    #[expect(clippy::disallowed_methods, reason = "test code")]
    fn now() -> Instant {
        Instant::now()
    }
}
