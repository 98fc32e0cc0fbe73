//! What the server remembers of clients in interleaved mode (RFC 9769 section 2): when an answer
//! really left is known only once it has, and told with the next one.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Clients remembered at most: two whose addresses fall on one slot take it from each other, and
/// are then answered in basic mode.
const SLOTS: usize = 4096;
/// Slots behind one lock.
const SHARE: usize = 64;

/// The last answer to each client.
#[derive(Debug)]
pub(super) struct Earlier {
    hasher: RandomState,
    shares: Box<[Mutex<[Slot; SHARE]>]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Tells clients apart.
    client: u64,
    /// The receive timestamp of the answer.
    received: u64,
    /// When the answer left; 0 until that is known.
    sent: u64,
}

impl Earlier {
    pub(super) fn new() -> Self {
        let shares = (0..SLOTS / SHARE).map(|_| Mutex::new([Slot::default(); SHARE]));
        Self { hasher: RandomState::new(), shares: shares.collect() }
    }

    /// When the answer to `client` left that had the receive timestamp `received`.
    pub(super) fn sent_at(&self, client: IpAddr, received: u64) -> Option<u64> {
        self.with(client, |slot, client| {
            let same = slot.client == client && slot.received == received && slot.sent != 0;
            same.then_some(slot.sent)
        })
    }

    /// An answer with the receive timestamp `received` is on its way to `client`.
    pub(super) fn answering(&self, client: IpAddr, received: u64) {
        self.with(client, |slot, client| *slot = Slot { client, received, sent: 0 });
    }

    /// It left at `sent`.
    pub(super) fn left(&self, client: IpAddr, received: u64, sent: u64) {
        self.with(client, |slot, client| {
            if slot.client == client && slot.received == received {
                slot.sent = sent;
            }
        });
    }

    /// Forgets all answers, those on their way included: their times are those of another clock.
    pub(super) fn forget(&self) {
        for share in &self.shares {
            *locked(share) = [Slot::default(); SHARE];
        }
    }

    fn with<T>(&self, client: IpAddr, then: impl FnOnce(&mut Slot, u64) -> T) -> T {
        let hash = self.hasher.hash_one(client);
        let place = usize::try_from(hash % SLOTS as u64).unwrap_or_default();
        let mut share = locked(&self.shares[place / SHARE]);
        then(&mut share[place % SHARE], hash)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_answer_is_remembered_for_its_client_and_once_it_has_left() {
        let (earlier, client) = (Earlier::new(), IpAddr::from([192, 0, 2, 1]));
        earlier.answering(client, 7);
        assert_eq!(earlier.sent_at(client, 7), None);

        earlier.left(client, 8, 100);
        assert_eq!(earlier.sent_at(client, 7), None, "another answer left");
        earlier.left(client, 7, 100);

        assert_eq!(earlier.sent_at(client, 7), Some(100));
        assert_eq!(earlier.sent_at(client, 8), None);
        assert_eq!(earlier.sent_at(IpAddr::from([192, 0, 2, 2]), 7), None);
    }

    #[test]
    fn what_left_before_the_clock_was_set_is_not_told() {
        let (earlier, client) = (Earlier::new(), IpAddr::from([192, 0, 2, 1]));
        let on_its_way = IpAddr::from([192, 0, 2, 2]);
        earlier.answering(client, 7);
        earlier.left(client, 7, 100);
        earlier.answering(on_its_way, 8);

        earlier.forget();
        earlier.left(on_its_way, 8, 100);

        assert_eq!(earlier.sent_at(client, 7), None);
        assert_eq!(earlier.sent_at(on_its_way, 8), None);
    }

    #[test]
    fn more_clients_than_there_is_room_for_forget_one_another() {
        let earlier = Earlier::new();
        let client = |number: u32| IpAddr::from(Ipv4Addr::from(number));
        for number in 0..100_000 {
            earlier.answering(client(number), 1);
            earlier.left(client(number), 1, 2);
        }

        let known = (0..100_000).filter(|it| earlier.sent_at(client(*it), 1).is_some()).count();

        assert!((SLOTS / 2..=SLOTS).contains(&known), "{known}");
    }
}
