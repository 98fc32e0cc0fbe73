//! How a CA is shown that a name is ours (RFC 8555 section 8).

mod acme_dns;
mod hook;
mod tls_alpn;
mod update;

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use instant_acme::ChallengeType;
use serde::{Deserialize, Serialize};

use crate::tls::Challenges;

pub use acme_dns::{AcmeDns, AcmeDnsAccount};
pub use hook::Hook;
pub(super) use tls_alpn::certificate;
pub use update::{DnsUpdate, TsigHash};

/// By which challenge names are shown to be ours.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Solver {
    /// By TXT records (RFC 8555 section 8.4).
    Dns01 {
        /// Publishes them.
        publisher: Arc<dyn Publisher>,
        /// Tells when they are to be seen.
        propagation: Arc<dyn Propagation>,
    },
    /// By certificates that are shown where DNS over HTTPS is served, on port 443 as the CA sees it
    /// (RFC 8737). Wildcards cannot be shown to be ours in this way.
    TlsAlpn01 {
        /// Shows them.
        challenges: Arc<Challenges>,
    },
}

impl Solver {
    pub(super) const fn challenge_type(&self) -> ChallengeType {
        match self {
            Self::Dns01 { .. } => ChallengeType::Dns01,
            Self::TlsAlpn01 { .. } => ChallengeType::TlsAlpn01,
        }
    }

    /// What it shows, in words.
    pub(super) const fn proof(&self) -> &'static str {
        match self {
            Self::Dns01 { .. } => "record in DNS",
            Self::TlsAlpn01 { .. } => "certificate that is shown by TLS",
        }
    }

    /// Whether `name` can be shown to be ours: a CA finds no server by the name of a wildcard.
    pub(super) fn can_show(&self, name: &str) -> bool {
        match self {
            Self::Dns01 { .. } => true,
            Self::TlsAlpn01 { .. } => !name.starts_with("*."),
        }
    }
}

/// A record that a CA looks for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TxtRecord {
    /// Its name, with a dot at the end.
    pub name: String,
    /// What it says.
    pub value: String,
}

impl TxtRecord {
    /// The record that shows `domain` to be ours.
    pub(super) fn new(domain: &str, value: &str) -> Self {
        let domain = domain.trim_end_matches('.');
        Self { name: format!("_acme-challenge.{domain}."), value: value.to_owned() }
    }
}

/// Puts records into somebody's DNS.
///
/// There may be several at one name: a wildcard and the name above it have one each.
pub trait Publisher: fmt::Debug + Send + Sync {
    /// Adds `record` to those of its name.
    fn present<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>>;

    /// Takes `record` away, if it is there, and none beside it.
    fn withdraw<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>>;
}

/// Looks for published records where a CA will.
pub trait Propagation: fmt::Debug + Send + Sync {
    /// Whether all servers that a CA may ask have `record`. It has an end of its own.
    fn sees<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, bool>;
}

/// Why a record is not published, or not taken away.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// It is configured in a way that cannot work.
    #[error("{0}")]
    Configured(String),
    /// Nobody answers.
    #[error("{0}")]
    Unreachable(String),
    /// Somebody says no.
    #[error("{0}")]
    Refused(String),
}
