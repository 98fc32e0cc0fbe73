//! What becomes of accepted connections: caps, TLS handshakes, the protocol that is spoken.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::{PresentConfig, Shared, count, doh, stream};
use crate::dns::{Client, Protocol};
use crate::net::{Accepting, Listen, Slot, Welcome};
use crate::tls::{ALPN_CHALLENGE, Challenges};

/// What is spoken on the connections.
#[derive(Clone)]
pub(super) enum Kind {
    Tcp,
    Dot(PresentConfig),
    Doh(PresentConfig, Arc<Challenges>),
}

/// Listeners of one kind.
pub(super) struct StreamListen {
    kind: Kind,
    shared: Arc<Shared>,
    runtime: Handle,
}

impl StreamListen {
    pub(super) fn new(kind: Kind, shared: Arc<Shared>, runtime: Handle) -> Self {
        Self { kind, shared, runtime }
    }
}

impl Listen for StreamListen {
    type Guard = Accepting;

    fn listen(&self, address: SocketAddr) -> io::Result<(SocketAddr, Accepting)> {
        let (kind, shared) = (self.kind.clone(), Arc::clone(&self.shared));
        let door = Door { kind, service: self.service(), shared };
        Accepting::start(address, &self.runtime, door)
    }

    fn service(&self) -> &'static str {
        match self.kind {
            Kind::Tcp => "DNS over TCP",
            Kind::Dot(_) => "DNS over TLS",
            Kind::Doh(..) => "DNS over HTTPS",
        }
    }
}

impl fmt::Debug for StreamListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StreamListen").field(&self.service()).finish()
    }
}

/// What a connection belongs to.
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    pub(super) slot: Slot,
    /// Changes when the listener is gone and the connection is to end.
    pub(super) closing: watch::Receiver<()>,
}

impl Link {
    /// Whether the listener is gone.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.has_changed().is_err()
    }
}

/// Lets connections of one kind in.
struct Door {
    kind: Kind,
    service: &'static str,
    shared: Arc<Shared>,
}

impl Welcome for Door {
    fn welcome(&self, stream: TcpStream, address: SocketAddr, closing: &watch::Receiver<()>) {
        if self.shared.admission.starve(false) {
            tracing::info!(service = self.service, "connections are accepted again");
        }
        let Some(slot) = self.shared.admit(address, self.service) else { return };
        let link = Link { shared: Arc::clone(&self.shared), slot, closing: closing.clone() };
        tokio::spawn(connection(self.kind.clone(), stream, address, link));
    }

    fn not_accepted(&self, error: &io::Error, lasts: bool) {
        count(&self.shared.counters.accept_errors);
        if lasts && self.shared.admission.starve(true) {
            tracing::warn!(
                service = self.service,
                %error,
                connections = self.shared.admission.connections(),
                "cannot accept connections; idle ones are closed sooner (raise LimitNOFILE=)"
            );
        }
    }
}

async fn connection(kind: Kind, stream: TcpStream, address: SocketAddr, mut link: Link) {
    let arrived = link.shared.clock.mono();
    let client = |protocol| Client { address, protocol, arrived };
    match kind {
        Kind::Tcp => stream::serve(stream, client(Protocol::Tcp), link).await,
        Kind::Dot(config) => {
            let accept = TlsAcceptor::from(config()).accept(stream);
            if let Some(stream) = handshake(accept, address, &mut link).await {
                stream::serve(stream, client(Protocol::Dot), link).await;
            }
        }
        Kind::Doh(config, challenges) => {
            let accept = accept_doh(stream, config, challenges);
            let Some(mut stream) = handshake(accept, address, &mut link).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(ALPN_CHALLENGE) {
                tracing::debug!(client = %address, "a certificate authority was shown a challenge");
                stream::close(&mut stream).await;
            } else {
                // Boxed: every connection's task would have room for HTTP's state otherwise.
                Box::pin(doh::serve(stream, client(Protocol::Doh), link)).await;
            }
        }
    }
}

/// Shakes hands as for DNS over HTTPS, or shows the challenge that is looked for.
async fn accept_doh(
    stream: TcpStream,
    config: PresentConfig,
    challenges: Arc<Challenges>,
) -> io::Result<TlsStream<TcpStream>> {
    let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let challenge = challenges.sought_by(&begun.client_hello());
    begun.into_stream(challenge.unwrap_or_else(|| config())).await
}

/// Boxed and dropped once done: its state is far larger than that of the connection that follows.
fn handshake<'a>(
    accept: impl Future<Output = io::Result<TlsStream<TcpStream>>> + Send + 'a,
    address: SocketAddr,
    link: &'a mut Link,
) -> impl Future<Output = Option<Box<TlsStream<TcpStream>>>> + 'a {
    let accept = Box::pin(accept);
    async move {
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(link.shared.limits.handshake, accept) => accepted,
            () = link.slot.displaced() => return None,
            _ = link.closing.changed() => return None,
        };
        match accepted {
            Ok(Ok(stream)) => return Some(Box::new(stream)),
            Ok(Err(error)) => tracing::debug!(client = %address, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(client = %address, "TLS handshake took too long"),
        }
        count(&link.shared.counters.handshake_failures);
        None
    }
}
