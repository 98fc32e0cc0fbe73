//! What we serve ourselves: one certificate, swapped while connections go on.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::client::verify_server_name;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::pair::{Misfit, chain, pair};
use super::{OurTime, Validity, provider, server_name, validity};
use crate::config::CertificateFiles;
use crate::node::ports::Clock;
use crate::wire::Name;

/// The certificate of DoT, DoH and the page: the files' if they hold a pair
/// that fits, else the fallback.
///
/// It is served whatever its dates: clients have clocks of their own, and ours
/// may be the wrong one.
#[derive(Debug)]
pub struct CertStore {
    served: ArcSwapOption<CertifiedKey>,
    watched: Option<Mutex<Watched>>,
}

impl CertStore {
    /// Serves the pair in `files`, which [`Self::poll`] follows, and
    /// `fallback` until there has been one. The files are read at the first poll.
    #[must_use]
    pub fn new(files: Option<CertificateFiles>, fallback: Option<CertifiedKey>) -> Arc<Self> {
        let watched = files
            .map(|files| Mutex::new(Watched { files, seen: None, settled: false, own: false }));
        Arc::new(Self { served: ArcSwapOption::new(fallback.map(Arc::new)), watched })
    }

    /// Replaces the fallback, unless a pair from files is being served.
    pub fn set_fallback(&self, fallback: CertifiedKey) {
        // Held to the end, so that no poll slips in between.
        let watched =
            self.watched.as_ref().map(|it| it.lock().unwrap_or_else(PoisonError::into_inner));
        if !watched.is_some_and(|watched| watched.own) {
            self.served.store(Some(Arc::new(fallback)));
        }
    }

    /// Looks whether the files changed, and takes them over if they hold a pair that fits.
    ///
    /// A pair that does not is told once it has stood unchanged over two
    /// calls: whoever replaces two files is done with one before the other.
    /// The first call does not wait. Reads files: call it off the query path.
    pub fn poll(&self) -> Option<StoreEvent> {
        let mut watched = self.watched.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let first = watched.seen.is_none();
        let stamps = watched.stamps();
        let changed = watched.seen.replace(stamps) != Some(stamps);
        if changed {
            watched.settled = false;
        } else if watched.settled {
            return None;
        }
        match load(&watched.files) {
            // Both were read between two equal looks at them.
            Ok(key) if watched.stamps() == stamps => {
                watched.settled = true;
                watched.own = true;
                let served = Served::of(&key);
                self.served.store(Some(Arc::new(key)));
                Some(StoreEvent::Loaded(served))
            }
            Ok(_) => {
                watched.seen = None;
                None
            }
            Err(error) if first || !changed => {
                watched.settled = true;
                Some(StoreEvent::Unfit(error))
            }
            Err(_) => None,
        }
    }

    /// What clients are shown; `None` if there is no certificate at all.
    #[must_use]
    pub fn served(&self) -> Option<Served> {
        self.served.load().as_deref().map(Served::of)
    }

    /// Whether a pair from files is being served.
    #[must_use]
    pub fn from_files(&self) -> bool {
        let watched = self.watched.as_ref();
        watched.is_some_and(|it| it.lock().unwrap_or_else(PoisonError::into_inner).own)
    }

    /// Polls every two seconds, for ever, and logs what comes of it.
    pub async fn watch(self: Arc<Self>) {
        loop {
            let store = Arc::clone(&self);
            if let Ok(Some(event)) = tokio::task::spawn_blocking(move || store.poll()).await {
                event.log();
            }
            tokio::time::sleep(PERIOD).await;
        }
    }
}

impl ResolvesServerCert for CertStore {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.served.load_full()
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
    Unfit(PairError),
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
            Self::Unfit(error) => tracing::warn!(
                %error,
                "the certificate files are left alone; the certificate served before still is"
            ),
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
    /// A file cannot be read.
    #[error("{}: {source}; it must exist and be readable for this user", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Between two looks at the files.
const PERIOD: Duration = Duration::from_secs(2);
/// A chain and its key are a few kilobytes.
const LARGEST: u64 = 1 << 20;

#[derive(Debug)]
struct Watched {
    files: CertificateFiles,
    /// How the files looked at the last poll.
    seen: Option<[Option<Stamp>; 2]>,
    /// Nothing more is to be tried or said until they change.
    settled: bool,
    /// Whether a pair of theirs is being served.
    own: bool,
}

impl Watched {
    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.files.certificate, &self.files.key].map(|file| Stamp::of(file))
    }
}

/// What changes when a file is replaced or rewritten.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let meta = fs::metadata(file).ok()?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
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
mod tests {
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::clock::{CertDates, UnixTime};
    use crate::tls::pki::{DAY, FakeClock, Leaf, Pki, TODAY, trust};
    use crate::tls::{Client, Roots};

    #[test]
    fn a_pair_is_served_whatever_its_dates() {
        let (folder, pki) = (Folder::new("dates"), Pki::new());
        let future = pki.leaf("dns.test", TODAY + DAY * 3650, TODAY + DAY * 3700);
        folder.install(&future, &future);
        let store = folder.store(None);

        let event = store.poll();

        assert!(matches!(event, Some(StoreEvent::Loaded(_))), "{event:?}");
        assert_eq!(store.served().unwrap().chain, future.chain());
        assert!(store.poll().is_none());
    }

