//! The text of the configuration (pure).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::answers::{Answers, Ports};
use super::conflict::conflicts;
use super::facts::Facts;
use crate::config::{Config, Report, Transport, Upstream};

/// How the text begins: whoever looks at a file knows by it who wrote it.
pub(super) const MARK: &str = "# firstlight's configuration, written by `firstlight setup`.";
/// How many time servers of other configurations are taken over. The built-in six outvote them.
const IMPORTS: usize = 3;

/// The ports that are served on; `None`: the service is off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Served {
    pub(super) dns: u16,
    pub(super) dot: u16,
    pub(super) doh: u16,
    pub(super) doq: u16,
    pub(super) ntp: Option<u16>,
}

/// The usual ports.
const USUAL: Served = Served { dns: 53, dot: 853, doh: 443, doq: 853, ntp: Some(123) };

/// The text that was written, and what of the other time services was not taken over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Written {
    /// The configuration.
    pub(super) text: String,
    /// Addresses that became sources.
    pub(super) imported: Vec<IpAddr>,
    /// Addresses that did not, each with the reason.
    pub(super) left_out: Vec<(IpAddr, String)>,
}

/// The configuration that the answers come to. Only what differs from the defaults is in it.
pub(super) fn write(facts: &Facts, answers: &Answers) -> Written {
    let (mut imported, mut left_out) = (Vec::new(), Vec::new());
    let candidates = if answers.import { facts.literal_sources() } else { Vec::new() };
    for (ip, _) in candidates {
        if facts.addresses.iter().any(|address| address.ip == ip) {
            left_out.push((ip, "it is this machine".to_owned()));
        } else if imported.len() == IMPORTS {
            left_out.push((ip, format!("{IMPORTS} are taken over at most")));
        } else {
            let with: Vec<_> = imported.iter().copied().chain([ip]).collect();
            // What the configuration's own rules find fault with is better left out.
            match fault(&compose(facts, answers, &with), Path::new("firstlight.toml")) {
                None => imported = with,
                Some(report) => {
                    let first = report.problems().first();
                    left_out.push((ip, first.map_or(String::new(), |it| it.message.clone())));
                }
            }
        }
    }
    Written { text: compose(facts, answers, &imported), imported, left_out }
}

/// What the configuration's own rules find fault with, if anything.
pub(super) fn fault(text: &str, file: &Path) -> Option<Report> {
    match Config::parse(text, file) {
        Ok(parsed) if parsed.warnings.problems().is_empty() => None,
        Ok(parsed) => Some(parsed.warnings),
        Err(report) => Some(report),
    }
}

/// The operators of the built-in configuration, in its order.
pub(super) fn built_in_operators() -> Vec<String> {
    let upstreams = Config::embedded().map(|parsed| parsed.config.upstreams).unwrap_or_default();
    upstreams.into_iter().map(|upstream| upstream.operator).collect()
}

/// The ports that are served on, given who has the usual ones.
pub(super) fn served(facts: &Facts, answers: &Answers) -> Served {
    let conflicts = conflicts(facts, answers.listen.as_deref());
    // Clients ask for the time at the usual port, and nowhere else.
    let kept = conflicts.iter().any(|conflict| conflict.keeps_time(answers.observe));
    if answers.ports != Ports::Beside {
        return Served { ntp: USUAL.ntp.filter(|_| !kept), ..USUAL };
    }
    let taken = |tcp, port| conflicts.iter().any(|conflict| conflict.takes(tcp, port));
    let either = |kept: u16, other| if taken(true, kept) { other } else { kept };
    Served {
        dns: if taken(false, 53) { 5300 } else { either(53, 5300) },
        dot: either(853, 8853),
        doh: either(443, 8443),
        doq: if taken(false, 853) { 8853 } else { 853 },
        ntp: (!taken(false, 123)).then_some(123),
    }
}

fn compose(facts: &Facts, answers: &Answers, imported: &[IpAddr]) -> String {
    let mut text = format!(
        "{MARK}\n#\n\
         # What is not written here has its default. Every setting, with its default and what it costs, is in\n\
         # /usr/share/doc/firstlight/examples/firstlight.toml (config/firstlight.toml in the sources).\n\
         # After a change: `firstlight check`, then `firstlight reload`.\n"
    );
    listeners(&mut text, answers, &served(facts, answers));
    name(&mut text, facts, answers);
    upstreams(&mut text, answers);
    clock(&mut text, answers, imported);
    text
}

