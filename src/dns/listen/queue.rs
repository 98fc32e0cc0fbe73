//! Questions that wait for their answers: how many there may be, and which gives way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Counts what waits. When it is full the oldest gives way: most likely its client has given up,
/// or waits for an upstream that does not answer.
#[derive(Debug)]
pub(super) struct Queue {
    most: usize,
    table: Mutex<Table>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// What those count for who have not been told to give way.
    used: usize,
    /// Questions that exist, those included that have been told to give way.
    present: usize,
    /// By age, oldest first; what each counts for.
    waiting: BTreeMap<u64, (usize, Arc<Notify>)>,
}

impl Queue {
    /// A queue of questions that count for `most` together.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, table: Mutex::default(), left: Notify::new() })
    }

    /// Whether somebody would have to give way to a question that counts for `cost`.
    pub(super) fn is_full(&self, cost: usize) -> bool {
        self.table().used + cost > self.most
    }

    /// Takes a place. Returns how many had to give way to it.
    pub(super) fn enter(self: &Arc<Self>, cost: usize) -> (Place, usize) {
        let mut table = self.table();
        let mut displaced = 0;
        while table.used + cost > self.most {
            let Some((_, (freed, oldest))) = table.waiting.pop_first() else { break };
            oldest.notify_one();
            table.used -= freed;
            displaced += 1;
        }
        let id = table.next;
        table.next += 1;
        table.used += cost;
        table.present += 1;
        let told = Arc::new(Notify::new());
        table.waiting.insert(id, (cost, Arc::clone(&told)));
        (Place { queue: Arc::clone(self), id, told }, displaced)
    }

    /// Waits until nobody waits.
    pub(super) async fn empty(&self) {
        loop {
            let left = self.left.notified();
            if self.table().present == 0 {
                return;
            }
            left.await;
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question's place; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Place {
    queue: Arc<Queue>,
    id: u64,
    told: Arc<Notify>,
}

impl Place {
    /// Waits until this question has to give way to a younger one.
    pub(super) async fn displaced(&self) {
        self.told.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.queue.table();
        table.present -= 1;
        if let Some((cost, _)) = table.waiting.remove(&self.id) {
            table.used -= cost;
        }
        if table.present == 0 {
            self.queue.left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_give_way_to_whoever_comes_when_all_places_are_taken() {
        let queue = Queue::new(4);
        let (first, _) = queue.enter(1);
        let (second, _) = queue.enter(1);
        let (_third, none) = queue.enter(2);
        assert!(none == 0 && queue.is_full(1));

        let (_large, displaced) = queue.enter(2);

        assert_eq!(displaced, 2);
        first.displaced().await;
        second.displaced().await;
        assert!(queue.is_full(1), "who has been told to go no longer counts");
    }

    #[tokio::test]
    async fn a_place_given_back_is_free() {
        let queue = Queue::new(1);
        let (place, _) = queue.enter(1);
        drop(place);

        assert!(!queue.is_full(1));
        queue.empty().await;
    }

    #[tokio::test]
    async fn one_question_has_room_whatever_it_counts_for() {
        let queue = Queue::new(1);

        let (_place, displaced) = queue.enter(64);

        assert_eq!(displaced, 0);
        assert!(queue.is_full(1));
    }
}
