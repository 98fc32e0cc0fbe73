//! What the daemon asks of the system it runs on while it orders: nothing about names.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::lab::eventually;
use crate::rig::{Rig, acme, ca};

/// What the C library looks at to resolve a name.
const RESOLVER: [&str; 6] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/run/nscd",
];

pub(crate) fn orders() {
    let rig = Rig::start(20);
    let trace = rig.lab.path("trace");
    let strace = tracer(&trace);
    let strace: Vec<_> = strace.iter().map(String::as_str).collect();
    let orders = acme("") + &ca("pebble", "") + &rig.update();
    let daemon = rig.outside.boot_under(&rig.lab, &strace, &orders);
    let client = rig.watch(&daemon);
    let renewed =
        eventually(Duration::from_secs(60), || (client.serials().len() >= 2).then_some(()));
    assert!(renewed.is_some(), "{}", daemon.log());
    client.stop();

    let trace = fs::read_to_string(trace).unwrap();
    assert!(trace.contains("firstlight.toml") && trace.contains("tsig.key"));
    assert_eq!(resolving(&trace), Vec::<&str>::new());
    let places: BTreeSet<_> = trace.lines().filter_map(destination).collect();
    let at = |host, port| SocketAddrV4::new(rig.lab.address(host), port);
    // The CA, which the system does not know, the server of the zone, and both upstreams.
    for place in [at(40, 14000), at(41, 5391), at(30, 8853), at(31, 8853)] {
        assert!(places.contains(&place), "{place} is not in {places:?}");
    }
    let plain: Vec<_> = places.iter().filter(|place| place.port() == 53).collect();
    assert_eq!(plain, Vec::<&SocketAddrV4>::new());

    // Whoever asks the system would be seen.
    let control = rig.lab.path("control");
    let [program, options @ ..] = &tracer(&control);
    let getent =
        Command::new(program).args(options).args(["getent", "hosts", "localhost"]).output();
    assert!(getent.unwrap().status.success());
    let control = fs::read_to_string(control).unwrap();
    assert!(resolving(&control).len() >= 2, "{control}");
}

/// Traces calls with names of files and those of sockets into `file`.
fn tracer(file: &Path) -> [String; 7] {
    let file = file.to_str().unwrap();
    ["strace", "-f", "-qqq", "-e", "trace=%file,%network", "-o", file].map(str::to_owned)
}

/// The calls by which the C library resolves names.
fn resolving(trace: &str) -> Vec<&str> {
    let found = trace.lines().filter(|line| RESOLVER.iter().any(|file| line.contains(file)));
    found.collect()
}

/// Where a call that connects or sends goes, if it names a place.
fn destination(line: &str) -> Option<SocketAddrV4> {
    let calls = ["connect(", "sendto(", "sendmsg(", "sendmmsg("];
    if !calls.iter().any(|call| line.contains(call)) {
        return None;
    }
    let (_, port) = line.split_once("htons(")?;
    let (_, ip) = line.split_once("inet_addr(\"")?;
    let ip: Ipv4Addr = ip.split('"').next()?.parse().ok()?;
    Some(SocketAddrV4::new(ip, port.split(')').next()?.parse().ok()?))
}
