//! How fast the questions that an outage held up are asked once it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Lets questions go to the upstreams: at once while all is well, at a rate after an outage.
///
/// A house that was cut off asks for everything at the same moment, and operators refuse who asks
/// too fast. So from [`Self::handle_down`] on, until after [`Self::handle_return`] nothing has
/// waited for a while, questions wait their turn: the freshest client's first, since the oldest
/// has most likely given up, and background work (refreshing, prefetching) after all clients'.
///
/// `K` tells questions apart. For each, call [`Self::handle_question`]; if it is to wait, it goes
/// when [`Self::poll_go`] gives it, to be called until it gives `None`, at latest when
/// [`Self::poll_timeout`] says. Tell how it ended with [`Self::handle_outcome`], or that nobody
/// waits any longer with [`Self::handle_gone`]. `now` never goes back; spurious calls do nothing.
#[derive(Debug)]
pub struct Pace<K> {
    /// Questions a second.
    rate: u32,
    capacity: usize,
    phase: Phase,
    /// When the next question may go; it lies in the past by no more than [`BURST`].
    next: Instant,
    /// By urgency and age, the most urgent last.
    waiting: BTreeSet<(Purpose, u64, K)>,
    places: BTreeMap<K, (Purpose, u64)>,
    asked: u64,
    cooling: BTreeMap<K, Cooling>,
}

/// For whom a question is asked.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Purpose {
    /// For nobody who waits: to refresh or prefetch an answer.
    Background,
    /// A client waits.
    Client,
}

