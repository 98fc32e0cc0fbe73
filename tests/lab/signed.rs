//! A root, `test.` and zones below it, signed by knotd; some are then broken. Behind them stand two
//! unbounds: one that only resolves, over TCP and TLS, and one that validates.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::{DAY, Lab, eventually, find};

/// A zone: its name, how it is signed, its records, and what becomes of the signed file.
pub(crate) struct Zone {
    pub(crate) name: &'static str,
    policy: &'static str,
    records: &'static str,
    /// Lines that hold all of these words are left out.
    without: &'static [&'static str],
    /// Said in place of its DS records; `None` if nothing is.
    ds: Option<&'static str>,
}

const fn zone(name: &'static str, policy: &'static str, records: &'static str) -> Zone {
    Zone { name, policy, records, without: &[], ds: Some("") }
}

const COMMON: &str = "www A 192.0.2.1\n\
    www AAAA 2001:db8::1\n\
    *.wild A 192.0.2.2\n\
    deep.empty.above A 192.0.2.3\n\
    alias CNAME www\n\
    out CNAME www.ed.test.\n\
    nowhere CNAME gone.ed.test.\n\
    into CNAME www.unsigned.test.\n\
    moved DNAME ed.test.\n";

/// What lies below `test.`.
pub(crate) const ZONES: &[Zone] = &[
    zone("nsec.test.", "nsec", COMMON),
    zone("nsec3.test.", "nsec3", COMMON),
    zone("rsa.test.", "rsa", COMMON),
    zone("ed.test.", "ed", COMMON),
    zone("optout.test.", "optout", "www A 192.0.2.1\nsub NS ns.test.\n"),
    zone("costly.test.", "costly", COMMON),
    Zone { ds: None, ..zone("unsigned.test.", "", COMMON) },
    Zone {
        ds: Some("DS 4711 200 2 00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF"),
        ..zone("unknown.test.", "", COMMON)
    },
    Zone {
        ds: Some("DS 4711 13 2 00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF"),
        ..zone("wrongkey.test.", "nsec", COMMON)
    },
    zone("expired.test.", "short", "www A 192.0.2.1\n"),
    Zone { without: &["RRSIG", " A ", "www."], ..zone("nosig.test.", "nsec", COMMON) },
    Zone { without: &["DNSKEY"], ..zone("nokey.test.", "nsec", COMMON) },
    Zone { without: &["NSEC"], ..zone("nonsec.test.", "nsec", COMMON) },
    Zone { without: &["NSEC3"], ..zone("nonsec3.test.", "nsec3", COMMON) },
    zone("badsig.test.", "nsec", COMMON),
];

/// Servers on loopback.
pub(crate) struct Signed {
    /// Resolves, and validates nothing.
    pub(crate) plain: SocketAddr,
    /// The same over TLS, by this name.
    pub(crate) tls: (String, SocketAddr),
    /// Validates.
    pub(crate) validating: SocketAddr,
    /// DS records of the root.
    pub(crate) anchors: PathBuf,
    servers: Vec<Child>,
}

