//! The certificate authorities that upstreams and witnesses are verified against.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use data_encoding::BASE64;
use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::config::Pin;

/// A set of trusted roots, and the keys of which a leaf must hold one; clones share it.
#[derive(Clone, Debug)]
pub struct Roots {
    store: Arc<RootCertStore>,
    /// None: any key will do.
    pins: Arc<[Pin]>,
}

impl Roots {
    /// Mozilla's roots, built into the program: no bundle has to be found at boot.
    #[must_use]
    pub fn builtin() -> Self {
        static BUILTIN: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
            Arc::new(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
        });
        Arc::clone(&BUILTIN).into()
    }

    /// Mozilla's roots and every certificate in the PEM file `extra`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or holds a certificate that cannot be a
    /// root, or none at all.
    pub fn with_file(extra: &Path) -> Result<Self, RootsError> {
        let file = || extra.to_owned();
        let pem = fs::read(extra).map_err(|source| RootsError::Read { file: file(), source })?;
        let mut store = (*Self::builtin().store).clone();
        let builtin = store.len();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate
                .map_err(|reason| RootsError::Form { file: file(), reason: reason.to_string() })?;
            store
                .add(certificate)
                .map_err(|reason| RootsError::Form { file: file(), reason: reason.to_string() })?;
        }
        if store.len() == builtin {
            return Err(RootsError::Empty { file: file() });
        }
        Ok(store.into())
    }

    /// [`Self::with_file`] if there is a file, and the built-in roots without
    /// one or if it is unfit, which is logged.
    #[must_use]
    pub fn or_builtin(extra: Option<&Path>) -> Self {
        extra.map_or_else(Self::builtin, |file| {
            Self::with_file(file).unwrap_or_else(|error| {
                tracing::warn!(%error, "extra roots are left out; the built-in ones serve alone");
                Self::builtin()
            })
        })
    }

    /// The same roots; a leaf that passes must hold one of these keys besides. Without any, every
    /// key will do.
    #[must_use]
    pub fn pinned(self, pins: &[Pin]) -> Self {
        Self { pins: pins.into(), ..self }
    }

    pub(super) fn store(&self) -> &RootCertStore {
        &self.store
    }

    /// Holds the key of the leaf, which comes first, against the pins.
    pub(super) fn check_pin(&self, chain: &[CertificateDer<'_>]) -> Result<(), PinError> {
        if self.pins.is_empty() {
            return Ok(());
        }
        match chain.first().and_then(pin_of) {
            Some(pin) if self.pins.contains(&pin) => Ok(()),
            pin => Err(PinError { pins: self.pins.len(), presented: pin }),
        }
    }
}

/// The pin of the key in `certificate`; `None` if it is not X.509.
fn pin_of(certificate: &CertificateDer<'_>) -> Option<Pin> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let digest = digest(&SHA256, certificate.tbs_certificate.subject_pki.raw);
    digest.as_ref().try_into().ok().map(Pin)
}

/// A key that is not pinned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinError {
    /// How many keys are pinned.
    pins: usize,
    presented: Option<Pin>,
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pins, presented } = self;
        let presented = presented.map_or_else(String::new, |Pin(digest)| BASE64.encode(&digest));
        write!(
            f,
            "its key, {presented}, is none of the {pins} in `pins`; if its operator says that the \
             key was changed, add it there"
        )
    }
}

impl std::error::Error for PinError {}

impl From<RootCertStore> for Roots {
    fn from(store: RootCertStore) -> Self {
        Arc::new(store).into()
    }
}

impl From<Arc<RootCertStore>> for Roots {
    fn from(store: Arc<RootCertStore>) -> Self {
        Self { store, pins: Arc::from([]) }
    }
}

/// Why a file of further roots cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// Not one certificate in it.
    #[error("{}: no certificate; write one or more CERTIFICATE blocks of PEM", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// A block in it is damaged or no root.
    #[error("{}: not usable as a root certificate: {reason}", file.display())]
    Form {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}
