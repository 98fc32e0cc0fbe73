//! From the tree of a TOML document to a [`Config`]: every key, its default and its rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use crate::clock::{Holdover, Polls};
use crate::config::report::Report;
use crate::config::tree::{Notes, Places, Table, Wrong};
use crate::config::{
    CertificateFiles, ClientNetwork, Clock, ClockMode, Config, Control, Dns, Doh, Doq, Dot, Log,
    Metered, Method, Metrics, Ntp, Nts, NtsListen, Parsed, Plaintext, Pool, Recursion, RefClock,
    RefClockKind, Source, State, Tls, Transport, Upstream, Validation, Witness, acme, notify,
    rules, value,
};
use crate::names::Entry;
use crate::wire::Name;

/// Where figures are shown unless the configuration says otherwise.
const METRICS_PORT: u16 = 9853;
/// Questions a second beyond which a limit is none.
const RATE_MAX: u32 = 10_000;
/// What `min_poll` and `max_poll` may be: 16 s to 36 h (RFC 5905 section 7.2).
const POLLS: RangeInclusive<u32> = 4..=17;
/// A week, the longest TTL worth keeping (RFC 8767 section 4).
const WEEK: u32 = 604_800;
/// The longest path a socket can be bound to (`sun_path` less its final zero).
const MAX_SOCKET_PATH: usize = 107;
const EMBEDDED: &str = include_str!("../../config/default.toml");

impl Config {
    /// Reads a configuration. Relative paths in it are relative to the folder of `path`.
    ///
    /// # Errors
    ///
    /// Every mistake in the text, and every warning, if there is a mistake at all.
    pub fn parse(text: &str, path: &Path) -> Result<Parsed, Report> {
        let (document, torn) = DeTable::parse_recoverable(text);
        let mut syntax = Report::new(path, text);
        for error in &torn {
            syntax.error(
                error.span(),
                error.message(),
                "see https://toml.io for how TOML is written",
            );
        }
        // What is read from a broken line means nothing.
        let broken: Vec<usize> =
            torn.iter().filter_map(|error| Some(syntax.position(&error.span()?).0)).collect();

        let mut notes = Notes {
            report: Report::new(path, text),
            places: Places::default(),
            torn: !torn.is_empty(),
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let config =
            Table::root(&mut notes, document.get_ref(), |table| read_config(table, folder));
        rules::check(&config, &mut notes);

        let Notes { mut report, places, .. } = notes;
        report.leave_out_lines(&broken);
        report.append(syntax);
        if report.errors() > 0 {
            return Err(report);
        }
        Ok(Parsed { config, warnings: report, places })
    }

    /// The state directory that `text` names, or the usual one, whatever else is wrong with it:
    /// the last configuration that worked is kept there.
    #[must_use]
    pub fn state_directory(text: &str, path: &Path) -> PathBuf {
        let (document, _) = DeTable::parse_recoverable(text);
        let report = Report::new(path, text);
        let mut notes = Notes { report, places: Places::default(), torn: true };
        let folder = path.parent().unwrap_or(Path::new(""));
        let read = |table: &mut Table<'_, '_>| read_config(table, folder).state.directory;
        Table::root(&mut notes, document.get_ref(), read)
    }

    /// The configuration that is built in: encrypted resolvers and time sources of several operators.
    ///
    /// # Errors
    ///
    /// If the text in the binary is not a configuration; a test holds that it is one.
    pub fn embedded() -> Result<Parsed, Report> {
        Self::parse(EMBEDDED, Path::new("built-in configuration"))
    }
}

fn read_config(root: &mut Table<'_, '_>, folder: &Path) -> Config {
    let file = |text: &str| value::path(text).map(|path| folder.join(path));
    let tls = root.table("tls", |table| read_tls(table, file));
    Config {
        state: root.table("state", |table| State {
            directory: table
                .text("directory", file)
                .unwrap_or_else(|| PathBuf::from("/var/lib/firstlight")),
        }),
        dns: root.table("dns", |table| read_dns(table, file)),
        dot: root.table("dot", |table| Dot { listen: listen(table, 853) }),
        doh: root.table("doh", |table| Doh {
            listen: listen(table, 443),
            path: table.text("path", value::resource).unwrap_or_else(query_path),
        }),
        doq: root.table("doq", |table| Doq { listen: listen(table, 853) }),
        acme: root.table_if_any("acme", |table| acme::read(table, &tls.name, file)),
        tls,
        upstreams: root.tables("upstream", |table| read_upstream(table, file)),
        ntp: root.table("ntp", |table| Ntp {
            listen: listen(table, 123),
            clients: clients(table),
            rate: table.number("rate", 0..=RATE_MAX).unwrap_or(16),
            remember: table.boolean("remember").unwrap_or(true),
            keys: table.text("keys", file),
        }),
        nts: root.table("nts", |table| NtsListen { listen: listen(table, 4460) }),
        clock: root.table("clock", |table| Clock {
            mode: table
                .choice("mode", &[("steer", ClockMode::Steer), ("observe", ClockMode::Observe)])
                .unwrap_or(ClockMode::Steer),
            quorum: table.number("quorum", 1..=64).map_or(3, to_usize),
            holdover: read_holdover(table),
            sources: table.tables("source", |table| read_source(table, file)),
            pools: table.tables("pool", read_pool),
            refclocks: table.tables("refclock", |table| read_refclock(table, file)),
            leap_file: table.text("leap_file", file),
            witnesses: table.tables("witness", |table| read_witness(table, file)),
        }),
        metered: root.table("metered", |table| read_metered(table, file)),
        metrics: root.table("metrics", |table| Metrics {
            listen: table
                .texts("listen", value::listener)
                .unwrap_or_else(|| vec![SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT))]),
        }),
        notify: root.tables("notify", |table| notify::read(table, file)),
        control: root.table("control", |table| read_control(table, file)),
        log: root.table("log", |table| Log {
            json: table.choice("format", &[("text", false), ("json", true)]).unwrap_or(false),
        }),
        names: root.tables("name", read_name),
    }
}

