//! DNS over UDP (RFC 1035 section 4.2.1): answered on the receiving thread where that can be.

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;

use super::{Answered, Place, Quick, Shared, count};
use crate::cache::Near;
use crate::dns::task::Task;
use crate::dns::{Client, Protocol};
use crate::net::{Datagram, Handler, Socket};

/// Answers datagrams.
#[derive(Debug)]
pub(super) struct Udp {
    shared: Arc<Shared>,
    runtime: Handle,
}

impl Udp {
    pub(super) fn new(shared: Arc<Shared>, runtime: Handle) -> Self {
        Self { shared, runtime }
    }

    /// Has the answer asked for; it goes out by `socket`, from the address asked.
    ///
    /// That is begun here, unless others wait behind: most of what does may be answered at once.
    fn defer(&self, datagram: Datagram<'_>, client: Client, socket: &Arc<Socket>, place: Place) {
        let (shared, socket) = (Arc::clone(&self.shared), Arc::clone(socket));
        let (query, peer) = (datagram.payload.to_vec(), *datagram.peer);
        let work = async move {
            if let Ok(answer) = shared.ask(query, client, &place).await
                && let Err(error) = socket.send(&answer, &peer)
            {
                tracing::debug!(client = %client.address, %error, "answer not sent");
            }
            drop(place);
        };
        if datagram.alone {
            Task::new(&self.runtime, work).begin();
        } else {
            self.runtime.spawn(work);
        }
    }
}

/// What a thread has for itself.
#[derive(Debug, Default)]
pub(super) struct Own {
    near: Near,
    /// When the batch at hand was received.
    received: Option<Instant>,
    /// What was answered of it at once.
    answered: Answered,
}

impl Handler for Udp {
    type Own = Own;

    fn received(&self, own: &mut Own) {
        own.received = Some(self.shared.clock.mono());
    }

    fn handle(
        &self,
        datagram: Datagram<'_>,
        socket: &Arc<Socket>,
        own: &mut Own,
        reply: &mut Vec<u8>,
    ) {
        let client = Client {
            address: datagram.peer.address,
            protocol: Protocol::Udp,
            arrived: own.received.unwrap_or_else(|| self.shared.clock.mono()),
        };
        match self.shared.answer.quick(datagram.payload, &client, Some(&mut own.near), reply) {
            Quick::Reply(origin) => own.answered.add(origin),
            Quick::Drop => {
                reply.clear();
                count(&self.shared.counters.dropped);
            }
            Quick::Slow => {
                if let Some(place) = self.shared.enter(datagram.payload, &client, reply) {
                    reply.clear();
                    self.defer(datagram, client, socket, place);
                }
            }
        }
    }

    fn sending(&self, own: &mut Own) -> bool {
        if let Some(received) = own.received {
            self.shared.answered_together(&mut own.answered, received);
        }
        false
    }
}
