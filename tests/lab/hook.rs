//! Somebody elsewhere who is told of conditions.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::spawn;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use super::{DAY, Lab};

/// Takes messages over TLS, but not the first.
pub(crate) struct Hook {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Hook {
    pub(crate) fn start(lab: &Lab) -> Self {
        let listener = TcpListener::bind((lab.address(50), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let name = address.ip().to_string();
        lab.authority.issue_files_for(lab, "hook", &[&name], (-DAY, DAY));
        let config = serving(&lab.path("hook.pem"), &lab.path("hook.key"));
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&requests);
        spawn(move || {
            for stream in listener.incoming() {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(connection, stream.unwrap());
                let mut octets = [0; 8192];
                let mut text = String::new();
                // A head, and a body that comes with it.
                while let Ok(length @ 1..) = stream.read(&mut octets) {
                    text += &String::from_utf8_lossy(&octets[..length]);
                    if text.starts_with("GET") || text.ends_with('}') {
                        break;
                    }
                }
                let mut seen = seen.lock().unwrap();
                let first =
                    text.starts_with("POST") && !seen.iter().any(|it| it.starts_with("POST"));
                let status = if first { "503 Service Unavailable" } else { "200 OK" };
                seen.push(text);
                drop(seen);
                let answer =
                    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                drop(stream.write_all(answer.as_bytes()));
                stream.conn.send_close_notify();
                drop(stream.flush());
            }
        });
        Self { address, requests }
    }

    /// The messages that were taken.
    pub(crate) fn messages(&self) -> Vec<Value> {
        let taken = self.requests("POST").into_iter().skip(1);
        let body = |request: String| request.split("\r\n\r\n").nth(1).unwrap().to_owned();
        taken.map(|request| serde_json::from_str(&body(request)).unwrap()).collect()
    }

    /// What was asked, that begins with `begin`.
    pub(crate) fn requests(&self, begin: &str) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|request| request.starts_with(begin)).cloned().collect()
    }
}

fn serving(certificate: &Path, key: &Path) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(certificate).unwrap()],
            PrivateKeyDer::from_pem_file(key).unwrap(),
        );
    Arc::new(config.unwrap())
}
