//! One lock's worth of the cache: a bounded store that a scan cannot empty.
//!
//! Eviction is S3-FIFO (Yang et al., SOSP 2023). An entry starts in a small
//! queue that holds a tenth of the bytes. When room is needed, the oldest of
//! the small queue goes: into the main queue if somebody asked for it again,
//! else out, leaving its hash behind in a table of ghosts. An entry whose ghost
//! is remembered starts in the main queue. There the oldest goes round again
//! as often as it was asked for, three times at most, before it leaves. So a
//! flood of names asked once only ever passes through the small queue.
//!
//! Long answers have a queue of their own, and an eighth of the bytes: a few of
//! them cannot push out thousands of short ones, however often they are used.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use hashbrown::HashTable;

use super::answer::allocated;
use super::entry::USES_MAX;
use super::{Answer, Key, Stats};

/// What an entry costs beside its answer: slot (8 bytes), index (5, of which up to half is free),
/// queue (4), ghost (4), with the slack they grow by.
const PLACE: usize = 28;

/// Answers that cost more than this count as long.
const LONG: usize = 4096;

/// The queues.
const SMALL: u8 = 0;
const MAIN: u8 = 1;
const LARGE: u8 = 2;

#[derive(Debug)]
pub(super) struct Shard {
    /// Slots by the hash of what is in them.
    index: HashTable<u32>,
    slots: Vec<Option<Answer>>,
    free: Vec<u32>,
    queues: [Queue; 3],
    /// Hashes of what left the small queue unused, each at its own place, newest only.
    ghosts: Box<[u32]>,
    limit: usize,
    relaxed: usize,
    inserted: u64,
    evicted: u64,
}

/// Slots, oldest first. One whose entry was dropped may stand in it until it is met.
#[derive(Debug, Default)]
struct Queue {
    slots: VecDeque<u32>,
    bytes: usize,
}

impl Shard {
    /// The rank of what is used most.
    pub(super) const HIGHEST: u8 = USES_MAX + 1;

    pub(super) fn new(limit: usize) -> Self {
        Self {
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            queues: Default::default(),
            ghosts: vec![0; 1 + limit / (allocated(64) + PLACE)].into(),
            limit,
            relaxed: 0,
            inserted: 0,
            evicted: 0,
        }
    }

    pub(super) fn find(&self, hash: u32, key: &Key<'_>) -> Option<&Answer> {
        self.answer(self.find_slot(hash, key)?)
    }

    /// Whether an answer of this size could stay at all.
    pub(super) fn takes(&self, answer: &Answer) -> bool {
        let cost = cost(answer);
        cost <= if cost > LONG { self.limit / 8 } else { self.limit }
    }

    /// Takes an answer that bears its notes, in place of the one there is for `key`.
    pub(super) fn insert(&mut self, key: &Key<'_>, answer: Answer) {
        let hash = answer.entry().hash;
        let long = cost(&answer) > LONG;
        if let Some(slot) = self.find_slot(hash, key)
            && let Some(before) = self.slots[slot as usize].take()
        {
            self.put_off(&before);
            answer.entry().succeed(before.entry());
            let queue = before.entry().queue.load(Ordering::Relaxed);
            if (queue == LARGE) == long {
                // The place in the queue stays, and with it what is known of its use.
                answer.entry().queue.store(queue, Ordering::Relaxed);
                self.take_on(&answer);
                self.slots[slot as usize] = Some(answer);
            } else {
                self.release(slot, hash, queue);
                self.push(answer, if long { LARGE } else { SMALL });
            }
        } else if long {
            self.push(answer, LARGE);
        } else {
            let queue = if self.forget_ghost(hash) { MAIN } else { SMALL };
            self.push(answer, queue);
        }
        self.inserted += 1;
        while self.bytes() > self.limit && self.evict() {}
    }

    /// Takes an answer from a snapshot, unless there is one for `key` that is no failure; returns
    /// whether it was taken. One that was `used` is safe from scans.
    pub(super) fn restore(&mut self, key: &Key<'_>, answer: &Answer, used: bool) -> bool {
        if !self.takes(answer) {
            return false;
        }
        let hash = answer.entry().hash;
        if let Some(slot) = self.find_slot(hash, key) {
            let place = &mut self.slots[slot as usize];
            let Some(failure) = place.take_if(|known| !known.rcode().is_answer()) else {
                return false;
            };
            self.put_off(&failure);
            self.release(slot, hash, failure.entry().queue.load(Ordering::Relaxed));
        }
        let short = if used { MAIN } else { SMALL };
        self.push(answer.clone(), if cost(answer) > LONG { LARGE } else { short });
        while self.bytes() > self.limit && self.evict() {}
        true
    }