fn read_dns(
    table: &mut Table<'_, '_>,
    file: impl Copy + Fn(&str) -> Result<PathBuf, Wrong>,
) -> Dns {
    Dns {
        recursion: read_recursion(table, file),
        listen: listen(table, 53),
        clients: clients(table),
        rate: table.number("rate", 0..=RATE_MAX).unwrap_or(1000),
        plaintext: table
            .choice(
                "plaintext",
                &[
                    ("serve", Plaintext::Serve),
                    ("local-only", Plaintext::LocalOnly),
                    ("refuse", Plaintext::Refuse),
                ],
            )
            .unwrap_or(Plaintext::Serve),
        min_ttl: table.number("min_ttl", 0..=300).unwrap_or(0),
        max_ttl: table.number("max_ttl", 1..=WEEK).unwrap_or(86_400),
        stale: table.number("stale", 0..=WEEK).unwrap_or(259_200),
        cache_bytes: table
            .number("cache_bytes", 65_536..=u32::MAX)
            .map_or(32 * 1024 * 1024, to_usize),
        pace: table.number("pace", 1..=RATE_MAX).unwrap_or(200),
        snapshot: table.boolean("snapshot").unwrap_or(true),
        spread: table.boolean("spread").unwrap_or(true),
        validation: Validation {
            validate: table.boolean("validate").unwrap_or(false),
            anchors: table.text("trust_anchors", file),
            negative: table.texts("negative_trust_anchors", value::host_name).unwrap_or_default(),
        },
        canary: table.boolean("canary").unwrap_or(true),
    }
}

fn read_recursion(
    table: &mut Table<'_, '_>,
    file: impl Fn(&str) -> Result<PathBuf, Wrong>,
) -> Option<Recursion> {
    let recurse = table.choice("mode", &[("forward", false), ("recurse", true)]) == Some(true);
    let hints = table.text("root_hints", file);
    recurse.then_some(Recursion { hints })
}

fn read_tls(
    table: &mut Table<'_, '_>,
    file: impl Copy + Fn(&str) -> Result<PathBuf, Wrong>,
) -> Tls {
    let name = table.text("name", value::host_name);
    let certificate = table.text("certificate", file);
    let key = table.text("key", file);
    for (one, other) in [("certificate", "key"), ("key", "certificate")] {
        if table.holds(one) && !table.holds(other) {
            let remedy =
                format!("add `{other} = ..`, or leave both out for a fallback certificate");
            table.error(one, format!("`{one}` without `{other}`"), &remedy);
        }
    }
    Tls {
        name: name.unwrap_or_else(default_name),
        files: certificate.zip(key).map(|(certificate, key)| CertificateFiles { certificate, key }),
    }
}

