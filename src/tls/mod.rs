//! TLS: how upstreams are verified, and what we serve ourselves.
//!
//! One provider (ring) and one clock (ours) for every connection, in and out.

mod challenge;
mod client;
mod deciding;
mod fallback;
mod pair;
#[cfg(test)]
pub(crate) mod pki;
mod roots;
mod shown;
mod store;
mod verify;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{self, ServerName};
use rustls::time_provider::TimeProvider;

use crate::clock::{UnixTime, magnitude};
use crate::node::ports::Clock;
use crate::wire::Name;

pub use challenge::{ALPN_CHALLENGE, ChallengeError, Challenges, Presented};
pub use client::Client;
pub(crate) use deciding::deciding;
pub use fallback::{FallbackCa, FallbackError, KeyVault, LIFE};
pub use pair::{Misfit, certified, held, issuer};
pub use roots::{PinError, Roots, RootsError};
pub use shown::shown;
pub use store::{
    CertStore, Origin, PairError, Served, StoreEvent, server_config, server_config_of_tls13,
};
pub use verify::{
    CertError, DateFacts, Validity, Verdict, Verifier, cert_error, judge, judge_by_rule_r, validity,
};

/// What every handshake is made with.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// `name` as TLS compares it with a certificate (RFC 9525 section 6).
///
/// # Errors
///
/// If the name is no host name.
pub fn server_name(name: &Name) -> Result<ServerName<'static>, pki_types::InvalidDnsNameError> {
    ServerName::try_from(name.to_string())
}

/// Our clock, as rustls asks for it.
#[derive(Debug)]
struct OurTime(Arc<dyn Clock>);

impl TimeProvider for OurTime {
    fn current_time(&self) -> Option<pki_types::UnixTime> {
        Some(pki_time(self.0.utc()))
    }
}

/// Times before 1970 become 1970: no certificate is older.
fn pki_time(time: UnixTime) -> pki_types::UnixTime {
    let since = time.since(UnixTime::EPOCH);
    pki_types::UnixTime::since_unix_epoch(if since < 0 { Duration::ZERO } else { magnitude(since) })
}
