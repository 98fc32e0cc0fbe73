//! `[acme]` as it is written, and every way to write it wrong.

use std::path::Path;
use std::time::Duration;

use super::{AcmeBinding, AcmeChallenge, AcmeHash};
use crate::cert::{Limits, Policy};
use crate::config::{Acme, Config, Parsed, Report, Severity};

/// What is enough, on six lines.
const LEAST: &str = "[tls]\nname = \"dns.example.org\"\n\
                     [acme]\nagree = true\n[acme.hook]\nprogram = \"/usr/local/bin/hook\"\n";
const HOOK: &str = "[acme.hook]\nprogram = \"/usr/local/bin/hook\"\n";
/// A CA, on one line and a half.
const CA: &str = "[[acme.ca]]\nname = ";

#[test]
fn the_least_that_is_needed_orders_the_name_in_tls_of_lets_encrypt() {
    let acme = read(LEAST);

    let policy = Policy::default();
    assert_eq!(acme.names, ["dns.example.org"]);
    assert_eq!((acme.survive, acme.percent), (policy.survive, policy.percent));
    assert_eq!(acme.limits, Limits::default());
    assert!(!acme.authoritative);
    let [ca] = acme.cas.try_into().unwrap();
    assert_eq!(ca.name, "letsencrypt");
    assert_eq!(ca.directory, "https://acme-v02.api.letsencrypt.org/directory");
    let staging = "https://acme-staging-v02.api.letsencrypt.org/directory";
    assert_eq!(ca.staging.as_deref(), Some(staging));
    assert_eq!(ca.profile.as_deref(), Some("tlsserver"));
    assert_eq!((ca.binding, ca.ca), (None, None));
    let AcmeChallenge::Hook { program, limit } = acme.challenge else { panic!() };
    assert_eq!((program.as_path(), limit.as_secs()), (Path::new("/usr/local/bin/hook"), 60));
    assert_eq!(accept("[dns]\n").config.acme, None);
}

#[test]
fn every_key_is_understood() {
    let acme = read(
        r#"
        [tls]
        name = "DNS.example.org"
        [acme]
        agree = true
        names = ["*.Example.org", "pi1.example.org."]
        challenge = "dns-01"
        authoritative = true
        survive = 72
        life_percent = 55
        certificates_per_week = 5
        [[acme.ca]]
        name = "letsencrypt"
        profile = ""
        [[acme.ca]]
        name = "Home"
        directory = "https://ca.example.org:8443/acme/directory"
        staging = "https://ca.example.org:8443/staging/directory"
        profile = "short"
        eab_kid = "kid-1"
        eab_key_file = "eab.key"
        ca = "root.pem"
        [[acme.ca]]
        name = "google"
        eab_kid = "kid-2"
        eab_key_file = "/keys/google"
        [acme.update]
        address = "192.0.2.53"
        port = 5353
        zone = "Example.org"
        key_name = "acme-key."
        key_file = "tsig.key"
        algorithm = "hmac-sha512"
        "#,
    );

    assert_eq!(acme.names, ["*.example.org", "pi1.example.org"]);
    assert!(acme.authoritative);
    assert_eq!((acme.survive, acme.percent), (Duration::from_secs(72 * 3600), 55));
    assert_eq!((acme.limits.week, acme.limits.reserve), (5, 1));
    let update = AcmeChallenge::Update {
        server: "192.0.2.53:5353".parse().unwrap(),
        zone: "example.org".to_owned(),
        key_name: "acme-key".to_owned(),
        key: "/etc/firstlight/tsig.key".into(),
        hash: AcmeHash::Sha512,
    };
    assert_eq!(acme.challenge, update);
    let [first, second, third] = acme.cas.try_into().unwrap();
    assert_eq!((first.profile, first.staging.is_some()), (None, true));
    assert_eq!((second.name.as_str(), second.profile.as_deref()), ("home", Some("short")));
    assert_eq!(second.directory, "https://ca.example.org:8443/acme/directory");
    assert!(second.staging.unwrap().contains("staging"));
    let key = "/etc/firstlight/eab.key".into();
    assert_eq!(second.binding, Some(AcmeBinding { kid: "kid-1".to_owned(), key }));
    assert_eq!(second.ca.as_deref(), Some(Path::new("/etc/firstlight/root.pem")));
    assert!(third.directory.contains("pki.goog") && third.binding.is_some());
}

