//! DNS over QUIC (RFC 9250): accepts connections, within bounds of their number and of handshakes.
//!
//! QUIC itself is quinn's: its endpoint moves datagrams, one task for each connection.

mod connection;
mod handshakes;
mod query;

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicServerConfig};
use quinn::{
    Connecting, ConnectionError, Endpoint, EndpointConfig, Incoming, Runtime, ServerConfig,
    TimeSource, TokioRuntime, TransportConfig, VarInt,
};
use rustls::server::ResolvesServerCertUsingSni;
use tokio::runtime::Handle;
use tokio::sync::watch;

use self::handshakes::Handshakes;
use super::accept::Link;
use super::{Limits, PresentConfig, Shared, count};
use crate::net::{Listen, bind};
use crate::tls::provider;

const SERVICE: &str = "DNS over QUIC";
/// The version of QUIC that RFC 9250 is written for (RFC 9000 section 15).
const VERSION_1: u32 = 1;
/// Queries of one connection under way at the same time.
const MAX_STREAMS: u32 = 100;
/// What a client may send ahead of being read, on one stream and on all together. The longest
/// query and its length fit.
const MAX_WINDOW: u32 = 68 << 10;
/// Answers of one connection that the client has not acknowledged.
const SEND_WINDOW: u64 = 128 << 10;
/// How long a round trip is taken to be before it is measured: on a LAN less than the 333 ms of
/// RFC 9002 section 6.2.2, so that a lost packet does not delay a handshake by a second.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// How long QUIC remembers a connection whose handshake failed: three probe timeouts
/// (RFC 9000 section 10.2), each three times [`INITIAL_RTT`], and some more.
const LINGER: Duration = Duration::from_secs(1);
/// First packets that may wait to be looked at.
const MAX_INCOMING: usize = 1024;
/// Octets that may come behind a first packet before it is looked at, of one client and of all.
const MAX_BEHIND: [u64; 2] = [16 << 10, 1 << 20];
/// Pause after an error of the socket.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The error codes of RFC 9250 section 4.3.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Code {
    NoError = 0,
    Internal = 1,
    Protocol = 2,
    RequestCancelled = 3,
    ExcessiveLoad = 4,
    Unspecified = 5,
}

impl From<Code> for VarInt {
    fn from(code: Code) -> Self {
        Self::from_u32(code as u32)
    }
}

/// How a connection is closed, and why, for whoever has to find out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct End {
    code: Code,
    why: &'static str,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("newer ones needed its place")]
    GaveWay,
    #[error("it took too long")]
    Late,
    #[error(transparent)]
    Quic(#[from] ConnectionError),
    #[error(transparent)]
    Unfit(#[from] NoInitialCipherSuite),
}

/// Listeners for DNS over QUIC.
pub(super) struct QuicListen {
    present: PresentConfig,
    shared: Arc<Shared>,
    handshakes: Arc<Handshakes>,
    runtime: Handle,
}

impl QuicListen {
    pub(super) fn new(present: PresentConfig, shared: Arc<Shared>, runtime: Handle) -> Self {
        Self { present, shared, handshakes: Arc::default(), runtime }
    }
}

impl Listen for QuicListen {
    type Guard = Listening;

    fn listen(&self, address: SocketAddr) -> io::Result<(SocketAddr, Listening)> {
        let socket = bind::quic(address)?;
        let local = socket.local_addr()?;
        let (open, closing) = watch::channel(());
        let _context = self.runtime.enter();
        let acceptor = Acceptor {
            server: Arc::new(Server::new(&socket, &self.present, &self.shared.limits)?),
            socket,
            shared: Arc::clone(&self.shared),
            handshakes: Arc::clone(&self.handshakes),
            closing,
        };
        self.runtime.spawn(acceptor.run());
        Ok((local, Listening { _open: open }))
    }

    fn service(&self) -> &'static str {
        SERVICE
    }
}

impl fmt::Debug for QuicListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicListen").finish_non_exhaustive()
    }
}

/// A listener at work. Dropped, it lets nobody in any more, and its connections finish; the
/// address is free when they have, since the socket is theirs too.
#[derive(Debug)]
pub(super) struct Listening {
    /// Dropping it tells the acceptor and every connection.
    _open: watch::Sender<()>,
}

/// An endpoint of QUIC, and what its handshakes are made with.
struct Server {
    endpoint: Endpoint,
    config: ServerConfig,
    present: PresentConfig,
}

