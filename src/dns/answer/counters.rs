//! What became of the questions.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::dns::Origin;
use crate::wire::Rcode;

/// Response codes that are counted apart, in the order of their numbers.
const CODES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];

/// All others together.
const OTHER: &str = "other";

macro_rules! counters {
    (
        answers { $($(#[$of:meta])* $origin:ident $answers:ident,)* }
        events { $($(#[$doc:meta])* $name:ident,)* }
    ) => {
        /// Counts since the start. Every question that nobody gives up meanwhile ends in an answer, or is dropped.
        #[derive(Debug, Default)]
        pub struct Counters {
            answers: [[AtomicU64; CODES.len() + 1]; Origin::ALL.len()],
            $($(#[$doc])* pub(super) $name: AtomicU64,)*
        }

        /// [`Counters`] at one moment.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
        pub struct Counts {
            $($(#[$of])* pub $answers: u64,)*
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// All counts, each read at about the same moment.
            #[must_use]
            pub fn snapshot(&self) -> Counts {
                Counts {
                    $($answers: self.answers_from(Origin::$origin),)*
                    $($name: self.$name.load(Ordering::Relaxed),)*
                }
            }
        }
    };
}

counters! {
    answers {
        /// Questions that could not be read, answered with an error.
        Malformed malformed,
        /// Questions refused because of the network they came from.
        Denied denied,
        /// Questions beyond the rate, answered with TC or BADCOOKIE.
        Limited limited,
        /// Questions refused by policy or for what they ask.
        Refused refused,
        /// Answered from local and special names.
        Local local,
        /// Answered with a policy instead of the truth, and not from the cache.
        Blocked blocked,
        /// Answered from the cache, within the time to live.
        Cache cached,
        /// Answered from the cache, past the time to live.
        Stale stale,
        /// Answered by an upstream.
        Upstream forwarded,
        /// Failed for want of an upstream's answer.
        Failed failed,
    }
    events {
        /// Packets without a reply: runts and responses.
        dropped,
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
}

impl Counters {
    /// Counts an answer.
    pub(super) fn answered(&self, origin: Origin, rcode: Rcode) {
        let code = usize::from(rcode.0).min(CODES.len());
        count(&self.answers[origin as usize][code]);
    }

    /// How many answers of each origin had which response code, the origins in order.
    pub(super) fn answers(&self) -> impl Iterator<Item = (Origin, &'static str, u64)> {
        Origin::ALL.into_iter().zip(&self.answers).flat_map(|(origin, codes)| {
            let names = CODES.into_iter().chain([OTHER]);
            names.zip(codes).map(move |(name, count)| (origin, name, count.load(Ordering::Relaxed)))
        })
    }

    fn answers_from(&self, origin: Origin) -> u64 {
        self.answers[origin as usize].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