    /// Copies those of a rank in the slots from `from` on, at most `count` slots, to `answers`;
    /// false behind the last slot.
    pub(super) fn ranked(
        &self,
        from: usize,
        count: usize,
        rank: u8,
        answers: &mut Vec<Answer>,
    ) -> bool {
        self.copy(from, count, |answer| Self::rank(answer) == rank, answers)
    }

    /// The same for those about a name.
    pub(super) fn named(
        &self,
        from: usize,
        count: usize,
        name: &[u8],
        answers: &mut Vec<Answer>,
    ) -> bool {
        self.copy(from, count, |answer| answer.name() == name, answers)
    }

    /// Drops those in the slots from `from` on, at most `count` slots, of which `doomed` is true;
    /// gives how many, and `None` behind the last slot. [`Self::tidy`] ends it.
    pub(super) fn drop_page(
        &mut self,
        from: usize,
        count: usize,
        mut doomed: impl FnMut(&Answer) -> bool,
    ) -> Option<usize> {
        let page = from..self.slots.len().min(from + count);
        if page.is_empty() {
            return None;
        }
        let mut dropped = 0;
        for at in page {
            let Some(answer) = &self.slots[at] else { continue };
            let relaxed = answer.entry().is_relaxed();
            let doomed = doomed(answer);
            // The look at it may have settled it.
            self.relaxed -= usize::from(relaxed && !answer.entry().is_relaxed());
            if doomed
                && let Some(answer) = self.slots[at].take()
                && let Ok(slot) = u32::try_from(at)
            {
                self.put_off(&answer);
                self.forget(slot, answer.entry().hash);
                dropped += 1;
            }
        }
        Some(dropped)
    }

    /// Frees the slots of dropped entries.
    pub(super) fn tidy(&mut self) {
        for queue in &mut self.queues {
            queue.slots.retain(|&slot| {
                let used = self.slots.get(slot as usize).is_some_and(Option::is_some);
                if !used {
                    self.free.push(slot);
                }
                used
            });
        }
    }

    pub(super) fn add_to(&self, stats: &mut Stats) {
        stats.entries += self.index.len();
        stats.relaxed += self.relaxed;
        stats.bytes += self.bytes();
        stats.limit += self.limit;
        stats.inserted += self.inserted;
        stats.evicted += self.evicted;
    }

    /// How much an answer is used, from 0 to [`Self::HIGHEST`].
    fn rank(answer: &Answer) -> u8 {
        let entry = answer.entry();
        entry.uses() + u8::from(entry.queue.load(Ordering::Relaxed) == MAIN)
    }

    fn copy(
        &self,
        from: usize,
        count: usize,
        wanted: impl Fn(&Answer) -> bool,
        answers: &mut Vec<Answer>,
    ) -> bool {
        let page = self.slots.get(from..self.slots.len().min(from + count)).unwrap_or_default();
        answers.extend(page.iter().flatten().filter(|answer| wanted(answer)).cloned());
        !page.is_empty()
    }

    fn bytes(&self) -> usize {
        self.queues.iter().map(|queue| queue.bytes).sum()
    }

    fn answer(&self, slot: u32) -> Option<&Answer> {
        self.slots.get(slot as usize)?.as_ref()
    }

    fn find_slot(&self, hash: u32, key: &Key<'_>) -> Option<u32> {
        let is = |slot: &u32| self.answer(*slot).is_some_and(|answer| answer.is_for(hash, key));
        self.index.find(spread(hash), is).copied()
    }

