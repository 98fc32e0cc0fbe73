//! What an answer rests on, and what may therefore be done with it.

use crate::wire::Rcode;

/// A certificate chain whose dates were accepted under rule R alone.
///
/// Answers that came through it carry its id until the chain is re-verified at a known time.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChainId(pub u64);

impl ChainId {
    /// No chain of certificates: what bears it rests on DNSSEC signatures whose dates were not
    /// looked at, and never passes.
    pub const UNDATED: Self = Self(u64::MAX);
}

/// Under what trust an answer was obtained.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Provenance {
    /// Through a chain whose dates were accepted under rule R alone.
    Relaxed(ChainId),
    /// Through a chain that was verified in full.
    Strict,
}

/// What validation found (RFC 4035 section 4.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Validation {
    /// Signatures are wrong or missing. Kept for those who ask with CD set.
    Bogus,
    /// The zone is provably unsigned.
    Insecure,
    /// Every signature was verified here.
    Secure,
    /// Nothing was validated here.
    Unchecked,
}

/// What filtering did to an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Policy {
    /// Nothing: it is the upstream's.
    AsCame,
    /// It is not what the upstream said.
    Rewritten,
}

/// What an answer rests on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Standing {
    /// The trust in the chain it came through.
    pub provenance: Provenance,
    /// What validation found.
    pub validation: Validation,
    /// What filtering did to it.
    pub policy: Policy,
}

impl Standing {
    /// Whether an answer may outlive its time to live: be given out as stale (RFC 8767), and be
    /// written to disk, from where it can only come back as stale.
    ///
    /// Never may failures, what is bogus or rewritten, and what came under relaxed trust.
    #[must_use]
    pub fn lasts(self, rcode: Rcode) -> bool {
        rcode.is_answer()
            && self.provenance == Provenance::Strict
            && self.validation != Validation::Bogus
            && self.policy == Policy::AsCame
    }
}

impl From<Provenance> for Standing {
    /// Neither validated nor filtered.
    fn from(provenance: Provenance) -> Self {
        Self { provenance, validation: Validation::Unchecked, policy: Policy::AsCame }
    }
}
