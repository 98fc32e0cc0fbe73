//! A LAN in virtual time: the real [`Node`] among simulated sources, witnesses and upstreams.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::clock::{
    CertDates, Floor, Holdover, Kiss, Nanos, Now, NtpStatus, Policy, Reading, Resumed, SavedFloor,
    SourceId, SourceSpec, Testimony, TimeTrust, Trust, UnixTime, WitnessId, describe, magnitude,
    nanos,
};
use crate::health::Change;
use crate::node::{Action, Input, Node};
use crate::upstream::{Endpoint, EndpointId, Outcome, Pool};

/// More steps than any story takes: a node that wants to be woken for ever.
const MAX_STEPS: u32 = 5_000_000;

/// An upstream answers in about this time.
const ANSWER: Duration = Duration::from_millis(30);
/// One that has not answered by then has failed.
const SILENCE: Duration = Duration::from_secs(2);

/// Readings from here on are not for steering (`ntp::engine::MAX_OFFSET`).
const MAX_OFFSET: Nanos = 1_000_000_000;

/// A day, in seconds.
pub const DAY: i64 = 86_400;

/// What a simulated time source does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    /// Refuses every question.
    Denies,
    /// Tells the time that it was when it hung.
    Frozen(UnixTime),
    /// Tells a time this far from the appliance's own, whatever that is.
    Leads(Nanos),
    /// Tells a time this far from the truth.
    Off(Nanos),
    /// Says nothing.
    Silent,
}

/// A source that tells the truth.
pub const HONEST: Source = Source::Off(0);

/// A simulated HTTPS witness.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Witness {
    /// Whether it can be reached.
    pub up: bool,
    /// How far its `Date` is from the truth.
    pub off: Nanos,
    /// The validity period of its chain.
    pub valid: (UnixTime, UnixTime),
}

/// A simulated DNS upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Who runs it.
    pub operator: &'static str,
    /// Whether it can be reached.
    pub up: bool,
    /// The validity period of its chain.
    pub valid: (UnixTime, UnixTime),
}

/// How a world begins.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The true time at power-on.
    pub truth: UnixTime,
    /// What firstlight's clock shows then: the guess.
    pub guess: UnixTime,
    /// The build epoch.
    pub build: UnixTime,
    /// The floor kept on disk.
    pub saved: Option<SavedFloor>,
    /// The operator of each time source, whether it is `prefer` and whether `trust`.
    pub sources: Vec<(&'static str, bool, bool)>,
    /// The operator of each witness.
    pub witnesses: Vec<&'static str>,
    /// The operator of each upstream.
    pub upstreams: Vec<&'static str>,
    /// Fewest sources that must agree.
    pub quorum: usize,
    /// Whether sources stand on the LAN.
    pub private: bool,
    /// The least and the greatest round trip to a source, in milliseconds.
    pub trip: (u64, u64),
    /// Time known from earlier in the same boot.
    pub resumed: Option<Resumed>,
}

impl Setup {
    /// A Pi after a power cut of four hours: four sources, two witnesses, two upstreams.
    #[must_use]
    pub fn power_cut() -> Self {
        let truth = UnixTime::from_secs(1_795_000_000);
        let last_known = truth.secs() - 4 * 3600;
        Self {
            truth,
            guess: UnixTime::from_secs(last_known),
            build: UnixTime::from_secs(last_known - 60 * DAY),
            saved: Some(SavedFloor { seconds: last_known, overrides_build: false }),
            sources: vec![
                ("gps", true, false),
                ("nist", false, false),
                ("ptb", false, false),
                ("netnod", false, false),
            ],
            witnesses: vec!["google", "quad9"],
            upstreams: vec!["quad9", "cloudflare"],
            quorum: 3,
            private: false,
            trip: (8, 45),
            resumed: None,
        }
    }
}

/// The appliance and the world around it, at one virtual moment.
#[derive(Debug)]
pub struct World {
    /// The appliance.
    pub node: Node,
    /// The time sources, in the order of the configuration.
    pub sources: Vec<Source>,
    /// The witnesses.
    pub witnesses: Vec<Witness>,
    /// The upstreams.
    pub upstreams: Vec<Upstream>,
    /// What happened, and when after power-on.
    pub timeline: Vec<(Duration, String)>,
    /// Promises that broke.
    pub broken: Vec<String>,
    /// The floor as last written to disk.
    pub saved: Option<SavedFloor>,
    now: Instant,
    start: Instant,
    truth: UnixTime,
    clock: UnixTime,
    pending: BTreeMap<(Instant, u64), Input>,
    sent: u64,
    random: StdRng,
    trip: (u64, u64),
    dark_since: Option<Instant>,
    longest_dark: Duration,
    told_wrong: bool,
    steered: bool,
    dragged_ppm: u32,
    next_refutation: Instant,
}

