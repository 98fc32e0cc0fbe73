//! Opens one listening socket, with every option a server on a multi-homed machine needs.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::sys::socket::{SockaddrStorage, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::held;

/// Room for bursts while all threads are busy. The kernel halves or caps it as it likes.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long a datagram is waited for on a socket that is held, before looking whether to go on.
const ROUND: Duration = Duration::from_millis(250);

/// Opens `count` blocking UDP sockets on `address`, among which the kernel spreads clients
/// (`SO_REUSEPORT`). Port 0 takes any free port, the same for all.
///
/// Each datagram comes with the address it was sent to (`IP_PKTINFO`), and `[::]` takes IPv6 only.
///
/// # Errors
///
/// What the kernel says. `AddrInUse` if anybody else has the port, a second
/// firstlight included: an address is shared only among the sockets of one call.
pub fn udp(address: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    let first = datagram_socket(address)?;
    first.bind(&address.into())?;
    // Set after the bind: set before, two daemons of one user would silently
    // halve the queries between them.
    first.set_reuse_port(true)?;
    let first = UdpSocket::from(first);
    let address = first.local_addr()?;

    let mut sockets = vec![first];
    for _ in 1..count {
        let socket = datagram_socket(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        sockets.push(socket.into());
    }
    Ok(sockets)
}

/// The UDP socket that is held at `address` ([`super::held`]), blocking and `count` times; `None` if
/// there is none.
///
/// Each datagram comes with the address it was sent to. Nobody can end the wait for one without
/// ending it for the socket's next reader, too: hence it ends every [`ROUND`].
///
/// # Errors
///
/// What the kernel says.
pub(super) fn held_udp(address: SocketAddr, count: usize) -> io::Result<Option<Vec<UdpSocket>>> {
    let Some(socket) = held::udp(address)? else { return Ok(None) };
    tell_destinations(&socket, address)?;
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(ROUND))?;
    let mut sockets = (1..count).map(|_| socket.try_clone()).collect::<io::Result<Vec<_>>>()?;
    sockets.push(socket);
    Ok(Some(sockets))
}

/// Opens one non-blocking UDP socket on `address`, shared with nobody, or takes the one that is held
/// there ([`super::held`]); port 0 takes any free port.
///
/// Each datagram comes with the address it was sent to, and `[::]` takes IPv6 only.
///
/// # Errors
///
/// What the kernel says.
pub fn quic(address: SocketAddr) -> io::Result<UdpSocket> {
    if let Some(socket) = held::udp(address)? {
        tell_destinations(&socket, address)?;
        socket.set_nonblocking(true)?;
        return Ok(socket);
    }
    let socket = datagram_socket(address)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Opens a non-blocking TCP listener on `address`; port 0 takes any free port.
///
/// Accepted connections inherit `TCP_NODELAY`: without it, Nagle's algorithm
/// and delayed acknowledgements hold the first TLS answer back for 40 ms.
///
/// # Errors
///
/// What the kernel says.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a former process that still linger do not hold the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The TCP listener that is held at `address` ([`super::held`]), as [`tcp`] would have opened it;
/// `None` if there is none.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn held_tcp(address: SocketAddr) -> io::Result<Option<TcpListener>> {
    let Some(listener) = held::tcp(address)? else { return Ok(None) };
    SockRef::from(&listener).set_tcp_nodelay(true)?;
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

/// The machine's own addresses of `wildcard`'s family, each with `wildcard`'s port.
///
/// # Errors
///
/// If the kernel does not list its interfaces.
pub fn local_addresses(wildcard: SocketAddr) -> io::Result<Vec<SocketAddr>> {
    let mut found: Vec<SocketAddr> = getifaddrs()?
        .filter_map(|interface| interface.address)
        .filter_map(|address| match wildcard.ip() {
            IpAddr::V4(_) => address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into())),
            // The scope of a link-local address comes with it.
            IpAddr::V6(_) => address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())),
        })
        .collect();
    for address in &mut found {
        address.set_port(wildcard.port());
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The networks that this machine is part of, loopback left out.
///
/// # Errors
///
/// If the kernel does not list its interfaces.
pub fn local_networks() -> io::Result<Vec<IpNet>> {
    let networks = getifaddrs()?.filter_map(|interface| {
        let (address, mask) = (interface.address?, interface.netmask?);
        let ip =
            |address: &SockaddrStorage| match (address.as_sockaddr_in(), address.as_sockaddr_in6())
            {
                (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
                (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
                _ => None,
            };
        let address = ip(&address).filter(|address| !address.is_loopback())?;
        IpNet::with_netmask(address, ip(&mask)?).ok().map(|network| network.trunc())
    });
    let mut networks: Vec<_> = networks.collect();
    networks.sort_unstable();
    networks.dedup();
    Ok(networks)
}

/// What a person can do about an address that cannot be bound.
#[must_use]
pub fn remedy(address: SocketAddr, error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES) if address.port() < 1024 => {
            "ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in the systemd unit)"
        }
        Some(libc::EADDRINUSE) if address.port() == 53 => {
            "another program has this port (ss -lntup names it); \
             systemd-resolved gives it up with DNSStubListener=no"
        }
        Some(libc::EADDRINUSE) => "another program has this port (ss -lntup names it)",
        Some(libc::EADDRNOTAVAIL) => "no interface of this machine has this address (ip address)",
        Some(libc::EAFNOSUPPORT) => "this kernel lacks the address family; remove the address",
        _ => "it is tried again until it succeeds",
    }
}

fn datagram_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    tell_destinations(&socket, address)?;
    // Best effort: the kernel's limit (net.core.rmem_max) decides.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    Ok(socket)
}

/// Has each datagram come with the address it was sent to.
fn tell_destinations(socket: &impl AsFd, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn an_address_is_shared_within_one_call_and_with_nobody_else() {
        let sockets = udp(loopback(0), 3).unwrap();
        let address = sockets[0].local_addr().unwrap();

        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
        let error = udp(address, 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(remedy(address, &error).contains("another program"));
    }

    #[test]
    fn both_wildcards_share_a_port() {
        let v4 = tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
        let port = v4.local_addr().unwrap().port();

        assert!(tcp(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).is_ok());
    }

    #[test]
    fn the_machine_has_its_loopback_address() {
        let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5353));

        assert!(local_addresses(wildcard).unwrap().contains(&loopback(5353)));
    }

    #[test]
    fn a_foreign_address_is_refused_with_a_remedy() {
        let foreign = SocketAddr::from(([192, 0, 2, 1], 0));

        let error = tcp(foreign).unwrap_err();

        assert!(remedy(foreign, &error).contains("ip address"));
    }

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}
