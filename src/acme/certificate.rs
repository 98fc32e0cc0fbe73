//! What a CA issued, held against what was ordered.

use std::fmt;

use data_encoding::BASE64;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use super::fault::failure;
use super::{Failure, Held};
use crate::cert::Kind;
use crate::clock::UnixTime;
use crate::tls::{held, provider};

/// An issued certificate with the chain to its root, which it leaves out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chain {
    /// As the CA gave it out.
    pub pem: String,
    /// The leaf first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What [`crate::cert::Lifecycle`] wants to know of it.
    pub held: Held,
}

/// A private key as PEM (PKCS#8). It is not shown in logs.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct KeyPem(pub String);

impl KeyPem {
    /// Another one: ECDSA on P-256.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn generate() -> Result<Self, rcgen::Error> {
        Ok(Self(KeyPair::generate()?.serialize_pem()))
    }

    pub(super) fn of(key: &PrivatePkcs8KeyDer<'_>) -> Self {
        let base64 = BASE64.encode(key.secret_pkcs8_der());
        let lines: Vec<_> = base64.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        Self(format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            lines.join("\n")
        ))
    }

    /// The key itself, or what is wrong with it.
    pub(in crate::acme) fn pkcs8(&self) -> Result<PrivatePkcs8KeyDer<'static>, String> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(self.0.as_bytes());
        key.map_err(|error| format!("a key that was kept is none: {error}"))
    }
}

impl fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPem(..)")
    }
}

/// Asks for a certificate for `names` with `key` (RFC 2986), in DER.
pub(super) fn signing_request(
    names: &[String],
    key: &PrivatePkcs8KeyDer<'_>,
) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::try_from(key)?;
    let mut params = CertificateParams::new(names)?;
    // The subject's names stand in the extension alone (RFC 8555 section 7.4).
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&key)?.der().to_vec())
}

/// Takes `pem` for a certificate of `key` with all of `names`, got at `got` from `ca`.
pub(super) fn chain(
    pem: String,
    names: &[String],
    key: &PrivatePkcs8KeyDer<'static>,
    ca: &str,
    got: UnixTime,
) -> Result<Chain, Failure> {
    let garbage = |detail: &str| failure(Kind::Garbage, detail);
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| garbage(&format!("the certificate it issued is no PEM: {error}")))?;
    let held = held(&certificates, got, Some(ca.to_owned()));
    let held = held.ok_or_else(|| garbage("it issued no certificate, or one that is no X.509"))?;
    if let Some(lacking) = names.iter().find(|name| !held.covers(name)) {
        return Err(garbage(&format!("the certificate it issued lacks {lacking}")));
    }
    let key = PrivateKeyDer::Pkcs8(key.clone_key());
    CertifiedKey::from_der(certificates.clone(), key, &provider())
        .map_err(|error| garbage(&format!("the certificate it issued is of no use: {error}")))?;
    Ok(Chain { pem, certificates, held })
}
