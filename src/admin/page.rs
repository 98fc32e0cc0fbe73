//! How things are, as a page for a browser: for whoever has no shell on the machine.
//!
//! It needs no script and nothing from elsewhere, for it is read while the Internet is away. Whatever it
//! shows that is not this program's own word is escaped.

use std::fmt::{self, Display, Write as _};
use std::time::Duration;

use super::report::{Cache, Certs, Condition, Dns, Figures, Source, Status, Upstream, Witness};
use super::words;

/// The style sheet.
pub(super) const STYLE: &str = include_str!("page.css");

/// The page.
pub(super) fn html(figures: &Figures) -> String {
    let mut page = String::with_capacity(16 << 10);
    // Nothing fails that is written to a string.
    let _ = write(figures, &mut page);
    page
}

fn write(figures: &Figures, page: &mut String) -> fmt::Result {
    let Figures { status, sources, upstreams, certs, cache, .. } = figures;
    page.push_str(HEAD);
    verdict(&status.conditions, page)?;
    page.push_str("<section><h2>At a glance</h2><dl>");
    time(status, page)?;
    names(&status.dns, cache.as_ref(), page)?;
    certificate(status, certs.as_ref(), page)?;
    listeners(status, page)?;
    page.push_str("</dl></section>");
    of_upstreams(upstreams, page)?;
    of_sources(&sources.sources, page)?;
    of_witnesses(&sources.witnesses, page)?;
    uplink(status, page)?;
    let up = words::span(Duration::from_secs(status.uptime));
    writeln!(
        page,
        "<footer>firstlight {}, up {up}, configured by {}. Nothing can be changed here. Figures: \
         <a href=\"/metrics\">/metrics</a>, <a href=\"/status.json\">/status.json</a>.</footer>\
         </main></body></html>",
        Text(&status.version),
        Text(&status.configuration)
    )
}

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
    <meta http-equiv=\"refresh\" content=\"10\"><title>firstlight</title>\
    <link rel=\"icon\" href=\"data:,\"><link rel=\"stylesheet\" href=\"/page.css\"></head>\n\
    <body><main><h1>firstlight</h1>\n";

fn verdict(conditions: &[Condition], page: &mut String) -> fmt::Result {
    if conditions.is_empty() {
        return page.write_str("<p class=\"well\">Nothing is wrong.</p>\n");
    }
    page.write_str("<ul class=\"conditions\">")?;
    for Condition { name, severity, text, seconds } in conditions {
        let since = words::span(Duration::from_secs(*seconds));
        write!(
            page,
            "<li class=\"{0}\"><b>{0} {1}</b> <small>for {since}</small><p>{2}</p></li>",
            Text(severity),
            Text(name),
            Text(text)
        )?;
    }
    page.write_str("</ul>\n")
}

fn time(status: &Status, page: &mut String) -> fmt::Result {
    let time = &status.time;
    let now = format!("{} by our clock, {}", time.utc, time.level);
    let mut parts = vec![
        now,
        words::level(&time.level).to_owned(),
        words::confirmed(time.verified).to_owned(),
        words::steering(time),
        words::dates(time),
    ];
    parts.extend(words::restarts(time));
    entry("Time", &parts, page)?;
    entry("NTP", &[words::ntp(&time.ntp)], page)
}

