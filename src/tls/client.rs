//! TLS towards upstreams and witnesses.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;

use super::{OurTime, Verifier, provider};
use crate::clock::CertDates;

/// A client's configuration in which `verifier` decides, offering `alpn` (RFC 7301).
///
/// Resumption skips certificate verification (RFC 8446 section 2.2), so it is
/// off unless dates are judged strictly, and every call makes a session store
/// of its own: nothing accepted under one trust generation enters another.
///
/// # Errors
///
/// If the provider supports no TLS version.
pub fn config(verifier: &Arc<Verifier>, alpn: &[&[u8]]) -> Result<ClientConfig, rustls::Error> {
    let time = Arc::new(OurTime(Arc::clone(verifier.clock())));
    let mut config = ClientConfig::builder_with_details(provider(), time)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Verifier>::clone(verifier))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = match verifier.trust().dates {
        CertDates::Strict => Resumption::in_memory_sessions(SESSIONS),
        CertDates::RuleR { .. } | CertDates::StrictElseRuleR { .. } => Resumption::disabled(),
    };
    Ok(config)
}

/// Sessions remembered per configuration; each configuration speaks to one server.
const SESSIONS: usize = 4;
