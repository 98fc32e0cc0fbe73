//! How many connections there may be, and whose gives way when there are too many.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Counts connections, in all and by address.
#[derive(Debug)]
pub struct Admission {
    most: usize,
    most_per_address: usize,
    table: Mutex<Table>,
    ended: Notify,
    starved: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// Connections with a place in the count.
    counted: usize,
    /// Connections that exist, displaced ones that have not ended yet included.
    present: usize,
    /// Connections of each address by age, oldest first.
    addresses: BTreeMap<IpAddr, BTreeMap<u64, Arc<Notify>>>,
}

/// What became of a new connection.
#[derive(Debug)]
pub enum Admitted {
    /// It may stay.
    Yes(Slot),
    /// It may stay; a connection of the address that has most gives way.
    Displacing(Slot),
    /// There are too many.
    No,
}

impl Admission {
    /// At most so many, in all and from one address.
    #[must_use]
    pub fn new(most: usize, most_per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_per_address,
            table: Mutex::default(),
            ended: Notify::new(),
            starved: AtomicBool::new(false),
        })
    }

    /// Asks for a place for a connection from `address`.
    ///
    /// When all places are taken, an address may still have as many as anybody
    /// else: the oldest connection of the address with most of them gives way.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Admitted {
        let mut table = self.table();
        let own = table.of(address);
        if own >= self.most_per_address {
            return Admitted::No;
        }
        if table.counted < self.most {
            return Admitted::Yes(self.enter(&mut table, address));
        }
        if table.displace(own) {
            return Admitted::Displacing(self.enter(&mut table, address));
        }
        Admitted::No
    }

    /// The same where connections end soon by themselves: none gives way.
    pub fn admit_if_free(self: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        let mut table = self.table();
        let free = table.counted < self.most && table.of(address) < self.most_per_address;
        free.then(|| self.enter(&mut table, address))
    }

    fn enter(self: &Arc<Self>, table: &mut Table, address: IpAddr) -> Slot {
        let id = table.next;
        table.next += 1;
        table.counted += 1;
        table.present += 1;
        let displaced = Arc::new(Notify::new());
        table.addresses.entry(address).or_default().insert(id, Arc::clone(&displaced));
        Slot { admission: Arc::clone(self), address, id, displaced }
    }

    /// Whether idle connections should go sooner: few places or no file descriptors are left.
    #[must_use]
    pub fn pressed(&self) -> bool {
        self.starved.load(Ordering::Relaxed) || self.table().counted * 4 >= self.most * 3
    }

    /// Notes whether file descriptors ran out. Returns whether that is news.
    pub fn starve(&self, starved: bool) -> bool {
        self.starved.swap(starved, Ordering::Relaxed) != starved
    }

    /// The number of connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.table().present
    }

    /// Waits until there is no connection.
    pub async fn empty(&self) {
        loop {
            let ended = self.ended.notified();
            if self.connections() == 0 {
                return;
            }
            ended.await;
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// How many connections `address` has, displaced ones left out.
    fn of(&self, address: IpAddr) -> usize {
        self.addresses.get(&address).map_or(0, BTreeMap::len)
    }

    /// Lets the address with most connections lose its oldest, if it has more
    /// than one above `own`.
    fn displace(&mut self, own: usize) -> bool {
        let richest = self.addresses.iter().max_by_key(|(_, connections)| connections.len());
        let Some((&address, _)) = richest.filter(|(_, theirs)| theirs.len() > own + 1) else {
            return false;
        };
        if let Some((_, displaced)) = self.addresses.get_mut(&address).and_then(BTreeMap::pop_first)
        {
            displaced.notify_one();
            self.counted -= 1;
        }
        true
    }
}

/// A connection's place; dropping it gives the place back.
#[derive(Debug)]
pub struct Slot {
    admission: Arc<Admission>,
    address: IpAddr,
    id: u64,
    displaced: Arc<Notify>,
}

impl Slot {
    /// Waits until this connection has to give way to another.
    pub async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.admission.table();
        table.present -= 1;
        if let Some(own) = table.addresses.get_mut(&self.address) {
            let counted = own.remove(&self.id).is_some();
            if own.is_empty() {
                table.addresses.remove(&self.address);
            }
            table.counted -= usize::from(counted);
        }
        if table.present == 0 {
            self.admission.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_no_more_than_its_share() {
        let admission = Admission::new(10, 2);
        let first = yes(admission.admit(address(1)));
        let _second = yes(admission.admit(address(1)));

        assert!(matches!(admission.admit(address(1)), Admitted::No));
        assert!(matches!(admission.admit(address(2)), Admitted::Yes(_)));
        drop(first);
        assert!(matches!(admission.admit(address(1)), Admitted::Yes(_)));
    }

    #[tokio::test]
    async fn a_newcomer_displaces_the_oldest_of_whoever_has_most() {
        let admission = Admission::new(4, 4);
        let greedy: Vec<_> = (0..3).map(|_| yes(admission.admit(address(1)))).collect();
        let _modest = yes(admission.admit(address(2)));

        let Admitted::Displacing(_newcomer) = admission.admit(address(3)) else {
            panic!("not admitted");
        };

        greedy[0].displaced().await;
        // Nobody has two more than the next by now: who comes has to wait.
        assert!(matches!(admission.admit(address(3)), Admitted::No));
        drop(greedy);
        assert_eq!(admission.connections(), 2);
        assert!(matches!(admission.admit(address(3)), Admitted::Yes(_)));
    }

    #[test]
    fn where_none_gives_way_a_newcomer_waits_for_a_place() {
        let admission = Admission::new(2, 1);
        let first = admission.admit_if_free(address(1)).unwrap();
        assert!(admission.admit_if_free(address(1)).is_none(), "its share");
        let _second = admission.admit_if_free(address(2)).unwrap();
        assert!(admission.admit_if_free(address(3)).is_none(), "all places");

        drop(first);

        assert!(admission.admit_if_free(address(3)).is_some());
    }

    #[test]
    fn few_places_or_no_file_descriptors_are_pressure() {
        let admission = Admission::new(4, 4);
        let _two: Vec<_> = (0..2).map(|_| yes(admission.admit(address(1)))).collect();
        assert!(!admission.pressed());

        assert!(admission.starve(true));
        assert!(!admission.starve(true));
        assert!(admission.pressed());

        admission.starve(false);
        let _third = yes(admission.admit(address(1)));
        assert!(admission.pressed());
    }

    fn yes(admitted: Admitted) -> Slot {
        match admitted {
            Admitted::Yes(slot) => slot,
            Admitted::Displacing(_) | Admitted::No => panic!("{admitted:?}"),
        }
    }

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }
}
