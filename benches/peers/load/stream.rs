//! A connection as a stream of octets, with or without TLS. It never blocks once it is open.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::{PATIENCE, wait_for};
use crate::world::NAME;

pub(super) struct Stream {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    outgoing: Vec<u8>,
}

impl Stream {
    pub(super) fn plain(server: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&server, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, tls: None, outgoing: Vec::new() })
    }

    /// A connection at the start of its handshake.
    pub(super) fn tls(
        server: SocketAddr,
        config: &Arc<ClientConfig>,
        protocol: &[u8],
    ) -> io::Result<Self> {
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let protocols = vec![protocol.to_vec()];
        let tls = ClientConnection::new_with_alpn(Arc::clone(config), name, protocols)
            .map_err(io::Error::other)?;
        Ok(Self { tls: Some(Box::new(tls)), ..Self::plain(server)? })
    }

    /// The same after the handshake, for which it waits.
    pub(super) fn shaken(mut self) -> io::Result<Self> {
        let begun = Instant::now();
        while self.is_handshaking() {
            if begun.elapsed() > PATIENCE {
                return Err(ErrorKind::TimedOut.into());
            }
            self.flush()?;
            wait_for([self.as_fd()].into_iter(), Duration::from_millis(100))?;
            if !self.read(&mut Vec::new())? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        self.flush()?;
        Ok(self)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Queues octets; what is queued between two flushes is one write, and one TLS record.
    pub(super) fn put(&mut self, octets: &[u8]) {
        self.outgoing.extend_from_slice(octets);
    }

    /// Sends what is queued. Returns whether all of it was.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else {
            return match self.socket.write(&self.outgoing) {
                Ok(sent) => {
                    self.outgoing.drain(..sent);
                    Ok(self.outgoing.is_empty())
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(error),
            };
        };
        tls.writer().write_all(&self.outgoing)?;
        self.outgoing.clear();
        while tls.wants_write() {
            match tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Appends what has arrived to `incoming`. Returns whether more may come.
    pub(super) fn read(&mut self, incoming: &mut Vec<u8>) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else {
            return read_all(&mut self.socket, incoming);
        };
        loop {
            match tls.read_tls(&mut self.socket) {
                Ok(0) => return Ok(false),
                Ok(_) => {
                    tls.process_new_packets().map_err(io::Error::other)?;
                    read_all(&mut tls.reader(), incoming)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    /// Says farewell.
    pub(super) fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        // The peer may be gone already.
        let _ = self.flush();
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads until nothing is there. Returns whether more may come.
fn read_all(source: &mut impl Read, incoming: &mut Vec<u8>) -> io::Result<bool> {
    let mut room = [0; 16 << 10];
    loop {
        match source.read(&mut room) {
            Ok(0) => return Ok(false),
            Ok(len) => {
                incoming.extend_from_slice(&room[..len]);
                if len < room.len() {
                    return Ok(true);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}
