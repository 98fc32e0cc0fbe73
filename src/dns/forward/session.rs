//! One encrypted connection to an upstream, with many questions under way.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::doq::Doq;
use super::message::{Outgoing, Reply};
use crate::cache::ChainId;
use crate::config::{self, Transport};
use crate::metered::{Meter, Purpose};
use crate::net::Counted;
use crate::tls::{CertError, Verifier, cert_error};
use crate::upstream::Endpoint;

/// Where a connection goes and how it is spoken on.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    pub(super) server_name: ServerName<'static>,
    pub(super) transport: Transport,
    /// Path of the query resource (DoH).
    pub(super) path: String,
    /// How it is asked (DoH).
    pub(super) method: config::Method,
}

impl Target {
    /// The protocols offered (RFC 7301): `dot`, or `h2`.
    pub(super) fn alpn(&self) -> &'static [&'static [u8]] {
        match self.transport {
            Transport::Doh => &[b"h2"],
            Transport::Doq => &[b"doq"],
            Transport::Dot => &[b"dot"],
        }
    }
}

/// An open connection. It closes by itself when the peer closes it, when
/// nothing was asked for a while, and when it is dropped.
#[derive(Debug)]
pub(super) struct Session {
    exchange: Exchange,
    chain: Vec<CertificateDer<'static>>,
    relaxed: Mutex<Option<ChainId>>,
    line: Arc<Line>,
    driver: AbortHandle,
}

impl Session {
    /// Connects and shakes hands with `target` and starts the connection's
    /// task. Whoever calls bounds the time it may take.
    pub(super) async fn open(
        target: &Target,
        tls: Arc<ClientConfig>,
        verifier: &Arc<Verifier>,
        meter: &Arc<Meter>,
    ) -> Result<Self, ConnectError> {
        let line = Arc::new(Line::default());
        if target.transport == Transport::Doq {
            let (doq, chain, driver) = Doq::open(target, &tls, verifier, meter, &line).await?;
            let exchange = Exchange::Doq(doq);
            return Ok(Self { exchange, chain, relaxed: Mutex::new(None), line, driver });
        }
        let tcp = TcpStream::connect(target.endpoint.address).await.map_err(ConnectError::Tcp)?;
        tcp.set_nodelay(true).map_err(ConnectError::Tcp)?;
        let tcp = Counted::new(tcp, Arc::clone(meter), Purpose::Names);
        let stream = TlsConnector::from(tls)
            .connect(target.server_name.clone(), tcp)
            .await
            .map_err(ConnectError::from_handshake)?;
        let connection = stream.get_ref().1;
        let chain: Vec<_> = connection
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|der| der.clone().into_owned())
            .collect();
        let (exchange, driver) = match target.transport {
            Transport::Dot => Dot::start(stream, &line),
            Transport::Doh if connection.alpn_protocol() == Some(b"h2") => {
                Doh::start(target, stream, &line).await?
            }
            Transport::Doh | Transport::Doq => {
                return Err(ConnectError::Http("no HTTP/2 (ALPN h2)".to_owned()));
            }
        };
        Ok(Self { exchange, chain, relaxed: Mutex::new(None), line, driver })
    }

    /// Asks `outgoing` and waits for its answer, which has been checked against it.
    pub(super) async fn exchange(
        &self,
        outgoing: &Arc<Outgoing>,
    ) -> Result<Vec<u8>, ExchangeError> {
        self.line.used.fetch_add(1, Ordering::Relaxed);
        match &self.exchange {
            Exchange::Dot(dot) => dot.exchange(outgoing).await,
            Exchange::Doh(doh) => doh.exchange(outgoing, &self.line).await,
            Exchange::Doq(doq) => doq.exchange(outgoing, &self.line).await,
        }
    }

    /// The peer's certificates, leaf first.
    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The chain's id while its dates have passed rule R alone.
    pub(super) fn relaxed(&self) -> Option<ChainId> {
        *locked(&self.relaxed)
    }

    pub(super) fn set_relaxed(&self, relaxed: Option<ChainId>) {
        *locked(&self.relaxed) = relaxed;
    }

    /// How many messages have come in.
    pub(super) fn heard(&self) -> u64 {
        self.line.heard.load(Ordering::Relaxed)
    }

    /// Ends it at once; whatever is under way fails.
    pub(super) fn close(&self) {
        self.line.closed.store(true, Ordering::Release);
        self.driver.abort();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.line.closed.load(Ordering::Acquire)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Certificate(CertError),
    #[error("HTTP: {0}")]
    Http(String),
    #[error("QUIC: {0}")]
    Quic(String),
    #[error("no TCP connection: {0}")]
    Tcp(io::Error),
    #[error("no connection within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("TLS: {0}")]
    Tls(io::Error),
}

