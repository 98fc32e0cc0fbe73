//! Who asks for the time, and how often: for people, bounded in memory whatever addresses ask.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Addresses remembered at most: so many sets of four.
const SETS: usize = 1024;
const WAYS: usize = 4;

/// By what a client knows an answer for ours.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// By a shared key.
    Key,
    /// By keys that were exchanged (RFC 8915).
    Nts,
    /// By nothing.
    #[default]
    Plain,
}

/// One question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Met {
    pub(super) from: IpAddr,
    pub(super) answered: bool,
    pub(super) how: How,
}

/// One address that has asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Client {
    /// Whose.
    pub address: IpAddr,
    /// Its questions.
    pub asked: u64,
    /// Those that got no answer.
    pub dropped: u64,
    /// When the last one came.
    pub last: Instant,
    /// A running mean of the time between two.
    pub interval: Option<Duration>,
    /// How the last one was protected.
    pub how: How,
}

/// The addresses that have asked. Where there is no room, the one that was silent longest of a few
/// is forgotten.
#[derive(Debug)]
pub(super) struct Census {
    sets: Mutex<Vec<[Option<Client>; WAYS]>>,
    /// Nobody outside can tell which addresses share a set.
    hasher: RandomState,
}

impl Census {
    pub(super) fn new() -> Self {
        Self { sets: Mutex::default(), hasher: RandomState::new() }
    }

    pub(super) fn count(&self, met: impl Iterator<Item = Met>, now: Instant) {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if sets.is_empty() {
            sets.resize(SETS, [None; WAYS]);
        }
        for Met { from, answered, how } in met {
            #[expect(clippy::cast_possible_truncation, reason = "a hash")]
            let at = self.hasher.hash_one(from) as usize % SETS;
            let Some(set) = sets.get_mut(at) else { continue };
            let known = set.iter_mut().flatten().find(|client| client.address == from);
            if let Some(client) = known {
                let since = now.saturating_duration_since(client.last);
                client.interval =
                    Some(client.interval.map_or(since, |mean| (mean * 7 + since) / 8));
                client.asked += 1;
                client.dropped += u64::from(!answered);
                (client.last, client.how) = (now, how);
            } else if let Some(slot) = set.iter_mut().min_by_key(|slot| slot.map(|it| it.last)) {
                let dropped = u64::from(!answered);
                *slot = Some(Client {
                    address: from,
                    asked: 1,
                    dropped,
                    last: now,
                    interval: None,
                    how,
                });
            }
        }
    }

    /// Those remembered, who asked most first.
    pub(super) fn clients(&self) -> Vec<Client> {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut clients: Vec<_> = sets.iter().flatten().flatten().copied().collect();
        drop(sets);
        clients.sort_by_key(|client| (std::cmp::Reverse(client.asked), client.address));
        clients
    }

    pub(super) fn forget(&self) {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_s_questions_are_counted_and_their_interval_is_known() {
        let (census, start) = (Census::new(), now());
        for second in 0..10 {
            let met = [met([10, 0, 0, 1], second != 3), met([10, 0, 0, 2], true)];
            let asking = met.into_iter().take(if second == 0 { 2 } else { 1 });
            census.count(asking, start + Duration::from_secs(16 * second));
        }

        let clients = census.clients();
        let [first, second] = &clients[..] else { panic!("{clients:?}") };
        assert_eq!((first.asked, first.dropped), (10, 1));
        assert_eq!(first.interval, Some(Duration::from_secs(16)));
        assert_eq!((second.asked, second.interval), (1, None));
        census.forget();
        assert_eq!(census.clients(), []);
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_who_goes_on_asking_is_remembered() {
        let (census, start) = (Census::new(), now());
        for round in 0..400u32 {
            let at = start + Duration::from_millis(round.into());
            let flood =
                (0..100).map(|one| met((0x0a00_0000 + round * 100 + one).to_be_bytes(), true));
            census.count(flood.chain([met([192, 0, 2, 1], true)]), at);
        }

        let clients = census.clients();
        assert!(clients.len() <= SETS * WAYS, "{}", clients.len());
        assert_eq!(clients[0].address, IpAddr::from([192, 0, 2, 1]));
        assert!(clients[0].asked > 200, "{:?}", clients[0]);
    }

    fn met(address: [u8; 4], answered: bool) -> Met {
        Met { from: address.into(), answered, how: How::Plain }
    }

    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    fn now() -> Instant {
        Instant::now()
    }
}
