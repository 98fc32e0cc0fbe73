//! What a person should know about the certificate, in words.

use std::time::Duration;

use crate::clock::{Now, magnitude};
use crate::health::Severity;

use super::lifecycle::Lifecycle;
use super::outlook::{Hold, days};
use super::{CaId, DAY, HOUR, Held, Policy};

/// Something about the certificate that is the case and should not last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Alarm {
    /// Its stable name, one of [`CONDITIONS`].
    pub name: &'static str,
    /// Who must act.
    pub severity: Severity,
    /// What is the case, what still works, and what to do.
    pub text: String,
}

/// The names of all conditions that [`Lifecycle::alarms`] can give.
pub const CONDITIONS: &[&str] = &[
    "certificate-clock",
    "certificate-expired",
    "certificate-expiring",
    "certificate-held-back",
    "certificate-missing",
    "certificate-overdue",
    "certificate-profile",
    "certificate-rehearsal",
    "certificate-unjudged",
];

/// A clock that is not verified for so long keeps renewals from being made.
const UNVERIFIED: Duration = DAY;
/// What an order may take once the clock is verified, before its absence is worth more than a
/// notice.
const FIRST: Duration = Duration::from_secs(900);
/// The renewal is overdue after that, or after a tenth of the certificate's life.
const OVERDUE: Duration = DAY;
/// Or after so many failures in a row.
const FAILURES: u32 = 6;
/// The same where others renew, some of whom look once a day and wait for up to another.
const OTHERS_OVERDUE: Duration = Duration::from_secs(3 * 86_400);
/// What to look at then.
const NOT_BROUGHT: &str = "whatever renews its files seems to have stopped";
/// Somebody should wake up when no more than that is left, or a quarter of the certificate's life.
const EXPIRING: Duration = Duration::from_secs(7 * 86_400);

impl Lifecycle {
    /// The conditions that hold at `now`; those of [`CONDITIONS`] that are not among them do not.
    ///
    /// Unless the clock is verified nothing is said about dates but that they are not judged.
    #[must_use]
    pub fn alarms(&self, now: Now) -> Vec<Alarm> {
        let mut found = Vec::new();
        let mut raise = |name, severity, text| found.push(Alarm { name, severity, text });
        match self.in_service() {
            None => {
                if let Some((severity, text)) = self.missing(now) {
                    raise("certificate-missing", severity, text);
                }
            }
            Some(held) if self.verified => self.judge_dates(held, now, &mut raise),
            Some(held) => raise(
                "certificate-unjudged",
                self.unverified(now),
                format!(
                    "the certificate until {} is not judged: the clock is not verified; it is \
                     served, and renewed, if it has to be, once the clock is; see `firstlight sources`",
                    held.not_after
                ),
            ),
        }
        if let Some(contradiction) = self.contradiction {
            raise(
                "certificate-clock",
                Severity::Error,
                format!(
                    "a certificate just issued is valid from {} until {}, and the clock, though \
                     verified, showed {}: one of them is wrong; nothing is ordered for a day, and \
                     what was served is served on; see `firstlight sources`",
                    contradiction.not_before, contradiction.not_after, contradiction.clock
                ),
            );
        }
        if let Some(text) = self.held_back(now) {
            raise("certificate-held-back", Severity::Warning, text);
        }
        self.tell_of_cas(&mut raise);
        found
    }

    fn missing(&self, now: Now) -> Option<(Severity, String)> {
        if self.policy.cas.is_empty() {
            return None;
        }
        let failing = self.trouble();
        if !self.verified {
            return Some((
                self.unverified(now),
                "there is no certificate yet, and none is ordered: the clock is not verified; \
                 one of the local authority is served, unless files gave one before; see \
                 `firstlight sources`"
                    .to_owned(),
            ));
        }
        let severity = if self.had_time(now) { Severity::Error } else { Severity::Notice };
        Some((
            severity,
            format!(
                "there is no certificate, one of the local authority is served, which clients \
                 refuse that check names, unless files gave one before{failing}; see `firstlight certs`"
            ),
        ))
    }

