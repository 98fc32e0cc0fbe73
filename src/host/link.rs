//! Says when the machine's way to the network has changed: links, addresses, default routes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::libc;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, socket,
};
use tokio::net::UnixDatagram;
use tokio::time::sleep;

/// Changes that follow each other within this time are one.
const SETTLE: Duration = Duration::from_millis(100);

/// A change of the ways to the network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PathChanged {
    /// What there is and was not, in words: `eth0 has 192.0.2.7`, `eth0 leads out (...)`.
    pub gained: Vec<String>,
    /// What there was and is not.
    pub lost: Vec<String>,
}

/// Watches links, addresses and routes. Needs no privilege.
///
/// The kernel's notices (netlink) only say when to look: many repeat what is
/// known, as each router advertisement does. What counts is what was found.
#[derive(Debug)]
pub struct Links {
    /// A netlink socket. Of a datagram socket of any family, `recv` is all that is used.
    notices: UnixDatagram,
    known: BTreeSet<String>,
    /// A notice came that was not looked into yet.
    pending: bool,
}

impl Links {
    /// Starts watching from the present state. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The kernel gives no netlink socket (a sandbox that forbids `AF_NETLINK`).
    pub fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        let notices = UnixDatagram::from_std(StdDatagram::from(fd))?;
        // Looked at after the bind, so that no change falls between.
        Ok(Self { notices, known: paths(), pending: false })
    }

    /// Waits for the next change. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// The netlink socket is broken.
    pub async fn changed(&mut self) -> io::Result<PathChanged> {
        loop {
            if !self.pending {
                self.notices.readable().await?;
                self.pending = true;
            }
            sleep(SETTLE).await;
            self.drain()?;
            self.pending = false;

            let found = paths();
            let change = difference(&self.known, &found);
            self.known = found;
            if change != PathChanged::default() {
                return Ok(change);
            }
        }
    }

    /// Takes all notices there are, unread.
    fn drain(&self) -> io::Result<()> {
        let mut notice = [0; 4096];
        loop {
            match self.notices.try_recv(&mut notice) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The kernel dropped notices for want of room. Looking finds what they said.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

const GROUPS: u32 = (libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE)
    .cast_unsigned();

/// The ways to the network there are, in words. What cannot be read is left out.
fn paths() -> BTreeSet<String> {
    let addresses = getifaddrs().into_iter().flatten().filter_map(|found| address(&found));
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let (v4, v6) = (read("/proc/net/route"), read("/proc/net/ipv6_route"));
    let routes = v4.lines().filter_map(route_v4).chain(v6.lines().filter_map(route_v6));
    addresses.chain(routes).collect()
}

/// An address others can reach, on a link that carries: `eth0 has 192.0.2.7`.
///
/// Link-local addresses come and go with every container and lead nowhere.
fn address(found: &InterfaceAddress) -> Option<String> {
    let carries = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    if !found.flags.contains(carries) || found.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
        return None;
    }
    let ip = ip(found.address.as_ref()?)?;
    let local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    (!local).then(|| format!("{} has {ip}", found.interface_name))
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// A line of `/proc/net/route`, if it leads out: to everything, or (as VPNs do) to one half of it.
fn route_v4(line: &str) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let (interface, destination, gateway) = (fields.next()?, fields.next()?, fields.next()?);
    // Flags, references, uses; then the metric and the mask, in network order as a hex number.
    let (metric, mask) = (fields.nth(3)?, fields.next()?);
    let leads_out = mask == "00000000" || mask == "00000080";
    leads_out
        .then(|| format!("{interface} leads out ({destination}/{mask} by {gateway}, {metric})"))
}

/// A line of `/proc/net/ipv6_route`, likewise.
fn route_v6(line: &str) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let (destination, length) = (fields.next()?, fields.next()?);
    let (gateway, metric) = (fields.nth(2)?, fields.next()?);
    let interface = fields.nth(3)?;
    // The kernel's own "no route" stands there as a route by `lo`.
    let leads_out = (length == "00" || length == "01") && interface != "lo";
    leads_out
        .then(|| format!("{interface} leads out ({destination}/{length} by {gateway}, {metric})"))
}

/// A way out of this machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WayOut {
    /// The interface it begins with.
    pub interface: String,
    /// The router it begins with; the unspecified address if there is none.
    pub gateway: IpAddr,
}

/// The ways that traffic to the Internet takes: the best default route of each family, and, where
/// routes to the halves of the world go before it (as VPNs lay them), the best of these, since a
/// tunnel's own packets still take the other.
#[must_use]
pub fn ways_out() -> Vec<WayOut> {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let (v4, v6) = (read("/proc/net/route"), read("/proc/net/ipv6_route"));
    best(v4.lines().filter_map(way_v4)).chain(best(v6.lines().filter_map(way_v6))).collect()
}