fn names(dns: &Dns, cache: Option<&Cache>, page: &mut String) -> fmt::Result {
    let met = |counter: &str| dns.counters.get(counter).copied().unwrap_or(0);
    let answered = [
        ("from local names", "local"),
        ("from the cache", "cached"),
        ("outdated, from the cache", "stale"),
        ("by upstreams", "forwarded"),
        ("blocked", "blocked"),
        ("failed", "failed"),
        ("refused", "refused"),
        ("refused for their network", "denied"),
        ("over the rate", "limited"),
        ("unreadable", "malformed"),
    ]
    .into_iter()
    .filter(|(_, counter)| met(counter) > 0)
    .map(|(origin, counter)| format!("{} {origin}", met(counter)));
    let answered: Vec<_> = answered.collect();
    let none = answered.is_empty();
    let mut parts = vec![if none { "no questions yet".to_owned() } else { answered.join(", ") }];
    if let Some(Cache { entries, hit_ratio: Some(ratio), .. }) = cache {
        let percent = ratio * 100.0;
        parts.push(format!("{entries} answers in the cache, which served {percent:.0} %"));
    }
    parts.push(words::plaintext(&dns.plaintext).to_owned());
    parts.extend(dns.plaintext_exceptions.iter().map(|it| format!("LEAVES UNENCRYPTED: {it}")));
    entry("Names", &parts, page)
}

fn certificate(status: &Status, certs: Option<&Certs>, page: &mut String) -> fmt::Result {
    let mut parts = vec![words::certificate(status.certificate.as_ref(), &status.time.utc)];
    if let Some(Certs { name, why, renewal, .. }) = certs {
        parts.push(format!("for {name}"));
        let at = renewal.as_deref().map(|at| format!(" {at}")).unwrap_or_default();
        parts.push(format!("renewal{at}: {why}"));
    }
    entry("Certificate", &parts, page)
}

fn listeners(status: &Status, page: &mut String) -> fmt::Result {
    let open = status.listeners.open.join(", ");
    let open = if open.is_empty() { "NONE".to_owned() } else { open };
    let refused = status.listeners.refused.iter().map(|refused| format!("NOT OPEN: {refused}"));
    let parts: Vec<_> = std::iter::once(open).chain(refused).collect();
    entry("Listening", &parts, page)
}

fn of_upstreams(upstreams: &[Upstream], page: &mut String) -> fmt::Result {
    let rows = upstreams.iter().map(|it| {
        let note = if it.relaxed_only { "certificate out of date by our clock" } else { "" };
        let millis =
            |value: Option<f64>| value.map_or_else(String::new, |it| format!("{it:.0} ms"));
        let cells = [
            it.name.clone(),
            it.address.clone(),
            it.operator.clone(),
            it.state.clone(),
            format!("{:.0} %", it.share),
            millis(it.latency_ms),
            millis(it.p95_ms),
            note.to_owned(),
        ];
        (it.state.as_str(), cells)
    });
    let title = ["Name", "Address", "Operator", "State", "First", "Latency", "95 %", ""];
    table("Upstreams", title, rows, page)
}

fn of_sources(sources: &[Source], page: &mut String) -> fmt::Result {
    let rows = sources.iter().map(|it| {
        let cells = [
            it.address.clone(),
            it.operator.clone(),
            it.verdict.clone(),
            if it.stratum == 0 { String::new() } else { it.stratum.to_string() },
            it.offset.map_or_else(String::new, signed),
            it.error.map_or_else(String::new, words::seconds),
            it.age.map_or_else(|| "never".to_owned(), words::seconds),
            it.failure.clone().unwrap_or_default(),
        ];
        (it.verdict.as_str(), cells)
    });
    let title = ["Address", "Operator", "Verdict", "Stratum", "Ahead by", "Within", "Heard", ""];
    table("Time sources", title, rows, page)
}

fn of_witnesses(witnesses: &[Witness], page: &mut String) -> fmt::Result {
    let rows = witnesses.iter().map(|it| {
        let state = if it.counts { "counts" } else { "does not count" };
        let cells = [
            it.name.clone(),
            it.address.clone(),
            it.operator.clone(),
            state.to_owned(),
            it.offset.map_or_else(String::new, signed),
            it.age.map_or_else(|| "never".to_owned(), words::seconds),
            it.failure.clone().unwrap_or_default(),
        ];
        (if it.counts { "up" } else { "undecided" }, cells)
    });
    let title = ["Name", "Address", "Operator", "Testimony", "Ahead by", "Heard", ""];
    table("Witnesses of the time", title, rows, page)
}

