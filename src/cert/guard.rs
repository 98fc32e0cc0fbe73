//! The bound on orders that holds whatever the rest of the machine thinks.

use std::fmt;
use std::time::{Duration, Instant};

use crate::clock::{Now, UnixTime, magnitude};

use super::{DAY, HOUR};

/// How often orders may be made. The defaults stay below what public CAs allow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Certificates in a week for one set of names. Let's Encrypt has 5.
    pub week: usize,
    /// One more than these only while the certificate has less than half of its spare time left.
    pub reserve: usize,
    /// Failed validations in an hour. Let's Encrypt has 5 a name.
    pub hour: usize,
    /// Orders that a CA accepted within a day ...
    pub burst: usize,
    /// ... and once there were so many, the time from one to the next: 8, and one in 2 h, are 20 a
    /// day at most.
    pub gap: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { week: 3, reserve: 1, hour: 4, burst: 8, gap: HOUR * 2 }
    }
}

/// Which bound holds an order back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bound {
    /// Of orders in a day.
    Day,
    /// Of failed validations in an hour.
    Hour,
    /// Of certificates in a week.
    Week,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Day => "orders in a day",
            Self::Hour => "failed validations in an hour",
            Self::Week => "certificates in a week",
        })
    }
}

const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// Counts orders by the monotonic clock, so that no step of the clock makes room for more.
#[derive(Debug, Default)]
pub(super) struct Guard {
    pub(super) accepted: Vec<Entry>,
    pub(super) issued: Vec<(String, Entry)>,
    pub(super) invalid: Vec<Entry>,
}

/// Something that was counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// When, by the verified clock of that moment.
    pub(super) stamp: UnixTime,
    /// Its age ...
    age: Duration,
    /// ... at this instant.
    at: Instant,
}

impl Entry {
    /// Something that happens at `now`.
    pub(super) const fn new(stamp: UnixTime, now: Instant) -> Self {
        Self { stamp, age: Duration::ZERO, at: now }
    }

    /// Something an earlier process counted. If it lies in the future, one of two clocks was
    /// wrong, and it counts from this moment.
    pub(super) fn restored(stamp: UnixTime, now: Now) -> Self {
        let age = magnitude(now.utc.since(stamp).max(0));
        Self { stamp: stamp.min(now.utc), age, at: now.mono }
    }

    fn age(&self, now: Instant) -> Duration {
        self.age + now.saturating_duration_since(self.at)
    }
}

impl Guard {
    /// A CA accepted an order.
    pub(super) fn handle_accepted(&mut self, stamp: UnixTime, now: Instant) {
        self.accepted.retain(|entry| entry.age(now) < DAY);
        self.accepted.push(Entry::new(stamp, now));
    }

    /// A CA found that a name is not ours.
    pub(super) fn handle_invalid(&mut self, stamp: UnixTime, now: Instant) {
        self.invalid.retain(|entry| entry.age(now) < HOUR);
        self.invalid.push(Entry::new(stamp, now));
    }

    /// A CA issued a certificate for `names`.
    pub(super) fn handle_issued(&mut self, names: String, stamp: UnixTime, now: Instant) {
        self.issued.retain(|(_, entry)| entry.age(now) < WEEK);
        self.issued.push((names, Entry::new(stamp, now)));
    }

    /// Until when an order for `names` has to wait, and why; `None` if it may be made.
    pub(super) fn holds(
        &self,
        limits: &Limits,
        names: &str,
        urgent: bool,
        now: Instant,
    ) -> Option<(Instant, Bound)> {
        let issued = self.issued.iter().filter(|(of, _)| of == names).map(|(_, entry)| entry);
        let in_a_week = limits.week + if urgent { limits.reserve } else { 0 };
        let accepted = || self.accepted.iter();
        let day = if wait(accepted(), limits.burst, DAY, now).is_zero() {
            Duration::ZERO
        } else {
            wait(accepted(), 1, limits.gap, now)
        };
        [
            (wait(issued, in_a_week, WEEK, now), Bound::Week),
            (wait(self.invalid.iter(), limits.hour, HOUR, now), Bound::Hour),
            (day, Bound::Day),
        ]
        .into_iter()
        .filter(|(wait, _)| !wait.is_zero())
        .max_by_key(|(wait, _)| *wait)
        .map(|(wait, bound)| (now + wait, bound))
    }
}

/// How long until fewer than `most` of `entries` lie within the last `span`.
fn wait<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    most: usize,
    span: Duration,
    now: Instant,
) -> Duration {
    let mut ages: Vec<_> = entries.map(|entry| entry.age(now)).collect();
    ages.sort_unstable();
    let decisive = ages.get(most.max(1) - 1);
    decisive.map_or(Duration::ZERO, |age| span.saturating_sub(*age))
}