impl World {
    /// A world at power-on. `start` is any instant; `seed` perturbs every delay.
    #[must_use]
    pub fn new(setup: &Setup, seed: u64, start: Instant) -> Self {
        let spec = |(operator, prefer, trust): &(&str, bool, bool)| SourceSpec {
            operator: (*operator).to_owned(),
            private: setup.private,
            prefer: *prefer,
            trust: *trust,
            ..SourceSpec::default()
        };
        let mut operators = setup.upstreams.clone();
        operators.sort_unstable();
        operators.dedup();
        let policy = Policy {
            quorum: setup.quorum,
            sources: setup.sources.iter().map(spec).collect(),
            witnesses: setup.witnesses.iter().map(ToString::to_string).collect(),
            upstream_operators: operators.len(),
            holdover: Holdover::default(),
        };
        let now = Now { mono: start, utc: setup.guess };
        let trust = Trust::new(policy, Floor::new(setup.build, setup.saved), setup.resumed, now);
        let valid = (setup.truth.offset(-days(1)), setup.truth.offset(days(89)));
        let mut world = Self {
            node: Node::new(trust, pool(&setup.upstreams), now),
            sources: vec![HONEST; setup.sources.len()],
            witnesses: vec![Witness { up: true, off: 0, valid }; setup.witnesses.len()],
            upstreams: setup
                .upstreams
                .iter()
                .map(|operator| Upstream { operator, up: true, valid })
                .collect(),
            timeline: Vec::new(),
            broken: Vec::new(),
            saved: setup.saved,
            now: start,
            start,
            truth: setup.truth,
            clock: setup.guess,
            pending: BTreeMap::new(),
            sent: 0,
            random: StdRng::seed_from_u64(seed),
            trip: setup.trip,
            dark_since: None,
            longest_dark: Duration::ZERO,
            told_wrong: false,
            steered: false,
            dragged_ppm: 0,
            next_refutation: start,
        };
        world.note(format!(
            "power on; the truth is {}, the clock shows {}",
            setup.truth, setup.guess
        ));
        world
    }

