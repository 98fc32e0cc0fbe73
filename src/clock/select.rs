//! Which of several clocks agree: the intersection step of RFC 5905 section 11.2.1.

use super::time::{Nanos, UnixTime};

/// The span of time in which a clock claims the truth to lie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Interval {
    /// The earliest time it allows.
    pub low: UnixTime,
    /// The latest time it allows.
    pub high: UnixTime,
}

impl Interval {
    /// The interval of half-width `error` around `middle`.
    #[must_use]
    pub fn around(middle: UnixTime, error: Nanos) -> Self {
        Self { low: middle.offset(-error), high: middle.offset(error) }
    }

    /// Whether the two share a point.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }

    /// The point halfway.
    #[must_use]
    pub fn middle(&self) -> UnixTime {
        self.low.offset(self.high.since(self.low) / 2)
    }

    /// Whether `point` lies in it.
    #[must_use]
    pub fn contains(&self, point: UnixTime) -> bool {
        self.low <= point && point <= self.high
    }
}

/// The largest set of clocks whose intervals share a point.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Agreement {
    /// Positions of its members in the list that was given, ascending.
    pub members: Vec<usize>,
    /// The span all of them allow.
    pub shared: Interval,
}

/// Finds the largest set of intervals that share a point inside `window`.
///
/// `None` if no interval reaches into the window. Of sets of equal size the one
/// that lies earliest is taken; a caller that asks for a majority never meets a tie.
#[must_use]
pub fn agreement(intervals: &[Interval], window: Interval) -> Option<Agreement> {
    // The shared span of any set starts where one of its members, or the window, starts.
    let starts = intervals.iter().map(|interval| interval.low.max(window.low));
    starts
        .filter(|point| window.contains(*point))
        .map(|point| {
            let members: Vec<usize> =
                (0..intervals.len()).filter(|&i| intervals[i].contains(point)).collect();
            (members, point)
        })
        .filter(|(members, _)| !members.is_empty())
        .max_by(|(a, at_a), (b, at_b)| a.len().cmp(&b.len()).then(at_b.cmp(at_a)))
        .map(|(members, low)| {
            let ends = members.iter().map(|&i| intervals[i].high);
            let high = ends.min().unwrap_or(low).min(window.high);
            Agreement { members, shared: Interval { low, high } }
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVER: Interval = Interval {
        low: UnixTime::from_secs(i64::MIN / 4),
        high: UnixTime::from_secs(i64::MAX / 4),
    };

    #[test]
    fn three_of_four_outvote_a_liar() {
        let clocks = [around(100, 1), around(101, 1), around(1_000_000, 1), around(100, 2)];

        let found = agreement(&clocks, EVER).unwrap();

        assert_eq!(found.members, [0, 1, 3]);
        assert_eq!(found.shared, Interval { low: at(100), high: at(101) });
    }

    #[test]
    fn nothing_outside_the_window_counts() {
        let clocks = [around(100, 1), around(100, 1), around(500, 5)];

        let found = agreement(&clocks, Interval { low: at(400), high: at(502) }).unwrap();

        assert_eq!(found.members, [2]);
        assert_eq!(found.shared, Interval { low: at(495), high: at(502) });
        assert_eq!(agreement(&clocks, Interval { low: at(900), high: at(999) }), None);
    }

    proptest! {
        #[test]
        fn every_member_allows_the_shared_span_and_no_point_has_more(
            clocks in prop::collection::vec((-50i64..50, 0i64..20), 1..9)
        ) {
            let clocks: Vec<_> = clocks.into_iter().map(|(m, e)| around(m, e)).collect();

            let found = agreement(&clocks, EVER).unwrap();

            prop_assert!(found.shared.low <= found.shared.high);
            for &member in &found.members {
                prop_assert!(clocks[member].contains(found.shared.low));
                prop_assert!(clocks[member].contains(found.shared.high));
            }
            for point in -80..80 {
                let here = clocks.iter().filter(|c| c.contains(at(point))).count();
                prop_assert!(here <= found.members.len());
            }
        }
    }

    fn at(secs: i64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    fn around(secs: i64, error: i64) -> Interval {
        Interval::around(at(secs), Nanos::from(error) * 1_000_000_000)
    }
}
