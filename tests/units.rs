//! The systemd units of `packaging/systemd`: without a mistake, hardened, and the NixOS module's the same.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lab::{Lab, needing};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;

const SERVICES: &[&str] = &["firstlight.service", "firstlight-wait-clock.service"];
const SOCKETS: &[&str] = &["firstlight-dns.socket", "firstlight-encrypted.socket"];
/// Where the drop-in lies that may be replaced.
const CLOCK: &str = "firstlight.service.d/clock.conf";
const OBSERVE: &str = "firstlight-observe.conf";
const SERIAL: &str = "firstlight-serial.conf";

fn main() {
    let trials = vec![
        needing("systemd-analyze", "systemd_finds_no_mistake_in_any_unit", verified),
        needing("systemd-analyze", "every_service_is_exposed_by_less_than_3", hardened),
        needing("nix-instantiate", "the_nixos_services_are_those_of_the_units", same_on_nixos),
        Trial::test("every_start_is_before_time_and_without_a_network", || {
            ordered();
            Ok(())
        }),
        Trial::test("who_observes_may_not_touch_the_clock", || {
            observing();
            Ok(())
        }),
        Trial::test("sockets_are_held_where_the_daemon_listens_by_itself", || {
            held();
            Ok(())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn verified() {
    let lab = Lab::new();
    for drop_in in [CLOCK, OBSERVE, SERIAL] {
        let folder = installed(&lab, drop_in);
        let files = SERVICES.iter().chain(SOCKETS).map(|name| folder.join(name));
        let verify = |more: Vec<PathBuf>| {
            let output = analyze(&["verify"], &files.clone().chain(more).collect::<Vec<_>>());
            // Of the machine's own units it speaks, too.
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            said.lines().filter(|line| line.contains("firstlight")).collect::<Vec<_>>().join("\n")
        };

        assert_eq!(verify(vec![]), "", "{drop_in}");

        let mistaken = folder.join("firstlight-mistaken.service");
        let unit = fs::read_to_string(folder.join(SERVICES[0])).unwrap();
        fs::write(&mistaken, unit.replace("Restart=", "Restrat=")).unwrap();
        assert!(verify(vec![mistaken]).contains("Restrat"));
    }
}

fn hardened() {
    let lab = Lab::new();
    for (service, drop_in) in
        [(SERVICES[0], CLOCK), (SERVICES[0], OBSERVE), (SERVICES[0], SERIAL), (SERVICES[1], CLOCK)]
    {
        let file = installed(&lab, drop_in).join(service);
        let exposed = |threshold| {
            let output =
                analyze(&["security", "--offline=true", threshold], std::slice::from_ref(&file));
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };

        let (passes, table) = exposed("--threshold=30");
        assert!(passes, "{service} with {drop_in}:\n{table}");
        assert!(!exposed("--threshold=5").0, "nothing is measured:\n{table}");
    }
}

fn same_on_nixos() {
    for (steers, drop_in) in [(true, CLOCK), (false, OBSERVE)] {
        let expression = format!(
            "import {}/nixos/services.nix {{ exe = \"/usr/bin/firstlight\"; steers = {steers}; }}",
            env!("CARGO_MANIFEST_DIR")
        );
        let output = Command::new("nix-instantiate")
            .args(["--store", "dummy://", "--eval", "--strict", "--json", "-E", &expression])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let nixos: BTreeMap<String, BTreeMap<String, Value>> =
            serde_json::from_slice(&output.stdout).unwrap();
        let service = |name: &str| -> BTreeMap<_, _> {
            let keys = nixos[name].iter().map(|(key, value)| (key.clone(), words(value)));
            // Where its configuration is, the program knows here by itself.
            let file = ["--config", "/etc/firstlight/firstlight.toml"];
            keys.map(|(key, mut words)| {
                if key.starts_with("Exec") {
                    assert_eq!(words.split_off(words.len() - 2), file);
                }
                (key, words)
            })
            .collect()
        };

        let mut daemon = section(&[&read(SERVICES[0]), &read(drop_in)], "Service");
        if !steers {
            // What is taken away here is not given there.
            let calls = daemon.get_mut("SystemCallFilter").unwrap();
            assert_eq!(calls.pop().unwrap(), "~@clock");
            calls.retain(|call| call != "@clock");
        }
        assert_eq!(service("daemon"), daemon, "nixos/services.nix, and the unit with {drop_in}");
        assert_eq!(service("wait"), section(&[&read(SERVICES[1])], "Service"));
    }
}

fn ordered() {
    let daemon = section(&[&read(SERVICES[0]), &read(CLOCK)], "Unit");
    for key in ["After", "Wants", "Requires", "BindsTo"] {
        for late in ["network-online.target", "time-sync.target", "nss-lookup.target"] {
            let names = daemon.get(key).into_iter().flatten();
            let is_wanted = key == "Wants" && late == "nss-lookup.target";
            assert!(is_wanted || !names.into_iter().any(|name| name == late), "{key}={late}");
        }
    }
    assert!(daemon["Before"].contains(&"nss-lookup.target".to_owned()));
    assert!(daemon["Conflicts"].contains(&"systemd-timesyncd.service".to_owned()));

    // The target waits for the time, and not for ever.
    let wait = read(SERVICES[1]);
    assert_eq!(section(&[&wait], "Unit")["Before"], ["time-sync.target"]);
    let service = section(&[&wait], "Service");
    let [.., limit] = service["ExecStart"].as_slice() else { panic!("{service:?}") };
    let (limit, allowed): (u32, u32) =
        (limit.parse().unwrap(), service["TimeoutStartSec"][0].parse().unwrap());
    assert!(limit < allowed);

    let preferred = read("ntp-units.d/50-firstlight.list");
    assert!(preferred.lines().any(|line| line == SERVICES[0]));
}

fn observing() {
    let service = section(&[&read(SERVICES[0]), &read(OBSERVE)], "Service");

    for set in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        assert_eq!(service[set], ["CAP_NET_BIND_SERVICE"]);
    }
    assert_eq!(service["ProtectClock"], ["yes"]);
    assert_eq!(service["SystemCallFilter"].last().unwrap(), "~@clock");
    assert!(!read(OBSERVE).contains("Conflicts="), "it stands in place of the file that has them");
}

/// What the units hold is where the shipped configuration listens.
fn held() {
    let shipped = include_str!("../config/firstlight.toml");
    let listen = |service: &str| -> Vec<String> {
        let table = shipped.split(&format!("\n[{service}]\n")).nth(1).unwrap();
        let line = table.lines().find_map(|line| line.strip_prefix("#listen = ")).unwrap();
        serde_json::from_str(line).unwrap()
    };
    let [dns, encrypted] = [0, 1].map(|unit| section(&[&read(SOCKETS[unit])], "Socket"));

    assert_eq!(dns["ListenDatagram"], listen("dns"));
    assert_eq!(dns["ListenStream"], listen("dns"));
    assert_eq!(encrypted["ListenDatagram"], listen("doq"));
    assert_eq!(encrypted["ListenStream"], [listen("dot"), listen("doh")].concat());
    for unit in [dns, encrypted] {
        assert_eq!(unit["Service"], [SERVICES[0]]);
        // Else [::] takes what is 0.0.0.0's.
        assert_eq!(unit["BindIPv6Only"], ["ipv6-only"]);
    }
}

/// The units in a folder of their own, as packages install them, with one drop-in; the program is the one
/// under test, and manual pages are not looked for.
fn installed(lab: &Lab, drop_in: &str) -> PathBuf {
    let folder = lab.path(&format!("units-{}", drop_in.replace('/', "-")));
    fs::create_dir_all(folder.join("firstlight.service.d")).unwrap();
    for name in SERVICES.iter().chain(SOCKETS) {
        let unit = read(name).replace("/usr/bin/firstlight", env!("CARGO_BIN_EXE_firstlight"));
        let lines = unit.lines().filter(|line| !line.starts_with("Documentation="));
        fs::write(folder.join(name), lines.collect::<Vec<_>>().join("\n")).unwrap();
    }
    fs::write(folder.join(CLOCK), read(drop_in)).unwrap();
    folder
}

fn analyze(arguments: &[&str], files: &[PathBuf]) -> Output {
    Command::new("systemd-analyze").args(arguments).args(files).output().unwrap()
}

fn read(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The words of each key in a section of a unit and its drop-ins: a key adds to what it has, unless it
/// is one of a single value; an empty one takes all back.
fn section(texts: &[&str], wanted: &str) -> BTreeMap<String, Vec<String>> {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in texts {
        let mut inside = false;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if line.starts_with('[') {
                inside = line == format!("[{wanted}]");
            } else if let Some((key, value)) = line.split_once('=').filter(|_| inside) {
                let words = keys.entry(key.to_owned()).or_default();
                if value.is_empty() {
                    words.clear();
                }
                words.extend(value.split_whitespace().map(str::to_owned));
            }
        }
    }
    keys
}

/// The same of a value in Nix.
fn words(value: &Value) -> Vec<String> {
    match value {
        Value::Bool(true) => vec!["yes".to_owned()],
        Value::Bool(false) => vec!["no".to_owned()],
        Value::String(text) => text.split_whitespace().map(str::to_owned).collect(),
        Value::Array(values) => values.iter().flat_map(words).collect(),
        Value::Number(_) | Value::Null | Value::Object(_) => vec![value.to_string()],
    }
}
