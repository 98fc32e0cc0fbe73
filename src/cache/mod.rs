//! Answers as wire bytes: fresh, stale or missing (pure).
//!
//! An upstream's message is kept whole but for its OPT record, together with
//! the places of its times to live, so that a hit is a copy and a few patched
//! octets. The cache is cut into shards, each behind its own lock, which is
//! held for a hash probe and never for a copy, an upstream or a disk.

mod answer;
mod shard;
mod standing;

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::wire::{Name, Query};

pub use answer::{Answer, AnswerError, Bounds, Ttl};
use shard::{Entry, Shard};
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

    fn flags(&self) -> u8 {
        u8::from(self.dnssec_ok) | u8::from(self.checking_disabled) << 1
    }
}

/// What the cache knows of a question.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// An answer within its time to live.
    Fresh {
        /// The answer.
        answer: Arc<Answer>,
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
        answer: Arc<Answer>,
        /// A refresh failed not long ago: to wait for another would most likely be in vain.
        held: bool,
        /// The one caller who is told so should refresh it all the same, behind this answer.
        refresh: bool,
    },
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
    stale_secs: AtomicU32,
    settlements: AtomicU64,
    judgements: AtomicU64,
}

const SHARDS: usize = 16;

impl Cache {
    /// A cache that holds at most about `bytes`, bookkeeping included, and gives out answers up
    /// to `stale` after they expired (0: never).
    #[must_use]
    pub fn new(bytes: usize, stale: Duration) -> Self {
        let cache = Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new(bytes / SHARDS))).collect(),
            hasher: RandomState::new(),
            stale_secs: AtomicU32::new(0),
            settlements: AtomicU64::new(0),
            judgements: AtomicU64::new(0),
        };
        cache.set_stale(stale);
        cache
    }

    /// Changes how long past its time to live an answer may be given out.
    pub fn set_stale(&self, stale: Duration) {
        let secs = u32::try_from(stale.as_secs()).unwrap_or(u32::MAX);
        self.stale_secs.store(secs, Ordering::Relaxed);
    }

    /// Looks a question up, and counts the use.
    #[must_use]
    pub fn get(&self, key: &Key<'_>, now: Instant) -> Lookup {
        let hash = self.hash(key);
        self.shard(hash).get(hash, key, self.stale(), now)
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
    /// there as by [`Self::hold`]. Not kept is a relaxed answer from before the last [`Self::settle`]
    /// (its chain has been judged already), and any from before the last [`Self::rejudge`].
    pub fn insert(
        &self,
        key: &Key<'_>,
        answer: Arc<Answer>,
        standing: Standing,
        era: Era,
        now: Instant,
    ) -> bool {
        let hash = self.hash(key);
        let mut shard = self.shard(hash);
        // Read under the lock: `settle` and `rejudge` count first and then take each lock.
        let current = self.era();
        let strict = standing.provenance == Provenance::Strict;
        if era.judgements != current.judgements || !(strict || era == current) {
            return false;
        }
        shard.insert(hash, key, answer, standing, self.stale(), now)
    }

    /// Notes that no fresh answer came in time, which for the stale one counts as a failure.
    pub fn hold(&self, key: &Key<'_>, now: Instant) {
        let hash = self.hash(key);
        self.shard(hash).hold(hash, key, now);
    }

    /// Judges what came through relaxed chains: answers of those that `passed` become strict,
    /// all others are dropped.
    pub fn settle(&self, passed: &BTreeSet<ChainId>) -> Settled {
        self.settlements.fetch_add(1, Ordering::AcqRel);
        let mut settled = Settled::default();
        for shard in &self.shards {
            lock(shard).settle(passed, &mut settled);
        }
        settled
    }

    /// Judges everything by other filter lists: drops what was rewritten under the lists before,
    /// and what does not pass; returns how many. `passes` is asked by canonical name.
    pub fn rejudge(&self, mut passes: impl FnMut(&[u8], View) -> bool) -> usize {
        self.judgements.fetch_add(1, Ordering::AcqRel);
        self.drop_where(|entry| {
            entry.standing.policy == Policy::Rewritten || !passes(entry.answer.name(), entry.view)
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
        self.drop_where(|entry| doomed(entry.answer.name()))
    }

    fn drop_where(&self, mut doomed: impl FnMut(&Entry) -> bool) -> usize {
        self.shards.iter().map(|shard| lock(shard).drop_where(&mut doomed)).sum()
    }

    fn stale(&self) -> Duration {
        Duration::from_secs(self.stale_secs.load(Ordering::Relaxed).into())
    }

    fn hash(&self, key: &Key<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key.question);
        hasher.write_u8(key.flags());
        hasher.write_u16(key.view.0);
        hasher.finish()
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The index within a shard uses the outer bits.
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
    /// Answers taken in since the start.
    pub inserted: u64,
    /// Answers that had to make room since the start.
    pub evicted: u64,
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
