//! The configuration files that are shipped, and what a person sees who mistypes one.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use firstlight::config::{
    Acme, AcmeChallenge, AcmeHash, ClockMode, Config, Dns, NotifyKind, Parsed, Report, Severity,
};
use firstlight::health;
use proptest::prelude::*;

const COMMENTED: &str = include_str!("../config/firstlight.toml");
/// Upstreams, witnesses and sources against which nothing is to be said.
const EMBEDDED: &str = include_str!("../config/default.toml");

/// Ten lines, each with one mistake of its own.
const TEN_MISTAKES: &str = r#"# Written late at night.
[state]
directory = 7
[dns]
listn = ["0.0.0.0:53"]
plaintext = "serv"
max_ttl = 0
[doh]
path = "dns-query"
[tls]
certificate = "fullchain.pem"
[[upstream]]
name = "dns.quad9.net"
addresses = ["9.9.9.9", "ö", "dns.quad9.net"]
[clock]
quorum = 0 # é
[[clock.source]]
adress = "162.159.200.1"
"#;

/// The keys that are promised to stay.
const AGREED: &str = r#"
[state]
directory = "/var/lib/firstlight"
[dns]
listen = ["0.0.0.0:53", "[::]:53"]
plaintext = "serve"
[dot]
listen = ["0.0.0.0:853"]
[doh]
listen = ["0.0.0.0:443"]
path = "/dns-query"
[doq]
listen = ["0.0.0.0:853"]
[tls]
name = "dns.home.lan"
certificate = "fullchain.pem"
key = "privkey.pem"
[[upstream]]
name = "dns.quad9.net"
operator = "quad9"
addresses = ["9.9.9.9", "149.112.112.112"]
transport = "dot"
port = 853
ca = "extra-root.pem"
[ntp]
listen = ["0.0.0.0:123", "[::]:123"]
[clock]
mode = "steer"
quorum = 3
[[clock.source]]
address = "162.159.200.1"
operator = "cloudflare"
prefer = false
trust = false
[[clock.witness]]
name = "dns.google"
operator = "google"
address = "8.8.8.8"
port = 443
path = "/"
ca = "extra-root.pem"
[control]
socket = "/run/firstlight/control.sock"
[[name]]
name = "pi.home.lan"
addresses = ["10.77.0.2"]
"#;

#[test]
fn ten_mistakes_give_ten_messages_at_their_places() {
    let report = refuse(TEN_MISTAKES);

    let found: Vec<_> = report
        .problems()
        .iter()
        .map(|problem| {
            let (line, column) = report.position(problem.span.as_ref().unwrap());
            (line, column, problem.message.as_str(), problem.remedy.as_str())
        })
        .collect();
    for (found, expected) in found.iter().zip([
        (3, 13, "`directory` is a whole number", "in double quotes"),
        (5, 1, "unknown key `listn` in `dns`", "did you mean `listen`?"),
        (6, 13, "`serv` is no value of `plaintext`", "did you mean `serve`?"),
        (7, 11, "`dns.max_ttl` is out of range", "from 1 to 604800"),
        (9, 8, "does not begin with `/`", "write \"/dns-query\""),
        (11, 15, "`certificate` without `key`", "add `key"),
        (14, 25, "`ö` is not an IP address", "192.0.2.1"),
        (14, 30, "DNS needs TLS, TLS needs time", "192.0.2.1"),
        (16, 10, "`clock.quorum` is out of range", "from 1 to 64"),
        (18, 1, "unknown key `adress` in `clock.source`", "did you mean `address`?"),
    ]) {
        assert_eq!((found.0, found.1), (expected.0, expected.1), "{}", found.2);
        assert!(found.2.contains(expected.2), "{} / {}", found.2, expected.2);
        assert!(found.3.contains(expected.3), "{} / {}", found.3, expected.3);
    }
    assert_eq!(found.len(), 10, "{report}");
}

#[test]
fn a_message_shows_the_line_and_marks_the_place() {
    let report = refuse("[clock]\n[[clock.source]]\n  address = \"time.nist.gov\" # why not?\n");

    assert_eq!(
        report.to_string(),
        "error: `time.nist.gov` is a name, not an IP address: a name would need DNS, DNS needs \
         TLS, TLS needs time
  --> /etc/firstlight/firstlight.toml:3:13
 3 |   address = \"time.nist.gov\" # why not?
   |             ^^^^^^^^^^^^^^^
   = help: write the IP address, like \"192.0.2.1\" or \"2001:db8::1\"
"
    );
}

