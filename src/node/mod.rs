//! The appliance as one pure value; what happens in one leaf reaches another only here.

pub mod ports;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::clock::{
    self, Basis, Kiss, Nanos, Now, Reading, SavedFloor, SourceId, Testimony, TimeTrust, Trouble,
    Trust, UnixTime, WitnessId, describe, nanos,
};
use crate::health::{Change, Health, Severity};
use crate::upstream::{EndpointId, Outage, Outcome, Plan, Pool};

/// Something that happened at an edge.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A condition outside the clock came to hold, or (`None`) ceased to.
    Condition {
        /// Its stable name.
        name: &'static str,
        /// Its severity and text.
        held: Option<(Severity, String)>,
    },
    /// The engine's estimate of the clock's error.
    EngineError(Duration),
    /// The engine's wish for a source's polling interval.
    Pace(SourceId, Duration),
    /// A pool's place was given to another member (true), or to nobody.
    Member(SourceId, bool),
    /// A link, address or route changed.
    PathChanged,
    /// A source answered.
    Reading(SourceId, Reading),
    /// The uplink came to be paid for by the octet, or ceased to.
    Metered(bool),
    /// A source sent a kiss-o'-death packet.
    Kissed(SourceId, Kiss),
    /// An upstream's chain fails at the clock's time by its dates alone, but passes rule R.
    Refuted {
        /// Who runs that upstream.
        operator: String,
    },
    /// The administrator sets the floor.
    SetFloor(UnixTime),
    /// A source did not answer.
    Silence(SourceId),
    /// A witness answered.
    Testimony(WitnessId, Testimony),
    /// An exchange with an upstream ended.
    Upstream(EndpointId, Outcome),
    /// A connection to an upstream was opened; true if its chain passes rule R only, though the
    /// clock is set.
    UpstreamVerdict(EndpointId, bool),
    /// A witness could not be heard.
    WitnessFailed(WitnessId),
}

/// Something an edge has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask a time source.
    AskSource {
        /// Which.
        source: SourceId,
        /// How long to wait for it.
        patience: Duration,
    },
    /// Ask a witness.
    AskWitness(WitnessId),
    /// A condition changed; tell people.
    Announce(Change),
    /// Give a reading to the engine.
    Feed(SourceId, Reading),
    /// Try upstreams in this order.
    Plan(Plan),
    /// Ask an upstream something, to see whether it is back.
    Probe(EndpointId),
    /// Act on a change of trust: renew TLS configurations, judge stored chains again.
    Publish(TimeTrust),
    /// Keep the floor on disk.
    SaveFloor(SavedFloor),
    /// Move the clock, and start the engine afresh.
    StepClock {
        /// By how much, in nanoseconds.
        by: Nanos,
        /// On whose word.
        basis: Basis,
    },
    /// Tell people that the floor proved wrong.
    TellFloorLowered {
        /// The floor that was refuted.
        from: UnixTime,
        /// The floor from here on.
        to: UnixTime,
    },
}

/// The whole appliance, less its sockets, files and clocks.
///
/// Same contract as [`Trust`]: `handle_*`, then [`Self::poll_action`] until empty
/// (each carried out before the next input), then sleep until [`Self::poll_timeout`].
#[derive(Debug)]
pub struct Node {
    trust: Trust,
    pool: Pool,
    health: Health,
    actions: VecDeque<Action>,
}

impl Node {
    /// A node around a trust machine and a pool that have had no input yet.
    #[must_use]
    pub fn new(trust: Trust, pool: Pool, now: Now) -> Self {
        let (health, actions) = (Health::default(), VecDeque::new());
        let mut node = Self { trust, pool, health, actions };
        node.pool.handle_path_change(now.mono);
        node.settle(now);
        node
    }

    /// Goes over to another trust machine: the time sources or witnesses were configured anew.
    pub fn replace_trust(&mut self, trust: Trust, now: Now) {
        self.trust = trust;
        self.settle(now);
    }

    /// Goes over to another pool: the upstreams were configured anew.
    pub fn replace_pool(&mut self, pool: Pool, now: Now) {
        let metered = self.pool.is_metered();
        self.pool = pool;
        self.pool.set_metered(metered);
        self.pool.handle_path_change(now.mono);
        self.settle(now);
    }

