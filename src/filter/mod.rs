//! Which questions are answered with a policy instead of the truth (pure).

use std::fmt::Debug;

/// Judges names. Implemented by whatever rules there are.
///
/// It is asked on the thread that received a question, once for each name that is not in the
/// cache, where its verdict is kept beside the answer: it must not wait for anything.
pub trait Filter: Debug + Send + Sync {
    /// Judges a canonical wire name (RFC 4034 section 6.2).
    fn judge(&self, name: &[u8]) -> Verdict<'_>;
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict<'f> {
    /// Its name does not exist, for this reason, which clients are told (RFC 8914 section 4.16).
    Block(&'f str),
    /// It is answered like any other.
    Pass,
}