fn listeners(text: &mut String, answers: &Answers, served: &Served) {
    let services = [
        ("dns", Some(served.dns), USUAL.dns),
        ("dot", Some(served.dot), USUAL.dot),
        ("doh", Some(served.doh), USUAL.doh),
        ("doq", Some(served.doq), USUAL.doq),
        ("ntp", served.ntp, 123),
        ("nts", Some(4460), 4460),
    ];
    let mut first = true;
    for (service, port, usual) in services {
        if answers.listen.is_none() && port == Some(usual) {
            continue;
        }
        let all: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let addresses = answers.listen.as_deref().unwrap_or(&all).iter();
        let places = port.into_iter().flat_map(|port| {
            addresses.clone().map(move |ip| format!("\"{}\"", SocketAddr::new(*ip, port)))
        });
        let places = places.collect::<Vec<_>>().join(", ");
        if first {
            let why = match (&answers.listen, port == Some(usual)) {
                (Some(_), _) => "Served on these addresses alone. They must stay this machine's.",
                (None, _) => "Other programs have the usual ports. [] switches a service off.",
            };
            let _ = write!(text, "\n# {why}");
            first = false;
        }
        let _ = write!(text, "\n[{service}]\nlisten = [{places}]\n");
    }
}

fn name(text: &mut String, facts: &Facts, answers: &Answers) {
    let name = &answers.name;
    if name != "firstlight.home.arpa" {
        let _ = write!(
            text,
            "\n[tls]\n# The name that devices check. It is in the certificate.\nname = \"{name}\"\n"
        );
    }
    let lan = facts.lan();
    let chosen = answers.listen.as_ref();
    let found = lan.iter().filter(|ip| chosen.is_none_or(|chosen| chosen.contains(ip)));
    let found: Vec<_> = found.map(|ip| format!("\"{ip}\"")).collect();
    if !found.is_empty() {
        let _ = write!(
            text,
            "\n# Where devices find it. If the address changes, change it here, too.\n\
             [[name]]\nname = \"{name}\"\naddresses = [{}]\n",
            found.join(", ")
        );
    }
}

fn upstreams(text: &mut String, answers: &Answers) {
    let Ok(built_in) = Config::embedded() else { return };
    let upstreams = built_in.config.upstreams;
    text.push_str("\n# Whom to ask for all other names.");
    let chosen = |operator: &String| answers.operators.contains(operator);
    for upstream in upstreams.iter().filter(|upstream| chosen(&upstream.operator)) {
        let addresses = upstream.addresses.iter().map(|ip| format!("\"{ip}\""));
        let transport = match upstream.transport {
            Transport::Doh => "doh",
            Transport::Doq => "doq",
            Transport::Dot => "dot",
        };
        let _ = write!(
            text,
            "\n[[upstream]]\nname = \"{}\"\noperator = \"{}\"\naddresses = [{}]\ntransport = \"{transport}\"\n",
            upstream.name.to_string().trim_end_matches('.'),
            upstream.operator,
            addresses.collect::<Vec<_>>().join(", "),
        );
    }
}

/// Two operators must confirm the time over HTTPS. Upstreams that speak it do so by themselves.
fn witnesses(text: &mut String, answers: &Answers, upstreams: &[Upstream]) {
    let (asked, spare): (Vec<_>, Vec<_>) = upstreams
        .iter()
        .filter(|upstream| upstream.transport == Transport::Doh)
        .partition(|upstream| answers.operators.contains(&upstream.operator));
    for witness in spare.iter().take(2_usize.saturating_sub(asked.len())) {
        let Some(address) = witness.addresses.first() else { continue };
        let _ = write!(
            text,
            "\n# Asked for the date alone, over HTTPS, and never for a name: two operators must confirm the time.\n\
             [[clock.witness]]\nname = \"{}\"\noperator = \"{}\"\naddress = \"{address}\"\n",
            witness.name.to_string().trim_end_matches('.'),
            witness.operator,
        );
    }
}

fn clock(text: &mut String, answers: &Answers, imported: &[IpAddr]) {
    if answers.observe {
        text.push_str(
            "\n[clock]\n# Another program sets this machine's clock, or nobody may.\nmode = \"observe\"\n",
        );
    }
    let Ok(built_in) = Config::embedded() else { return };
    witnesses(text, answers, &built_in.config.upstreams);
    text.push_str("\n# Whom to ask for the time: by address, and of several operators.");
    for source in built_in.config.clock.sources {
        let _ = write!(text, "\n[[clock.source]]\naddress = \"{}\"\n", source.address.ip());
        if let Some(name) = source.name {
            let _ = writeln!(text, "name = \"{}\"", name.to_string().trim_end_matches('.'));
        }
        let _ = writeln!(text, "operator = \"{}\"", source.operator);
    }
    for ip in imported {
        let _ = write!(
            text,
            "\n# From the configuration of the time service that was here.\n[[clock.source]]\naddress = \"{ip}\"\n"
        );
    }
}
