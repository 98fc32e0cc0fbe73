//! Answers as wire bytes: fresh, stale or missing (pure).

/// A certificate chain whose dates were accepted under rule R alone.
///
/// Answers that came through it carry its id until the chain is re-verified at a known time.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChainId(pub u64);
