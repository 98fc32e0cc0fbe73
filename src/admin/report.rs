//! What the daemon tells of itself, as the JSON of the control socket.

mod figures;

use serde::{Deserialize, Serialize};

pub use figures::{Answers, Endings, Figures, Requests, Spans, Step, Totals};

use super::Health;

/// The source of a certificate that the local authority has signed.
pub const FALLBACK: &str = "fallback";

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
    /// What went over the link to the Internet.
    #[serde(default)]
    pub uplink: Uplink,
    /// The conditions that hold, the gravest first.
    pub conditions: Vec<Condition>,
}

/// What went over the link to the Internet, in octets with their headers, about as whoever sends
/// the bill counts.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Uplink {
    /// Why the link counts as metered; `None` if it does not.
    pub metered: Option<String>,
    /// Within the last day, by purpose: `names`, `time`, `witnesses`.
    pub day: std::collections::BTreeMap<String, u64>,
    /// Of those, over metered links.
    pub day_metered: std::collections::BTreeMap<String, u64>,
    /// What may go over metered links within a day; 0: any amount.
    pub budget: u64,
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
    /// Where the time comes from: an address, or the name of a reference clock at stratum 1; empty
    /// while unsynchronized.
    #[serde(default)]
    pub reference_id: String,
    /// A leap second at the end of the UTC day: 0 none, 1 inserted, 2 deleted.
    #[serde(default)]
    pub leap: u8,
    /// When the clock was last found right or set, RFC 3339.
    #[serde(default)]
    pub reference_time: String,
    /// Seconds by which the best source was ahead of our clock when it last answered.
    #[serde(default)]
    pub last_offset: Option<f64>,
    /// Seconds between two questions to it.
    #[serde(default)]
    pub interval: Option<f64>,
    /// Seconds.
    pub root_delay: f64,
    /// Seconds.
    pub root_dispersion: f64,
    /// Requests answered.
    pub answered: u64,
    /// Requests of clients that are not told the time.
    #[serde(default)]
    pub denied: u64,
    /// Packets that were no request, and got no answer.
    #[serde(default)]
    pub malformed: u64,
    /// What became of the packets and of key exchanges, by name of the counter.
    #[serde(default)]
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// An address that asks for the time.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Client {
    /// Whose.
    pub address: String,
    /// Its questions.
    pub asked: u64,
    /// Those that got no answer.
    pub dropped: u64,
    /// Seconds since the last one.
    pub last: f64,
    /// Mean seconds between two.
    pub interval: Option<f64>,
    /// How the last one was protected: `plain`, `key` or `nts`.
    pub how: String,
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
    /// The cache's copy on disk.
    #[serde(default)]
    pub snapshot: Snapshot,
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
    /// `acme`, `files` or `fallback`.
    pub source: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// Whether it is valid at firstlight's time.
    pub valid: bool,
}

/// The certificate that clients are shown, and what lies ahead of it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Certs {
    /// firstlight's UTC, RFC 3339.
    pub utc: String,
    /// Whether that is verified: dates are judged only then.
    pub verified: bool,
    /// `acme`, `files` or `fallback`.
    pub source: String,
    /// The certificate file in the configuration.
    pub certificate: Option<String>,
    /// The key file in the configuration.
    pub key: Option<String>,
    /// The name that clients check.
    pub name: String,
    /// The names in the certificate.
    pub names: Vec<String>,
    /// Whose signature it carries.
    pub issuer: String,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// How long an outage of whoever renews it is survived that begins at this moment, in seconds;
    /// `None` while dates are not judged, or if it is renewed here.
    pub survives: Option<u64>,
    /// When it is renewed, RFC 3339.
    pub renewal: Option<String>,
    /// By whom, and why then.
    pub why: String,
    /// Where its orders stand; `None` if none are made.
    #[serde(default)]
    pub orders: Option<Orders>,
    /// The conditions about it.
    pub conditions: Vec<Condition>,
}

