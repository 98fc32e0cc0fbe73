//! What a TLS scanner says of our ports: the versions, suites, groups and extras that they offer.
//!
//! sslscan's report is read strictly: an element that is not known fails the test, as does one that
//! is missing.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use lab::{DAY, Lab, needing};
use libtest_mimic::{Arguments, Trial};
use rustls::pki_types::ServerName;
use rustls::version::TLS12;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

const NAME: &str = "dns.home.lan";

/// ECDHE and an AEAD, every one (RFC 9325 section 4.2).
const SUITES: [(&str, &str); 6] = [
    ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("TLSv1.3", "TLS_AES_128_GCM_SHA256"),
    ("TLSv1.3", "TLS_AES_256_GCM_SHA384"),
    ("TLSv1.3", "TLS_CHACHA20_POLY1305_SHA256"),
];
const GROUPS: [&str; 3] = ["secp256r1 (NIST P-256)", "secp384r1 (NIST P-384)", "x25519"];
/// By version as sslscan has it.
const VERSIONS: [((&str, &str), &str); 6] = [
    (("ssl", "2"), "0"),
    (("ssl", "3"), "0"),
    (("tls", "1.0"), "0"),
    (("tls", "1.1"), "0"),
    (("tls", "1.2"), "1"),
    (("tls", "1.3"), "1"),
];

fn main() {
    let trials = vec![
        needing("sslscan", "dot_offers_nothing_weak", || offers_nothing_weak(Lab::dot)),
        needing("sslscan", "doh_offers_nothing_weak", || offers_nothing_weak(Lab::doh)),
        Trial::test("whoever_is_pushed_down_to_tls_1_2_can_tell", || {
            pushed_down();
            Ok(())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn offers_nothing_weak(port: fn(&Lab) -> SocketAddr) {
    let lab = Lab::new();
    let _daemon = boot(&lab);
    let elements = scan(port(&lab));

    let all = |name| elements.iter().filter(move |element| element.name == name);
    let known = ["protocol", "renegotiation", "cipher", "group", "connection-signature-algorithm"];
    // `compression` and `fallback` would be there if the server had the one or the other.
    let unknown = elements.iter().find(|element| !known.contains(&element.name.as_str()));
    assert_eq!(unknown, None);

    let versions =
        all("protocol").map(|it| ((it.get("type"), it.get("version")), it.get("enabled")));
    assert_eq!(versions.collect::<BTreeMap<_, _>>(), VERSIONS.into());
    let renegotiation: Vec<_> = all("renegotiation").map(|it| it.get("supported")).collect();
    assert_eq!(renegotiation, ["0"]);

    let suites = all("cipher").map(|it| (it.get("sslversion"), it.get("cipher")));
    assert_eq!(suites.collect::<BTreeSet<_>>(), SUITES.into());
    for cipher in all("cipher") {
        assert!(["strong", "acceptable"].contains(&cipher.get("strength")), "{cipher:?}");
        assert_eq!(cipher.get("curve"), "25519", "not the curve that both prefer");
        assert!(cipher.get("bits").parse::<u32>().unwrap() >= 128, "{cipher:?}");
    }

    let groups: BTreeSet<_> = all("group").map(|it| it.get("name")).collect();
    assert_eq!(groups, GROUPS.into());
    assert!(all("group").all(|group| group.get("bits").parse::<u32>().unwrap() >= 128));
}

/// No `TLS_FALLBACK_SCSV` (RFC 7507) is needed: the random value of a server that could have spoken
/// TLS 1.3 says so, under the protection of the handshake (RFC 8446 section 4.1.3).
fn pushed_down() {
    let lab = Lab::new();
    let _daemon = boot(&lab);
    for port in [lab.dot(), lab.doh()] {
        let random = random_of_tls12(port);
        assert_eq!(&random[24..], b"DOWNGRD\x01", "{port}: {random:02x?}");
    }
}

fn boot(lab: &Lab) -> lab::Daemon {
    lab.authority.issue_files(lab, NAME, (-DAY, 60 * DAY));
    let mut daemon = lab.configure().certificate("dns.home.lan.pem", "dns.home.lan.key").boot();
    daemon.serves(lab).unwrap();
    daemon
}

/// The random value in the `ServerHello` that answers a client of TLS 1.2 (RFC 5246 section 7.4.1.3).
fn random_of_tls12(port: SocketAddr) -> [u8; 32] {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(NAME).unwrap();
    let mut hello = Vec::new();
    ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(port).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(&hello).unwrap();
    // A record's header, a handshake message's, the version, and the value.
    let mut reply = [0; 5 + 4 + 2 + 32];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!((reply[0], reply[5], [reply[9], reply[10]]), (22, 2, [3, 3]), "{reply:02x?}");
    reply[11..].try_into().unwrap()
}

/// An element of sslscan's report.
#[derive(Debug, PartialEq)]
struct Element {
    name: String,
    attributes: BTreeMap<String, String>,
}

impl Element {
    fn get(&self, attribute: &str) -> &str {
        self.attributes.get(attribute).unwrap_or_else(|| panic!("no {attribute} in {self:?}"))
    }
}

/// What sslscan found out about `port`, but for the certificate.
fn scan(port: SocketAddr) -> Vec<Element> {
    let output = Command::new("timeout")
        .args(["60", "sslscan", "--no-colour", "--no-heartbleed", "--show-sigs", "--xml=-"])
        .arg(format!("--sni-name={NAME}"))
        .arg(port.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let report = between(&text, "<ssltest ", "</ssltest>").split_once(">\n").unwrap().1;
    let before = report.split_once("<certificates>").unwrap().0;
    let lines = before.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| element(line).unwrap_or_else(|| panic!("`{line}` in {text}"))).collect()
}

fn between<'t>(text: &'t str, begin: &str, end: &str) -> &'t str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("no {begin} in {text}"));
    rest.split_once(end).unwrap_or_else(|| panic!("no {end} in {text}")).0
}

/// `<name attribute="value" ../>`.
fn element(line: &str) -> Option<Element> {
    let (name, mut rest) = line.strip_prefix('<')?.strip_suffix(" />")?.split_once(' ')?;
    let mut attributes = BTreeMap::new();
    loop {
        let (attribute, value) = rest.split_once("=\"")?;
        let (value, more) = value.split_once('"')?;
        attributes.insert(attribute.to_owned(), value.to_owned());
        if more.is_empty() {
            return Some(Element { name: name.to_owned(), attributes });
        }
        rest = more.strip_prefix(' ')?;
    }
}
