//! `[acme]`: certificates that are ordered of certificate authorities (RFC 8555).

mod authority;
mod read;
mod rules;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(super) use read::read;
pub use rules::HOME_DOMAINS;
pub(super) use rules::check;

use crate::cert::{self, Limits};

/// `[acme]`: where certificates are ordered, and for which names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Acme {
    /// The names the certificate is to have, in lower case, wildcards as they stand.
    pub names: Vec<String>,
    /// `[[acme.ca]]`: whom to ask, the first first.
    pub cas: Vec<AcmeCa>,
    /// By which challenge the names are shown to be ours.
    pub challenge: AcmeChallenge,
    /// Whether published records are also looked for at the servers of their zone, in plaintext.
    pub authoritative: bool,
    /// The outage that a certificate is to survive.
    pub survive: Duration,
    /// The share of its life, in percent, after which it is renewed at the latest.
    pub percent: u32,
    /// How often orders may be made.
    pub limits: Limits,
}

impl Acme {
    /// Whether a certificate for these names is good for `name`, as [`cert::covers`] has it.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        cert::covers(&self.names, name)
    }
}

/// `[[acme.ca]]`: a certificate authority whose terms of service have been agreed to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcmeCa {
    /// What it is called in reports and state files.
    pub name: String,
    /// The URL of its directory (RFC 8555 section 7.1.1).
    pub directory: String,
    /// That of its staging directory, if it has one.
    pub staging: Option<String>,
    /// The profile that is asked for; the CA chooses without it.
    pub profile: Option<String>,
    /// What it gave out to bind our account to a customer of it.
    pub binding: Option<AcmeBinding>,
    /// A PEM file of further roots for its servers.
    pub ca: Option<PathBuf>,
}

/// An external account binding (RFC 8555 section 7.3.4).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcmeBinding {
    /// The key's identifier.
    pub kid: String,
    /// A file with the key in base64url.
    pub key: PathBuf,
}

/// By which challenge names are shown to be ours (RFC 8555 section 8).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AcmeChallenge {
    /// DNS-01, published by an acme-dns server (`[acme.acme_dns]`).
    AcmeDns {
        /// Where its API is.
        url: String,
        /// A JSON file with an account for each name, as acme-dns gives them out.
        accounts: PathBuf,
        /// A PEM file of further roots for it.
        ca: Option<PathBuf>,
    },
    /// DNS-01, published by a program (`[acme.hook]`).
    Hook {
        /// An absolute path.
        program: PathBuf,
        /// How long it may take each time.
        limit: Duration,
    },
    /// DNS-01, published by dynamic updates (RFC 2136, `[acme.update]`).
    Update {
        /// The zone's primary server.
        server: SocketAddr,
        /// The zone.
        zone: String,
        /// What the key is called there.
        key_name: String,
        /// A file with the key in base64.
        key: PathBuf,
        /// By what keyed hash updates are signed.
        hash: AcmeHash,
    },
    /// TLS-ALPN-01 (RFC 8737), answered on the DoH port.
    TlsAlpn,
}

/// A keyed hash of TSIG (RFC 8945 section 6).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AcmeHash {
    /// `hmac-sha256`.
    #[default]
    Sha256,
    /// `hmac-sha384`.
    Sha384,
    /// `hmac-sha512`.
    Sha512,
}
