//! The certificate machine: inputs, outputs and state; what it concludes is in `conclude`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::clock::{Level, Now, TimeTrust, UnixTime};

use super::draw::{draw, salt};
use super::guard::Guard;
use super::ladder::{Failure, Kind, Ladder, SETTLE};
use super::outlook::Hold;
use super::rehearsal::Rehearsal;
use super::saved::Saved;
use super::schedule::{SKEW, Why, Window};
use super::{Ca, CaId, DAY, Held, Policy};

/// Tells orders apart within a process.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct OrderId(pub u64);

/// An order to be made (RFC 8555 section 7.4).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Order {
    /// Which.
    pub id: OrderId,
    /// At which CA.
    pub ca: CaId,
    /// Whether at its staging directory: nothing of it is kept.
    pub staging: bool,
    /// Why.
    pub why: Why,
    /// The serial of the certificate it replaces, where that CA issued it (RFC 9773 section 5).
    pub replaces: Option<String>,
    /// Whether the configured profile is asked for.
    pub profile: bool,
    /// Whether the account's key has to be registered first (RFC 8555 section 7.3).
    pub register: bool,
}

/// How an order ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Without a certificate.
    Failed(Failure),
    /// With a certificate, whose key is at hand and stored.
    Issued(Held),
    /// The rehearsal succeeded.
    Passed,
}

/// What the machine wants done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// Ask a CA when it wants a certificate renewed (RFC 9773 section 4), and report to
    /// [`Lifecycle::handle_window`]; if that fails, there is nothing to report.
    AskWindow {
        /// Which CA.
        ca: CaId,
        /// The certificate's serial.
        serial: String,
    },
    /// Make an order, and report to [`Lifecycle::handle_ending`].
    Order(Order),
    /// Keep [`Lifecycle::saved`] on disk.
    Save,
    /// Serve the certificate with this serial from here on. What is not in [`Lifecycle::held`] is
    /// of no use any more.
    Serve(String),
}

/// Decides when which CA is asked for a certificate.
///
/// Feed it with `handle_*`, then take [`Self::poll_event`] until it is empty, then sleep until
/// [`Self::poll_timeout`]. Every method takes the time from the caller; `mono` must never go back,
/// and a call too early, or twice, does nothing. After a step of the clock call
/// [`Self::handle_timeout`] at once: no deadline outlives a step.
///
/// ```text
///           the clock is verified, and a renewal due            issued
///  waiting ───────────────────────────────────────────▶ ordering ─────▶ waiting
///   │   ▲                                                ▲    │ failed
///   ▼   │                                                └────┘ after the wait of its class,
/// rehearsing, half-way to the renewal                           or at the next CA
/// ```
///
/// Nothing is ordered, and no date is judged, unless the clock is verified. What is in service
/// stays there until another takes its place, whatever its dates.
#[derive(Debug)]
pub struct Lifecycle {
    pub(super) policy: Policy,
    /// The best first.
    pub(super) held: Vec<Held>,
    pub(super) verified: bool,
    /// Since when it is so, or not.
    pub(super) verified_since: Instant,
    generation: u64,
    /// As many as there are CAs.
    pub(super) ladders: Vec<Ladder>,
    /// As many as there are CAs.
    pub(super) rehearsals: Vec<Rehearsal>,
    pub(super) guard: Guard,
    /// The window of the certificate with this serial.
    pub(super) window: Option<(String, Window)>,
    /// When to ask for it.
    pub(super) ask_at: Instant,
    /// A person wants a renewal.
    pub(super) asked: bool,
    pub(super) running: Option<Running>,
    /// An order that did not end in time.
    pub(super) abandoned: Option<Running>,
    pub(super) contradiction: Option<Contradiction>,
    /// Orders that failed since the last that did not.
    pub(super) failures: u32,
    /// The last of them, in words.
    pub(super) last_failure: Option<String>,
    /// What an earlier process knew; it is believed once the clock is verified.
    pub(super) unread: Option<Saved>,
    /// Both clocks, when last verified.
    pub(super) anchor: Option<Now>,
    reset_at: Option<Instant>,
    pub(super) orders: u64,
    pub(super) ticked: Instant,
    pub(super) wake: (Instant, &'static str),
    pub(super) events: VecDeque<Event>,
}

/// An order that has not ended.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) order: Order,
    /// It is made at the staging directory because a validation has failed.
    pub(super) proof: bool,
    pub(super) since: Instant,
    /// When it was made, by the verified clock.
    pub(super) stamp: UnixTime,
}

