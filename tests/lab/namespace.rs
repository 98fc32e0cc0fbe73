//! Tests in a network of their own (a network namespace), where packets may be lost on purpose.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use libtest_mimic::{Arguments, Trial};

use super::{Lab, find};

/// Set for the process that runs inside, to the name of the test.
const INSIDE: &str = "FIRSTLIGHT_TEST_INSIDE_NAMESPACE";

/// Runs each test inside a namespace, if `programs` and the kernel allow for that. One at a time.
pub(crate) fn run_inside(programs: &[&str], tests: &[(&'static str, fn())]) {
    if let Ok(inside) = env::var(INSIDE) {
        let (_, test) = tests.iter().find(|(name, _)| *name == inside).unwrap();
        shell("ip link set lo up");
        return test();
    }
    let missing = programs.iter().find(|program| find(program).is_none());
    let reason = match missing {
        Some(program) => format!("{program} is not installed"),
        None if !namespaces_work() => "no network namespaces with nftables".to_owned(),
        None => String::new(),
    };
    let trials = tests.iter().map(|&(name, _)| {
        let trial = Trial::test(name, move || {
            // Labs know each other by their sockets, which are not seen from another network.
            let folder = env::temp_dir().join(format!("firstlight-inside-{}", std::process::id()));
            fs::create_dir_all(&folder)?;
            let mut command = Command::new("unshare");
            command.arg("-Urn").arg(env::current_exe()?).env(INSIDE, name).env("TMPDIR", &folder);
            if !command.status()?.success() {
                return Err(format!("see above, and {}", folder.display()).into());
            }
            Ok(fs::remove_dir_all(folder)?)
        });
        trial.with_kind(reason.clone()).with_ignored_flag(!reason.is_empty())
    });
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

/// Loses what goes to and comes from the world, which are the lab's machines from number 10 on.
pub(crate) struct Line {
    /// Of packets that arrive.
    chain: &'static str,
    world: String,
}

impl Line {
    /// Nothing is lost yet. Packets to port 53 are counted from here on.
    pub(crate) fn new(lab: &Lab) -> Self {
        nft("add table inet lab");
        // Dropped on arrival: a sender would be told of it on departure.
        nft("add chain inet lab arriving { type filter hook input priority 0; }");
        nft("add chain inet lab leaving { type filter hook output priority 0; }");
        nft("add rule inet lab leaving udp dport 53 counter");
        nft("add rule inet lab leaving tcp dport 53 counter");
        Self {
            chain: "inet lab arriving",
            world: format!("{}-{}", lab.address(10), lab.address(99)),
        }
    }

    /// Everything is lost from here on.
    pub(crate) fn silence(&self) {
        for side in ["saddr", "daddr"] {
            nft(&format!("add rule {} ip {side} {} drop", self.chain, self.world));
        }
    }

    /// What belongs to the TCP connections that there are to these is lost; others
    /// come through. How many there are.
    pub(crate) fn silence_connections(&self, hosts: &[SocketAddr]) -> usize {
        let (mut rules, mut connections) = (String::new(), 0);
        for host in hosts {
            let filter = format!("dst {host}");
            let output =
                Command::new("ss").args(["-tnH", "state", "established", &filter]).output();
            let output = String::from_utf8(output.unwrap().stdout).unwrap();
            for line in output.lines() {
                let port = line.split_whitespace().nth(2).unwrap().rsplit(':').next().unwrap();
                let (chain, ip) = (self.chain, host.ip());
                write!(rules, "add rule {chain} ip daddr {ip} tcp sport {port} drop; ").unwrap();
                write!(rules, "add rule {chain} ip saddr {ip} tcp dport {port} drop; ").unwrap();
                connections += 1;
            }
        }
        // In one step.
        nft(&rules);
        connections
    }

    /// Nothing is lost any more.
    pub(crate) fn restore(&self) {
        nft(&format!("flush chain {}", self.chain));
    }
}

/// How many packets went to port 53, wherever.
pub(crate) fn plaintext() -> u64 {
    let output = Command::new("nft").args(["list", "chain", "inet", "lab", "leaving"]).output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    let counts = output
        .split("packets ")
        .skip(1)
        .map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap());
    let counts: Vec<_> = counts.collect();
    assert_eq!(counts.len(), 2, "{output}");
    counts.iter().sum()
}

/// A default route that leads nowhere but out; of several that with the least `metric` is used.
pub(crate) fn uplink(number: u8, metric: u16) {
    shell(&format!("ip link add up{number} type veth peer name router{number}"));
    shell(&format!("ip address add 192.168.{number}.2/24 dev up{number}"));
    shell(&format!("ip link set router{number} up"));
    shell(&format!("ip link set up{number} up"));
    shell(&format!("ip route add default via 192.168.{number}.1 metric {metric}"));
}

/// Runs a command of words without spaces.
pub(crate) fn shell(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}");
}

fn nft(command: &str) {
    assert!(Command::new("nft").arg(command).status().unwrap().success(), "nft {command}");
}

fn namespaces_work() -> bool {
    let tried = Command::new("unshare")
        .args(["-Urn", "sh", "-c", "ip link set lo up && nft add table inet lab"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}
