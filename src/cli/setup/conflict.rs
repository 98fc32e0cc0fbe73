//! Who stands in the way, and whether it can be stopped without harm (pure).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::facts::{Facts, Owner, Process, Socket, of_containers};

/// Units whose whole work is DNS or time. Others do more than to have a port, as `NetworkManager` does
/// with a dnsmasq of its own: stopping them is nothing to offer.
const STOPPABLE: &[&str] = &[
    "AdGuardHome",
    "bind9",
    "blocky",
    "chrony",
    "chronyd",
    "coredns",
    "dnscrypt-proxy",
    "dnsdist",
    "dnsmasq",
    "named",
    "ntp",
    "ntpd",
    "ntpd-rs",
    "ntpsec",
    "openntpd",
    "pihole-FTL",
    "stubby",
    "systemd-timesyncd",
    "unbound",
];

/// A process at ports that are to be ours, with the sockets that stand in the way.
#[derive(Clone, Debug)]
pub(super) struct Conflict<'a> {
    owner: &'a Owner,
    sockets: Vec<Socket>,
}

/// Who stands in the way of serving on `listen` (`None`: all addresses).
///
/// A socket at one address of this machine alone, like the stub of systemd-resolved, keeps nobody from
/// the other ones: the daemon opens these.
pub(super) fn conflicts<'a>(facts: &'a Facts, listen: Option<&[IpAddr]>) -> Vec<Conflict<'a>> {
    let found = facts.owners.iter().map(|owner| {
        let sockets = owner.sockets.iter().copied();
        Conflict { owner, sockets: sockets.filter(|it| in_the_way(facts, listen, it)).collect() }
    });
    found.filter(|conflict| !conflict.sockets.is_empty()).collect()
}

fn in_the_way(facts: &Facts, listen: Option<&[IpAddr]>, socket: &Socket) -> bool {
    let ip = socket.at.ip();
    if ip.is_unspecified() {
        // One of IPv6 may take IPv4 along.
        return listen.is_none_or(|ours| ip.is_ipv6() || ours.iter().any(IpAddr::is_ipv4));
    }
    let Some(ours) = listen else {
        let mut addresses = facts.addresses.iter();
        let containers = addresses.any(|it| it.ip == ip && of_containers(&it.interface));
        return !ip.is_loopback() && !containers;
    };
    ours.contains(&ip)
}

impl Conflict<'_> {
    /// Whose they are, in words.
    pub(super) fn who(&self) -> String {
        self.owner
            .process
            .as_ref()
            .map_or("a process that only root may see".to_owned(), Process::words)
    }

    /// Whether it is about the program that keeps the clock, if firstlight only observes it, and about
    /// nothing but the time: it then serves that as well.
    pub(super) fn keeps_time(&self, observe: bool) -> bool {
        let steers = self.owner.process.as_ref().is_some_and(Process::keeps_a_clock);
        observe && steers && self.sockets.iter().all(|socket| socket.at.port() == 123)
    }

    /// Whether it is about this process.
    pub(super) fn is_of(&self, owner: &Owner) -> bool {
        self.owner == owner
    }

    /// The ports, like `UDP 53, TCP 53`.
    pub(super) fn ports(&self) -> String {
        ports(&self.sockets)
    }

    /// Whether a port of this protocol is among them.
    pub(super) fn takes(&self, tcp: bool, port: u16) -> bool {
        self.sockets.iter().any(|socket| socket.tcp == tcp && socket.at.port() == port)
    }

    /// The unit to stop, if that is all it does.
    pub(super) fn unit(&self) -> Option<&str> {
        self.owner.process.as_ref().and_then(stoppable)
    }
}

/// The unit of a process, without `.service`, if it may be stopped without taking more along.
pub(super) fn stoppable(process: &Process) -> Option<&str> {
    let unit = process.unit.as_deref()?.strip_suffix(".service")?;
    STOPPABLE.contains(&unit).then_some(unit)
}

/// Protocols and ports, each once.
pub(super) fn ports(sockets: &[Socket]) -> String {
    let named = sockets.iter().map(|socket| (socket.at.port(), socket.tcp));
    let named: BTreeSet<_> = named.collect();
    let words =
        named.iter().map(|(port, tcp)| format!("{} {port}", if *tcp { "TCP" } else { "UDP" }));
    words.collect::<Vec<_>>().join(", ")
}
