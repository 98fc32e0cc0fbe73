//! What the trust machine concludes (docs/architecture.md, "Time").

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Level;
use super::floor::FloorOrigin;
use super::select::{Interval, agreement};
use super::sources::{Reading, Source, SourceId, Verdict};
use super::time::{Nanos, UnixTime, magnitude};
use super::trust::{Basis, Estimate, Event, Now, Trust};
use super::witnesses::{CONTRADICTION, Standard, TOLERANCE, aged, everything};

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1000 * MS;
/// A second is numbered by sources that leave no more doubt than this about the time.
const UNAMBIGUOUS: Nanos = 800 * MS;
const YEAR: Duration = Duration::from_secs(31_557_600);

/// The clock is right if it is off by no more than this (STEPT, RFC 5905 section 11.2.3).
const RIGHT: Nanos = 128 * MS;
/// More than this the engine may not correct by itself once the clock is disciplined.
const JUMP: Nanos = 1000 * MS;
/// Sources may lead a clock that witnesses have confirmed so far from what they said, in any number
/// of steps: not so far that the next word of the witnesses would unseat it.
const LEAD: Nanos = 3000 * MS;
/// A clock is disciplined only within this root distance.
const MAX_DISTANCE: Duration = Duration::from_secs(1);
/// Rounds of a quorum that must find the clock right before it counts as disciplined.
const ROUNDS: u8 = 4;
/// How far below the floor a quorum may lie: sources and floor were not read at one instant.
const FLOOR_SLACK: Duration = Duration::from_secs(60);
/// How far above the floor a quorum may lie. NTP's eras are 136 years apart.
const CEILING: Duration = Duration::from_secs(40 * 31_557_600);
/// The first step waits this long for the witnesses.
const WITNESS_WAIT: Duration = Duration::from_secs(2);
/// Without a quorum for this long, lesser evidence may set the clock.
const LESSER_WAIT: Duration = Duration::from_secs(20);
/// Sources and witnesses must agree this long before they lower the floor.
const FLOOR_WAIT: Duration = Duration::from_secs(600);
/// Polls without a usable answer after which the clock is in holdover.
const HOLDOVER_POLLS: u32 = 8;
/// How often the floor is kept on disk.
const SAVE_EACH: Duration = Duration::from_secs(3600);
/// How long an upstream's chain counts as refuting the clock.
const REFUTATION: Duration = Duration::from_secs(300);
/// What reading a clock twice may add to the error.
const CLOCK_READING: Duration = Duration::from_millis(1);
/// The error of a clock of one's own, which nothing confirms.
const OWN_ERROR: Duration = Duration::from_secs(1);

/// The sources that agree, and on what.
#[derive(Debug)]
struct Finding {
    basis: Basis,
    members: Vec<usize>,
    claim: Interval,
    /// The member whose time is taken: preferred, else the one with the least error.
    peer: usize,
}

impl Trust {
    /// Draws every conclusion that the present evidence allows.
    pub(super) fn judge(&mut self, heard: Option<SourceId>, now: Now) {
        self.judged = now.mono;
        self.refuted.retain(|_, at| now.mono.saturating_duration_since(*at) < REFUTATION);
        self.judge_floor(now);
        let finding = self.find(now);
        self.mark(finding.as_ref(), now);
        if finding.as_ref().is_some_and(|found| found.basis == Basis::Quorum) {
            self.quorum_seen = now.mono;
        }

        match self.level {
            Level::Cold => self.judge_cold(finding.as_ref(), now),
            Level::Coarse | Level::Disciplined | Level::Holdover | Level::Suspect => {
                if !self.judge_witnesses(finding.as_ref(), now) {
                    self.judge_sources(finding.as_ref(), heard, now);
                }
            }
        }
        self.judge_silence(now);
        // What was kept before this run need not be written again.
        let raised = self.floor.at(now.mono).1 == FloorOrigin::Running;
        if self.verified && raised && self.saved.is_none_or(|at| now.mono >= at + SAVE_EACH) {
            self.save_floor(now);
        }
        self.publish(now, false);
    }

