//! Answers as wire bytes: fresh, stale or missing (pure).
//!
//! An upstream's message is kept whole but for its OPT record, together with
//! the places of its times to live, so that a hit is a copy and a few patched
//! octets. The cache is cut into shards, each behind its own lock, which is
//! held for a hash probe and never for a copy, an upstream or a disk. A thread
//! that answers much has a part of its own in front ([`Near`]), whose hits take
//! no lock and write nothing that another core reads.

mod answer;
mod entry;
mod near;
mod seen;
mod shard;
mod snapshot;
mod standing;

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::wire::{Name, Query};

pub use answer::{Answer, AnswerError, Bounds, Ttl};
use entry::{Entry, Terms, Worth};
pub use near::Near;
pub use seen::{Good, Seen};
use shard::Shard;
pub use snapshot::{PAGE_LEN, PageError, Restored, Saved, Written};
pub use standing::{ChainId, Policy, Provenance, Standing, Validation};

/// Who an answer is for: clients under one filtering policy share a view.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct View(pub u16);

/// What an answer is found by.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Key<'k> {
    /// Canonical name, type and class, as [`Query::key`] gives them.
    pub question: &'k [u8],
    /// DNSSEC records were asked for (RFC 3225).
    pub dnssec_ok: bool,
    /// Answers that fail validation were asked for (RFC 4035 section 3.2.2).
    pub checking_disabled: bool,
    /// For whom; everybody by default.
    pub view: View,
}

impl<'k> Key<'k> {
    /// The key of a client's question, for everybody.
    #[must_use]
    pub fn of(query: &'k Query<'_>) -> Self {
        Self {
            question: query.key(),
            dnssec_ok: query.dnssec_ok(),
            checking_disabled: query.checking_disabled(),
            view: View::default(),
        }
    }

    /// The canonical name.
    #[must_use]
    pub fn name(&self) -> &'k [u8] {
        self.question.split_last_chunk::<4>().map_or(&[], |(name, _)| name)
    }

    fn flags(&self) -> u8 {
        u8::from(self.dnssec_ok) | u8::from(self.checking_disabled) << 1
    }
}

/// What the cache knows of a question. `A` holds the answer, or borrows it.
#[derive(Clone, Debug)]
pub enum Lookup<A = Answer> {
    /// An answer within its time to live.
    Fresh {
        /// The answer.
        answer: A,
        /// Whole seconds since it came.
        age: u32,
        /// It is in use and about to expire: the one caller who is told so should refresh it.
        refresh: bool,
    },
    /// Nothing of use.
    Miss,
    /// An answer past its time to live, for when no fresh one can be had (RFC 8767).
    Stale {
        /// The answer.
        answer: A,
        /// A refresh failed not long ago: to wait for another would most likely be in vain.
        held: bool,
        /// The one caller who is told so should refresh it all the same, behind this answer.
        refresh: bool,
    },
}

impl<A> Lookup<A> {
    fn of(answer: A, worth: Worth) -> Self {
        match worth {
            Worth::Fresh { age, refresh } => Self::Fresh { answer, age, refresh },
            Worth::Nothing => Self::Miss,
            Worth::Stale { held, refresh } => Self::Stale { answer, held, refresh },
        }
    }
}

/// Tells whether answers were settled or judged while one was on its way. From [`Cache::era`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Era {
    settlements: u64,
    judgements: u64,
}

/// A byte-bounded answer cache for many threads.
pub struct Cache {
    shards: Box<[Mutex<Shard>]>,
    /// Keyed, so that nobody outside can aim names at one shard or slot.
    hasher: RandomState,
    /// The first moment that was named.
    start: OnceLock<Instant>,
    /// In milliseconds, as [`Terms::stale`].
    stale: AtomicU64,
    /// When the first page of a snapshot was read.
    loaded: OnceLock<u64>,
    /// As [`Terms::offline`].
    offline: AtomicU64,
    /// The chains that relaxed answers came through.
    chains: Mutex<Vec<ChainId>>,
    settlements: AtomicU64,
    judgements: AtomicU64,
}

const SHARDS: usize = 16;

/// Slots looked through under one lock at a time.
const PAGE: usize = 256;

/// The first moment, in milliseconds: what a snapshot brings came before it.
const START: u64 = 1 << 40;

