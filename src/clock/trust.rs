//! The trust machine: inputs, outputs and state; what it concludes is in `judge`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::floor::{Floor, SavedFloor};
use super::leap::LeapSeconds;
use super::select::Interval;
use super::sources::{Kiss, Reading, Source, SourceId, SourceKind, SourceSpec};
use super::time::{Nanos, UnixTime, nanos};
use super::witnesses::{Testimony, WitnessId, Witnesses};
use super::{CertDates, Level, TimeTrust};

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Now {
    /// The monotonic clock, which carries every deadline.
    pub mono: Instant,
    /// What firstlight's clock shows.
    pub utc: UnixTime,
}

/// What the administrator decided about time.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    /// Fewest sources that must agree.
    pub quorum: usize,
    /// The configured sources.
    pub sources: Vec<SourceSpec>,
    /// Who runs each witness.
    pub witnesses: Vec<String>,
    /// How many operators run the upstream resolvers.
    pub upstream_operators: usize,
    /// What is served while no source answers.
    pub holdover: Holdover,
}

/// What a clock is worth that was disciplined and is left to itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Holdover {
    /// By how much it goes astray, in parts per million, once an hour of discipline has measured its
    /// frequency.
    pub drift_ppm: u32,
    /// Beyond this error NTP clients are told that it is not synchronized.
    pub limit: Duration,
}

impl Default for Holdover {
    /// A board at room temperature; chrony's clients, too, stop at three seconds.
    fn default() -> Self {
        Self { drift_ppm: 2, limit: Duration::from_secs(3) }
    }
}

impl Policy {
    /// The sources that may have a vote.
    fn voters(&self) -> impl Iterator<Item = &SourceSpec> {
        self.sources.iter().filter(|source| source.votes())
    }

    /// Whether nothing but reference clocks is configured.
    pub(super) fn reference_clocks_alone(&self) -> bool {
        self.voters().count() > 0
            && self.voters().all(|source| source.kind == SourceKind::ReferenceClock)
    }
}

/// What a time already known by an earlier process of this boot is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resumed {
    /// Error bound, grown to the moment of the start.
    pub error: Duration,
    /// Whether witnesses had confirmed it.
    pub verified: bool,
    /// The stratum served.
    pub stratum: u8,
    /// The reference id served.
    pub reference_id: [u8; 4],
    /// The root delay served.
    pub root_delay: Duration,
}

/// On whose word the clock is set.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Fewer sources than a quorum, and a witness that agrees with them.
    Lone,
    /// A clock of one's own (`trust = true`, or a reference clock beside which nothing is
    /// configured), with no other in sight.
    Own,
    /// A quorum of sources.
    Quorum,
    /// The witnesses of two operators.
    Witnesses,
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Ask this source; count it silent if nothing came by the deadline.
    AskSource {
        /// Which.
        source: SourceId,
        /// How long to wait.
        patience: Duration,
    },
    /// Ask this witness.
    AskWitness(WitnessId),
    /// A reading that agrees with the majority and the clock, for the engine.
    Feed(SourceId, Reading),
    /// Witnesses and sources lie below the floor, which is lowered to them.
    FloorLowered {
        /// The floor that proved wrong.
        from: UnixTime,
        /// The floor from here on.
        to: UnixTime,
    },
    /// What may be believed has changed.
    Published(TimeTrust),
    /// Keep this floor on disk.
    SaveFloor(SavedFloor),
    /// Move the clock; whatever filters readings starts afresh.
    Set {
        /// By how much, in nanoseconds.
        by: Nanos,
        /// On whose word.
        basis: Basis,
    },
}

/// Decides how far the clock is believed, when it is set, and whom to ask.
///
/// Feed it with `handle_*`, then take [`Self::poll_event`] until it is empty,
/// then sleep until [`Self::poll_timeout`]. Every method takes the time from
/// the caller; `mono` must never go back. A call of [`Self::handle_timeout`]
/// too early, or twice, does nothing. A [`Event::Set`] must be carried out
/// before the next input.
#[derive(Debug)]
pub struct Trust {
    pub(super) policy: Policy,
    pub(super) floor: Floor,
    pub(super) sources: Vec<Source>,
    pub(super) witnesses: Witnesses,
    pub(super) level: Level,
    pub(super) verified: bool,
    /// When witnesses last confirmed the clock, and the span of time they then allowed.
    pub(super) witnessed: Option<(Instant, Interval)>,
    /// Whether the present time rests on a clock of one's own alone.
    pub(super) own: bool,
    /// When a quorum was last seen, or the machine started.
    pub(super) quorum_seen: Instant,
    /// Since when a quorum waits for the witnesses.
    pub(super) quorum_waits: Option<Instant>,
    /// Since when witnesses agree with one another while there is no quorum.
    pub(super) consensus_waits: Option<Instant>,
    /// Members of a round answered after this.
    pub(super) round_start: Instant,
    /// Rounds that found the clock right since it was set.
    pub(super) rounds: u8,
    /// Rounds that found it wrong by more than the engine may correct.
    pub(super) demands: u8,
    /// The latest such demand, for people.
    pub(super) demand: Option<Nanos>,
    /// When a round last found the clock right.
    pub(super) updated: Option<Instant>,
    pub(super) disciplined_since: Option<Instant>,
    pub(super) estimate: Option<Estimate>,
    pub(super) reference_time: UnixTime,
    /// Since when sources and witnesses agree on a time below the floor, and which.
    pub(super) below_floor: Option<(Instant, UnixTime)>,
    /// Operators whose upstream chains fail at the clock's time by dates alone, and when that was.
    pub(super) refuted: BTreeMap<String, Instant>,
    /// The list of leap seconds, if there is one.
    pub(super) leap_seconds: Option<LeapSeconds>,
    pub(super) saved: Option<Instant>,
    /// When conclusions were last drawn.
    pub(super) judged: Instant,
    pub(super) events: VecDeque<Event>,
    generation: u64,
    published: Option<TimeTrust>,
}

