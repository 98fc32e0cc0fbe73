//! What follows from the state at a moment: the next order, and the next time to look.

use std::time::{Duration, Instant};

use crate::clock::{Now, UnixTime, magnitude};

use super::ladder::{Failure, Kind};
use super::lifecycle::{
    Ending, Event, Lifecycle, ORDER_PATIENCE, Order, OrderId, Running, TICK, WINDOW_INTERVAL,
};
use super::outlook::Hold;
use super::schedule::{SKEW, Why};
use super::{CaId, DAY, HOUR, Held};

/// The renewal of a certificate that serves for less than that is not rehearsed.
const REHEARSED_FROM: Duration = HOUR;

impl Lifecycle {
    pub(super) fn settle(&mut self, now: Now) {
        self.ticked = now.mono;
        self.wake = (now.mono + TICK, "tick");
        self.give_up(now);
        if !self.verified {
            return;
        }
        self.read_saved(now);
        self.anchor = Some(now);
        self.ask_window(now);
        if let Some(running) = &self.running {
            return self.wake_by(running.since + ORDER_PATIENCE, "an order's end");
        }
        if let Some(ca) = self.asked_rehearsal(now) {
            return self.start(ca, Why::Asked, true, false, now);
        }
        let Some((due, why)) = self.due(now) else { return };
        if due > now.utc {
            self.wake_by(now.mono + magnitude(due.since(now.utc)).min(DAY), "renewal");
            return self.rehearse(now);
        }
        let Some((ca, proof)) = self.candidate(now) else { return };
        match self.obstacle(now) {
            Some((until, _)) => {
                self.wake_by(until, "next try");
            }
            None => self.start(ca, why, proof, proof, now),
        }
    }

    /// When the next order is due, and why; `None` without a CA.
    pub(super) fn due(&self, now: Now) -> Option<(UnixTime, Why)> {
        if self.policy.cas.is_empty() {
            return None;
        }
        let Some(held) = self.in_service() else { return Some((now.utc, Why::Missing)) };
        if self.asked {
            return Some((now.utc, Why::Asked));
        }
        if self.policy.names.iter().any(|name| !held.covers(name)) {
            return Some((now.utc, Why::Names));
        }
        if self.verified && held.not_before.since(now.utc + SKEW) > 0 {
            return Some((now.utc, Why::NotYetValid));
        }
        let schedule = self.policy.renew_at(held);
        let window = self.window.as_ref().filter(|(serial, _)| *serial == held.serial);
        match window.and_then(|(_, window)| self.policy.point_in(window, held)) {
            Some(point) if point < schedule => Some((point, Why::Window)),
            _ => Some((schedule, Why::Schedule)),
        }
    }

    /// Until when what is due, or asked for, has to wait, and what for.
    pub(super) fn obstacle(&self, now: Now) -> Option<(Instant, Hold)> {
        let later = |until: Instant| now.utc + until.saturating_duration_since(now.mono);
        if self.policy.cas.is_empty() {
            return Some((now.mono + TICK, Hold::NoCa));
        }
        if !self.verified {
            return Some((now.mono + TICK, Hold::Unverified));
        }
        if let Some(running) = &self.running {
            return Some((running.since + ORDER_PATIENCE, Hold::Running));
        }
        let (CaId(ca), proof) = self.candidate(now)?;
        let mut found = Vec::new();
        if let Some(contradiction) = self.contradiction {
            found.push((contradiction.until, Hold::Contradicted));
        }
        if let Some(until) = self.ladders[ca].ready() {
            let hold = if self.ladders[ca].is_limited(now.mono) {
                Hold::Limited { ca: CaId(ca), until: later(until) }
            } else {
                Hold::Retry { ca: CaId(ca), until: later(until) }
            };
            found.push((until, hold));
        }
        let names = self.names();
        let guarded = self.guard.holds(&self.policy.limits, &names, self.is_urgent(now), now.mono);
        if let Some((until, bound)) = guarded.filter(|_| !proof) {
            found.push((until, Hold::Guard { bound, until: later(until) }));
        }
        let latest = found.into_iter().max_by_key(|(until, _)| *until);
        latest.filter(|(until, _)| *until > now.mono)
    }

    /// How much of the life of the certificate in service is left; `None` unless the clock is
    /// verified.
    #[must_use]
    pub fn remaining(&self, now: Now) -> Option<Duration> {
        let held = self.in_service().filter(|_| self.verified)?;
        Some(magnitude(held.not_after.since(now.utc).max(0)))
    }

    /// Whether no more than half is left of what a certificate has to spare at its renewal, or
    /// there is no certificate.
    #[must_use]
    pub fn is_urgent(&self, now: Now) -> bool {
        self.in_service().is_none() || self.urgent_in(now).is_some_and(|wait| wait.is_zero())
    }

    /// How long until that is so of the certificate in service; `None` unless the clock is verified.
    pub(super) fn urgent_in(&self, now: Now) -> Option<Duration> {
        let spare = self.policy.spare(self.in_service()?).min(self.policy.survive);
        Some(self.remaining(now)?.saturating_sub(spare / 2))
    }