#[test]
fn an_account_at_an_acme_dns_server_or_port_443_will_do() {
    let acme_dns = "[acme.acme_dns]\nurl = \"https://auth.example.org\"\naccounts = \"a.json\"\n\
                    ca = \"root.pem\"\n";

    let url = "https://auth.example.org".to_owned();
    let file = |name: &str| Path::new("/etc/firstlight").join(name);
    let expected =
        AcmeChallenge::AcmeDns { url, accounts: file("a.json"), ca: Some(file("root.pem")) };
    assert_eq!(read(&LEAST.replace(HOOK, acme_dns)).challenge, expected);
    assert_eq!(
        read(&LEAST.replace(HOOK, "challenge = \"tls-alpn-01\"\n")).challenge,
        AcmeChallenge::TlsAlpn
    );
}

#[test]
fn a_known_ca_at_another_directory_is_another_ca() {
    let own = "directory = \"https://pebble.example.org:14000/dir\"\n";
    let ca = |text: &str| read(&format!("{LEAST}{CA}{text}")).cas.remove(0);

    let known = ca("\"letsencrypt\"\n");
    assert_eq!(ca(&format!("\"letsencrypt\"\ndirectory = \"{}\"\n", known.directory)), known);
    let other = ca(&format!("\"letsencrypt\"\n{own}"));
    assert_eq!((other.staging, other.profile), (None, None));
    assert_eq!(ca(&format!("\"zerossl\"\n{own}")).binding, None);
}

#[test]
fn mistakes_in_what_is_ordered_have_their_places_and_remedies() {
    let acme = |line: &str| LEAST.replace("agree = true\n", &format!("agree = true\n{line}\n"));
    let least = |from: &str, to: &str| LEAST.replace(from, to);
    refuse_all(vec![
        (
            least("agree = true\n", ""),
            (3, 1),
            "nothing is ordered before the terms of service",
            "read them (https://letsencrypt.org/repository/), then write agree = true",
        ),
        (least("true", "false"), (4, 9), "nothing is ordered", "write agree = true"),
        (
            least("true", "false") + CA + "\"own\"\ndirectory = \"https://ca.lan/\"\n",
            (4, 9),
            "nothing is ordered",
            "read them (`termsOfService` in the directory of `own`)",
        ),
        (
            least("true", "false") + CA + "\"unknown\"\n[[acme.ca]]\n",
            (4, 9),
            "nothing is ordered",
            "read them (`termsOfService` in",
        ),
        (least("true", "\"yes\""), (4, 9), "`agree` is a string", "agree = true"),
        ("acme = 5\n".to_owned(), (1, 8), "`acme` is a whole number", "write [acme] once"),
        (acme("names = []"), (5, 9), "`names` is empty", "leave `names` out"),
        (acme("names = [\"dns.example.org\", \"10.0.0.1\"]"), (5, 29), "no public CA", "write the"),
        (acme("names = [\"a.*.example.org\"]"), (5, 10), "whole first one", "*.example.org"),
        (
            acme(&format!("names = [{}]", "\"a.example.org\", ".repeat(101))),
            (5, 9),
            "101 names, and no CA takes more than 100",
            "take wildcards",
        ),
        (
            acme("names = [\"ns.example.org\"]"),
            (5, 9),
            "clients check `dns.example.org`, the name in [tls], and the certificate would not",
            "add \"dns.example.org\" here, or write tls.name = \"ns.example.org\"",
        ),
        (
            acme("names = [\"*.dns.example.org\"]"),
            (5, 9),
            "clients check `dns.example.org`",
            "or write tls.name = \"dns.example.org\"",
        ),
        (
            least("dns.example.org", "a_b.example.org"),
            (3, 1),
            "`a_b.example.org` is not a name that a certificate can have",
            "write tls.name so",
        ),
        (acme("survive = 0"), (5, 11), "`acme.survive` is out of range", "from 1 to 2000"),
        (acme("survive = 2001"), (5, 11), "`acme.survive` is out of range", "from 1 to 2000"),
        (acme("life_percent = 33"), (5, 16), "`acme.life_percent`", "from 34 to 60"),
        (acme("life_percent = 61"), (5, 16), "`acme.life_percent`", "from 34 to 60"),
        (acme("certificates_per_week = 0"), (5, 25), "out of range", "from 1 to 1000000"),
    ]);
}

