//! Named conditions of the appliance, in words for a person (pure).

mod notices;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

pub use notices::{Notice, Notices};

/// How bad a condition is, by who must act.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; heals by itself.
    Notice,
    /// Somebody should look at it by day.
    Warning,
    /// Somebody should wake up.
    Error,
}

/// Something that is the case and should not last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Condition {
    /// A stable name, for scripts and runbooks.
    pub name: &'static str,
    /// Who must act.
    pub severity: Severity,
    /// What is the case, with its facts, what still works, and what to do.
    pub text: String,
    /// Since when.
    pub since: Instant,
}

/// A change of a condition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// It is no more the case.
    Cleared(Condition),
    /// It came to be the case, or became worse.
    Raised(Condition),
}

/// All conditions that hold.
#[derive(Debug, Default)]
pub struct Health {
    conditions: BTreeMap<&'static str, Condition>,
    changes: VecDeque<Change>,
}

impl Health {
    /// States that a condition holds. Its text may change without being announced again.
    pub fn raise(&mut self, name: &'static str, severity: Severity, text: String, now: Instant) {
        let held = self.conditions.get(name);
        let since = held.map_or(now, |held| held.since);
        let announce = held.is_none_or(|held| held.severity < severity);
        let condition = Condition { name, severity, text, since };
        if announce {
            self.changes.push_back(Change::Raised(condition.clone()));
        }
        self.conditions.insert(name, condition);
    }

    /// States that a condition does not hold.
    pub fn clear(&mut self, name: &'static str) {
        if let Some(condition) = self.conditions.remove(name) {
            self.changes.push_back(Change::Cleared(condition));
        }
    }

    /// The next change, oldest first.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// The conditions that hold, the gravest first.
    #[must_use]
    pub fn conditions(&self) -> Vec<&Condition> {
        let mut list: Vec<_> = self.conditions.values().collect();
        list.sort_by_key(|condition| (std::cmp::Reverse(condition.severity), condition.name));
        list
    }

    /// Whether a condition of this name holds.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        self.conditions.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_announced_once_and_again_when_it_worsens() {
        let mut health = Health::default();
        let now = start();

        health.raise("holdover", Severity::Notice, "1 ms".into(), now);
        health.raise("holdover", Severity::Notice, "2 ms".into(), now);
        health.raise("holdover", Severity::Error, "2 s".into(), now);
        health.clear("holdover");
        health.clear("holdover");

        let changes: Vec<_> = std::iter::from_fn(|| health.poll_change()).collect();
        assert_eq!(changes.len(), 3, "{changes:?}");
        assert!(matches!(&changes[2], Change::Cleared(c) if c.text == "2 s"));
    }

    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }
}