impl ConnectError {
    fn from_handshake(error: io::Error) -> Self {
        match cert_error(&error) {
            Some(reason) => Self::Certificate(reason.clone()),
            None => Self::Tls(error),
        }
    }
}

/// Why a question got no answer on a connection.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("the connection closed")]
    Closed,
    #[error("too many questions are already waiting on the connection")]
    Full,
    #[error("HTTP: {0}")]
    Http(String),
    #[error("QUIC: {0}")]
    Quic(String),
    #[error("the answer is of no use: an error without question, or cut short")]
    Useless,
    #[error("the answer is to another question")]
    Foreign,
}

/// Questions waiting on one connection at most.
pub(super) const MAX_WAITING: usize = 256;
/// A connection on which nothing happened twice as long is closed.
const IDLE_TICK: Duration = Duration::from_secs(15);
/// Octets waiting to be written on one connection at most.
const MAX_UNWRITTEN: usize = 128 << 10;

/// What the task of a connection and its users tell each other.
#[derive(Debug, Default)]
pub(super) struct Line {
    closed: AtomicBool,
    heard: AtomicU64,
    used: AtomicU64,
}

impl Line {
    /// Notes that a message has come in.
    pub(super) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns when nothing was asked or heard for a while.
    pub(super) async fn idle(&self) {
        let now = || (self.used.load(Ordering::Relaxed), self.heard.load(Ordering::Relaxed));
        let (mut seen, mut quiet) = (now(), 0);
        while quiet < 2 {
            tokio::time::sleep(IDLE_TICK).await;
            quiet = if now() == seen { quiet + 1 } else { 0 };
            seen = now();
        }
    }
}

#[derive(Debug)]
enum Exchange {
    Doh(Doh),
    Doq(Doq),
    Dot(Dot),
}

/// DNS over TLS (RFC 7858): messages behind their lengths, answered in any order.
#[derive(Debug)]
struct Dot {
    outbox: Arc<Outbox<WriteHalf<TlsStream<Counted<TcpStream>>>>>,
    waiting: Arc<Waiting>,
}

impl Dot {
    fn start(stream: TlsStream<Counted<TcpStream>>, line: &Arc<Line>) -> (Exchange, AbortHandle) {
        let waiting = Arc::new(Waiting(Mutex::new(Some(BTreeMap::new()))));
        let (reader, writer) = tokio::io::split(stream);
        let outbox = Arc::new(Outbox::new(writer));
        let dot = Self { outbox: Arc::clone(&outbox), waiting: Arc::clone(&waiting) };
        let line = Arc::clone(line);
        let driver = tokio::spawn(async move {
            let _end = End { line: Arc::clone(&line), waiting: Some(Arc::clone(&waiting)) };
            tokio::select! {
                // A peer that closes or garbles is no news beyond the questions it leaves open.
                _ = Self::read(reader, &waiting, &line) => {}
                _ = outbox.keep_moving() => {}
                () = line.idle() => {}
            }
        });
        (Exchange::Dot(dot), driver.abort_handle())
    }

    async fn exchange(&self, outgoing: &Arc<Outgoing>) -> Result<Vec<u8>, ExchangeError> {
        let (ticket, answer) = Waiting::enter(&self.waiting, outgoing)?;
        self.outbox.send(&outgoing.framed(ticket.id))?;
        answer.await.map_err(|_| ExchangeError::Closed)?
    }

    async fn read(
        mut reader: ReadHalf<TlsStream<Counted<TcpStream>>>,
        waiting: &Waiting,
        line: &Line,
    ) -> io::Result<()> {
        loop {
            let len = reader.read_u16().await?;
            let mut message = vec![0; usize::from(len)];
            reader.read_exact(&mut message).await?;
            line.hear();
            waiting.deliver(message);
        }
    }
}

/// The writing half of a connection. Whoever has a frame writes it, without waiting; what the
/// peer does not take at once is left to the connection's task.
#[derive(Debug)]
struct Outbox<W> {
    out: Mutex<Out<W>>,
    stuck: Notify,
}

#[derive(Debug)]
struct Out<W> {
    writer: W,
    unwritten: Vec<u8>,
    /// Left to the connection's task, until the peer has taken all of it.
    stuck: bool,
}

impl<W: AsyncWrite + Unpin> Outbox<W> {
    fn new(writer: W) -> Self {
        let out = Out { writer, unwritten: Vec::new(), stuck: false };
        Self { out: Mutex::new(out), stuck: Notify::new() }
    }

