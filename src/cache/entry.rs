//! What the cache notes beside an answer's octets, read and written without a lock.
//!
//! It lies in the answer's own allocation, so that whoever holds the answer
//! sees at once what becomes of the entry.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};

use super::standing::{Policy, Provenance, Standing, Validation};
use super::{Answer, ChainId, Key, View};

/// For how long after a failed refresh nobody waits for another (RFC 8767 section 5, failure
/// recheck timer), in milliseconds.
pub(super) const HOLD: u64 = 30_000;

/// How long after a failed refresh the next one may begin behind a stale answer, in milliseconds.
pub(super) const RETRY: u64 = 1_000;

/// Uses beyond this many do not count.
pub(super) const USES_MAX: u8 = 3;

/// Bits of [`Entry::flags`]; the lower two are those of the key.
const VALIDATION: u8 = 2;
const REWRITTEN: u8 = 1 << 4;
const LOADED: u8 = 1 << 5;

/// What the cache goes by when it looks at an entry. Moments and spans are in milliseconds, the
/// moments since a time before the cache was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) now: u64,
    /// How long past its time to live an answer may be given out.
    pub(super) stale: u64,
    /// When the snapshot was read: nothing in it is fresh after that.
    pub(super) loaded: u64,
    /// How long the machine was off before that; 0 while it is not known.
    pub(super) offline: u64,
}

/// What an entry is good for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Worth {
    Fresh { age: u32, refresh: bool },
    Nothing,
    Stale { held: bool, refresh: bool },
}

/// The notes on an answer that is kept.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) hash: u32,
    view: View,
    flags: u8,
    /// The queue it stands in; only the shard's.
    pub(super) queue: AtomicU8,
    /// When it came.
    pub(super) stored: u64,
    /// When a refresh last failed or was too slow (0: never), times two; and one if another is
    /// under way.
    refresh: AtomicU64,
    /// Place of the relaxed chain in the cache's list, plus one; 0: strict.
    chain: AtomicU16,
    uses: AtomicU8,
    /// It is no longer in the cache.
    gone: AtomicBool,
}

impl Entry {
    /// Notes on an answer that comes at `stored`, through the relaxed chain at place `chain` (plus
    /// one; 0: none).
    pub(super) fn new(
        hash: u32,
        key: &Key<'_>,
        standing: Standing,
        chain: u16,
        stored: u64,
    ) -> Self {
        let validation = match standing.validation {
            Validation::Bogus => 0,
            Validation::Insecure => 1,
            Validation::Secure => 2,
            Validation::Unchecked => 3,
        };
        let rewritten = if standing.policy == Policy::Rewritten { REWRITTEN } else { 0 };
        Self {
            hash,
            view: key.view,
            flags: key.flags() | validation << VALIDATION | rewritten,
            stored,
            chain: chain.into(),
            ..Self::default()
        }
    }

    /// Notes on an answer from a snapshot. For the first half minute nobody waits for a better
    /// one, as if a refresh had just failed.
    pub(super) fn loaded(self, now: u64, used: bool) -> Self {
        Self {
            flags: self.flags | LOADED,
            refresh: (now.saturating_sub(RETRY) << 1).into(),
            uses: u8::from(used).into(),
            ..self
        }
    }

    /// Notes that go on from those of the answer that this one replaces.
    pub(super) fn succeed(&self, before: &Self) {
        self.uses.store(before.uses(), Ordering::Relaxed);
    }

    pub(super) fn is(&self, key: &Key<'_>) -> bool {
        self.flags & 3 == key.flags() && self.view == key.view
    }

    pub(super) const fn view(&self) -> View {
        self.view
    }

    /// Flags of the key: as [`Key::flags`].
    pub(super) const fn key_flags(&self) -> u8 {
        self.flags & 3
    }

    /// When it came, as far as is known.
    pub(super) const fn came(&self, terms: &Terms) -> u64 {
        if self.is_loaded() { self.stored.saturating_sub(terms.offline) } else { self.stored }
    }

    pub(super) const fn is_loaded(&self) -> bool {
        self.flags & LOADED != 0
    }

