//! A client like any other, which notes how long it waits.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use super::{Ground, connect, tls};
use crate::lab::clients::question;
use crate::lab::now;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(2);
/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// How it asks.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Way {
    Udp,
    /// On a connection that is kept.
    Tcp,
    Dot,
    Doh,
    /// On a connection of its own.
    NewTcp,
    NewDot,
    NewDoh,
}

impl Way {
    const ALL: [Self; 7] =
        [Self::Udp, Self::Tcp, Self::Dot, Self::Doh, Self::NewTcp, Self::NewDot, Self::NewDoh];
}

/// The client at work, in a thread that nobody else uses.
#[derive(Debug)]
pub(crate) struct Honest {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Report>,
}

impl Honest {
    /// Asks for `names` in turn, from the address `from`, one way after the other.
    pub(crate) fn start(ground: Ground, from: Ipv4Addr, names: &'static [&'static str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let client = Client { ground, from, udp: None, tcp: None, dot: None, doh: None };
            runtime.block_on(ask_all(client, names, &ended))
        });
        Self { stop, thread }
    }

    pub(crate) fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// How long it waited, each way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    waits: BTreeMap<Way, Vec<Duration>>,
    /// Questions without a good answer, and why.
    pub(crate) lost: Vec<(Way, String)>,
}

impl Report {
    /// What so many in a hundred questions took at most, on the way that fares worst.
    pub(crate) fn wait(&self, percent: usize) -> Duration {
        self.waits.values().map(|waits| quantile(waits, percent)).max().unwrap_or_default()
    }

    /// Whether every way was tried often enough for that to mean something.
    pub(crate) fn is_telling(&self) -> bool {
        Way::ALL.iter().all(|way| self.waits.get(way).is_some_and(|waits| waits.len() >= 5))
    }
}

/// Milliseconds at the median and for 99 in 100, way by way.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        for (way, waits) in &self.waits {
            let [half, most] = [50, 99].map(|percent| quantile(waits, percent).as_secs_f64() * 1e3);
            write!(line, "{way:?} {half:.1}/{most:.1} ms ({}), ", waits.len())?;
        }
        f.write_str(line.trim_end_matches(", "))?;
        if self.lost.is_empty() { Ok(()) } else { write!(f, "; LOST {:?}", self.lost) }
    }
}

fn quantile(waits: &[Duration], percent: usize) -> Duration {
    let mut sorted = waits.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() * percent / 100).or(sorted.last()).copied().unwrap_or_default()
}

async fn ask_all(mut client: Client, names: &[&str], stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    for name in names.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
        for way in Way::ALL {
            let (id, query) = question(name);
            let began = now();
            let answered = timeout(PATIENCE, client.ask(way, &query)).await;
            let waited = now().saturating_duration_since(began);
            let lost = match answered {
                Ok(Ok(answer)) if is_good(&answer, id, &query) => None,
                Ok(Ok(answer)) => Some(format!("{answer:?}")),
                Ok(Err(failure)) => Some(failure.to_string()),
                Err(_) => Some("no answer".to_owned()),
            };
            if let Some(why) = lost {
                report.lost.push((way, why));
                client.forget(way);
            } else {
                report.waits.entry(way).or_default().push(waited);
            }
            sleep(PAUSE).await;
        }
    }
    report
}

/// Whether it answers the question, and not with an error.
fn is_good(answer: &[u8], id: u16, query: &[u8]) -> bool {
    answer.len() > query.len() && answer[..2] == id.to_be_bytes() && answer[3] << 4 == 0
}

struct Client {
    ground: Ground,
    from: Ipv4Addr,
    udp: Option<UdpSocket>,
    tcp: Option<TcpStream>,
    dot: Option<TlsStream<TcpStream>>,
    doh: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    async fn ask(&mut self, way: Way, query: &[u8]) -> Result<Vec<u8>, Failure> {
        let (from, ground) = (self.from, self.ground);
        match way {
            Way::Udp => {
                let socket = match &mut self.udp {
                    Some(socket) => socket,
                    none => none.insert(udp(from, ground.dns).await?),
                };
                socket.send(query).await?;
                let mut answer = vec![0; 4096];
                let len = socket.recv(&mut answer).await?;
                answer.truncate(len);
                Ok(answer)
            }
            Way::Tcp => {
                let stream = match &mut self.tcp {
                    Some(stream) => stream,
                    none => none.insert(connect(from, ground.dns).await?),
                };
                exchange(stream, query).await
            }
            Way::Dot => {
                let stream = match &mut self.dot {
                    Some(stream) => stream,
                    none => none.insert(tls(from, ground.dot, b"dot").await?),
                };
                exchange(stream, query).await
            }
            Way::Doh => {
                let sender = match &mut self.doh {
                    Some(sender) => sender,
                    none => none.insert(http(from, ground.doh).await?),
                };
                post(sender, query).await
            }
            Way::NewTcp => exchange(&mut connect(from, ground.dns).await?, query).await,
            Way::NewDot => exchange(&mut tls(from, ground.dot, b"dot").await?, query).await,
            Way::NewDoh => post(&mut http(from, ground.doh).await?, query).await,
        }
    }

    /// What failed is made anew.
    fn forget(&mut self, way: Way) {
        match way {
            Way::Udp => self.udp = None,
            Way::Tcp => self.tcp = None,
            Way::Dot => self.dot = None,
            Way::Doh => self.doh = None,
            Way::NewTcp | Way::NewDot | Way::NewDoh => {}
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn udp(from: Ipv4Addr, to: SocketAddr) -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::bind((from, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    query: &[u8],
) -> Result<Vec<u8>, Failure> {
    let len = u16::try_from(query.len())?;
    stream.write_all(&[&len.to_be_bytes(), query].concat()).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; len.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

async fn http(from: Ipv4Addr, to: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let stream = TokioIo::new(tls(from, to, b"h2").await?);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn post(sender: &mut SendRequest<Full<Bytes>>, query: &[u8]) -> Result<Vec<u8>, Failure> {
    let request = Request::post("https://dns.home.lan/dns-query")
        .header("content-type", "application/dns-message")
        .body(Full::from(query.to_vec()))?;
    let response = sender.send_request(request).await?;
    Ok(response.into_body().collect().await?.to_bytes().into())
}