fn read_upstream(
    table: &mut Table<'_, '_>,
    file: impl Fn(&str) -> Result<PathBuf, Wrong>,
) -> Option<Upstream> {
    let name = table.required_text("name", "name = \"dns.example.net\"", value::host_name);
    let operator = table.text("operator", value::label);
    let addresses =
        table.required_texts("addresses", "addresses = [\"192.0.2.1\"]", value::address);
    let transport = table
        .choice(
            "transport",
            &[("dot", Transport::Dot), ("doh", Transport::Doh), ("doq", Transport::Doq)],
        )
        .unwrap_or(Transport::Dot);
    let port = table.port("port");
    let path = table.text("path", value::resource);
    let method = table.choice("method", &[("get", Method::Get), ("post", Method::Post)]);
    let ca = table.text("ca", file);
    let pins = table.texts("pins", value::pin).unwrap_or_default();
    for (key, given) in [("path", path.is_some()), ("method", method.is_some())] {
        if transport != Transport::Doh && given {
            let remedy = format!("leave `{key}` out, or write transport = \"doh\"");
            table.warn(key, format!("`{key}` means something to DNS over HTTPS only"), &remedy);
        }
    }
    let name = name?;
    Some(Upstream {
        operator: operator.unwrap_or_else(|| value::operator_named(&name)),
        name,
        addresses: addresses?,
        transport,
        port: port.unwrap_or(match transport {
            Transport::Doq | Transport::Dot => 853,
            Transport::Doh => 443,
        }),
        path: path.unwrap_or_else(query_path),
        method: method.unwrap_or_default(),
        ca,
        pins,
    })
}

fn read_source(
    table: &mut Table<'_, '_>,
    file: impl Fn(&str) -> Result<PathBuf, Wrong>,
) -> Option<Source> {
    let address = table.required_text("address", "address = \"192.0.2.1\"", value::address);
    let port = table.port("port").unwrap_or(123);
    let name = table.text("name", value::host_name);
    let operator = table.text("operator", value::label);
    let prefer = table.boolean("prefer").unwrap_or(false);
    let trust = table.boolean("trust").unwrap_or(false);
    let noselect = table.boolean("noselect").unwrap_or(false);
    let polls = read_polls(table);
    let key = table.number("key", 1..=u32::MAX);
    let nts = read_nts(table, name.is_some(), key.is_some(), file);
    let address = address?;
    if trust && !is_own(address) {
        table.warn(
            "trust",
            format!("`trust` lets {address} set the clock alone, and it is not on your network"),
            "trust only a clock of your own; for others, give a quorum of several operators",
        );
    }
    Some(Source {
        address: SocketAddr::new(address, port),
        name,
        operator: operator.unwrap_or_else(|| value::operator_of(address)),
        prefer,
        trust,
        noselect,
        polls,
        key,
        nts,
    })
}

fn read_pool(table: &mut Table<'_, '_>) -> Option<Pool> {
    let name = table.required_text("name", "name = \"2.pool.ntp.org\"", value::host_name);
    let port = table.port("port").unwrap_or(123);
    let count = table.number("count", 1..=8).map_or(2, to_usize);
    let operator = table.text("operator", value::label);
    let noselect = table.boolean("noselect").unwrap_or(false);
    let polls = read_polls(table);
    let name = name?;
    // 0.pool.ntp.org and 1.pool.ntp.org are one directory, and one voice.
    let operator = operator.unwrap_or_else(|| {
        let text = name.to_string();
        let labels: Vec<_> = text.trim_end_matches('.').rsplitn(4, '.').take(3).collect();
        labels.into_iter().rev().collect::<Vec<_>>().join(".")
    });
    Some(Pool { name, port, count, operator, noselect, polls })
}

