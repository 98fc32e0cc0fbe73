//! What the cache holds under a name, for a person to see.

use std::time::Instant;

use super::entry::{Terms, seconds};
use super::{Answer, Cache, ChainId, PAGE, Standing, View, lock};
use crate::wire::Name;

/// An answer as it lies in the cache.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The answer.
    pub answer: Answer,
    /// DNSSEC records were asked for.
    pub dnssec_ok: bool,
    /// Answers that fail validation were asked for.
    pub checking_disabled: bool,
    /// For whom it is.
    pub view: View,
    /// What it rests on.
    pub standing: Standing,
    /// Seconds since it came, as far as is known.
    pub age: u32,
    /// What it is good for.
    pub good: Good,
    /// Seconds since a refresh last failed.
    pub failed: Option<u32>,
    /// It came from the snapshot.
    pub restored: bool,
}

/// What an answer is good for. Spans are in seconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Good {
    /// It is given out.
    Fresh {
        /// For so long.
        left: u32,
    },
    /// It stands in while no upstream answers.
    Stale {
        /// It has been past its time to live for so long.
        since: u32,
        /// It may be given out for so long.
        left: u32,
    },
    /// It is not given out any longer.
    Nothing {
        /// It has been past its time to live for so long.
        since: u32,
    },
}

impl Cache {
    /// Everything that is held under `name`, of any type and for anybody. Looks through the whole
    /// cache, a page under a lock at a time.
    #[must_use]
    pub fn under(&self, name: &Name, now: Instant) -> Vec<Seen> {
        let terms = self.terms(now);
        let chains = self.chains().clone();
        let mut found = Vec::new();
        for shard in &self.shards {
            let mut from = 0;
            while lock(shard).named(from, PAGE, name.as_wire(), &mut found) {
                from += PAGE;
            }
        }
        found.into_iter().map(|answer| Seen::of(answer, &chains, &terms)).collect()
    }
}

impl Seen {
    fn of(answer: Answer, chains: &[ChainId], terms: &Terms) -> Self {
        let (entry, now, expiry) = (answer.entry(), terms.now, answer.expiry(terms));
        let since = seconds(now.saturating_sub(expiry));
        let good = if now < expiry {
            Good::Fresh { left: seconds(expiry - now) }
        } else if answer.is_stale(terms) {
            let end = expiry.saturating_add(terms.stale);
            Good::Stale { since, left: seconds(end.saturating_sub(now)) }
        } else {
            Good::Nothing { since }
        };
        Self {
            dnssec_ok: entry.key_flags() & 1 != 0,
            checking_disabled: entry.key_flags() & 2 != 0,
            view: entry.view(),
            standing: entry.standing(chains),
            age: seconds(now.saturating_sub(entry.came(terms))),
            good,
            failed: entry.failed_for(now).map(seconds),
            restored: entry.is_loaded(),
            answer,
        }
    }
}