/// Where the served time comes from, and how wrong it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub(super) stratum: u8,
    pub(super) reference_id: [u8; 4],
    pub(super) root_delay: Duration,
    pub(super) root_dispersion: Duration,
    /// How far the clock was from the peer's time when a round last found it right.
    pub(super) off: Duration,
    /// The error is no less, whatever the engine finds.
    pub(super) least: Duration,
    pub(super) since: Instant,
    pub(super) leap: u8,
}

impl Trust {
    /// A machine at start: cold, or in holdover on a time known from earlier in this boot.
    #[must_use]
    pub fn new(policy: Policy, floor: Floor, resumed: Option<Resumed>, now: Now) -> Self {
        let sources = policy.sources.iter().cloned();
        let mut machine = Self {
            sources: sources.map(|spec| Source::new(spec, now.mono)).collect(),
            witnesses: Witnesses::new(policy.witnesses.clone(), now.mono),
            policy,
            floor,
            level: if resumed.is_some() { Level::Holdover } else { Level::Cold },
            verified: resumed.is_some_and(|kept| kept.verified),
            witnessed: resumed
                .filter(|kept| kept.verified)
                .map(|kept| (now.mono, Interval::around(now.utc, nanos(kept.error)))),
            own: false,
            quorum_seen: now.mono,
            quorum_waits: None,
            consensus_waits: None,
            round_start: now.mono,
            rounds: 0,
            demands: 0,
            demand: None,
            updated: resumed.map(|_| now.mono),
            disciplined_since: None,
            estimate: resumed.map(|kept| Estimate {
                stratum: kept.stratum,
                reference_id: kept.reference_id,
                root_delay: kept.root_delay,
                root_dispersion: kept.error,
                off: Duration::ZERO,
                least: Duration::ZERO,
                since: now.mono,
                leap: 0,
            }),
            reference_time: now.utc,
            below_floor: None,
            refuted: BTreeMap::new(),
            leap_seconds: None,
            saved: None,
            judged: now.mono,
            events: VecDeque::new(),
            generation: 0,
            published: None,
        };
        machine.publish(now, false);
        machine
    }

    /// A source answered.
    pub fn handle_reading(&mut self, id: SourceId, reading: Reading, now: Now) {
        let Some(source) = self.sources.get(id.0).filter(|source| source.present) else { return };
        let numbered = if source.is_pulse() { self.numbered(reading, now) } else { Some(reading) };
        let source = &mut self.sources[id.0];
        match numbered {
            Some(reading) => source.answered(reading, now.mono),
            None => source.silent(false, now.mono),
        }
        self.judge(Some(id), now);
    }

    /// A place of a pool is taken by another member, or by nobody. While the clock has never been set
    /// nobody is let in: a name would decide about it.
    pub fn handle_member(&mut self, id: SourceId, present: bool, now: Now) {
        let known = self.level != Level::Cold;
        let Some(source) = self.sources.get_mut(id.0).filter(|it| it.spec.member) else { return };
        source.seat(present && known, now.mono);
        self.judge(None, now);
    }

    /// A source did not answer.
    pub fn handle_silence(&mut self, id: SourceId, now: Now) {
        let urgent = self.level != Level::Disciplined;
        let Some(source) = self.sources.get_mut(id.0).filter(|it| it.present) else { return };
        source.silent(urgent, now.mono);
        self.judge(None, now);
    }

    /// A source sent a kiss-o'-death packet in answer to our question.
    pub fn handle_kiss(&mut self, id: SourceId, kiss: Kiss, now: Now) {
        let Some(source) = self.sources.get_mut(id.0).filter(|it| it.present) else { return };
        source.kissed(kiss, now.mono);
        self.judge(None, now);
    }

    /// A witness answered.
    pub fn handle_testimony(&mut self, id: WitnessId, testimony: Testimony, now: Now) {
        let confirmed = self.verified && self.level >= Level::Coarse;
        self.witnesses.testified(id, testimony, confirmed, now.mono);
        self.judge(None, now);
    }

