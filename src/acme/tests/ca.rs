//! The CA, on streams in memory.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use data_encoding::BASE64URL_NOPAD;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::fetch::{Network, Stream};
use crate::tls::Challenges;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// The connection ends before the answer.
    Cut,
    /// A body without an end.
    Endless,
    /// Something else than ACME.
    Garbage,
    /// The connection ends within the answer.
    Half,
    /// The answer stops, and nothing ends.
    Hanging,
    /// A problem document: status, type.
    Problem(u16, &'static str),
    /// A status with a page.
    Page(u16),
    /// No answer.
    Stall,
}

/// A CA that knows one order.
#[derive(Clone)]
pub(super) struct FaultyCa {
    pub(super) told: Arc<Mutex<Told>>,
    pub(super) acceptor: TlsAcceptor,
}

#[derive(Default)]
pub(super) struct Told {
    pub(super) fault: Option<(&'static str, Fault)>,
    pub(super) quiet: Option<Quiet>,
    /// The state that the order does not leave.
    pub(super) stuck: Option<&'static str>,
    pub(super) pem: String,
    /// The type of the one challenge there is.
    pub(super) challenge: &'static str,
    /// Where it looks when it is told to, and for which names it found something there.
    pub(super) looks_at: Option<Arc<Challenges>>,
    pub(super) found: Vec<String>,
    requests: Vec<String>,
    pub(super) connections: usize,
    /// No connection is kept.
    pub(super) closes: bool,
    /// Of the last order.
    pub(super) wanted: Value,
    proven: bool,
    finalized: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Quiet {
    Connection,
    Handshake,
    Name,
}

impl Told {
    /// Another order.
    pub(super) fn reset(&mut self) {
        (self.proven, self.finalized) = (false, false);
    }

    fn order(&self) -> Value {
        let status = match (self.stuck, self.proven, self.finalized) {
            (Some(state), true, true) | (Some(state @ "invalid"), true, false) => state,
            (Some("pending"), ..) | (_, false, _) => "pending",
            (_, true, false) => "ready",
            (None, true, true) => "valid",
        };
        json!({
            "status": status,
            "authorizations": ["https://ca.test/authz/1"],
            "finalize": "https://ca.test/finalize/1",
            "certificate": "https://ca.test/cert/1",
            "replaces": self.wanted["replaces"],
        })
    }

    /// Status, further headers and body for `request`, whose payload is given.
    fn answer(&mut self, request: &str, payload: &[u8]) -> (u16, &'static str, String) {
        let challenge = json!({
            "type": self.challenge, "url": "https://ca.test/chall/1", "token": "token",
            "status": match self.stuck.filter(|_| self.proven) {
                Some("invalid") => "invalid",
                Some("pending") => "processing",
                _ => "pending",
            },
            "error": if self.stuck == Some("invalid") && self.proven {
                json!({"type": "urn:ietf:params:acme:error:unauthorized",
                       "detail": "no TXT\u{1b}[2J\nre\u{202e}cord"})
            } else {
                Value::Null
            },
        });
        match request {
            "GET /dir" => (
                200,
                "",
                json!({
                    "newNonce": "https://ca.test/nonce",
                    "newAccount": "https://ca.test/account",
                    "newOrder": "https://ca.test/order",
                    "renewalInfo": "https://ca.test/ari/",
                    "meta": {"profiles": {"short": "for tests"}},
                })
                .to_string(),
            ),
            "POST /account" => (
                201,
                "Location: https://ca.test/account/1\r\n",
                json!({"status": "valid"}).to_string(),
            ),
            "POST /order" => {
                self.wanted = serde_json::from_slice(payload).unwrap();
                (201, "Location: https://ca.test/order/1\r\n", self.order().to_string())
            }
            "POST /authz/1" => (
                200,
                "",
                json!({
                    "status": "pending",
                    "identifier": {"type": "dns", "value": "home.test"},
                    "challenges": [challenge],
                })
                .to_string(),
            ),
            "POST /chall/1" => {
                self.proven = true;
                if let Some(challenges) = &self.looks_at {
                    self.found.extend(challenges.names());
                }
                (
                    200,
                    "",
                    json!({"type": self.challenge, "url": "https://ca.test/chall/1",
                                 "token": "token", "status": "processing"})
                    .to_string(),
                )
            }
            "POST /order/1" => (200, "Retry-After: 0\r\n", self.order().to_string()),
            "POST /finalize/1" => {
                self.finalized = true;
                let mut order = self.order();
                order["status"] = "processing".into();
                (200, "", order.to_string())
            }
            "POST /cert/1" => (200, "", self.pem.clone()),
            request if request.starts_with("GET /ari/") => (
                200,
                "Date: Fri, 14 Mar 2025 00:00:00 GMT\r\nRetry-After: Fri, 14 Mar 2025 06:00:00 GMT\r\n",
                json!({
                    "suggestedWindow":
                        {"start": "2026-03-14T14:53:20Z", "end": "2026-03-15T18:40:00Z"},
                    "explanationURL": "https://ca.test/why",
                })
                .to_string(),
            ),
            "HEAD /nonce" => (200, "", String::new()),
            other => panic!("{other}"),
        }
    }
}

impl FaultyCa {
    pub(super) fn tell(&self, how: impl FnOnce(&mut Told)) {
        how(&mut self.told.lock().unwrap());
    }

    pub(super) fn told<T>(&self, what: impl FnOnce(&Told) -> T) -> T {
        what(&self.told.lock().unwrap())
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.told(|told| told.requests.clone())
    }

    async fn serve(&self, stream: DuplexStream) -> io::Result<()> {
        let mut stream = self.acceptor.accept(stream).await?;
        loop {
            let Some((request, body)) = read(&mut stream).await? else { return Ok(()) };
            let payload = serde_json::from_slice::<Value>(&body).ok();
            let payload = payload
                .and_then(|jws| BASE64URL_NOPAD.decode(jws["payload"].as_str()?.as_bytes()).ok());
            let (fault, (status, headers, text)) = {
                let mut told = self.told.lock().unwrap();
                told.requests.push(request.clone());
                let of_ari = |step| step == "GET /ari" && request.starts_with("GET /ari/");
                let fault = told.fault.filter(|(step, _)| *step == request || of_ari(*step));
                let answer = told.answer(&request, &payload.unwrap_or_default());
                (fault.map(|(_, fault)| fault), answer)
            };
            let length = text.len();
            let closes = self.told(|told| told.closes);
            let close = if closes { "Connection: close\r\n" } else { "" };
            let head = format!("HTTP/1.1 {status} X\r\nReplay-Nonce: n\r\n{close}{headers}");
            let honest = format!("{head}Content-Length: {length}\r\n\r\n{text}");
            let page = "<html>\r\n<h1>out of order</h1>";
            let whole = |status: u16, more: &str, body: &str| {
                let length = body.len();
                format!("HTTP/1.1 {status} X\r\n{more}Content-Length: {length}\r\n\r\n{body}")
            };
            let text = match fault {
                None => honest,
                Some(Fault::Stall) => return std::future::pending().await,
                Some(Fault::Cut) => return stream.shutdown().await,
                Some(Fault::Half | Fault::Hanging) => {
                    // Within the head where there is nothing else.
                    let cut = if length == 0 { 20 } else { honest.len() - length / 2 };
                    stream.write_all(&honest.as_bytes()[..cut]).await?;
                    stream.flush().await?;
                    if fault == Some(Fault::Half) {
                        return stream.shutdown().await;
                    }
                    return std::future::pending().await;
                }
                Some(Fault::Endless) if request.starts_with("HEAD") => {
                    return std::future::pending().await;
                }
                Some(Fault::Endless) => {
                    stream.write_all(b"HTTP/1.1 200 X\r\n\r\n").await?;
                    loop {
                        stream.write_all(&[b'x'; 4096]).await?;
                        stream.flush().await?;
                    }
                }
                Some(Fault::Garbage) if request.starts_with("HEAD") => {
                    "SSH-2.0-OpenSSH_9.2\r\n".to_owned()
                }
                Some(Fault::Garbage) => whole(200, "", page),
                Some(Fault::Page(status)) => {
                    let body = if request.starts_with("HEAD") { "" } else { page };
                    whole(status, "Retry-After: 120\r\n", body)
                }
                Some(Fault::Problem(status, kind)) => {
                    let kind = format!("urn:ietf:params:acme:error:{kind}");
                    let body = json!({"type": kind, "detail": "so it is", "status": status});
                    let head = request.starts_with("HEAD");
                    let body = if head { String::new() } else { body.to_string() };
                    whole(status, "Retry-After: 120\r\nReplay-Nonce: n\r\n", &body)
                }
            };
            stream.write_all(text.as_bytes()).await?;
            stream.flush().await?;
            if closes {
                return stream.shutdown().await;
            }
        }
    }
}

impl fmt::Debug for FaultyCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyCa").finish_non_exhaustive()
    }
}