    fn send(&self, frame: &[u8]) -> Result<(), ExchangeError> {
        let mut out = locked(&self.out);
        if out.unwritten.len() + frame.len() > MAX_UNWRITTEN {
            return Err(ExchangeError::Full);
        }
        out.unwritten.extend_from_slice(frame);
        if out.stuck {
            return Ok(());
        }
        if !matches!(out.push(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))) {
            // No room, or broken: the task is to find out which.
            out.stuck = true;
            self.stuck.notify_one();
        }
        Ok(())
    }

    /// Writes what is stuck, as the peer takes it. Ends with the connection.
    async fn keep_moving(&self) -> io::Result<()> {
        loop {
            self.stuck.notified().await;
            poll_fn(|context| {
                let mut out = locked(&self.out);
                ready!(out.push(context))?;
                out.stuck = false;
                Poll::Ready(io::Result::Ok(()))
            })
            .await?;
        }
    }
}

impl<W: AsyncWrite + Unpin> Out<W> {
    /// Writes as much as the peer takes; ready when that is all.
    fn push(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { writer, unwritten, .. } = self;
        while !unwritten.is_empty() {
            let written = ready!(Pin::new(&mut *writer).poll_write(context, unwritten))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            unwritten.drain(..written);
        }
        Pin::new(writer).poll_flush(context)
    }
}

type Answer = Result<Vec<u8>, ExchangeError>;

/// The questions under way on a connection by their ids; `None` once it is closed.
#[derive(Debug)]
pub(super) struct Waiting(Mutex<Option<BTreeMap<u16, Waiter>>>);

#[derive(Debug)]
struct Waiter {
    outgoing: Arc<Outgoing>,
    answer: oneshot::Sender<Answer>,
}

impl Waiting {
    /// Registers a question under a random free id.
    fn enter(
        this: &Arc<Self>,
        outgoing: &Arc<Outgoing>,
    ) -> Result<(Ticket, oneshot::Receiver<Answer>), ExchangeError> {
        let mut open = locked(&this.0);
        let waiters = open.as_mut().ok_or(ExchangeError::Closed)?;
        if waiters.len() >= MAX_WAITING {
            return Err(ExchangeError::Full);
        }
        // 255 of 65536 ids are taken at most.
        let mut id = rand::random();
        while waiters.contains_key(&id) {
            id = rand::random();
        }
        let (answer, receiver) = oneshot::channel();
        waiters.insert(id, Waiter { outgoing: Arc::clone(outgoing), answer });
        Ok((Ticket { id, waiting: Arc::clone(this) }, receiver))
    }

    /// Gives `message` to whom it answers; one that answers nobody is dropped.
    fn deliver(&self, message: Vec<u8>) {
        let Some(&[high, low]) = message.get(..2) else { return };
        let id = u16::from_be_bytes([high, low]);
        let mut open = locked(&self.0);
        let Some(waiters) = open.as_mut() else { return };
        let Some(waiter) = waiters.get(&id) else { return };
        let answer = match waiter.outgoing.judge(&message) {
            Reply::Answer => Ok(message),
            Reply::Useless => Err(ExchangeError::Useless),
            Reply::Foreign => {
                tracing::debug!("an upstream's answer is not to the question with its id");
                return;
            }
        };
        if let Some(waiter) = waiters.remove(&id) {
            // Whoever asked may have left.
            let _ = waiter.answer.send(answer);
        }
    }
}

/// A place among the [`Waiting`], given up when dropped.
#[derive(Debug)]
struct Ticket {
    id: u16,
    waiting: Arc<Waiting>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(waiters) = locked(&self.waiting.0).as_mut() {
            waiters.remove(&self.id);
        }
    }
}

/// DNS over HTTPS (RFC 8484) on HTTP/2.
#[derive(Debug)]
struct Doh {
    requests: http2::SendRequest<Full<Bytes>>,
    places: Semaphore,
    uri: String,
    method: config::Method,
}

impl Doh {
    async fn start(
        target: &Target,
        stream: TlsStream<Counted<TcpStream>>,
        line: &Arc<Line>,
    ) -> Result<(Exchange, AbortHandle), ConnectError> {
        let http = |error: hyper::Error| ConnectError::Http(error.to_string());
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(16 << 10)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(http)?;
        let line = Arc::clone(line);
        let driver = tokio::spawn(async move {
            let _end = End { line: Arc::clone(&line), waiting: None };
            tokio::select! {
                _ = connection => {}
                () = line.idle() => {}
            }
        });
        let Endpoint { name, address, .. } = &target.endpoint;
        let uri = match address.port() {
            443 => format!("https://{name}{}", target.path),
            port => format!("https://{name}:{port}{}", target.path),
        };
        let places = Semaphore::new(MAX_WAITING);
        Ok((
            Exchange::Doh(Self { requests, places, uri, method: target.method }),
            driver.abort_handle(),
        ))
    }

