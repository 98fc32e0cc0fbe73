//! The health of every endpoint and operator, and the order in which they are tried.

use std::time::{Duration, Instant};

use super::entry::{Entry, PROBE, QUIET, jitter};
use super::plan::{Plan, Standing};
use super::{Endpoint, EndpointId, Outcome, State};

/// Knows every endpoint's health and orders them.
///
/// Feed it outcomes, in any order, `now` never going back; after each call read
/// [`Self::poll_plan`], and at latest when [`Self::poll_timeout`] says, call
/// [`Self::handle_timeout`] and then [`Self::poll_probe`] until it gives `None`.
/// Spurious calls do nothing.
#[derive(Debug)]
pub struct Pool {
    entries: Vec<Entry>,
    operators: Vec<Operator>,
    spread: bool,
    /// What the plan follows from.
    standings: Vec<Standing>,
    plan: Plan,
    plan_changed: bool,
    /// Since when no endpoint is up.
    all_down: Option<Instant>,
    /// When the path last changed: to another, or from a dead one.
    path_since: Option<Instant>,
    /// Whether IPv4, and whether IPv6, failed altogether while the other worked.
    families_down: [bool; 2],
    /// The uplink is paid for by the octet.
    metered: bool,
    /// When one was last probed.
    probed: Option<Instant>,
}

/// Between two probes over a metered link, at least.
const METERED: Duration = Duration::from_secs(60);
/// The same while all are down.
const METERED_DOWN: Duration = Duration::from_secs(1);