#[test]
fn every_syntax_error_is_reported_beside_the_other_mistakes() {
    let report =
        refuse("[dns]\nlisten = [\"0.0.0.0:53\"\ncanary = treu\n[ntp]\nlisten = 5\n[log\n");

    let lines: Vec<_> = report
        .problems()
        .iter()
        .map(|problem| report.position(problem.span.as_ref().unwrap()).0)
        .collect();
    assert!(lines.contains(&3) && lines.contains(&5) && lines.contains(&6), "{report}");
}

#[test]
fn settings_that_contradict_each_other_are_mistakes() {
    for (text, position, message) in [
        ("[tls]\nkey = \"k.pem\"", (2, 7), "`key` without `certificate`"),
        ("[dot]\nlisten = [\"[::]:443\"]", (0, 0), "is taken by `dot.listen` already"),
        ("[ntp]\nlisten = [\"10.0.0.1:53\"]", (2, 11), "is taken by `dns.listen` already"),
        ("[doq]\nlisten = [\"[::1]:123\"]", (0, 0), "is taken by `doq.listen` already"),
        ("[doq]\nlisten = [\"10.0.0.1:53\"]", (2, 11), "must not use port 53"),
        ("[dot]\nlisten = [\"0.0.0.0:0\"]", (2, 11), "port 0"),
        ("[[name]]\nname = \"a.lan\"\ncname = \"b.lan\"\ntxt = [\"x\"]", (3, 9), "stands alone"),
        ("[[name]]\nname = \"a.lan\"", (2, 8), "stands for nothing"),
        (
            "[[name]]\nname = \"a.lan\"\ncname = \"b.lan\"\n[[name]]\nname = \"A.lan.\"\n\
             addresses = [\"10.0.0.1\"]",
            (5, 8),
            "given twice",
        ),
        (
            "[[name]]\nname = \"a.lan\"\ncname = \"b.lan\"\n[[name]]\nname = \"b.lan\"\n\
             cname = \"a.lan\"",
            (3, 9),
            "leads back",
        ),
        (
            "[[clock.source]]\naddress = \"192.0.2.1\"\n[[clock.source]]\naddress = \"192.0.2.1\"",
            (4, 11),
            "count twice",
        ),
        ("[[upstream]]\nname = \"d.example\"\naddresses = []", (3, 13), "`addresses` is empty"),
        ("[[clock.source]]\nport = 1", (1, 1), "`clock.source` without `address`"),
        ("[[clock.source]]\naddress = \"192.0.2.1\"\nkey = 7", (3, 7), "no file that holds it"),
        (
            "[[clock.source]]\naddress = \"192.0.2.1\"\nnts = true",
            (3, 7),
            "known under NTS by its certificate",
        ),
        (
            "[[clock.source]]\naddress = \"192.0.2.1\"\nname = \"t.example\"\nnts = true\nkey = 7",
            (5, 7),
            "with a shared key or under NTS, not both",
        ),
        ("[nts]\nlisten = [\"10.0.0.1:853\"]", (2, 11), "is taken by `dot.listen` already"),
        (
            "[[clock.source]]\naddress = \"192.0.2.1\"\nmin_poll = 11",
            (3, 12),
            "longer than max_poll = 10",
        ),
        (
            "[[clock.refclock]]\nkind = \"shm\"\npath = \"x\"",
            (2, 8),
            "no kind of a reference clock",
        ),
        ("[[clock.refclock]]\nkind = \"sock\"", (1, 1), "`clock.refclock` without `path`"),
        (
            "[[clock.refclock]]\nkind = \"nmea\"\npath = \"/dev/ttyS0\"\nspeed = 9601",
            (4, 9),
            "no serial line has a speed of 9601",
        ),
        (
            "[[clock.refclock]]\nkind = \"sock\"\npath = \"s\"\noffset = -10001",
            (4, 10),
            "`clock.refclock[0].offset` is out of range",
        ),
        (
            "[[clock.refclock]]\nkind = \"pps\"\npath = \"/dev/pps0\"\ntrust = true",
            (4, 9),
            "cannot set a clock alone",
        ),
        (
            "[[clock.refclock]]\nkind = \"sock\"\npath = \"s\"\n[[clock.refclock]]\n\
             kind = \"sock\"\npath = \"s\"",
            (6, 8),
            "is a reference clock already",
        ),
        (
            "[[clock.refclock]]\nkind = \"sock\"\npath = \"s\"\n[[clock.refclock]]\n\
             kind = \"sock\"\npath = \"t\"",
            (4, 1),
            "two reference clocks are called `GPS`",
        ),
        (
            "[[clock.source]]\naddress = \"192.0.2.1\"\n[[clock.source]]\naddress = \"192.0.2.2\"\n\
             [[clock.pool]]\nname = \"2.pool.ntp.org\"",
            (5, 1),
            "names would outvote addresses",
        ),
        (
            "[[clock.pool]]\nname = \"p.example\"\n[[clock.pool]]\nname = \"p.example\"",
            (4, 8),
            "is a pool already",
        ),
        ("[upstream]\nname = \"d.example\"", (1, 1), "not a list of tables"),
    ] {
        let report = refuse(text);
        let found = report.problems().iter().find(|problem| problem.message.contains(message));
        let found = found.unwrap_or_else(|| panic!("no `{message}` in\n{report}"));
        let place = found.span.as_ref().map_or((0, 0), |span| report.position(span));
        assert_eq!(place, position, "{report}");
        assert_eq!(found.severity, Severity::Error);
    }
}