/// Where the orders of certificates stand.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Orders {
    /// The serial number of the certificate that is to be renewed, in hexadecimal.
    pub serial: Option<String>,
    /// How long an outage is survived that begins at this moment, in seconds; `None` while dates are
    /// not judged.
    pub survives: Option<u64>,
    /// The same of one that begins at the worst moment, just before a renewal.
    pub survives_at_worst: Option<u64>,
    /// When the next order is due, RFC 3339; the past, if it is overdue.
    pub due: String,
    /// Why.
    pub why: String,
    /// What keeps it from being made though it is due, or would if it were.
    pub hold: Option<String>,
    /// When the next rehearsal is planned, RFC 3339; the past, if it has been.
    pub rehearsal: Option<String>,
    /// The order under way.
    pub running: Option<RunningOrder>,
    /// Orders that failed since the last that did not.
    pub failures: u32,
    /// The last of them, in words.
    pub last_failure: Option<String>,
    /// The certificate authorities, in the order in which they are asked.
    pub authorities: Vec<Rehearsal>,
}

/// An order under way.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RunningOrder {
    /// At which certificate authority.
    pub authority: String,
    /// Whether it is a rehearsal, at its staging directory.
    pub staging: bool,
}

/// Where the rehearsals at a certificate authority stand.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Rehearsal {
    /// The authority's name in the configuration.
    pub authority: String,
    /// Whether it has a staging directory; without one nothing is rehearsed there.
    pub staging: bool,
    /// Whether one is under way, or asked for and about to begin.
    pub running: bool,
    /// Whether the last one succeeded, with the certificate in service.
    pub passed: bool,
    /// How the last one failed, if it did.
    pub failure: Option<String>,
    /// Rehearsals that failed since the last that did not.
    pub failures: u32,
}

/// What devices have to be told to use this machine over TLS, and whom they have to trust for that.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Devices {
    /// The name that they check.
    pub name: String,
    /// Where the certificate they are shown comes from: `acme`, `files` or `fallback`; `None` if
    /// there is none.
    pub source: Option<String>,
    /// Whether that certificate is for the name.
    pub named: bool,
    /// Where DoT is served, if it is.
    pub dot: Option<Access>,
    /// Where DoH is served, if it is.
    pub doh: Option<Access>,
    /// The local authority; `None` if none can be made.
    pub authority: Option<Authority>,
}

/// Where a service is reached.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Access {
    /// The addresses on the local network; those of this machine alone, if there are no others.
    pub addresses: Vec<std::net::IpAddr>,
    /// The TCP port.
    pub port: u16,
    /// The path of the query resource; DoH only.
    #[serde(default)]
    pub path: Option<String>,
}

/// The local authority: what it can sign for, and how it is recognised. Its key is never told.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Authority {
    /// Its certificate as PEM.
    pub certificate: String,
    /// The SHA-256 of that, as openssl writes it: `AB:CD:...`.
    pub fingerprint: String,
    /// The only names it can sign for, each with all below it.
    pub names: Vec<String>,
    /// The only addresses it can sign for, as networks.
    pub networks: Vec<String>,
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
    /// Address and port, or the name of a reference clock.
    pub address: String,
    /// `server`, or `sock`, `nmea` or `pps` for a reference clock.
    #[serde(default)]
    pub kind: String,
    /// The device or socket of a reference clock.
    #[serde(default)]
    pub path: Option<String>,
    /// The name of the pool that it was found under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Who runs it.
    pub operator: String,
    /// `truechimer`, `falseticker`, `undecided`, `silent` or `denied`.
    pub verdict: String,
    /// Whether it is preferred.
    pub prefer: bool,
    /// Whether it is a clock of one's own.
    pub trust: bool,
    /// Whether it is asked and not counted.
    #[serde(default)]
    pub noselect: bool,
    /// The key without whose code it is not believed.
    #[serde(default)]
    pub key: Option<u32>,
    /// Under NTS: for how many questions there are cookies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nts_cookies: Option<usize>,
    /// Its stratum; 0 for a reference clock, and if it was never heard.
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
    /// Its place in the order in which upstreams are tried, from 1.
    pub place: usize,
    /// Why it has that place: `best`, `turn`, `next`, `unknown`, `lossy`, `outdone`, `relaxed`,
    /// `family-down` or `down`.
    pub reason: String,
    /// Questions that go to it first, in percent.
    pub share: f64,
    /// Smoothed latency in milliseconds.
    pub latency_ms: Option<f64>,
    /// What 19 of 20 of the latest answers took at most, in milliseconds.
    pub p95_ms: Option<f64>,
    /// How long it may be silent until another is asked too, in milliseconds.
    pub hedge_after_ms: f64,
    /// Questions lost of late, in percent.
    pub loss: f64,
    /// Failures in a row.
    pub failures: u32,
    /// Its certificate passes rule R only, though the clock is set.
    pub relaxed_only: bool,
}

