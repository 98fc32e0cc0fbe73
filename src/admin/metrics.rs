//! Figures in the text format of Prometheus, version 0.0.4.
//!
//! Labels take few values: words of this program, and what the configuration names. No name that was asked
//! for is among them, and no client.

mod dns;
mod page;

use std::collections::BTreeMap;
use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::registry::{Registry, Unit};

use self::page::{Labels, Page, count, flag, labelled, precise, seconds_of};
use super::report::{Certs, Endings, Figures, Sources, Status, Time, Totals, Upstream};

/// The media type of [`text`].
pub(super) const MEDIA_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// All figures.
///
/// # Errors
///
/// If the text cannot be put together.
pub(super) fn text(figures: Figures) -> Result<String, Error> {
    let mut registry = Registry::with_prefix("firstlight");
    registry.register_collector(Box::new(Shown(figures)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Shown(Figures);

impl Collector for Shown {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Figures { status, sources, upstreams, certs, cache, totals } = &self.0;
        let mut page = Page(encoder);
        program(status, totals, &mut page)?;
        conditions(status, totals, &mut page)?;
        clock(&status.time, totals, &mut page)?;
        time_sources(sources, &mut page)?;
        time_service(&status.time, &mut page)?;
        dns::names(&status.dns, totals, &mut page)?;
        if let Some(cache) = cache {
            dns::cached(cache, &mut page)?;
        }
        servers(upstreams, totals, &mut page)?;
        if let Some(certs) = certs {
            certificates(certs, &mut page)?;
        }
        if let Some(orders) = &totals.orders {
            renewals(orders, &mut page)?;
        }
        uplink(status, totals, &mut page)
    }
}

fn program(status: &Status, totals: &Totals, page: &mut Page<'_>) -> Result<(), Error> {
    page.info("build", "The program that runs.", &[("version", status.version.clone())])?;
    let uptime = precise(status.uptime);
    page.gauge("uptime", Some(&Unit::Seconds), "For how long the daemon has run.", uptime)?;
    if let Some(started) = seconds_of(&totals.started) {
        let help = "When the daemon started, by its present clock.";
        page.gauge("start_time", Some(&Unit::Seconds), help, started)?;
    }
    let loaded = flag(totals.configuration_loaded);
    let help = "Whether the configuration that was read last could be used (1) or not (0).";
    page.gauge("config_last_reload_successful", None, help, loaded)?;
    let open = by_service(&status.listeners.open);
    page.gauges("listeners_open", None, "Addresses that answer, by service.", open)?;
    let refused = count(status.listeners.refused.len());
    page.gauge("listeners_refused", None, "Addresses that cannot be bound.", refused)?;
    let (tasks, engine) = (status.time.task_panics, status.time.engine_panics);
    let met = |name: &str| status.dns.counters.get(name).copied().unwrap_or(0);
    let panics =
        [("answer", met("panics") + met("udp_panics")), ("clock-engine", engine), ("task", tasks)];
    let help = "Faults of the program that were caught, by where; each should be reported.";
    page.counters("panics", None, help, labelled("part", panics))?;
    let help = "Files written to the state directory.";
    page.counter("state_files_written", None, help, totals.state_files)?;
    let help = "Octets written to files of the state directory.";
    page.counter("state_writes", Some(&Unit::Bytes), help, totals.state_octets)
}

fn conditions(status: &Status, totals: &Totals, page: &mut Page<'_>) -> Result<(), Error> {
    let holding = status.conditions.iter().map(|condition| {
        let labels = [("name", condition.name.clone()), ("severity", condition.severity.clone())];
        (labels.into(), 1.0)
    });
    let help = "1 for each condition that holds; `firstlight status` and /health/ have its words.";
    page.gauges("condition", None, help, holding)?;
    let numbers = ["error", "warning", "notice"].map(|severity| {
        let such = status.conditions.iter().filter(|it| it.severity == severity);
        (severity, count(such.count()))
    });
    let help = "How many conditions hold: errors wake somebody up, warnings can wait for the day.";
    page.gauges("conditions", None, help, labelled("severity", numbers))?;
    let changes = [("raised", totals.raised), ("cleared", totals.cleared)];
    let help = "How often conditions came to hold or became worse, and ceased to.";
    page.counters("condition_changes", None, help, labelled("change", changes))
}

fn clock(time: &Time, totals: &Totals, page: &mut Page<'_>) -> Result<(), Error> {
    let levels = ["cold", "suspect", "coarse", "holdover", "disciplined"];
    let level = levels.iter().position(|level| *level == time.level).unwrap_or(0);
    let help =
        "How far the clock is trusted: 0 cold, 1 suspect, 2 coarse, 3 holdover, 4 disciplined.";
    page.gauge("clock_trust_level", None, help, count(level))?;
    let help = "Whether witnesses of two operators confirm the clock (1).";
    page.gauge("clock_verified", None, help, flag(time.verified))?;
    let help = "Whether NTP clients are told that the clock is synchronised (1).";
    page.gauge("clock_synchronized", None, help, flag(time.ntp.synchronized))?;
    let help = "The stratum that NTP clients are told; 16: not synchronised.";
    page.gauge("clock_stratum", None, help, time.ntp.stratum.into())?;
    if let Some(offset) = time.ntp.last_offset {
        let help = "By how much the best source was ahead of our clock when it last answered.";
        page.gauge("clock_offset", Some(&Unit::Seconds), help, offset)?;
    }
    // Of a clock that nobody is told of, nothing is claimed.
    if time.ntp.synchronized {
        let help = "The error of our clock that grows until a source corrects it.";
        page.gauge("clock_root_dispersion", Some(&Unit::Seconds), help, time.ntp.root_dispersion)?;
        let help = "The way to the reference clock and back.";
        page.gauge("clock_root_delay", Some(&Unit::Seconds), help, time.ntp.root_delay)?;
        let help = "When the clock was last found right or set, by itself.";
        let at = seconds_of(&time.ntp.reference_time).map(|at| (Labels::new(), at));
        page.gauges("clock_last_sync_timestamp", Some(&Unit::Seconds), help, at)?;
    }
    let help = "The frequency correction in force, as a share: 0.000001 is 1 ppm.";
    page.gauge("clock_frequency_correction_ratio", None, help, time.frequency_ppm / 1e6)?;
    let [forward, backward] = totals.steps;
    let steps = [("forward", forward), ("backward", backward)];
    let help = "How often the clock was set in a step.";
    page.counters("clock_steps", None, help, labelled("direction", steps))
}

fn time_sources(sources: &Sources, page: &mut Page<'_>) -> Result<(), Error> {
    const VERDICTS: [&str; 5] = ["truechimer", "falseticker", "undecided", "silent", "denied"];
    let found = VERDICTS.map(|verdict| {
        let found = sources.sources.iter().filter(|source| source.verdict == verdict);
        (verdict, count(found.count()))
    });
    let help = "Time sources, by what is made of them; truechimers agree with the majority.";
    page.gauges("time_sources", None, help, labelled("verdict", found))?;

    let mut members: BTreeMap<&str, u32> = BTreeMap::new();
    let named: Vec<_> = sources
        .sources
        .iter()
        .map(|source| {
            // The members of a pool change: only their number is bounded.
            let name = source.pool.as_deref().map_or_else(
                || source.address.clone(),
                |pool| {
                    let number = members.entry(pool).or_default();
                    *number += 1;
                    format!("{pool}#{number}")
                },
            );
            let labels: Labels = [
                ("source", name),
                ("operator", source.operator.clone()),
                ("kind", source.kind.clone()),
            ]
            .into();
            (labels, source)
        })
        .collect();
    let each = |figure: fn(&super::report::Source) -> Option<f64>| {
        let found =
            named.iter().filter_map(move |(labels, it)| Some((labels.clone(), figure(it)?)));
        found.collect::<Vec<_>>()
    };
    let help = "Whether one of the last eight questions to the source was answered (1).";
    page.gauges("time_source_reachable", None, help, each(|it| Some(flag(it.reach > 0))))?;
    let help = "Whether the source agrees with the majority and counts (1).";
    let selected = each(|it| Some(flag(it.verdict == "truechimer" && !it.noselect)));
    page.gauges("time_source_selected", None, help, selected)?;
    let help = "The source's time less ours, when it last answered.";
    page.gauges("time_source_offset", Some(&Unit::Seconds), help, each(|it| it.offset))?;
    let help = "The source's root distance: the most by which it can be wrong.";
    page.gauges("time_source_error", Some(&Unit::Seconds), help, each(|it| it.error))?;

    let counting = sources.witnesses.iter().filter(|witness| witness.counts).count();
    let witnesses = [("counts", counting), ("does-not-count", sources.witnesses.len() - counting)]
        .map(|(state, witnesses)| (state, count(witnesses)));
    let help = "Witnesses of the time, by whether their testimony counts.";
    page.gauges("time_witnesses", None, help, labelled("state", witnesses))
}

fn time_service(time: &Time, page: &mut Page<'_>) -> Result<(), Error> {
    let met = |name: &str| time.ntp.counters.get(name).copied().unwrap_or(0);
    let requests = [
        ("answered", time.ntp.answered),
        ("unsynchronized", met("unsynchronized")),
        ("kissed", met("kissed")),
        ("nts-nak", met("nts_naks")),
        ("crypto-nak", met("unauthenticated")),
        ("limited", met("limited")),
        ("denied", time.ntp.denied),
        ("malformed", time.ntp.malformed),
    ];
    let help = "NTP requests, by what became of them; limited, denied and malformed got no answer.";
    page.counters("ntp_requests", None, help, labelled("result", requests))?;
    let protected =
        [("nts", met("nts")), ("key", met("authenticated")), ("interleaved", met("interleaved"))];
    let help = "NTP answers under NTS, with the code of a shared key, and in interleaved mode.";
    page.counters("ntp_answers", None, help, labelled("how", protected))?;
    let exchanges = [
        ("exchanged", met("nts_keys_exchanged")),
        ("failed", met("nts_exchanges_failed")),
        ("refused", met("nts_exchanges_refused")),
    ];
    let help = "NTS key exchanges, by how they ended.";
    page.counters("nts_key_exchanges", None, help, labelled("result", exchanges))
}

fn servers(upstreams: &[Upstream], totals: &Totals, page: &mut Page<'_>) -> Result<(), Error> {
    let requests = totals.requests.iter().flat_map(|(operator, met)| {
        let results =
            [("answered", met.answered), ("failed", met.failed), ("outdone", met.outdone)];
        results.map(|(result, requests)| {
            (vec![("operator", operator.clone()), ("result", result.to_owned())], requests)
        })
    });
    let help = "Requests to upstreams, by what became of them; outdone: another operator then knew better.";
    page.counters("upstream_requests", None, help, requests)?;
    let each = |figure: fn(&Upstream) -> Option<f64>| {
        let found = upstreams.iter().filter_map(move |it| {
            let labels = [
                ("operator", it.operator.clone()),
                ("upstream", it.name.clone()),
                ("address", it.address.clone()),
            ];
            Some((labels.into(), figure(it)?))
        });
        found.collect::<Vec<_>>()
    };
    let help = "Whether the upstream answers (1) or counts as down (0).";
    page.gauges("upstream_up", None, help, each(|it| Some(flag(it.state != "down"))))?;
    let help = "The smoothed time until the upstream answers.";
    let latency = each(|it| Some(it.latency_ms? / 1e3));
    page.gauges("upstream_latency", Some(&Unit::Seconds), help, latency)?;
    let help = "What 19 of 20 of the latest answers of the upstream took at most.";
    let slow = each(|it| Some(it.p95_ms? / 1e3));
    page.gauges("upstream_latency_p95", Some(&Unit::Seconds), help, slow)?;
    let help = "The share of questions to the upstream that were lost of late, from 0 to 1.";
    page.gauges("upstream_loss_ratio", None, help, each(|it| Some(it.loss / 100.0)))?;
    let help = "The share of questions that go to the upstream first, from 0 to 1.";
    page.gauges("upstream_share_ratio", None, help, each(|it| Some(it.share / 100.0)))?;
    let help = "Failures of the upstream since its last answer.";
    page.gauges("upstream_failures", None, help, each(|it| Some(it.failures.into())))?;
    let help = "Whether the upstream's certificate passes with relaxed dates only (1).";
    page.gauges("upstream_relaxed_only", None, help, each(|it| Some(flag(it.relaxed_only))))
}

fn certificates(certs: &Certs, page: &mut Page<'_>) -> Result<(), Error> {
    let source: Labels = [("source", certs.source.clone())].into();
    let times = [
        (
            "certificate_not_before_timestamp",
            &certs.not_before,
            "From when on the certificate is valid.",
        ),
        (
            "certificate_not_after_timestamp",
            &certs.not_after,
            "Until when the certificate is valid.",
        ),
    ];
    for (name, at, help) in times {
        let at = seconds_of(at).map(|at| (source.clone(), at));
        page.gauges(name, Some(&Unit::Seconds), help, at)?;
    }
    let renewal = certs.renewal.as_deref().and_then(seconds_of).map(|at| (source.clone(), at));
    let help = "When the certificate is due for renewal, by whoever renews it.";
    page.gauges("certificate_renewal_due_timestamp", Some(&Unit::Seconds), help, renewal)?;
    let survives = certs.survives.map(|span| (source, precise(span)));
    let help = "How long an outage of whoever renews the certificate is survived that begins now.";
    page.gauges("certificate_survives", Some(&Unit::Seconds), help, survives)?;
    let Some(orders) = &certs.orders else { return Ok(()) };
    let help = "Orders of certificates that failed since the last that did not.";
    page.gauge("acme_order_failures", None, help, orders.failures.into())?;
    let help = "Whether an order of a certificate is under way (1).";
    page.gauge("acme_order_running", None, help, flag(orders.running.is_some()))?;
    let help = "Whether something keeps the next order from being made (1).";
    page.gauge("acme_order_held", None, help, flag(orders.hold.is_some()))?;
    let rehearsed = orders.authorities.iter().map(|rehearsal| {
        let labels = [("authority", rehearsal.authority.clone())];
        (labels.into(), rehearsal.failures.into())
    });
    let help = "Rehearsals of orders that failed since the last that did not.";
    page.gauges("acme_rehearsal_failures", None, help, rehearsed)
}

fn renewals(ended: &Endings, page: &mut Page<'_>) -> Result<(), Error> {
    let results = [("issued", ended.issued), ("failed", ended.failed)];
    let help = "Orders of certificates, by how they ended; rehearsals are not among them.";
    page.counters("acme_renewals", None, help, labelled("result", results))?;
    let results = [("passed", ended.rehearsed), ("failed", ended.rehearsals_failed)];
    let help = "Rehearsals of orders, by how they ended.";
    page.counters("acme_rehearsals", None, help, labelled("result", results))
}

fn uplink(status: &Status, totals: &Totals, page: &mut Page<'_>) -> Result<(), Error> {
    let help = "Whether the uplink is paid for by the octet (1).";
    page.gauge("wan_metered", None, help, flag(status.uplink.metered.is_some()))?;
    let octets = totals.uplink.iter().flat_map(|(purpose, [sent, received])| {
        [("sent", *sent), ("received", *received)].map(|(direction, octets)| {
            let labels = [("direction", direction.to_owned()), ("purpose", purpose.clone())];
            (Labels::from(labels), octets)
        })
    });
    let help = "Octets over the uplink, headers included, by direction and what they are for.";
    page.counters("wan", Some(&Unit::Bytes), help, octets)?;
    let budget = precise(status.uplink.budget);
    let help = "What may go over metered links within a day; 0: any amount.";
    page.gauge("wan_budget", Some(&Unit::Bytes), help, budget)?;
    let day = status.uplink.day_metered.iter();
    let day = day.map(|(purpose, octets)| (purpose.as_str(), precise(*octets)));
    let help = "What went over metered links within the last day, by what it was for.";
    page.gauges("wan_metered_day", Some(&Unit::Bytes), help, labelled("purpose", day))
}

/// How many addresses each service has, from `dns 192.0.2.1:53` and its like.
fn by_service(open: &[String]) -> impl Iterator<Item = (Labels, f64)> {
    let services = ["dns", "dot", "doh", "doq", "ntp", "nts", "metrics"];
    let counted = services.map(|service| {
        let of = |place: &&String| place.split(' ').next() == Some(service);
        (service, count(open.iter().filter(of).count()))
    });
    labelled("service", counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_counted_by_their_names() {
        let open = ["dns 192.0.2.1:53", "dns [::1]:53", "doq 192.0.2.1:853"].map(str::to_owned);
        let counted: Vec<_> = by_service(&open).map(|(_, addresses)| addresses).collect();
        assert_eq!(counted, [2.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    }
}
