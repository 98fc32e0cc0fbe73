//! Which upstream is asked next, how soon another is asked too, and how fast (pure).

mod budget;
mod entry;
mod latency;
mod pace;
mod plan;
mod pool;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use budget::Budget;
pub use pace::{Admission, Pace, Purpose};
pub use plan::{Candidate, Plan};
pub use pool::{Health, Outage, Pool, Reason};

/// One address of one upstream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// The TLS name.
    pub name: String,
    /// Who runs it.
    pub operator: String,
    /// Where it is reached.
    pub address: SocketAddr,
}

/// Which endpoint: its place in the list the pool was made from.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EndpointId(pub usize);

/// How exchanges with an endpoint ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// With answers, whatever their RCODEs: NXDOMAIN is as good as an address.
    Answered {
        /// From each question's sending to its answer, a handshake not counted; oldest first.
        latencies: Vec<Duration>,
    },
    /// One, without: refused, reset, silent, or not verifiable.
    Failed {
        /// When it began. Of what began before a change of path, or an outage's end, nothing
        /// follows.
        began: Instant,
    },
    /// One, with SERVFAIL or REFUSED to a question that another operator then answered. Told
    /// beside [`Self::Answered`].
    Outdone,
    /// Some are under way in vain so far: others, asked later, answered first several times, and
    /// it nothing meanwhile.
    Overtaken,
}

/// What an endpoint is believed to be.
///
/// ```text
///      three failures in a row         probe is due
///     Up ───────────────────▶ Down ───────────────────▶ Probing
///     ▲                        ▲                          │  │
///     │                        └────────── fails ─────────┘  │
///     └──────── answers; or any answers while all are down ──┘
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It failed too often; a probe is due later.
    Down,
    /// A probe was asked for and its outcome is awaited.
    Probing,
    /// It answers, or was never asked.
    Up,
}
