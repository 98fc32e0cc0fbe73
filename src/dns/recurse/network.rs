//! How authoritative servers are reached: the library's transports, with deadlines of our own and
//! every question counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, future, stream};
use hickory_resolver::config::{ConnectionConfig, ProtocolConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsExchange, DnsHandle};
use hickory_resolver::proto::op::{DnsRequest, DnsResponse};
use hickory_resolver::{ConnectionProvider, PoolContext};
use tokio::time::timeout;

use crate::metered::{Meter, Purpose};
use crate::node::ports::Clock;

/// A server that has not answered a datagram for this long is passed over for another one of its
/// zone. Lost datagrams are sent again within this time.
const DATAGRAM: Duration = Duration::from_millis(800);
/// The same for a question over a connection, and for making one.
const STREAM: Duration = Duration::from_millis(1500);

/// Octets of IPv4 and UDP headers.
const HEADERS: usize = 28;

/// Questions asked of authoritative servers since the start.
#[derive(Debug, Default)]
pub struct Asked {
    /// Over UDP or TCP, readable on the way.
    pub plaintext: AtomicU64,
    /// Over TLS, the server's certificate not verified (RFC 9539).
    pub encrypted: AtomicU64,
}

/// A server that was silent is passed over for this long, then twice as long.
const SHUNNED: Duration = Duration::from_secs(2);
const SHUNNED_MAX: Duration = Duration::from_secs(16);
/// Silent servers remembered at most.
const SILENT_MAX: usize = 1024;

/// Opens connections to authoritative servers.
#[derive(Clone)]
pub(super) struct Network {
    runtime: TokioRuntimeProvider,
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    meter: Arc<Meter>,
    asked: Asked,
    /// Servers that gave nothing to a datagram, how long each is passed over, and until when. The
    /// library forgets who is silent as soon as the others answer that a name does not exist.
    silent: Mutex<HashMap<IpAddr, (Duration, Instant)>>,
}

impl Network {
    pub(super) fn new(clock: Arc<dyn Clock>, meter: Arc<Meter>) -> Self {
        let (asked, silent) = (Asked::default(), Mutex::default());
        let shared = Arc::new(Shared { clock, meter, asked, silent });
        Self { runtime: TokioRuntimeProvider::new(), shared }
    }

    pub(super) fn asked(&self) -> &Asked {
        &self.shared.asked
    }

    /// Passes nobody over any longer.
    pub(super) fn pardon(&self) {
        self.shared.silent().clear();
    }
}

impl Shared {
    fn silent(&self) -> MutexGuard<'_, HashMap<IpAddr, (Duration, Instant)>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn passes_over(&self, server: IpAddr) -> bool {
        let now = self.clock.mono();
        self.silent().get(&server).is_some_and(|(_, until)| *until > now)
    }

    fn note(&self, server: IpAddr, answered: bool) {
        let now = self.clock.mono();
        let mut silent = self.silent();
        if answered {
            silent.remove(&server);
            return;
        }
        if silent.len() >= SILENT_MAX {
            silent.clear();
        }
        let before = silent.get(&server).map(|(span, _)| *span * 2);
        let span = before.unwrap_or(SHUNNED).min(SHUNNED_MAX);
        silent.insert(server, (span, now + span));
    }
}

impl ConnectionProvider for Network {
    type Conn = Connection;
    type FutureConn = Pin<Box<dyn Future<Output = Result<Connection, NetError>> + Send>>;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(
        &self,
        ip: IpAddr,
        config: &ConnectionConfig,
        context: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        let connecting = self.runtime.new_connection(ip, config, context)?;
        let shared = Arc::clone(&self.shared);
        let encrypted = !matches!(config.protocol, ProtocolConfig::Udp | ProtocolConfig::Tcp);
        let patience =
            if matches!(config.protocol, ProtocolConfig::Udp) { DATAGRAM } else { STREAM };
        Ok(Box::pin(async move {
            let exchange = timeout(STREAM, connecting).await.map_err(|_| NetError::Timeout)??;
            Ok(Connection { exchange, server: ip, shared, encrypted, patience })
        }))
    }

    fn runtime_provider(&self) -> &TokioRuntimeProvider {
        &self.runtime
    }
}

/// A connection to an authoritative server, or a way to send it datagrams.
#[derive(Clone)]
pub(super) struct Connection {
    exchange: DnsExchange<TokioRuntimeProvider>,
    server: IpAddr,
    shared: Arc<Shared>,
    encrypted: bool,
    patience: Duration,
}

impl DnsHandle for Connection {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let (server, shared, patience) = (self.server, Arc::clone(&self.shared), self.patience);
        let datagram = patience == DATAGRAM;
        if datagram && shared.passes_over(server) {
            return Box::pin(stream::once(future::ready(Err(NetError::Timeout))));
        }
        let asked = if self.encrypted { &shared.asked.encrypted } else { &shared.asked.plaintext };
        asked.fetch_add(1, Ordering::Relaxed);
        let octets = request.to_vec().map_or(0, |sent| sent.len());
        shared.meter.sent(Purpose::Names, octets + HEADERS);
        let mut answers = self.exchange.send(request);
        Box::pin(stream::once(async move {
            let answer = timeout(patience, answers.next()).await;
            let answer = answer.ok().flatten().unwrap_or(Err(NetError::Timeout));
            if let Ok(response) = &answer {
                shared.meter.received(Purpose::Names, response.as_buffer().len() + HEADERS);
            }
            if datagram {
                shared.note(server, !matches!(answer, Err(NetError::Timeout)));
            }
            answer
        }))
    }
}
