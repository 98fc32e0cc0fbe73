//! Listeners for UDP, TCP, TLS, HTTPS and QUIC: bytes in, bytes out, within bounds of memory, number and time.
//!
//! What is answered, an [`Answer`] decides.

mod accept;
mod activity;
mod doh;
mod doq;
mod latency;
mod queue;
mod stream;
mod udp;

use std::fmt::{self, Debug};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use self::accept::{Kind, StreamListen};
use self::doq::QuicListen;
pub use self::latency::{Answered, Latencies, STEPS, Spans};
use self::queue::{Place, Queue};
use self::udp::Udp;
use crate::cache::Near;
use crate::config::Config;
use crate::dns::{BoxFuture, Client, Origin};
use crate::net::{Admission, Admitted, DatagramListen, Families, KeepOpen, Refused, Slot, Tally};
use crate::node::ports::Clock;
use crate::tls::Challenges;

/// The ALPN protocol of DNS over TLS (RFC 7858 section 3.2 leaves it optional; IANA registers `dot`).
pub const ALPN_DOT: &[&[u8]] = &[b"dot"];
/// The ALPN protocols of DNS over HTTPS (RFC 8484 section 5.2), the preferred one first.
pub const ALPN_DOH: &[&[u8]] = &[b"h2", b"http/1.1"];
/// The ALPN protocol of DNS over QUIC (RFC 9250 section 4.1).
pub const ALPN_DOQ: &[&[u8]] = &[b"doq"];

/// Answers questions, whatever way they came.
pub trait Answer: Debug + Send + Sync + 'static {
    /// Answers at once if nothing has to be waited for: a local name, the cache, a refusal.
    ///
    /// `reply` is emptied, and holds the answer after [`Quick::Reply`], as of when the question
    /// arrived. Called on the thread that received the query; must not block. A thread that has a
    /// part of the cache for itself hands it over.
    fn quick(
        &self,
        query: &[u8],
        client: &Client,
        near: Option<&mut Near>,
        reply: &mut Vec<u8>,
    ) -> Quick;

    /// Answers at once with what is outdated, if there is any such thing that may be given out;
    /// `reply` is emptied, and holds the answer if so. Asked when there is no room to wait.
    fn stale(&self, _query: &[u8], _client: &Client, _reply: &mut Vec<u8>) -> bool {
        false
    }

    /// Answers after asking whom it takes, and says what stands behind the answer; `None` if there
    /// is to be none.
    ///
    /// Dropping the future gives the question up.
    fn answer(&self, query: Vec<u8>, client: Client) -> BoxFuture<'_, Option<(Vec<u8>, Origin)>>;
}

/// What [`Answer::quick`] made of a query.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Quick {
    /// The answer is in the buffer; what stands behind it.
    Reply(Origin),
    /// No answer: it was no question, or is not to be answered.
    Drop,
    /// [`Answer::answer`] has to be asked.
    Slow,
}

/// The TLS configuration for the next connection: asked at every handshake, so that certificates can change.
pub type PresentConfig = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// The TLS configurations of the encrypted listeners.
#[derive(Clone)]
pub struct Tls {
    /// For DNS over TLS; its ALPN protocols are [`ALPN_DOT`].
    pub dot: PresentConfig,
    /// For DNS over HTTPS; its ALPN protocols are [`ALPN_DOH`].
    pub doh: PresentConfig,
    /// For DNS over QUIC; its ALPN protocols are [`ALPN_DOQ`].
    pub doq: PresentConfig,
    /// What certificate authorities look for where DNS over HTTPS is served (RFC 8737).
    pub challenges: Arc<Challenges>,
}

impl Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Where to listen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Places {
    /// For UDP and TCP.
    pub dns: Vec<SocketAddr>,
    /// For DNS over TLS.
    pub dot: Vec<SocketAddr>,
    /// For DNS over HTTPS.
    pub doh: Vec<SocketAddr>,
    /// For DNS over QUIC.
    pub doq: Vec<SocketAddr>,
    /// The path of the DoH resource.
    pub path: String,
}

impl From<&Config> for Places {
    fn from(config: &Config) -> Self {
        Self {
            dns: config.dns.listen.clone(),
            dot: config.dot.listen.clone(),
            doh: config.doh.listen.clone(),
            doq: config.doq.listen.clone(),
            path: config.doh.path.clone(),
        }
    }
}