fn uplink(status: &Status, page: &mut String) -> fmt::Result {
    let uplink = &status.uplink;
    let kib = |octets: Option<&u64>| format!("{} KiB", octets.copied().unwrap_or(0).div_ceil(1024));
    let rows = uplink.day.iter().map(|(purpose, octets)| {
        let metered = uplink.day_metered.get(purpose);
        ("", [purpose.clone(), kib(Some(octets)), kib(metered)])
    });
    table("Over the uplink within a day", ["For", "In all", "Metered"], rows, page)?;
    let Some(reason) = &uplink.metered else { return Ok(()) };
    writeln!(page, "<p>The uplink is metered: {}</p>", Text(reason))
}

/// A term and what is to be said of it.
fn entry(term: &str, parts: &[String], page: &mut String) -> fmt::Result {
    write!(page, "<dt>{term}</dt>")?;
    parts.iter().try_for_each(|part| write!(page, "<dd>{}</dd>", Text(part)))?;
    page.write_char('\n')
}

/// A table whose rows have a class each; nothing, if there are none.
fn table<'a, const N: usize>(
    caption: &str,
    title: [&str; N],
    rows: impl Iterator<Item = (&'a str, [String; N])>,
    page: &mut String,
) -> fmt::Result {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    write!(page, "<section><h2>{caption}</h2><table><thead><tr>")?;
    title.iter().try_for_each(|cell| write!(page, "<th>{cell}</th>"))?;
    page.write_str("</tr></thead><tbody>")?;
    for (class, cells) in rows {
        write!(page, "<tr class=\"{}\">", Text(class))?;
        cells.iter().try_for_each(|cell| write!(page, "<td>{}</td>", Text(cell)))?;
        page.write_str("</tr>\n")?;
    }
    page.write_str("</tbody></table></section>\n")
}

/// A span in seconds with its sign.
fn signed(seconds: f64) -> String {
    let sign = if seconds < 0.0 { "-" } else { "+" };
    format!("{sign}{}", words::seconds(seconds.abs()))
}

