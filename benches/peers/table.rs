//! Results as tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::Failure;
use crate::measure::Job;
use crate::servers::{AGAIN, FIRSTLIGHT, Kind};

/// What a measurement yields.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Figure {
    /// CPU time for an answer, in microseconds.
    Cpu,
    /// Answers in a second.
    PerSecond,
    /// The latency that half of the answers kept to, in microseconds.
    P50,
    /// The latency that all but one in a hundred kept to, in microseconds.
    P99,
    /// The same as [`Self::P50`], less that of the upstream itself.
    Added,
    /// Resident memory at the start, in MB.
    Memory,
    /// Memory for a cached name, in octets.
    PerName,
    /// Milliseconds.
    Millis,
}

impl Figure {
    const fn unit(self) -> &'static str {
        match self {
            Self::Cpu | Self::P50 | Self::P99 | Self::Added => "µs",
            Self::PerSecond => "/s",
            Self::Memory => "MB",
            Self::PerName => "B",
            Self::Millis => "ms",
        }
    }
}

/// Everything measured: by what, and of whom.
#[derive(Debug, Default)]
pub(crate) struct Results {
    values: BTreeMap<(Job, Figure, &'static str), Vec<f64>>,
    others: Vec<f64>,
}

impl Results {
    pub(crate) fn add(&mut self, job: Job, figure: Figure, server: &'static str, value: f64) {
        self.values.entry((job, figure, server)).or_default().push(value);
    }

    pub(crate) fn last(&self, job: Job, figure: Figure, server: &'static str) -> Option<f64> {
        self.values.get(&(job, figure, server))?.last().copied()
    }

    /// Notes the share of the server's core that others used meanwhile.
    pub(crate) fn disturbed(&mut self, share: f64) {
        self.others.push(share);
    }

    fn median(&self, job: Job, figure: Figure, server: &'static str) -> Option<f64> {
        median(self.values.get(&(job, figure, server))?)
    }