/// Bounds that hold whatever clients do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections in all, over TCP, DoT, DoH and DoQ.
    pub connections: usize,
    /// Connections of one address.
    pub connections_per_address: usize,
    /// Queries of one connection that wait for their answers at the same time.
    pub in_flight: usize,
    /// Queries that wait for their answers at the same time, of all clients; a
    /// long query counts once for each KiB.
    pub waiting: usize,
    /// HTTP request bodies, and queries over QUIC that come in pieces, under way at the same
    /// time, of all clients, in KiB; a body of unstated length counts as the longest.
    pub bodies: usize,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// From the first octet of a message to its last.
    pub message: Duration,
    /// Between an answer and the next query.
    pub idle: Duration,
    /// The same while connections or file descriptors run short.
    pub idle_pressed: Duration,
    /// For a client to take what was written to it.
    pub write: Duration,
    /// For an answer to be found.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2048,
            connections_per_address: 256,
            in_flight: 64,
            waiting: 4096,
            bodies: 16 << 10,
            handshake: Duration::from_secs(5),
            message: Duration::from_secs(3),
            idle: Duration::from_secs(15),
            idle_pressed: Duration::from_secs(2),
            write: Duration::from_secs(5),
            answer: Duration::from_secs(10),
        }
    }
}

/// What the listeners have met, counted since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Questions over TCP.
    pub tcp: Families,
    /// Questions over TLS.
    pub dot: Families,
    /// Questions over HTTPS.
    pub doh: Families,
    /// Questions over QUIC. Those over UDP are the datagrams of [`Listeners::udp_tally`].
    pub doq: Families,
    /// Queries that got no answer because they were none, or by policy.
    pub dropped: AtomicU64,
    /// Queries dropped, the oldest first, because too many were waiting.
    pub shed: AtomicU64,
    /// Queries answered with outdated data because too many were waiting.
    pub shed_stale: AtomicU64,
    /// Queries whose answer was not found in time.
    pub late: AtomicU64,
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections closed at once: their address, or everybody, had too many.
    pub refused: AtomicU64,
    /// Connections closed in favour of an address that had fewer.
    pub displaced: AtomicU64,
    /// TLS handshakes that failed or took too long.
    pub handshake_failures: AtomicU64,
    /// QUIC handshakes whose client had to prove its address first.
    pub retries: AtomicU64,
    /// Connections cut because a deadline for sending or taking octets passed.
    pub cut: AtomicU64,
    /// Failures to accept a connection.
    pub accept_errors: AtomicU64,
    /// Panics while answering; each cost one query or connection.
    pub panics: AtomicU64,
}

/// The DNS listeners.
#[derive(Debug)]
pub struct Listeners {
    udp: KeepOpen<DatagramListen<Udp>>,
    tcp: KeepOpen<StreamListen>,
    dot: KeepOpen<StreamListen>,
    doh: KeepOpen<StreamListen>,
    doq: KeepOpen<QuicListen>,
    shared: Arc<Shared>,
}

impl Listeners {
    /// Opens every address that can be opened before it returns; the others
    /// are tried again until they can. Connections and slow answers run on `runtime`; by `clock`
    /// is measured how long answers take.
    #[must_use]
    pub fn open(
        places: &Places,
        answer: Arc<dyn Answer>,
        tls: Tls,
        limits: Limits,
        clock: Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Self {
        let shared = Arc::new(Shared {
            answer,
            limits,
            clock,
            counters: Counters::default(),
            latencies: Latencies::default(),
            admission: Admission::new(limits.connections, limits.connections_per_address),
            queue: Queue::new(limits.waiting),
            bodies: Semaphore::new(limits.bodies),
            path: ArcSwap::from_pointee(places.path.clone()),
        });
        let streams = |kind, addresses: &[SocketAddr]| {
            let listen = StreamListen::new(kind, Arc::clone(&shared), runtime.clone());
            KeepOpen::start(listen, addresses, runtime)
        };
        let udp = Arc::new(Udp::new(Arc::clone(&shared), runtime.clone()));
        Self {
            udp: KeepOpen::start(
                DatagramListen::new("DNS over UDP", "dns-udp", udp),
                &places.dns,
                runtime,
            ),
            tcp: streams(Kind::Tcp, &places.dns),
            dot: streams(Kind::Dot(tls.dot), &places.dot),
            doh: streams(Kind::Doh(tls.doh, tls.challenges), &places.doh),
            doq: KeepOpen::start(
                QuicListen::new(tls.doq, Arc::clone(&shared), runtime.clone()),
                &places.doq,
                runtime,
            ),
            shared,
        }
    }

    /// Goes over to other places. Listeners in both sets, and their connections, are not touched;
    /// connections of closed listeners get the answers they wait for, and end.
    pub fn reconfigure(&self, places: &Places) {
        self.shared.path.store(Arc::new(places.path.clone()));
        self.udp.set(&places.dns);
        self.tcp.set(&places.dns);
        self.dot.set(&places.dot);
        self.doh.set(&places.doh);
        self.doq.set(&places.doq);
    }

    /// Closes every listener and sends the answers that are under way, for at most `grace`.
    /// Returns whether that was enough time for all of them.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.reconfigure(&Places::default());
        let finished = async {
            self.shared.admission.empty().await;
            // Every place is given back when every slow answer has been sent.
            self.shared.queue.empty().await;
        };
        tokio::time::timeout(grace, finished).await.is_ok()
    }

