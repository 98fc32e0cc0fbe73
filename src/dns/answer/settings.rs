//! What the administrator decides about answers.

use std::time::Duration;

use crate::cache::Bounds;
use crate::config::{Config, Plaintext};
use crate::names::Names;

/// How long a client waits for an upstream before it is given a stale answer (RFC 8767 section 5,
/// client response timer).
const PATIENCE: Duration = Duration::from_millis(1800);

/// What the administrator decides about answers; replaced whole at a reload.
#[derive(Debug)]
pub struct AnswerSettings {
    /// The names that are answered from here.
    pub names: Names,
    /// What clients without encryption are given.
    pub plaintext: Plaintext,
    /// Shortest and longest time a fresh answer is kept.
    pub ttls: Bounds,
    /// How long past its time to live an answer may stand in for a dead upstream.
    pub stale: Duration,
    /// How long an upstream may take before a stale answer stands in.
    pub patience: Duration,
}

impl From<&Config> for AnswerSettings {
    fn from(config: &Config) -> Self {
        Self {
            names: Names::new(&config.names, config.dns.canary),
            plaintext: config.dns.plaintext,
            ttls: Bounds { min: config.dns.min_ttl, max: config.dns.max_ttl },
            stale: Duration::from_secs(config.dns.stale.into()),
            patience: PATIENCE,
        }
    }
}