/// A CA says by its certificate that the verified clock is wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contradiction {
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
    pub(super) clock: UnixTime,
    /// Nothing is ordered before.
    pub(super) until: Instant,
}

/// No longer does the machine sleep: a step of which it was not told is noticed by then.
pub(super) const TICK: Duration = Duration::from_secs(300);
/// An order that has not ended by then is given up; whoever makes it has shorter deadlines.
pub(super) const ORDER_PATIENCE: Duration = Duration::from_secs(900);
/// Ladders are not reset more often, however often a link comes and goes.
const RESET_GAP: Duration = Duration::from_secs(1800);
/// So many certificates are kept.
const KEEP: usize = 3;
/// Renewal information is asked for again after so long, if the CA does not say when
/// (RFC 9773 section 4.3.3: after an error, six hours).
pub(super) const WINDOW_INTERVAL: Duration = Duration::from_secs(6 * 3600);

impl Lifecycle {
    /// A machine at start, for whom the clock is not verified. `held`: the certificates whose keys
    /// are at hand. `saved`: what the last process kept.
    #[must_use]
    pub fn new(policy: Policy, held: Vec<Held>, saved: Option<Saved>, now: Now) -> Self {
        let mut machine = Self {
            ladders: vec![Ladder::default(); policy.cas.len()],
            rehearsals: vec![Rehearsal::default(); policy.cas.len()],
            policy,
            held: Vec::new(),
            verified: false,
            verified_since: now.mono,
            generation: 0,
            guard: Guard::default(),
            window: None,
            ask_at: now.mono,
            asked: false,
            running: None,
            abandoned: None,
            contradiction: None,
            failures: 0,
            last_failure: None,
            unread: saved,
            anchor: None,
            reset_at: None,
            orders: 0,
            ticked: now.mono,
            wake: (now.mono, "start"),
            events: VecDeque::new(),
        };
        machine.handle_held(held, now);
        machine
    }

    /// The certificates whose keys are at hand: read at start, or their files have changed.
    pub fn handle_held(&mut self, held: Vec<Held>, now: Now) {
        self.replace_held(held);
        self.settle(now);
    }

    /// What may be believed about time has changed.
    pub fn handle_trust(&mut self, trust: TimeTrust, now: Now) {
        let verified = trust.verified && trust.level >= Level::Coarse;
        let risen = verified && !self.verified;
        if trust.generation != self.generation {
            self.contradiction = None;
        }
        if verified != self.verified {
            self.verified_since = now.mono;
        }
        (self.verified, self.generation) = (verified, trust.generation);
        self.read_saved(now);
        if risen {
            self.reset_ladders(now);
        }
        self.settle(now);
    }

    /// A link, address or route changed, or upstreams answer again. Waits that failures caused
    /// end within five minutes; not those that a CA asked for, and not twice in half an hour.
    pub fn handle_path_change(&mut self, now: Now) {
        self.reset_ladders(now);
        self.settle(now);
    }

    /// Another configuration is in force. An order under way is given up; a certificate it still
    /// brings is told by [`Self::handle_held`].
    pub fn handle_policy(&mut self, policy: Policy, now: Now) {
        let known = |ca: &Ca| self.policy.cas.iter().position(|old| old.name == ca.name);
        let places: Vec<_> = policy.cas.iter().map(known).collect();
        let limited = |place: &Option<usize>| place.and_then(|place| self.ladders[place].limited);
        self.ladders = places
            .iter()
            .map(|place| Ladder { limited: limited(place), ..Ladder::default() })
            .collect();
        self.rehearsals = vec![Rehearsal::default(); policy.cas.len()];
        self.abandoned = None;
        if let Some(running) = self.running.take().filter(|running| !running.order.staging) {
            self.guard.handle_accepted(running.stamp, running.since);
        }
        self.policy = policy;
        self.replace_held(self.held.clone());
        self.settle(now);
    }

