//! A wire to a TLS server that can be cut, and tells what goes over it first.

use std::io::{Read, Write, copy};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::Lab;

/// The extension by which a client offers a ticket (RFC 8446 section 4.2.11).
const PRE_SHARED_KEY: u16 = 41;

/// Passes connections on to a server.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    /// Where it leads.
    pub(crate) server: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    streams: Mutex<Vec<TcpStream>>,
    /// Whether the client of each connection offered a ticket.
    offers: Mutex<Vec<bool>>,
    stop: AtomicBool,
}

impl Relay {
    pub(crate) fn start(lab: &Lab, host: u8, server: SocketAddr) -> Self {
        let listener = TcpListener::bind(lab.place(host, 8853)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.stop.load(Ordering::Relaxed) {
                    return;
                }
                let (shared, Ok(client)) = (Arc::clone(&accepting), client) else { continue };
                thread::spawn(move || shared.pass(client, server));
            }
        });
        Self { address, server, shared, thread: Some(thread) }
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Whether the client offered a ticket, for each connection so far.
    pub(crate) fn offers(&self) -> Vec<bool> {
        self.shared.offers.lock().unwrap().clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.cut();
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn pass(&self, mut client: TcpStream, server: SocketAddr) -> Option<()> {
        let mut server = TcpStream::connect(server).ok()?;
        let streams = [client.try_clone().ok()?, server.try_clone().ok()?];
        self.streams.lock().unwrap().extend(streams);

        let mut header = [0; 5];
        client.read_exact(&mut header).ok()?;
        let mut hello = vec![0; u16::from_be_bytes([header[3], header[4]]).into()];
        client.read_exact(&mut hello).ok()?;
        self.offers.lock().unwrap().push(offers_ticket(&hello).unwrap());
        server.write_all(&[&header, hello.as_slice()].concat()).ok()?;

        let (mut from, mut to) = (server.try_clone().ok()?, client.try_clone().ok()?);
        let back = thread::spawn(move || copy(&mut from, &mut to));
        drop(copy(&mut client, &mut server));
        drop(server.shutdown(Shutdown::Both));
        drop(client.shutdown(Shutdown::Both));
        drop(back.join());
        Some(())
    }
}

/// Whether a `ClientHello` (RFC 8446 section 4.1.2) has the extension of tickets; `None` if it is none.
fn offers_ticket(hello: &[u8]) -> Option<bool> {
    // Type and length of the message, version, random.
    let mut rest = hello.get(4 + 2 + 32..)?;
    // Session id, cipher suites, compression methods.
    for width in [1, 2, 1] {
        rest = vector(rest, width)?.1;
    }
    let mut extensions = vector(rest, 2)?.0;
    while let Some((kind, after)) = extensions.split_first_chunk() {
        if u16::from_be_bytes(*kind) == PRE_SHARED_KEY {
            return Some(true);
        }
        extensions = vector(after, 2)?.1;
    }
    Some(false)
}

/// The octets of a vector with a length of `width` octets, and what follows.
fn vector(octets: &[u8], width: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = octets.split_at_checked(width)?;
    let length = length.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet));
    rest.split_at_checked(length)
}