/// How keys are exchanged with a source that has a `name` or not, and a shared `key` or not.
fn read_nts(
    table: &mut Table<'_, '_>,
    name: bool,
    key: bool,
    file: impl Fn(&str) -> Result<PathBuf, Wrong>,
) -> Option<Nts> {
    let nts = table.boolean("nts").unwrap_or(false);
    let (port, ca) = (table.port("nts_port"), table.text("ca", file));
    if !nts {
        for (key, given) in [("nts_port", port.is_some()), ("ca", ca.is_some())] {
            if given {
                let remedy = format!("write nts = true, or leave `{key}` out");
                table.warn(key, format!("`{key}` means nothing to a source without NTS"), &remedy);
            }
        }
        return None;
    }
    if !name {
        let remedy = "write the name in its certificate: name = \"time.example.net\"";
        table.error(
            "nts",
            "a source is known under NTS by its certificate, and this one has no name",
            remedy,
        );
    }
    if key {
        let remedy = "leave `key` out: NTS exchanges keys by itself";
        table.error("key", "a source is asked with a shared key or under NTS, not both", remedy);
    }
    Some(Nts { port: port.unwrap_or(4460), ca })
}

/// What the clock is worth while no source answers.
fn read_holdover(table: &mut Table<'_, '_>) -> Holdover {
    let usual = Holdover::default();
    let limit = table.number("holdover_error", 1..=16).map(u64::from);
    Holdover {
        drift_ppm: table.number("holdover_drift", 1..=500).unwrap_or(usual.drift_ppm),
        limit: limit.map_or(usual.limit, Duration::from_secs),
    }
}

/// The interval between questions, in powers of two of a second as RFC 5905 has it.
fn read_polls(table: &mut Table<'_, '_>) -> Polls {
    let min = table.number("min_poll", POLLS).unwrap_or(*POLLS.start());
    let max = table.number("max_poll", POLLS).unwrap_or(10);
    if min > max {
        let message = format!("min_poll = {min} is longer than max_poll = {max}");
        table.error("min_poll", message, "write the shorter one as min_poll");
    }
    let span = |poll: u32| Duration::from_secs(1 << poll);
    Polls { min: span(min), max: span(max.max(min)) }
}

fn read_refclock(
    table: &mut Table<'_, '_>,
    file: impl Fn(&str) -> Result<PathBuf, Wrong>,
) -> Option<RefClock> {
    use RefClockKind::{Nmea, Pps, Sock};
    let kind = table.required_text("kind", "kind = \"sock\"", |text| match text {
        "sock" => Ok(Sock),
        "nmea" => Ok(Nmea),
        "pps" => Ok(Pps),
        _ => Err(Wrong::new(
            format!("`{text}` is no kind of a reference clock"),
            "write one of: sock, nmea, pps",
        )),
    });
    let path = table.required_text("path", "path = \"/dev/ttyS0\"", file);
    let name = table.text("name", value::clock_name);
    let operator = table.text("operator", value::label);
    let offset = table.signed("offset", -10_000..=10_000).unwrap_or(0);
    let error = table.number("error", 1..=1000);
    let pulse = table.boolean("pulse");
    let speeds = ["4800", "9600", "19200", "38400", "57600", "115200"];
    let speed = table.number("speed", 4800..=115_200);
    if let Some(speed) = speed
        && !speeds.contains(&speed.to_string().as_str())
    {
        let remedy = format!("write one of: {}", speeds.join(", "));
        table.error("speed", format!("no serial line has a speed of {speed}"), &remedy);
    }
    let prefer = table.boolean("prefer").unwrap_or(false);
    let trust = table.boolean("trust").unwrap_or(false);
    let kind = kind?;
    for (key, given, of) in [("speed", speed.is_some(), Nmea), ("pulse", pulse.is_some(), Sock)] {
        if given && kind != of {
            let message = format!("`{key}` means nothing to a clock of this kind");
            table.warn(key, message, &format!("leave `{key}` out"));
        }
    }
    let pulse = kind == Pps || (kind == Sock && pulse == Some(true));
    if pulse && trust {
        table.error(
            "trust",
            "pulses tell where seconds begin, not which: they cannot set a clock alone",
            "trust the clock that numbers them",
        );
    }
    let name = name.unwrap_or_else(|| if pulse { "PPS" } else { "GPS" }.to_owned());
    Some(RefClock {
        kind,
        path: path?,
        operator: operator.unwrap_or_else(|| name.to_lowercase()),
        name,
        offset,
        error: error.unwrap_or(match (kind, pulse) {
            (Nmea, _) => 250,
            (_, true) => 1,
            (_, false) => 10,
        }),
        pulse,
        speed: speed.unwrap_or(9600),
        prefer,
        trust,
    })
}

