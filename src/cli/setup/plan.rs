//! Facts and answers in, a plan out: the file, what to say, what to run (pure).

use std::fmt;
use std::path::Path;

use super::answers::{Answers, Ports};
use super::conflict::{self, Conflict, conflicts};
use super::facts::{Facts, Process, Rtc};
use super::text::{self, Served, Written};
use crate::host::config_file::DEFAULT_FILE;

/// The unit's drop-in for a clock that is left alone, where the package puts it, and where it goes.
const OBSERVE: (&str, &str) = (
    "/usr/share/doc/firstlight/examples/firstlight-observe.conf",
    "/etc/systemd/system/firstlight.service.d/clock.conf",
);

/// What is to be done, and said about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Plan {
    /// The configuration.
    pub(super) text: String,
    /// What was found, a line each.
    pub(super) found: Vec<String>,
    /// What is to be known about the configuration, a line each.
    pub(super) notes: Vec<String>,
    /// Units that are stopped for good, because a person said so.
    pub(super) stops: Vec<String>,
    /// What a person is to run or do next.
    pub(super) next: Vec<Step>,
}

/// Something to run or do, and what for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Step {
    /// The command; without one, what is to be done by hand is in `why`.
    pub(super) command: Option<String>,
    /// What for.
    pub(super) why: String,
}

impl Step {
    fn run(command: impl Into<String>, why: impl Into<String>) -> Self {
        Self { command: Some(command.into()), why: why.into() }
    }

