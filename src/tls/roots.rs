//! The certificate authorities that upstreams and witnesses are verified against.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// A set of trusted roots; clones share it.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Mozilla's roots, built into the program: no bundle has to be found at boot.
    #[must_use]
    pub fn builtin() -> Self {
        static BUILTIN: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
            Arc::new(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
        });
        Self(Arc::clone(&BUILTIN))
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
        let mut store = (*Self::builtin().0).clone();
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
        Ok(Self(Arc::new(store)))
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

    pub(super) fn store(&self) -> &RootCertStore {
        &self.0
    }
}

impl From<RootCertStore> for Roots {
    fn from(store: RootCertStore) -> Self {
        Self(Arc::new(store))
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
