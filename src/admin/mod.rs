//! The control socket: commands ask, the daemon answers, one line of JSON each. Beside it figures and
//! health by HTTP, for monitoring.
//!
//! Whoever may open the socket may ask how things are. Changing things, and
//! seeing what others asked for, is for root, the daemon's own user and the
//! members of one group, told by the kernel (`SO_PEERCRED`), not by the client.

pub mod client;
mod http;
mod metrics;
pub mod notify;
mod page;
mod part;
mod policy;
pub mod report;
mod server;
mod socket;
pub mod words;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use http::MonitoringListen;
pub use part::CONDITIONS;
pub use policy::{Peer, Policy};
pub use server::serve;
pub use socket::{BindError, bind, path_to_call, path_to_serve};

/// The longest request line, in octets.
pub const MAX_REQUEST: usize = 64 * 1024;
/// How many clients are served at once; further ones are told so.
pub const MAX_CLIENTS: usize = 16;
/// How long a client may take to ask and be answered, and again to take the answer.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// A boxed future, so that [`Control`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Answers requests. Implemented by the running daemon, and by scripts in tests.
pub trait Control: Debug + Send + Sync {
    /// Does what `request` says. `privileged` tells whether the client may change things; requests
    /// that [need it](Request::needs_privilege) come only from clients that have it.
    fn handle(&self, request: Request, privileged: bool) -> BoxFuture<'_, Response>;
}

/// What a client asks for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Request {
    /// What the cache holds.
    Cache {
        /// In detail under this name, in presentation format.
        #[serde(default)]
        name: Option<String>,
    },
    /// The certificate that clients are shown, and what lies ahead of it.
    Certs,
    /// Who asks for the time.
    Clients,
    /// What devices have to be told to use this machine over TLS, and whom they have to trust for that:
    /// the local authority is made for it, if there is none.
    Devices,
    /// What monitoring is shown.
    Figures,
    /// Forget cached answers.
    Flush {
        /// Those of this name alone; `None`: all.
        name: Option<String>,
        /// Also those of every name below it.
        #[serde(default)]
        subtree: bool,
    },
    /// Whether a part of the daemon does its work.
    Health {
        /// Which part.
        kind: Health,
    },
    /// Rehearse an order at the staging directory of each certificate authority.
    Rehearse,
    /// Read the configuration again.
    Reload,
    /// Order a certificate, whatever the dates of the one in service.
    Renew,
    /// Set the floor, up or down.
    SetFloor {
        /// The earliest possible time, in seconds since 1970-01-01T00:00:00Z.
        seconds: i64,
    },
    /// The time sources, one by one.
    Sources,
    /// Everything at a glance.
    Status,
    /// What is known of time.
    Tracking,
    /// The upstreams, one by one.
    Upstreams,
}

impl Request {
    /// Whether it changes something, or shows what others asked for.
    #[must_use]
    pub const fn needs_privilege(&self) -> bool {
        match self {
            Self::Cache { name } => name.is_some(),
            Self::Clients
            | Self::Flush { .. }
            | Self::Rehearse
            | Self::Reload
            | Self::Renew
            | Self::SetFloor { .. } => true,
            Self::Certs
            | Self::Devices
            | Self::Figures
            | Self::Health { .. }
            | Self::Sources
            | Self::Status
            | Self::Tracking
            | Self::Upstreams => false,
        }
    }
}

/// A part of the daemon that can be well or not.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// The appliance's own certificate.
    Cert,
    /// The trust in the time.
    Clock,
    /// Answers to DNS questions.
    Dns,
    /// The process itself.
    Live,
}

/// What the daemon answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// What was asked for.
    Ok(Value),
    /// It was not done.
    Refused(Refusal),
}

impl Response {
    /// A refusal and its reason, for a person to read.
    #[must_use]
    pub fn refused(reason: Reason, message: impl Into<String>) -> Self {
        Self::Refused(Refusal { reason, message: message.into() })
    }
}

/// Why a request was not answered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind of reason, for programs.
    pub reason: Reason,
    /// The reason, for people.
    pub message: String,
}

/// The kinds of reasons.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Too many clients at once.
    Busy,
    /// The client's user may not ask for this.
    Denied,
    /// It was tried, and failed.
    Failed,
    /// The request is too long, or not one.
    Malformed,
    /// It took too long.
    TimedOut,
}
