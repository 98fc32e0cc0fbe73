//! People elsewhere are told of conditions, in the words of `status`, and late rather than never.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::spawn;
use std::time::Duration;

use firstlight::admin::report::Status;
use lab::{DAY, Lab, eventually};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

#[test]
fn a_condition_that_lasts_is_told_in_the_words_of_status_and_kept_while_nobody_takes_it() {
    let lab = Lab::new();
    let server = Server::start(&lab);
    lab.keep_secret("token", "of-this-machine\n");
    let (setup, _wan) = lab.honest();
    let file = setup.certificate("missing.pem", "missing.key").write();
    let text = fs::read_to_string(&file).unwrap();
    let url = format!("https://{}", server.address);
    let recipients = format!(
        "[[notify]]\nkind = \"webhook\"\nurl = \"{url}/hook\"\nca = \"ca.pem\"\ntoken_file = \"token\"\n\
         [[notify]]\nkind = \"ping\"\nurl = \"{url}/alive\"\nca = \"ca.pem\"\nevery = 10\n"
    );
    fs::write(&file, text + &recipients).unwrap();
    let mut daemon = lab::Daemon::start(&lab, &["--start", "@0"]);
    daemon.serves(&lab).unwrap();

    // Whoever does not take it is tried again.
    let told = eventually(Duration::from_secs(90), || {
        let told = server.requests("POST /hook");
        (told.len() >= 2).then_some(told)
    });
    let told = told.unwrap_or_else(|| panic!("{:?}\n{}", server.requests(""), daemon.log()));
    let message: Value = serde_json::from_str(told[1].split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(message["condition"], "certificate-files");
    assert_eq!(message["severity"], "error");
    assert_eq!(message["holds"], true);
    assert_eq!(message["host"], "dns.home.lan");
    assert!(told[1].to_lowercase().contains("authorization: bearer of-this-machine\r\n"));
    let status = daemon.status();
    let held = status.conditions.iter().find(|held| held.name == "certificate-files").unwrap();
    assert_eq!(message["text"], held.text);
    let untold =
        |status: &Status| status.conditions.iter().any(|held| held.name == "notifications-unsent");
    daemon.wait_for("nobody waits for a message", 5, |status| !untold(status));

    assert!(server.requests("GET /alive").len() >= 3, "{:?}", server.requests(""));
}

/// Takes messages over TLS, but not the first.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(lab: &Lab) -> Self {
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

    fn requests(&self, begin: &str) -> Vec<String> {
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