impl Signed {
    pub(crate) fn new(lab: &Lab) -> Self {
        let folder = lab.path("signed");
        fs::create_dir_all(folder.join("keys")).unwrap();
        let knot = lab.place(60, 5390);
        // Once for the keys, once more with the parents saying which.
        write_zones(&folder, None);
        sign(&folder, knot);
        let ds = |zone: &str| {
            let output = Command::new(find("keymgr").unwrap())
                .arg("-c")
                .arg(folder.join("signing.conf"))
                .args([zone, "ds"])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(text.contains(" DS "), "{zone}: {text}");
            text
        };
        write_zones(&folder, Some(&ds));
        let anchors = folder.join("anchors");
        fs::write(&anchors, ds(".")).unwrap();
        sign(&folder, knot);
        break_zones(&folder);
        // Until what is signed for six seconds has expired.
        sleep(Duration::from_secs(8));

        let serving = knot_config(&folder, knot, false);
        let mut servers = vec![start("knotd", &serving, knot)];
        let (plain, tls) = (lab.place(61, 5391), lab.place(61, 8853));
        let name = "dns61.example.net".to_owned();
        lab.authority.issue_files(lab, &name, (-DAY, 89 * DAY));
        let more = format!(
            "interface: {}@8853\ntls-port: 8853\ntls-service-pem: \"{}\"\ntls-service-key: \"{}\"\n\
             module-config: \"iterator\"\n",
            tls.ip(),
            lab.path(&format!("{name}.pem")).display(),
            lab.path(&format!("{name}.key")).display(),
        );
        let config = unbound_config(&folder, "plain", plain, knot, &more);
        servers.push(start("unbound", &config, plain));
        let validating = lab.place(62, 5392);
        let more = format!(
            "module-config: \"validator iterator\"\ntrust-anchor-file: \"{}\"\n\
             val-sig-skew-min: 0\nval-sig-skew-max: 0\n",
            anchors.display()
        );
        let config = unbound_config(&folder, "validating", validating, knot, &more);
        servers.push(start("unbound", &config, validating));
        Self { plain, tls: (name, tls), validating, anchors, servers }
    }
}

impl Drop for Signed {
    fn drop(&mut self) {
        for server in &mut self.servers {
            drop(server.kill());
            drop(server.wait());
        }
    }
}

fn file_of(folder: &Path, zone: &str) -> PathBuf {
    folder.join(format!("{}zone", if zone == "." { "root." } else { zone }))
}

fn write_zones(folder: &Path, ds: Option<&dyn Fn(&str) -> String>) {
    let head = |ttl| {
        format!("$TTL {ttl}\n@ SOA ns.test. host.test. 1 3600 600 864000 {ttl}\n@ NS ns.test.\n")
    };
    let mut parent = head(300) + "ns A 192.0.2.53\n";
    for zone in ZONES {
        let ttl = if zone.policy == "short" { 1 } else { 300 };
        let text = format!("$ORIGIN {}\n{}{}", zone.name, head(ttl), zone.records);
        fs::write(file_of(folder, zone.name), text).unwrap();
        writeln!(parent, "{} NS ns.test.", zone.name).unwrap();
        match (zone.ds, ds) {
            (Some(""), Some(ds)) => parent.push_str(&ds(zone.name)),
            (Some(said), Some(_)) if !said.is_empty() => {
                writeln!(parent, "{} {said}", zone.name).unwrap();
            }
            _ => {}
        }
    }
    fs::write(file_of(folder, "test."), format!("$ORIGIN test.\n{parent}")).unwrap();
    let below = ds.map(|ds| ds("test.")).unwrap_or_default();
    let root = format!("$ORIGIN .\n{}test. NS ns.test.\n{below}", head(300));
    fs::write(file_of(folder, "."), root).unwrap();
}

/// Has knotd sign every zone into its file.
fn sign(folder: &Path, knot: SocketAddr) {
    let config = knot_config(folder, knot, true);
    let mut server = start("knotd", &config, knot);
    let signed = || {
        let all = ZONES.iter().filter(|zone| !zone.policy.is_empty()).map(|zone| zone.name);
        let mut all = all.chain([".", "test."]);
        all.all(|zone| {
            fs::read_to_string(file_of(folder, zone)).is_ok_and(|text| text.contains(";; Written"))
        })
        .then_some(())
    };
    let done = eventually(Duration::from_secs(20), signed);
    drop(server.kill());
    drop(server.wait());
    let log = fs::read_to_string(config.with_extension("log")).unwrap_or_default();
    assert!(done.is_some(), "not all is signed: {log}");
    let _ = fs::remove_dir_all(folder.join("journal"));
}

fn break_zones(folder: &Path) {
    for zone in ZONES {
        let file = file_of(folder, zone.name);
        let text = fs::read_to_string(&file).unwrap();
        let mut kept: String = text
            .lines()
            .map(|line| format!("{}\n", line.replace('\t', " ")))
            .filter(|line| {
                zone.without.is_empty() || !zone.without.iter().all(|word| line.contains(word))
            })
            .collect();
        if zone.name == "badsig.test." {
            kept = kept.replace("192.0.2.1", "192.0.2.66");
        }
        fs::write(&file, kept).unwrap();
    }
}

