//! Accepts connections: caps, TLS handshakes, errors that must not end or spin the loop.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::admission::Slot;
use super::{PresentConfig, Shared, count, doh, stream};
use crate::dns::{Client, Protocol};
use crate::net::{Listen, bind};

/// Pause after an error that lasts, such as having no file descriptor left.
const ERROR_PAUSE: Duration = Duration::from_millis(100);
/// Connections lost in a row before that counts as an error that lasts.
const LOST_IN_A_ROW: u32 = 64;

/// What is spoken on the connections.
#[derive(Clone)]
pub(super) enum Kind {
    Tcp,
    Dot(PresentConfig),
    Doh(PresentConfig),
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
    type Guard = Listening;

    fn listen(&self, address: SocketAddr) -> io::Result<(SocketAddr, Listening)> {
        let listener = bind::tcp(address)?;
        let local = listener.local_addr()?;
        let socket = listener.try_clone()?;
        let (open, closing) = watch::channel(());
        let _context = self.runtime.enter();
        let acceptor = Acceptor {
            listener: TcpListener::from_std(listener)?,
            kind: self.kind.clone(),
            service: self.service(),
            shared: Arc::clone(&self.shared),
            closing,
        };
        self.runtime.spawn(acceptor.run());
        Ok((local, Listening { socket, open: Some(open) }))
    }

    fn service(&self) -> &'static str {
        match self.kind {
            Kind::Tcp => "DNS over TCP",
            Kind::Dot(_) => "DNS over TLS",
            Kind::Doh(_) => "DNS over HTTPS",
        }
    }
}

impl fmt::Debug for StreamListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StreamListen").field(&self.service()).finish()
    }
}

/// A listener at work. Dropped, it frees its address at once, and its connections finish.
#[derive(Debug)]
pub(super) struct Listening {
    socket: std::net::TcpListener,
    /// Dropping it tells the acceptor and every connection.
    open: Option<watch::Sender<()>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.open = None;
        // The acceptor closes its descriptor when it next runs; the address must be free before.
        let _ = socket2::SockRef::from(&self.socket).shutdown(Shutdown::Both);
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

struct Acceptor {
    listener: TcpListener,
    kind: Kind,
    service: &'static str,
    shared: Arc<Shared>,
    closing: watch::Receiver<()>,
}

impl Acceptor {
    async fn run(mut self) {
        let mut lost = 0;
        loop {
            let accepted = tokio::select! {
                // A listener that was shut down fails to accept.
                biased;
                _ = self.closing.changed() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    lost = 0;
                    self.welcome(stream, address);
                }
                Err(error) if is_of_connection(&error) && lost < LOST_IN_A_ROW => {
                    lost += 1;
                    count(&self.shared.counters.accept_errors);
                }
                Err(error) => self.pause(&error).await,
            }
        }
    }

    fn welcome(&self, stream: TcpStream, address: SocketAddr) {
        if self.shared.admission.starve(false) {
            tracing::info!(service = self.service, "connections are accepted again");
        }
        let Some(slot) = self.shared.admit(address, self.service) else { return };
        let link = Link { shared: Arc::clone(&self.shared), slot, closing: self.closing.clone() };
        tokio::spawn(connection(self.kind.clone(), stream, address, link));
    }

    /// Waits after an error that would come again at once.
    async fn pause(&self, error: &io::Error) {
        count(&self.shared.counters.accept_errors);
        if self.shared.admission.starve(true) {
            tracing::warn!(
                service = self.service,
                %error,
                connections = self.shared.admission.connections(),
                "cannot accept connections; idle ones are closed sooner (raise LimitNOFILE=)"
            );
        }
        tokio::time::sleep(ERROR_PAUSE).await;
    }
}

/// Whether the client, or the network before it, gave up between knocking and being let in:
/// accept(2) lists these as errors of the new connection, not of the listener.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::EINTR
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EPERM
                | libc::EPROTO
        )
    )
}

async fn connection(kind: Kind, stream: TcpStream, address: SocketAddr, mut link: Link) {
    let client = |protocol| Client { address, protocol };
    match kind {
        Kind::Tcp => stream::serve(stream, client(Protocol::Tcp), link).await,
        Kind::Dot(config) => {
            if let Some(stream) = handshake(&config, stream, address, &mut link).await {
                stream::serve(stream, client(Protocol::Dot), link).await;
            }
        }
        Kind::Doh(config) => {
            if let Some(stream) = handshake(&config, stream, address, &mut link).await {
                // Boxed: every connection's task would have room for HTTP's state otherwise.
                Box::pin(doh::serve(stream, client(Protocol::Doh), link)).await;
            }
        }
    }
}

/// Boxed and dropped once done: its state is far larger than that of the connection that follows.
fn handshake<'a>(
    config: &PresentConfig,
    stream: TcpStream,
    address: SocketAddr,
    link: &'a mut Link,
) -> impl Future<Output = Option<Box<TlsStream<TcpStream>>>> + 'a {
    let accept = Box::new(TlsAcceptor::from(config()).accept(stream));
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