#[test]
fn mistakes_in_who_publishes_have_their_places_and_remedies() {
    let acme = |line: &str| LEAST.replace("agree = true\n", &format!("agree = true\n{line}\n"));
    let least = |from: &str, to: &str| LEAST.replace(from, to);
    let update = "[acme.update]\naddress = \"192.0.2.1\"\nzone = \"example.org\"\n\
                  key_name = \"k\"\nkey_file = \"k\"\n";
    refuse_all(vec![
        (acme("challenge = \"http-01\""), (5, 13), "`http-01` is no value", "tls-alpn-01"),
        (least(HOOK, ""), (3, 1), "dns-01 needs somebody who publishes", "add [acme.update]"),
        (
            least(HOOK, "challenge = \"dns-01\"\n"),
            (5, 13),
            "dns-01 needs somebody who publishes",
            "add [acme.update], [acme.hook] or [acme.acme_dns]",
        ),
        (
            format!("{LEAST}{update}"),
            (5, 1),
            "records are published by [acme.update] already",
            "keep one of the two",
        ),
        (
            acme("challenge = \"tls-alpn-01\""),
            (6, 1),
            "[acme.hook] publishes records, and tls-alpn-01 has none",
            "leave it out",
        ),
        (
            least(HOOK, "challenge = \"tls-alpn-01\"\nnames = [\"*.example.org\"]\n"),
            (5, 13),
            "tls-alpn-01 cannot show `*.example.org` to be yours",
            "write challenge = \"dns-01\"",
        ),
        (
            least("dns.example.org\"", "dns.example.org\"\ncertificate = \"c\"\nkey = \"k\""),
            (5, 1),
            "from the files in [tls], or are ordered, not both",
            "leave out `certificate` and `key`",
        ),
        (least("/usr/local", "usr/local"), (6, 11), "not an absolute path", "/usr/local/bin/"),
        (least("program", "programme"), (6, 1), "unknown key `programme`", "`program`"),
        (format!("{LEAST}timeout = 301\n"), (7, 11), "out of range", "from 1 to 300"),
        (
            least(HOOK, &update.replace("zone = \"example.org\"\n", "")),
            (5, 1),
            "`acme.update` without `zone`",
            "add zone = \"example.org\"",
        ),
        (
            least(HOOK, &update.replace("example.org", "example.com")),
            (7, 8),
            "`_acme-challenge.dns.example.org` is not in the zone `example.com`",
            "write the zone that all the names are in",
        ),
        (
            least(HOOK, &format!("{update}algorithm = \"hmac-md5\"\n")),
            (10, 13),
            "`hmac-md5` is no value of `algorithm`",
            "hmac-sha256",
        ),
        (
            least(HOOK, "[acme.acme_dns]\nurl = \"http://auth.lan\"\naccounts = \"a\"\n"),
            (6, 7),
            "does not begin with https://",
            "write a URL like",
        ),
        (
            least(HOOK, "[acme.acme_dns]\nurl = \"https://auth.lan\"\n"),
            (5, 1),
            "`acme.acme_dns` without `accounts`",
            "add accounts = ",
        ),
    ]);
}

#[test]
fn mistakes_in_whom_to_ask_have_their_places_and_remedies() {
    let ca = |rest: &str| format!("{LEAST}{CA}{rest}\n");
    refuse_all(vec![
        (ca("\"letsencrpt\""), (8, 8), "the directory of `letsencrpt` is not", "did you mean"),
        (ca("\"home\""), (8, 8), "the directory of `home` is not known", "letsencrypt, zerossl"),
        (ca("\"a b\""), (8, 8), "`a b` is no name of a CA", "up to 32 letters"),
        (ca("\"google\""), (8, 8), "opens accounts for customers alone", "cloud.google.com"),
        (ca("\"zerossl\""), (8, 8), "opens accounts for customers alone", "https://zerossl.com/"),
        (
            ca("\"zerossl\"\neab_kid = \"k\""),
            (9, 11),
            "`eab_kid` without `eab_key_file`",
            "add `eab_key_file = ..`",
        ),
        (
            ca("\"zerossl\"\neab_key_file = \"k\""),
            (9, 16),
            "`eab_key_file` without `eab_kid`",
            "add `eab_kid = ..`",
        ),
        (ca("\"letsencrypt\"\nprofile = \"a b\""), (9, 11), "no name of a profile", "or \"\""),
        (
            ca(&format!("\"letsencrypt\"\n{CA}\"LetsEncrypt\"")),
            (10, 8),
            "two CAs are called `letsencrypt`",
            "a `name` of its own",
        ),
        (ca("\"h\"\ndirectory = \"http://h.lan/\""), (9, 13), "not begin with https://", "a URL"),
        (ca("\"h\"\ndirectry = \"https://h/\""), (9, 1), "unknown key `directry`", "`directory`"),
        (
            format!("{LEAST}[acme.ca]\nname = \"x\"\n"),
            (7, 1),
            "not a list of tables",
            "[[acme.ca]]",
        ),
    ]);
}

