//! What goes over the uplink, for what, and when it has to be little (pure).
//!
//! A fail-over link is paid for by the megabyte. While it carries, what can wait does; names, time
//! and certificates that are due go on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What octets are for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Questions to upstreams, probes of them, and their answers.
    Names,
    /// Time sources.
    Time,
    /// Witnesses, asked over HTTPS.
    Witnesses,
    /// Certificate authorities, and acme-dns.
    Certificates,
    /// Messages to people elsewhere.
    Notices,
}

impl Purpose {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::Names, Self::Time, Self::Witnesses, Self::Certificates, Self::Notices];

    /// Its name in status and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Time => "time",
            Self::Witnesses => "witnesses",
            Self::Certificates => "certificates",
            Self::Notices => "notices",
        }
    }
}

/// Octets by [`Purpose`], in the order of [`Purpose::ALL`].
pub type Octets = [u64; Purpose::ALL.len()];

/// Counts octets as they are sent and received, since the start.
#[derive(Debug, Default)]
pub struct Meter {
    sent: [AtomicU64; Purpose::ALL.len()],
    received: [AtomicU64; Purpose::ALL.len()],
}

impl Meter {
    /// Counts octets that were sent.
    pub fn sent(&self, purpose: Purpose, octets: usize) {
        self.sent[purpose as usize].fetch_add(octets as u64, Ordering::Relaxed);
    }

    /// Counts octets that were received.
    pub fn received(&self, purpose: Purpose, octets: usize) {
        self.received[purpose as usize].fetch_add(octets as u64, Ordering::Relaxed);
    }

    /// All that was counted, in both directions.
    #[must_use]
    pub fn read(&self) -> Octets {
        let [mut both, received] = self.directions();
        for (sum, octets) in both.iter_mut().zip(received) {
            *sum += octets;
        }
        both
    }

    /// What was sent, and what was received.
    #[must_use]
    pub fn directions(&self) -> [Octets; 2] {
        let read = |octets: &AtomicU64| octets.load(Ordering::Relaxed);
        [self.sent.each_ref().map(read), self.received.each_ref().map(read)]
    }
}

/// Hours that make a day.
const HOURS: usize = 24;
const HOUR: Duration = Duration::from_secs(3600);

/// What went over the uplink within a day, by purpose. A day is the last 23 to 24 hours: it takes
/// no clock to tell, which may not be right yet.
#[derive(Debug)]
pub struct Ledger {
    /// The meter when it was last read.
    read: Octets,
    /// The present hour last.
    hours: VecDeque<Hour>,
    /// When the present hour began.
    began: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Hour {
    all: Octets,
    metered: Octets,
}

/// Sums of a day.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Day {
    /// Over any link.
    pub all: Octets,
    /// Over metered links alone.
    pub metered: Octets,
}

impl Day {
    /// Octets over metered links, whatever for.
    #[must_use]
    pub fn metered_in_all(&self) -> u64 {
        self.metered.iter().fold(0, |sum, octets| sum.saturating_add(*octets))
    }
}

impl Ledger {
    /// A ledger without entries.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { read: Octets::default(), hours: VecDeque::from([Hour::default()]), began: now }
    }

    /// Enters what `meter` counted since it was last entered, all of it as having gone over a
    /// link of the one kind.
    pub fn enter(&mut self, meter: Octets, metered: bool, now: Instant) {
        while now.saturating_duration_since(self.began) >= HOUR {
            self.began += HOUR;
            if self.hours.len() == HOURS {
                self.hours.pop_front();
            }
            self.hours.push_back(Hour::default());
        }
        let before = std::mem::replace(&mut self.read, meter);
        let Some(hour) = self.hours.back_mut() else { return };
        for (index, (now, before)) in meter.into_iter().zip(before).enumerate() {
            let octets = now.saturating_sub(before);
            hour.all[index] += octets;
            if metered {
                hour.metered[index] += octets;
            }
        }
    }

    /// The sums of the day that ends now, as far as they have been entered.
    #[must_use]
    pub fn day(&self) -> Day {
        let mut day = Day::default();
        for hour in &self.hours {
            for index in 0..Purpose::ALL.len() {
                day.all[index] += hour.all[index];
                day.metered[index] += hour.metered[index];
            }
        }
        day
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_entered_once_and_by_the_link_it_went_over() {
        let (meter, now) = (Meter::default(), start());
        let mut ledger = Ledger::new(now);

        meter.sent(Purpose::Names, 700);
        ledger.enter(meter.read(), false, now);
        meter.received(Purpose::Names, 20);
        meter.sent(Purpose::Time, 3);
        ledger.enter(meter.read(), true, now);
        ledger.enter(meter.read(), true, now);

        assert_eq!(ledger.day(), Day { all: [720, 3, 0, 0, 0], metered: [20, 3, 0, 0, 0] });
        assert_eq!(ledger.day().metered_in_all(), 23);
        assert_eq!(meter.directions(), [[700, 3, 0, 0, 0], [20, 0, 0, 0, 0]]);
    }

    #[test]
    fn a_day_later_it_is_forgotten() {
        let (meter, now) = (Meter::default(), start());
        let mut ledger = Ledger::new(now);
        meter.received(Purpose::Witnesses, 5);
        ledger.enter(meter.read(), true, now);

        ledger.enter(meter.read(), true, now + 23 * HOUR);
        assert_eq!(ledger.day().metered, [0, 0, 5, 0, 0]);

        ledger.enter(meter.read(), true, now + 24 * HOUR);
        assert_eq!(ledger.day(), Day::default());
    }

    #[test]
    fn a_machine_that_slept_for_years_has_an_empty_day() {
        let (meter, now) = (Meter::default(), start());
        let mut ledger = Ledger::new(now);
        meter.sent(Purpose::Names, 5);
        ledger.enter(meter.read(), true, now);

        ledger.enter(meter.read(), true, now + 50_000 * HOUR);

        assert_eq!(ledger.day(), Day::default());
    }

    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }
}