    fn push(&mut self, answer: Answer, queue: u8) {
        let hash = answer.entry().hash;
        answer.entry().queue.store(queue, Ordering::Relaxed);
        self.take_on(&answer);
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(answer);
            slot
        } else {
            // A shard of 2^32 entries would hold 400 GiB.
            let Ok(slot) = u32::try_from(self.slots.len()) else { return };
            if self.slots.len() == self.slots.capacity() {
                self.slots.reserve_exact(step(self.slots.len()));
            }
            self.slots.push(Some(answer));
            slot
        };
        let slots = &self.slots;
        let hash_of = |slot: &u32| {
            let answer = slots.get(*slot as usize).and_then(Option::as_ref);
            spread(answer.map_or(0, |answer| answer.entry().hash))
        };
        self.index.insert_unique(spread(hash), slot, hash_of);
        let queue = &mut self.queues[usize::from(queue)].slots;
        if queue.len() == queue.capacity() {
            queue.reserve_exact(step(queue.len()));
        }
        queue.push_back(slot);
    }

    /// Counts in what comes.
    fn take_on(&mut self, answer: &Answer) {
        self.relaxed += usize::from(answer.entry().is_relaxed());
        self.queues[usize::from(answer.entry().queue.load(Ordering::Relaxed))].bytes +=
            cost(answer);
    }

    /// Counts out what goes, and tells those who still hold it.
    fn put_off(&mut self, answer: &Answer) {
        answer.entry().leave();
        self.relaxed -= usize::from(answer.entry().is_relaxed());
        self.queues[usize::from(answer.entry().queue.load(Ordering::Relaxed))].bytes -=
            cost(answer);
    }

    /// Frees the slot of an entry that was taken out of it.
    fn release(&mut self, slot: u32, hash: u32, queue: u8) {
        self.forget(slot, hash);
        self.queues[usize::from(queue)].slots.retain(|at| *at != slot);
        self.free.push(slot);
    }

    /// Takes a slot out of the index.
    fn forget(&mut self, slot: u32, hash: u32) {
        if let Ok(found) = self.index.find_entry(spread(hash), |at| *at == slot) {
            found.remove();
        }
    }

    /// Makes room by one entry; false if there is none left.
    fn evict(&mut self) -> bool {
        loop {
            let [small, main, large] = &self.queues;
            let from = if large.bytes > self.limit / 8 {
                LARGE
            } else if small.bytes > self.limit / 10 {
                SMALL
            } else if main.slots.is_empty() {
                if small.slots.is_empty() { LARGE } else { SMALL }
            } else {
                MAIN
            };
            let Some(slot) = self.queues[usize::from(from)].slots.pop_front() else { return false };
            let Some(answer) = self.answer(slot).cloned() else {
                self.free.push(slot);
                continue;
            };
            let entry = answer.entry();
            let uses = entry.uses();
            if uses > 0 {
                let to = if from == SMALL { MAIN } else { from };
                entry.set_uses(if from == SMALL { 0 } else { uses - 1 });
                entry.queue.store(to, Ordering::Relaxed);
                let cost = cost(&answer);
                self.queues[usize::from(from)].bytes -= cost;
                self.queues[usize::from(to)].bytes += cost;
                self.queues[usize::from(to)].slots.push_back(slot);
                continue;
            }
            let hash = entry.hash;
            self.put_off(&answer);
            self.forget(slot, hash);
            self.slots[slot as usize] = None;
            self.free.push(slot);
            self.evicted += 1;
            if from == SMALL {
                self.remember_ghost(hash);
            }
            return true;
        }
    }

    fn remember_ghost(&mut self, hash: u32) {
        let (place, mark) = self.ghost(hash);
        *place = mark;
    }

    /// Whether the hash left the small queue not long ago; it is forgotten by asking.
    fn forget_ghost(&mut self, hash: u32) -> bool {
        let (place, mark) = self.ghost(hash);
        let known = *place == mark;
        if known {
            *place = 0;
        }
        known
    }

    fn ghost(&mut self, hash: u32) -> (&mut u32, u32) {
        let at = hash as usize % self.ghosts.len();
        // Zero stands for an empty place.
        (&mut self.ghosts[at], hash | 1)
    }
}

/// What an answer costs in all.
fn cost(answer: &Answer) -> usize {
    allocated(answer.size()) + PLACE
}

/// The index takes its place from the lower bits of a hash, and a mark from the uppermost.
const fn spread(hash: u32) -> u64 {
    (hash as u64) << 32 | hash as u64
}

/// By how much a list of this length grows: memory is to be used, and not to be had twice.
const fn step(len: usize) -> usize {
    64 + len / 8
}