#[test]
fn doubts_are_warnings_and_the_configuration_is_used() {
    let source = |n: u8, operator: &str| {
        format!("[[clock.source]]\naddress = \"192.0.2.{n}\"\noperator = \"{operator}\"\n")
    };
    let sources = |operators: &[&str]| -> String {
        (1..).zip(operators).map(|(n, operator)| source(n, operator)).collect()
    };
    for (text, message) in [
        (String::new(), "only local names"),
        (String::new(), "no [[clock.source]]"),
        (String::new(), "witnesses of 0 operators"),
        (sources(&["a", "b"]), "a quorum of 3 can never form: sources given: 2"),
        (sources(&["a", "a", "a", "a"]), "all time sources are run by `a`"),
        (sources(&["a", "b", "c"]), "losing any one loses the quorum"),
        (sources(&["a", "a", "b", "c"]), "losing `a` (2 of them)"),
        (sources(&["a", "b", "a", "b", "a", "b"]), "losing `a` (3 of them)"),
        (
            "[[upstream]]\nname = \"d.example.net\"\naddresses = [\"192.0.2.1\"]".to_owned(),
            "all upstreams are run by `example.net`",
        ),
        (
            "[[clock.source]]\naddress = \"192.0.2.1\"\ntrust = true".to_owned(),
            "set the clock alone",
        ),
        ("[dns]\nmode = \"recurse\"".to_owned(), "nothing tells forged ones"),
        (
            "[dns]\nmode = \"recurse\"\nvalidate = true\n\
             [[upstream]]\nname = \"d.example.net\"\naddresses = [\"192.0.2.1\"]"
                .to_owned(),
            "no upstream is asked for names",
        ),
        ("[[clock.refclock]]\nkind = \"sock\"\npath = \"s\"".to_owned(), "reference clocks alone"),
        ("[[clock.source]]\naddress = \"216.239.35.4\"".to_owned(), "is Google's, who spreads"),
        ("[[clock.source]]\naddress = \"2001:4860:4806:8::\"".to_owned(), "is Google's"),
        ("[[clock.source]]\naddress = \"169.254.169.123\"".to_owned(), "is Amazon's"),
        ("[[clock.source]]\naddress = \"fd00:ec2::123\"".to_owned(), "is Amazon's"),
        ("[[clock.source]]\naddress = \"129.134.28.123\"".to_owned(), "is Meta's"),
    ] {
        let warnings = accept(&text).warnings;
        assert_eq!(warnings.errors(), 0);
        assert!(warnings.to_string().contains(message), "no `{message}` in\n{warnings}");
    }
    let recursion = "[dns]\nmode = \"recurse\"\nvalidate = true";
    let warnings = accept(recursion).warnings.to_string();
    assert!(!warnings.contains("dns.mode") && !warnings.contains("upstream]]: only"), "{warnings}");
    let quorum = accept(&sources(&["a", "b", "c", "d", "e"])).warnings.to_string();
    assert!(!quorum.contains("quorum"), "{quorum}");
}

