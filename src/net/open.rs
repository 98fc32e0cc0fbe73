//! A set of addresses kept open: what cannot be had is asked for again until it can.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::bind;

/// How long to wait before a refused address is tried again. At first less, and twice as long each
/// time: whoever has the address may be a process about to end.
const RETRY: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 2000 });
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// Opens one address and serves it.
pub trait Listen: Send + Sync + 'static {
    /// Serves until it is dropped. The address is free when the drop returns, or, where
    /// connections share the listener's socket, when the last of them has ended.
    type Guard: Send + 'static;

    /// Opens `address`. Returns the address in use (port 0 stands for any) and what serves it.
    ///
    /// # Errors
    ///
    /// Why the address cannot be had.
    fn listen(&self, address: SocketAddr) -> io::Result<(SocketAddr, Self::Guard)>;

    /// What is served, for the log: `DNS over UDP`.
    fn service(&self) -> &'static str;
}

/// An address that cannot be bound for the time being.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve {service} on {address}: {error}; {remedy}")]
pub struct Refused {
    /// What was to be served.
    pub service: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// Why not.
    #[source]
    pub error: io::Error,
    /// What a person can do about it.
    pub remedy: &'static str,
}

/// Keeps a set of addresses open. Whatever is refused is tried again every two
/// seconds for as long as this value lives; dropping it closes everything.
///
/// A wildcard of which somebody else holds a part (systemd-resolved its stub,
/// 127.0.0.53) is opened as the single addresses of the machine instead,
/// including those that appear later.
pub struct KeepOpen<L: Listen> {
    shared: Arc<Shared<L>>,
    retry: AbortHandle,
}

impl<L: Listen> KeepOpen<L> {
    /// Opens what can be opened of `wanted` before it returns, and the rest from a task on `runtime`.
    #[must_use]
    pub fn start(listen: L, wanted: &[SocketAddr], runtime: &Handle) -> Self {
        let shared = Arc::new(Shared { listen, places: Mutex::default(), refused: Notify::new() });
        let retry = runtime.spawn(Arc::clone(&shared).retry()).abort_handle();
        let this = Self { shared, retry };
        this.set(wanted);
        this
    }

    /// Changes the set: closes what is not in `wanted`, opens what is missing, leaves the rest alone.
    pub fn set(&self, wanted: &[SocketAddr]) {
        let needed: BTreeSet<_> =
            wanted.iter().copied().filter(|address| !covered(*address, wanted)).collect();
        let mut places = self.shared.places();
        places.retain(|address, _| needed.contains(address));
        for address in needed {
            places.entry(address).or_default();
        }
        self.shared.attempt(&mut places);
    }

    /// The addresses that answer.
    #[must_use]
    pub fn open(&self) -> Vec<SocketAddr> {
        let places = self.shared.places();
        places.values().flat_map(|place| place.open.values().map(|(local, _)| *local)).collect()
    }

    /// The addresses that do not, and why.
    #[must_use]
    pub fn refused(&self) -> Vec<Refused> {
        let places = self.shared.places();
        let refused = places.values().flat_map(|place| &place.refused);
        refused.map(|(address, code)| self.shared.refusal(*address, *code)).collect()
    }

    /// What is being served.
    #[must_use]
    pub fn listen(&self) -> &L {
        &self.shared.listen
    }

    /// Closes everything.
    pub fn close(&self) {
        self.set(&[]);
    }
}

impl<L: Listen> Drop for KeepOpen<L> {
    fn drop(&mut self) {
        self.retry.abort();
        self.close();
    }
}

impl<L: Listen> fmt::Debug for KeepOpen<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepOpen")
            .field("service", &self.shared.listen.service())
            .field("open", &self.open())
            .finish_non_exhaustive()
    }
}

struct Shared<L: Listen> {
    listen: L,
    places: Mutex<BTreeMap<SocketAddr, Place<L::Guard>>>,
    refused: Notify,
}

/// A configured address: the sockets that stand for it, and those that could not be had.
struct Place<G> {
    /// By the address asked for; the address in use beside the guard.
    open: BTreeMap<SocketAddr, (SocketAddr, G)>,
    /// The error code of each address that was refused.
    refused: BTreeMap<SocketAddr, i32>,
    /// Whether it is a wildcard of which somebody else has a part.
    parted: bool,
}

impl<G> Default for Place<G> {
    fn default() -> Self {
        Self { open: BTreeMap::new(), refused: BTreeMap::new(), parted: false }
    }
}

