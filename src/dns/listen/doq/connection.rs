//! One connection: its handshake, its streams, its end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, Incoming};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::handshakes::Handshake;
use super::{Code, End, Failure, LINGER, Server, query};
use crate::dns::listen::accept::Link;
use crate::dns::listen::stream::rearm;
use crate::dns::listen::{CountPanic, count};
use crate::dns::{Client, Protocol};

/// For the farewell to be sent.
const CLOSE: Duration = Duration::from_millis(500);

/// Serves one connection from its first packet to its end.
pub(super) async fn run(
    incoming: Incoming,
    handshake: Handshake,
    server: Arc<Server>,
    mut link: Link,
) {
    let shared = Arc::clone(&link.shared);
    let _count = CountPanic(&shared.counters.panics);
    let client = Client {
        address: incoming.remote_address(),
        protocol: Protocol::Doq,
        arrived: shared.clock.mono(),
    };
    let Some(connection) = shake_hands(incoming, &handshake, &server, &mut link).await else {
        return;
    };
    drop(handshake);
    let Some(End { code, why }) = serve(&connection, client, &mut link).await else { return };
    connection.close(code.into(), why.as_bytes());
    if link.is_closing() {
        let _ = timeout(CLOSE, server.endpoint.wait_idle()).await;
    }
}

async fn shake_hands(
    incoming: Incoming,
    handshake: &Handshake,
    server: &Server,
    link: &mut Link,
) -> Option<Connection> {
    let client = incoming.remote_address();
    let accept = async { Ok::<_, Failure>(server.accept(incoming)?.await?) };
    let accepted = tokio::select! {
        accepted = timeout(link.shared.limits.handshake, accept) => {
            accepted.unwrap_or(Err(Failure::Late))
        }
        () = handshake.given_up() => Err(Failure::GaveWay),
        () = link.slot.displaced() => return None,
        _ = link.closing.changed() => return None,
    };
    let error = match accepted {
        Ok(connection) => return Some(connection),
        Err(error) => error,
    };
    tracing::debug!(%client, %error, "QUIC handshake failed");
    count(&link.shared.counters.handshake_failures);
    // What it holds in memory counts until it is forgotten.
    tokio::select! {
        () = sleep(LINGER) => None,
        _ = link.closing.changed() => None,
    }
}

/// Answers the queries of a connection. Returns how it is to end, unless it is lost already.
async fn serve(connection: &Connection, client: Client, link: &mut Link) -> Option<End> {
    let limits = link.shared.limits;
    let mut queries = JoinSet::new();
    let mut accepting = true;
    let mut period = limits.idle_pressed.min(limits.idle);
    let mut timer = pin!(sleep(period));
    let mut busy = false;
    let mut idle = Duration::ZERO;
    loop {
        if !accepting && queries.is_empty() {
            return Some(End { code: Code::NoError, why: "" });
        }
        tokio::select! {
            // In this order, so that what has already arrived is answered before the end.
            biased;
            stream = connection.accept_bi(), if accepting => match stream {
                Ok((send, recv)) => {
                    busy = true;
                    let shared = Arc::clone(&link.shared);
                    queries.spawn(query::serve(send, recv, client, shared));
                }
                Err(_) => return None,
            },
            Some(done) = queries.join_next() => match done {
                Ok(Ok(())) => {}
                Ok(Err(end)) => {
                    tracing::debug!(client = %client.address, why = end.why, "connection cut");
                    return Some(end);
                }
                Err(_) => return Some(End { code: Code::Internal, why: "" }),
            },
            _ = link.closing.changed(), if accepting => accepting = false,
            () = link.slot.displaced() => {
                return Some(End { code: Code::ExcessiveLoad, why: "too many connections" });
            }
            () = timer.as_mut(), if accepting => {
                let went_on = std::mem::take(&mut busy) || !queries.is_empty();
                idle = if went_on { Duration::ZERO } else { idle + period };
                let pressed = !went_on && link.shared.admission.pressed();
                if idle >= limits.idle || pressed {
                    return Some(End { code: Code::NoError, why: "" });
                }
                period = limits.idle_pressed.min(limits.idle.saturating_sub(idle));
                rearm(timer.as_mut(), period);
            }
        }
    }
}
