//! What the daemon tells of itself, as the JSON of the control socket.

use serde::{Deserialize, Serialize};

/// Everything at a glance.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime: u64,
    /// Where the configuration in force comes from.
    pub configuration: String,
    /// What is known of time.
    pub time: Time,
    /// Answers to DNS questions.
    pub dns: Dns,
    /// Sockets.
    pub listeners: Listeners,
    /// The certificate that clients are shown.
    pub certificate: Option<Certificate>,
    /// The conditions that hold, the gravest first.
    pub conditions: Vec<Condition>,
}

/// What is known of time.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Time {
    /// firstlight's UTC, RFC 3339.
    pub utc: String,
    /// `cold`, `suspect`, `coarse`, `holdover` or `disciplined`.
    pub level: String,
    /// Whether witnesses of two operators confirm it.
    pub verified: bool,
    /// `steer` or `observe`.
    pub mode: String,
    /// Why steering was asked for and is not done.
    pub steering_refused: Option<String>,
    /// The floor, RFC 3339, and where it comes from.
    pub floor: Origin,
    /// Where the clock started, and why there.
    pub guess: Origin,
    /// How dates of upstream certificates are judged: `strict`, `strict-else-rule-r` or `rule-r`.
    pub certificate_dates: String,
    /// Counts the changes of trust.
    pub generation: u64,
    /// What NTP clients are told.
    pub ntp: Ntp,
    /// The frequency correction in force, in parts per million.
    pub frequency_ppm: f64,
    /// Panics of the time engine that were caught.
    pub engine_panics: u64,
    /// Panics of the daemon's other tasks that were caught.
    #[serde(default)]
    pub task_panics: u64,
}

/// A time and where it comes from.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Origin {
    /// RFC 3339.
    pub time: String,
    /// Its origin, for a person.
    pub origin: String,
}

/// What NTP clients are told.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Ntp {
    /// False: leap indicator 3.
    pub synchronized: bool,
    /// 16 while unsynchronized.
    pub stratum: u8,
    /// Seconds.
    pub root_delay: f64,
    /// Seconds.
    pub root_dispersion: f64,
    /// Requests answered.
    pub answered: u64,
    /// Packets that were no request, and got no answer.
    #[serde(default)]
    pub malformed: u64,
}

/// Answers to DNS questions.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Dns {
    /// `serve`, `local-only` or `refuse`.
    pub plaintext: String,
    /// Local names configured.
    pub local_names: usize,
    /// What became of the questions, by name of the counter.
    pub counters: std::collections::BTreeMap<String, u64>,
    /// Ways in which questions may leave in plaintext; empty unless configured.
    pub plaintext_exceptions: Vec<String>,
}

/// Sockets.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Listeners {
    /// Addresses that answer, each with its service.
    pub open: Vec<String>,
    /// Addresses that cannot be bound, each with the reason and the remedy.
    pub refused: Vec<String>,
}

/// The certificate that clients are shown.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Certificate {
    /// `files` or `fallback`.
    pub source: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// Whether it is valid at firstlight's time.
    pub valid: bool,
}

/// A condition that holds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Condition {
    /// Its stable name.
    pub name: String,
    /// `notice`, `warning` or `error`.
    pub severity: String,
    /// What is the case, with its facts.
    pub text: String,
    /// For how many seconds.
    pub seconds: u64,
}

/// A time source.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Source {
    /// Address and port.
    pub address: String,
    /// Who runs it.
    pub operator: String,
    /// `truechimer`, `falseticker`, `undecided`, `silent` or `denied`.
    pub verdict: String,
    /// Whether it is preferred.
    pub prefer: bool,
    /// Whether it is a clock of one's own.
    pub trust: bool,
    /// Its stratum; 0 if it was never heard.
    pub stratum: u8,
    /// Seconds between two polls.
    pub poll: f64,
    /// The last eight polls, newest lowest.
    pub reach: u8,
    /// Seconds since its last answer.
    pub age: Option<f64>,
    /// Its time less ours, in seconds.
    pub offset: Option<f64>,
    /// Its root distance, in seconds.
    pub error: Option<f64>,
    /// What it last did instead of answering.
    pub failure: Option<String>,
}

/// A witness.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Witness {
    /// TLS name.
    pub name: String,
    /// Address and port.
    pub address: String,
    /// Who runs it.
    pub operator: String,
    /// Seconds since it was last heard.
    pub age: Option<f64>,
    /// Its time less ours, in seconds.
    pub offset: Option<f64>,
    /// Whether its testimony counts: the chain is valid at the time it states, and not expired before the floor.
    pub counts: bool,
    /// Why it could last not be heard.
    pub failure: Option<String>,
}

/// The time sources and the witnesses.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Sources {
    /// In the order of the configuration.
    pub sources: Vec<Source>,
    /// The DoH upstreams and `[[clock.witness]]`, in that order.
    pub witnesses: Vec<Witness>,
}

/// An upstream address.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Upstream {
    /// TLS name.
    pub name: String,
    /// Who runs it.
    pub operator: String,
    /// Address and port.
    pub address: String,
    /// `up`, `probing` or `down`.
    pub state: String,
    /// Smoothed latency in milliseconds.
    pub latency_ms: Option<f64>,
    /// Failures in a row.
    pub failures: u32,
    /// Its certificate passes rule R only, though the clock is set.
    pub relaxed_only: bool,
}

/// What the cache holds under a name.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Cache {
    /// Answers held in all.
    pub entries: usize,
    /// Bytes held in all.
    pub bytes: usize,
}

/// Whether a part of the daemon is well.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HealthReport {
    /// Whether it does its work.
    pub healthy: bool,
    /// Why, or why not.
    pub reason: String,
}