    async fn exchange(
        &self,
        outgoing: &Arc<Outgoing>,
        line: &Line,
    ) -> Result<Vec<u8>, ExchangeError> {
        let _place = self.places.try_acquire().map_err(|_| ExchangeError::Full)?;
        let http = |error: &dyn std::fmt::Display| ExchangeError::Http(error.to_string());
        let request = self.request(outgoing).map_err(|error| http(&error))?;
        let mut requests = self.requests.clone();
        requests.ready().await.map_err(|_| ExchangeError::Closed)?;
        let response = requests.send_request(request).await.map_err(|error| {
            if line.closed.load(Ordering::Acquire) || error.is_canceled() || error.is_closed() {
                ExchangeError::Closed
            } else {
                http(&error)
            }
        })?;
        line.hear();
        if response.status() != StatusCode::OK {
            return Err(ExchangeError::Http(format!("status {}", response.status())));
        }
        let kind = response.headers().get(header::CONTENT_TYPE);
        if kind.is_none_or(|kind| !kind.as_bytes().starts_with(DNS_MESSAGE.as_bytes())) {
            return Err(ExchangeError::Http(format!("the content is not {DNS_MESSAGE}")));
        }
        let body = Limited::new(response.into_body(), usize::from(u16::MAX));
        let message = body.collect().await.map_err(|error| http(&error))?.to_bytes();
        match outgoing.judge(&message) {
            Reply::Answer => Ok(message.into()),
            Reply::Useless => Err(ExchangeError::Useless),
            Reply::Foreign => Err(ExchangeError::Foreign),
        }
    }

    /// The id is 0, so that equal questions make equal requests (RFC 8484 section 4.1).
    fn request(&self, outgoing: &Outgoing) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let (request, message) = (Request::builder(), outgoing.message(0));
        let request = request.header(header::ACCEPT, DNS_MESSAGE);
        match self.method {
            config::Method::Get => {
                let query = BASE64URL_NOPAD.encode(&message);
                request.uri(format!("{}?dns={query}", self.uri)).body(Full::default())
            }
            config::Method::Post => request
                .method(Method::POST)
                .uri(&self.uri)
                .header(header::CONTENT_TYPE, DNS_MESSAGE)
                .body(Full::new(message.into())),
        }
    }
}

/// The media type of RFC 8484 section 6.
const DNS_MESSAGE: &str = "application/dns-message";

/// Dropped with a connection's task, however that ends.
pub(super) struct End {
    pub(super) line: Arc<Line>,
    pub(super) waiting: Option<Arc<Waiting>>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.line.closed.store(true, Ordering::Release);
        if let Some(waiting) = &self.waiting {
            locked(&waiting.0).take();
        }
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_slow_peer_does_not_take_at_once_follows_in_order() {
        let (ours, mut peer) = tokio::io::duplex(8);
        let outbox = Arc::new(Outbox::new(ours));
        let mover = Arc::clone(&outbox);
        let driver = tokio::spawn(async move { mover.keep_moving().await });
        let frames: Vec<[u8; 5]> = (0..100).map(|frame| [frame; 5]).collect();

        for frame in &frames {
            outbox.send(frame).unwrap();
        }
        let mut taken = vec![0; 500];
        peer.read_exact(&mut taken).await.unwrap();
        outbox.send(b"end").unwrap();
        let mut end = [0; 3];
        peer.read_exact(&mut end).await.unwrap();

        assert_eq!((taken, &end), (frames.concat(), b"end"));
        driver.abort();
    }

    #[tokio::test]
    async fn what_waits_to_be_written_is_bounded() {
        let (ours, _peer) = tokio::io::duplex(8);
        let outbox = Outbox::new(ours);

        let sent = (0..1000).take_while(|_| outbox.send(&[0; 1 << 10]).is_ok()).count();

        assert_eq!(sent, MAX_UNWRITTEN >> 10);
    }

    #[tokio::test]
    async fn a_connection_that_breaks_while_it_is_written_to_ends_its_task() {
        let (ours, peer) = tokio::io::duplex(8);
        drop(peer);
        let outbox = Outbox::new(ours);

        outbox.send(b"question").unwrap();

        assert!(outbox.keep_moving().await.is_err());
    }
}
