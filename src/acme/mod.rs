//! Carries out what [`crate::cert::Lifecycle`] asks for: one order (RFC 8555) at a time, accounts, and
//! the question for a renewal window (RFC 9773).
//!
//! instant-acme speaks the protocol, over [`crate::fetch`]: nothing here asks the system's resolver,
//! reads the system's clock, or waits without an end.

mod account;
mod certificate;
mod client;
mod fault;
pub mod kept;
mod order;
mod publish;
pub mod secrets;
#[cfg(test)]
mod tests;
mod window;

use std::fmt;
use std::time::Duration;

use crate::cert::{Failure, Held};
use crate::tls::Roots;

pub use account::Account;
pub use certificate::{Chain, KeyPem};
pub use order::{Issuer, Job, Journal, Outcome, Pending};
pub use publish::{
    AcmeDns, AcmeDnsAccount, DnsUpdate, Hook, Propagation, PublishError, Publisher, Solver,
    TsigHash, TxtRecord,
};

/// A certificate authority, as it is reached.
#[derive(Clone, Debug)]
pub struct Ca {
    /// Its name in the configuration.
    pub name: String,
    /// Its directory (RFC 8555 section 7.1.1), or its staging directory.
    pub directory: String,
    /// What its servers' certificates are verified against. Never what it issues.
    pub roots: Roots,
    /// What it gave out to bind our account to a customer of it.
    pub binding: Option<Binding>,
}

/// An external account binding (RFC 8555 section 7.3.4).
#[derive(Clone)]
pub struct Binding {
    /// The key's identifier.
    pub kid: String,
    /// The key itself, decoded.
    pub key: Vec<u8>,
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// How long each step of an order may take; each of its requests has a deadline besides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Deadlines {
    /// One record to be published, or withdrawn.
    pub publish: Duration,
    /// Until all published records are seen; the CA is told to look even if they are not.
    pub propagation: Duration,
    /// The CA's verdict over all names, and then again its signature.
    pub verdict: Duration,
    /// The whole order, what is withdrawn at its end aside.
    pub order: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            publish: Duration::from_secs(60),
            propagation: Duration::from_secs(120),
            verdict: Duration::from_secs(180),
            // With a minute for what is withdrawn that stays below the patience of `cert`.
            order: Duration::from_secs(780),
        }
    }
}