#[test]
fn relative_paths_lie_beside_the_file_and_operators_are_guessed() {
    let config = accept(
        "[state]\ndirectory = \"state\"\n[tls]\ncertificate = \"c.pem\"\nkey = \"/keys/k.pem\"\n\
         [[upstream]]\nname = \"dns.quad9.net\"\naddresses = [\"9.9.9.9\"]\nca = \"../root.pem\"\n\
         [[clock.source]]\naddress = \"162.159.200.1\"\n\
         [[clock.pool]]\nname = \"2.debian.pool.ntp.org\"\nnoselect = true\n\
         [[clock.pool]]\nname = \"time.lan\"\nnoselect = true\n",
    )
    .config;

    let files = config.tls.files.unwrap();
    assert_eq!(config.state.directory, Path::new("/etc/firstlight/state"));
    assert_eq!(files.certificate, Path::new("/etc/firstlight/c.pem"));
    assert_eq!(files.key, Path::new("/keys/k.pem"));
    assert_eq!(config.upstreams[0].ca.as_deref(), Some(Path::new("/etc/firstlight/../root.pem")));
    assert_eq!(config.upstreams[0].operator, "quad9.net");
    assert_eq!(config.upstreams[0].port, 853);
    assert_eq!(config.clock.sources[0].operator, "162.159.0.0/16");
    assert_eq!(config.clock.sources[0].address.port(), 123);
    let pools = config.clock.pools.iter().map(|pool| (&*pool.operator, pool.port, pool.count));
    assert_eq!(pools.collect::<Vec<_>>(), [("pool.ntp.org", 123, 2), ("time.lan", 123, 2)]);
}

#[test]
fn reference_clocks_have_defaults_by_their_kind_and_pulses_no_vote() {
    let refclock = |keys: &str| format!("[[clock.refclock]]\n{keys}\n");
    let text = refclock("kind = \"sock\"\npath = \"gps.sock\"\nprefer = true")
        + &refclock("kind = \"nmea\"\npath = \"/dev/ttyS0\"\nname = \"Line\"\noffset = -120")
        + &refclock("kind = \"pps\"\npath = \"/dev/pps0\"");

    let parsed = accept(&text);

    let [sock, nmea, pps] = parsed.config.clock.refclocks.try_into().unwrap();
    assert_eq!(sock.path, Path::new("/etc/firstlight/gps.sock"));
    assert_eq!((&*sock.name, &*sock.operator, sock.error), ("GPS", "gps", 10));
    assert_eq!((&*nmea.name, &*nmea.operator, nmea.offset), ("Line", "line", -120));
    assert_eq!((nmea.speed, nmea.error), (9600, 250));
    assert_eq!((&*pps.name, pps.error, pps.pulse), ("PPS", 1, true));
    assert!(sock.prefer && !sock.pulse && !sock.trust);

    let servers = (1..=3)
        .map(|n| format!("[[clock.source]]\naddress = \"192.0.2.{n}\"\noperator = \"{n}\"\n"));
    let servers: Vec<_> = servers.collect();
    let quorum = |refclock: &str| {
        let report = accept(&(servers.concat() + refclock)).warnings.to_string();
        report.contains("loses the quorum")
    };
    assert!(quorum(&refclock("kind = \"pps\"\npath = \"/dev/pps0\"")));
    assert!(!quorum(&refclock("kind = \"sock\"\npath = \"gps.sock\"")));
}