    /// The standing; `chains` are those that the cache has noted.
    pub(super) fn standing(&self, chains: &[ChainId]) -> Standing {
        let provenance = match self.chain.load(Ordering::Relaxed) {
            0 => Provenance::Strict,
            // A chain that is not in the list has passed nothing.
            place => Provenance::Relaxed(
                chains.get(usize::from(place) - 1).copied().unwrap_or(ChainId::UNDATED),
            ),
        };
        Standing { provenance, validation: self.validation(), policy: self.policy() }
    }

    pub(super) const fn validation(&self) -> Validation {
        match self.flags >> VALIDATION & 3 {
            0 => Validation::Bogus,
            1 => Validation::Insecure,
            2 => Validation::Secure,
            _ => Validation::Unchecked,
        }
    }

    pub(super) const fn policy(&self) -> Policy {
        if self.flags & REWRITTEN == 0 { Policy::AsCame } else { Policy::Rewritten }
    }

    pub(super) fn is_relaxed(&self) -> bool {
        self.chain.load(Ordering::Relaxed) != 0
    }

    /// Its chain has passed.
    pub(super) fn settle(&self) {
        self.chain.store(0, Ordering::Relaxed);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub(super) fn uses(&self) -> u8 {
        self.uses.load(Ordering::Relaxed)
    }

    /// Counts a use. Two at the same moment may count as one.
    pub(super) fn count_use(&self) {
        let uses = self.uses();
        if uses < USES_MAX {
            self.uses.store(uses + 1, Ordering::Relaxed);
        }
    }

    /// Takes `uses` off the count.
    pub(super) fn set_uses(&self, uses: u8) {
        self.uses.store(uses, Ordering::Relaxed);
    }

    /// Milliseconds since a refresh last failed.
    pub(super) fn failed_for(&self, now: u64) -> Option<u64> {
        match self.refresh.load(Ordering::Relaxed) >> 1 {
            0 => None,
            at => Some(now.saturating_sub(at)),
        }
    }

    /// Notes that a refresh failed.
    pub(super) fn hold(&self, now: u64) {
        self.refresh.store(now << 1, Ordering::Relaxed);
    }

    /// Whether the caller is the one who has to refresh: nobody else is at it, and the last
    /// failure lies back long enough.
    pub(super) fn begin_refresh(&self, now: u64) -> bool {
        let before = self.refresh.load(Ordering::Relaxed);
        let rested = before >> 1 == 0 || now.saturating_sub(before >> 1) >= RETRY;
        before & 1 == 0
            && rested
            && self
                .refresh
                .compare_exchange(before, before | 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

impl Answer {
    /// What it is good for when a client asks; counts the use.
    pub(super) fn consult(&self, terms: &Terms) -> Worth {
        let (entry, now) = (self.entry(), terms.now);
        let expiry = self.expiry(terms);
        if now < expiry {
            let due = expiry - now < u64::from(self.lifetime()) * 100 && entry.uses() > 0;
            let refresh = due && entry.begin_refresh(now);
            entry.count_use();
            return Worth::Fresh { age: seconds(now.saturating_sub(entry.stored)), refresh };
        }
        if !self.is_stale(terms) {
            return Worth::Nothing;
        }
        entry.count_use();
        let held = entry.failed_for(now).is_some_and(|since| since < HOLD);
        Worth::Stale { held, refresh: held && entry.begin_refresh(now) }
    }

    /// Whether a failure has to leave this answer in place.
    pub(super) fn outlasts_failure(&self, terms: &Terms) -> bool {
        self.rcode().is_answer() && (terms.now < self.expiry(terms) || self.is_stale(terms))
    }

    /// Whether it is past its time to live, and may still be given out.
    pub(super) fn is_stale(&self, terms: &Terms) -> bool {
        let expiry = self.expiry(terms);
        (expiry..expiry.saturating_add(terms.stale)).contains(&terms.now)
            && self.entry().standing(&[]).lasts(self.rcode())
    }

    /// When its time to live ends.
    pub(super) fn expiry(&self, terms: &Terms) -> u64 {
        let entry = self.entry();
        let expiry = entry.came(terms) + u64::from(self.lifetime()) * 1000;
        if entry.is_loaded() { expiry.min(terms.loaded) } else { expiry }
    }
}

/// Whole seconds.
pub(super) fn seconds(millis: u64) -> u32 {
    u32::try_from(millis / 1000).unwrap_or(u32::MAX)
}