/// What the cache holds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Cache {
    /// Answers held.
    pub entries: usize,
    /// Of those, through chains whose dates are not certain yet.
    pub relaxed: usize,
    /// Bytes held.
    pub bytes: usize,
    /// Bytes that may be held.
    pub limit: usize,
    /// Questions answered from it within the time to live, since the start.
    pub fresh: u64,
    /// The same past it.
    pub stale: u64,
    /// Questions that needed an upstream.
    pub missed: u64,
    /// The share of those that did not; `None` before the first question.
    pub hit_ratio: Option<f64>,
    /// Answers taken in since the start.
    pub inserted: u64,
    /// Answers that had to make room since the start.
    pub evicted: u64,
    /// Its copy on disk.
    pub snapshot: Snapshot,
    /// What is held under the name asked for.
    pub held: Option<Vec<Held>>,
}

/// The cache's copy on disk.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Snapshot {
    /// Whether one is read and written.
    pub enabled: bool,
    /// What was read at the start.
    pub read: Option<SnapshotRead>,
    /// For how many seconds the machine was off before that, once it is known.
    pub offline: Option<u64>,
    /// Seconds since one was written; `None`: not by this process.
    pub written_ago: Option<u64>,
    /// Answers in it.
    pub written_entries: usize,
    /// Its size in bytes.
    pub written_bytes: u64,
    /// Bytes that the disk may still be given at this time.
    pub budget: u64,
    /// What last went wrong with it.
    pub trouble: Option<String>,
}

/// What was read of a snapshot.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SnapshotRead {
    /// How long that took.
    pub milliseconds: u64,
    /// Answers taken from it.
    pub entries: usize,
    /// Answers that were too old, or asked for anew by then.
    pub left_out: usize,
    /// Its size in bytes.
    pub bytes: u64,
    /// Pages that were damaged.
    pub skipped_pages: usize,
}

/// A cached answer. Spans are in seconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Held {
    /// The type asked for.
    #[serde(rename = "type")]
    pub rtype: String,
    /// DNSSEC records were asked for.
    pub dnssec_ok: bool,
    /// Answers that fail validation were asked for.
    pub checking_disabled: bool,
    /// For whom it is; 0: everybody.
    pub view: u16,
    /// The response code.
    pub rcode: String,
    /// Records of the answer section, or of the authority section of a negative answer.
    pub records: Vec<String>,
    /// Since when it is held.
    pub age: u32,
    /// `fresh`, `stale` or `expired`.
    pub state: String,
    /// For how long it may still be given out.
    pub left: Option<u32>,
    /// Why it is given out, or why not.
    pub why: String,
    /// `bogus`, `insecure`, `secure` or `unchecked`.
    pub validation: String,
    /// `as-came` or `rewritten`.
    pub policy: String,
    /// The chain it came through, if its dates are not certain yet.
    pub chain: Option<u64>,
    /// It came from the snapshot.
    pub restored: bool,
    /// Octets.
    pub bytes: usize,
}

/// Whether a part of the daemon is well.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HealthReport {
    /// Whether it does its work.
    pub healthy: bool,
    /// Why, or why not.
    pub reason: String,
    /// The conditions about it that hold, the gravest first.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

impl HealthReport {
    /// A line that says how `part` is, and one for each condition.
    #[must_use]
    pub fn in_words(&self, part: Health) -> String {
        let verdict = if self.healthy { "well" } else { "NOT WELL" };
        let first = format!("{}: {verdict}: {}", part.name(), self.reason);
        let conditions = self.conditions.iter();
        let others = conditions.map(|it| format!("  {} {}: {}", it.severity, it.name, it.text));
        std::iter::once(first).chain(others).collect::<Vec<_>>().join("\n")
    }
}
