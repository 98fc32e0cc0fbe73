//! What is told for monitoring alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Cache, Certs, Sources, Status, Upstream};

/// What monitoring is shown.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Figures {
    /// Everything at a glance.
    pub status: Status,
    /// The time sources and the witnesses.
    pub sources: Sources,
    /// The upstreams, one by one.
    pub upstreams: Vec<Upstream>,
    /// The certificate that clients are shown; `None` if there is none.
    pub certs: Option<Certs>,
    /// What the cache holds.
    pub cache: Option<Cache>,
    /// What is counted for monitoring alone.
    pub totals: Totals,
}

/// What is counted, since the start, or found out for monitoring alone.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Totals {
    /// When the daemon started by its present clock, RFC 3339.
    pub started: String,
    /// DNS connections that are open.
    pub connections: usize,
    /// Steps of the clock to a later time, and to an earlier one.
    pub steps: [u64; 2],
    /// What became of requests to the upstreams of each operator.
    pub requests: BTreeMap<String, Requests>,
    /// Conditions that came to be the case, or became worse.
    pub raised: u64,
    /// Conditions that ceased to be the case.
    pub cleared: u64,
    /// Octets sent over the uplink and received over it, by purpose.
    pub uplink: BTreeMap<String, [u64; 2]>,
    /// State files written to a disk.
    pub state_files: u64,
    /// The octets in them.
    pub state_octets: u64,
    /// Whether the configuration that was read last is in force.
    pub configuration_loaded: bool,
    /// DNS questions over IPv4, and over IPv6, by the way they came.
    pub queries: BTreeMap<String, [u64; 2]>,
    /// Answers to DNS questions, by origin and response code: every pair.
    pub answers: Vec<Answers>,
    /// How long they took, by origin.
    pub spans: Vec<Spans>,
    /// How orders of certificates ended; `None` if none are made.
    pub orders: Option<Endings>,
}

/// Answers to DNS questions, since the start.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Answers {
    /// What stands behind them.
    pub origin: String,
    /// Their response code.
    pub rcode: String,
    /// Their number.
    pub count: u64,
}

/// How long DNS questions took, since the start.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Spans {
    /// What stands behind their answers.
    pub origin: String,
    /// Their number within each step, the shortest first.
    pub steps: Vec<Step>,
    /// All of them together, in seconds.
    pub sum: f64,
}

/// Spans of at most so long, and longer than the step before.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Step {
    /// In seconds; `None`: longer than all others.
    pub most: Option<f64>,
    /// How many there were.
    pub count: u64,
}

/// What became of requests to an operator's upstreams, since the start.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Requests {
    /// Answered, whatever the response code.
    pub answered: u64,
    /// Not answered: refused, reset, silent, or not verifiable.
    pub failed: u64,
    /// Answered with SERVFAIL or REFUSED where another operator then knew better.
    pub outdone: u64,
}

/// How orders of certificates ended, since the start.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Endings {
    /// With a certificate.
    pub issued: u64,
    /// Without.
    pub failed: u64,
    /// Rehearsals that went as they should.
    pub rehearsed: u64,
    /// Rehearsals that did not.
    pub rehearsals_failed: u64,
}