impl Pool {
    /// All `endpoints` are up; their order decides between equals. Nobody is asked before
    /// [`Self::handle_path_change`] or the first outcome.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        let mut operators = Vec::<Operator>::new();
        let mut entries = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let known = operators.iter().position(|operator| operator.name == endpoint.operator);
            let place = known.unwrap_or_else(|| {
                operators.push(Operator::new(endpoint.operator.clone()));
                operators.len() - 1
            });
            entries.push(Entry::new(endpoint, place));
        }
        let mut pool = Self {
            entries,
            operators,
            spread: true,
            standings: Vec::new(),
            plan: Plan::default(),
            plan_changed: true,
            all_down: None,
            path_since: None,
            families_down: [false; 2],
            metered: false,
            probed: None,
        };
        pool.replan();
        pool
    }

    /// Whether operators that are hardly slower than the best take a turn at being the first, so
    /// that none gets every question. They do unless told otherwise.
    pub fn set_spread(&mut self, spread: bool) {
        self.spread = spread;
        self.standings.clear();
        self.replan();
    }

    /// Takes note of how exchanges with `endpoint` ended.
    pub fn handle_outcome(&mut self, endpoint: EndpointId, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Answered { latencies } => self.handle_answers(endpoint, &latencies, now),
            Outcome::Failed { began } => self.handle_failure(endpoint, began, now),
            Outcome::Outdone => {
                if let Some(operator) = self.operator_of(endpoint) {
                    operator.handle_outdone(now);
                }
            }
        }
        self.settle(now);
    }

    fn handle_answers(&mut self, id: EndpointId, latencies: &[Duration], now: Instant) {
        let Some(entry) = self.entries.get(id.0) else { return };
        let (operator, ipv6) = (entry.operator, entry.endpoint.address.is_ipv6());
        let operator_was_down = self.members(operator).all(|member| !member.is_up());
        let family_was_down = std::mem::take(&mut self.families_down[usize::from(ipv6)]);
        let answers = u32::try_from(latencies.len()).unwrap_or(u32::MAX);
        if let Some(operator) = self.operators.get_mut(operator) {
            operator.outdone = operator.outdone.saturating_sub(answers);
        }
        let returned = self.all_down.is_some();
        if returned {
            self.path_since = Some(now);
            // The path was dead, not the endpoints.
            self.entries.iter_mut().for_each(|entry| entry.pardon(now));
        }
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let kin = (operator_was_down && entry.operator == operator)
                || (family_was_down && entry.endpoint.address.is_ipv6() == ipv6);
            if index == id.0 {
                entry.handle_answers(latencies, now);
            } else if returned || kin {
                entry.doubt(now);
            }
        }
    }

    fn handle_failure(&mut self, id: EndpointId, began: Instant, now: Instant) {
        let Some(entry) = self.entries.get_mut(id.0) else { return };
        if self.path_since.is_some_and(|since| began < since) {
            return;
        }
        entry.handle_failure(salt(id.0), now);
        if entry.failures == 1 {
            // Either it fails or our path does: soon it is known which.
            let unheard = |other: &&mut Entry| other.failures == 0 && other.is_quiet(now);
            for other in self.entries.iter_mut().filter(unheard) {
                let lately = |at| now.saturating_duration_since(at) < QUIET;
                if !other.probed.is_some_and(lately) {
                    other.doubt(now);
                }
            }
        }
    }

    /// Takes note that `endpoint`'s certificate passes rule R only, or strictly after all.
    ///
    /// While the former, it is tried after all that are up and pass strictly.
    pub fn handle_verdict(&mut self, endpoint: EndpointId, relaxed_only: bool) {
        if let Some(entry) = self.entries.get_mut(endpoint.0) {
            entry.relaxed_only = relaxed_only;
        }
        self.replan();
    }

    /// Forgets whose certificate passes rule R only: trust in the clock changed. Whoever is down
    /// may have been for its certificate's dates, and is asked again.
    pub fn handle_trust_change(&mut self, now: Instant) {
        for entry in &mut self.entries {
            entry.relaxed_only = false;
            if !entry.is_up() {
                entry.doubt(now);
            }
        }
        self.replan();
    }

    /// Clears every penalty and latency, and has each endpoint asked: a link, address or route
    /// changed, and nothing that was learnt need hold on the new path.
    pub fn handle_path_change(&mut self, now: Instant) {
        for entry in &mut self.entries {
            entry.forget(now);
            entry.doubt(now);
        }
        for operator in &mut self.operators {
            operator.outdone = 0;
            operator.weak_until = None;
        }
        self.families_down = [false; 2];
        self.path_since = Some(now);
        self.settle(now);
    }

    /// Ends what has lasted long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        for operator in &mut self.operators {
            operator.weak_until = operator.weak_until.filter(|until| now < *until);
        }
        self.settle(now);
    }

    /// An endpoint that should be asked something now, to see whether it is there; `None` if none
    /// is due.
    pub fn poll_probe(&mut self, now: Instant) -> Option<EndpointId> {
        if self.gate().is_some_and(|at| now < at) {
            return None;
        }
        let due = |entry: &Entry| entry.due.is_some_and(|at| at <= now);
        let index = match self.all_down {
            Some(since) => self.next_while_all_down(since, now)?,
            None => self.entries.iter().position(due)?,
        };
        self.entries.get_mut(index)?.handle_probe(salt(index), now);
        self.probed = Some(now);
        Some(EndpointId(index))
    }

    /// Takes note whether the uplink is paid for by the octet: probes are then few.
    pub fn set_metered(&mut self, metered: bool) {
        self.metered = metered;
    }

    /// Whether the uplink is paid for by the octet.
    #[must_use]
    pub const fn is_metered(&self) -> bool {
        self.metered
    }

    /// Before when nobody may be probed.
    fn gate(&self) -> Option<Instant> {
        let pause = if self.all_down.is_some() { METERED_DOWN } else { METERED };
        self.probed.filter(|_| self.metered).map(|at| at + pause)
    }

    /// One address of an operator whose turn it is, each time the next.
    fn next_while_all_down(&mut self, since: Instant, now: Instant) -> Option<usize> {
        let due = |(place, operator): (usize, &Operator)| operator.probe_due(place, since) <= now;
        let place = self.operators.iter().enumerate().position(due)?;
        let operator = self.operators.get_mut(place)?;
        operator.probed = Some(now);
        operator.probes += 1;
        let members = self.entries.iter().enumerate().filter(|(_, it)| it.operator == place);
        members.min_by_key(|(_, member)| member.probed).map(|(index, _)| index)
    }

    /// When to come back, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let probe = match self.all_down {
            Some(since) => {
                let operators = self.operators.iter().enumerate();
                operators.map(|(place, operator)| operator.probe_due(place, since)).min()
            }
            None => self.entries.iter().filter_map(|entry| entry.due).min(),
        };
        // Whoever is due waits for the gate.
        let probe = probe.map(|at| self.gate().map_or(at, |gate| gate.max(at)));
        let pardon = self.operators.iter().filter_map(|operator| operator.weak_until).min();
        let timeouts = [(probe, "upstream probe"), (pardon, "operator's demotion ends")];
        timeouts.into_iter().filter_map(|(at, why)| Some((at?, why))).min_by_key(|(at, _)| *at)
    }

    /// The order in which to try the endpoints, if it is another than when this was last called.
    ///
    /// Those that are down stand last, yet in it: when nothing else is left they are tried all
    /// the same.
    pub fn poll_plan(&mut self) -> Option<Plan> {
        std::mem::take(&mut self.plan_changed).then(|| self.plan.clone())
    }

    /// The order in which to try the endpoints.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Every endpoint and what is known of it, in the order given to [`Self::new`].
    pub fn health(&self) -> impl Iterator<Item = Health<'_>> {
        self.entries.iter().enumerate().map(|(index, entry)| {
            let id = EndpointId(index);
            let place = self.plan.order.iter().position(|it| it.id == id).unwrap_or(index);
            Health {
                endpoint: &entry.endpoint,
                state: entry.state(),
                place,
                share: self.plan.share(place),
                reason: self.reason(entry, place),
                latency: entry.latency.mean(),
                p95: entry.latency.p95(),
                hedge_after: entry.hedge_after(),
                loss: entry.loss,
                failures: entry.failures,
                relaxed_only: entry.relaxed_only,
            }
        })
    }

    /// Every operator of whom no address answers, though others' may.
    pub fn outages(&self) -> impl Iterator<Item = Outage<'_>> {
        let operators = self.operators.iter().enumerate();
        let down = operators.filter(|(place, _)| self.members(*place).all(|it| !it.is_up()));
        down.map(|(place, operator)| Outage {
            operator: &operator.name,
            addresses: self.members(place).count(),
            heard: self.members(place).filter_map(|member| member.heard).max(),
        })
    }

    /// Every operator there is.
    pub fn operators(&self) -> impl Iterator<Item = &str> {
        self.operators.iter().map(|operator| &*operator.name)
    }

    /// Whether no endpoint is up: it is more likely our path than all of them.
    #[must_use]
    pub fn all_down(&self) -> bool {
        self.entries.iter().all(|entry| !entry.is_up())
    }

    /// Whether some endpoint is known to answer on this path.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.entries.iter().any(Entry::is_proven)
    }

    fn members(&self, operator: usize) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.operator == operator)
    }

    fn operator_of(&mut self, endpoint: EndpointId) -> Option<&mut Operator> {
        let place = self.entries.get(endpoint.0)?.operator;
        self.operators.get_mut(place)
    }

    /// Whether IPv6 (or IPv4) fails altogether while the other works.
    fn family_fails(&self, ipv6: bool) -> bool {
        let family = |ipv6| {
            self.entries.iter().filter(move |entry| entry.endpoint.address.is_ipv6() == ipv6)
        };
        family(ipv6).any(|entry| !entry.is_up())
            && family(ipv6).all(|entry| !entry.is_proven())
            && family(!ipv6).any(Entry::is_proven)
    }

    fn settle(&mut self, now: Instant) {
        let since = self.all_down.unwrap_or(now);
        self.all_down = (self.all_down() && !self.entries.is_empty()).then_some(since);
        // Remembered until it answers, so that an outage of all does not send clients there.
        for ipv6 in [false, true] {
            let fails = self.family_fails(ipv6);
            self.families_down[usize::from(ipv6)] |= fails;
        }
        self.replan();
    }

    fn replan(&mut self) {
        let (standings, all_down) = (self.standings(), self.all_down());
        if standings == self.standings && all_down == self.plan.all_down {
            return;
        }
        let name = |operator| {
            self.operators.get(operator).map_or_else(String::new, |it: &Operator| it.name.clone())
        };
        let plan = Plan::new(&standings, name, self.spread, all_down);
        self.plan_changed |= plan != self.plan;
        (self.plan, self.standings) = (plan, standings);
    }

    fn standings(&self) -> Vec<Standing> {
        let all_down = self.all_down();
        let standing = |entry: &Entry| {
            let down = !entry.is_up() || self.is_of_lost_family(entry);
            Standing {
                operator: entry.operator,
                rank: u8::from(down) * 4
                    + u8::from(entry.relaxed_only) * 2
                    + u8::from(self.is_weak(entry)),
                expected: entry.expected(),
                proven: entry.is_proven(),
                hedges: !entry.relaxed_only && (all_down || !down),
                hedge_after: entry.hedge_after(),
            }
        };
        self.entries.iter().map(standing).collect()
    }

    fn is_of_lost_family(&self, entry: &Entry) -> bool {
        self.families_down[usize::from(entry.endpoint.address.is_ipv6())]
    }

    fn is_weak(&self, entry: &Entry) -> bool {
        self.operators.get(entry.operator).is_some_and(|operator| operator.weak_until.is_some())
    }

    fn reason(&self, entry: &Entry, place: usize) -> Reason {
        if !entry.is_up() {
            Reason::Down
        } else if self.is_of_lost_family(entry) {
            Reason::FamilyDown
        } else if entry.relaxed_only {
            Reason::Relaxed
        } else if self.is_weak(entry) {
            Reason::Outdone
        } else if entry.failures > 0 || entry.loss > 20 {
            Reason::Lossy
        } else if entry.latency.mean().is_none() {
            Reason::Unknown
        } else if place == 0 {
            Reason::Best
        } else if self.plan.turns.contains(&place) {
            Reason::Turn
        } else {
            Reason::Next
        }
    }
}

