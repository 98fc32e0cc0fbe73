//! What we serve ourselves: one certificate, swapped while connections go on.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use rustls::client::verify_server_name;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::pair::{Misfit, chain, pair};
use super::{OurTime, Validity, provider, server_name, validity};
use crate::config::{CertificateFiles, Tls};
use crate::node::ports::Clock;
use crate::wire::Name;

/// The certificate of DoT, DoH and the page: one that was ordered, or the files' if they hold a pair
/// that fits, else the fallback.
///
/// It is served whatever its dates: clients have clocks of their own, and ours
/// may be the wrong one.
#[derive(Debug, Default)]
pub struct CertStore {
    shown: ArcSwapOption<Shown>,
    watched: Option<Mutex<Watched>>,
    trouble: ArcSwapOption<PairError>,
}

#[derive(Clone, Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    origin: Origin,
}

/// Where a certificate comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// It was ordered (RFC 8555).
    Acme,
    /// Of our own making.
    Fallback,
    /// Files.
    Files,
}

impl Origin {
    /// Its word in reports.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Acme => "acme",
            Self::Fallback => "fallback",
            Self::Files => "files",
        }
    }
}

impl CertStore {
    /// Serves the pair in the files of `tls`, which [`Self::poll`] follows, and nothing until there
    /// has been one or a fallback. The files are read at the first poll.
    #[must_use]
    pub fn of(tls: &Tls) -> Arc<Self> {
        let watched = tls.files.clone().map(|files| {
            let name = tls.name.clone();
            Mutex::new(Watched { files, name, seen: None, settled: false })
        });
        Arc::new(Self { watched, ..Self::default() })
    }

    /// Serves `key` until there is another fallback.
    #[must_use]
    pub fn fixed(key: CertifiedKey) -> Arc<Self> {
        let store = Self::default();
        store.set_fallback(key);
        Arc::new(store)
    }

    /// Serves `key`, which was ordered.
    pub fn set_issued(&self, key: Arc<CertifiedKey>) {
        self.shown.store(Some(Arc::new(Shown { key, origin: Origin::Acme })));
    }

    /// Replaces the fallback, unless a better one is being served.
    pub fn set_fallback(&self, fallback: CertifiedKey) {
        let fallback = Arc::new(Shown { key: Arc::new(fallback), origin: Origin::Fallback });
        self.shown.rcu(|shown| match shown {
            Some(shown) if shown.origin != Origin::Fallback => Some(Arc::clone(shown)),
            Some(_) | None => Some(Arc::clone(&fallback)),
        });
    }

    /// Goes on with what `before` serves, if that is good for `name`: it comes from elsewhere by
    /// another configuration, and need not be there yet.
    pub fn succeed(&self, before: &Self, name: &Name) {
        let shown = before.shown.load_full().filter(|shown| shown.origin != Origin::Fallback);
        if let Some(shown) = shown.filter(|shown| Served::of(&shown.key).carries(name)) {
            self.shown.store(Some(shown));
        }
    }

    /// Looks whether the files changed, and takes them over if they hold a pair that fits.
    ///
    /// A pair that does not is told once it has stood unchanged over two
    /// calls: whoever replaces two files is done with one before the other.
    /// The first call does not wait. One that lacks the configured name fits, unless one is served
    /// that has it. Reads files: call it off the query path.
    pub fn poll(&self) -> Option<StoreEvent> {
        let mut watched = self.watched.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let first = watched.seen.is_none();
        let stamps = watched.stamps();
        let changed = watched.seen.replace(stamps) != Some(stamps);
        if watched.settled && !changed {
            return None;
        }
        watched.settled = false;
        let loaded = load(&watched.files).map(Arc::new);
        // Only what was read between two equal looks at the files is sure to be one version.
        if loaded.is_ok() && watched.stamps() != stamps {
            return None;
        }
        let lacks_name = |key: &CertifiedKey| !Served::of(key).carries(&watched.name);
        let lacking = |key: &CertifiedKey| lacks_name(key).then(|| watched.nameless());
        let (key, doubt) = match loaded.map(|key| (lacking(&key), key)) {
            Ok((Some(error), _)) if self.own().is_some_and(|own| !lacks_name(&own)) => {
                (None, Some(error))
            }
            Ok((doubt, key)) => (Some(key), doubt),
            Err(error) => (None, Some(error)),
        };
        let Some(key) = key else {
            let error = doubt.filter(|_| first || !changed).map(Arc::new)?;
            let told = self.trouble.swap(Some(Arc::clone(&error)));
            let again = told.is_some_and(|told| told.to_string() == error.to_string());
            return (!again).then_some(StoreEvent::Unfit(error));
        };
        watched.settled = true;
        let served = Served::of(&key);
        self.shown.store(Some(Arc::new(Shown { key, origin: Origin::Files })));
        self.trouble.store(doubt.map(Arc::new));
        Some(StoreEvent::Loaded(served))
    }

    /// What clients are shown; `None` if there is no certificate at all.
    #[must_use]
    pub fn served(&self) -> Option<Served> {
        self.shown.load().as_ref().map(|shown| Served::of(&shown.key))
    }