    /// The CA whose turn it is, and whether it is to be asked at its staging directory.
    ///
    /// The first in order that may be asked, else the one that may be soonest. The next in order is
    /// asked too when one has failed for a day, limits our rate, or time runs out.
    fn candidate(&self, now: Now) -> Option<(CaId, bool)> {
        let urgent = self.is_urgent(now);
        let passes_on = |place: &usize| {
            let ladder = &self.ladders[*place];
            let failing =
                ladder.failing_since.map(|since| now.mono.saturating_duration_since(since));
            ladder.is_limited(now.mono) || failing.is_some_and(|failing| failing >= DAY || urgent)
        };
        let more = (0..self.ladders.len()).take_while(passes_on).count();
        let places = 0..=more.min(self.ladders.len().checked_sub(1)?);
        let ready = |place: &usize| self.ladders[*place].ready().filter(|at| *at > now.mono);
        let place = places.min_by_key(|place| (ready(place), *place))?;
        // With a certificate about to expire there is no time to lose; without one there is.
        let pressed = urgent && self.in_service().is_some();
        let proof = self.rehearsals[place].first && !pressed;
        Some((CaId(place), proof))
    }

    fn start(&mut self, ca: CaId, why: Why, staging: bool, proof: bool, now: Now) {
        let CaId(place) = ca;
        let ladder = if staging { &self.rehearsals[place].ladder } else { &self.ladders[place] };
        let replaceable = |held: &&Held| {
            !staging
                && !ladder.irreplaceable
                && held.ca.as_ref() == Some(&self.policy.cas[place].name)
        };
        self.orders += 1;
        let order = Order {
            id: OrderId(self.orders),
            ca,
            staging,
            why,
            replaces: self.in_service().filter(replaceable).map(|held| held.serial.clone()),
            profile: !ladder.plain,
            register: ladder.register,
        };
        self.events.push_back(Event::Order(order.clone()));
        self.running = Some(Running { order, proof, since: now.mono, stamp: now.utc });
        self.wake_by(now.mono + ORDER_PATIENCE, "an order's end");
    }

    /// An order that does not end counts as one that got no answer, after it was accepted.
    fn give_up(&mut self, now: Now) {
        let expired = |running: &mut Running| now.mono >= running.since + ORDER_PATIENCE;
        if let Some(running) = self.running.take_if(expired) {
            let detail = "the order did not end".to_owned();
            let failure = Failure { kind: Kind::Unreachable, detail };
            self.ended(&running, true, Ending::Failed(failure), now);
            self.abandoned = Some(running);
        }
    }

    fn ask_window(&mut self, now: Now) {
        let Some(held) = self.in_service() else { return };
        let of = |name: &String| self.policy.cas.iter().position(|ca| ca.name == *name);
        let Some(place) = held.ca.as_ref().and_then(of) else { return };
        if now.mono >= self.ask_at {
            let serial = held.serial.clone();
            self.events.push_back(Event::AskWindow { ca: CaId(place), serial });
            let (least, most) = self.policy.renewal_info;
            self.ask_at = now.mono + WINDOW_INTERVAL.max(least).min(most);
        }
        self.wake_by(self.ask_at, "renewal information");
    }

    fn asked_rehearsal(&self, now: Now) -> Option<CaId> {
        let asked = |place: &usize| self.rehearsals[*place].asked;
        let ready = |place: &usize| !self.rehearsals[*place].ladder.is_limited(now.mono);
        (0..self.rehearsals.len()).filter(asked).find(ready).map(CaId)
    }

    /// Half-way to the renewal an order is rehearsed at each CA.
    fn rehearse(&mut self, now: Now) {
        let Some(at) = self.rehearse_at() else { return };
        if at > now.utc {
            return self.wake_by(now.mono + magnitude(at.since(now.utc)).min(DAY), "rehearsal");
        }
        let serial = self.in_service().map(|held| held.serial.clone());
        for place in 0..self.rehearsals.len() {
            let rehearsal = &self.rehearsals[place];
            if !self.policy.cas[place].staging || rehearsal.passed == serial {
                continue;
            }
            match rehearsal.ladder.ready().filter(|at| *at > now.mono) {
                Some(at) => self.wake_by(at, "rehearsal"),
                None => return self.start(CaId(place), Why::Schedule, true, false, now),
            }
        }
    }

    /// When the renewal of the certificate in service is rehearsed.
    pub(super) fn rehearse_at(&self) -> Option<UnixTime> {
        let held = self.in_service()?;
        let wait = self.policy.renew_at(held).since(held.not_before);
        (magnitude(wait) >= REHEARSED_FROM).then(|| held.not_before.offset(wait / 2))
    }

    fn wake_by(&mut self, at: Instant, why: &'static str) {
        if at < self.wake.0 {
            self.wake = (at, why);
        }
    }
}