impl Server {
    /// Must be called within a runtime.
    fn new(socket: &UdpSocket, present: &PresentConfig, limits: &Limits) -> io::Result<Self> {
        let config = server_config(limits).map_err(io::Error::other)?;
        let mut of_endpoint = EndpointConfig::default();
        of_endpoint.supported_versions(vec![VERSION_1]);
        let endpoint = Endpoint::new(
            of_endpoint,
            Some(config.clone()),
            socket.try_clone()?,
            Arc::new(TokioRuntime),
        )?;
        Ok(Self { endpoint, config, present: Arc::clone(present) })
    }

    /// Goes on with the handshake that `incoming` begins.
    fn accept(&self, incoming: Incoming) -> Result<Connecting, Failure> {
        let mut config = self.config.clone();
        config.crypto = Arc::new(QuicServerConfig::try_from((self.present)())?);
        Ok(incoming.accept_with(Arc::new(config))?)
    }
}

/// All that does not change from one handshake to the next.
fn server_config(limits: &Limits) -> Result<ServerConfig, NoInitialCipherSuite> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(MAX_STREAMS.into())
        // RFC 9250 section 4.3.3 has no use for them.
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(MAX_WINDOW.into())
        .receive_window(MAX_WINDOW.into())
        .send_window(SEND_WINDOW)
        .initial_rtt(INITIAL_RTT)
        // An answer on its way is no silence. Clients that only keep alive are closed by us.
        .max_idle_timeout(limits.idle.max(limits.answer).try_into().ok())
        // The length of a packet tells nothing of the name in it (RFC 9250 section 5.4).
        .pad_to_mtu(true);
    let mut config = ServerConfig::with_crypto(Arc::new(keys_of_first_packets()?));
    config
        .transport_config(Arc::new(transport))
        // Caps and policy know a client by its address.
        .migration(false)
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(MAX_BEHIND[0])
        .incoming_buffer_size_total(MAX_BEHIND[1])
        .time_source(Arc::new(Uptime(TokioRuntime.now())));
    Ok(config)
}

/// For the keys of first packets, which are no secret (RFC 9001 section 5.2). Our certificate
/// is asked for when there is a handshake: before the first it need not exist.
fn keys_of_first_packets() -> Result<QuicServerConfig, NoInitialCipherSuite> {
    let nobody = Arc::new(ResolvesServerCertUsingSni::new());
    match rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
    {
        Ok(builder) => builder.with_no_client_auth().with_cert_resolver(nobody).try_into(),
        Err(error) => unreachable!("ring supports TLS 1.3: {error}"),
    }
}

/// What the proofs of addresses are dated by: no step of a clock ages them.
struct Uptime(Instant);

impl TimeSource for Uptime {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + TokioRuntime.now().saturating_duration_since(self.0)
    }
}

struct Acceptor {
    server: Arc<Server>,
    socket: UdpSocket,
    shared: Arc<Shared>,
    handshakes: Arc<Handshakes>,
    closing: watch::Receiver<()>,
}

impl Acceptor {
    async fn run(mut self) {
        loop {
            let incoming = tokio::select! {
                biased;
                _ = self.closing.changed() => break,
                incoming = self.server.endpoint.accept() => incoming,
            };
            match incoming {
                Some(incoming) => self.welcome(incoming),
                None => self.renew().await,
            }
        }
        self.server.endpoint.set_server_config(None);
    }

    fn welcome(&self, incoming: Incoming) {
        let client = incoming.remote_address();
        if self.handshakes.must_prove(incoming.remote_address_validated()) {
            count(&self.shared.counters.retries);
            // Only who has proven its address may not be asked for that.
            let _ = incoming.retry();
            return;
        }
        let Some(slot) = self.shared.admit(client, SERVICE) else { return incoming.refuse() };
        let link = Link { shared: Arc::clone(&self.shared), slot, closing: self.closing.clone() };
        let handshake = self.handshakes.begin();
        tokio::spawn(connection::run(incoming, handshake, Arc::clone(&self.server), link));
    }

    /// Begins anew on the same socket after an error that ended the endpoint.
    async fn renew(&mut self) {
        count(&self.shared.counters.accept_errors);
        tokio::time::sleep(ERROR_PAUSE).await;
        match Server::new(&self.socket, &self.server.present, &self.shared.limits) {
            Ok(server) => self.server = Arc::new(server),
            Err(error) => tracing::warn!(service = SERVICE, %error, "cannot go on; will try again"),
        }
    }
}