#[test]
fn all_mistakes_are_told_and_none_that_another_made() {
    let report = refuse(
        "[tls]\nname = \"dns_1.example.org\"\n[acme]\nagree = false\n\
         names = [\"ns.example.org\", \"*.10\"]\nsurvive = 0\n[acme.hook]\nprogram = \"hook\"\n\
         [acme.update]\naddress = \"192.0.2.1\"\nzone = \"example.com\"\n\
         key_name = \"k\"\nkey_file = \"k\"\n[[acme.ca]]\nname = \"google\"\n",
    );

    let lines: Vec<_> = report
        .problems()
        .iter()
        .filter_map(|problem| Some(report.position(problem.span.as_ref()?).0))
        .collect();
    assert_eq!(lines, [4, 5, 6, 7, 8, 11, 15], "{report}");

    // A name that cannot be read is not missed besides.
    let report = refuse(&LEAST.replace("dns.example.org", "192.0.2.1"));
    assert_eq!(report.errors(), 1, "{report}");
    let report = refuse(&LEAST.replace("agree = true", "agree = true\nnames = [\"10.0.0.1\"]"));
    assert_eq!(report.errors(), 1, "{report}");
    // Nor is what stands on a line that is no TOML.
    let report = refuse(&LEAST.replace("agree = true", "agree = treu"));
    assert_eq!(report.errors(), 1, "{report}");
}

#[test]
fn doubts_are_told_at_their_places() {
    let alpn = "challenge = \"tls-alpn-01\"\n";
    let doh = "[doh]\nlisten = [\"0.0.0.0:8443\"]\n";
    let own = format!("{CA}\"own\"\ndirectory = \"https://ca.lan/acme\"\n");
    let lan = LEAST.replace("dns.example.org", "dns.home.lan");
    for (text, place, message) in [
        (
            LEAST.replace(
                "agree = true",
                "agree = true\nnames = [\"dns.example.org\", \"DNS.example.org\"]",
            ),
            (5, 29),
            "`dns.example.org` is given twice",
        ),
        (lan.clone(), (3, 1), "`dns.home.lan`: such names exist at home alone, and `letsencrypt`"),
        (LEAST.replace(HOOK, &format!("{alpn}{doh}")), (5, 13), "the CA connects to port 443"),
    ] {
        let report = accept(&text).warnings;
        let found = report.problems().iter().find(|problem| problem.message.contains(message));
        let found = found.unwrap_or_else(|| panic!("no `{message}` in\n{report}"));
        assert_eq!(report.position(found.span.as_ref().unwrap()), place, "{report}");
    }
    assert!(!accept(&format!("{lan}{own}")).warnings.to_string().contains("exist at home"));
    assert!(!accept(&LEAST.replace(HOOK, alpn)).warnings.to_string().contains("port 443"));
}

#[test]
fn a_wildcard_covers_one_label() {
    let acme = read(&LEAST.replace("agree = true", "agree = true\nnames = [\"*.example.org\"]"));

    assert!(acme.covers("dns.example.org"));
    assert!(!acme.covers("example.org") && !acme.covers("a.dns.example.org"));
}

/// Refuses each text for a mistake with that line and column, message and remedy.
fn refuse_all(mistakes: Vec<(String, (usize, usize), &str, &str)>) {
    for (text, place, message, remedy) in mistakes {
        let report = refuse(&text);
        let found = report.problems().iter().find(|problem| problem.message.contains(message));
        let found = found.unwrap_or_else(|| panic!("no `{message}` in\n{report}"));
        let at = found.span.as_ref().map_or((0, 0), |span| report.position(span));
        assert_eq!(at, place, "{report}");
        assert!(found.remedy.contains(remedy), "{report}");
        assert_eq!(found.severity, Severity::Error);
    }
}

fn read(text: &str) -> Acme {
    accept(text).config.acme.unwrap()
}

fn accept(text: &str) -> Parsed {
    Config::parse(text, Path::new("/etc/firstlight/firstlight.toml"))
        .unwrap_or_else(|report| panic!("{report}"))
}

fn refuse(text: &str) -> Report {
    Config::parse(text, Path::new("/etc/firstlight/firstlight.toml")).unwrap_err()
}
