//! `firstlight sources`: the time sources as `chronyc sources` shows them, and the witnesses.

use clap::Args;

use crate::admin::Request;
use crate::admin::report;
use crate::cli::daemon::Look;
use crate::cli::exit::Failure;
use crate::cli::table::{self, compact};

/// How to show them.
#[derive(Args, Debug)]
pub(super) struct Sources {
    /// Explain the columns, and say by what the sources are protected.
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    look: Look,
}

/// Prints the sources, then the witnesses.
pub(super) fn run(sources: &Sources) -> Result<u8, Failure> {
    sources.look.show(&Request::Sources, |report: &report::Sources| {
        let (legend, protection) = if sources.verbose {
            (LEGEND, of_protection(&report.sources))
        } else {
            ("", String::new())
        };
        format!("{legend}{}{protection}", view(report))
    })
}

/// The sources, then the witnesses.
pub(super) fn view(report: &report::Sources) -> String {
    format!("{}\n{}", of_sources(&report.sources), of_witnesses(&report.witnesses))
}

const LEGEND: &str = "\
M: mode      ^ an NTP server, # a reference clock, or a clock of one's own (trust = true)
S: state     * the best of those that agree, + agrees with the majority,
             x contradicts it or the witnesses, - answers, but no majority has formed,
             or it is not to be counted (noselect), ? silent, or does not want to be asked
Poll         log2 of the seconds between two polls
Reach        the last eight polls, in octal; 377: all were answered
LastRx       seconds since the last answer
Last sample  + our clock is ahead of the source, - behind it; +/- the root distance

";

fn of_sources(sources: &[report::Source]) -> String {
    let names: Vec<_> = sources.iter().map(|source| name(&source.address)).collect();
    // chronyc's width, if the names fit.
    let width = names.iter().map(String::len).max().unwrap_or_default().max(26);
    let name_title = width - 2;
    let title = format!(
        "MS {:<name_title$}Stratum Poll Reach LastRx Last sample          Operator",
        "Name/IP address"
    );
    let rule = "=".repeat(title.len());
    let mut lines = vec![title, rule];
    let best = best(sources);
    lines.extend(sources.iter().zip(names).enumerate().map(|(index, (source, name))| {
        let server = source.path.is_none() && !source.trust;
        let mode = if server { '^' } else { '#' };
        let state = sign(source, best == Some(index));
        let stratum = source.stratum;
        let poll = source.poll.max(f64::MIN_POSITIVE).log2().round();
        let reach = source.reach;
        let heard = since(source.age);
        let sample = sample(source.offset, source.error, source.failure.as_deref());
        let operator = &source.operator;
        format!(
            "{mode}{state} {name:<width$} {stratum:>4} {poll:>4.0} {reach:>5o} {heard:>6} \
             {sample:<21}{operator}"
        )
    }));
    lines.join("\n") + "\n"
}

fn of_witnesses(witnesses: &[report::Witness]) -> String {
    let title = ["S Witness", "Address", "LastRx", "Last sample", "Operator"];
    let rows = witnesses.iter().map(|witness| {
        let state = match (witness.counts, witness.age) {
            (true, _) => '+',
            (false, Some(_)) => 'x',
            (false, None) => '?',
        };
        [
            format!("{state} {}", witness.name),
            witness.address.clone(),
            since(witness.age),
            sample(witness.offset, None, witness.failure.as_deref()),
            witness.operator.clone(),
        ]
    });
    let rows: Vec<_> = std::iter::once(title.map(str::to_owned)).chain(rows).collect();
    table::aligned(&rows)
}

