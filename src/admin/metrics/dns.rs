//! Figures of names: questions, answers, the cache.

use std::fmt::Error;

use prometheus_client::registry::Unit;

use super::page::{Labels, Page, count, labelled};
use crate::admin::report::{Cache, Dns, Totals};

pub(super) fn names(dns: &Dns, totals: &Totals, page: &mut Page<'_>) -> Result<(), Error> {
    let met = |name: &str| dns.counters.get(name).copied().unwrap_or(0);
    let table = |rows: &[(&'static str, &'static str)]| {
        rows.iter().map(|(label, counter)| (*label, met(counter))).collect::<Vec<_>>()
    };
    let queries = totals.queries.iter().flat_map(|(transport, [v4, v6])| {
        [("ipv4", *v4), ("ipv6", *v6)].map(|(family, queries)| {
            let labels = [("transport", transport.clone()), ("family", family.to_owned())];
            (Labels::from(labels), queries)
        })
    });
    let help = "DNS questions, by the way they came.";
    page.counters("dns_queries", None, help, queries)?;
    answers(totals, page)?;
    let unanswered = table(&[
        ("dropped", "queries_dropped"),
        ("late", "queries_late"),
        ("shed", "queries_shed"),
    ]);
    let help = "DNS questions without an answer: no questions at all, late, or too many at once.";
    page.counters("dns_unanswered", None, help, labelled("reason", unanswered))?;
    let asked = table(&[
        ("sent", "flights"),
        ("joined", "shared"),
        ("refreshed", "refreshed"),
        ("unfit", "unfit"),
        ("shed", "shed"),
    ]);
    let help = "Questions to upstreams: sent, spared by joining one under way, sent ahead to refresh, \
                answered with what could not be used, and not sent because too many were under way.";
    page.counters("dns_upstream_questions", None, help, labelled("event", asked))?;
    let recursion =
        table(&[("encrypted", "recursion_encrypted"), ("plaintext", "recursion_plaintext")]);
    let help = "Questions to authoritative servers (dns.mode = \"recurse\").";
    page.counters("dns_recursion_questions", None, help, labelled("protection", recursion))?;
    let events = table(&[
        ("accepted", "connections_accepted"),
        ("refused", "connections_refused"),
        ("displaced", "connections_displaced"),
        ("cut", "connections_cut"),
        ("handshake-failed", "handshakes_failed"),
        ("not-accepted", "accept_errors"),
    ]);
    let help = "What happened to connections of DNS clients.";
    page.counters("dns_connection_events", None, help, labelled("event", events))?;
    let open = count(totals.connections);
    page.gauge("dns_connections", None, "Connections of DNS clients that are open.", open)
}

pub(super) fn cached(cache: &Cache, page: &mut Page<'_>) -> Result<(), Error> {
    page.gauge("cache_entries", None, "Answers in the cache.", count(cache.entries))?;
    let help =
        "Answers in the cache that came through certificates whose dates are not certain yet.";
    page.gauge("cache_relaxed_entries", None, help, count(cache.relaxed))?;
    let help = "What the cache takes.";
    page.gauge("cache_size", Some(&Unit::Bytes), help, count(cache.bytes))?;
    let help = "What the cache may take.";
    page.gauge("cache_limit", Some(&Unit::Bytes), help, count(cache.limit))?;
    page.counter("cache_insertions", None, "Answers taken into the cache.", cache.inserted)?;
    let help = "Answers that had to make room for others in the cache.";
    page.counter("cache_evictions", None, help, cache.evicted)
}

/// Answers by where they came from and what they say, and how long they took.
fn answers(totals: &Totals, page: &mut Page<'_>) -> Result<(), Error> {
    let counted =
        totals.answers.iter().filter(|it| it.count > 0 || is_usual(&it.origin, &it.rcode));
    let counted = counted.map(|it| {
        let labels = [("origin", it.origin.clone()), ("rcode", it.rcode.clone())];
        (Labels::from(labels), it.count)
    });
    let help = "DNS answers, by where they came from and their response code; failed: no upstream gave one that can be used. \
                Denied clients are of networks that are not served.";
    page.counters("dns_responses", None, help, counted)?;
    let spans = totals.spans.iter().map(|it| {
        let steps = it.steps.iter().map(|step| (step.most.unwrap_or(f64::INFINITY), step.count));
        (vec![("origin", it.origin.clone())], steps.collect(), it.sum)
    });
    let help = "How long DNS questions took from when the whole of each was read until its answer was handed \
                to the kernel or its connection, by where the answer came from. Datagrams read at once, and \
                what a connection sent at once, are answered together and count alike.";
    page.histograms("dns_response", &Unit::Seconds, help, spans)
}

/// Whether a pair of origin and response code is shown though it has not occurred: alerts on the first
/// of its kind need the zero before it.
fn is_usual(origin: &str, rcode: &str) -> bool {
    let codes: &[&str] = match origin {
        "cache" => &["NOERROR", "NXDOMAIN", "SERVFAIL"],
        "local" | "stale" | "upstream" => &["NOERROR", "NXDOMAIN"],
        "blocked" => &["NXDOMAIN"],
        "failed" => &["SERVFAIL", "REFUSED"],
        "refused" => &["REFUSED", "FORMERR"],
        "denied" => &["REFUSED"],
        "limited" => &["NOERROR", "other"],
        "malformed" => &["FORMERR", "NOTIMP", "other"],
        _ => &[],
    };
    codes.contains(&rcode)
}
