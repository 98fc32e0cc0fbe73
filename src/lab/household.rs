//! A configuration of firstlight that fits the small world and disturbs nobody.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

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

[doq]
listen = ["127.0.0.1:{dot}"]

[tls]
name = "dns.home.lan"

[ntp]
listen = ["127.0.0.1:{ntp}"]

[nts]
listen = []

[metrics]
listen = []

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

impl World {
    /// A configuration of firstlight for this world, to be kept in `folder`: its paths
    /// are relative to it, and the world's authority is written there. Services are on
    /// ports of 127.0.0.1 that are free at this moment; the machine's clock is left alone.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written, or no port is free.
    pub fn config(&self, folder: &Path) -> io::Result<String> {
        fs::write(folder.join(AUTHORITY), self.authority.pem())?;
        let Endpoints { dot, doh, witnesses, sources } = self.endpoints();
        let [alder, birch, witnessing @ ..] = OPERATORS;

        let mut text = household()?;
        text += &upstream(alder, Transport::Dot, dot);
        text += &upstream(birch, Transport::Doh, doh);
        for ((operator, name), address) in witnessing.iter().zip(WITNESS_NAMES).zip(witnesses) {
            text += &(at("clock.witness", operator, address) + &certificate(name));
        }
        for (operator, address) in OPERATORS.iter().zip(sources) {
            text += &at("clock.source", operator, address);
        }
        Ok(text)
    }
}

/// The file with the world's authority.
const AUTHORITY: &str = "world-ca.pem";

fn upstream(operator: &str, transport: Transport, address: SocketAddr) -> String {
    let word = match transport {
        Transport::Doh => "doh",
        Transport::Doq => "doq",
        Transport::Dot => "dot",
    };
    let how = format!("transport = \"{word}\"\naddresses = [\"{}\"]", address.ip());
    entry("upstream", operator, address, &how) + &certificate(name_of(transport))
}

/// An entry of one address.
fn at(table: &str, operator: &str, address: SocketAddr) -> String {
    entry(table, operator, address, &format!("address = \"{}\"", address.ip()))
}

fn entry(table: &str, operator: &str, address: SocketAddr, how: &str) -> String {
    format!("\n[[{table}]]\noperator = \"{operator}\"\n{how}\nport = {}\n", address.port())
}

fn certificate(name: &str) -> String {
    format!("name = \"{name}\"\nca = \"{AUTHORITY}\"\n")
}

/// Ports of 127.0.0.1 that nobody has, over UDP or TCP, and no two the same.
fn free_ports() -> io::Result<[u16; 4]> {
    // All are held until the last is found.
    let held = [free_port()?, free_port()?, free_port()?, free_port()?];
    Ok(held.each_ref().map(|(port, ..)| *port))
}

fn free_port() -> io::Result<(u16, UdpSocket, TcpListener)> {
    let mut last = io::ErrorKind::AddrInUse.into();
    for _attempt in 0..64 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = udp.local_addr()?.port();
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(tcp) => return Ok((port, udp, tcp)),
            Err(error) => last = error,
        }
    }
    Err(last)
}