    /// firstlight's figure as a multiple of another server's.
    fn ratio(&self, job: Job, figure: Figure, server: &'static str) -> Option<f64> {
        Some(self.median(job, figure, FIRSTLIGHT.name)? / self.median(job, figure, server)?)
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(lower.midpoint(upper))
}

/// A line of the first table: what firstlight has to reach, and what it would like to.
struct Goal {
    line: &'static str,
    job: Job,
    figure: Figure,
    /// The bounds are multiples of this server's figure; without one, they are figures.
    beside: Option<&'static str>,
    must: Option<Bound>,
    want: Option<Bound>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

#[rustfmt::skip]
const GOALS: &[Goal] = &[
    goal("UDP hit, saturated: CPU", Job::Udp, Figure::Cpu, Some("unbound"), Some(AtMost(1.1)), Some(AtMost(0.95))),
    goal("", Job::Udp, Figure::Cpu, Some("echo"), Some(AtMost(1.3)), Some(AtMost(1.12))),
    goal("UDP hit at 5,000/s: CPU", Job::Udp5k, Figure::Cpu, Some("dnsdist"), Some(AtMost(1.1)), Some(AtMost(1.05))),
    goal("TCP hit, 10 connections: CPU", Job::Tcp, Figure::Cpu, Some("smartdns"), Some(AtMost(1.0)), Some(AtMost(0.7))),
    goal("DoT hit, 10 connections: CPU", Job::Dot, Figure::Cpu, Some("knot-resolver"), Some(AtMost(1.0)), Some(AtMost(0.7))),
    goal("DoT hit at 1,000/s: p99", Job::DotTail, Figure::P99, Some("knot-resolver"), Some(AtMost(1.2)), Some(AtMost(1.0))),
    goal("DoH hit, 10 connections: CPU", Job::Doh, Figure::Cpu, Some("hickory-dns"), Some(AtMost(1.0)), None),
    goal("", Job::Doh, Figure::Cpu, Some("dnsdist"), None, Some(AtMost(1.0))),
    goal("DoH hit at 1,000/s: p99", Job::DohTail, Figure::P99, Some("dnsdist"), None, Some(AtMost(1.0))),
    goal("full TLS handshake: CPU", Job::Handshakes, Figure::Cpu, Some("hickory-dns"), Some(AtMost(1.05)), Some(AtMost(0.9))),
    goal("", Job::Handshakes, Figure::Cpu, Some("knot-resolver"), Some(AtMost(0.75)), None),
    goal("one after another: handshakes", Job::HandshakesInARow, Figure::PerSecond, Some("knot-resolver"), Some(AtLeast(0.9)), None),
    goal("miss over DoT: CPU", Job::Miss, Figure::Cpu, Some("unbound"), Some(AtMost(1.0)), None),
    goal("", Job::Miss, Figure::Cpu, Some("knot-resolver"), None, Some(AtMost(1.0))),
    goal("miss over DoT: added p50", Job::MissCalm, Figure::Added, Some("unbound"), Some(AtMost(1.0)), None),
    goal("", Job::MissCalm, Figure::Added, Some("knot-resolver"), None, Some(AtMost(1.0))),
    goal("memory at the start", Job::Memory, Figure::Memory, None, Some(AtMost(20.0)), Some(AtMost(12.0))),
    goal("memory for a cached name", Job::Memory, Figure::PerName, None, Some(AtMost(350.0)), Some(AtMost(250.0))),
    goal("exec to the first upstream answer", Job::Start, Figure::Millis, None, Some(AtMost(20.0)), Some(AtMost(10.0))),
];

const fn goal(
    line: &'static str,
    job: Job,
    figure: Figure,
    beside: Option<&'static str>,
    must: Option<Bound>,
    want: Option<Bound>,
) -> Goal {
    Goal { line, job, figure, beside, must, want }
}

/// The columns of the second table.
const COLUMNS: &[(&str, Job, Figure)] = &[
    ("UDP", Job::Udp, Figure::Cpu),
    ("UDP, answers", Job::Udp, Figure::PerSecond),
    ("UDP at 5,000/s", Job::Udp5k, Figure::Cpu),
    ("TCP", Job::Tcp, Figure::Cpu),
    ("TCP, answers", Job::Tcp, Figure::PerSecond),
    ("DoT", Job::Dot, Figure::Cpu),
    ("DoT, answers", Job::Dot, Figure::PerSecond),
    ("DoT at 1,000/s", Job::DotTail, Figure::Cpu),
    ("DoT at 1,000/s, p50", Job::DotTail, Figure::P50),
    ("DoT at 1,000/s, p99", Job::DotTail, Figure::P99),
    ("DoH", Job::Doh, Figure::Cpu),
    ("DoH, answers", Job::Doh, Figure::PerSecond),
    ("DoH at 1,000/s", Job::DohTail, Figure::Cpu),
    ("DoH at 1,000/s, p50", Job::DohTail, Figure::P50),
    ("DoH at 1,000/s, p99", Job::DohTail, Figure::P99),
    ("TLS handshake", Job::Handshakes, Figure::Cpu),
    ("TLS handshakes in a row", Job::HandshakesInARow, Figure::PerSecond),
    ("miss", Job::Miss, Figure::Cpu),
    ("miss, answers", Job::Miss, Figure::PerSecond),
    ("miss at 500/s", Job::MissCalm, Figure::Cpu),
    ("miss at 500/s, added p50", Job::MissCalm, Figure::Added),
    ("memory at the start", Job::Memory, Figure::Memory),
    ("memory for a name", Job::Memory, Figure::PerName),
    ("exec to first answer", Job::Start, Figure::Millis),
];

/// Both tables, and under what conditions they came about.
pub(crate) fn render(results: &Results, kinds: &[&'static Kind], rounds: usize) -> String {
    let mut text = String::from(
        "| test | firstlight | beside | ratio | must | want | noise |\n|---|---|---|---|---|---|---|\n",
    );
    for goal in GOALS {
        let _ = writeln!(text, "{}", row(results, goal));
    }
    let _ = write!(text, "\nEverybody, CPU time for an answer unless it says otherwise:\n\n| |");
    let names: Vec<_> = kinds.iter().map(|kind| kind.name).collect();
    for name in &names {
        let _ = write!(text, " {name} |");
    }
    let _ = writeln!(text, "\n|---{}|", "|---".repeat(names.len()));
    for &(column, job, figure) in COLUMNS {
        let cells: Vec<_> = names
            .iter()
            .map(|name| {
                results
                    .median(job, figure, name)
                    .map_or_else(String::new, |value| show(value, figure))
            })
            .collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let _ = writeln!(text, "| {column} | {} |", cells.join(" | "));
        }
    }
    let versions: Vec<_> = kinds
        .iter()
        .filter_map(|kind| {
            Some(format!("{} {}", kind.name, kind.version().filter(|v| !v.is_empty())?))
        })
        .collect();
    let _ = write!(text, "\n{}. Rounds: {rounds}.", versions.join(", "));
    if let Some(others) = median(&results.others) {
        let percent = 100.0 * others;
        let _ = write!(text, " Of the servers' core, others had {percent:.0} % (median).");
    }
    text.push('\n');
    text
}

fn row(results: &Results, goal: &Goal) -> String {
    let Goal { line, job, figure, beside, must, want } = goal;
    let ours = results.median(*job, *figure, FIRSTLIGHT.name);
    let value = ours.map_or_else(String::new, |value| show(value, *figure));
    let noise = results.ratio(*job, *figure, AGAIN.name);
    let noise = noise.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    let (peer, ratio, reached) = match *beside {
        Some(name) => {
            let theirs = results.median(*job, *figure, name);
            let peer = theirs.map_or_else(
                || format!("{name}: not measured"),
                |value| format!("{name} {}", show(value, *figure)),
            );
            let ratio = results.ratio(*job, *figure, name);
            (peer, ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")), ratio)
        }
        None => (String::new(), String::new(), ours),
    };
    let cells = [*must, *want].map(|bound| bound.map_or_else(String::new, |b| b.judged(reached)));
    format!("| {line} | {value} | {peer} | {ratio} | {} | {} | {noise} |", cells[0], cells[1])
}

impl Bound {
    /// The bound, and whether it is kept.
    fn judged(self, value: Option<f64>) -> String {
        let (text, kept) = match self {
            AtMost(bound) => (format!("≤ {bound}"), value.map(|value| value <= bound)),
            AtLeast(bound) => (format!("≥ {bound}"), value.map(|value| value >= bound)),
        };
        match kept {
            Some(true) => format!("{text}: yes"),
            Some(false) => format!("{text}: **no**"),
            None => text,
        }
    }
}

fn show(value: f64, figure: Figure) -> String {
    let digits = if value.abs() < 10.0 { 2 } else { usize::from(value.abs() < 100.0) };
    format!("{value:.digits$} {}", figure.unit())
}

/// The marks in the documentation between which the tables stand.
const MARKS: [&str; 2] = ["<!-- tables of benches/compare -->\n", "<!-- end of the tables -->"];

/// Puts `tables` between the marks in `file`.
pub(crate) fn write(file: &Path, tables: &str) -> Result<(), Failure> {
    let text = fs::read_to_string(file)?;
    let parts = text.split_once(MARKS[0]).and_then(|(head, rest)| {
        let (_, tail) = rest.split_once(MARKS[1])?;
        Some((head, tail))
    });
    let (head, tail) =
        parts.ok_or_else(|| format!("{} has no marks for tables", file.display()))?;
    fs::write(file, format!("{head}{}{tables}{}{tail}", MARKS[0], MARKS[1]))?;
    Ok(())
}