impl Network for FaultyCa {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        assert_eq!(name, "ca.test");
        let quiet = self.told(|told| told.quiet);
        Box::pin(async move {
            if let Some(Quiet::Name) = quiet {
                std::future::pending::<()>().await;
            }
            Ok(vec![[192, 0, 2, 1].into(), [192, 0, 2, 2].into()])
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        assert_eq!(address.port(), 443);
        Box::pin(async move {
            let (ours, theirs) = duplex(1 << 16);
            match self.told(|told| told.quiet) {
                Some(Quiet::Connection) => return std::future::pending().await,
                Some(Quiet::Handshake) => {
                    tokio::spawn(async move {
                        let _open = theirs;
                        std::future::pending::<()>().await;
                    });
                }
                Some(Quiet::Name) | None => {
                    self.tell(|told| told.connections += 1);
                    let ca = self.clone();
                    tokio::spawn(async move { ca.serve(theirs).await });
                }
            }
            let ours: Box<dyn Stream> = Box::new(ours);
            Ok(ours)
        })
    }
}

/// Method and path, and the body; `None` at the end.
async fn read(stream: &mut TlsStream<DuplexStream>) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut octets = Vec::new();
    let end = loop {
        if let Some(at) = octets.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut octets).await? == 0 {
            return Ok(None);
        }
    };
    let mut body = octets.split_off(end + 4);
    let head = String::from_utf8_lossy(&octets).to_ascii_lowercase();
    assert!(head.contains("\r\nhost: ca.test\r\n"), "{head}");
    assert!(head.contains("\r\nuser-agent: firstlight/"), "{head}");
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let length = length.map_or(0, |length| length.parse().unwrap());
    while body.len() < length {
        stream.read_buf(&mut body).await?;
    }
    let line = String::from_utf8_lossy(&octets).into_owned();
    let mut words = line.split(' ');
    let request = format!("{} {}", words.next().unwrap(), words.next().unwrap());
    Ok(Some((request, body)))
}