    /// A witness could not be heard.
    pub fn handle_witness_failure(&mut self, id: WitnessId, now: Now) {
        self.witnesses.failed(id, now.mono);
        self.judge(None, now);
    }

    /// The chain of an upstream of `operator` fails at the clock's time by its dates alone, but passes rule R.
    pub fn handle_refutation(&mut self, operator: &str, now: Now) {
        self.refuted.insert(operator.to_owned(), now.mono);
        self.judge(None, now);
    }

    /// A link came up, or a route or address changed: everybody is asked at once.
    pub fn handle_path_change(&mut self, now: Now) {
        for source in &mut self.sources {
            source.hurry(now.mono);
        }
        self.witnesses.hurry(now.mono);
        self.judge(None, now);
    }

    /// The engine's wish for the interval between polls of `source`.
    pub fn handle_pace(&mut self, id: SourceId, interval: Duration) {
        if let Some(source) = self.sources.get_mut(id.0) {
            source.pace(interval);
        }
    }

    /// The engine's own estimate of the clock's error.
    pub fn handle_engine_error(&mut self, error: Duration, now: Now) {
        if let Some(estimate) = &mut self.estimate
            && self.level == Level::Disciplined
            && !self.own
        {
            // The filter's word is a standard deviation, not a bound.
            estimate.root_dispersion = error.max(estimate.least) + estimate.off;
            estimate.since = now.mono;
            self.reference_time = now.utc;
        }
    }

    /// Takes a list of leap seconds, in place of what the sources announce.
    pub fn handle_leap_seconds(&mut self, list: Option<LeapSeconds>) {
        self.leap_seconds = list;
    }

    /// Sets the floor by hand, up or down.
    pub fn handle_floor(&mut self, floor: UnixTime, now: Now) {
        self.floor.set(floor);
        self.save_floor(now);
        self.judge(None, now);
        self.publish(now, true);
    }

    /// Asks whoever is due, and draws the conclusions of time passing.
    pub fn handle_timeout(&mut self, now: Now) {
        for (index, source) in self.sources.iter_mut().enumerate() {
            if source.next().is_some_and(|next| next <= now.mono) {
                let patience = source.ask(now.mono);
                self.events.push_back(Event::AskSource { source: SourceId(index), patience });
            }
        }
        let due = self.witnesses.ask_due(now.mono);
        self.events.extend(due.into_iter().map(Event::AskWitness));
        self.judge(None, now);
    }

    /// When [`Self::handle_timeout`] must be called next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let sources = self.sources.iter().filter_map(Source::next).min();
        [
            sources.map(|at| (at, "a time source is due")),
            self.witnesses.next().map(|at| (at, "a witness is due")),
        ]
        .into_iter()
        .flatten()
        .chain(self.deadlines())
        .min_by_key(|(at, _)| *at)
    }

    /// The next thing to be done, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What may be believed at present.
    #[must_use]
    pub fn trust(&self, now: Instant) -> TimeTrust {
        let floor = self.floor.at(now).0;
        TimeTrust {
            level: self.level,
            verified: self.verified,
            generation: self.generation,
            floor,
            dates: match self.level {
                Level::Cold | Level::Suspect => CertDates::RuleR { floor },
                Level::Coarse => CertDates::StrictElseRuleR { floor },
                Level::Holdover | Level::Disciplined => CertDates::Strict,
            },
        }
    }

    /// Publishes what has changed. `stepped`: chains may be judged otherwise from here on.
    pub(super) fn publish(&mut self, now: Now, stepped: bool) {
        let mut trust = self.trust(now.mono);
        let before = self.published;
        if before.is_some_and(|b| b.level == trust.level && b.verified == trust.verified)
            && !stepped
        {
            return;
        }
        // Once verified, the floor is the present: whoever holds rule R must know.
        let risen =
            |before: TimeTrust| before.level != trust.level || (trust.verified && !before.verified);
        if stepped || before.is_none_or(risen) {
            self.generation += 1;
            trust.generation = self.generation;
        }
        self.published = Some(trust);
        self.events.push_back(Event::Published(trust));
    }

    pub(super) fn save_floor(&mut self, now: Now) {
        if let Some(floor) = self.floor.to_save(now.mono) {
            self.saved = Some(now.mono);
            self.events.push_back(Event::SaveFloor(floor));
        }
    }

    /// How many sources a majority is counted of.
    pub(super) fn voters(&self, now: Instant) -> usize {
        self.sources.iter().filter(|source| source.is_counted(now)).count()
    }

    /// How many sources make a quorum: never less than a majority.
    pub(super) fn need(&self, now: Instant) -> usize {
        if cfg!(feature = "broken-quorum") {
            return 1;
        }
        self.policy.quorum.max(self.voters(now) / 2 + 1)
    }

    /// The operators of the sources at these positions.
    pub(super) fn operators(&self, members: &[usize]) -> usize {
        if cfg!(feature = "broken-quorum") {
            return 2;
        }
        let names = members.iter().map(|&i| &self.sources[i].spec.operator);
        names.collect::<BTreeSet<_>>().len()
    }
}