/// A text in HTML, within an element or a quoted attribute.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            _ => f.write_char(character),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::admin::report::Totals;

    #[test]
    fn a_box_that_is_well_is_told_at_a_glance() {
        let page = html(&figures(&json!([])));

        for words in [
            "<p class=\"well\">Nothing is wrong.</p>",
            "<dt>Time</dt><dd>2026-03-14T06:11:40Z by our clock, disciplined</dd>",
            "<dd>clients are served: stratum 2 (192.0.2.1), off by 14 ms at most; 7 answered</dd>",
            "<dd>40 from the cache, 2 by upstreams</dd><dd>12 answers in the cache, which served 95 %</dd>",
            "<dt>Certificate</dt><dd>from the files, valid until 2026-05-14T06:11:40Z (61 d left)</dd>",
            "<tr class=\"up\"><td>dns.example</td><td>192.0.2.53:853</td>",
            "<tr class=\"truechimer\"><td>192.0.2.123:123</td>",
            "<td>-2 ms</td><td>14 ms</td><td>3 s</td>",
            "<td>names</td><td>4 KiB</td><td>0 KiB</td>",
            "firstlight 0.1.0, up 3 h 12 min, configured by /etc/firstlight/firstlight.toml.",
        ] {
            assert!(page.contains(words), "{words}\n{page}");
        }
        assert!(!page.contains("Witnesses"), "there is none\n{page}");
        is_nested(&page);
    }

    #[test]
    fn what_is_wrong_comes_first_and_no_text_becomes_markup() {
        let evil = "<script>alert('1')</script> & \"more\"";
        let held = json!([{
            "name": "upstream-certificate", "severity": "warning", "text": evil, "seconds": 200
        }]);
        let page = html(&figures(&held));

        let told = "<li class=\"warning\"><b>warning upstream-certificate</b> <small>for 3 min</small>\
                    <p>&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;more&quot;</p></li>";
        assert!(page.contains(told), "{page}");
        assert!(page.find(told) < page.find("At a glance"));
        assert!(!page.contains("<script") && !page.contains("Nothing is wrong"));
        is_nested(&page);
    }

    #[test]
    fn whom_nothing_is_answered_learns_why() {
        let mut figures = figures(&json!([]));
        figures.status.dns.counters = [("denied".to_owned(), 3)].into();
        figures.status.time.task_panics = 2;

        let page = html(&figures);

        assert!(page.contains("<dt>Names</dt><dd>3 refused for their network</dd>"), "{page}");
        assert!(page.contains("<dd>a part failed and was started again, 2 times</dd>"), "{page}");
    }

    /// Each element ends where it should.
    fn is_nested(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        for tag in page.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
            let name = tag.split(' ').next().unwrap();
            match name.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name), "{page}"),
                None if ["!DOCTYPE", "meta", "link"].contains(&name) => {}
                None => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    fn figures(conditions: &Value) -> Figures {
        let origin = json!({ "time": "2026-03-14T02:00:00Z", "origin": "kept on disk" });
        serde_json::from_value(json!({
            "status": {
                "version": "0.1.0", "uptime": 11_525,
                "configuration": "/etc/firstlight/firstlight.toml",
                "time": {
                    "utc": "2026-03-14T06:11:40Z", "level": "disciplined", "verified": true,
                    "mode": "steer", "steering_refused": null, "floor": origin, "guess": origin,
                    "certificate_dates": "strict", "generation": 3, "frequency_ppm": -1.25,
                    "engine_panics": 0,
                    "ntp": {
                        "synchronized": true, "stratum": 2, "reference_id": "192.0.2.1",
                        "root_delay": 0.02, "root_dispersion": 0.0045, "answered": 7
                    }
                },
                "dns": {
                    "plaintext": "serve", "local_names": 3, "plaintext_exceptions": [],
                    "counters": { "cached": 40, "failed": 0, "forwarded": 2 }
                },
                "listeners": { "open": ["dns 0.0.0.0:53"], "refused": [] },
                "certificate": {
                    "source": "files", "valid": true, "not_before": "2026-02-14T06:11:40Z",
                    "not_after": "2026-05-14T06:11:40Z"
                },
                "uplink": {
                    "metered": null, "day": { "names": 4000 }, "day_metered": {}, "budget": 0
                },
                "conditions": conditions
            },
            "sources": {
                "sources": [{
                    "address": "192.0.2.123:123", "operator": "192.0.0.0/16", "verdict": "truechimer",
                    "prefer": false, "trust": false, "stratum": 1, "poll": 16.0, "reach": 255,
                    "age": 3.0, "offset": -0.002, "error": 0.014, "failure": null
                }],
                "witnesses": []
            },
            "upstreams": [{
                "name": "dns.example", "operator": "example", "address": "192.0.2.53:853",
                "state": "up", "place": 1, "reason": "best", "share": 100.0, "latency_ms": 12.0,
                "p95_ms": 30.0, "hedge_after_ms": 200.0, "loss": 0.0, "failures": 0,
                "relaxed_only": false
            }],
            "certs": null,
            "cache": {
                "entries": 12, "relaxed": 0, "bytes": 4000, "limit": 1_000_000, "fresh": 40,
                "stale": 0, "missed": 2, "hit_ratio": 0.952, "inserted": 12, "evicted": 0,
                "snapshot": {
                    "enabled": false, "read": null, "offline": null, "written_ago": null,
                    "written_entries": 0, "written_bytes": 0, "budget": 0, "trouble": null
                },
                "held": null
            },
            "totals": Totals::default()
        }))
        .unwrap()
    }
}
