//! What became of the questions.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the start. Every question ends in exactly one of the first eleven.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub(super) $name: AtomicU64,)*
        }

        /// [`Counters`] at one moment.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// All counts, each read at about the same moment.
            #[must_use]
            pub fn snapshot(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Packets without a reply: runts and responses.
    dropped,
    /// Questions that could not be read, answered with an error.
    malformed,
    /// Questions refused because of the network they came from.
    denied,
    /// Questions beyond the rate, answered with TC or BADCOOKIE.
    limited,
    /// Questions refused by policy or for what they ask.
    refused,
    /// Answered from local and special names.
    local,
    /// Answered with a policy instead of the truth, and not from the cache.
    blocked,
    /// Answered from the cache, within the time to live.
    cached,
    /// Answered from the cache, past the time to live.
    stale,
    /// Answered by an upstream.
    forwarded,
    /// Failed for want of an upstream's answer.
    failed,
    /// Questions sent to upstreams, refreshes included.
    flights,
    /// Questions that joined one already under way.
    shared,
    /// Refreshes of answers about to expire.
    refreshed,
    /// Upstream answers that could not be used.
    unfit,
    /// Questions turned away because too many were under way.
    shed,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
