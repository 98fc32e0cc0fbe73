//! A certificate chain and its key, checked to belong together; and what its leaf says.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;

use super::provider;
use crate::cert::Held;
use crate::clock::UnixTime;

/// Why a chain and a key cannot be served together.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Misfit {
    /// There is no chain.
    #[error("{0}; it takes the whole chain as PEM, leaf first")]
    Chain(String),
    /// There is no key.
    #[error("{0}; it takes the private key as PEM, without a passphrase")]
    Key(String),
    /// The key is another certificate's.
    #[error("the key is not that of the first certificate")]
    Mismatch,
}

/// The chain and its key in PEM, checked to belong together.
///
/// # Errors
///
/// One of them is none, or they are of two certificates.
pub fn certified(chain_pem: &str, key_pem: &str) -> Result<CertifiedKey, Misfit> {
    pair(chain(chain_pem.as_bytes())?, key_pem.as_bytes())
}

/// The chain in `pem`.
pub(super) fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Misfit> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Misfit::Chain(format!("damaged PEM ({error:?})")))?;
    if chain.is_empty() {
        return Err(Misfit::Chain("no certificate in it".to_owned()));
    }
    for (index, der) in chain.iter().enumerate() {
        x509_parser::parse_x509_certificate(der).map_err(|error| {
            Misfit::Chain(format!("certificate {} is damaged ({error})", index + 1))
        })?;
    }
    Ok(chain)
}

/// `chain` with its key in `key`, which is PEM.
pub(super) fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: &[u8],
) -> Result<CertifiedKey, Misfit> {
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| Misfit::Key(format!("no private key in it ({error:?})")))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
        if matches!(error, rustls::Error::InconsistentKeys(_)) {
            Misfit::Mismatch
        } else if matches!(error, rustls::Error::InvalidCertificate(_)) {
            Misfit::Chain(error.to_string())
        } else {
            Misfit::Key(error.to_string())
        }
    })
}

/// What renewals are planned by: the leaf of `chain`, got of `ca` at `got`. `None` if it is none.
#[must_use]
pub fn held(chain: &[CertificateDer<'_>], got: UnixTime, ca: Option<String>) -> Option<Held> {
    let (_, leaf) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    let alternatives = leaf.subject_alternative_name().ok().flatten();
    let general = alternatives.iter().flat_map(|names| &names.value.general_names);
    let names = general.filter_map(|name| {
        let GeneralName::DNSName(name) = name else { return None };
        Some((*name).to_owned())
    });
    Some(Held {
        serial: data_encoding::HEXLOWER.encode(leaf.raw_serial()),
        names: names.collect(),
        not_before: UnixTime::from_secs(leaf.validity().not_before.timestamp()),
        not_after: UnixTime::from_secs(leaf.validity().not_after.timestamp()),
        got,
        ca,
    })
}

/// Who issued the leaf of `chain`, in words; `None` if it is no certificate.
#[must_use]
pub fn issuer(chain: &[CertificateDer<'_>]) -> Option<String> {
    let (_, leaf) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    Some(leaf.issuer().to_string())
}
