//! One lock's worth of the cache: a bounded store that a scan cannot empty.
//!
//! Eviction is S3-FIFO (Yang et al., SOSP 2023). An entry starts in a small
//! queue that holds a tenth of the bytes. When room is needed, the oldest of
//! the small queue goes: into the main queue if somebody asked for it again,
//! else out, leaving its hash behind in a table of ghosts. An entry whose ghost
//! is remembered starts in the main queue. There the oldest goes round again
//! as often as it was asked for, three times at most, before it leaves. So a
//! flood of names asked once only ever passes through the small queue.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Answer, ChainId, Key, Lookup, Provenance, Settled, Standing, Stats, View};

/// What an entry costs beside its answer's octets: slot, index, queue, shared answer.
const OVERHEAD: usize = 200;

/// For how long after a failed refresh nobody waits for another (RFC 8767 section 5, failure
/// recheck timer).
const HOLD: Duration = Duration::from_secs(30);

/// How long after a failed refresh the next one may begin behind a stale answer.
const RETRY: Duration = Duration::from_secs(1);

/// Uses beyond this many do not count.
const HITS_MAX: u8 = 3;

#[derive(Debug)]
pub(super) struct Shard {
    /// Slot by hash. Two keys of one hash displace each other.
    index: HashMap<u64, u32, BuildHasherDefault<Identity>>,
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    /// Hashes of what left the small queue unused, each at its own place, newest only.
    ghosts: Box<[u32]>,
    limit: usize,
    bytes: usize,
    small_bytes: usize,
    inserted: u64,
    evicted: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) answer: Arc<Answer>,
    pub(super) standing: Standing,
    pub(super) view: View,
    hash: u64,
    stored: Instant,
    /// When a refresh last failed or was too slow.
    failed: Option<Instant>,
    flags: u8,
    hits: u8,
    in_main: bool,
    refreshing: bool,
}

