//! Clients that mean harm, one that does not, and what the daemon uses meanwhile.

pub(crate) mod honest;
pub(crate) mod http2;
pub(crate) mod process;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::lab::Lab;
use crate::lab::clients::trusting;

/// Where the daemon listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground {
    pub(crate) dns: SocketAddr,
    pub(crate) dot: SocketAddr,
    pub(crate) doh: SocketAddr,
}

impl Ground {
    pub(crate) fn of(lab: &Lab) -> Self {
        Self { dns: lab.dns(), dot: lab.dot(), doh: lab.doh() }
    }
}

/// A connection from an address of the client's choice.
pub(crate) async fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // Ports are chosen at the connect, so that thousands fit.
    socket.bind((from, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The same, with a TLS handshake.
pub(crate) async fn tls(
    from: Ipv4Addr,
    to: SocketAddr,
    alpn: &[u8],
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("dns.home.lan").unwrap();
    let stream = connect(from, to).await?;
    TlsConnector::from(trusting(&[alpn])).connect(name, stream).await
}