fn read_witness(
    table: &mut Table<'_, '_>,
    file: impl Fn(&str) -> Result<PathBuf, Wrong>,
) -> Option<Witness> {
    let name = table.required_text("name", "name = \"www.example.net\"", value::host_name);
    let operator = table.text("operator", value::label);
    let address = table.required_text("address", "address = \"192.0.2.1\"", value::address);
    let port = table.port("port").unwrap_or(443);
    let path = table.text("path", value::resource);
    let ca = table.text("ca", file);
    let name = name?;
    Some(Witness {
        operator: operator.unwrap_or_else(|| value::operator_named(&name)),
        name,
        address: SocketAddr::new(address?, port),
        path: path.unwrap_or_else(|| "/".to_owned()),
        ca,
    })
}

fn read_metered(
    table: &mut Table<'_, '_>,
    file: impl Fn(&str) -> Result<PathBuf, Wrong>,
) -> Metered {
    let interfaces = table.texts("interfaces", value::interface).unwrap_or_default();
    let gateways = table.texts("gateways", value::address).unwrap_or_default();
    let flag_file = table.text("flag_file", file);
    let budget_bytes = table.number("budget_bytes", 0..=u32::MAX).map_or(0, u64::from);
    if budget_bytes > 0 && interfaces.is_empty() && gateways.is_empty() && flag_file.is_none() {
        let remedy = "name `interfaces`, `gateways` or a `flag_file`";
        table.warn("budget_bytes", "a budget, and no link is said to be metered", remedy);
    }
    Metered { interfaces, gateways, flag_file, budget_bytes }
}

fn read_control(
    table: &mut Table<'_, '_>,
    file: impl Fn(&str) -> Result<PathBuf, Wrong>,
) -> Control {
    let socket = table.text("socket", |text| {
        let path = file(text)?;
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            let message = format!("`{}` is too long for a socket", path.display());
            return Err(Wrong::new(message, format!("use at most {MAX_SOCKET_PATH} octets")));
        }
        Ok(path)
    });
    // Unlike operators, groups keep their letter case.
    let group = table.text("group", |text| value::label(text).map(|_| text.trim().to_owned()));
    Control { socket, group }
}

fn read_name(table: &mut Table<'_, '_>) -> Option<Entry> {
    let owner = table.required_text("name", "name = \"pi.home.lan\"", value::owner);
    let addresses = table.texts("addresses", |text| {
        text.parse::<IpAddr>().map_err(|_| {
            let remedy = "write IP addresses here; a name goes into `cname`";
            Wrong::new(format!("`{text}` is not an IP address"), remedy)
        })
    });
    let cname = table.text("cname", value::name);
    let txt = table.texts("txt", |text| Ok(text.to_owned()));
    let ttl = table.number("ttl", 0..=WEEK).unwrap_or(300);
    if table.holds("cname") && (table.holds("addresses") || table.holds("txt")) {
        table.error(
            "cname",
            "a `cname` stands alone, without addresses and txt (RFC 1034 section 3.6.2)",
            "keep either the cname or the other records",
        );
    }
    if !["addresses", "cname", "txt"].iter().any(|key| table.holds(key)) {
        table.error("name", "this name stands for nothing", "add addresses, a cname or txt");
    }
    let (name, wildcard) = owner?;
    Some(Entry {
        name,
        wildcard,
        addresses: addresses.unwrap_or_default(),
        cname,
        txt: txt.unwrap_or_default(),
        ttl,
    })
}

/// `clients`, by default those of one's own networks.
fn clients(table: &mut Table<'_, '_>) -> Vec<ClientNetwork> {
    table.texts("clients", value::clients).unwrap_or_else(|| vec![ClientNetwork::Local])
}

/// `listen`, by default every address of both families at the given port.
fn listen(table: &mut Table<'_, '_>, port: u16) -> Vec<SocketAddr> {
    table.texts("listen", value::listener).unwrap_or_else(|| {
        let both = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        both.map(|ip| SocketAddr::new(ip, port)).to_vec()
    })
}

/// Whether an address belongs to one's own network or machine.
fn is_own(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

/// The usual path of a DoH resource (RFC 8484 section 4.1.1 uses it in its examples).
fn query_path() -> String {
    "/dns-query".to_owned()
}

/// A name below the domain that is set aside for homes (RFC 8375).
fn default_name() -> Name {
    Name::from_wire(b"\x0afirstlight\x04home\x04arpa\0").unwrap_or_else(|_| Name::root())
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
