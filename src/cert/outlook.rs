//! What lies ahead, for people: the next renewal, and the outage that would be survived.

use std::fmt;
use std::time::Duration;

use crate::clock::{Now, UnixTime};

use super::guard::Bound;
use super::ladder::Failure;
use super::lifecycle::{Lifecycle, Order};
use super::schedule::Why;
use super::{CaId, HOUR};

/// What keeps an order from being made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hold {
    /// The last certificate that was issued is out of date by the clock.
    Contradicted,
    /// Our own bound on orders.
    Guard {
        /// Which.
        bound: Bound,
        /// Until when.
        until: UnixTime,
    },
    /// The CA limits our rate.
    Limited {
        /// Which CA.
        ca: CaId,
        /// Until when.
        until: UnixTime,
    },
    /// No CA is configured that could be asked.
    NoCa,
    /// The last try failed, and the next has its time.
    Retry {
        /// At which CA.
        ca: CaId,
        /// When.
        until: UnixTime,
    },
    /// An order is under way.
    Running,
    /// The clock is not verified.
    Unverified,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contradicted => f.write_str("a fresh certificate is out of date by the clock"),
            Self::Guard { bound, until } => {
                write!(f, "our own limit of {bound} is reached until {until}")
            }
            Self::Limited { until, .. } => write!(f, "the CA wants no order before {until}"),
            Self::NoCa => f.write_str("no certificate authority is configured that could be asked"),
            Self::Retry { until, .. } => write!(f, "the last try failed, the next is at {until}"),
            Self::Running => f.write_str("an order is under way"),
            Self::Unverified => f.write_str("the clock is not verified"),
        }
    }
}

/// The next order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Next {
    /// When it is due; the past, if it is overdue.
    pub due: UnixTime,
    /// Why.
    pub why: Why,
    /// When the next rehearsal is planned; `None` without a certificate to renew.
    pub rehearsal: Option<UnixTime>,
    /// What keeps it from being made though it is due, or would if it were.
    pub hold: Option<Hold>,
}

/// The outages of all CAs, or of the way to them, that the certificate in service survives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Endurance {
    /// One that begins at this moment.
    pub at_present: Duration,
    /// One that begins at the worst moment, just before the renewal.
    pub at_worst: Duration,
}

/// Where we stand with the rehearsals at one CA.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rehearsed<'a> {
    /// The CA's name in the configuration.
    pub ca: &'a str,
    /// Whether it has a staging directory; without one nothing is rehearsed there.
    pub staging: bool,
    /// Whether one is under way, or asked for by a person and about to begin.
    pub running: bool,
    /// Whether the last one succeeded, with the certificate that is in service.
    pub passed: bool,
    /// How the last one failed, if it did.
    pub failure: Option<&'a Failure>,
    /// Rehearsals that failed since the last that did not.
    pub failures: u32,
}

/// From the end of an outage to a certificate: the longest wait of the ladder, and the order.
const RETURN: Duration = Duration::from_secs(75 * 60);

impl Lifecycle {
    /// The next order; `None` without a CA. Its moment follows from the certificate, so it is known
    /// whatever the clock shows.
    #[must_use]
    pub fn next(&self, now: Now) -> Option<Next> {
        let (due, why) = self.due(now)?;
        let hold = self.obstacle(now).map(|(_, hold)| hold);
        Some(Next { due, why, rehearsal: self.rehearse_at(), hold })
    }

    /// How long an outage the certificate in service survives; `None` without one, or while the
    /// clock is not verified.
    #[must_use]
    pub fn endurance(&self, now: Now) -> Option<Endurance> {
        let remaining = self.remaining(now)?;
        let spare = self.policy.spare(self.in_service()?).min(remaining);
        let less = |span: Duration| span.saturating_sub(RETURN);
        Some(Endurance { at_present: less(remaining), at_worst: less(spare) })
    }

    /// The order under way, at a CA or at its staging directory.
    #[must_use]
    pub fn running(&self) -> Option<&Order> {
        self.running.as_ref().map(|running| &running.order)
    }

    /// Orders that failed since the last that did not, and the last of them in words. Rehearsals are
    /// not among them.
    #[must_use]
    pub fn failures(&self) -> (u32, Option<&str>) {
        (self.failures, self.last_failure.as_deref())
    }

    /// Where we stand with the rehearsals at each CA, in the order of [`super::Policy::cas`].
    pub fn rehearsals(&self) -> impl Iterator<Item = Rehearsed<'_>> {
        let serial = self.in_service().map_or("", |held| &held.serial);
        let of = |place| self.running().filter(|order| order.staging && order.ca == CaId(place));
        let cas = self.policy.cas.iter().zip(&self.rehearsals).enumerate();
        cas.map(move |(place, (ca, rehearsal))| Rehearsed {
            ca: &ca.name,
            staging: ca.staging,
            running: rehearsal.asked || of(place).is_some(),
            passed: rehearsal.passed.as_deref() == Some(serial),
            failure: rehearsal.failure.as_ref(),
            failures: rehearsal.failures,
        })
    }
}

/// Days and hours, for people: `17 d 4 h`.
pub(super) fn days(span: Duration) -> String {
    let hours = span.as_secs() / HOUR.as_secs();
    match (hours / 24, hours % 24) {
        (0, 0) => format!("{} min", span.as_secs() / 60),
        (0, hours) => format!("{hours} h"),
        (days, 0) => format!("{days} d"),
        (days, hours) => format!("{days} d {hours} h"),
    }
}
