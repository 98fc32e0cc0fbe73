//! The DNS edge: listeners, the answer path, forwarding to encrypted upstreams.

pub mod answer;
mod forward;
pub mod listen;
mod origin;
mod recurse;
mod task;
mod validate;

use std::fmt::Debug;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Instant;

use crate::cache::{ChainId, Validation};
use crate::wire::Ede;

pub use forward::{ForwardEvent, Forwarder, Refused, Settled};
pub use origin::Origin;
pub use recurse::{Asked, Hints, HintsError, Recursor};
pub use validate::{Anchors, AnchorsError, Validator, root_inception};

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
    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Doh => "doh",
            Self::Doq => "doq",
            Self::Dot => "dot",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// Whether the client's question was readable on the way.
    #[must_use]
    pub const fn is_plaintext(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

/// Who asks, how, and since when.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The client's address and port.
    pub address: SocketAddr,
    /// How it reached us.
    pub protocol: Protocol,
    /// When the question was there; on a connection whose next question has not come, when the
    /// last one was, or the connection.
    pub arrived: Instant,
}

/// An upstream's answer, as it came.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// The whole message, its id being the question's; the question section is checked.
    pub message: Vec<u8>,
    /// The certificate chain behind it, if its dates were accepted under rule R alone.
    pub relaxed: Option<ChainId>,
    /// What validation found.
    pub validation: Validation,
    /// Its signatures, if it has any, were checked without their dates.
    pub undated: bool,
}

impl Forwarded {
    /// An answer as it came, validated by nobody.
    #[must_use]
    pub const fn unchecked(message: Vec<u8>, relaxed: Option<ChainId>) -> Self {
        Self { message, relaxed, validation: Validation::Unchecked, undated: false }
    }
}

/// Why no upstream answered.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The answer is not what the owner of the data says (RFC 4035 section 4.3).
    #[error("the answer does not validate: {text}")]
    Bogus {
        /// The code that says so (RFC 8914).
        code: Ede,
        /// What is wrong with it.
        text: String,
    },
    /// It failed a moment ago.
    #[error("no upstream answered this a moment ago; it is asked again in some seconds")]
    Cooling,
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
