//! A pool of time servers under one name: who sits in its places, and who is replaced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::sources::Verdict;

/// A member that has been of no use for so long gives up its place.
const PATIENCE: Duration = Duration::from_secs(600);
/// It does not come back for so long.
const REST: Duration = Duration::from_secs(86_400);
/// An empty place is looked up for after this, then half as often each time.
const LOOK_UP: Duration = Duration::from_secs(64);
/// It is looked up at least this often.
const SELDOM: Duration = Duration::from_secs(3600);
/// Who rests is remembered up to this many.
const RESTING: usize = 64;

/// What a pool wants done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PoolEvent {
    /// Find addresses of the name; then [`Pool::handle_found`].
    LookUp,
    /// The place (by its number) belongs to this address, or to nobody.
    Seat(usize, Option<IpAddr>),
}

/// The places of one pool.
///
/// Sans I/O: feed it with `handle_*`, take [`Self::poll_event`] until it is empty. It keeps no
/// timer: [`Self::handle_timeout`] is to be called each second or so while names may be trusted.
#[derive(Clone, Debug)]
pub struct Pool {
    places: Vec<Option<Member>>,
    resting: BTreeMap<IpAddr, Instant>,
    next_look_up: Instant,
    pause: Duration,
    events: VecDeque<PoolEvent>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    address: IpAddr,
    useless_since: Option<Instant>,
}

impl Pool {
    /// A pool of so many places, all empty.
    #[must_use]
    pub fn new(places: usize, now: Instant) -> Self {
        Self {
            places: vec![None; places],
            resting: BTreeMap::new(),
            next_look_up: now,
            pause: LOOK_UP,
            events: VecDeque::new(),
        }
    }

