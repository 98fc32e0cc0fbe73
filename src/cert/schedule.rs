//! When a certificate is renewed.

use std::fmt;
use std::time::Duration;

use crate::clock::{UnixTime, magnitude};

use super::draw::{draw, salt};
use super::{DAY, HOUR, Held, Policy};

/// Why an order is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// A person asked for it.
    Asked,
    /// There is no certificate.
    Missing,
    /// The certificate lacks a configured name.
    Names,
    /// The certificate is valid only later.
    NotYetValid,
    /// So much of its life has passed.
    Schedule,
    /// The CA wants it renewed earlier than the schedule has it (RFC 9773).
    Window,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "somebody asked for it",
            Self::Missing => "there is no certificate",
            Self::Names => "the certificate lacks a configured name",
            Self::NotYetValid => "the certificate is not valid yet",
            Self::Schedule => "by the schedule",
            Self::Window => "the CA wants it early",
        })
    }
}

/// The renewal window that the CA suggests for a certificate (RFC 9773 section 4.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Window {
    /// The earliest moment.
    pub start: UnixTime,
    /// The latest.
    pub end: UnixTime,
    /// A page that says why, if the CA gives one.
    pub explanation: Option<String>,
}

/// A fresh certificate may begin so much later than the clock shows; and one that begins later
/// still is not waited for.
pub(super) const SKEW: Duration = HOUR;
/// No certificate is planned for longer, whatever its dates: a thousand years.
const LONGEST: Duration = Duration::from_secs(1000 * 31_557_600);
/// Of the wait for the renewal so much, at most, is taken off by jitter.
const JITTER_PERCENT: u32 = 3;

impl Policy {
    /// When `held` is renewed by the schedule: at 60 % of its life, or earlier if less than the
    /// outage to survive would then be left, but not before a third; and up to 3 % of that
    /// earlier, by its serial and the seed, so that not all machines ask at once.
    #[must_use]
    pub fn renew_at(&self, held: &Held) -> UnixTime {
        let wait = self.wait(held);
        let most = wait * JITTER_PERCENT / 100;
        let jitter = draw(self.seed, salt(&["renew", &held.serial], &[]), most);
        held.not_before + wait.saturating_sub(jitter)
    }

    /// The point of `window` at which `held` is renewed: evenly distributed (RFC 9773 section
    /// 4.2), and the same each time. `None` for a window that ends before it begins.
    #[must_use]
    pub fn point_in(&self, window: &Window, held: &Held) -> Option<UnixTime> {
        let span = window.end.since(window.start);
        let salt = salt(&["window", &held.serial], &[window.start, window.end]);
        (span >= 0).then(|| window.start + draw(self.seed, salt, magnitude(span)))
    }

    /// When whoever brings certificates has renewed `held` by custom: when a third of its life is
    /// left, half of one below ten days, but never more than thirty days.
    #[must_use]
    pub fn renewed_by_others(held: &Held) -> UnixTime {
        let life = held.life();
        let left = if life < DAY * 10 { life / 2 } else { life / 3 };
        held.not_before + life.saturating_sub(left.min(DAY * 30)).min(LONGEST)
    }

    /// How much of the life of `held` is left when its renewal is due, jitter aside.
    #[must_use]
    pub fn spare(&self, held: &Held) -> Duration {
        held.life().saturating_sub(self.wait(held))
    }

    fn wait(&self, held: &Held) -> Duration {
        let life = held.life().min(LONGEST);
        let latest = life * self.percent.min(100) / 100;
        life.saturating_sub(self.survive).max(life / 3).min(latest)
    }
}
