//! The server's side of the key exchange (RFC 8915 section 4), within bounds.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::cookies::CookieKeys;
use super::records::{BAD_REQUEST, BadMessage, Message, UNRECOGNIZED_CRITICAL};
use super::{AEAD, ALPN, COOKIES, KeyPair, NTPV4};
use crate::net::{Accepting, Admission, Listen, Slot, Welcome};

/// Exchanges under way at most, in all and with one address.
const MOST: usize = 64;
const MOST_OF_ONE: usize = 4;
/// For handshake, question and answer together.
const DEADLINE: Duration = Duration::from_secs(5);

/// Gives the TLS configuration of the moment.
pub type PresentConfig = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// Gives clients keys and cookies for the NTP server beside it.
pub struct KeyExchange {
    config: PresentConfig,
    keys: Box<dyn Fn() -> Option<Arc<CookieKeys>> + Send + Sync>,
    /// Where NTP is served.
    port: AtomicU16,
    admission: Arc<Admission>,
    runtime: Handle,
    counts: Counts,
}

/// What became of the connections.
#[derive(Debug, Default)]
pub struct Counts {
    /// Got keys and cookies.
    pub exchanged: AtomicU64,
    /// Closed at once: too many at a time.
    pub refused: AtomicU64,
    /// Ended without: a failed handshake, a broken request, a deadline.
    pub failed: AtomicU64,
}

impl KeyExchange {
    /// Shows the certificate of `config`, and makes cookies with what `keys` gives.
    #[must_use]
    pub fn new(
        config: PresentConfig,
        keys: impl Fn() -> Option<Arc<CookieKeys>> + Send + Sync + 'static,
        runtime: Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            keys: Box::new(keys),
            port: AtomicU16::new(123),
            admission: Admission::new(MOST, MOST_OF_ONE),
            runtime,
            counts: Counts::default(),
        })
    }

    /// From here on clients are sent to this port for NTP.
    pub fn set_ntp_port(&self, port: u16) {
        self.port.store(port, Ordering::Relaxed);
    }

    /// What became of the connections so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    async fn serve(self: Arc<Self>, tcp: TcpStream, client: IpAddr, _place: Slot) {
        let count = match timeout(DEADLINE, self.exchange(tcp)).await {
            Ok(Ok(())) => &self.counts.exchanged,
            Ok(Err(error)) => {
                tracing::debug!(%client, %error, "NTS key exchange failed");
                &self.counts.failed
            }
            Err(_) => &self.counts.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    async fn exchange(&self, tcp: TcpStream) -> io::Result<()> {
        let mut stream = TlsAcceptor::from((self.config)()).accept(tcp).await?;
        let (_, tls) = stream.get_ref();
        if tls.alpn_protocol() != Some(ALPN) {
            return Err(io::Error::other("the client does not offer ntske/1"));
        }
        let keys = KeyPair::export(tls).map_err(io::Error::other)?;
        self.answer(&mut stream, &keys).await
    }

    async fn answer(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        pair: &KeyPair,
    ) -> io::Result<()> {
        let request = Message::read(stream).await;
        let answer = match &request {
            Ok(request) => self.respond(request, pair),
            Err(BadMessage::UnknownCritical) => Message::failure(UNRECOGNIZED_CRITICAL),
            Err(BadMessage::Malformed) => Message::failure(BAD_REQUEST),
            Err(BadMessage::Length) => return Err(io::Error::other("the request is cut short")),
        };
        stream.write_all(&answer.emit()).await?;
        stream.flush().await?;
        stream.shutdown().await?;
        if answer.cookies.is_empty() {
            return Err(io::Error::other("the request asks for nothing that is served"));
        }
        Ok(())
    }

    fn respond(&self, request: &Message, pair: &KeyPair) -> Message {
        let (Some(protocols), Some(algorithms)) = (&request.protocols, &request.algorithms) else {
            return Message::failure(BAD_REQUEST);
        };
        // Nothing in common is said by empty lists (RFC 8915 sections 4.1.2 and 4.1.5).
        if !protocols.contains(&NTPV4) {
            return Message { protocols: Some(Vec::new()), ..Message::default() };
        }
        let protocols = Some(vec![NTPV4]);
        if !algorithms.contains(&AEAD) {
            return Message { protocols, algorithms: Some(Vec::new()), ..Message::default() };
        }
        let keys = (self.keys)();
        let cookies = (0..COOKIES).filter_map(|_| keys.as_ref()?.make(pair)).collect();
        let port = Some(self.port.load(Ordering::Relaxed)).filter(|port| *port != 123);
        Message { protocols, algorithms: Some(vec![AEAD]), cookies, port, ..Message::default() }
    }
}

impl fmt::Debug for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyExchange").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Welcome for Arc<KeyExchange> {
    fn welcome(&self, tcp: TcpStream, address: SocketAddr, _: &watch::Receiver<()>) {
        match self.admission.admit_if_free(address.ip()) {
            Some(place) => {
                tokio::spawn(Arc::clone(self).serve(tcp, address.ip(), place));
            }
            None => {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn not_accepted(&self, error: &io::Error, _: bool) {
        tracing::debug!(%error, "NTS key exchange: a connection was not accepted");
    }
}

/// Opens the addresses that keys are exchanged on.
#[derive(Debug)]
pub struct KeyExchangeListen(pub Arc<KeyExchange>);

impl Listen for KeyExchangeListen {
    type Guard = Accepting;

    fn listen(&self, address: SocketAddr) -> io::Result<(SocketAddr, Accepting)> {
        Accepting::start(address, &self.0.runtime, Arc::clone(&self.0))
    }

    fn service(&self) -> &'static str {
        "NTS key exchange"
    }
}