/// By what each source proves that an answer is its own, if any does.
fn of_protection(sources: &[report::Source]) -> String {
    let rows: Vec<_> = sources
        .iter()
        .filter_map(|source| {
            let proof = match (source.nts_cookies, source.key) {
                (Some(0), _) => "NTS, no cookie: keys have to be exchanged first".to_owned(),
                (Some(1), _) => "NTS, 1 cookie".to_owned(),
                (Some(cookies), _) => format!("NTS, {cookies} cookies"),
                (None, Some(key)) => format!("key {key}"),
                (None, None) => return None,
            };
            Some([name(&source.address), proof])
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let title = ["Source", "Protected by"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(title).chain(rows).collect();
    format!("\n{}", table::aligned(&rows))
}

/// Without the port if it is the usual one.
fn name(address: &str) -> String {
    address.parse().map_or_else(
        |_| address.to_owned(),
        |socket: std::net::SocketAddr| match socket.port() {
            123 => socket.ip().to_string(),
            _ => address.to_owned(),
        },
    )
}

/// The preferred one of those that agree with the majority, else the closest one.
fn best(sources: &[report::Source]) -> Option<usize> {
    let distance = |source: &report::Source| source.error.unwrap_or(f64::INFINITY);
    let agree =
        sources.iter().enumerate().filter(|(_, it)| it.verdict == "truechimer" && !it.noselect);
    let order = |a: &report::Source, b: &report::Source| {
        b.prefer.cmp(&a.prefer).then(distance(a).total_cmp(&distance(b)))
    };
    agree.min_by(|(_, a), (_, b)| order(a, b)).map(|(index, _)| index)
}

fn sign(source: &report::Source, best: bool) -> char {
    match source.verdict.as_str() {
        "truechimer" if best => '*',
        "truechimer" if source.noselect => '-',
        "truechimer" => '+',
        "falseticker" => 'x',
        "undecided" => '-',
        _ => '?',
    }
}

fn since(age: Option<f64>) -> String {
    age.map_or_else(|| "-".to_owned(), |age| compact(age, "s").trim_end_matches('s').to_owned())
}

/// What was last heard, and the failure since; with chronyc's sign, which is the clock's, not the source's.
fn sample(offset: Option<f64>, error: Option<f64>, failure: Option<&str>) -> String {
    let offset = offset.map(|offset| {
        let sign = if offset > 0.0 { '-' } else { '+' };
        format!("{:>8}", format!("{sign}{}", compact(offset, "ns")))
    });
    let error = error.map(|error| format!(" +/- {:>6}", compact(error, "ns")));
    let heard = offset.map(|offset| format!("{offset}{}", error.unwrap_or_default()));
    match (heard, failure) {
        (Some(heard), Some(failure)) => format!("{heard} ({failure}) "),
        (Some(heard), None) => heard,
        (None, Some(failure)) => format!("{failure} "),
        (None, None) => "not heard yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_look_as_chronyc_shows_them() {
        let text = of_sources(&[
            heard("10.77.0.9:123", "falseticker", 157_788_000.0, 0.001),
            heard("192.0.2.1:123", "truechimer", 0.000_123, 0.012),
            heard("[2001:db8::1]:1123", "truechimer", -0.000_9, 0.004),
            report::Source {
                age: None,
                offset: None,
                error: None,
                reach: 0,
                failure: Some("timed out".to_owned()),
                ..heard("192.0.2.3:123", "silent", 0.0, 0.0)
            },
            report::Source {
                stratum: 0,
                poll: 1.0,
                kind: "sock".to_owned(),
                path: Some("/run/gps.sock".to_owned()),
                ..heard("GPS", "truechimer", 0.000_001, 0.010)
            },
        ]);

        assert_eq!(
            text,
            "\
MS Name/IP address         Stratum Poll Reach LastRx Last sample          Operator
==================================================================================
^x 10.77.0.9                     2    4   377     23   -1826d +/- 1000us  op
^+ 192.0.2.1                     2    4   377     23   -123us +/-   12ms  op
^* [2001:db8::1]:1123            2    4   377     23   +900us +/- 4000us  op
^? 192.0.2.3                     2    4     0      - timed out            op
#+ GPS                           0    0   377     23  -1000ns +/-   10ms  op
"
        );
    }

    #[test]
    fn a_preferred_source_that_agrees_is_the_best_and_one_that_does_not_is_not() {
        let mut sources = [
            heard("192.0.2.1:123", "truechimer", 0.0, 0.001),
            heard("192.0.2.2:123", "truechimer", 0.0, 0.9),
            heard("192.0.2.3:123", "falseticker", 0.0, 0.0),
        ];
        assert_eq!(best(&sources), Some(0));

        sources[1].prefer = true;
        sources[2].prefer = true;

        assert_eq!(best(&sources), Some(1));
        assert_eq!(best(&sources[2..]), None);
    }

    #[test]
    fn it_is_shown_by_what_sources_are_protected() {
        let protected = |address, nts_cookies, key| report::Source {
            key,
            nts_cookies,
            ..heard(address, "truechimer", 0.0, 0.001)
        };
        let plain = protected("192.0.2.1:123", None, None);
        assert_eq!(of_protection(std::slice::from_ref(&plain)), "");

        let text = of_protection(&[
            plain,
            protected("192.0.2.2:123", Some(8), None),
            protected("192.0.2.3:123", Some(1), None),
            protected("192.0.2.4:123", Some(0), None),
            protected("[2001:db8::1]:1123", None, Some(7)),
        ]);

        assert_eq!(
            text,
            "
Source              Protected by
192.0.2.2           NTS, 8 cookies
192.0.2.3           NTS, 1 cookie
192.0.2.4           NTS, no cookie: keys have to be exchanged first
[2001:db8::1]:1123  key 7
"
        );
    }

    #[test]
    fn witnesses_show_whether_they_count() {
        let witness = |name: &str, age, offset, counts, failure: Option<&str>| report::Witness {
            name: name.to_owned(),
            address: "8.8.8.8:443".to_owned(),
            operator: "op".to_owned(),
            age,
            offset,
            counts,
            failure: failure.map(str::to_owned),
        };

        let text = of_witnesses(&[
            witness("dns.google", Some(12.0), Some(-0.25), true, None),
            witness("b.example", Some(9.0), Some(3600.0), false, None),
            witness("c.example", None, None, false, Some("refused")),
        ]);

        assert_eq!(
            text,
            "\
S Witness     Address      LastRx  Last sample  Operator
+ dns.google  8.8.8.8:443  12        +250ms     op
x b.example   8.8.8.8:443  9         -3600s     op
? c.example   8.8.8.8:443  -       refused      op
"
        );
    }

    fn heard(address: &str, verdict: &str, offset: f64, error: f64) -> report::Source {
        report::Source {
            pool: None,
            address: address.to_owned(),
            kind: "server".to_owned(),
            path: None,
            operator: "op".to_owned(),
            verdict: verdict.to_owned(),
            prefer: false,
            trust: false,
            noselect: false,
            key: None,
            nts_cookies: None,
            stratum: 2,
            poll: 16.0,
            reach: 0o377,
            age: Some(23.0),
            offset: Some(offset),
            error: Some(error),
            failure: None,
        }
    }
}