    /// Takes a list of leap seconds; without one, what the sources announce counts.
    pub fn set_leap_seconds(&mut self, list: Option<clock::LeapSeconds>) {
        self.trust.handle_leap_seconds(list);
    }

    /// Whether upstreams hardly slower than the best take turns: it was configured anew.
    pub fn set_spread(&mut self, spread: bool, now: Now) {
        self.pool.set_spread(spread);
        self.settle(now);
    }

    /// Takes what happened at an edge.
    pub fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::Condition { name, held } => self.set(name, held, now),
            Input::EngineError(error) => self.trust.handle_engine_error(error, now),
            Input::Kissed(source, kiss) => self.trust.handle_kiss(source, kiss, now),
            Input::Member(place, present) => self.trust.handle_member(place, present, now),
            Input::Metered(metered) => self.pool.set_metered(metered),
            Input::Pace(source, interval) => self.trust.handle_pace(source, interval),
            Input::PathChanged => {
                self.trust.handle_path_change(now);
                self.pool.handle_path_change(now.mono);
            }
            Input::Reading(source, reading) => self.trust.handle_reading(source, reading, now),
            Input::Refuted { operator } => self.trust.handle_refutation(&operator, now),
            Input::SetFloor(floor) => self.trust.handle_floor(floor, now),
            Input::Silence(source) => self.trust.handle_silence(source, now),
            Input::Testimony(witness, said) => self.trust.handle_testimony(witness, said, now),
            Input::Upstream(endpoint, outcome) => {
                self.pool.handle_outcome(endpoint, outcome, now.mono);
            }
            Input::UpstreamVerdict(endpoint, relaxed_only) => {
                self.pool.handle_verdict(endpoint, relaxed_only);
            }
            Input::WitnessFailed(witness) => self.trust.handle_witness_failure(witness, now),
        }
        self.settle(now);
    }

    /// Does what is due. Too early a call does nothing.
    pub fn handle_timeout(&mut self, now: Now) {
        self.trust.handle_timeout(now);
        self.pool.handle_timeout(now.mono);
        while let Some(endpoint) = self.pool.poll_probe(now.mono) {
            self.actions.push_back(Action::Probe(endpoint));
        }
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] must be called next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let timeouts = [self.trust.poll_timeout(), self.pool.poll_timeout()];
        timeouts.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The next thing to do, oldest first.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The clock's trust, for reading.
    #[must_use]
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The upstreams' health, for reading.
    #[must_use]
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The conditions that hold.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Carries the leaves' events to each other and to the edges.
    fn settle(&mut self, mut now: Now) {
        while let Some(event) = self.trust.poll_event() {
            self.actions.push_back(match event {
                clock::Event::AskSource { source, patience } => {
                    Action::AskSource { source, patience }
                }
                clock::Event::AskWitness(witness) => Action::AskWitness(witness),
                clock::Event::Feed(source, reading) => Action::Feed(source, reading),
                clock::Event::FloorLowered { from, to } => Action::TellFloorLowered { from, to },
                clock::Event::Published(trust) => {
                    self.pool.handle_trust_change(now.mono);
                    Action::Publish(trust)
                }
                clock::Event::SaveFloor(floor) => Action::SaveFloor(floor),
                clock::Event::Set { by, basis } => {
                    now.utc = now.utc.offset(by);
                    Action::StepClock { by, basis }
                }
            });
        }
        self.report_time(now);
        self.report_upstreams(now);
        while let Some(change) = self.health.poll_change() {
            self.actions.push_back(Action::Announce(change));
        }
    }

    fn report_upstreams(&mut self, now: Now) {
        if let Some(plan) = self.pool.poll_plan() {
            self.actions.push_back(Action::Plan(plan));
        }
        let outages: Vec<_> = self.pool.outages().collect();
        let operators: Vec<_> = self.pool.operators().collect();
        let up: Vec<_> = operators
            .iter()
            .filter(|name| !outages.iter().any(|outage| outage.operator == **name))
            .copied()
            .collect();
        let (mut wan, mut operator) = (None, None);
        if let Some(heard) = outages.iter().map(|outage| outage.heard).max() {
            if up.is_empty() {
                let addresses: usize = outages.iter().map(|outage| outage.addresses).sum();
                wan = Some(wan_down(&operators, addresses, heard, now));
            } else {
                operator = Some(operators_down(&outages, &up, now));
            }
        }
        // With one left, nothing stands between the house and its failing too.
        let severity = if up.len() == 1 { Severity::Warning } else { Severity::Notice };
        // That links come and go while nobody answers changes nothing for people.
        let known = wan.is_some() || self.pool.answers() || operators.is_empty();
        self.set("operator-down", operator.map(|text| (severity, text)), now);
        if known {
            self.set("wan-down", wan.map(|text| (Severity::Error, text)), now);
        }
    }

    fn set(&mut self, name: &'static str, held: Option<(Severity, String)>, now: Now) {
        match held {
            Some((severity, text)) => self.health.raise(name, severity, text, now.mono),
            None => self.health.clear(name),
        }
    }

    fn report_time(&mut self, now: Now) {
        let troubles = self.trust.troubles(now);
        for name in TIME_CONDITIONS {
            match troubles.iter().find(|trouble| condition(trouble).0 == *name) {
                Some(trouble) => {
                    let (_, severity) = condition(trouble);
                    self.health.raise(name, severity, trouble.to_string(), now.mono);
                }
                None => self.health.clear(name),
            }
        }
    }
}

