//! What stands behind an answer.

/// What stands behind an answer, for those who count and measure. Every answer has one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The question could not be read; the answer is an error.
    Malformed,
    /// Refused because of the network it came from.
    Denied,
    /// Beyond the rate, answered with TC or BADCOOKIE.
    Limited,
    /// Refused by policy or for what it asks.
    Refused,
    /// Local and special names.
    Local,
    /// A policy in place of the truth, and not from the cache.
    Blocked,
    /// The cache, within the time to live.
    Cache,
    /// The cache, past the time to live.
    Stale,
    /// An upstream.
    Upstream,
    /// Nothing: no upstream gave an answer that can be used.
    Failed,
}

impl Origin {
    /// Every one, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::Denied,
        Self::Limited,
        Self::Refused,
        Self::Local,
        Self::Blocked,
        Self::Cache,
        Self::Stale,
        Self::Upstream,
        Self::Failed,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::Refused => "refused",
            Self::Local => "local",
            Self::Blocked => "blocked",
            Self::Cache => "cache",
            Self::Stale => "stale",
            Self::Upstream => "upstream",
            Self::Failed => "failed",
        }
    }
}
