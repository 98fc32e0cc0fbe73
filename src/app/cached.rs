//! The cache as the control socket shows it.

use hickory_proto::op::Message;

use super::control::json;
use super::services::Services;
use crate::admin::{Reason, Response, report};
use crate::cache::{Good, Policy, Provenance, Seen, Validation};
use crate::wire::{Name, Type};

impl Services {
    /// What the cache holds; in detail under `name`.
    pub(super) fn show_cache(&self, name: Option<&str>) -> Response {
        let now = self.clock.mono();
        let held = match name.map(str::parse::<Name>).transpose() {
            Ok(name) => name.map(|name| self.cache.under(&name, now)),
            Err(error) => return Response::refused(Reason::Malformed, error.to_string()),
        };
        let held = held.map(|held| held.iter().map(shown).collect());
        json(&report::Cache { held, ..self.cached() })
    }

    /// What the cache holds, in figures.
    pub(super) fn cached(&self) -> report::Cache {
        let (stats, counts) = (self.cache.stats(), self.answerer.counts());
        let hits = counts.cached + counts.stale;
        let missed = counts.forwarded + counts.failed;
        report::Cache {
            entries: stats.entries,
            relaxed: stats.relaxed,
            bytes: stats.bytes,
            limit: stats.limit,
            fresh: counts.cached,
            stale: counts.stale,
            missed,
            hit_ratio: ratio(hits, hits + missed),
            inserted: stats.inserted,
            evicted: stats.evicted,
            snapshot: self.snapshots.report(),
            held: None,
        }
    }

    /// Forgets what is cached under `name`, and below it if so wished; everything without one.
    pub(super) fn flush(&self, name: Option<&str>, subtree: bool) -> Response {
        let flushed = match name.map(str::parse::<Name>) {
            None => self.cache.flush_all(),
            Some(Ok(name)) if subtree => self.cache.flush_subtree(&name),
            Some(Ok(name)) => self.cache.flush_name(&name),
            Some(Err(error)) => return Response::refused(Reason::Malformed, error.to_string()),
        };
        // It keeps answers of its own.
        self.recursion.renew();
        self.snapshots.note_flush();
        json(&serde_json::json!({ "flushed": flushed }))
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown to people")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn shown(seen: &Seen) -> report::Held {
    let [.., t0, t1, _, _] = *seen.answer.question() else { unreachable!("it has a type") };
    let (state, left) = match seen.good {
        Good::Fresh { left } => ("fresh", Some(left)),
        Good::Stale { left, .. } => ("stale", Some(left)),
        Good::Nothing { .. } => ("expired", None),
    };
    report::Held {
        rtype: hickory_proto::rr::RecordType::from(Type(u16::from_be_bytes([t0, t1])).0)
            .to_string(),
        dnssec_ok: seen.dnssec_ok,
        checking_disabled: seen.checking_disabled,
        view: seen.view.0,
        rcode: seen.answer.rcode().to_string(),
        records: records(seen),
        age: seen.age,
        state: state.to_owned(),
        left,
        why: why(seen),
        validation: match seen.standing.validation {
            Validation::Bogus => "bogus",
            Validation::Insecure => "insecure",
            Validation::Secure => "secure",
            Validation::Unchecked => "unchecked",
        }
        .to_owned(),
        policy: match seen.standing.policy {
            Policy::AsCame => "as-came",
            Policy::Rewritten => "rewritten",
        }
        .to_owned(),
        chain: match seen.standing.provenance {
            Provenance::Relaxed(chain) => Some(chain.0),
            Provenance::Strict => None,
        },
        restored: seen.restored,
        bytes: seen.answer.size(),
    }
}

/// The records in presentation format, with what is left of their times to live.
fn records(seen: &Seen) -> Vec<String> {
    let Ok(message) = Message::from_vec(seen.answer.message()) else {
        return vec!["(not readable)".to_owned()];
    };
    let negative = message.answers.is_empty();
    let records = if negative { message.authorities } else { message.answers };
    let aged = records.into_iter().map(|mut record| {
        record.ttl = record.ttl.saturating_sub(seen.age);
        record.to_string()
    });
    aged.collect()
}

/// Why it is given out, or why not.
fn why(seen: &Seen) -> String {
    let mut words = vec![match seen.good {
        Good::Fresh { .. } => "within its time to live".to_owned(),
        Good::Stale { since, .. } => {
            format!("past its time to live since {since} s; stands in while no upstream answers")
        }
        Good::Nothing { since } if seen.standing.lasts(seen.answer.rcode()) => {
            format!("past its time to live since {since} s, longer than it may stand in")
        }
        Good::Nothing { since } => {
            format!("past its time to live since {since} s, and may not stand in: {}", never(seen))
        }
    }];
    if let (Good::Fresh { .. } | Good::Stale { .. }, Some(failed)) = (seen.good, seen.failed) {
        words.push(format!("a refresh failed {failed} s ago"));
    }
    if let Provenance::Relaxed(chain) = seen.standing.provenance {
        words.push(format!("through chain {}, whose dates are not certain yet", chain.0));
    }
    if seen.restored {
        words.push("from the snapshot".to_owned());
    }
    words.join("; ")
}

/// What keeps it from standing in.
fn never(seen: &Seen) -> &'static str {
    if !seen.answer.rcode().is_answer() {
        "it is a failure"
    } else if seen.standing.validation == Validation::Bogus {
        "it is bogus"
    } else if seen.standing.policy == Policy::Rewritten {
        "it was rewritten by policy"
    } else {
        "its chain's dates were never certain"
    }
}
