//! What `firstlight setup` writes is served, on the usual ports.
//!
//! In a network of its own, where these are free and the world is out of reach.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::fs;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::clients::{ask_tcp, ask_udp};
use lab::namespace::{run_inside, shell};
use lab::{Daemon, Lab, eventually};

/// This machine in its network.
const OURS: &str = "192.168.7.2";

fn main() {
    run_inside(
        &["unshare", "ip", "nft"],
        &[
            ("the_daemon_serves_what_setup_wrote", serves),
            ("who_has_a_port_is_named_unless_it_is_our_own_daemon", owners),
        ],
    );
}

fn serves() {
    let lab = Lab::new();
    let said = set_up(&lab);
    assert!(said.contains("The clock is left alone: this container lacks CAP_SYS_TIME"), "{said}");

    let daemon = Daemon::start(&lab, &[]);

    let name = "pi.home.lan";
    for place in [OURS, "127.0.0.1"].map(|ip| format!("{ip}:53").parse().unwrap()) {
        for ask in [ask_udp, ask_tcp] {
            let answer = eventually(Duration::from_secs(20), || ask(place, name));
            let addresses = answer.unwrap_or_else(|| panic!("{place}\n{}", daemon.log())).addresses;
            assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), [OURS]);
        }
    }
    let status = daemon.wait_for("status", 20, |_| true);
    let held: Vec<_> = status.conditions.iter().map(|held| held.name.as_str()).collect();
    assert!(!held.contains(&"listeners-refused"), "{held:?}");
    // Found again by the next run, it is nobody to be asked about.
    let (_, found) = look();
    assert!(!found.contains("Ports: ") && found.contains("firstlight reload"), "{found}");
}

fn owners() {
    let _dns = UdpSocket::bind("0.0.0.0:53").unwrap();
    let _time = UdpSocket::bind("127.0.0.7:123").unwrap();

    let (code, found) = look();

    assert_eq!(code, Some(0), "{found}");
    let ours = format!("(process {}) at 0.0.0.0, 127.0.0.7\n", std::process::id());
    assert!(found.contains("Ports: UDP 53, UDP 123 of ") && found.contains(&ours), "{found}");
    assert!(found.contains("UDP 53 stays with "), "{found}");
}

/// Lets the lab's configuration be what setup writes for a container, but for the places of its files.
fn set_up(lab: &Lab) -> String {
    shell("ip link add eth0 type veth peer name far0");
    shell(&format!("ip address add {OURS}/24 dev eth0"));
    shell("ip link set far0 up");
    shell("ip link set eth0 up");
    for (file, text) in [
        ("etc/hostname", "pi\n"),
        ("etc/resolv.conf", "search home.lan\n"),
        ("proc/self/status", "CapBnd:\t00000000a80425fb\n"),
    ] {
        let path = lab.path("root").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let (root, file) = (lab.path("root"), lab.path("firstlight.toml"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstlight"));
    command.args(["setup", "--yes"]).arg("--root").arg(root).arg("--config").arg(&file);
    command.arg("--address").arg(format!("eth0={OURS}"));
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let places = "[state]\ndirectory = \"state\"\n[control]\nsocket = \"run/control.sock\"\n";
    let text = fs::read_to_string(&file).unwrap();
    fs::write(file, format!("{places}{text}")).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What is found on this very machine. Nothing is written.
fn look() -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstlight"));
    let output =
        command.args(["setup", "--yes", "--dry-run"]).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}