    /// The leaf that clients are shown; `None` if there is no certificate at all.
    #[must_use]
    pub fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.shown.load().as_ref().and_then(|shown| shown.key.cert.first().cloned())
    }

    /// What is being served, if it is not the fallback.
    #[must_use]
    pub fn own(&self) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.load();
        let own = shown.as_ref().filter(|shown| shown.origin != Origin::Fallback);
        own.map(|shown| Arc::clone(&shown.key))
    }

    /// Where that which is served comes from.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        self.shown.load().as_ref().map(|shown| shown.origin)
    }

    /// What is wrong with the files.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<PairError>> {
        self.trouble.load_full()
    }
}

impl ResolvesServerCert for CertStore {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown.load().as_ref().map(|shown| Arc::clone(&shown.key))
    }
}

/// A server's configuration that shows what `store` holds and offers `alpn`
/// (RFC 7301); clients that name no protocol are accepted.
///
/// # Errors
///
/// If the provider supports no TLS version or cannot make ticket keys.
pub fn server_config(
    store: Arc<CertStore>,
    clock: Arc<dyn Clock>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    server_config_of(store, clock, alpn, rustls::DEFAULT_VERSIONS)
}

/// As [`server_config`], for protocols that no TLS before 1.3 may carry.
///
/// # Errors
///
/// As [`server_config`].
pub fn server_config_of_tls13(
    store: Arc<CertStore>,
    clock: Arc<dyn Clock>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    server_config_of(store, clock, alpn, &[&TLS13])
}

fn server_config_of(
    store: Arc<CertStore>,
    clock: Arc<dyn Clock>,
    alpn: &[&[u8]],
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(OurTime(clock)))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(store);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// What [`CertStore::poll`] found.
#[derive(Debug)]
pub enum StoreEvent {
    /// A pair was taken over.
    Loaded(Served),
    /// The files hold no pair that fits; what was served before still is.
    Unfit(Arc<PairError>),
}

impl StoreEvent {
    /// Tells the log.
    pub fn log(&self) {
        match self {
            Self::Loaded(served) => tracing::info!(
                not_before = %served.validity.map_or_else(Default::default, |v| v.not_before),
                not_after = %served.validity.map_or_else(Default::default, |v| v.not_after),
                "serving the certificate from the files"
            ),
            // The condition `certificate-files` tells people, with what is served in their place.
            Self::Unfit(error) => tracing::debug!(%error, "the certificate files are left alone"),
        }
    }
}

/// The certificate that clients are shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Served {
    /// When its chain is valid, if it can be told.
    pub validity: Option<Validity>,
    /// The chain as sent, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
}

impl Served {
    fn of(key: &CertifiedKey) -> Self {
        Self { validity: validity(&key.cert), chain: key.cert.clone() }
    }

    /// Whether the leaf is for `name`, as clients compare the two (RFC 9525 section 6).
    #[must_use]
    pub fn carries(&self, name: &Name) -> bool {
        let leaf = self.chain.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
        leaf.zip(server_name(name).ok())
            .is_some_and(|(leaf, name)| verify_server_name(&leaf, &name).is_ok())
    }
}

/// Why a certificate and a key file cannot be served together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// The certificate file holds no chain.
    #[error("{}: {reason}; write the whole chain as PEM, leaf first", file.display())]
    Certificate {
        /// The certificate file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key file holds no key.
    #[error("{}: {reason}; write the private key as PEM, without a passphrase", file.display())]
    Key {
        /// The key file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key is another certificate's.
    #[error(
        "{} is not the key of the first certificate in {}; install the two that were issued together",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// The certificate is for other names.
    #[error(
        "{} is not for {name}, which clients check; order one for it, or name tls.name as it has it",
        certificate.display()
    )]
    Name {
        /// The certificate file.
        certificate: PathBuf,
        /// The configured name.
        name: Name,
    },
    /// A file cannot be read.
    #[error("{}: {source}; it must exist and be readable for this user", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A chain and its key are a few kilobytes.
const LARGEST: u64 = 1 << 20;

#[derive(Debug)]
struct Watched {
    files: CertificateFiles,
    /// Which the certificate is to have.
    name: Name,
    /// How the files looked at the last poll.
    seen: Option<[Option<Stamp>; 2]>,
    /// They have been taken over as they look.
    settled: bool,
}

impl Watched {
    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.files.certificate, &self.files.key].map(|file| Stamp::of(file))
    }

    fn nameless(&self) -> PairError {
        PairError::Name { certificate: self.files.certificate.clone(), name: self.name.clone() }
    }
}

/// What changes when a file is replaced or rewritten, or others may read it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let meta = fs::metadata(file).ok()?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

fn load(files: &CertificateFiles) -> Result<CertifiedKey, PairError> {
    let CertificateFiles { certificate, key } = files;
    let unfit = |misfit| match misfit {
        Misfit::Chain(reason) => PairError::Certificate { file: certificate.clone(), reason },
        Misfit::Key(reason) => PairError::Key { file: key.clone(), reason },
        Misfit::Mismatch => {
            PairError::Mismatch { certificate: certificate.clone(), key: key.clone() }
        }
    };
    let chain = chain(&read(certificate)?).map_err(unfit)?;
    pair(chain, &read(key)?).map_err(unfit)
}

fn read(file: &Path) -> Result<Vec<u8>, PairError> {
    let fail = |source| PairError::Read { file: file.to_owned(), source };
    if fs::metadata(file).map_err(fail)?.len() > LARGEST {
        return Err(fail(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB")));
    }
    fs::read(file).map_err(fail)
}

#[cfg(test)]
mod tests;
