//! The witnesses: authenticated time, from servers that prove who they are.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::select::{Agreement, Interval, agreement};
use super::time::{Nanos, UnixTime, nanos};

/// A witness, by its position in the list the machine was given.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct WitnessId(pub usize);

/// What a witness said, and what its certificate chain is worth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Testimony {
    /// The middle of the exchange on the monotonic clock.
    pub at: Instant,
    /// The time it stated for that moment.
    pub utc: UnixTime,
    /// Resolution and half the round trip.
    pub error: Duration,
    /// The chain passes rule R at the floor.
    pub passes_rule_r: bool,
    /// The chain is valid at the time it states itself.
    pub valid_as_stated: bool,
    /// The chain is valid at the clock's time.
    pub valid_at_clock: bool,
}

/// Two witnesses, or a witness and the clock, agree within this and the round trip.
pub(super) const TOLERANCE: Nanos = 5_000_000_000;
/// A witness this far off contradicts the clock.
pub(super) const CONTRADICTION: Nanos = 60_000_000_000;
/// A failing witness is asked each second or two this long, then each [`PERSISTENCE`].
const PATIENCE: Duration = Duration::from_secs(600);
/// The interval for a witness that has failed for long.
const PERSISTENCE: Duration = Duration::from_secs(60);
/// The interval while the clock stands confirmed.
const CONFIRMED: Duration = Duration::from_secs(3600);
/// The interval while it does not.
const UNCONFIRMED: Duration = Duration::from_secs(16);
/// How old a testimony may grow. Longer than [`CONFIRMED`], so that a lost one does not count as doubt.
const LIFETIME: Duration = Duration::from_secs(2 * 3600 + 600);
/// The worst drift of the monotonic clock.
const DRIFT_PPM: Nanos = 100;

/// A witness's state.
#[derive(Clone, Debug)]
struct Witness {
    operator: String,
    testimony: Option<Testimony>,
    asked: Option<Instant>,
    failing_since: Option<Instant>,
    /// Has answered, or failed, since the last [`Witnesses::hurry`].
    heard: bool,
    next: Instant,
}

/// All witnesses together.
#[derive(Clone, Debug)]
pub(super) struct Witnesses {
    list: Vec<Witness>,
}

/// Operators by what their witnesses say of a time.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparison<'w> {
    pub(super) agree: BTreeSet<&'w str>,
    pub(super) contradict: BTreeSet<&'w str>,
}

impl Comparison<'_> {
    /// Whether somebody other than `operator` supports that time, and nobody contradicts it.
    pub(super) fn supports(&self, operator: &str) -> bool {
        self.contradict.is_empty() && self.agree.iter().any(|witness| *witness != operator)
    }
}

/// Which testimonies count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standard {
    /// Valid at the time it states itself, and not expired before the floor.
    AboveFloor,
    /// Valid at the time it states itself, wherever that lies: to find a floor set wrongly ahead.
    AnyTime,
}

impl Witnesses {
    /// `operators`: who runs each of them.
    pub(super) fn new(operators: Vec<String>, now: Instant) -> Self {
        let list = operators
            .into_iter()
            .map(|operator| Witness {
                operator,
                testimony: None,
                asked: None,
                failing_since: None,
                heard: false,
                next: now,
            })
            .collect();
        Self { list }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.list.iter().map(|witness| witness.next).min()
    }

    /// The witnesses due at `now`, marked asked.
    pub(super) fn ask_due(&mut self, now: Instant) -> Vec<WitnessId> {
        let mut due = Vec::new();
        for (index, witness) in self.list.iter_mut().enumerate() {
            if witness.next <= now {
                witness.asked = Some(now);
                witness.next = now + Duration::from_secs(10);
                due.push(WitnessId(index));
            }
        }
        due
    }

    pub(super) fn testified(
        &mut self,
        id: WitnessId,
        testimony: Testimony,
        confirmed: bool,
        now: Instant,
    ) {
        let Some(witness) = self.list.get_mut(id.0) else { return };
        witness.testimony = Some(testimony);
        witness.failing_since = None;
        witness.heard = true;
        witness.asked = None;
        witness.next = now + if confirmed { CONFIRMED } else { UNCONFIRMED };
    }

