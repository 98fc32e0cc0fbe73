//! Reads `[acme]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::authority::{read_cas, terms};
use super::{Acme, AcmeChallenge, AcmeHash};
use crate::cert::{Limits, Policy};
use crate::config::tree::{Table, Wrong};
use crate::config::value;
use crate::wire::Name;

/// Names of one certificate: public CAs take no more.
const NAMES_MAX: usize = 100;
/// Certificates in a week at most: one in less than a second.
const WEEKLY_MAX: u32 = 1_000_000;
/// The most certificates in a week that the usual bounds on orders in a day leave room for.
const WEEKLY_USUAL: u32 = 20;
const WEEK: Duration = Duration::from_secs(604_800);
/// The tables of which each publishes records.
const PUBLISHERS: [&str; 3] = ["update", "hook", "acme_dns"];

/// Reads `[acme]`; without names of its own the certificate has `own`, that of `[tls]`.
pub(in crate::config) fn read(
    table: &mut Table<'_, '_>,
    own: &Name,
    file: impl Copy + Fn(&str) -> Result<PathBuf, Wrong>,
) -> Acme {
    let agree = table.boolean("agree");
    let names = read_names(table, own);
    let challenge = read_challenge(table, file);
    let authoritative = table.boolean("authoritative").unwrap_or(false);
    let usual = Policy::default();
    let survive = table.number("survive", 1..=2000).map(|hours| 3600 * u64::from(hours));
    let percent = table.number("life_percent", 34..=60).unwrap_or(usual.percent);
    let limits = table.number("certificates_per_week", 1..=WEEKLY_MAX).map(limits);
    let cas = read_cas(table, file);
    if agree == Some(false) || table.lacks("agree") {
        table.error(
            "agree",
            "nothing is ordered before the terms of service of each CA are agreed to",
            &format!("read them ({}), then write agree = true", terms(&cas)),
        );
    }
    Acme {
        names,
        cas,
        // Where a mistake left none, this is never used.
        challenge: challenge
            .unwrap_or(AcmeChallenge::Hook { program: PathBuf::new(), limit: Duration::ZERO }),
        authoritative,
        survive: survive.map_or(usual.survive, Duration::from_secs),
        percent,
        limits: limits.unwrap_or_default(),
    }
}

/// The names, each once; `own` if none are given.
fn read_names(table: &mut Table<'_, '_>, own: &Name) -> Vec<String> {
    let Some(names) = table.texts("names", value::certified_name) else {
        let own = own.to_string();
        return match value::certified_name(&own) {
            Ok(own) => vec![own],
            Err(wrong) => {
                table.error("names", wrong.message, "write tls.name so, or `names` of its own");
                Vec::new()
            }
        };
    };
    if names.is_empty() && !table.blames("names") {
        let remedy = "write names, or leave `names` out for the one in [tls]";
        table.error("names", "`names` is empty", remedy);
    }
    if names.len() > NAMES_MAX {
        let message = format!("{} names, and no CA takes more than {NAMES_MAX}", names.len());
        table.error("names", message, "take wildcards, like \"*.example.org\"");
    }
    let mut once: Vec<String> = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        let place = format!("names[{index}]");
        if once.contains(&name) {
            table.warn(&place, format!("`{name}` is given twice"), "remove one of the two");
        } else {
            once.push(name);
        }
    }
    once
}

/// The challenge, with whatever publishes its records.
fn read_challenge(
    table: &mut Table<'_, '_>,
    file: impl Copy + Fn(&str) -> Result<PathBuf, Wrong>,
) -> Option<AcmeChallenge> {
    let alpn = table.choice("challenge", &[("dns-01", false), ("tls-alpn-01", true)]);
    let by_update = table.table_if_any("update", |table| read_update(table, file));
    let by_hook = table.table_if_any("hook", read_hook);
    let by_acme_dns = table.table_if_any("acme_dns", |table| read_acme_dns(table, file));
    let given: Vec<_> = PUBLISHERS.into_iter().filter(|key| table.holds(key)).collect();
    if alpn == Some(true) {
        for key in given {
            let message = format!("[acme.{key}] publishes records, and tls-alpn-01 has none");
            table.error(key, message, "leave it out, or write challenge = \"dns-01\"");
        }
        return Some(AcmeChallenge::TlsAlpn);
    }
    if let [first, others @ ..] = given.as_slice() {
        for key in others {
            let message = format!("records are published by [acme.{first}] already");
            table.error(key, message, "keep one of the two");
        }
    } else if PUBLISHERS.iter().all(|key| table.lacks(key)) {
        table.error(
            "challenge",
            "dns-01 needs somebody who publishes records",
            "add [acme.update], [acme.hook] or [acme.acme_dns]",
        );
    }
    by_update.or(by_hook).or(by_acme_dns).flatten()
}

fn read_update(
    table: &mut Table<'_, '_>,
    file: impl Fn(&str) -> Result<PathBuf, Wrong>,
) -> Option<AcmeChallenge> {
    let address = table.required_text("address", "address = \"192.0.2.1\"", value::address);
    let port = table.port("port").unwrap_or(53);
    let zone = table.required_text("zone", "zone = \"example.org\"", value::host_name);
    let key_name = table.required_text("key_name", "key_name = \"acme-key\"", value::host_name);
    let key = table.required_text("key_file", "key_file = \"tsig.key\"", file);
    let hash = table.choice(
        "algorithm",
        &[
            ("hmac-sha256", AcmeHash::Sha256),
            ("hmac-sha384", AcmeHash::Sha384),
            ("hmac-sha512", AcmeHash::Sha512),
        ],
    );
    Some(AcmeChallenge::Update {
        server: SocketAddr::new(address?, port),
        zone: zone?.to_string(),
        key_name: key_name?.to_string(),
        key: key?,
        hash: hash.unwrap_or_default(),
    })
}

