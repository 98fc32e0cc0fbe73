//! What the daemon asks of the system it runs on while it orders: nothing about names.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
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
    let orders = acme("") + &ca("pebble", "") + &rig.update();
    let strace =
        ["strace", "-f", "-qqq", "-e", "trace=%file,%network", "-o", trace.to_str().unwrap()];
    let daemon = rig.outside.boot_under(&rig.lab, &strace, &orders);
    let client = rig.watch(&daemon);
    let renewed =
        eventually(Duration::from_secs(60), || (client.serials().len() >= 2).then_some(()));
    assert!(renewed.is_some(), "{}", daemon.log());
    client.stop();

    let trace = fs::read_to_string(trace).unwrap();
    // It looks at all: else there would be nothing to find.
    assert!(trace.contains("firstlight.toml") && trace.contains("tsig.key"));
    let resolving = trace.lines().filter(|line| {
        RESOLVER.iter().any(|file| line.contains(file)) || line.contains("nscd/socket")
    });
    assert_eq!(resolving.collect::<Vec<_>>(), Vec::<&str>::new());
    let places: BTreeSet<_> = trace.lines().filter_map(destination).collect();
    let at = |host, port| SocketAddrV4::new(rig.lab.address(host), port);
    // The CA, which the system does not know, the server of the zone, and both upstreams.
    for place in [at(40, 14000), at(41, 5391), at(30, 8853), at(31, 8853)] {
        assert!(places.contains(&place), "{place} is not in {places:?}");
    }
    let plain: Vec<_> = places.iter().filter(|place| place.port() == 53).collect();
    assert_eq!(plain, Vec::<&SocketAddrV4>::new());
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
