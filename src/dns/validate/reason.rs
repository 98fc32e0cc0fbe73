//! Why data does not validate.

use std::fmt;

use crate::wire::Ede;

/// What is wrong with data that should validate: a code of RFC 8914, and the same in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Reason {
    pub(super) code: Ede,
    pub(super) text: String,
}

impl Reason {
    pub(super) fn new(code: Ede, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub(super) fn bogus(text: impl Into<String>) -> Self {
        Self::new(Ede::DnssecBogus, text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is left of the work that one question may cause (CVE-2023-50387, known as `KeyTrap`): a zone can ask
/// for more signature checks and look-ups than anybody should make.
#[derive(Debug)]
pub(super) struct Budget {
    signatures: usize,
    questions: usize,
}

/// Signatures checked for one question at most; an honest chain of ten zones takes some thirty.
const SIGNATURES: usize = 96;
/// Questions of our own for one question at most; an honest name takes two for each label.
const QUESTIONS: usize = 64;

impl Budget {
    pub(super) const fn new() -> Self {
        Self { signatures: SIGNATURES, questions: QUESTIONS }
    }

    pub(super) fn check_signature(&mut self) -> Result<(), Reason> {
        take(&mut self.signatures, "more signatures would have to be checked than is done")
    }

    pub(super) fn ask(&mut self) -> Result<(), Reason> {
        take(&mut self.questions, "more questions would have to be asked than is done")
    }
}

fn take(left: &mut usize, text: &str) -> Result<(), Reason> {
    *left = left.checked_sub(1).ok_or_else(|| Reason::bogus(text))?;
    Ok(())
}
