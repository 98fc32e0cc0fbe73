//! A root, `test.` and zones below it, each level served by a knotd of its own at port 53 of
//! addresses that lie on the loopback interface of a network namespace. Nothing else is there.

use std::fmt::Write as _;
use std::fs;
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record};

use super::namespace::shell;
use super::{Lab, eventually, find};

/// Two of the root, of which the hints name the first.
pub(crate) const ROOT: [&str; 2] = ["198.41.0.4", "192.5.5.241"];
const TLD: &str = "192.31.80.30";
/// Serves the leaves, and can be asked over TLS.
pub(crate) const LEAF: &str = "185.43.135.1";
/// Takes datagrams and says nothing.
const SILENT: &str = "185.43.135.9";
/// Denies names in the name of a zone that is not its own.
const LIAR: &str = "185.43.135.66";
/// Where no server of the Internet can be.
pub(crate) const PRIVATE: &str = "10.9.9.9";

const HEAD: &str = "$TTL 300\n@ SOA ns.test. host.test. 1 3600 600 864000 60\n";

/// The servers; killed by their ids at the end.
pub(crate) struct Tree {
    /// A file of hints.
    pub(crate) hints: PathBuf,
    /// DS records of the root.
    pub(crate) anchors: PathBuf,
    servers: Vec<(&'static str, Child)>,
}

impl Tree {
    pub(crate) fn new(lab: &Lab) -> Self {
        for address in ROOT.iter().chain(&[TLD, LEAF, SILENT, LIAR, PRIVATE]) {
            shell(&format!("ip address add {address}/32 dev lo"));
        }
        let folder = lab.path("tree");
        fs::create_dir_all(&folder).unwrap();
        let keys = knot_config(&folder, "keys", &[LEAF], &[".", "test.", "leaf.test."]);
        let ds = |zone| {
            let policy = ["algorithm=13", "ksk=yes", "zsk=yes"];
            keymgr(&keys, &[&[zone, "generate"], &policy[..]].concat());
            keymgr(&keys, &[zone, "ds"])
        };
        let (root, test, leaf) = (ds("."), ds("test."), ds("leaf.test."));
        let anchors = folder.join("anchors");
        fs::write(&anchors, &root).unwrap();
        let hints = folder.join("hints");
        fs::write(&hints, format!(". 300 NS a.root.\na.root. 300 A {}\n", ROOT[0])).unwrap();

        write(
            &folder,
            ".",
            &format!(
                "@ NS a.root.\n@ NS b.root.\na.root. A {}\nb.root. A {}\ntest. NS ns.test.\nns.test. A {TLD}\n{test}",
                ROOT[0], ROOT[1]
            ),
        );
        write(
            &folder,
            "test.",
            &format!(
                "@ NS ns\nns A {TLD}\n\
             leaf NS ns.leaf\nns.leaf A {LEAF}\n{leaf}\
             forged NS ns.leaf\nforged DS 4711 13 2 {}\n\
             away NS ns.leaf.test.\n\
             slow NS silent.slow\nslow NS ns.slow\nsilent.slow A {SILENT}\nns.slow A {LEAF}\n\
             liar NS ns.liar\nns.liar A {LIAR}\n\
             inside NS ns.inside\nns.inside A {PRIVATE}\n",
                "00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF"
            ),
        );
        let long = (0..10).fold(String::new(), |mut text, _| {
            write!(text, " \"{}\"", "x".repeat(200)).unwrap();
            text
        });
        write(
            &folder,
            "leaf.test.",
            &format!(
                "@ NS ns\nns A {LEAF}\nwww A 192.0.2.1\n*.wild A 192.0.2.2\nalias CNAME www\n\
             out CNAME www.away.test.\nstar CNAME one.wild\nnowhere CNAME gone.away.test.\n\
             short 1 A 192.0.2.5\nlong TXT{long}\n"
            ),
        );
        for zone in ["away.test.", "slow.test.", "forged.test."] {
            let records = "@ NS ns.leaf.test.\nwww A 192.0.2.3\n@ A 192.0.2.4\n";
            write(&folder, zone, records);
        }
        let servers = [
            ("root", &ROOT[..], &["."][..]),
            ("tld", &[TLD], &["test."]),
            ("leaf", &[LEAF], &["leaf.test.", "away.test.", "slow.test.", "forged.test."]),
        ];
        let servers = servers.map(|(name, addresses, zones)| {
            (name, start(&knot_config(&folder, name, addresses, zones), addresses[0]))
        });
        thread::spawn(|| serve_lies(&UdpSocket::bind((LIAR, 53)).unwrap()));
        let silent = UdpSocket::bind((SILENT, 53)).unwrap();
        // Kept open to the end of the process: a closed one would say that nobody is there.
        std::mem::forget(silent);
        Self { hints, anchors, servers: servers.into() }
    }