    /// Instants at which time alone may change a conclusion, and that were not judged yet.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = (Instant, &'static str)> + '_ {
        let cold = self.level == Level::Cold;
        let unsettled = self.level <= Level::Coarse;
        [
            self.quorum_waits.filter(|_| cold).map(|at| (at + WITNESS_WAIT, "witnesses are late")),
            self.consensus_waits.filter(|_| cold).map(|at| (at + LESSER_WAIT, "no quorum came")),
            unsettled.then_some((self.quorum_seen + LESSER_WAIT, "no quorum came")),
            self.holdover_at().map(|at| (at, "no source has answered")),
            self.below_floor.map(|(at, _)| (at + FLOOR_WAIT, "the floor lies ahead")),
        ]
        .into_iter()
        .flatten()
        .filter(|(at, _)| *at > self.judged)
    }

    /// The clock has not been set yet.
    fn judge_cold(&mut self, finding: Option<&Finding>, now: Now) {
        let consensus = self.witnesses.consensus(Standard::AboveFloor, now.mono);
        self.quorum_waits = self.quorum_waits.filter(|_| finding.is_some());
        self.consensus_waits = self.consensus_waits.filter(|_| consensus.is_some());
        match (finding, consensus) {
            (Some(found), Some(witnessed)) if apart(&found.claim, &witnessed) > CONTRADICTION => {
                self.set(witnessed.middle().since(now.utc), Basis::Witnesses, now);
            }
            (Some(found), Some(_)) => self.set_to(found, now),
            (Some(found), None) => {
                let since = *self.quorum_waits.get_or_insert(now.mono);
                let waited = now.mono >= since + WITNESS_WAIT;
                if waited || !self.witnesses.pending() || found.basis != Basis::Quorum {
                    self.set_to(found, now);
                }
            }
            (None, Some(witnessed)) => {
                let since = *self.consensus_waits.get_or_insert(now.mono);
                if now.mono >= since + LESSER_WAIT {
                    self.set(witnessed.middle().since(now.utc), Basis::Witnesses, now);
                }
            }
            (None, None) => {}
        }
    }

    /// Holds the clock against authenticated time. True if that moved the clock.
    fn judge_witnesses(&mut self, finding: Option<&Finding>, now: Now) -> bool {
        let clock = Interval::around(now.utc, 0);
        if let Some(witnessed) = self.witnesses.consensus(Standard::AboveFloor, now.mono) {
            let off = apart(&clock, &witnessed);
            let sources_agree =
                finding.is_some_and(|found| apart(&found.claim, &witnessed) <= TOLERANCE);
            // What they have confirmed does not wait for sources that will not bring it back.
            let astray = off > TOLERANCE && self.witnessed.is_some() && !sources_agree;
            if off > CONTRADICTION || astray {
                self.set(witnessed.middle().since(now.utc), Basis::Witnesses, now);
                return true;
            }
            if off > TOLERANCE {
                if self.verified {
                    self.witnesses.attend(now.mono);
                }
                self.verified = false;
            } else {
                if !self.verified {
                    self.witnesses.relax(now.mono);
                }
                self.verified = true;
                self.witnessed = Some((now.mono, witnessed));
                self.refuted.clear();
                self.floor.raise(witnessed.low, now.mono);
                if self.level == Level::Suspect {
                    self.rehabilitate(now);
                }
                return false;
            }
        }
        let compared = self.witnesses.compare(&clock, now.mono);
        let (agree, contradict) = (compared.agree.len(), compared.contradict.len());
        let by_chains = self.refuting_operators(now.mono);
        let enough = 2.min(self.policy.upstream_operators.max(self.witnesses.operators())).max(1);
        if (contradict > 0 && agree == 0) || by_chains >= enough {
            if self.level != Level::Suspect {
                self.level = Level::Suspect;
                self.verified = false;
                self.rounds = 0;
                self.witnesses.hurry(now.mono);
            }
        } else if self.level == Level::Suspect && contradict == 0 && by_chains == 0 {
            // That nobody repeats an accusation acquits only where nobody could.
            if agree > 0 || self.policy.witnesses.is_empty() {
                self.rehabilitate(now);
            }
        }
        false
    }

    /// Authenticated time does not contradict the clock any longer: it may earn trust again.
    fn rehabilitate(&mut self, now: Now) {
        self.level = Level::Coarse;
        self.rounds = 0;
        for source in &mut self.sources {
            source.hurry(now.mono);
        }
    }

    /// Holds the clock against the sources that agree.
    fn judge_sources(&mut self, finding: Option<&Finding>, heard: Option<SourceId>, now: Now) {
        let Some(found) = finding else { return };
        let off = self.offset(found, now);
        let settled = matches!(self.level, Level::Disciplined | Level::Holdover);
        // On a poor link the peer's word jumps about: the clock is right where all members allow it.
        let clock = Interval::around(now.utc, 0);
        let right =
            off.abs() <= if settled { JUMP } else { RIGHT } || apart(&found.claim, &clock) <= RIGHT;

        let time = now.utc.offset(off);
        let may_follow = self.may_follow(found, time, now);
        if !right && may_follow {
            if !settled || self.demanded_long_enough(found, off, now) {
                self.set_to(found, now);
            }
            return;
        }
        if !right || !self.may_be(time, now.mono) {
            // A machine that slept finds its witnesses' words out of date, not its sources.
            if self.demand.is_none() {
                self.witnesses.hurry(now.mono);
            }
            self.demand = Some(if right { self.lead(time, now.mono) } else { off });
            return;
        }
        if self.level == Level::Suspect && !may_follow {
            return;
        }
        (self.demand, self.demands) = (None, 0);
        if let Some(id) = heard.filter(|id| found.members.contains(&id.0))
            && let Some(reading) = self.sources[id.0].reading
            && self.weighs_in(id.0, reading, found)
            && self.may_be(reading.utc + now.mono.saturating_duration_since(reading.at), now.mono)
        {
            self.events.push_back(Event::Feed(id, reading));
        }
        if self.round_is_whole(found, now.mono) {
            self.round_start = now.mono;
            self.rounds = self.rounds.saturating_add(1);
            self.updated = Some(now.mono);
            self.own = found.basis == Basis::Own;
            self.confirm(found, off, now);
        }
    }

    /// Whether a member's reading is fit to steer by. A reference clock errs by the same amount all
    /// day, which no filter sees: one that is far worse than the best only votes.
    fn weighs_in(&self, index: usize, reading: Reading, found: &Finding) -> bool {
        let best = self.sources[found.peer].reading.map_or(Duration::MAX, |peer| peer.error);
        reading.stratum > 0 || index == found.peer || reading.error <= best.saturating_mul(4)
    }

    /// A whole round has found the clock right.
    fn confirm(&mut self, found: &Finding, off: Nanos, now: Now) {
        let Some(reading) = self.sources[found.peer].reading else { return };
        let mut root_dispersion = reading.root_dispersion + magnitude(off) + CLOCK_READING;
        if found.basis == Basis::Own {
            root_dispersion = root_dispersion.max(OWN_ERROR);
        }
        self.estimate = Some(Estimate {
            stratum: reading.stratum + 1,
            reference_id: reading.reference_id,
            root_delay: reading.root_delay + reading.delay,
            root_dispersion,
            off: magnitude(off),
            // The engine knows how much a reference clock scatters, not how far it is off.
            least: if reading.stratum == 0 { reading.error } else { Duration::ZERO },
            since: now.mono,
            leap: self.leap(found),
        });
        self.reference_time = now.utc;
        let near = reading.error < MAX_DISTANCE;
        let enough = match self.level {
            Level::Coarse => self.rounds >= ROUNDS,
            Level::Holdover => true,
            Level::Cold | Level::Disciplined | Level::Suspect => false,
        };
        if enough && near {
            self.level = Level::Disciplined;
            self.disciplined_since.get_or_insert(now.mono);
        }
    }

    /// Sources and witnesses that agree, for long, on a time below the floor prove the floor wrong.
    fn judge_floor(&mut self, now: Now) {
        let floor = self.floor.at(now.mono).0;
        let claims: Vec<_> = self.claims(now.mono).collect();
        let intervals: Vec<_> = claims.iter().map(|(_, claim)| *claim).collect();
        let evidence = agreement(&intervals, everything()).and_then(|found| {
            let members: Vec<_> = found.members.iter().map(|&i| claims[i].0).collect();
            let full = members.len() >= self.need(now.mono) && self.operators(&members) >= 2;
            let witnessed = self.witnesses.consensus(Standard::AnyTime, now.mono)?;
            let below = found.shared.high < floor - FLOOR_SLACK
                && witnessed.high < floor - FLOOR_SLACK
                && apart(&found.shared, &witnessed) <= TOLERANCE;
            (full && below).then_some(witnessed.low)
        });
        let Some(to) = evidence else {
            self.below_floor = None;
            return;
        };
        let (since, _) = *self.below_floor.get_or_insert((now.mono, to));
        self.below_floor = Some((since, to));
        if now.mono >= since + FLOOR_WAIT {
            self.below_floor = None;
            self.floor.set(to);
            self.events.push_back(Event::FloorLowered { from: floor, to });
            self.save_floor(now);
            // The floor of rule R has changed under whoever holds it.
            self.publish(now, true);
        }
    }

    /// Without a usable answer for eight polls, the clock runs on by itself.
    fn judge_silence(&mut self, now: Now) {
        if self.holdover_at().is_some_and(|at| now.mono >= at) {
            self.level = Level::Holdover;
            self.rounds = 0;
            for source in &mut self.sources {
                source.hurry(now.mono);
            }
            self.witnesses.hurry(now.mono);
        }
    }

    /// When the clock enters holdover if nothing is heard.
    fn holdover_at(&self) -> Option<Instant> {
        if self.level != Level::Disciplined {
            return None;
        }
        let heard = self.sources.iter().filter(|source| source.reading.is_some());
        let interval = heard.map(Source::interval).max().unwrap_or_default();
        let patience = (interval * HOLDOVER_POLLS).max(Duration::from_secs(20));
        self.updated.map(|at| at + patience)
    }

    /// The best evidence of the sources at this moment.
    fn find(&self, now: Now) -> Option<Finding> {
        let floor = self.floor.at(now.mono).0;
        let window = Interval { low: floor - FLOOR_SLACK, high: floor + CEILING };
        let claims: Vec<_> = self.claims(now.mono).collect();

        let quorum = self.majority(&claims, window, Basis::Quorum).filter(|found| {
            found.members.len() >= self.need(now.mono) && self.operators(&found.members) >= 2
        });
        let found = quorum.or_else(|| self.find_lesser(&claims, window, now.mono))?;
        Some(self.with_pulses(found, now.mono))
    }

    /// Adds the pulses that agree with `found` to its members.
    fn with_pulses(&self, mut found: Finding, now: Instant) -> Finding {
        for (index, source) in self.sources.iter().enumerate().filter(|(_, it)| it.is_pulse()) {
            if source.claim(now).is_some_and(|claim| claim.meets(&found.claim)) {
                found.members.push(index);
            }
        }
        found.peer = self.peer(&found.members).unwrap_or(found.peer);
        found
    }

    /// A pulse with the number of its second, as the others have it; `None` if they do not know
    /// it for certain.
    pub(super) fn numbered(&self, pulse: Reading, now: Now) -> Option<Reading> {
        let found = self.find(now)?;
        if found.claim.high.since(found.claim.low) > UNAMBIGUOUS {
            return None;
        }
        let age = now.mono.saturating_duration_since(pulse.at);
        let time = found.claim.middle() - age;
        let seconds = (time.since(pulse.utc) + SECOND / 2).div_euclid(SECOND);
        Some(Reading { utc: pulse.utc.offset(seconds * SECOND), ..pulse })
    }

    /// Fewer sources than a quorum: with a witness that agrees, or a clock of one's own.
    fn find_lesser(
        &self,
        claims: &[(usize, Interval)],
        window: Interval,
        now: Instant,
    ) -> Option<Finding> {
        let waited = now >= self.quorum_seen + LESSER_WAIT;
        let witnessed: Vec<_> = claims
            .iter()
            .filter(|(index, claim)| {
                // Who runs both the clock and the witness is one voice, not two.
                let operator = &self.sources[*index].spec.operator;
                self.witnesses.compare(claim, now).supports(operator)
            })
            .copied()
            .collect();
        let voters = self.voters(now);
        let lone = self.majority(&witnessed, window, Basis::Lone);
        if let Some(found) = lone.filter(|f| waited || f.members.len() == voters) {
            return Some(found);
        }
        // Where nothing else is configured there is nobody else to wait for, and a box that lay on
        // the shelf for years has no other way back.
        let alone = self.policy.reference_clocks_alone();
        let all = alone && self.policy.witnesses.is_empty() && claims.len() == voters;
        let waited = waited || all;
        let floor = self.floor.at(now).0;
        let own: Vec<_> = claims
            .iter()
            .filter(|(index, claim)| {
                (self.sources[*index].spec.trust || alone)
                    && self.witnesses.compare(claim, now).contradict.is_empty()
            })
            .copied()
            .collect();
        let near = Interval { low: floor, high: floor + if alone { CEILING } else { YEAR } };
        let found = self.majority(&own, near, Basis::Own)?;
        (waited && found.members.len() * 2 > own.len()).then_some(found)
    }

    fn majority(
        &self,
        claims: &[(usize, Interval)],
        window: Interval,
        basis: Basis,
    ) -> Option<Finding> {
        let intervals: Vec<_> = claims.iter().map(|(_, claim)| *claim).collect();
        let found = agreement(&intervals, window)?;
        let members: Vec<_> = found.members.iter().map(|&i| claims[i].0).collect();
        let peer = self.peer(&members)?;
        Some(Finding { basis, members, claim: found.shared, peer })
    }

    /// The member whose time is taken.
    fn peer(&self, members: &[usize]) -> Option<usize> {
        let peer = members.iter().min_by_key(|&&index| {
            let source = &self.sources[index];
            (!source.spec.prefer, source.reading.map_or(Duration::MAX, |r| r.error))
        });
        peer.copied()
    }

    /// The claims of the sources that have a vote and have answered of late.
    fn claims(&self, now: Instant) -> impl Iterator<Item = (usize, Interval)> {
        let voters = self.sources.iter().enumerate().filter(|(_, source)| source.votes());
        voters.filter_map(move |(index, source)| Some((index, source.claim(now)?)))
    }

    /// How far the clock is from the peer's time, as far as all members allow that.
    fn offset(&self, found: &Finding, now: Now) -> Nanos {
        let said = self.sources[found.peer]
            .reading
            .map(|Reading { at, utc, .. }| utc + now.mono.saturating_duration_since(at));
        let time = said.unwrap_or_else(|| found.claim.middle());
        time.clamp(found.claim.low, found.claim.high).since(now.utc)
    }

    /// Whether sources that find the clock wrong may move it at all.
    fn may_follow(&self, found: &Finding, time: UnixTime, now: Now) -> bool {
        // Silencing the witnesses must not unseat what they have confirmed.
        if !self.may_be(time, now.mono) {
            return false;
        }
        if let Some(witnessed) = self.witnesses.consensus(Standard::AboveFloor, now.mono) {
            return apart(&found.claim, &witnessed) <= TOLERANCE;
        }
        // A lone witness contradicts the clock: the sources must be on its side.
        let operator = &self.sources[found.peer].spec.operator;
        self.level != Level::Suspect
            || self.witnesses.compare(&found.claim, now.mono).supports(operator)
    }

    /// Whether sources may lead the clock to `time`. Who went too far has to come back by a second.
    fn may_be(&self, time: UnixTime, now: Instant) -> bool {
        let limit = if self.demand.is_some() { LEAD - SECOND } else { LEAD };
        self.lead(time, now).abs() <= limit
    }

    /// How far `time` lies from what witnesses confirmed; zero if that allows it, or if they never did.
    fn lead(&self, time: UnixTime, now: Instant) -> Nanos {
        let span = self.confirmed_span(now);
        span.map_or(0, |span| time.since(time.clamp(span.low, span.high)))
    }

    /// Where the time lies if what witnesses last confirmed was right; `None` if they never did.
    pub(super) fn confirmed_span(&self, now: Instant) -> Option<Interval> {
        let (at, span) = self.witnessed?;
        let fresh = self.witnesses.consensus(Standard::AboveFloor, now);
        Some(fresh.unwrap_or_else(|| aged(span, now.saturating_duration_since(at))))
    }

    /// Counts the rounds that demand to move a settled clock.
    fn demanded_long_enough(&mut self, found: &Finding, off: Nanos, now: Now) -> bool {
        if self.demand.replace(off).is_none() {
            self.witnesses.hurry(now.mono);
        }
        if self.round_is_whole(found, now.mono) {
            self.round_start = now.mono;
            self.demands = self.demands.saturating_add(1);
        }
        self.demands >= ROUNDS
    }

    /// Whether as many members as are needed have answered since the last round.
    fn round_is_whole(&self, found: &Finding, now: Instant) -> bool {
        let fresh = found.members.iter().filter(|&&index| {
            let source = &self.sources[index];
            source.votes() && source.reading.is_some_and(|reading| reading.at > self.round_start)
        });
        let need = match found.basis {
            Basis::Quorum => self.need(now),
            Basis::Lone | Basis::Own | Basis::Witnesses => found.members.len().min(1),
        };
        fresh.count() >= need
    }

    fn set_to(&mut self, found: &Finding, now: Now) {
        self.set(self.offset(found, now), found.basis, now);
    }

    /// Moves the clock. That grants no trust: a later round that finds it right does.
    fn set(&mut self, by: Nanos, basis: Basis, now: Now) {
        self.events.push_back(Event::Set { by, basis });
        let now = Now { utc: now.utc.offset(by), ..now };
        self.level = Level::Coarse;
        self.own = basis == Basis::Own;
        self.verified = false;
        self.witnessed = self.witnessed.filter(|_| self.may_be(now.utc, now.mono));
        (self.rounds, self.demands, self.demand) = (0, 0, None);
        (self.quorum_waits, self.consensus_waits) = (None, None);
        (self.updated, self.disciplined_since, self.estimate) = (None, None, None);
        self.round_start = now.mono;
        self.reference_time = now.utc;
        self.refuted.clear();
        self.witnesses.forget_dates();
        for source in &mut self.sources {
            source.hurry(now.mono);
        }
        self.judge_witnesses(None, now);
        if !self.verified {
            self.witnesses.hurry(now.mono);
        }
        self.publish(now, true);
    }

    /// Gives each source its verdict.
    fn mark(&mut self, finding: Option<&Finding>, now: Now) {
        let (span, limit) = match self.confirmed_span(now.mono) {
            Some(span) => (Some(span), TOLERANCE),
            None => (self.witnesses.consensus(Standard::AboveFloor, now.mono), CONTRADICTION),
        };
        for (index, source) in self.sources.iter_mut().enumerate() {
            if source.verdict == Verdict::Denied {
                continue;
            }
            let refuted = |claim| span.is_some_and(|span| apart(&claim, &span) > limit);
            source.verdict = match (source.claim(now.mono), finding) {
                (None, _) => Verdict::Silent,
                (Some(claim), _) if refuted(claim) => Verdict::Falseticker,
                (Some(_), Some(found)) if found.members.contains(&index) => Verdict::Truechimer,
                (Some(claim), Some(found)) if source.spec.noselect && claim.meets(&found.claim) => {
                    Verdict::Truechimer
                }
                (Some(_), Some(_)) => Verdict::Falseticker,
                (Some(_), None) => Verdict::Undecided,
            };
        }
    }

    /// How many operators' chains fail at the clock's time by their dates alone.
    pub(super) fn refuting_operators(&self, now: Instant) -> usize {
        let chains = self.refuted.keys().map(String::as_str);
        chains.chain(self.witnesses.refuted_by_dates(now)).collect::<BTreeSet<_>>().len()
    }

    /// The leap warning of the greater part of the members (RFC 5905 section 7.3).
    fn leap(&self, found: &Finding) -> u8 {
        let members = found.members.iter().map(|&index| &self.sources[index]);
        let said = members.filter(|source| source.votes()).filter_map(|source| source.reading);
        let votes = said.fold([0; 4], |mut votes, reading| {
            votes[usize::from(reading.leap & 3)] += 1;
            votes
        });
        let all: usize = votes.iter().sum();
        (1..=2).find(|&leap: &u8| votes[usize::from(leap)] * 2 > all).unwrap_or(0)
    }
}

/// How far two intervals are apart; zero if they meet.
fn apart(a: &Interval, b: &Interval) -> Nanos {
    a.low.since(b.high).max(b.low.since(a.high)).max(0)
}