/// What is known of an endpoint, and what follows from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Health<'a> {
    /// Which.
    pub endpoint: &'a Endpoint,
    /// What it is believed to be.
    pub state: State,
    /// Its place in the order, from 0.
    pub place: usize,
    /// Questions of a thousand that go to it first.
    pub share: u32,
    /// Why it has that place.
    pub reason: Reason,
    /// Its smoothed latency; `None` if it never answered on this path.
    pub latency: Option<Duration>,
    /// What 19 of 20 answers stay within; `None` until there were enough on this path.
    pub p95: Option<Duration>,
    /// Silent for so long, another is asked too.
    pub hedge_after: Duration,
    /// Questions of a thousand that were lost, smoothed.
    pub loss: u32,
    /// Failures since its last answer.
    pub failures: u32,
    /// Its certificate passes rule R only, though the clock is set.
    pub relaxed_only: bool,
}

/// Why an endpoint has its place in the order: the worst that is the case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// The fastest.
    Best,
    /// It does not answer.
    Down,
    /// Nothing of its address family answers, and the other family does.
    FamilyDown,
    /// It answers, but not always.
    Lossy,
    /// Slower, or of an operator that had its place before.
    Next,
    /// It answers with SERVFAIL or REFUSED what others know.
    Outdone,
    /// Its certificate passes rule R only.
    Relaxed,
    /// Hardly slower than the best: it takes turns at being the first.
    Turn,
    /// It was never heard on this path.
    Unknown,
}