    /// A person wants the certificate renewed whatever its dates.
    ///
    /// # Errors
    ///
    /// What keeps an order from being made at once. The wish is then not remembered, but waits that
    /// failures caused have ended.
    pub fn handle_renew(&mut self, now: Now) -> Result<(), Hold> {
        self.read_saved(now);
        self.ladders.iter_mut().for_each(|ladder| ladder.reset(now.mono));
        let asked = std::mem::replace(&mut self.asked, true);
        if let Some((_, hold)) = self.obstacle(now) {
            self.asked = asked;
            return Err(hold);
        }
        self.settle(now);
        Ok(())
    }

    /// A person wants to see whether an order would succeed: one is rehearsed at each CA that has a
    /// staging directory.
    ///
    /// # Errors
    ///
    /// What keeps that from being done.
    pub fn handle_rehearse(&mut self, now: Now) -> Result<(), Hold> {
        if !self.policy.cas.iter().any(|ca| ca.staging) {
            return Err(Hold::NoCa);
        }
        if !self.verified {
            return Err(Hold::Unverified);
        }
        for (rehearsal, ca) in self.rehearsals.iter_mut().zip(&self.policy.cas) {
            rehearsal.asked = ca.staging;
            rehearsal.ladder.reset(now.mono);
        }
        self.settle(now);
        Ok(())
    }

    /// A CA answered the question for the renewal window of the certificate `serial`, and when it
    /// wants to be asked again (`Retry-After`).
    pub fn handle_window(
        &mut self,
        serial: &str,
        window: Window,
        retry_after: Option<Duration>,
        now: Now,
    ) {
        let (least, most) = self.policy.renewal_info;
        let wait = retry_after.unwrap_or(WINDOW_INTERVAL).max(least).min(most);
        if self.in_service().is_some_and(|held| held.serial == serial) {
            self.ask_at = now.mono + wait;
            let window = Some((serial.to_owned(), window));
            if self.window != window {
                self.window = window;
                self.events.push_back(Event::Save);
            }
        }
        self.settle(now);
    }

    /// An order ended. `accepted`: the CA took it (it answered newOrder with 201), so that it counts
    /// there.
    pub fn handle_ending(&mut self, id: OrderId, accepted: bool, ending: Ending, now: Now) {
        let issued = matches!(ending, Ending::Issued(_));
        let of_id = |running: &mut Running| running.order.id == id;
        let running = self.running.take_if(of_id);
        // A certificate that comes after its order was given up is a certificate all the same.
        let late = if issued { self.abandoned.take_if(of_id) } else { None };
        if let Some(running) = running {
            self.ended(&running, accepted || issued, ending, now);
        } else if let Some(running) = late {
            self.ended(&running, false, ending, now);
        }
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] must be called next, and why.
    #[must_use]
    pub const fn poll_timeout(&self) -> (Instant, &'static str) {
        self.wake
    }

    /// What is to be done, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The certificate to serve: the one with most of the configured names, and of these the one
    /// issued last. No clock has a say in that.
    #[must_use]
    pub fn in_service(&self) -> Option<&Held> {
        self.held.first()
    }

    /// The certificates worth keeping, the one in service first.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// What was configured.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// When the machine last looked: long ago, if whoever drives it is stuck.
    #[must_use]
    pub const fn ticked(&self) -> Instant {
        self.ticked
    }

    fn replace_held(&mut self, mut held: Vec<Held>) {
        let before = self.in_service().map(|held| held.serial.clone());
        let wanted =
            |held: &Held| self.policy.names.iter().filter(|name| held.covers(name)).count();
        held.sort_by_cached_key(|held| {
            std::cmp::Reverse((wanted(held), held.not_before, held.not_after, held.serial.clone()))
        });
        held.dedup_by(|one, other| one.serial == other.serial);
        held.truncate(KEEP);
        self.held = held;
        let after = self.in_service().map(|held| held.serial.clone());
        if after != before
            && let Some(serial) = after
        {
            self.ladders.iter_mut().for_each(|ladder| ladder.irreplaceable = false);
            // The first question for its window comes with the first tick.
            self.ask_at = self.ticked;
            self.events.push_back(Event::Serve(serial));
        }
    }