impl Cache {
    /// A cache that holds at most about `bytes`, bookkeeping included, and gives out answers up
    /// to `stale` after they expired (0: never).
    #[must_use]
    pub fn new(bytes: usize, stale: Duration) -> Self {
        let cache = Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new(bytes / SHARDS))).collect(),
            hasher: RandomState::new(),
            start: OnceLock::new(),
            stale: AtomicU64::new(0),
            loaded: OnceLock::new(),
            offline: AtomicU64::new(0),
            chains: Mutex::default(),
            settlements: AtomicU64::new(0),
            judgements: AtomicU64::new(0),
        };
        cache.set_stale(stale);
        cache
    }

    /// Changes how long past its time to live an answer may be given out.
    pub fn set_stale(&self, stale: Duration) {
        self.stale.store(millis(stale), Ordering::Relaxed);
    }

    /// Looks a question up, and counts the use.
    #[must_use]
    pub fn get(&self, key: &Key<'_>, now: Instant) -> Lookup {
        let hash = self.hash(key);
        match self.find(hash, key) {
            Some(answer) => {
                let worth = answer.consult(&self.terms(now));
                Lookup::of(answer, worth)
            }
            None => Lookup::Miss,
        }
    }

    /// The same, through a thread's own part of the cache.
    #[must_use]
    pub fn get_near<'n>(
        &self,
        near: &'n mut Near,
        key: &Key<'_>,
        now: Instant,
    ) -> Lookup<&'n Answer> {
        let hash = self.hash(key);
        match near.place(low(hash), key, || self.find(hash, key)) {
            Some(answer) => Lookup::of(answer, answer.consult(&self.terms(now))),
            None => Lookup::Miss,
        }
    }

    /// The era to hand to [`Self::insert`] with an answer that is asked for from here on.
    #[must_use]
    pub fn era(&self) -> Era {
        Era {
            settlements: self.settlements.load(Ordering::Acquire),
            judgements: self.judgements.load(Ordering::Acquire),
        }
    }

    /// Keeps an answer for its lifetime. Returns whether it was kept.
    ///
    /// A failure never replaces an answer (RFC 9520) that may still be given out; it is noted
    /// there as by [`Self::hold`]. What is bogus replaces a stale one, whose owner it speaks for
    /// as little. Not kept is a relaxed answer from before the last [`Self::settle`]
    /// (its chain has been judged already), and any from before the last [`Self::rejudge`].
    pub fn insert(
        &self,
        key: &Key<'_>,
        answer: &Answer,
        standing: Standing,
        era: Era,
        now: Instant,
    ) -> bool {
        let (hash, terms) = (self.hash(key), self.terms(now));
        let Some(chain) = self.note_chain(standing.provenance) else { return false };
        let kept = answer.with(Entry::new(low(hash), key, standing, chain, terms.now));
        let mut shard = self.shard(hash);
        // Read under the lock: `settle` and `rejudge` count first and then take each lock.
        let current = self.era();
        let strict = standing.provenance == Provenance::Strict;
        if era.judgements != current.judgements || !(strict || era == current) {
            return false;
        }
        if answer.lifetime() == 0 || !shard.takes(&kept) {
            return false;
        }
        let bogus = standing.validation == Validation::Bogus;
        if !answer.rcode().is_answer()
            && let Some(known) = shard.find(low(hash), key)
            && known.outlasts_failure(&terms)
            && !(bogus && known.is_stale(&terms))
        {
            known.entry().hold(terms.now);
            return false;
        }
        shard.insert(key, kept);
        true
    }

    /// Notes that no fresh answer came in time, which for the stale one counts as a failure.
    pub fn hold(&self, key: &Key<'_>, now: Instant) {
        if let Some(answer) = self.find(self.hash(key), key) {
            answer.entry().hold(self.moment(now));
        }
    }

    /// Judges what came through relaxed chains: answers of those that `passed` become strict,
    /// all others are dropped.
    pub fn settle(&self, passed: &BTreeSet<ChainId>) -> Settled {
        self.settlements.fetch_add(1, Ordering::AcqRel);
        let chains = self.chains().clone();
        let mut kept = 0;
        let dropped = self.drop_where(|answer| {
            let entry = answer.entry();
            match entry.standing(&chains).provenance {
                Provenance::Relaxed(chain) if passed.contains(&chain) => {
                    entry.settle();
                    kept += 1;
                    false
                }
                Provenance::Relaxed(_) => true,
                Provenance::Strict => false,
            }
        });
        Settled { kept, dropped }
    }

    /// Judges everything by other filter lists: drops what was rewritten under the lists before,
    /// and what does not pass; returns how many. `passes` is asked by canonical name.
    pub fn rejudge(&self, mut passes: impl FnMut(&[u8], View) -> bool) -> usize {
        self.judgements.fetch_add(1, Ordering::AcqRel);
        self.drop_where(|answer| {
            let entry = answer.entry();
            entry.policy() == Policy::Rewritten || !passes(answer.name(), entry.view())
        })
    }

    /// Drops all answers about `name`; returns how many.
    pub fn flush_name(&self, name: &Name) -> usize {
        self.flush(|owner| owner == name.as_wire())
    }

    /// Drops all answers about `name` and what is below it; returns how many.
    pub fn flush_subtree(&self, name: &Name) -> usize {
        self.flush(|owner| Name::from_wire(owner).is_ok_and(|owner| owner.is_within(name)))
    }

    /// Drops everything; returns how many answers there were.
    pub fn flush_all(&self) -> usize {
        self.flush(|_| true)
    }

    /// What the cache holds and has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for shard in &self.shards {
            lock(shard).add_to(&mut stats);
        }
        stats
    }

    fn flush(&self, mut doomed: impl FnMut(&[u8]) -> bool) -> usize {
        self.drop_where(|answer| doomed(answer.name()))
    }

    /// Drops the answers of which `doomed` is true, page by page; returns how many.
    fn drop_where(&self, mut doomed: impl FnMut(&Answer) -> bool) -> usize {
        let mut dropped = 0;
        for shard in &self.shards {
            let mut from = 0;
            while let Some(count) = lock(shard).drop_page(from, PAGE, &mut doomed) {
                dropped += count;
                from += PAGE;
            }
            lock(shard).tidy();
        }
        dropped
    }

    fn find(&self, hash: u64, key: &Key<'_>) -> Option<Answer> {
        self.shard(hash).find(low(hash), key).cloned()
    }

    fn terms(&self, now: Instant) -> Terms {
        Terms {
            now: self.moment(now),
            stale: self.stale.load(Ordering::Relaxed),
            loaded: self.loaded.get().copied().unwrap_or(START),
            offline: self.offline.load(Ordering::Relaxed),
        }
    }

    /// In milliseconds.
    fn moment(&self, now: Instant) -> u64 {
        let start = *self.start.get_or_init(|| now);
        let before = millis(start.saturating_duration_since(now));
        START.saturating_sub(before) + millis(now.saturating_duration_since(start))
    }

    /// The place of a relaxed chain in the list, plus one; 0 for a strict one. `None` if there
    /// are too many.
    fn note_chain(&self, provenance: Provenance) -> Option<u16> {
        let Provenance::Relaxed(chain) = provenance else { return Some(0) };
        let mut chains = self.chains();
        if let Some(place) = chains.iter().position(|known| *known == chain) {
            return u16::try_from(place + 1).ok();
        }
        let next = u16::try_from(chains.len() + 1).ok()?;
        chains.push(chain);
        Some(next)
    }

    fn chains(&self) -> MutexGuard<'_, Vec<ChainId>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hash(&self, key: &Key<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key.question);
        hasher.write_u8(key.flags());
        hasher.write_u16(key.view.0);
        hasher.finish()
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The rest goes by the lower half.
        lock(&self.shards[(hash >> 32) as usize % SHARDS])
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What [`Cache::settle`] did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settled {
    /// Answers that are strict from here on.
    pub kept: usize,
    /// Answers that are gone.
    pub dropped: usize,
}

/// What the cache holds and has done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Stats {
    /// Answers held.
    pub entries: usize,
    /// Of those, through chains whose dates were accepted under rule R alone.
    pub relaxed: usize,
    /// Bytes held, bookkeeping included.
    pub bytes: usize,
    /// Bytes that may be held.
    pub limit: usize,
    /// Answers taken in since the start.
    pub inserted: u64,
    /// Answers that had to make room since the start.
    pub evicted: u64,
}

/// The half of a hash that an entry keeps.
#[expect(clippy::cast_possible_truncation, reason = "the other half chooses the shard")]
const fn low(hash: u64) -> u32 {
    hash as u32
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A panic elsewhere leaves a shard whole enough: at worst its byte count is off.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

/// Where virtual time starts in tests.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
fn start() -> Instant {
    Instant::now()
}