    fn by_hand(what: impl Into<String>) -> Self {
        Self { command: None, why: what.into() }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.command {
            Some(command) if self.why.is_empty() => f.write_str(command),
            Some(command) => write!(f, "{command}  # {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

/// The plan for a machine with these facts, whose configuration is to be in `file`.
pub(super) fn plan(facts: &Facts, answers: &Answers, file: &Path) -> Plan {
    let written = text::write(facts, answers);
    let conflicts = conflicts(facts, answers.listen.as_deref());
    Plan {
        found: found(facts),
        notes: notes(facts, answers, &written, &conflicts),
        stops: stops(facts, answers, &conflicts),
        next: next(facts, answers, &conflicts, file),
        text: written.text,
    }
}

fn found(facts: &Facts) -> Vec<String> {
    let mut lines = Vec::new();
    let lan = facts.addresses.iter().filter(|address| !address.ip.is_loopback());
    let lan = joined(lan.map(|address| format!("{} ({})", address.ip, address.interface)), 4);
    let full =
        facts.domain.iter().fold(facts.host.clone(), |host, domain| format!("{host}.{domain}"));
    let system = if facts.system.is_empty() { "an unknown system" } else { &facts.system };
    let lan = if lan.is_empty() { "no network".to_owned() } else { lan };
    lines.push(format!("Machine: {system}, {full}; {lan}"));
    lines.push(match &facts.rtc {
        Rtc::None => {
            "Clock: none runs while the power is off; firstlight is made for that".to_owned()
        }
        Rtc::Unbacked(name) => {
            format!(
                "Clock: {name}, and it looks as if no battery kept it; firstlight is made for that"
            )
        }
        Rtc::Backed(name) => format!("Clock: {name}, which looks as if a battery kept it"),
    });
    let asks = joined(facts.nameservers.iter().map(ToString::to_string), 4);
    let programs = facts.resolvers.iter().map(|(name, file)| format!("{name} ({file})"));
    let programs = joined(programs, 4);
    if !asks.is_empty() || !programs.is_empty() {
        let asks = if asks.is_empty() { "nobody".to_owned() } else { asks };
        let programs = if programs.is_empty() { programs } else { format!("; here: {programs}") };
        lines.push(format!("Names: resolv.conf asks {asks}{programs}"));
    }
    let running = joined(facts.time_services.iter().map(Process::words), 4);
    let files = facts.time_files.iter();
    let files = files.map(|it| format!("{} ({})", it.file, joined(it.servers.iter().cloned(), 3)));
    let files = joined(files, 2);
    let time = [running, files].into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>();
    if !time.is_empty() {
        lines.push(format!("Time: {}", time.join("; ")));
    }
    for owner in facts.owners.iter().take(4) {
        let who = owner.process.as_ref();
        let who = who.map_or("somebody".to_owned(), Process::words);
        let mut places: Vec<_> = owner.sockets.iter().map(|socket| socket.at.ip()).collect();
        places.sort_unstable();
        places.dedup();
        let places = joined(places.iter().map(ToString::to_string), 3);
        lines.push(format!("Ports: {} of {who} at {places}", conflict::ports(&owner.sockets)));
    }
    lines.extend(facts.unseen.iter().take(3).map(|unseen| format!("Not seen: {unseen}")));
    lines
}

fn notes(
    facts: &Facts,
    answers: &Answers,
    written: &Written,
    conflicts: &[Conflict<'_>],
) -> Vec<String> {
    let mut notes = Vec::new();
    let named = joined(facts.named_sources().into_iter().map(str::to_owned), 3);
    if !named.is_empty() {
        notes.push(format!(
            "Not taken over, because a source must be an address: {named}; the built-in ones are asked"
        ));
    }
    if !written.imported.is_empty() {
        let imported = joined(written.imported.iter().map(ToString::to_string), 3);
        notes.push(format!("Asked for the time, too: {imported}"));
    }
    for (ip, why) in written.left_out.iter().take(3) {
        notes.push(format!("Not asked for the time: {ip}: {why}"));
    }
    if let Some(why) = facts.clock_withheld {
        notes.push(format!("The clock is left alone: {why}"));
    }
    if facts.is_public() && answers.listen.is_none() {
        notes.push(
            "The internet reaches this machine; strangers are refused, and see that it is there"
                .to_owned(),
        );
    }
    let apart = facts
        .owners
        .iter()
        .filter(|owner| owner.process.is_some() && conflicts.iter().all(|it| !it.is_of(owner)));
    for owner in apart.take(2) {
        let who = owner.process.as_ref().map(|process| process.name.as_str()).unwrap_or_default();
        notes.push(format!("{who} keeps its own addresses; firstlight takes the others"));
    }
    for conflict in conflicts.iter().filter(|conflict| conflict.keeps_time(answers.observe)) {
        let who = conflict.who();
        notes.push(format!("{who} keeps the clock and tells the LAN the time; NTP is off here"));
    }
    let served = text::served(facts, answers);
    if answers.ports == Ports::Beside && !conflicts.is_empty() {
        notes.push(beside(&served));
    }
    notes
}

fn beside(served: &Served) -> String {
    let time = served.ntp.map_or("off".to_owned(), |port| port.to_string());
    format!(
        "Ports: DNS {}, DoT {}, DoH {}, DoQ {}, NTP {time}",
        served.dns, served.dot, served.doh, served.doq
    )
}

fn stops(facts: &Facts, answers: &Answers, conflicts: &[Conflict<'_>]) -> Vec<String> {
    if answers.ports != Ports::Stop || !facts.systemd || facts.nixos {
        return Vec::new();
    }
    let mut units: Vec<String> = Vec::new();
    // Whoever keeps the clock goes on keeping it, if that was the answer.
    let conflicts = conflicts.iter().filter(|conflict| !conflict.keeps_time(answers.observe));
    for unit in conflicts.filter_map(Conflict::unit) {
        if units.iter().all(|known| known != unit) {
            units.push(unit.to_owned());
        }
    }
    units
}

fn next(facts: &Facts, answers: &Answers, conflicts: &[Conflict<'_>], file: &Path) -> Vec<Step> {
    let mut steps = Vec::new();
    let stopped = stops(facts, answers, conflicts);
    for conflict in conflicts {
        let (ports, who) = (conflict.ports(), conflict.who());
        match conflict.unit() {
            _ if answers.ports == Ports::Beside || conflict.keeps_time(answers.observe) => {}
            Some(unit) if stopped.iter().any(|known| known == unit) => {}
            Some(unit) if facts.systemd && !facts.nixos => steps.push(Step::run(
                format!("systemctl disable --now {unit}"),
                format!("once you can do without it: it has {ports}"),
            )),
            _ => steps.push(Step::by_hand(format!(
                "{ports} stays with {who}: firstlight takes it once it is free (or answer `beside`)"
            ))),
        }
    }
    if answers.ports == Ports::Beside {
        let dns = conflicts.iter().find(|it| it.takes(false, 53) || it.takes(true, 53));
        steps.extend(dns.map(|conflict| {
            let port = text::served(facts, answers).dns;
            let ip = answers.listen.as_ref().and_then(|ours| ours.first());
            let ip = ip.map_or("127.0.0.1".to_owned(), ToString::to_string);
            Step::by_hand(format!("Let {} ask {ip}, port {port}, and nobody else", conflict.who()))
        }));
    }
    if facts.nixos {
        steps.push(Step::by_hand(format!(
            "In configuration.nix: services.firstlight = {{ enable = true; settings = lib.importTOML {}; }};",
            file.display()
        )));
        steps.push(Step::run("nixos-rebuild switch", ""));
    } else {
        let left = conflicts.iter().filter_map(Conflict::unit).map(str::to_owned);
        let told: Vec<_> = if answers.ports == Ports::Beside { Vec::new() } else { left.collect() };
        steps.extend(own_clock(facts, answers, &told));
        let by_hand = format!("firstlight run --config {}", file.display());
        // Below another root it is the usual one, too.
        let usual = file.ends_with(DEFAULT_FILE.trim_start_matches('/'));
        steps.push(match (usual, facts.running, facts.systemd) {
            (true, true, _) => Step::run("firstlight reload", "it runs, and reads the file again"),
            (true, false, true) => Step::run("systemctl enable --now firstlight", ""),
            (true, false, false) => Step::run(by_hand, "no systemd here"),
            (false, ..) => Step::run(by_hand, format!("the service reads {DEFAULT_FILE} alone")),
        });
    }
    steps.push(Step::run("firstlight status", "what it knows, and what is wrong"));
    let lan = facts.lan();
    let ours = lan.iter().find(|ip| answers.listen.as_ref().is_none_or(|it| it.contains(ip)));
    steps.push(Step::by_hand(match ours {
        Some(ip) => format!(
            "In the router's DHCP settings: {ip} as DNS server, and as NTP server (option 42)"
        ),
        None => {
            "In the router's DHCP settings: this machine as DNS server and NTP server".to_owned()
        }
    }));
    steps
}

/// Two programs must not set one clock. Units that are `told` of already are left out.
fn own_clock(facts: &Facts, answers: &Answers, told: &[String]) -> Vec<Step> {
    if !facts.systemd {
        return Vec::new();
    }
    if answers.observe {
        let (from, to) = OBSERVE;
        let install = format!("install -Dm644 {from} {to}");
        return vec![
            Step::run(install, "lets the unit leave the clock alone"),
            Step::run("systemctl daemon-reload", ""),
        ];
    }
    let units = facts.time_services.iter().filter_map(conflict::stoppable);
    let units = units.filter(|unit| !told.iter().any(|known| known == unit));
    let why = "one program alone may set a clock";
    units.map(|unit| Step::run(format!("systemctl disable --now {unit}"), why)).collect()
}

/// The first of some words, and how many more there are.
fn joined(words: impl Iterator<Item = String>, most: usize) -> String {
    let mut words: Vec<_> = words.collect();
    let more = words.len().saturating_sub(most);
    words.truncate(most);
    let words = words.join(", ");
    if more == 0 { words } else { format!("{words} and {more} more") }
}