    fn reset_ladders(&mut self, now: Now) {
        if self.reset_at.is_some_and(|at| now.mono < at + RESET_GAP) {
            return;
        }
        let by = now.mono + draw(self.policy.seed, salt(&["reset"], &[now.utc]), SETTLE);
        let staging = self.rehearsals.iter_mut().map(|rehearsal| &mut rehearsal.ladder);
        for ladder in self.ladders.iter_mut().chain(staging).filter(|it| it.next.is_some()) {
            ladder.reset(by);
            self.reset_at = Some(now.mono);
        }
    }

    pub(super) fn ended(&mut self, running: &Running, accepted: bool, ending: Ending, now: Now) {
        let Order { ca: CaId(ca), staging, .. } = running.order;
        if accepted && !staging {
            self.guard.handle_accepted(running.stamp, running.since);
        }
        match ending {
            Ending::Issued(held) if !staging => self.issued(running, held, now),
            Ending::Issued(_) | Ending::Passed => {
                let serial = self.in_service().map_or("", |held| &held.serial).to_owned();
                self.rehearsals[ca].handle_passed(&serial);
                if running.proof {
                    self.ladders[ca].next = None;
                }
            }
            Ending::Failed(failure) => self.failed(running, failure, now),
        }
        self.events.push_back(Event::Save);
    }

    fn issued(&mut self, running: &Running, held: Held, now: Now) {
        self.guard.handle_issued(self.names(), running.stamp, running.since);
        if let Some(lacking) = self.policy.names.iter().find(|name| !held.covers(name)) {
            let detail = format!("the certificate it issued lacks {lacking}");
            return self.failed(running, Failure { kind: Kind::Garbage, detail }, now);
        }
        let begins_later = held.not_before.since(now.utc + SKEW) > 0;
        if self.verified && (begins_later || held.not_after <= now.utc) {
            self.contradiction = Some(Contradiction {
                not_before: held.not_before,
                not_after: held.not_after,
                clock: now.utc,
                until: now.mono + DAY,
            });
            return;
        }
        for ladder in &mut self.ladders {
            let (limited, plain) = (ladder.limited, ladder.plain);
            *ladder = Ladder { limited, plain, ..Ladder::default() };
        }
        self.rehearsals.iter_mut().for_each(|rehearsal| rehearsal.first = false);
        // What succeeded there needs no rehearsal to tell.
        self.rehearsals[running.order.ca.0] = Rehearsal::default();
        (self.failures, self.last_failure, self.contradiction) = (0, None, None);
        self.asked = false;
        // What begins later still contradicts both the clock and the CA.
        let mut all = self.held.clone();
        all.retain(|held| !self.verified || held.not_before <= now.utc + SKEW);
        all.push(held);
        self.replace_held(all);
    }

    fn failed(&mut self, running: &Running, failure: Failure, now: Now) {
        let Order { ca: CaId(ca), staging, .. } = running.order;
        let seed = self.policy.seed;
        let salt = salt(&[&self.policy.cas[ca].name], &[now.utc]);
        let kind = failure.kind;
        if staging {
            self.rehearsals[ca].handle_failure(failure, seed, salt, now.mono);
            if !running.proof {
                return;
            }
            // Next is the CA itself again: it may be the staging directory that is wrong. And at
            // once, if that could not tell.
            self.rehearsals[ca].first = false;
            self.ladders[ca].next = None;
            if !matches!(kind, Kind::Validation | Kind::Refused) {
                return;
            }
        } else {
            if kind == Kind::Validation {
                self.guard.handle_invalid(running.stamp, now.mono);
                self.rehearsals[ca].first = self.policy.cas[ca].staging;
            }
            self.failures = self.failures.saturating_add(1);
            self.last_failure = Some(format!("{}: {failure}", self.policy.cas[ca].name));
        }
        self.ladders[ca].handle_failure(kind, seed, salt, now.mono);
        let urgent = self.urgent_in(now).filter(|wait| kind == Kind::Local && !wait.is_zero());
        if let Some(wait) = urgent {
            // What is too much of a risk before is not then.
            self.ladders[ca].try_by(now.mono + wait);
        }
    }

    /// What the guard counts a certificate by.
    pub(super) fn names(&self) -> String {
        let mut names: Vec<_> =
            self.policy.names.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        names.dedup();
        names.join(",")
    }
}
