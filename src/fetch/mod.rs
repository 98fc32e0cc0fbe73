//! Fetches resources over HTTPS within bounds: names, connections, deadlines and what an answer may cost
//! are ours. Nothing here asks the system's resolver, reads the system's clock, or waits without an end.

mod http;
mod network;
mod secret;

use std::time::Duration;

pub use http::{Http, HttpError};
pub use network::{Network, Stream, Transport};
pub use secret::secret;

/// How long each step of a request may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Deadlines {
    /// A connection to one address, its handshakes included.
    pub connect: Duration,
    /// The addresses of a name.
    pub resolve: Duration,
    /// A request, from before the connection until the last octet of its answer.
    pub request: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            resolve: Duration::from_secs(10),
            request: Duration::from_secs(30),
        }
    }
}