fn read_hook(table: &mut Table<'_, '_>) -> Option<AcmeChallenge> {
    let program = table.required_text("program", "program = \"/usr/local/bin/dns-hook\"", |text| {
        let program = value::path(text)?;
        if program.is_absolute() {
            return Ok(program);
        }
        let message = format!("`{text}` is not an absolute path");
        Err(Wrong::new(message, "write where it is, like \"/usr/local/bin/dns-hook\""))
    });
    let limit = table.number("timeout", 1..=300).unwrap_or(60);
    Some(AcmeChallenge::Hook { program: program?, limit: Duration::from_secs(limit.into()) })
}

fn read_acme_dns(
    table: &mut Table<'_, '_>,
    file: impl Fn(&str) -> Result<PathBuf, Wrong>,
) -> Option<AcmeChallenge> {
    let url = table.required_text("url", "url = \"https://auth.example.org\"", value::https);
    let accounts = table.required_text("accounts", "accounts = \"acme-dns.json\"", &file);
    let ca = table.text("ca", file);
    Some(AcmeChallenge::AcmeDns { url: url?, accounts: accounts?, ca })
}

/// The bounds that leave room for `weekly` certificates in a week, and for a third more when time
/// runs short.
fn limits(weekly: u32) -> Limits {
    let usual = Limits::default();
    let week = usize::try_from(weekly).unwrap_or(usize::MAX);
    let limits = Limits { week, reserve: (week / 3).max(usual.reserve), ..usual };
    if weekly <= WEEKLY_USUAL {
        return limits;
    }
    Limits { burst: usual.burst + week / 7, gap: usual.gap.min(WEEK / weekly), ..limits }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::cert::{Ca, Ending, Event, Held, Lifecycle};
    use crate::clock::{CertDates, Level, Now, TimeTrust, UnixTime};

    #[test]
    fn a_few_certificates_a_week_keep_the_usual_bounds_on_orders() {
        assert_eq!(limits(3), Limits::default());
        assert_eq!(limits(1), Limits { week: 1, ..Limits::default() });
        assert_eq!(limits(20), Limits { week: 20, reserve: 6, ..Limits::default() });
    }

    #[test]
    fn as_many_orders_fit_into_a_day_as_a_week_of_them_needs() {
        const DAY: Duration = Duration::from_secs(86_400);
        for weekly in [21, 84, 85, 1000, 10_000, WEEKLY_MAX] {
            let limits = limits(weekly);
            let week = usize::try_from(weekly).unwrap();

            assert!(limits.burst * 7 >= week, "{limits:?}");
            assert!(WEEK.div_duration_f64(limits.gap) >= f64::from(weekly), "{limits:?}");
            assert!(limits.gap < DAY && limits.burst > 8, "{limits:?}");
        }
    }

    #[test]
    fn a_certificate_of_half_a_minute_is_renewed_each_ten_seconds_if_so_many_may_be() {
        // For an hour; before the bounds of a day and a week there is room for all of theirs.
        let renewed = renewed_within_an_hour(limits(WEEKLY_MAX));
        assert!((360..400).contains(&renewed), "{renewed}");
        assert!(limits(WEEKLY_MAX).burst > renewed * 24);
        assert!(limits(WEEKLY_MAX).week > renewed * 24 * 7);

        let Limits { week, reserve, .. } = Limits::default();
        assert_eq!(renewed_within_an_hour(Limits::default()), week + reserve);
    }

    /// Orders certificates of 30 s for an hour; a CA issues at once.
    fn renewed_within_an_hour(limits: Limits) -> usize {
        const LIFE: Duration = Duration::from_secs(30);
        let names = vec!["dns.example.org".to_owned()];
        let policy = Policy {
            names: names.clone(),
            cas: vec![Ca { name: "private".to_owned(), staging: false }],
            limits,
            ..Policy::default()
        };
        let begin = Now { mono: start(), utc: UnixTime::from_secs(1_773_489_600) };
        let mut now = begin;
        let mut machine = Lifecycle::new(policy, Vec::new(), None, now);
        let trust = TimeTrust {
            level: Level::Disciplined,
            verified: true,
            generation: 0,
            floor: UnixTime::EPOCH,
            dates: CertDates::Strict,
        };
        machine.handle_trust(trust, now);
        let mut issued = 0;
        while now.mono < begin.mono + Duration::from_secs(3600) {
            while let Some(event) = machine.poll_event() {
                let Event::Order(order) = event else { continue };
                issued += 1;
                let held = Held {
                    serial: format!("{issued:x}"),
                    names: names.clone(),
                    not_before: now.utc,
                    not_after: now.utc + LIFE,
                    got: now.utc,
                    ca: Some("private".to_owned()),
                };
                machine.handle_ending(order.id, true, Ending::Issued(held), now);
            }
            let wake = machine.poll_timeout().0.max(now.mono + Duration::from_millis(10));
            now = Now { mono: wake, utc: now.utc + (wake - now.mono) };
            machine.handle_timeout(now);
        }
        issued
    }

    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }
}
