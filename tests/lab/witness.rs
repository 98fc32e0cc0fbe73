//! HTTPS servers, whose `Date` bears witness to the time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::pki::USUAL;
use super::{Lab, truth};

/// Answers every request with nothing but the lab's true time.
#[derive(Debug)]
pub(crate) struct HttpsServer {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    up: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HttpsServer {
    pub(crate) fn start(lab: &Lab, host: u8) -> Self {
        let name = format!("www{host}.example.net");
        let (certificate, key) = lab.authority.issue(&name, USUAL);
        let config = Arc::new(configuration(&certificate, &key));
        let listener = TcpListener::bind(lab.place(host, 8443)).unwrap();
        let address = listener.local_addr().unwrap();
        let (up, stop) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let (reachable, ended) = (Arc::clone(&up), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                if let (Ok(client), true) = (client, reachable.load(Ordering::Relaxed)) {
                    let config = Arc::clone(&config);
                    thread::spawn(move || answer(client, config));
                }
            }
        });
        Self { name, address, up, stop, thread: Some(thread) }
    }

    /// Whether it can be reached.
    pub(crate) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }
}

impl Drop for HttpsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

pub(super) fn configuration(certificate: &str, key: &str) -> ServerConfig {
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap);
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.collect(), key)
        .unwrap()
}

/// One request, one response. A client that goes away is not missed.
fn answer(client: TcpStream, config: Arc<ServerConfig>) -> Option<()> {
    client.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut stream = StreamOwned::new(ServerConnection::new(config).ok()?, client);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        stream.read_exact(&mut octet).ok()?;
        request.push(octet[0]);
    }
    let date = Timestamp::from_second(truth().secs()).ok()?.strftime("%a, %d %b %Y %H:%M:%S GMT");
    let response = format!(
        "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(response.as_bytes()).ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()
}