    #[test]
    fn a_renewed_pair_is_swapped_in_and_a_bad_one_is_told_once() {
        let (folder, pki) = (Folder::new("swap"), Pki::new());
        let [old, new] = [DAY, DAY * 2].map(|life| pki.leaf("dns.test", TODAY, TODAY + life));
        folder.install(&old, &old);
        let store = folder.store(None);
        store.poll();

        // One file is replaced before the other.
        folder.install(&new, &old);
        assert!(store.poll().is_none());
        let told = store.poll();
        assert!(matches!(told, Some(StoreEvent::Unfit(PairError::Mismatch { .. }))), "{told:?}");
        assert!(store.poll().is_none());
        assert_eq!(store.served().unwrap().chain, old.chain());

        folder.install(&new, &new);
        assert!(matches!(store.poll(), Some(StoreEvent::Loaded(_))));
        assert_eq!(store.served().unwrap().chain, new.chain());
    }

    #[test]
    fn a_pair_that_vanishes_or_turns_to_garbage_leaves_the_old_one() {
        let (folder, pki) = (Folder::new("vanish"), Pki::new());
        let leaf = pki.leaf("dns.test", TODAY, TODAY + DAY);
        folder.install(&leaf, &leaf);
        let store = folder.store(None);
        store.poll();

        fs::remove_file(folder.files.key.clone()).unwrap();
        assert!(store.poll().is_none());
        assert!(matches!(store.poll(), Some(StoreEvent::Unfit(PairError::Read { .. }))));
        fs::write(&folder.files.certificate, "-----BEGIN CERTIFICATE-----\n%%").unwrap();
        assert!(store.poll().is_none());
        assert!(matches!(store.poll(), Some(StoreEvent::Unfit(PairError::Certificate { .. }))));

        assert_eq!(store.served().unwrap().chain, leaf.chain());
    }

    #[test]
    fn the_fallback_serves_until_the_files_hold_a_pair() {
        let (folder, pki) = (Folder::new("fallback"), Pki::new());
        let [fallback, again, real] =
            ["a.test", "b.test", "c.test"].map(|name| pki.leaf(name, UnixTime::EPOCH, TODAY));
        let store = folder.store(Some(fallback.certified()));

        let event = store.poll();
        assert!(matches!(event, Some(StoreEvent::Unfit(PairError::Read { .. }))), "{event:?}");
        assert!(event.map(|event| format!("{event:?}")).unwrap().contains("fullchain.pem"));
        store.set_fallback(again.certified());
        assert_eq!(store.served().unwrap().chain, again.chain());

        folder.install(&real, &real);
        store.poll();
        store.set_fallback(fallback.certified());
        assert_eq!(store.served().unwrap().chain, real.chain());
    }

    #[tokio::test]
    async fn open_connections_outlive_a_swap_and_the_next_sees_the_other_certificate() {
        let (folder, pki) = (Folder::new("handshake"), Pki::new());
        let [old, new] = [DAY, DAY * 2].map(|life| pki.leaf("dns.test", TODAY, TODAY + life));
        folder.install(&old, &old);
        let store = folder.store(None);
        store.poll();
        let config =
            server_config(Arc::clone(&store), FakeClock::at(UnixTime::EPOCH), &[b"dot"]).unwrap();

        let (mut first, seen) = shake_hands(&config, &pki.roots(), &[b"dot"]).await.unwrap();
        assert_eq!(seen, old.chain());
        folder.install(&new, &new);
        store.poll();
        let (_, seen) = shake_hands(&config, &pki.roots(), &[]).await.unwrap();
        assert_eq!(seen, new.chain());

        first.write_all(b"still here").await.unwrap();
        let mut echoed = [0; 10];
        first.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"still here");
        assert!(shake_hands(&config, &pki.roots(), &[b"h2"]).await.is_err());
    }

    trait Stream: AsyncRead + AsyncWrite + Unpin {}
    impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

    /// Connects to an echo server with `config`; the connection, and the chain it was shown.
    async fn shake_hands(
        config: &Arc<ServerConfig>,
        roots: &Roots,
        alpn: &[&[u8]],
    ) -> io::Result<(Box<dyn Stream>, Vec<CertificateDer<'static>>)> {
        let (near, far) = tokio::io::duplex(1 << 16);
        let acceptor = TlsAcceptor::from(Arc::clone(config));
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(far).await {
                let (mut reader, mut writer) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            }
        });
        let client = Client::new(FakeClock::at(TODAY)).unwrap();
        let verifier = client.verifier(roots.clone(), trust(CertDates::Strict));
        let connector = TlsConnector::from(client.config(&verifier, alpn));
        let stream = connector.connect("dns.test".try_into().unwrap(), near).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
        Ok((Box::new(stream), chain))
    }

    /// Two files in a folder that goes with the test.
    struct Folder {
        path: PathBuf,
        files: CertificateFiles,
    }

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("firstlight-store-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            let files = CertificateFiles {
                certificate: path.join("fullchain.pem"),
                key: path.join("privkey.pem"),
            };
            Self { path, files }
        }

        /// Replaces both files by renaming, as renewal tools do: the inodes differ.
        fn install(&self, certificate: &Leaf, key: &Leaf) {
            let place = |file: &Path, text: String| {
                let draft = file.with_extension("draft");
                fs::write(&draft, text).unwrap();
                fs::rename(draft, file).unwrap();
            };
            place(&self.files.certificate, certificate.certificate_pem());
            place(&self.files.key, key.key_pem());
        }

        fn store(&self, fallback: Option<CertifiedKey>) -> Arc<CertStore> {
            CertStore::new(Some(self.files.clone()), fallback)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