/// That nobody answers, in words.
fn wan_down(operators: &[&str], addresses: usize, heard: Option<Instant>, now: Now) -> String {
    let likely = if operators.len() > 1 {
        "most likely the uplink is down, not all of them: look at the modem and the router"
    } else {
        "it may be the uplink, which an [[upstream]] of another operator would tell: look at the \
         modem and the router"
    };
    format!(
        "no upstream answers: {} of {}, {}; {likely}; local names and outdated \
         answers are served, each operator is asked again every second or two",
        count(addresses),
        operators.join(", "),
        last_heard(heard, now)
    )
}

fn count(addresses: usize) -> String {
    if addresses == 1 { "1 address".to_owned() } else { format!("{addresses} addresses") }
}

/// That some do not answer and others do, in words.
fn operators_down(outages: &[Outage<'_>], up: &[&str], now: Now) -> String {
    let down = outages.iter().map(|outage| {
        let Outage { operator, addresses, heard } = outage;
        let addresses = count(*addresses);
        format!("{operator} ({addresses}, {})", last_heard(*heard, now))
    });
    let down: Vec<_> = down.collect();
    format!(
        "an upstream operator does not answer: {}; questions go to {} meanwhile, and who is down is \
         asked again at least every half minute; if that lasts, see `firstlight upstreams -v`, and \
         whether the addresses in [[upstream]] are still right",
        down.join(", "),
        up.join(", ")
    )
}

fn last_heard(heard: Option<Instant>, now: Now) -> String {
    let ago = |at| describe(nanos(now.mono.saturating_duration_since(at)));
    heard.map_or_else(
        || "never heard".to_owned(),
        |at| format!("last heard {} ago", ago(at).trim_start_matches('+')),
    )
}

/// Every condition the clock can raise.
const TIME_CONDITIONS: &[&str] = &[
    "clock-suspect",
    "clock-unknown",
    "clock-unverified",
    "dates-relaxed",
    "floor-ahead",
    "holdover",
    "sources-contradicted",
];

/// The stable name and the severity of a trouble with time.
fn condition(trouble: &Trouble) -> (&'static str, Severity) {
    match trouble {
        Trouble::Cold { .. } => ("clock-unknown", Severity::Warning),
        Trouble::FloorAhead { .. } => ("floor-ahead", Severity::Error),
        Trouble::Holdover { .. } => ("holdover", Severity::Warning),
        Trouble::Relaxed { .. } => ("dates-relaxed", Severity::Notice),
        Trouble::SourcesContradicted { .. } => ("sources-contradicted", Severity::Error),
        Trouble::Suspect { .. } => ("clock-suspect", Severity::Error),
        Trouble::Unverified { .. } => ("clock-unverified", Severity::Notice),
    }
}
