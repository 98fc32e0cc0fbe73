//! A configuration of firstlight that fits the small world and disturbs nobody.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use super::operator::PATH;
use super::{Endpoints, OPERATORS, WITNESS_NAMES, World, name_of};
use crate::config::Transport;

/// The part of a configuration that concerns this machine alone: every service on a port
/// of 127.0.0.1 that is free at this moment, state and control socket beside the file,
/// the machine's clock left alone, one local name. `[[upstream]]`, `[[clock.source]]`
/// and `[[clock.witness]]` may follow it.
///
/// # Errors
///
/// If no port is free.
pub fn household() -> io::Result<String> {
    let [dns, dot, doh, ntp] = free_ports()?;
    Ok(format!(
        r#"[state]
directory = "state"

[dns]
listen = ["127.0.0.1:{dns}"]

[dot]
listen = ["127.0.0.1:{dot}"]

[doh]
listen = ["127.0.0.1:{doh}"]

[tls]
name = "dns.home.lan"

[ntp]
listen = ["127.0.0.1:{ntp}"]

[control]
socket = "control.sock"

[[name]]
name = "pi.home.lan"
addresses = ["10.77.0.2"]

[clock]
mode = "observe"
"#
    ))
}

/// See [`World::config`].
pub(super) fn config(world: &World, folder: &Path) -> io::Result<String> {
    fs::write(folder.join(AUTHORITY), world.authority_pem())?;
    let Endpoints { dot, doh, witnesses, sources } = world.endpoints();
    let [alder, birch, witnessing @ ..] = OPERATORS;

    let mut text = household()?;
    text += &upstream(alder, Transport::Dot, dot);
    text += &upstream(birch, Transport::Doh, doh);
    for ((operator, name), address) in witnessing.iter().zip(WITNESS_NAMES).zip(witnesses) {
        text += &witness(operator, name, address);
    }
    for (operator, address) in OPERATORS.iter().zip(sources) {
        text += &source(operator, address);
    }
    Ok(text)
}

/// The file with the world's authority.
const AUTHORITY: &str = "world-ca.pem";

fn upstream(operator: &str, transport: Transport, address: SocketAddr) -> String {
    let (name, ip, port) = (name_of(transport), address.ip(), address.port());
    let how = match transport {
        Transport::Doh => format!("transport = \"doh\"\npath = \"{PATH}\""),
        Transport::Dot => "transport = \"dot\"".to_owned(),
    };
    format!(
        r#"
[[upstream]]
name = "{name}"
operator = "{operator}"
addresses = ["{ip}"]
port = {port}
ca = "{AUTHORITY}"
{how}
"#
    )
}

fn witness(operator: &str, name: &str, address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        r#"
[[clock.witness]]
name = "{name}"
operator = "{operator}"
address = "{ip}"
port = {port}
ca = "{AUTHORITY}"
"#
    )
}

fn source(operator: &str, address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        r#"
[[clock.source]]
operator = "{operator}"
address = "{ip}"
port = {port}
"#
    )
}

/// Ports of 127.0.0.1 that nobody has, over UDP or TCP, and no two the same.
fn free_ports() -> io::Result<[u16; 4]> {
    // All are held until the last is found.
    let held = [free_port()?, free_port()?, free_port()?, free_port()?];
    Ok(held.each_ref().map(|(port, ..)| *port))
}

fn free_port() -> io::Result<(u16, UdpSocket, TcpListener)> {
    const ATTEMPTS: usize = 64;
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in 0..ATTEMPTS {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = udp.local_addr()?.port();
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(tcp) => return Ok((port, udp, tcp)),
            Err(error) => last = error,
        }
    }
    Err(last)
}
