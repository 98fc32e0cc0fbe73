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
    let [good, other] = ["dns.test", "other.test"].map(|name| pki.leaf(name, TODAY, TODAY + DAY));
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
        let path =
            std::env::temp_dir().join(format!("firstlight-store-{test}-{}", std::process::id()));
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
