//! The DNS edge: listeners, the answer path, forwarding to encrypted upstreams.

pub mod answer;
mod forward;
pub mod listen;
mod task;

use std::fmt::Debug;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use crate::cache::ChainId;

pub use forward::{ForwardEvent, Forwarder, Refused, Settled};

/// How a question reached us.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// DNS over HTTPS (RFC 8484).
    Doh,
    /// DNS over QUIC (RFC 9250).
    Doq,
    /// DNS over TLS (RFC 7858).
    Dot,
    /// DNS over TCP (RFC 7766), in the clear.
    Tcp,
    /// DNS over UDP, in the clear.
    Udp,
}

impl Protocol {
    /// Whether the client's question was readable on the way.
    #[must_use]
    pub const fn is_plaintext(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The client's address and port.
    pub address: SocketAddr,
    /// How it reached us.
    pub protocol: Protocol,
}

/// An upstream's answer, as it came.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// The whole message, its id being the question's; the question section is checked.
    pub message: Vec<u8>,
    /// The certificate chain behind it, if its dates were accepted under rule R alone.
    pub relaxed: Option<ChainId>,
}

/// Why no upstream answered.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// More questions are under way than may be.
    #[error("{0} questions are already waiting for upstreams")]
    Busy(usize),
    /// No upstream is configured.
    #[error("no upstream is configured")]
    NoUpstream,
    /// Every upstream failed or stayed silent; the last failure is named.
    #[error("no upstream answered; the last one tried: {0}")]
    Unreachable(String),
}

/// A boxed future, so that [`Forward`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Asks an upstream. Implemented by `forward::Forwarder`, and by scripts in tests.
pub trait Forward: Debug + Send + Sync {
    /// Sends `query`, a whole DNS message with one question, and returns the answer to it.
    fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>>;
}