    pub(super) fn failed(&mut self, id: WitnessId, now: Instant) {
        let Some(witness) = self.list.get_mut(id.0) else { return };
        let asked = witness.asked.take().unwrap_or(now);
        let since = *witness.failing_since.get_or_insert(asked);
        witness.heard = true;
        let patient = now.saturating_duration_since(since) < PATIENCE;
        let interval = if patient { Duration::from_millis(1500) } else { PERSISTENCE };
        witness.next = (asked + interval).max(now + Duration::from_millis(100));
    }

    /// The clock stands confirmed: no need to ask again soon.
    pub(super) fn relax(&mut self, now: Instant) {
        for witness in &mut self.list {
            if witness.asked.is_none() && witness.failing_since.is_none() {
                witness.next = witness.next.max(now + CONFIRMED);
            }
        }
    }

    /// The clock stands confirmed no longer: those that were left alone are asked soon.
    pub(super) fn attend(&mut self, now: Instant) {
        for witness in &mut self.list {
            witness.next = witness.next.min(now + UNCONFIRMED);
        }
    }

    /// Asks all of them at once, unless they were asked within the last second.
    pub(super) fn hurry(&mut self, now: Instant) {
        for witness in &mut self.list {
            witness.heard = false;
            witness.failing_since = None;
            if witness.asked.is_none() {
                witness.next = now;
            }
        }
    }

    /// Whether one may still be heard for the first time.
    pub(super) fn pending(&self) -> bool {
        self.list.iter().any(|witness| !witness.heard)
    }

    /// How many operators run them.
    pub(super) fn operators(&self) -> usize {
        self.list.iter().map(|w| &w.operator).collect::<BTreeSet<_>>().len()
    }

    /// The interval in which the witnesses of at least two operators, and the
    /// greater part of those heard, agree the time to lie at `now`.
    pub(super) fn consensus(&self, standard: Standard, now: Instant) -> Option<Interval> {
        let heard: Vec<_> = self.claims(standard, now).collect();
        // Half the tolerance on each side: two that agree within it then meet.
        let widened: Vec<_> = heard.iter().map(|(_, claim)| widen(claim, TOLERANCE / 2)).collect();
        let Agreement { members, shared } = agreement(&widened, everything())?;
        let agreeing: BTreeSet<_> = members.iter().map(|&i| heard[i].0).collect();
        let all: BTreeSet<_> = heard.iter().map(|(operator, _)| *operator).collect();
        if agreeing.len() < 2 || agreeing.len() * 2 <= all.len() {
            return None;
        }
        let exact: Vec<_> = members.iter().map(|&i| heard[i].1).collect();
        match agreement(&exact, everything()) {
            Some(found) if found.members.len() == exact.len() => Some(found.shared),
            _ => Some(shared),
        }
    }

    /// How the testimonies stand to a time claimed at `now`.
    pub(super) fn compare(&self, claim: &Interval, now: Instant) -> Comparison<'_> {
        let mut found = Comparison::default();
        for (operator, testimony) in self.claims(Standard::AboveFloor, now) {
            if widen(&testimony, TOLERANCE).meets(claim) {
                found.agree.insert(operator);
            } else if !widen(&testimony, CONTRADICTION).meets(claim) {
                found.contradict.insert(operator);
            }
        }
        found
    }

    /// The operators whose chains fail at the clock's time by their dates alone, but pass rule R.
    pub(super) fn refuted_by_dates(&self, now: Instant) -> impl Iterator<Item = &str> {
        self.list.iter().filter_map(move |witness| {
            let said = witness.testimony?;
            let recent = now.saturating_duration_since(said.at) < PATIENCE;
            (recent && said.passes_rule_r && !said.valid_at_clock)
                .then_some(witness.operator.as_str())
        })
    }

    /// What each of them last said, for people.
    pub(super) fn testimonies(&self) -> impl Iterator<Item = Option<Testimony>> + '_ {
        self.list.iter().map(|witness| witness.testimony)
    }

    /// The clock has moved: what was said of chains at the clock's time holds no more.
    pub(super) fn forget_dates(&mut self) {
        for witness in &mut self.list {
            if let Some(testimony) = &mut witness.testimony {
                testimony.valid_at_clock = true;
            }
        }
    }

    fn claims(&self, standard: Standard, now: Instant) -> impl Iterator<Item = (&str, Interval)> {
        self.list.iter().filter_map(move |witness| {
            let said = witness.testimony?;
            let age = now.saturating_duration_since(said.at);
            let counts = said.valid_as_stated
                && (standard == Standard::AnyTime || said.passes_rule_r)
                && age < LIFETIME;
            let claim = Interval::around(said.utc, nanos(said.error));
            counts.then(|| (witness.operator.as_str(), aged(claim, age)))
        })
    }
}