/// What becomes of a question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Admission<K> {
    /// It failed a moment ago, and is not asked again before then.
    Cooling(Instant),
    /// It is asked at once.
    Go,
    /// It waits, in the place of another for which there is no room any longer: of the oldest, or
    /// of itself.
    Instead(K),
    /// It waits.
    Wait,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Down,
    Free,
    /// Something last waited then.
    Returning(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Cooling {
    failures: u32,
    until: Instant,
}

/// While all are down every tenth question that might go does: whatever goes waits for a
/// connection, and would leave all at once with the first.
const DOWN_SHARE: u32 = 10;
/// What was not used of the rate can be caught up on for so long.
const BURST: Duration = Duration::from_millis(50);
/// Pacing ends when nothing has waited for so long.
const SETTLED: Duration = Duration::from_secs(5);
/// A question that failed is asked again after this long; each further time after twice as long.
const COOL: Duration = Duration::from_secs(1);
/// The longest: RFC 9520 section 3.2 wants no failure remembered for more than 5 minutes, and the
/// next answer may be as good as any.
const COOL_MAX: Duration = Duration::from_secs(8);

impl<K: Clone + Ord> Pace<K> {
    /// Lets all go. `rate` is in questions a second, at least one; no more than `capacity` wait,
    /// nor are remembered as failed.
    #[must_use]
    pub fn new(rate: u32, capacity: usize, now: Instant) -> Self {
        Self {
            rate: rate.max(1),
            capacity,
            phase: Phase::Free,
            next: now,
            waiting: BTreeSet::new(),
            places: BTreeMap::new(),
            asked: 0,
            cooling: BTreeMap::new(),
        }
    }

    /// Goes over to another rate, in questions a second.
    pub fn set_rate(&mut self, rate: u32) {
        self.rate = rate.max(1);
    }

    /// No upstream answers.
    pub fn handle_down(&mut self, now: Instant) {
        self.phase = Phase::Down;
        self.next = now;
    }

    /// An upstream answers again. Whatever failed meanwhile did so for the outage: nothing cools.
    pub fn handle_return(&mut self, now: Instant) {
        if self.phase == Phase::Down {
            self.phase = Phase::Returning(now);
            self.next = now;
            self.cooling.clear();
        }
    }

    /// Somebody asks. A question that waits already is as fresh as the client who asked last.
    pub fn handle_question(&mut self, question: K, purpose: Purpose, now: Instant) -> Admission<K> {
        if let Some(cooling) = self.cooling.get(&question)
            && now < cooling.until
        {
            return Admission::Cooling(cooling.until);
        }
        let before = self.leave(&question);
        if self.waiting.is_empty() && self.may_go(now) {
            return Admission::Go;
        }
        self.asked += 1;
        let place = (purpose, self.asked);
        // Background work makes no client's question fresher.
        let (purpose, asked) = before.filter(|before| before.0 > purpose).unwrap_or(place);
        self.waiting.insert((purpose, asked, question.clone()));
        self.places.insert(question, (purpose, asked));
        if self.waiting.len() <= self.capacity {
            return Admission::Wait;
        }
        self.waiting.pop_first().map_or(Admission::Wait, |(_, _, oldest)| {
            self.places.remove(&oldest);
            Admission::Instead(oldest)
        })
    }

    /// Nobody waits for a question any longer.
    pub fn handle_gone(&mut self, question: &K) {
        self.leave(question);
    }

    /// A question that went was answered, or was not.
    pub fn handle_outcome(&mut self, question: K, answered: bool, now: Instant) {
        if answered {
            self.cooling.remove(&question);
            return;
        }
        if self.phase == Phase::Down {
            return;
        }
        let lately = |cooling: &&Cooling| now < cooling.until + COOL_MAX;
        let before = self.cooling.get(&question).filter(lately).map_or(0, |it| it.failures);
        let until = now + (COOL * (1 << before.min(3))).min(COOL_MAX);
        self.cooling.insert(question, Cooling { failures: before.saturating_add(1), until });
        if self.cooling.len() > self.capacity {
            // Those who cooled off long ago first, then whoever is next.
            let soonest = self.cooling.iter().min_by_key(|(_, cooling)| cooling.until);
            if let Some(question) = soonest.map(|(question, _)| question.clone()) {
                self.cooling.remove(&question);
            }
        }
    }

    /// A question whose turn it is.
    pub fn poll_go(&mut self, now: Instant) -> Option<K> {
        if self.waiting.is_empty() || !self.may_go(now) {
            return None;
        }
        let (_, _, question) = self.waiting.pop_last()?;
        self.places.remove(&question);
        Some(question)
    }

    /// When [`Self::poll_go`] must be called next, and why; `None` while nothing waits.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        (!self.waiting.is_empty()).then_some((self.next, "a question's turn"))
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a question may go now; if so, it counts as gone.
    fn may_go(&mut self, now: Instant) -> bool {
        if let Phase::Returning(since) = self.phase {
            if !self.waiting.is_empty() {
                self.phase = Phase::Returning(now);
            } else if now.saturating_duration_since(since) >= SETTLED {
                self.phase = Phase::Free;
            }
        }
        let rate = match self.phase {
            Phase::Free => return true,
            Phase::Down => (self.rate / DOWN_SHARE).max(1),
            Phase::Returning(_) => self.rate,
        };
        if now < self.next {
            return false;
        }
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        self.next = self.next.max(earliest) + Duration::from_secs(1) / rate;
        true
    }

    /// Takes a question out of the queue; gives its place.
    fn leave(&mut self, question: &K) -> Option<(Purpose, u64)> {
        let (purpose, asked) = self.places.remove(question)?;
        self.waiting.remove(&(purpose, asked, question.clone()));
        Some((purpose, asked))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Purpose::{Background, Client};
    use super::*;

    #[test]
    fn while_all_is_well_everything_goes_at_once() {
        let (mut pace, now) = new(200);

        assert!((0..10_000).all(|name| pace.handle_question(name, Client, now) == Admission::Go));
        assert_eq!(pace.poll_timeout(), None);
    }

    #[test]
    fn after_an_outage_the_freshest_client_goes_first_and_background_work_last() {
        let (mut pace, now) = down(100);
        let ask = |pace: &mut Pace<u32>, name, purpose| pace.handle_question(name, purpose, now);
        for (name, purpose) in [(1, Background), (2, Client), (3, Client), (4, Background)] {
            assert_eq!(ask(&mut pace, name, purpose), Admission::Wait);
        }
        // Somebody asks again for what waits, and for what was only to be refreshed.
        ask(&mut pace, 2, Client);
        ask(&mut pace, 1, Client);
        ask(&mut pace, 3, Background);

        pace.handle_return(now);

        assert_eq!(drain(&mut pace, now), [1, 2, 3, 4]);
        assert_eq!(pace.waiting(), 0);
    }

    #[test]
    fn while_all_are_down_a_tenth_goes_and_who_gives_up_makes_room() {
        let (mut pace, mut now) = down(100);
        (1..100)
            .for_each(|name| assert_eq!(pace.handle_question(name, Client, now), Admission::Wait));
        let end = now + SECOND;
        let mut gone = 0;
        while now < end {
            gone += usize::from(pace.poll_go(now).is_some());
            now += SECOND / 1000;
        }
        assert!((9..=11).contains(&gone), "{gone}");

        (0..100).for_each(|name| pace.handle_gone(&name));

        assert_eq!((pace.waiting(), pace.poll_timeout()), (0, None));
    }

    #[test]
    fn the_oldest_gives_way_to_the_freshest_and_background_work_before_any_client() {
        let (mut pace, now) = down(100);
        let mut ask = |name, purpose| pace.handle_question(name, purpose, now);
        (1..CAPACITY).for_each(|name| assert_eq!(ask(name, Client), Admission::Wait));
        assert_eq!(ask(1000, Background), Admission::Wait);

        assert_eq!(ask(2000, Background), Admission::Instead(1000));
        assert_eq!(ask(3000, Client), Admission::Instead(2000));
        assert_eq!(ask(4000, Client), Admission::Instead(1));
        assert_eq!(ask(5000, Background), Admission::Instead(5000));
    }

    #[test]
    fn a_name_that_fails_cools_off_for_longer_each_time_until_it_is_answered_or_the_path_returns() {
        let (mut pace, mut now) = new(100);
        for seconds in [1, 2, 4, 8, 8] {
            pace.handle_outcome(1, false, now);
            let until = now + SECOND * seconds;
            assert_eq!(pace.handle_question(1, Client, now), Admission::Cooling(until));
            assert_eq!(pace.handle_question(2, Client, now), Admission::Go);
            now = until;
            assert_eq!(pace.handle_question(1, Client, now), Admission::Go);
        }
        pace.handle_outcome(1, true, now);
        pace.handle_outcome(1, false, now);
        assert_eq!(pace.handle_question(1, Client, now), Admission::Cooling(now + SECOND));

        pace.handle_down(now);
        pace.handle_return(now);

        assert_ne!(pace.handle_question(1, Client, now), Admission::Cooling(now + SECOND));
    }

    #[test]
    fn no_more_names_are_remembered_as_failed_than_may_wait() {
        let (mut pace, now) = new(100);
        for name in 0..CAPACITY * 2 {
            pace.handle_outcome(name, false, now + SECOND * name / 10);
        }

        assert_eq!(pace.cooling.len(), CAPACITY as usize);
        assert!(pace.cooling.contains_key(&(CAPACITY * 2 - 1)));
    }

    #[test]
    fn pacing_ends_when_nothing_has_waited_for_a_while() {
        let (mut pace, now) = down(10);
        pace.handle_return(now);
        let burst = |pace: &mut Pace<u32>, at| {
            (0..100).filter(|name| pace.handle_question(*name, Client, at) == Admission::Go).count()
        };
        assert!(burst(&mut pace, now) <= 2);
        (0..100).for_each(|name| pace.handle_gone(&name));

        assert!(burst(&mut pace, now + SECOND) <= 2);
        assert!(pace.poll_go(now + SECOND * 6).is_some());
        (0..100).for_each(|name| pace.handle_gone(&name));
        // The last waited until a second ago.
        assert!(burst(&mut pace, now + SECOND * 7) <= 2);
        (0..100).for_each(|name| pace.handle_gone(&name));
        assert_eq!(burst(&mut pace, now + SECOND * 13), 100);
    }

    proptest! {
        #[test]
        fn the_rate_holds_in_every_second_after_the_return_and_nobody_is_forgotten(
            arrivals in prop::collection::vec((0_u64..40, any::<bool>()), 1..400),
            rate in 10_u32..300,
        ) {
            let (mut pace, mut now) = new(rate);
            pace.handle_down(now);
            pace.handle_return(now);
            let (mut gone, mut displaced) = (Vec::new(), 0);
            let run = |pace: &mut Pace<u32>, gone: &mut Vec<Instant>, until: Instant| {
                while let Some((due, _)) = pace.poll_timeout().filter(|(due, _)| *due <= until) {
                    if pace.poll_go(due).is_some() {
                        gone.push(due);
                    }
                }
            };
            let count = arrivals.len();
            for (name, (millis, client)) in (0..).zip(arrivals) {
                now += Duration::from_millis(millis);
                run(&mut pace, &mut gone, now);
                let purpose = if client { Client } else { Background };
                match pace.handle_question(name, purpose, now) {
                    Admission::Go => gone.push(now),
                    Admission::Instead(_) => displaced += 1,
                    Admission::Wait => prop_assert!(pace.waiting() <= CAPACITY as usize),
                    Admission::Cooling(_) => prop_assert!(false, "nothing failed"),
                }
            }
            run(&mut pace, &mut gone, now + SECOND * 60);

            prop_assert_eq!(gone.len() + displaced, count);
            let most = rate as usize + rate as usize / 20 + 2;
            for (index, begin) in gone.iter().enumerate() {
                let second = gone[index..].iter().take_while(|at| **at < *begin + SECOND);
                prop_assert!(second.count() <= most);
            }
        }
    }

    const SECOND: Duration = Duration::from_secs(1);
    const CAPACITY: u32 = 100;

    fn new(rate: u32) -> (Pace<u32>, Instant) {
        let now = now();
        (Pace::new(rate, CAPACITY as usize, now), now)
    }

    /// All upstreams are down, and one question has gone.
    fn down(rate: u32) -> (Pace<u32>, Instant) {
        let (mut pace, now) = new(rate);
        pace.handle_down(now);
        assert_eq!(pace.handle_question(0, Client, now), Admission::Go);
        (pace, now)
    }

    fn drain(pace: &mut Pace<u32>, mut now: Instant) -> Vec<u32> {
        let mut gone = Vec::new();
        while let Some((due, _)) = pace.poll_timeout() {
            now = now.max(due);
            gone.extend(pace.poll_go(now));
        }
        gone
    }

    #[expect(clippy::disallowed_methods, reason = "test code")]
    fn now() -> Instant {
        Instant::now()
    }
}
