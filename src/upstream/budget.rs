//! How many questions may be asked twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::EndpointId;

/// Lets one question in twenty be asked of a second operator because the first is slow.
///
/// While all is well that is what a hedge at the 95th percentile costs, and no more: upstreams
/// that are slow all together are not asked twice as much for it. While something fails, every
/// question may be hedged. Whoever hedges says what came of it, `now` never going back.
#[derive(Debug)]
pub struct Budget {
    /// In shares of a hedge that a question earns.
    saved: u32,
    /// Until then every hedge is free.
    failing_until: Option<Instant>,
    /// How often each was overtaken since it last answered.
    overtaken: BTreeMap<EndpointId, u32>,
}

/// So many questions earn a hedge.
const PER_HEDGE: u32 = 20;
/// So many hedges can be saved up: for the first moments of a failure.
const SAVED_MAX: u32 = 10;
/// An endpoint that was overtaken so often, and answered nobody meanwhile, fails.
const OVERTAKEN: u32 = 3;
/// For so long after a failure hedges are free.
const FREE: Duration = Duration::from_secs(10);

impl Default for Budget {
    fn default() -> Self {
        let saved = SAVED_MAX * PER_HEDGE;
        Self { saved, failing_until: None, overtaken: BTreeMap::new() }
    }
}

impl Budget {
    /// A question is asked for the first time.
    pub fn handle_question(&mut self) {
        self.saved = (self.saved + 1).min(SAVED_MAX * PER_HEDGE);
    }

    /// `endpoint` answered something.
    pub fn handle_answer(&mut self, endpoint: EndpointId) {
        self.overtaken.remove(&endpoint);
    }

    /// `endpoint` was asked first and still had not answered when another had.
    ///
    /// An endpoint that falls silent is told from one that is slow now and then by this: long
    /// before it has failed by the clock.
    /// True if it has just come to be the former.
    pub fn handle_overtaken(&mut self, endpoint: EndpointId, now: Instant) -> bool {
        let times = self.overtaken.entry(endpoint).or_default();
        *times = times.saturating_add(1);
        let times = *times;
        if times >= OVERTAKEN {
            self.handle_failure(now);
        }
        times == OVERTAKEN
    }

    /// An endpoint failed to answer.
    pub fn handle_failure(&mut self, now: Instant) {
        self.failing_until = Some(now + FREE);
    }

    /// Whether a question may be asked a second time now; if so, it counts as asked.
    #[must_use]
    pub fn take(&mut self, now: Instant) -> bool {
        if self.failing_until.is_some_and(|until| now < until) {
            return true;
        }
        let left = self.saved.checked_sub(PER_HEDGE);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn while_all_is_well_one_question_in_twenty_is_asked_twice_however_many_are_slow(
            slow in prop::collection::vec(any::<bool>(), 10_000),
        ) {
            let (mut budget, now) = (Budget::default(), now());
            let mut hedges = 0;
            for slow in slow {
                budget.handle_question();
                hedges += usize::from(slow && budget.take(now));
                budget.handle_answer(FIRST);
            }

            prop_assert!(hedges <= 10_000 / 20 + 10, "{}", hedges);
        }
    }

    #[test]
    fn after_a_failure_every_question_may_be_hedged_for_ten_seconds() {
        let (mut budget, now) = (spent(), now());
        assert!(!budget.take(now));

        budget.handle_failure(now);

        assert!((0..1000).all(|_| budget.take(now + FREE * 99 / 100)));
        assert!(!budget.take(now + FREE));
    }

    #[test]
    fn an_endpoint_that_is_overtaken_thrice_without_an_answer_fails() {
        let (mut budget, now) = (spent(), now());
        for _ in 0..OVERTAKEN - 1 {
            budget.handle_overtaken(FIRST, now);
        }
        budget.handle_answer(FIRST);
        budget.handle_overtaken(FIRST, now);
        assert!(!budget.take(now));

        budget.handle_overtaken(FIRST, now);
        budget.handle_overtaken(FIRST, now);

        assert!(budget.take(now));
    }

    const FIRST: EndpointId = EndpointId(0);

    fn spent() -> Budget {
        let mut budget = Budget::default();
        while budget.take(now()) {}
        budget
    }

    #[expect(clippy::disallowed_methods, reason = "test code")]
    fn now() -> Instant {
        Instant::now()
    }
}
