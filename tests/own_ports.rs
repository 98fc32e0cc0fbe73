//! Somebody else answers at a port of ours, or nobody does: the daemon finds out by itself.
//!
//! In a network of its own, where connections can be led astray or turned away.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::process::Command;
use std::thread;
use std::time::Duration;

use firstlight::admin::Request;
use firstlight::admin::report::{Condition, Status};
use lab::clients::ask_tls;
use lab::namespace::{run_inside, shell};
use lab::{DAY, HttpsServer, LOCAL, Lab, eventually};
use x509_parser::parse_x509_certificate;

const NAME: &str = "dns.home.lan";
/// Within which a probe comes after a change: three seconds, two looks at the files, a tick, and what
/// a busy machine adds.
const PROBED: Duration = Duration::from_secs(20);

fn main() {
    run_inside(
        &["unshare", "ip", "nft"],
        &[("a_port_that_others_answer_or_nobody_is_told_and_cleared", others_answer)],
    );
}

fn others_answer() {
    let lab = Lab::new();
    let (dot, doh) = (lab.dot(), lab.doh());
    let other = HttpsServer::start(&lab, 20);
    shell("nft add table inet lab");
    shell("nft add chain inet lab asked { type filter hook output priority 0; }");
    shell("nft add chain inet lab astray { type nat hook output priority -100; }");
    shell("nft add chain inet lab arriving { type filter hook input priority 0; }");
    for port in [dot.port(), doh.port()] {
        shell(&format!("nft add rule inet lab asked tcp dport {port} tcp flags syn counter"));
    }
    lab.authority.issue_files(&lab, NAME, (-DAY, 60 * DAY));
    let setup = lab.configure().certificate("dns.home.lan.pem", "dns.home.lan.key");
    let mut daemon = setup.boot();
    daemon.serves(&lab).unwrap();

    // Both ports are asked after the start, and show what they should.
    probed_since(&[0, 0]);
    assert_eq!(held(&daemon.status()), None);

    let ours = serial(&ask_tls(dot, LOCAL.0).unwrap().1[0]);
    let rule = format!("ip daddr {} tcp dport {}", dot.ip(), dot.port());
    shell(&format!("nft add rule inet lab astray {rule} dnat ip to {}", other.address));
    daemon.call(&Request::Reload).unwrap();
    let status = daemon.wait_for("it is told", 30, |status| held(status).is_some());
    let told = held(&status).unwrap();
    assert_eq!(told.severity, "error");
    assert!(told.text.contains(&format!("DoT at {dot} shows the one with serial ")), "{told:?}");
    assert!(told.text.contains(&format!(", not the one with serial {ours};")), "{told:?}");
    assert!(told.text.contains(&format!("in order: DoH at {doh};")), "{told:?}");

    // Turned away, which is found without a reload while something is wrong.
    shell("nft flush chain inet lab astray");
    shell(&format!("nft add rule inet lab arriving {rule} reject with tcp reset"));
    let away = format!("DoT at {dot} fails at the TLS handshake: Connection refused");
    daemon.wait_for("it is told anew", 30, |status| {
        held(status).is_some_and(|told| told.text.contains(&away))
    });

    shell("nft flush chain inet lab arriving");
    daemon.wait_for("it is cleared", 20, |status| held(status).is_none());
    lab.authority.issue_files(&lab, NAME, (-DAY, 61 * DAY));
    probed_since(&connections());
    assert_eq!(held(&daemon.status()), None);
}

/// The condition.
fn held(status: &Status) -> Option<&Condition> {
    status.conditions.iter().find(|held| held.name == "certificate-served")
}

/// Waits until each port has been probed again, and the daemon has judged what it saw.
fn probed_since(before: &[u64]) {
    let more = || connections().iter().zip(before).all(|(count, before)| count > before);
    assert!(eventually(PROBED, || more().then_some(())).is_some(), "{:?}", connections());
    thread::sleep(Duration::from_secs(1));
}

/// How often somebody began a connection to each port.
fn connections() -> Vec<u64> {
    let output = Command::new("nft").args(["list", "chain", "inet", "lab", "asked"]).output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    let counts = output.split("packets ").skip(1);
    counts.map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect()
}

fn serial(der: &[u8]) -> String {
    let (_, leaf) = parse_x509_certificate(der).unwrap();
    data_encoding::HEXLOWER.encode(leaf.raw_serial())
}