/// Where the time that lay in `interval` lies after `age`, by the monotonic clock.
pub(super) fn aged(interval: Interval, age: Duration) -> Interval {
    let drift = nanos(age) * DRIFT_PPM / 1_000_000;
    widen(&Interval { low: interval.low + age, high: interval.high + age }, drift)
}

fn widen(interval: &Interval, by: Nanos) -> Interval {
    Interval { low: interval.low.offset(-by), high: interval.high.offset(by) }
}

pub(super) const fn everything() -> Interval {
    Interval {
        low: UnixTime::from_nanos(Nanos::MIN / 4),
        high: UnixTime::from_nanos(Nanos::MAX / 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_operators_make_a_consensus_one_does_not() {
        let now = start();
        let mut witnesses = of(&["google", "google", "quad9"], now);

        witnesses.testified(WitnessId(0), says(1000, now), false, now);
        witnesses.testified(WitnessId(1), says(1000, now), false, now);
        assert_eq!(witnesses.consensus(Standard::AboveFloor, now), None);

        witnesses.testified(WitnessId(2), says(1001, now), false, now);
        let found = witnesses.consensus(Standard::AboveFloor, now).unwrap();
        assert!(found.low <= UnixTime::from_secs(1001) && found.high >= UnixTime::from_secs(1000));
    }

    #[test]
    fn two_against_two_is_no_consensus() {
        let now = start();
        let mut witnesses = of(&["a", "b", "c", "d"], now);

        for (id, time) in [(0, 1000), (1, 1000), (2, 90_000), (3, 90_000)] {
            witnesses.testified(WitnessId(id), says(time, now), false, now);
        }

        assert_eq!(witnesses.consensus(Standard::AboveFloor, now), None);
    }

    #[test]
    fn a_chain_that_contradicts_its_own_date_testifies_nothing() {
        let now = start();
        let mut witnesses = of(&["a", "b"], now);
        let expired = Testimony { valid_as_stated: false, ..says(1000, now) };
        let below = Testimony { passes_rule_r: false, ..says(1000, now) };

        witnesses.testified(WitnessId(0), says(1000, now), false, now);
        witnesses.testified(WitnessId(1), expired, false, now);
        assert_eq!(witnesses.consensus(Standard::AnyTime, now), None);

        witnesses.testified(WitnessId(1), below, false, now);
        assert_eq!(witnesses.consensus(Standard::AboveFloor, now), None);
        assert!(witnesses.consensus(Standard::AnyTime, now).is_some());
    }

    #[test]
    fn a_failing_witness_is_asked_again_within_two_seconds_and_never_given_up() {
        let now = start();
        let mut witnesses = of(&["a"], now);
        let mut at = now;

        for _ in 0..1000 {
            assert_eq!(witnesses.ask_due(at).len(), 1);
            witnesses.failed(WitnessId(0), at + Duration::from_millis(20));
            let next = witnesses.next().unwrap();
            let limit = if at - now < PATIENCE { 2 } else { 60 };
            assert!(next - at <= Duration::from_secs(limit));
            at = next;
        }
    }

    fn of(operators: &[&str], now: Instant) -> Witnesses {
        Witnesses::new(operators.iter().map(ToString::to_string).collect(), now)
    }

    fn says(secs: i64, at: Instant) -> Testimony {
        Testimony {
            at,
            utc: UnixTime::from_secs(secs),
            error: Duration::from_millis(520),
            passes_rule_r: true,
            valid_as_stated: true,
            valid_at_clock: true,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }
}
