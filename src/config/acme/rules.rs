//! What `[acme]` must agree on with the rest of the configuration.

use super::authority::is_public;
use super::{Acme, AcmeChallenge};
use crate::config::Config;
use crate::config::tree::Notes;
use crate::wire::Name;

/// Domains in which no public CA issues: they belong to no registry, or to homes (RFC 6761, RFC 6762,
/// RFC 7686, RFC 8375).
pub const HOME_DOMAINS: &[&str] = &[
    "corp",
    "home",
    "home.arpa",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "private",
    "test",
];

/// Reports what is wrong or doubtful about `[acme]` in `config`.
pub(in crate::config) fn check(config: &Config, notes: &mut Notes) {
    let Some(acme) = &config.acme else { return };
    certificates_have_one_source(config, notes);
    records_lie_in_the_zone(acme, notes);
    wildcards_have_records(acme, notes);
    clients_find_their_name(config, acme, notes);
    // Half a configuration would only be blamed for what its mistakes took away.
    if notes.report.errors() == 0 && !notes.torn {
        names_are_public(acme, notes);
        the_ca_finds_port_443(config, acme, notes);
    }
}

fn certificates_have_one_source(config: &Config, notes: &mut Notes) {
    if config.tls.files.is_some() {
        notes.report.error(
            notes.places.at("acme"),
            "certificates come from the files in [tls], or are ordered, not both",
            "leave out `certificate` and `key` in [tls], or [acme]",
        );
    }
}

/// Clients check `tls.name`.
fn clients_find_their_name(config: &Config, acme: &Acme, notes: &mut Notes) {
    let name = config.tls.name.to_string();
    if acme.covers(&name) || notes.blames("tls.name") || notes.blames("acme.names") {
        return;
    }
    notes.report.error(
        notes.places.at("acme.names"),
        format!("clients check `{name}`, the name in [tls], and the certificate would not have it"),
        &format!("add \"{name}\" here, or write tls.name = \"{}\"", example(acme)),
    );
}

/// A name of the certificate that may stand as `tls.name`.
fn example(acme: &Acme) -> &str {
    let plain = acme.names.iter().find(|name| !name.starts_with("*."));
    plain.map_or("dns.example.org", String::as_str)
}

/// An update is made in one zone, where the CA has to find it (RFC 8555 section 8.4).
fn records_lie_in_the_zone(acme: &Acme, notes: &mut Notes) {
    let AcmeChallenge::Update { zone, .. } = &acme.challenge else { return };
    let Ok(zone) = zone.parse::<Name>() else { return };
    let owner = |name: &String| {
        let base = name.strip_prefix("*.").unwrap_or(name);
        Some(format!("_acme-challenge.{base}"))
            .filter(|owner| owner.parse::<Name>().is_ok_and(|owner| !owner.is_within(&zone)))
    };
    let outside: Vec<_> = acme.names.iter().filter_map(owner).collect();
    if outside.is_empty() || notes.blames("acme.names") || notes.blames("tls.name") {
        return;
    }
    notes.report.error(
        notes.places.at("acme.update.zone"),
        format!(
            "`{}` is not in the zone `{zone}`, and cannot be published there",
            outside.join("`, `")
        ),
        "write the zone that all the names are in, or publish by [acme.hook]",
    );
}

/// TLS-ALPN-01 shows a host, and a wildcard is none (RFC 8737 section 3).
fn wildcards_have_records(acme: &Acme, notes: &mut Notes) {
    let wildcards: Vec<_> =
        acme.names.iter().map(String::as_str).filter(|name| name.starts_with("*.")).collect();
    if acme.challenge == AcmeChallenge::TlsAlpn && !wildcards.is_empty() {
        notes.report.error(
            notes.places.at("acme.challenge"),
            format!("tls-alpn-01 cannot show `{}` to be yours", wildcards.join("`, `")),
            "write challenge = \"dns-01\", or leave wildcards out of `names`",
        );
    }
}

fn names_are_public(acme: &Acme, notes: &mut Notes) {
    let Some(ca) = acme.cas.iter().find(|ca| is_public(ca)) else { return };
    let local: Vec<_> = acme.names.iter().map(String::as_str).filter(|it| is_local(it)).collect();
    if !local.is_empty() {
        notes.report.warn(
            notes.places.at("acme.names"),
            format!(
                "`{}`: such names exist at home alone, and `{}` issues for none of them",
                local.join("`, `"),
                ca.name
            ),
            "take names in a domain of your own, or name a private CA in [[acme.ca]]",
        );
    }
}

fn is_local(name: &str) -> bool {
    let base = name.strip_prefix("*.").unwrap_or(name);
    let Ok(base) = base.parse::<Name>() else { return false };
    let ends = HOME_DOMAINS.iter().filter_map(|end| end.parse().ok());
    base.labels().count() < 2 || ends.into_iter().any(|end: Name| base.is_within(&end))
}

/// TLS-ALPN-01 is looked for there and nowhere else (RFC 8737 section 3).
fn the_ca_finds_port_443(config: &Config, acme: &Acme, notes: &mut Notes) {
    let answered = config.doh.listen.iter().any(|listen| listen.port() == 443);
    if acme.challenge == AcmeChallenge::TlsAlpn && !answered {
        notes.report.warn(
            notes.places.at("acme.challenge"),
            "the CA connects to port 443, and [doh] does not listen there",
            "add port 443 to doh.listen, unless a router leads from 443 to where it listens",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_exist_at_home_alone_are_told_from_public_ones() {
        for name in ["dns.home.arpa", "a.b.lan", "*.lan", "nas", "*.org", "printer.local", "x.test"]
        {
            assert!(is_local(name), "{name}");
        }
        for name in ["example.org", "*.example.org", "lan.example.org", "arpa.net", "dns.google"] {
            assert!(!is_local(name), "{name}");
        }
    }
}