    /// Takes another server along.
    pub(crate) fn adopt(&mut self, name: &'static str, server: Child) {
        self.servers.push((name, server));
    }

    /// Ends one of the servers.
    pub(crate) fn stop(&mut self, name: &str) {
        for (_, server) in self.servers.iter_mut().filter(|(known, _)| *known == name) {
            drop(server.kill());
            drop(server.wait());
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for (_, server) in &mut self.servers {
            drop(server.kill());
            drop(server.wait());
        }
    }
}

/// Says of every name that it does not exist, and that another zone says so.
fn serve_lies(socket: &UdpSocket) {
    let mut datagram = [0; 2048];
    while let Ok((length, client)) = socket.recv_from(&mut datagram) {
        let Ok(query) = Message::from_vec(&datagram[..length]) else { continue };
        let name = |text| Name::from_ascii(text).unwrap();
        let soa = SOA::new(name("ns.other."), name("host.other."), 1, 60, 60, 60, 60);
        let mut answer = query.clone();
        answer.metadata.message_type = hickory_proto::op::MessageType::Response;
        answer.metadata.authoritative = true;
        answer.metadata.response_code = ResponseCode::NXDomain;
        answer.add_authority(Record::from_rdata(name("other."), 60, RData::SOA(soa)));
        drop(socket.send_to(&answer.to_vec().unwrap(), client));
    }
}

fn file_of(folder: &Path, zone: &str) -> PathBuf {
    folder.join(format!("{}zone", if zone == "." { "root." } else { zone }))
}

fn write(folder: &Path, zone: &str, records: &str) {
    fs::write(file_of(folder, zone), format!("$ORIGIN {zone}\n{HEAD}{records}")).unwrap();
}

fn keymgr(config: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(find("keymgr").unwrap());
    let output = command.arg("-c").arg(config).args(arguments).output().unwrap();
    assert!(output.status.success(), "keymgr {arguments:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    // It gives one for each digest; SHA-256 is enough.
    text.lines()
        .filter(|line| line.contains(" 13 2 "))
        .fold(String::new(), |all, line| all + line + "\n")
}

/// The zones are signed if there are keys for them.
fn knot_config(folder: &Path, name: &str, addresses: &[&str], zones: &[&str]) -> PathBuf {
    let own = folder.join(name);
    fs::create_dir_all(&own).unwrap();
    let keys = folder.join("keys").join("keys");
    if keys.exists() && !own.join("keys").exists() {
        shell(&format!("cp -r {} {}", keys.display(), own.display()));
    }
    let listen: Vec<_> = addresses.iter().map(|address| format!("{address}@53")).collect();
    let listen = listen.join(", ");
    let own = own.display();
    let mut text = format!(
        "server:\n  rundir: \"{own}\"\n  listen: [ {listen} ]\ndatabase:\n  storage: \"{own}\"\n\
         log:\n  - target: stderr\n    any: info\n\
         policy:\n  - id: manual\n    manual: on\n    algorithm: ecdsap256sha256\nzone:\n"
    );
    for zone in zones {
        let file = file_of(folder, zone);
        writeln!(
            text,
            "  - domain: \"{zone}\"\n    file: \"{}\"\n    journal-content: none\n    \
             zonefile-load: whole\n    zonefile-sync: -1\n    semantic-checks: off",
            file.display()
        )
        .unwrap();
        if [".", "test.", "leaf.test."].contains(zone) {
            writeln!(text, "    dnssec-signing: on\n    dnssec-policy: manual").unwrap();
        }
    }
    let config = folder.join(format!("{name}.conf"));
    fs::write(&config, text).unwrap();
    config
}

/// Starts knotd, and waits until it serves.
fn start(config: &Path, address: &str) -> Child {
    let log = config.with_extension("log");
    let mut command = Command::new(find("knotd").unwrap());
    command.arg("-c").arg(config).stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    let serves = eventually(Duration::from_secs(10), || {
        let loaded = fs::read_to_string(&log).ok()?.contains("server started");
        (loaded && TcpStream::connect((address, 53)).is_ok()).then_some(())
    });
    assert!(serves.is_some(), "{}", fs::read_to_string(&log).unwrap_or_default());
    child
}