    fn judge_dates(
        &self,
        held: &Held,
        now: Now,
        raise: &mut impl FnMut(&'static str, Severity, String),
    ) {
        let (until, remaining) = (held.not_after, self.remaining(now).unwrap_or_default());
        let failing = self.trouble();
        if remaining.is_zero() {
            return raise(
                "certificate-expired",
                Severity::Error,
                format!(
                    "the certificate expired at {until}; it is served all the same, but clients \
                     that check dates refuse it{failing}; see `firstlight certs`"
                ),
            );
        }
        if remaining < EXPIRING.min(held.life() / 4) {
            return raise(
                "certificate-expiring",
                Severity::Error,
                format!(
                    "the certificate expires in {}, at {until}{failing}; {}; see `firstlight certs`",
                    days(remaining),
                    if self.policy.cas.is_empty() { NOT_BROUGHT } else { "tries go on" }
                ),
            );
        }
        let Some((due, _)) = self.due(now) else { return self.judge_others(held, now, raise) };
        let overdue = magnitude(now.utc.since(due).max(0));
        let late = overdue >= OVERDUE.min(held.life() / 10) && self.had_time(now);
        if late || self.failures >= FAILURES {
            raise(
                "certificate-overdue",
                Severity::Warning,
                format!(
                    "the certificate could not be renewed so far, {} after that was due{failing}; \
                     it is good until {until}, for {}; tries go on; see `firstlight certs`",
                    days(overdue),
                    days(remaining)
                ),
            );
        }
    }

    /// Certificates come from elsewhere; raises an alarm if none does.
    fn judge_others(
        &self,
        held: &Held,
        now: Now,
        raise: &mut impl FnMut(&'static str, Severity, String),
    ) {
        let due = Policy::renewed_by_others(held);
        let overdue = magnitude(now.utc.since(due).max(0));
        if overdue >= OTHERS_OVERDUE.min(held.life() / 10) && self.had_time(now) {
            raise(
                "certificate-overdue",
                Severity::Warning,
                format!(
                    "the certificate has not been replaced, {} after that is usual; it is good until \
                     {}, for {}; {NOT_BROUGHT}; see `firstlight certs`",
                    days(overdue),
                    held.not_after,
                    days(self.remaining(now).unwrap_or_default())
                ),
            );
        }
    }

    /// How bad it is that the clock is not verified.
    fn unverified(&self, now: Now) -> Severity {
        let since = now.mono.saturating_duration_since(self.verified_since);
        if since < UNVERIFIED { Severity::Notice } else { Severity::Warning }
    }

    /// Whether there was time to make an order since the clock is verified.
    fn had_time(&self, now: Now) -> bool {
        now.mono.saturating_duration_since(self.verified_since) >= FIRST
    }

    /// What failed last, as an insertion.
    fn trouble(&self) -> String {
        let times = match self.failures {
            1 => String::new(),
            more => format!(", {more} times"),
        };
        let last = self.last_failure.as_ref();
        last.map_or_else(String::new, |last| {
            format!("; an order failed{times}, the last at {last}")
        })
    }

    fn held_back(&self, now: Now) -> Option<String> {
        let (due, why) = self.due(now)?;
        let Some((_, Hold::Guard { bound, until })) = self.obstacle(now) else { return None };
        // Shorter waits come with any CA that takes orders and lets them fail.
        let long = magnitude(until.since(now.utc).max(0)) > HOUR * 3;
        (due <= now.utc && long).then(|| {
            format!(
                "a certificate is to be ordered ({why}), but our own limit of {bound} is reached \
                 until {until}: something orders too often"
            )
        })
    }

    /// What single CAs make of us.
    fn tell_of_cas(&self, raise: &mut impl FnMut(&'static str, Severity, String)) {
        let name = |CaId(place): CaId| &self.policy.cas[place].name;
        let of = (0..self.policy.cas.len()).map(CaId);
        let plain = of.clone().find(|CaId(place)| self.ladders[*place].plain);
        if let Some(ca) = plain {
            raise(
                "certificate-profile",
                Severity::Warning,
                format!(
                    "{} does not know the configured profile; certificates are ordered there \
                     without one, and may live longer or shorter than planned",
                    name(ca)
                ),
            );
        }
        for ca in of {
            let Some(failure) = self.rehearsals[ca.0].trouble() else { continue };
            let due = self.in_service().map(|held| self.policy.renew_at(held));
            let due = due.map_or_else(String::new, |due| format!(", which is due at {due}"));
            return raise(
                "certificate-rehearsal",
                Severity::Warning,
                format!(
                    "a rehearsal at the staging directory of {} failed: {failure}; so would the \
                     renewal{due}; see `firstlight certs check`",
                    name(ca)
                ),
            );
        }
    }
}
