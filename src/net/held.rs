//! Sockets that somebody else opened, and keeps open when this program ends: what arrives meanwhile
//! waits in them for the next one.
//!
//! They are used in place of own ones at the addresses they are bound to. Since others hold them
//! too, they are never shut down.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The sockets, which are the process's as the environment is that names them.
static HELD: Mutex<Held> =
    Mutex::new(Held { udp: Vec::new(), tcp: Vec::new(), used: BTreeSet::new() });

struct Held {
    udp: Vec<(SocketAddr, UdpSocket)>,
    tcp: Vec<(SocketAddr, TcpListener)>,
    used: BTreeSet<(Kind, SocketAddr)>,
}

/// What a socket takes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Uses these sockets from here on, where something is to be served at their addresses.
///
/// # Errors
///
/// If one is bound to no address; the others are used.
pub fn hold(udp: Vec<UdpSocket>, tcp: Vec<TcpListener>) -> io::Result<()> {
    let mut held = held();
    let mut outcome = Ok(());
    for socket in udp {
        match socket.local_addr() {
            Ok(address) => held.udp.push((address, socket)),
            Err(error) => outcome = Err(error),
        }
    }
    for listener in tcp {
        match listener.local_addr() {
            Ok(address) => held.tcp.push((address, listener)),
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

/// The sockets that nothing has been served on: what arrives there is never answered.
#[must_use]
pub fn unused() -> Vec<(Kind, SocketAddr)> {
    let held = held();
    let udp = held.udp.iter().map(|(address, _)| (Kind::Udp, *address));
    let tcp = held.tcp.iter().map(|(address, _)| (Kind::Tcp, *address));
    udp.chain(tcp).filter(|socket| !held.used.contains(socket)).collect()
}

/// The UDP socket that is held at `address`.
pub(super) fn udp(address: SocketAddr) -> io::Result<Option<UdpSocket>> {
    let mut held = held();
    let found = held.udp.iter().find(|(bound, _)| *bound == address);
    let socket = found.map(|(_, socket)| socket.try_clone()).transpose()?;
    if socket.is_some() {
        held.used.insert((Kind::Udp, address));
    }
    Ok(socket)
}

/// The TCP listener that is held at `address`.
pub(super) fn tcp(address: SocketAddr) -> io::Result<Option<TcpListener>> {
    let mut held = held();
    let found = held.tcp.iter().find(|(bound, _)| *bound == address);
    let listener = found.map(|(_, listener)| listener.try_clone()).transpose()?;
    if listener.is_some() {
        held.used.insert((Kind::Tcp, address));
    }
    Ok(listener)
}

fn held() -> MutexGuard<'static, Held> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}