impl<L: Listen> Shared<L> {
    fn places(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Place<L::Guard>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn retry(self: Arc<Self>) {
        let mut pause = FIRST_RETRY;
        loop {
            self.refused.notified().await;
            tokio::time::sleep(pause).await;
            pause = RETRY.min(2 * pause);
            self.attempt(&mut self.places());
        }
    }

    /// Tries to open whatever is not open, and asks to be called again if something is left.
    fn attempt(&self, places: &mut BTreeMap<SocketAddr, Place<L::Guard>>) {
        let mut again = false;
        for (wanted, place) in places {
            self.open(*wanted, place);
            // In single addresses, a wildcard is never complete: more may appear.
            again |= !place.open.contains_key(wanted);
        }
        if again {
            self.refused.notify_one();
        }
    }

    fn open(&self, wanted: SocketAddr, place: &mut Place<L::Guard>) {
        if place.open.contains_key(&wanted) {
            return;
        }
        // Beside single addresses of our own the wildcard cannot be had any more.
        if place.open.is_empty() {
            match self.listen.listen(wanted) {
                Ok(served) => {
                    place.refused.clear();
                    place.parted = false;
                    return self.opened(wanted, place, served);
                }
                Err(error)
                    if error.kind() != io::ErrorKind::AddrInUse
                        || !wanted.ip().is_unspecified() =>
                {
                    return self.refuse(wanted, place, &error);
                }
                Err(_) if place.parted => {}
                Err(_) => {
                    place.parted = true;
                    tracing::info!(
                        service = self.listen.service(),
                        address = %wanted,
                        "another program has a part of this port; opening every free address"
                    );
                }
            }
        }
        let present = match bind::local_addresses(wanted) {
            Ok(present) => present,
            Err(error) => return self.refuse(wanted, place, &error),
        };
        place.refused.retain(|address, _| present.contains(address));
        for address in present {
            if place.open.contains_key(&address) {
                continue;
            }
            match self.listen.listen(address) {
                Ok(served) => self.opened(address, place, served),
                Err(error) => self.refuse(address, place, &error),
            }
        }
    }

    fn opened(
        &self,
        address: SocketAddr,
        place: &mut Place<L::Guard>,
        served: (SocketAddr, L::Guard),
    ) {
        place.refused.remove(&address);
        tracing::info!(service = self.listen.service(), address = %served.0, "listening");
        place.open.insert(address, served);
    }

    /// Notes the refusal; logs it once for each reason.
    fn refuse(&self, address: SocketAddr, place: &mut Place<L::Guard>, error: &io::Error) {
        let code = error.raw_os_error().unwrap_or_default();
        if place.refused.insert(address, code) != Some(code) {
            tracing::warn!(
                service = self.listen.service(),
                %address,
                %error,
                remedy = bind::remedy(address, error),
                "cannot listen; will keep trying"
            );
        }
    }

    fn refusal(&self, address: SocketAddr, code: i32) -> Refused {
        let error = io::Error::from_raw_os_error(code);
        let remedy = bind::remedy(address, &error);
        Refused { service: self.listen.service(), address, error, remedy }
    }
}

/// Whether a wildcard of `wanted` stands for `address` already.
fn covered(address: SocketAddr, wanted: &[SocketAddr]) -> bool {
    let wildcard = |other: &SocketAddr| {
        other.ip().is_unspecified()
            && other.is_ipv4() == address.is_ipv4()
            && other.port() == address.port()
    };
    !address.ip().is_unspecified() && address.port() != 0 && wanted.iter().any(wildcard)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_wildcard_beside_somebody_elses_stub_is_opened_on_every_free_address() {
        let stub = bind::tcp(at("127.0.0.53:0")).unwrap();
        let port = stub.local_addr().unwrap().port();
        let wildcard = SocketAddr::from(([0, 0, 0, 0], port));

        let open = KeepOpen::start(Bare, &[wildcard], &Handle::current());

        // Each address of the machine is tried, and the stub's is none of them.
        let tried: Vec<_> = open
            .open()
            .into_iter()
            .chain(open.refused().iter().map(|refused| refused.address))
            .collect();
        assert!(tried.contains(&([127, 0, 0, 1], port).into()), "{open:?}");
        assert!(!tried.contains(&wildcard));
        assert!(!open.open().is_empty());
    }

    #[tokio::test]
    async fn a_refused_address_is_named_and_opened_as_soon_as_it_is_free() {
        let other = bind::tcp(at("127.0.0.1:0")).unwrap();
        let address = other.local_addr().unwrap();

        let open = KeepOpen::start(Bare, &[address], &Handle::current());
        assert_eq!(open.open(), []);
        let refused = open.refused().remove(0).to_string();
        assert!(refused.contains(&address.to_string()), "{refused}");
        assert!(refused.contains("another program"), "{refused}");

        drop(other);
        while open.open().is_empty() {
            tokio::time::sleep(RETRY).await;
        }
        assert_eq!(open.open(), [address]);
        assert!(open.refused().is_empty());
    }

    #[tokio::test]
    async fn a_changed_set_leaves_what_stays_alone_and_frees_the_rest() {
        let open = KeepOpen::start(Bare, &[at("127.0.0.1:0")], &Handle::current());
        let stays = open.open().remove(0);
        let goes = free_address();
        open.set(&[at("127.0.0.1:0"), goes]);
        assert!(open.open().contains(&goes));

        open.set(&[at("127.0.0.1:0")]);

        assert_eq!(open.open(), [stays]);
        assert!(bind::tcp(goes).is_ok());
    }

    #[tokio::test]
    async fn an_address_that_a_wildcard_covers_is_not_opened_twice() {
        let port = free_address().port();
        let wanted = [([127, 0, 0, 1], port).into(), ([0, 0, 0, 0], port).into()];

        let open = KeepOpen::start(Bare, &wanted, &Handle::current());

        assert_eq!(open.open(), [([0, 0, 0, 0], port).into()]);
        assert!(open.refused().is_empty());
    }

    /// Listens and does nothing.
    struct Bare;

    impl Listen for Bare {
        type Guard = TcpListener;

        fn listen(&self, address: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
            let listener = bind::tcp(address)?;
            Ok((listener.local_addr()?, listener))
        }

        fn service(&self) -> &'static str {
            "nothing"
        }
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn free_address() -> SocketAddr {
        bind::tcp(at("127.0.0.1:0")).unwrap().local_addr().unwrap()
    }
}