#[test]
fn a_text_with_every_agreed_key_is_understood() {
    let config = accept(AGREED).config;

    assert_eq!(config.tls.name.to_string(), "dns.home.lan");
    assert_eq!(config.upstreams[0].addresses.len(), 2);
    assert_eq!(config.clock.witnesses[0].address.to_string(), "8.8.8.8:443");
    assert_eq!(config.names[0].addresses, ["10.77.0.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(config.control.socket.unwrap(), Path::new("/run/firstlight/control.sock"));
}

#[test]
fn the_shipped_files_have_neither_mistakes_nor_doubts() {
    let embedded = Config::embedded().unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(embedded.warnings.to_string(), "");
    assert_eq!(accept(COMMENTED).warnings.to_string(), "");
    assert_eq!(accept(&uncommented()).warnings.to_string(), "");
    for publisher in ["[acme.update]", "[acme.hook]", "[acme.acme_dns]"] {
        let acme = uncommented_acme(publisher);
        assert_eq!(accept(&(acme + EMBEDDED)).warnings.to_string(), "", "{publisher}");
    }
}

#[test]
fn the_commented_file_shows_every_key_of_acme_with_its_true_default() {
    let bare = "[tls]\nname = \"dns.example.org\"\n[acme]\nagree = true\n\
                [acme.hook]\nprogram = \"/usr/local/bin/dns-hook\"\n";
    let bare = accept(bare).config.acme.unwrap();
    let shown = |publisher| accept(&uncommented_acme(publisher)).config.acme.unwrap();

    let [update, hook, acme_dns] = ["[acme.update]", "[acme.hook]", "[acme.acme_dns]"].map(shown);
    assert_eq!(hook.challenge, bare.challenge);
    assert_eq!(update.cas[0], bare.cas[0]);
    // Where the default is none, an example stands.
    let (names, cas, challenge) = (bare.names.clone(), bare.cas.clone(), bare.challenge.clone());
    assert_eq!(Acme { names, cas, challenge, ..update.clone() }, bare);
    let AcmeChallenge::Update { server, hash, .. } = update.challenge else { panic!() };
    assert_eq!((server.port(), hash), (53, AcmeHash::default()));
    assert!(matches!(acme_dns.challenge, AcmeChallenge::AcmeDns { ca: Some(_), .. }));
    let shown = uncommented_acme("[acme.update]");
    for key in ["challenge", "directory", "staging", "profile", "eab_kid", "eab_key_file", "ca"] {
        assert!(shown.contains(&format!("\n{key} = ")), "`{key}` is not shown");
    }
}

#[test]
fn the_built_in_sources_survive_the_loss_of_any_operator() {
    let config = Config::embedded().unwrap().config;
    let of: Vec<_> = config.clock.sources.iter().map(|s| s.operator.as_str()).collect();
    let need = config.clock.quorum.max(of.len() / 2 + 1);

    for lost in &of {
        let left: Vec<_> = of.iter().filter(|operator| *operator != lost).collect();
        assert!(left.len() >= need, "without {lost}: {left:?}, {need} must agree");
        assert!(left.iter().any(|operator| *operator != left[0]), "without {lost}: {left:?}");
    }
}

#[test]
fn the_built_in_upstreams_are_of_three_operators() {
    let config = Config::embedded().unwrap().config;

    let operators: BTreeSet<_> = config.upstreams.iter().map(|u| u.operator.as_str()).collect();

    assert!(operators.len() >= 3, "{operators:?}");
}

#[test]
fn the_commented_file_shows_every_key_with_its_true_default() {
    let shown = accept(&uncommented()).config;
    let bare = accept("").config;

    assert_eq!(shown.state, bare.state);
    // Where the default is none, an example stands.
    let validation = bare.dns.validation.clone();
    assert_eq!(shown.dns.validation.validate, validation.validate);
    assert_eq!(Dns { validation, ..shown.dns }, bare.dns);
    assert_eq!(shown.metered.budget_bytes, bare.metered.budget_bytes);
    assert_eq!(shown.dot, bare.dot);
    assert_eq!(shown.doh, bare.doh);
    assert_eq!(shown.doq, bare.doq);
    assert_eq!(shown.ntp.listen, bare.ntp.listen);
    assert_eq!(shown.nts, bare.nts);
    assert_eq!(shown.log, bare.log);
    let notified =
        [NotifyKind::Ntfy(health::Severity::Warning), NotifyKind::Ping(Duration::from_secs(60))];
    assert_eq!(shown.notify.iter().map(|it| it.kind).collect::<Vec<_>>(), notified);
    assert_eq!(shown.tls.name, bare.tls.name);
    assert_eq!(shown.clock.mode, ClockMode::Steer);
    assert_eq!(shown.clock.quorum, bare.clock.quorum);
    assert_eq!(shown.clock.holdover, bare.clock.holdover);
    for key in [
        "directory",
        "listen",
        "plaintext",
        "min_ttl",
        "max_ttl",
        "stale",
        "cache_bytes",
        "pace",
        "snapshot",
        "spread",
        "root_hints",
        "validate",
        "trust_anchors",
        "negative_trust_anchors",
        "canary",
        "interfaces",
        "gateways",
        "flag_file",
        "budget_bytes",
        "url",
        "token_file",
        "least",
        "every",
        "method",
        "pins",
        "path",
        "name",
        "certificate",
        "key",
        "operator",
        "addresses",
        "transport",
        "port",
        "ca",
        "mode",
        "remember",
        "quorum",
        "holdover_drift",
        "holdover_error",
        "leap_file",
        "kind",
        "offset",
        "error",
        "pulse",
        "speed",
        "address",
        "prefer",
        "noselect",
        "count",
        "min_poll",
        "max_poll",
        "keys",
        "trust",
        "socket",
        "group",
        "format",
        "cname",
        "txt",
        "ttl",
    ] {
        assert!(uncommented().contains(&format!("\n{key} = ")), "`{key}` is not shown");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC*") {
        read(&text);
    }

    #[test]
    fn no_mixture_of_toml_makes_the_reader_panic(
        pieces in proptest::collection::vec(0..PIECES.len(), 0..40)
    ) {
        let text: String = pieces.iter().map(|piece| PIECES[*piece]).collect();
        read(&text);
    }

    #[test]
    fn no_damage_to_the_commented_file_makes_the_reader_panic(
        at in 0..COMMENTED.len(), to in any::<char>()
    ) {
        let mut text: Vec<char> = uncommented().chars().collect();
        let at = at % text.len();
        text[at] = to;
        read(&text.iter().collect::<String>());
    }

    #[test]
    fn no_damage_to_what_is_ordered_makes_the_reader_panic(at in any::<usize>(), to in any::<char>()) {
        let mut text: Vec<char> = uncommented_acme("[acme.update]").chars().collect();
        let at = at % text.len();
        text[at] = to;
        read(&text.iter().collect::<String>());
    }
}

const PIECES: &[&str] = &[
    "\n",
    "\r\n",
    "[",
    "]",
    "[[",
    "]]",
    "=",
    ".",
    "\"",
    "'",
    "'''",
    "#",
    "{",
    "}",
    ",",
    " ",
    "dns",
    "clock",
    "acme",
    "names",
    "ca",
    "source",
    "upstream",
    "name",
    "listen",
    "address",
    "quorum",
    "\\u00",
    "1",
    "-1",
    "0x",
    "9999999999999999999999",
    "1.5",
    "true",
    "1979-05-27",
    "\"ö\"",
    "\"9.9.9.9\"",
    "é",
    "\u{feff}",
];

fn read(text: &str) {
    match Config::parse(text, Path::new("f.toml")) {
        Ok(parsed) => drop(parsed.warnings.to_string()),
        Err(report) => assert!(!report.to_string().is_empty()),
    }
}

/// The commented file with every setting switched on but those of `[acme]`, which stand in place of
/// others.
fn uncommented() -> String {
    switched_on(|table| !table.trim_start_matches('[').starts_with("acme"))
}

/// Its tables of `[acme]`, with one of those that publish records.
fn uncommented_acme(publisher: &str) -> String {
    let wanted = ["[acme]", "[[acme.ca]]", publisher];
    format!("[tls]\nname = \"dns.example.org\"\n{}", switched_on(|table| wanted.contains(&table)))
}

/// Those tables of the commented file that are `wanted` by their header, with every setting
/// switched on: `#key = ..`, where prose begins `# `.
fn switched_on(wanted: impl Fn(&str) -> bool) -> String {
    let mut table = "";
    COMMENTED
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => setting,
            _ => line,
        })
        .filter(|line| {
            if line.starts_with('[') {
                table = line;
            }
            wanted(table)
        })
        .flat_map(|line| [line, "\n"])
        .collect()
}

fn accept(text: &str) -> Parsed {
    Config::parse(text, Path::new("/etc/firstlight/firstlight.toml"))
        .unwrap_or_else(|report| panic!("{report}"))
}

fn refuse(text: &str) -> Report {
    Config::parse(text, Path::new("/etc/firstlight/firstlight.toml")).unwrap_err()
}