    /// The addresses that answer; where port 0 was asked for, the port in use.
    #[must_use]
    pub fn places(&self) -> Places {
        Places {
            dns: self.udp.open(),
            dot: self.dot.open(),
            doh: self.doh.open(),
            doq: self.doq.open(),
            path: self.shared.path.load().to_string(),
        }
    }

    /// The addresses that answer over TCP; [`Self::places`] has those over UDP.
    #[must_use]
    pub fn tcp(&self) -> Vec<SocketAddr> {
        self.tcp.open()
    }

    /// The addresses that cannot be served for the time being, and why.
    #[must_use]
    pub fn refused(&self) -> Vec<Refused> {
        let streams = [&self.tcp, &self.dot, &self.doh];
        let streams = streams.into_iter().flat_map(KeepOpen::refused);
        self.udp.refused().into_iter().chain(streams).chain(self.doq.refused()).collect()
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// How long questions took.
    #[must_use]
    pub fn latencies(&self) -> &Latencies {
        &self.shared.latencies
    }

    /// What the UDP threads counted.
    #[must_use]
    pub fn udp_tally(&self) -> &Tally {
        self.udp.listen().tally()
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.admission.connections()
    }
}

/// What all listeners share.
#[derive(Debug)]
struct Shared {
    answer: Arc<dyn Answer>,
    limits: Limits,
    clock: Arc<dyn Clock>,
    counters: Counters,
    latencies: Latencies,
    admission: Arc<Admission>,
    queue: Arc<Queue>,
    bodies: Semaphore,
    path: ArcSwap<String>,
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum NoAnswer {
    /// There is to be none.
    Dropped,
    /// None was found in time.
    Late,
    /// Too many were waiting.
    Shed,
}

impl Shared {
    /// A place for a connection of `client`, if there are not too many.
    fn admit(&self, client: SocketAddr, service: &'static str) -> Option<Slot> {
        let slot = match self.admission.admit(client.ip()) {
            Admitted::Yes(slot) => slot,
            Admitted::Displacing(slot) => {
                count(&self.counters.displaced);
                slot
            }
            Admitted::No => {
                count(&self.counters.refused);
                tracing::debug!(%client, service, "too many connections");
                return None;
            }
        };
        count(&self.counters.connections);
        Some(slot)
    }

    /// A place for `query` to wait for its answer, held until that is sent. `None` if it need
    /// not wait, for its answer is in `reply`.
    ///
    /// When all places are taken: outdated data if there is any, else the oldest gives way.
    fn enter(&self, query: &[u8], client: &Client, reply: &mut Vec<u8>) -> Option<Place> {
        let cost = kibibytes(query.len());
        if self.queue.is_full(cost) && self.answer.stale(query, client, reply) {
            count(&self.counters.shed_stale);
            self.answered(Origin::Stale, client);
            return None;
        }
        Some(self.queue.enter(cost).0)
    }

    /// Asks the slow side, within the deadline.
    async fn ask(
        &self,
        query: Vec<u8>,
        client: Client,
        place: &Place,
    ) -> Result<Vec<u8>, NoAnswer> {
        let _count = CountPanic(&self.counters.panics);
        let answer = self.answer.answer(query, client);
        let answered = tokio::select! {
            answered = tokio::time::timeout(self.limits.answer, answer) => answered,
            () = place.displaced() => {
                count(&self.counters.shed);
                return Err(NoAnswer::Shed);
            }
        };
        match answered {
            Ok(Some((answer, origin))) => {
                self.answered(origin, &client);
                Ok(answer)
            }
            Ok(None) => {
                count(&self.counters.dropped);
                Err(NoAnswer::Dropped)
            }
            Err(_) => {
                count(&self.counters.late);
                Err(NoAnswer::Late)
            }
        }
    }

    /// Takes note of an answer to `client`.
    fn answered(&self, origin: Origin, client: &Client) {
        let mut answered = Answered::default();
        answered.add(origin);
        self.answered_together(&mut answered, client.arrived);
    }

    /// Takes note of answers to what arrived together; none of them is left in `answered`.
    fn answered_together(&self, answered: &mut Answered, arrived: Instant) {
        if !answered.is_empty() {
            let took = self.clock.mono().saturating_duration_since(arrived);
            self.latencies.note(answered, took);
        }
    }
}

/// What `len` octets count for in a bound on memory.
const fn kibibytes(len: usize) -> usize {
    len / 1024 + 1
}

/// Counts a panic that unwinds through its scope; the task's runtime catches it.
struct CountPanic<'a>(&'a AtomicU64);

impl Drop for CountPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            count(self.0);
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