impl Reason {
    /// The reason in a word, for people and scripts.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Best => "best",
            Self::Down => "down",
            Self::FamilyDown => "family-down",
            Self::Lossy => "lossy",
            Self::Next => "next",
            Self::Outdone => "outdone",
            Self::Relaxed => "relaxed",
            Self::Turn => "turn",
            Self::Unknown => "unknown",
        }
    }
}

/// An operator that does not answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outage<'a> {
    /// Who.
    pub operator: &'a str,
    /// How many addresses it has.
    pub addresses: usize,
    /// When the last answer came from one; `None` if none ever did.
    pub heard: Option<Instant>,
}

/// Being outdone counts so many times as much as an answer: beyond a quarter it tells.
const OUTDONE: u32 = 4;
/// From here on an operator is demoted.
const OUTDONE_MAX: u32 = 12;
/// For so long.
const DEMOTION: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Operator {
    name: String,
    /// Rises by [`OUTDONE`] with each question that others answered, falls by one with each answer.
    outdone: u32,
    weak_until: Option<Instant>,
    /// When it was last probed while all were down, and how often.
    probed: Option<Instant>,
    probes: u64,
}

impl Operator {
    fn new(name: String) -> Self {
        Self { name, outdone: 0, weak_until: None, probed: None, probes: 0 }
    }

    fn handle_outdone(&mut self, now: Instant) {
        if self.weak_until.is_some() {
            return;
        }
        self.outdone += OUTDONE;
        if self.outdone >= OUTDONE_MAX {
            self.outdone = 0;
            self.weak_until = Some(now + DEMOTION);
        }
    }

    /// When the operator at `place` is to be probed next, all being down since `since`.
    fn probe_due(&self, place: usize, since: Instant) -> Instant {
        let last = self.probed.map_or(since, |at| at.max(since));
        last + PROBE + jitter(PROBE, salt(place).wrapping_add(self.probes))
    }
}

/// Tells the jitter of one from another's.
const fn salt(index: usize) -> u64 {
    index as u64 * 7
}
