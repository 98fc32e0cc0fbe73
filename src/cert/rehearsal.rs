//! Orders at a staging directory, which show early whether a renewal would succeed.

use std::time::Instant;

use super::ladder::{Failure, Kind, Ladder};

/// Where we stand with the rehearsals at one CA.
#[derive(Clone, Debug, Default)]
pub(super) struct Rehearsal {
    /// A person asked for it.
    pub(super) asked: bool,
    /// A validation failed at the CA itself: before it is asked again, an order is rehearsed.
    pub(super) first: bool,
    /// While which certificate was in service it last succeeded; empty while there was none.
    pub(super) passed: Option<String>,
    /// How the last one failed, if it did.
    pub(super) failure: Option<Failure>,
    pub(super) failures: u32,
    pub(super) ladder: Ladder,
}

/// So many failures in a row are told, whatever the class.
const PATIENCE: u32 = 6;

impl Rehearsal {
    pub(super) fn handle_passed(&mut self, serial: &str) {
        *self = Self { passed: Some(serial.to_owned()), ..Self::default() };
    }

    pub(super) fn handle_failure(&mut self, failure: Failure, seed: u64, salt: u64, now: Instant) {
        self.ladder.handle_failure(failure.kind, seed, salt, now);
        // What is tried again at once is still the try that was asked for.
        self.asked &= self.ladder.ready().is_none();
        self.passed = None;
        self.failures = self.failures.saturating_add(1);
        self.failure = Some(failure);
    }

    /// The failure that a person should know of: at once if a person alone can help, else when it
    /// has lasted.
    pub(super) fn trouble(&self) -> Option<&Failure> {
        self.failure.as_ref().filter(|failure| {
            matches!(failure.kind, Kind::Refused | Kind::Validation) || self.failures >= PATIENCE
        })
    }
}
