//! The handshakes under way: when clients have to prove their addresses, and who gives way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Handshakes under way from which on a client must prove its address first.
const UNPROVEN: usize = 32;
/// Handshakes under way at the same time.
const MOST: usize = 256;

/// Counts handshakes. When there are too many, the oldest gives way: an honest one takes
/// milliseconds, so the oldest is the least likely to be one.
#[derive(Debug, Default)]
pub(super) struct Handshakes(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// By age, oldest first.
    under_way: BTreeMap<u64, Arc<Notify>>,
}

impl Handshakes {
    /// Whether a client whose address is not `proven` has to prove it (RFC 9000 section 8.1.2),
    /// so that forged addresses fill no more than a part of the places.
    pub(super) fn must_prove(&self, proven: bool) -> bool {
        !proven && self.table().under_way.len() >= UNPROVEN
    }

    /// Begins one.
    pub(super) fn begin(self: &Arc<Self>) -> Handshake {
        let mut table = self.table();
        if table.under_way.len() >= MOST
            && let Some((_, oldest)) = table.under_way.pop_first()
        {
            oldest.notify_one();
        }
        let id = table.next;
        table.next += 1;
        let given_up = Arc::new(Notify::new());
        table.under_way.insert(id, Arc::clone(&given_up));
        Handshake { all: Arc::clone(self), id, given_up }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handshake under way; dropping it ends the count.
#[derive(Debug)]
pub(super) struct Handshake {
    all: Arc<Handshakes>,
    id: u64,
    given_up: Arc<Notify>,
}

impl Handshake {
    /// Waits until this one has to give way.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.table().under_way.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_to_be_proven_from_some_number_of_handshakes_on() {
        let handshakes = Arc::<Handshakes>::default();
        let mut few: Vec<_> = (1..UNPROVEN).map(|_| handshakes.begin()).collect();
        assert!(!handshakes.must_prove(false));

        few.push(handshakes.begin());
        assert!(handshakes.must_prove(false));
        assert!(!handshakes.must_prove(true));

        few.pop();
        assert!(!handshakes.must_prove(false));
    }

    #[tokio::test]
    async fn the_oldest_handshake_gives_way_to_one_too_many() {
        let handshakes = Arc::<Handshakes>::default();
        let all: Vec<_> = (0..MOST).map(|_| handshakes.begin()).collect();

        let _newcomer = handshakes.begin();

        all[0].given_up().await;
        assert_eq!(handshakes.table().under_way.len(), MOST);
        drop(all);
        assert_eq!(handshakes.table().under_way.len(), 1);
    }
}