    /// Who sits where.
    pub fn members(&self) -> impl Iterator<Item = Option<IpAddr>> + '_ {
        self.places.iter().map(|place| place.map(|member| member.address))
    }

    /// These addresses were found under the name, the best first; `taken` are sources already.
    pub fn handle_found(&mut self, found: &[IpAddr], taken: &BTreeSet<IpAddr>, now: Instant) {
        self.resting.retain(|_, since| now.saturating_duration_since(*since) < REST);
        let sitting: BTreeSet<_> = self.members().flatten().collect();
        let mut fresh: Vec<_> = Vec::new();
        for address in found {
            let known = taken.contains(address) || sitting.contains(address);
            if !known && !self.resting.contains_key(address) && !fresh.contains(address) {
                fresh.push(*address);
            }
        }
        let mut fresh = fresh.into_iter();
        for (index, place) in self.places.iter_mut().enumerate().filter(|(_, it)| it.is_none()) {
            let Some(address) = fresh.next() else { break };
            *place = Some(Member { address, useless_since: None });
            self.events.push_back(PoolEvent::Seat(index, Some(address)));
        }
        if self.places.iter().all(Option::is_some) {
            self.pause = LOOK_UP;
        }
    }

    /// What selection makes of the member at each place; `others_agree`: whether sources beside it do,
    /// without whom nothing tells a bad member from a bad link.
    pub fn handle_verdicts(&mut self, verdicts: &[Verdict], others_agree: bool, now: Instant) {
        for (index, (place, verdict)) in self.places.iter_mut().zip(verdicts).enumerate() {
            let Some(member) = place else { continue };
            let useless = match verdict {
                Verdict::Denied => true,
                Verdict::Falseticker | Verdict::Silent => others_agree,
                Verdict::Truechimer | Verdict::Undecided => false,
            };
            if !useless {
                member.useless_since = None;
                continue;
            }
            let since = *member.useless_since.get_or_insert(now);
            if *verdict == Verdict::Denied || now.saturating_duration_since(since) >= PATIENCE {
                if self.resting.len() >= RESTING {
                    self.resting.pop_first();
                }
                self.resting.insert(member.address, now);
                *place = None;
                self.next_look_up = self.next_look_up.min(now);
                self.events.push_back(PoolEvent::Seat(index, None));
            }
        }
    }

    /// Looks for members if a place is empty and it is time to.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.next_look_up || self.places.iter().all(Option::is_some) {
            return;
        }
        self.next_look_up = now + self.pause;
        self.pause = (self.pause * 2).min(SELDOM);
        self.events.push_back(PoolEvent::LookUp);
    }

    /// The next thing to do, oldest first.
    pub fn poll_event(&mut self) -> Option<PoolEvent> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Verdict = Verdict::Truechimer;

    #[test]
    fn its_places_are_filled_with_who_is_no_source_already() {
        let mut pool = Pool::new(3, start());
        pool.handle_timeout(start());
        assert_eq!(events(&mut pool), [PoolEvent::LookUp]);

        pool.handle_found(&[ip(1), ip(2), ip(2), ip(3)], &BTreeSet::from([ip(1)]), start());

        assert_eq!(
            events(&mut pool),
            [PoolEvent::Seat(0, Some(ip(2))), PoolEvent::Seat(1, Some(ip(3)))]
        );
        assert_eq!(pool.members().collect::<Vec<_>>(), [Some(ip(2)), Some(ip(3)), None]);
    }

    #[test]
    fn who_is_silent_or_lies_for_ten_minutes_is_replaced_and_stays_away_for_a_day() {
        for verdict in [Verdict::Silent, Verdict::Falseticker] {
            let now = start();
            let mut pool = full(now);
            let at = |secs| now + Duration::from_secs(secs);

            for secs in 0..600 {
                pool.handle_verdicts(&[GOOD, verdict], true, at(secs));
            }
            assert_eq!(events(&mut pool), []);
            pool.handle_verdicts(&[GOOD, verdict], true, at(600));
            assert_eq!(events(&mut pool), [PoolEvent::Seat(1, None)]);

            pool.handle_timeout(at(600));
            assert_eq!(events(&mut pool), [PoolEvent::LookUp]);
            pool.handle_found(&[ip(1), ip(2)], &BTreeSet::new(), at(665));
            assert_eq!(events(&mut pool), [], "it is the same again");
            pool.handle_found(&[ip(2), ip(9)], &BTreeSet::new(), at(666));
            assert_eq!(events(&mut pool), [PoolEvent::Seat(1, Some(ip(9)))]);

            pool.handle_verdicts(&[Verdict::Denied, GOOD], false, at(700));
            assert_eq!(events(&mut pool), [PoolEvent::Seat(0, None)]);
            pool.handle_found(&[ip(2)], &BTreeSet::new(), at(86_400 + 701));
            assert_eq!(events(&mut pool), [PoolEvent::Seat(0, Some(ip(2)))]);
        }
    }

    #[test]
    fn when_nobody_answers_nobody_is_blamed() {
        let now = start();
        let mut pool = full(now);
        for hour in 0..72 {
            let at = now + Duration::from_secs(hour * 3600);
            pool.handle_verdicts(&[Verdict::Silent; 2], false, at);
            pool.handle_timeout(at);
        }
        assert_eq!(events(&mut pool), []);

        // Those that were silent in the outage have ten minutes from its end on.
        let back = now + Duration::from_secs(73 * 3600);
        pool.handle_verdicts(&[Verdict::Silent; 2], true, back);
        assert_eq!(events(&mut pool), []);
    }

    #[test]
    fn a_name_without_addresses_is_looked_up_ever_more_seldom_and_always() {
        let now = start();
        let mut pool = Pool::new(2, now);
        let mut asked = Vec::new();
        for secs in 0..86_400 {
            pool.handle_timeout(now + Duration::from_secs(secs));
            asked.extend(pool.poll_event().map(|_| secs));
        }
        assert_eq!(asked[..4], [0, 64, 192, 448]);
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] <= 3600), "{asked:?}");
        assert!(asked.len() < 40, "{asked:?}");
    }

    fn full(now: Instant) -> Pool {
        let mut pool = Pool::new(2, now);
        pool.handle_found(&[ip(1), ip(2)], &BTreeSet::new(), now);
        events(&mut pool);
        pool
    }

    fn events(pool: &mut Pool) -> Vec<PoolEvent> {
        std::iter::from_fn(|| pool.poll_event()).collect()
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }
}
