//! Other people's NTP clients believe the running daemon once its clock is disciplined, and refuse
//! it before. (`ntp_clients.rs` does the same with the server alone.)
//!
//! None of them sets a clock here.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::net::UdpSocket;
use std::process::{Command, Output, Stdio};

use firstlight::host::kernel::{KernelClock, OsClock};
use lab::{Daemon, Lab, Wan, chrony, find, needing, truth};
use libtest_mimic::{Arguments, Trial};

fn main() {
    let mut ntpdig = needing("ntpdig", "ntpdig_refuses_the_daemon_and_then_believes_it", ntpdig);
    if find("ntpdig").is_some() && UdpSocket::bind((Lab::new().address(1), 123)).is_err() {
        // It asks no other port.
        ntpdig = Trial::test("ntpdig_refuses_the_daemon_and_then_believes_it", || Ok(()))
            .with_kind("port 123 is not to be had")
            .with_ignored_flag(true);
    }
    let chronyd = needing("chronyd", "chronyd_refuses_the_daemon_and_then_believes_it", chronyd);
    libtest_mimic::run(&Arguments::from_args(), vec![chronyd, ntpdig]).exit();
}

fn chronyd() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    let daemon = cold(&lab, &wan, &setup);

    let refused = chrony::ask(&lab, 3);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(!text(&refused).contains("clock wrong by"), "{}", text(&refused));

    disciplined(&daemon, &wan);
    let believed = chrony::ask(&lab, 8);
    assert!(believed.status.success(), "{}", text(&believed));
    // `System clock wrong by 786000.000012 seconds (ignored)`
    let said = text(&believed);
    let offset = said.split("clock wrong by ").nth(1).and_then(|rest| rest.split(' ').next());
    assert_near(offset.unwrap().parse().unwrap());
}

/// `ntpdig` without `-S` and `-s` prints the offset and sets nothing.
fn ntpdig() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    let place = lab.ntp().to_string();
    let setup = setup.replacing(&place, &format!("{}:123", lab.address(1)));
    let daemon = cold(&lab, &wan, &setup);
    let ask = || {
        let mut command = Command::new(find("ntpdig").unwrap());
        command.args(["-4", "-j", "-t", "1", &lab.address(1).to_string()]);
        command.stdin(Stdio::null()).output().unwrap()
    };

    let refused = ask();
    assert!(!text(&refused).contains("\"no-leap\""), "{}", text(&refused));

    disciplined(&daemon, &wan);
    let believed = text(&ask());
    assert!(believed.contains("\"stratum\":2"), "{believed}");
    assert!(believed.contains("\"leap\":\"no-leap\""), "{believed}");
    let offset = believed.split("\"offset\":").nth(1).and_then(|rest| rest.split(',').next());
    assert_near(offset.unwrap().parse().unwrap());
}

fn cold(lab: &Lab, wan: &Wan, setup: &lab::Setup<'_>) -> Daemon {
    wan.down();
    let mut daemon = setup.boot();
    daemon.serves(lab).unwrap();
    assert!(!daemon.status().time.ntp.synchronized);
    daemon
}

fn disciplined(daemon: &Daemon, wan: &Wan) {
    wan.up();
    daemon.wait_for("the clock is disciplined", 15, |status| status.time.ntp.synchronized);
}

/// Whether a client found this machine's clock as far from the lab's time as it is.
fn assert_near(offset: f64) {
    let expected = truth().since(KernelClock.utc()) / 1_000_000;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of some weeks")]
    let off = offset.abs() - (expected as f64 / 1e3).abs();
    assert!(off.abs() < 0.5, "{offset} s, not {expected} ms");
}

fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    format!("{}: {out}{}", output.status, String::from_utf8_lossy(&output.stderr))
}