    /// Lets `span` of virtual time pass.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        let mut steps = 0_u32;
        loop {
            self.act();
            steps += 1;
            if steps > MAX_STEPS {
                let why = self.node.poll_timeout().map(|(_, why)| why);
                self.broken.push(format!("the node wants to be woken for ever: {why:?}"));
                return;
            }
            let timer = self.node.poll_timeout().map(|(at, _)| at.max(self.now));
            let arrival = self.pending.keys().next().map(|(at, _)| *at);
            let Some(next) = [timer, arrival].into_iter().flatten().min().filter(|at| *at <= end)
            else {
                break;
            };
            self.pass_until(next);
            if arrival == Some(next) {
                if let Some((_, input)) = self.pending.pop_first() {
                    let now = self.now();
                    self.node.handle(input, now);
                }
            } else {
                let now = self.now();
                self.node.handle_timeout(now);
            }
        }
        self.pass_until(end);
        self.check();
    }

    /// Runs until `done`, for `limit` at most; returns how long it took.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let begin = self.now;
        while !done(self) {
            if self.now.saturating_duration_since(begin) > limit {
                return None;
            }
            self.run(Duration::from_millis(50));
        }
        Some(self.now.saturating_duration_since(begin))
    }

    /// Tells the appliance that a link, route or address changed.
    pub fn path_changes(&mut self) {
        let now = self.now();
        self.node.handle(Input::PathChanged, now);
    }

    /// Writes a line into the timeline.
    pub fn note(&mut self, text: impl Into<String>) {
        self.timeline.push((self.now.saturating_duration_since(self.start), text.into()));
    }

    /// How far the clock is from the truth.
    #[must_use]
    pub fn error(&self) -> Nanos {
        self.clock.since(self.truth)
    }

    /// Both clocks of the appliance.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { mono: self.now, utc: self.clock }
    }

    /// The true time.
    #[must_use]
    pub fn truth(&self) -> UnixTime {
        self.truth
    }

    /// What is believed about time.
    #[must_use]
    pub fn trust(&self) -> TimeTrust {
        self.node.trust().trust(self.now)
    }

    /// What NTP clients are told.
    #[must_use]
    pub fn ntp(&self) -> NtpStatus {
        self.node.trust().ntp_status(self.now())
    }

    /// Whether a name that is neither local nor cached can be resolved.
    #[must_use]
    pub fn resolves(&self) -> bool {
        self.upstreams.iter().any(|upstream| upstream.up && self.accepts(upstream.valid))
    }

    /// Whether an upstream chain of this validity period is accepted.
    #[must_use]
    pub fn accepts(&self, valid: (UnixTime, UnixTime)) -> bool {
        let strict = passes(valid, self.clock);
        match self.trust().dates {
            CertDates::Strict => strict,
            CertDates::RuleR { floor } => passes(valid, floor.max(valid.0)),
            CertDates::StrictElseRuleR { floor } => strict || passes(valid, floor.max(valid.0)),
        }
    }

    /// A client asks for a name that is not at hand: the upstreams are tried in the order of the
    /// plan, the next one raced when one is silent for too long. Returns how long the client waits;
    /// `None` if nobody answers.
    pub fn ask_name(&mut self) -> Option<Duration> {
        let mut waited = Duration::ZERO;
        for candidate in self.node.pool().plan().order.clone() {
            self.exchange(candidate.id, waited);
            if self.answers(candidate.id) {
                return Some(waited + ANSWER);
            }
            waited += candidate.hedge_after;
        }
        None
    }

    /// The longest time names could not be resolved though an upstream was up.
    #[must_use]
    pub fn longest_dark(&self) -> Duration {
        let since = self.dark_since.map(|since| self.now.saturating_duration_since(since));
        self.longest_dark.max(since.unwrap_or_default())
    }

    /// From here on the clock follows every reading that may steer it, at once: no engine could be
    /// led farther.
    pub(super) fn steer_at_once(&mut self) {
        self.steered = true;
    }

    /// From here on the clock runs ahead by so many parts per million, its frequency dragged along, except
    /// while the sources are known for it: the daemon puts it back then.
    pub(super) fn drag_frequency(&mut self, ppm: u32) {
        self.dragged_ppm = ppm;
    }

    /// From here on the attacker gets what [`Self::check`] forbids; the story says how much of it.
    pub(super) fn expect_wrong_time(&mut self) {
        self.told_wrong = true;
    }

    /// Records a promise, and that it broke unless `kept`.
    pub fn promise(&mut self, what: &str, kept: bool) {
        self.note(format!("{} {what}", if kept { "kept:  " } else { "BROKEN:" }));
        if !kept {
            self.broken.push(what.to_owned());
        }
    }

    fn answers(&self, id: EndpointId) -> bool {
        self.upstreams.get(id.0).is_some_and(|upstream| upstream.up && self.accepts(upstream.valid))
    }

    /// One question to one upstream, and what is reported of it.
    fn exchange(&mut self, id: EndpointId, after: Duration) {
        if self.answers(id) {
            let latency = ANSWER.mul_f64(self.random.random_range(0.8..1.5));
            let outcome = Outcome::Answered { latencies: vec![latency] };
            self.send(after + latency, Input::Upstream(id, outcome));
        } else {
            let failed = Outcome::Failed { began: self.now + after };
            self.send(after + SILENCE, Input::Upstream(id, failed));
        }
    }

    fn pass_until(&mut self, at: Instant) {
        let passed = at.saturating_duration_since(self.now);
        self.now = at;
        self.truth = self.truth + passed;
        self.clock = self.clock + passed;
        if !self.node.health().holds("sources-contradicted") {
            self.clock = self.clock + passed * self.dragged_ppm / 1_000_000;
        }
    }

    /// Carries out what the node wants.
    fn act(&mut self) {
        while let Some(action) = self.node.poll_action() {
            match action {
                Action::AskSource { source, patience } => self.ask_source(source, patience),
                Action::AskWitness(witness) => self.ask_witness(witness),
                Action::Announce(Change::Raised(condition)) => {
                    self.note(format!("[{}] {}", condition.name, condition.text));
                }
                Action::Announce(Change::Cleared(condition)) => {
                    self.note(format!("[{}] cleared", condition.name));
                }
                Action::Feed(_, reading) => {
                    let age = self.now.saturating_duration_since(reading.at);
                    let off = (reading.utc + age).since(self.clock);
                    if self.steered && off.abs() < MAX_OFFSET {
                        self.clock = self.clock.offset(off);
                    }
                }
                Action::Plan(_) => {}
                Action::Probe(endpoint) => self.exchange(endpoint, Duration::ZERO),
                Action::Publish(trust) => {
                    let verified = if trust.verified { ", verified" } else { "" };
                    self.note(format!("trust: {:?}{verified}", trust.level));
                    // Sessions are judged again at every rise of trust.
                    (0..self.upstreams.len()).for_each(|index| self.refute(index));
                }
                Action::SaveFloor(floor) => {
                    if let Some(before) = self.saved
                        && before.seconds > floor.seconds
                        && !floor.overrides_build
                    {
                        self.broken.push(format!(
                            "the floor on disk went back from {} to {}",
                            before.seconds, floor.seconds
                        ));
                    }
                    self.saved = Some(floor);
                }
                Action::StepClock { by, basis } => {
                    self.clock = self.clock.offset(by);
                    let error = describe(self.error());
                    self.note(format!(
                        "clock set by {} on the word of: {basis:?}; error {error}",
                        describe(by)
                    ));
                }
                Action::TellFloorLowered { from, to } => {
                    self.note(format!("floor lowered from {from} to {to}"));
                }
            }
            self.check();
        }
    }

    /// The promises that hold at every moment.
    fn check(&mut self) {
        let status = self.ntp();
        let error = magnitude(self.error());
        let bound = status.root_dispersion_at(self.now) + status.root_delay / 2;
        if status.synchronized && error > bound + Duration::from_millis(200) && !self.told_wrong {
            self.told_wrong = true;
            self.promise("NTP clients are never told a wrong time with LI other than 3", false);
        }
        let reachable =
            self.upstreams.iter().any(|upstream| upstream.up && passes(upstream.valid, self.truth));
        if reachable && !self.resolves() {
            self.dark_since.get_or_insert(self.now);
            if self.now >= self.next_refutation {
                self.next_refutation = self.now + Duration::from_millis(500);
                (0..self.upstreams.len()).for_each(|index| self.refute(index));
            }
        } else if let Some(since) = self.dark_since.take() {
            let dark = self.now.saturating_duration_since(since);
            self.longest_dark = self.longest_dark.max(dark);
        }
    }

    /// What the forwarder reports when it tries this upstream.
    fn refute(&mut self, index: usize) {
        let Upstream { operator, up, valid } = self.upstreams[index];
        let floor = self.trust().floor;
        let relaxed_only = !passes(valid, self.clock) && passes(valid, floor.max(valid.0));
        if up && relaxed_only {
            let delay = Duration::from_millis(self.random.random_range(20..120));
            self.send(delay, Input::Refuted { operator: operator.to_owned() });
        }
    }

    fn ask_source(&mut self, id: SourceId, patience: Duration) {
        let (least, most) = self.trip;
        let delay = Duration::from_micros(self.random.random_range(least * 1000..most * 1000));
        let tells = match self.sources[id.0] {
            Source::Denies => return self.send(delay, Input::Kissed(id, Kiss::Deny)),
            Source::Silent => return self.send(patience, Input::Silence(id)),
            Source::Frozen(at) => at,
            Source::Leads(by) => self.clock.offset(by) + delay / 2,
            Source::Off(off) => self.truth.offset(off) + delay / 2,
        };
        // The way out and the way back differ: the reading is off by up to a quarter of the delay.
        let skew = self.random.random_range(-0.25..0.25) * delay.as_secs_f64() * 1e9;
        #[expect(clippy::cast_possible_truncation, reason = "a quarter of a round trip")]
        let utc = tells.offset(skew as Nanos);
        let reading = Reading {
            at: self.now + delay / 2,
            utc,
            error: delay / 2 + Duration::from_millis(2),
            delay,
            stratum: 1,
            reference_id: *b"GPS\0",
            root_delay: Duration::ZERO,
            root_dispersion: Duration::from_millis(2),
            leap: 0,
            precision: -20,
        };
        self.send(delay, Input::Reading(id, reading));
    }

    fn ask_witness(&mut self, id: WitnessId) {
        let trip = Duration::from_millis(self.random.random_range(30..300));
        let Witness { up, off, valid } = self.witnesses[id.0];
        if !up {
            return self.send(Duration::from_secs(3), Input::WitnessFailed(id));
        }
        let stated = UnixTime::from_secs((self.truth.offset(off) + trip / 2).secs());
        let floor = self.trust().floor;
        let testimony = Testimony {
            at: self.now + trip / 2,
            utc: stated + Duration::from_millis(500),
            error: Duration::from_millis(500) + trip / 2,
            passes_rule_r: passes(valid, floor.max(valid.0)),
            valid_as_stated: passes(valid, stated),
            valid_at_clock: passes(valid, self.clock),
        };
        self.send(trip, Input::Testimony(id, testimony));
    }

    fn send(&mut self, after: Duration, input: Input) {
        self.sent += 1;
        self.pending.insert((self.now + after, self.sent), input);
    }
}

/// One endpoint for each upstream.
fn pool(operators: &[&str]) -> Pool {
    let endpoint = |(index, operator): (usize, &&str)| Endpoint {
        name: format!("dns.{operator}.example"),
        operator: (*operator).to_owned(),
        address: ([192, 0, 2, u8::try_from(index).unwrap_or(u8::MAX)], 853).into(),
    };
    Pool::new(operators.iter().enumerate().map(endpoint).collect())
}

/// Years as nanoseconds.
#[must_use]
pub const fn years(count: i64) -> Nanos {
    count as Nanos * 31_557_600 * 1_000_000_000
}

fn days(count: i64) -> Nanos {
    nanos(Duration::from_secs(count.unsigned_abs() * DAY.unsigned_abs()))
        * Nanos::from(count.signum())
}

fn passes(valid: (UnixTime, UnixTime), at: UnixTime) -> bool {
    valid.0 <= at && at <= valid.1
}
