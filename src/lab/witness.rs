//! An HTTPS server whose answers carry the true date.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Response;
use hyper::header::{DATE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::WorldError;
use crate::clock::UnixTime;
use crate::net::bind;
use crate::node::ports::Clock;
use crate::tls::{CertStore, server_config};

/// A web server that knows what time it is.
#[derive(Debug)]
pub(super) struct Witness {
    pub(super) address: SocketAddr,
    silent: Arc<AtomicBool>,
    /// Dropped, it ends.
    _acceptor: JoinSet<()>,
}

impl Witness {
    /// Serves on `address`, port 0 being any.
    pub(super) fn start(
        address: SocketAddr,
        key: CertifiedKey,
        truth: &Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Self, WorldError> {
        let certificate = CertStore::fixed(key);
        let tls = server_config(certificate, Arc::clone(truth), &[b"http/1.1"])?;
        let refused = |error| WorldError::Listen { address, error };
        let listener = bind::tcp(address).map_err(refused)?;
        let local = listener.local_addr().map_err(refused)?;
        let silent = Arc::new(AtomicBool::new(false));
        let site = Site { tls: tls.into(), truth: Arc::clone(truth), silent: Arc::clone(&silent) };

        let _context = runtime.enter();
        let listener = TcpListener::from_std(listener).map_err(refused)?;
        let mut acceptor = JoinSet::new();
        acceptor.spawn(accept(listener, site));
        Ok(Self { address: local, silent, _acceptor: acceptor })
    }

    /// Leaves every request without an answer, or stops doing so.
    pub(super) fn silence(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }
}

/// Connections at the same time.
const CONNECTIONS: usize = 64;
/// For a connection from its first octet to its last.
const CONNECTION: Duration = Duration::from_secs(10);
/// Pause after an error that may last.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Site {
    tls: TlsAcceptor,
    truth: Arc<dyn Clock>,
    silent: Arc<AtomicBool>,
}

async fn accept(listener: TcpListener, site: Site) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(room) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((tcp, _)) => {
                let connection = timeout(CONNECTION, site.clone().serve(tcp));
                tokio::spawn(async move {
                    if !matches!(connection.await, Ok(true)) {
                        tracing::debug!("a connection to a witness failed or took too long");
                    }
                    drop(room);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a witness cannot accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
}

impl Site {
    /// Whether the connection came to a good end.
    async fn serve(self, tcp: TcpStream) -> bool {
        let Ok(stream) = self.tls.accept(tcp).await else { return false };
        let service = service_fn(|_| async {
            if self.silent.load(Ordering::Relaxed) {
                pending::<()>().await;
            }
            let mut response = Response::new(Empty::<Bytes>::new());
            if let Some(date) = imf_fixdate(self.truth.utc()) {
                response.headers_mut().insert(DATE, date);
            }
            Ok::<_, Infallible>(response)
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service)
            .await
            .is_ok()
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7); `None` outside the years 0 to 9999.
fn imf_fixdate(time: UnixTime) -> Option<HeaderValue> {
    let time = Timestamp::from_second(time.secs()).ok()?;
    let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()?;
    HeaderValue::try_from(text).ok()
}
