//! How long an endpoint takes to answer, in little memory.

use std::time::Duration;

/// The smoothed mean of all samples, and the latest of them.
#[derive(Debug, Default)]
pub(super) struct Latency {
    mean: Option<Duration>,
    /// A ring of [`RECENT`] places.
    recent: Vec<Duration>,
    next: usize,
}

/// So many samples are kept for the percentile.
const RECENT: usize = 64;
/// Fewer say nothing about one in twenty.
const ENOUGH: usize = 20;
/// A longer one says no more.
const LONGEST: Duration = Duration::from_secs(10);

impl Latency {
    /// Takes a sample; `seldom` says that the one before is so old that this one counts for half.
    ///
    /// True if it is off by more than half of what was expected.
    pub(super) fn handle(&mut self, sample: Duration, seldom: bool) -> bool {
        let sample = sample.min(LONGEST);
        if let Some(oldest) = self.recent.get_mut(self.next) {
            *oldest = sample;
        } else {
            self.recent.push(sample);
        }
        self.next = (self.next + 1) % RECENT;
        let Some(mean) = self.mean else {
            self.mean = Some(sample);
            return true;
        };
        let weight = if seldom { 2 } else { 8 };
        self.mean = Some((mean * (weight - 1) + sample) / weight);
        sample > mean * 2 || sample < mean / 2
    }

    /// The smoothed mean; `None` before the first sample.
    pub(super) const fn mean(&self) -> Option<Duration> {
        self.mean
    }

    /// What 19 of 20 of the latest samples stay within; `None` while they are few.
    pub(super) fn p95(&self) -> Option<Duration> {
        if self.recent.len() < ENOUGH {
            return None;
        }
        let mut sorted = self.recent.clone();
        let rank = sorted.len() * 19 / 20;
        let (_, value, _) = sorted.select_nth_unstable(rank);
        Some(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_an_eighth_of_each_sample_or_half_of_a_seldom_one() {
        let mut latency = Latency::default();

        assert!(latency.handle(16 * MS, false));
        assert!(!latency.handle(24 * MS, false));
        assert_eq!(latency.mean(), Some(17 * MS));
        assert!(latency.handle(117 * MS, true));
        assert_eq!(latency.mean(), Some(67 * MS));
        assert!(latency.handle(Duration::MAX, true));
    }

    #[test]
    fn the_percentile_is_of_the_latest_samples_alone() {
        let mut latency = Latency::default();
        for _ in 0..ENOUGH - 1 {
            latency.handle(900 * MS, false);
        }
        assert_eq!(latency.p95(), None);

        for sample in 1..=64 {
            latency.handle(sample * MS, false);
        }

        assert_eq!(latency.p95(), Some(61 * MS));
        assert_eq!(latency.recent.len(), RECENT);
    }

    const MS: Duration = Duration::from_millis(1);
}