/// A way with the length of its prefix and its metric.
type Weighed = (u8, u32, WayOut);

fn best(ways: impl Iterator<Item = Weighed>) -> impl Iterator<Item = WayOut> {
    let mut best: BTreeMap<u8, (u32, WayOut)> = BTreeMap::new();
    for (length, metric, way) in ways {
        if best.get(&length).is_none_or(|(least, _)| metric < *least) {
            best.insert(length, (metric, way));
        }
    }
    best.into_values().map(|(_, way)| way)
}

fn way_v4(line: &str) -> Option<Weighed> {
    route_v4(line)?;
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    // In network order, printed as a number of this machine.
    let gateway = u32::from_str_radix(fields.get(2)?, 16).ok()?.to_ne_bytes();
    let length = u8::from(*fields.get(7)? != "00000000");
    let way = WayOut {
        interface: (*fields.first()?).to_owned(),
        gateway: Ipv4Addr::from(gateway).into(),
    };
    Some((length, fields.get(6)?.parse().ok()?, way))
}

fn way_v6(line: &str) -> Option<Weighed> {
    route_v6(line)?;
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let gateway = u128::from_str_radix(fields.get(4)?, 16).ok()?;
    let way =
        WayOut { interface: (*fields.get(9)?).to_owned(), gateway: Ipv6Addr::from(gateway).into() };
    Some((fields.get(1)?.parse().ok()?, u32::from_str_radix(fields.get(5)?, 16).ok()?, way))
}

fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> PathChanged {
    PathChanged {
        gained: after.difference(before).cloned().collect(),
        lost: before.difference(after).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn only_routes_that_lead_out_count() {
        let table = "\
            Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            tun0\t00000080\t0100080A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n\
            eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";

        let out: Vec<_> = table.lines().filter_map(route_v4).collect();

        assert_eq!(
            out,
            [
                "eth0 leads out (00000000/00000000 by 010200C0, 100)",
                "tun0 leads out (00000080/00000080 by 0100080A, 0)",
            ]
        );
    }

    #[test]
    fn the_use_counts_of_ipv6_routes_are_no_change() {
        let zero = "00000000000000000000000000000000";
        let gateway = "fe80000000000000000000fffe000001";
        let line = |references, uses, interface| {
            format!(
                "{zero} 00 {zero} 00 {gateway} 00000400 {references} {uses} 00000003 {interface}"
            )
        };

        let before = route_v6(&line("00000001", "00000000", "eth0"));
        let after = route_v6(&line("00000007", "000000ff", "eth0"));

        assert_eq!(before, after);
        assert_eq!(before, Some(format!("eth0 leads out ({zero}/00 by {gateway}, 00000400)")));
        assert_eq!(route_v6(&line("00000001", "00000000", "lo")), None);
        assert_eq!(route_v6("garbage"), None);
    }

    #[test]
    fn traffic_takes_the_best_way_and_a_tunnel_begins_with_it() {
        let table = "\
            wwan0\t00000000\t0108A8C0\t0003\t0\t0\t700\t00000000\t0\t0\t0\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            tun0\t00000080\t00000000\t0001\t0\t0\t50\t00000080\t0\t0\t0\n\
            tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000080\t0\t0\t0\n";
        let way = |interface: &str, gateway: &str| WayOut {
            interface: interface.to_owned(),
            gateway: gateway.parse().unwrap(),
        };

        let ways: Vec<_> = best(table.lines().filter_map(way_v4)).collect();
        assert_eq!(ways, [way("eth0", "192.0.2.1"), way("tun0", "0.0.0.0")]);

        let zero = "00000000000000000000000000000000";
        let v6 = |gateway, metric, interface| {
            format!("{zero} 00 {zero} 00 {gateway} {metric} 1 0 00000003 {interface}")
        };
        let lines = [
            v6("fe80000000000000000000fffe000001", "00000400", "eth0"),
            v6("fe80000000000000000000fffe000002", "00000100", "wwan0"),
            v6(zero, "ffffffff", "lo"),
        ];
        let ways: Vec<_> = best(lines.iter().filter_map(|line| way_v6(line))).collect();
        assert_eq!(ways, [way("wwan0", "fe80::ff:fe00:2")]);
    }

    #[test]
    fn a_change_names_what_came_and_what_went() {
        let set = |lines: &[&str]| lines.iter().map(ToString::to_string).collect();

        let change = difference(&set(&["a", "b"]), &set(&["b", "c"]));

        assert_eq!(change, PathChanged { gained: vec!["c".into()], lost: vec!["a".into()] });
    }

    #[tokio::test]
    async fn watching_needs_no_privilege_and_a_quiet_machine_says_nothing() {
        let mut links = Links::open().unwrap();

        let outcome = timeout(Duration::from_millis(50), links.changed()).await;

        assert!(outcome.is_err(), "{outcome:?}");
        links.drain().unwrap();
    }
}
