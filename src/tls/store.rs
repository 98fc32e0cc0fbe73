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
        assert!(unfit(store.poll()).contains("is not the key of"));
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
        assert!(unfit(store.poll()).contains("No such file"));
        fs::write(&folder.files.certificate, "-----BEGIN CERTIFICATE-----\n%%").unwrap();
        assert!(store.poll().is_none());
        assert!(unfit(store.poll()).contains("damaged PEM"));

        assert_eq!(store.served().unwrap().chain, leaf.chain());
    }

    #[test]
    fn the_fallback_serves_until_the_files_hold_a_pair() {
        let (folder, pki) = (Folder::new("fallback"), Pki::new());
        let [fallback, again, real] =
            ["a.test", "b.test", "c.test"].map(|name| pki.leaf(name, UnixTime::EPOCH, TODAY));
        let store = folder.store(Some(fallback.certified()));

        assert!(unfit(store.poll()).contains("fullchain.pem: No such file"));
        store.set_fallback(again.certified());
        assert_eq!(store.served().unwrap().chain, again.chain());

        folder.install(&real, &real);
        store.poll();
        store.set_fallback(fallback.certified());
        assert_eq!(store.served().unwrap().chain, real.chain());
    }

    #[test]
    fn one_that_was_ordered_is_served_until_the_next_and_over_a_change_of_the_configuration() {
        let pki = Pki::new();
        let [one, other, fallback] =
            [1, 2, 3].map(|days| pki.leaf("dns.test", TODAY, TODAY + DAY * days));
        let store = CertStore::fixed(fallback.certified());
        assert_eq!(store.origin(), Some(Origin::Fallback));

        store.set_issued(Arc::new(one.certified()));
        store.set_fallback(fallback.certified());
        assert_eq!(store.served().unwrap().chain, one.chain());
        store.set_issued(Arc::new(other.certified()));

        let name = "dns.test".parse().unwrap();
        let next = CertStore::of(&Tls { name, files: None });
        next.succeed(&store, &"dns.test".parse().unwrap());
        next.set_fallback(fallback.certified());
        assert_eq!(next.served().unwrap().chain, other.chain());
        assert_eq!(next.origin(), Some(Origin::Acme));
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

    #[test]
    fn a_pair_without_the_name_replaces_none_that_has_it() {
        let (folder, pki) = (Folder::new("name"), Pki::new());
        let [good, other] =
            ["dns.test", "other.test"].map(|name| pki.leaf(name, TODAY, TODAY + DAY));
        folder.install(&other, &other);
        let store = folder.store(None);

        // Better than none: those who do not check names are served.
        assert!(matches!(store.poll(), Some(StoreEvent::Loaded(_))));
        assert!(store.trouble().unwrap().to_string().contains("is not for dns.test"));
        folder.install(&good, &good);
        assert!(matches!(store.poll(), Some(StoreEvent::Loaded(_))));
        assert!(store.trouble().is_none());

        folder.install(&other, &other);
        assert!(store.poll().is_none());
        assert!(unfit(store.poll()).contains("is not for dns.test"));
        assert!(store.poll().is_none());
        assert_eq!(store.served().unwrap().chain, good.chain());
    }

    #[test]
    fn a_file_that_may_be_read_at_last_is_read() {
        let (folder, pki) = (Folder::new("denied"), Pki::new());
        let leaf = pki.leaf("dns.test", TODAY, TODAY + DAY);
        folder.install(&leaf, &leaf);
        // Not readable, for whatever reason, and neither time nor size shows when it is.
        let key = folder.path.join("key");
        fs::rename(&folder.files.key, &key).unwrap();
        fs::create_dir(&folder.files.key).unwrap();
        let store = folder.store(None);
        assert!(unfit(store.poll()).contains("privkey.pem"));
        assert!(store.poll().is_none());

        fs::remove_dir(&folder.files.key).unwrap();
        fs::rename(&key, &folder.files.key).unwrap();

        assert!(matches!(store.poll(), Some(StoreEvent::Loaded(_))));
    }

    #[test]
    fn other_files_without_a_pair_leave_the_one_that_was_served() {
        let (folder, pki) = (Folder::new("before"), Pki::new());
        let leaf = pki.leaf("dns.test", TODAY, TODAY + DAY);
        folder.install(&leaf, &leaf);
        let before = folder.store(None);
        before.poll();
        let configured = |name: &str, files| {
            let store = CertStore::of(&Tls { name: name.parse().unwrap(), files });
            store.succeed(&before, &name.parse().unwrap());
            store.poll();
            store.set_fallback(pki.leaf("dns.test", TODAY, TODAY + DAY).certified());
            store.served().unwrap().chain == leaf.chain()
        };
        let nowhere = CertificateFiles { key: "nowhere".into(), ..folder.files.clone() };

        assert!(configured("dns.test", Some(nowhere.clone())));
        assert!(!configured("other.test", Some(nowhere)));
    }

    fn unfit(event: Option<StoreEvent>) -> String {
        let Some(StoreEvent::Unfit(error)) = event else { panic!("{event:?}") };
        error.to_string()
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
            let name = "dns.test".parse().unwrap();
            let store = CertStore::of(&Tls { name, files: Some(self.files.clone()) });
            if let Some(fallback) = fallback {
                store.set_fallback(fallback);
            }
            store
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