fn knot_config(folder: &Path, address: SocketAddr, signing: bool) -> PathBuf {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut text = format!(
        "server:\n  rundir: \"{}\"\n  listen: {}@{}\n\
         database:\n  storage: \"{}\"\n\
         log:\n  - target: stderr\n    any: info\n\
         policy:\n\
         \x20 - id: nsec\n    algorithm: ecdsap256sha256\n    single-type-signing: on\n\
         \x20   rrsig-lifetime: 90d\n\
         \x20 - id: nsec3\n    algorithm: ecdsap256sha256\n    nsec3: on\n    nsec3-iterations: 5\n\
         \x20   rrsig-lifetime: 90d\n\
         \x20 - id: rsa\n    algorithm: rsasha256\n\
         \x20 - id: ed\n    algorithm: ed25519\n\
         \x20 - id: optout\n    algorithm: ecdsap384sha384\n    nsec3: on\n    nsec3-opt-out: on\n\
         \x20 - id: costly\n    algorithm: ecdsap256sha256\n    nsec3: on\n    nsec3-iterations: 500\n\
         \x20 - id: short\n    algorithm: ecdsap256sha256\n    single-type-signing: on\n\
         \x20   rrsig-lifetime: 6s\n    rrsig-refresh: 3s\n    rrsig-pre-refresh: 0\n\
         \x20   propagation-delay: 0\n    zone-max-ttl: 1\n    dnskey-ttl: 1\n\
         zone:\n",
        path(""),
        address.ip(),
        address.port(),
        path("keys"),
    );
    let all = ZONES.iter().map(|zone| (zone.name, zone.policy));
    for (zone, policy) in all.chain([(".", "nsec"), ("test.", "nsec3")]) {
        let file = file_of(folder, zone);
        writeln!(
            text,
            "  - domain: \"{zone}\"\n    file: \"{}\"\n    journal-content: none\n    \
             zonefile-load: whole\n    semantic-checks: off",
            file.display()
        )
        .unwrap();
        if signing && !policy.is_empty() {
            writeln!(text, "    dnssec-signing: on\n    dnssec-policy: {policy}").unwrap();
        }
    }
    let config = folder.join(if signing { "signing.conf" } else { "serving.conf" });
    fs::write(&config, text).unwrap();
    config
}

fn unbound_config(
    folder: &Path,
    name: &str,
    address: SocketAddr,
    knot: SocketAddr,
    more: &str,
) -> PathBuf {
    let mut text = format!(
        "server:\ninterface: {}@{}\n{more}access-control: 127.0.0.0/8 allow\nusername: \"\"\n\
         chroot: \"\"\ndirectory: \"\"\npidfile: \"\"\nuse-syslog: no\nlogfile: \"\"\ndo-ip6: no\n\
         num-threads: 1\ndo-not-query-localhost: no\nqname-minimisation: no\n\
         local-zone: \"test.\" nodefault\nremote-control:\ncontrol-enable: no\n",
        address.ip(),
        address.port(),
    );
    for zone in ZONES.iter().map(|zone| zone.name).chain([".", "test."]) {
        let (ip, port) = (knot.ip(), knot.port());
        writeln!(text, "stub-zone:\nname: \"{zone}\"\nstub-addr: {ip}@{port}").unwrap();
    }
    let config = folder.join(format!("{name}.conf"));
    fs::write(&config, text).unwrap();
    config
}

/// Starts a server, and waits until it listens.
fn start(program: &str, config: &Path, address: SocketAddr) -> Child {
    let log = config.with_extension("log");
    let mut command = Command::new(find(program).unwrap());
    if program == "unbound" {
        command.args(["-d", "-p"]);
    }
    command.arg("-c").arg(config).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let child = command.spawn().unwrap();
    let listens = eventually(Duration::from_secs(10), || TcpStream::connect(address).ok());
    assert!(listens.is_some(), "{program}: {}", fs::read_to_string(&log).unwrap_or_default());
    child
}