impl Shard {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            index: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: vec![0; 1 + limit / OVERHEAD].into(),
            limit,
            bytes: 0,
            small_bytes: 0,
            inserted: 0,
            evicted: 0,
        }
    }

    pub(super) fn get(
        &mut self,
        hash: u64,
        key: &Key<'_>,
        stale: Duration,
        now: Instant,
    ) -> Lookup {
        let Some(entry) = self.find(hash).filter(|entry| entry.is(key)) else {
            return Lookup::Miss;
        };
        let age = now.saturating_duration_since(entry.stored);
        let answer = Arc::clone(&entry.answer);
        let failed_for = entry.failed.map(|at| now.saturating_duration_since(at));
        let held = failed_for.is_some_and(|since| since < HOLD);
        let retry = !entry.refreshing && failed_for.is_none_or(|since| since >= RETRY);
        if age < entry.lifetime() {
            let due = entry.lifetime().saturating_sub(age) < entry.lifetime() / 10;
            let refresh = due && retry && entry.hits > 0;
            entry.refreshing |= refresh;
            entry.hits = HITS_MAX.min(entry.hits + 1);
            let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
            return Lookup::Fresh { answer, age, refresh };
        }
        if !entry.stale_at(now, stale) {
            return Lookup::Miss;
        }
        entry.hits = HITS_MAX.min(entry.hits + 1);
        let refresh = held && retry;
        entry.refreshing |= refresh;
        Lookup::Stale { answer, held, refresh }
    }

    pub(super) fn insert(
        &mut self,
        hash: u64,
        key: &Key<'_>,
        answer: Arc<Answer>,
        standing: Standing,
        stale: Duration,
        now: Instant,
    ) -> bool {
        let cost = answer.size() + OVERHEAD;
        if answer.lifetime() == 0 || cost > self.limit {
            return false;
        }
        let failure = !answer.rcode().is_answer();
        let mut entry = Entry {
            answer,
            standing,
            view: key.view,
            hash,
            stored: now,
            failed: None,
            flags: key.flags(),
            hits: 0,
            in_main: false,
            refreshing: false,
        };
        if let Some(known) = self.find(hash) {
            if failure && known.is(key) && known.outlasts_failure(now, stale) {
                known.hold(now);
                return false;
            }
            // The place in the queue stays, and with it what is known of its use.
            entry.hits = known.hits;
            entry.in_main = known.in_main;
            let (old, in_main) = (known.cost(), known.in_main);
            *known = entry;
            self.bytes = self.bytes - old + cost;
            if !in_main {
                self.small_bytes = self.small_bytes - old + cost;
            }
        } else {
            entry.in_main = self.forget_ghost(hash);
            self.push(entry);
        }
        self.inserted += 1;
        while self.bytes > self.limit && self.evict() {}
        true
    }

    /// See [`super::Cache::hold`].
    pub(super) fn hold(&mut self, hash: u64, key: &Key<'_>, now: Instant) {
        if let Some(entry) = self.find(hash).filter(|entry| entry.is(key)) {
            entry.hold(now);
        }
    }

    /// See [`super::Cache::settle`].
    pub(super) fn settle(&mut self, passed: &BTreeSet<ChainId>, settled: &mut Settled) {
        for entry in self.slots.iter_mut().flatten() {
            let provenance = &mut entry.standing.provenance;
            if matches!(provenance, Provenance::Relaxed(chain) if passed.contains(chain)) {
                *provenance = Provenance::Strict;
                settled.kept += 1;
            }
        }
        settled.dropped += self.drop_where(Entry::is_relaxed);
    }

    /// Drops the entries of which `doomed` is true; returns how many.
    pub(super) fn drop_where(&mut self, mut doomed: impl FnMut(&Entry) -> bool) -> usize {
        let before = self.index.len();
        for slot in &mut self.slots {
            if let Some(entry) = slot.take_if(|entry| doomed(entry)) {
                self.index.remove(&entry.hash);
                self.bytes -= entry.cost();
                if !entry.in_main {
                    self.small_bytes -= entry.cost();
                }
            }
        }
        let dropped = before - self.index.len();
        if dropped > 0 {
            for queue in [&mut self.small, &mut self.main] {
                queue.retain(|&slot| {
                    let used = self.slots.get(slot as usize).is_some_and(Option::is_some);
                    if !used {
                        self.free.push(slot);
                    }
                    used
                });
            }
        }
        dropped
    }

    pub(super) fn add_to(&self, stats: &mut Stats) {
        stats.entries += self.index.len();
        stats.relaxed += self.slots.iter().flatten().filter(|entry| entry.is_relaxed()).count();
        stats.bytes += self.bytes;
        stats.inserted += self.inserted;
        stats.evicted += self.evicted;
    }

    fn find(&mut self, hash: u64) -> Option<&mut Entry> {
        let slot = *self.index.get(&hash)?;
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    fn push(&mut self, entry: Entry) {
        let (hash, cost, in_main) = (entry.hash, entry.cost(), entry.in_main);
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(entry);
            slot
        } else {
            // A shard of 2^32 entries would hold 800 GiB.
            let Ok(slot) = u32::try_from(self.slots.len()) else { return };
            self.slots.push(Some(entry));
            slot
        };
        self.index.insert(hash, slot);
        self.bytes += cost;
        if in_main {
            self.main.push_back(slot);
        } else {
            self.small_bytes += cost;
            self.small.push_back(slot);
        }
    }

    /// Makes room by one entry; false if there is none left.
    fn evict(&mut self) -> bool {
        loop {
            let from_small = self.small_bytes > self.limit / 10 || self.main.is_empty();
            let queue = if from_small { &mut self.small } else { &mut self.main };
            let Some(slot) = queue.pop_front() else { return false };
            let Some(place) = self.slots.get_mut(slot as usize) else { continue };
            let Some(entry) = place.as_mut() else {
                self.free.push(slot);
                continue;
            };
            let cost = entry.cost();
            if from_small {
                self.small_bytes -= cost;
            }
            if entry.hits > 0 {
                entry.hits = if from_small { 0 } else { entry.hits - 1 };
                entry.in_main = true;
                self.main.push_back(slot);
                continue;
            }
            let hash = entry.hash;
            *place = None;
            self.bytes -= cost;
            self.index.remove(&hash);
            self.free.push(slot);
            self.evicted += 1;
            if from_small {
                self.remember_ghost(hash);
            }
            return true;
        }
    }

    fn remember_ghost(&mut self, hash: u64) {
        let (place, mark) = self.ghost(hash);
        *place = mark;
    }

    /// Whether the hash left the small queue not long ago; it is forgotten by asking.
    fn forget_ghost(&mut self, hash: u64) -> bool {
        let (place, mark) = self.ghost(hash);
        let known = *place == mark;
        if known {
            *place = 0;
        }
        known
    }

    fn ghost(&mut self, hash: u64) -> (&mut u32, u32) {
        let at = (hash & 0xffff_ffff) as usize % self.ghosts.len();
        // Zero stands for an empty place.
        let mark = (hash >> 32) as u32 | 1;
        (&mut self.ghosts[at], mark)
    }
}

impl Entry {
    fn is(&self, key: &Key<'_>) -> bool {
        self.flags == key.flags() && self.view == key.view && self.answer.question() == key.question
    }

    fn is_relaxed(&self) -> bool {
        self.standing.provenance != Provenance::Strict
    }

    fn hold(&mut self, now: Instant) {
        self.failed = Some(now);
        self.refreshing = false;
    }

    fn cost(&self) -> usize {
        self.answer.size() + OVERHEAD
    }

    fn lifetime(&self) -> Duration {
        Duration::from_secs(self.answer.lifetime().into())
    }

    /// Whether it is past its lifetime and may still be given out.
    fn stale_at(&self, now: Instant, stale: Duration) -> bool {
        let age = now.saturating_duration_since(self.stored);
        self.standing.lasts(self.answer.rcode())
            && age >= self.lifetime()
            && age < self.lifetime() + stale
    }

    /// Whether a failure has to leave this answer in place.
    fn outlasts_failure(&self, now: Instant, stale: Duration) -> bool {
        let fresh = now.saturating_duration_since(self.stored) < self.lifetime();
        self.answer.rcode().is_answer() && (fresh || self.stale_at(now, stale))
    }
}

/// Passes a hash through that is keyed and mixed already.
#[derive(Debug, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
