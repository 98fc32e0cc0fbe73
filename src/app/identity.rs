//! Who this machine is to those who ask it encrypted: its certificate, and the TLS configurations
//! that show it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::sign::CertifiedKey;
use tracing::{error, warn};

use super::boot::Boot;
use super::certs::policy;
use super::issuing::Archive;
use crate::cert::Lifecycle;
use crate::clock::UnixTime;
use crate::config::{Config, HOME_DOMAINS};
use crate::dns::listen::{ALPN_DOH, ALPN_DOQ, ALPN_DOT, Tls};
use crate::host::state::StateDir;
use crate::net::bind::local_addresses;
use crate::node::ports::Clock;
use crate::ntp::nts;
use crate::tls::{
    CertStore, Challenges, FallbackCa, KeyVault, server_config, server_config_of_tls13,
};
use crate::wire::Name;

/// The file in the state directory that clients of the fallback certificate install.
const CA_FILE: &str = "fallback-ca.pem";
/// The value in the state directory that holds the fallback authority's key.
const CA_KEY: &str = "fallback-ca";

/// Our own certificate, and the TLS configurations that show it.
///
/// Made when it is first needed: whoever shakes hands before that waits for it.
#[derive(Debug)]
pub(super) struct Identity {
    served: OnceLock<ArcSwap<Identified>>,
    config: Config,
    boot: Arc<Boot>,
    clock: Arc<dyn Clock>,
    /// What certificate authorities look for on the DoH port.
    pub(super) challenges: Arc<Challenges>,
}

#[derive(Debug)]
struct Identified {
    store: Arc<CertStore>,
    dot: Arc<ServerConfig>,
    doh: Arc<ServerConfig>,
    doq: Arc<ServerConfig>,
    nts: Arc<ServerConfig>,
    /// Made when it is first needed.
    fallback: OnceLock<Arc<FallbackCa>>,
    name: Name,
}

impl Identity {
    pub(super) fn new(config: &Config, boot: &Arc<Boot>) -> Self {
        let (config, boot) = (config.clone(), Arc::clone(boot));
        let clock: Arc<dyn Clock> = Arc::clone(&boot.clock) as Arc<dyn Clock>;
        let challenges = Challenges::new(Arc::clone(&clock));
        Self { served: OnceLock::new(), config, boot, clock, challenges }
    }

    /// What is kept of certificate authorities.
    pub(super) fn archive(&self) -> &Arc<Archive> {
        self.boot.archive()
    }

    /// The best certificate that was ordered, if any are.
    fn ordered(&self, config: &Config) -> Option<Arc<CertifiedKey>> {
        config.acme.as_ref()?;
        let certificates = self.archive().kept.certificates();
        let now = self.boot.now();
        let held = certificates.iter().map(|certificate| certificate.held.clone()).collect();
        let best = Lifecycle::new(policy(config, 0), held, None, now);
        let best = best.in_service()?;
        let found = certificates.into_iter().find(|it| it.held.serial == best.serial)?;
        Some(found.key)
    }

    /// Makes it, if nobody has needed it so far.
    pub(super) fn make(&self) {
        self.served();
    }

    /// What key exchanges (RFC 8915) are served with.
    pub(super) fn nts(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.served().load().nts)
    }

    fn served(&self) -> &ArcSwap<Identified> {
        let make = || Identified::new(&self.config, self, None);
        self.served.get_or_init(|| ArcSwap::from_pointee(make()))
    }

    /// Goes over to another configuration.
    pub(super) fn replace(&self, config: &Config) {
        let before = self.store();
        let made = Identified::new(config, self, Some(&before));
        self.served().store(Arc::new(made));
    }

    /// Signs the fallback certificate again, with dates around `now`.
    pub(super) fn renew_fallback(&self, now: UnixTime) {
        let served = self.served().load();
        if let Some(authority) = served.fallback.get() {
            match authority.issue(&served.name, &own_addresses(), now) {
                Ok(leaf) => served.store.set_fallback(leaf),
                Err(error) => warn!(%error, "the fallback certificate keeps its dates"),
            }
        }
    }

    /// Where the certificate that clients are shown comes from.
    pub(super) fn store(&self) -> Arc<CertStore> {
        Arc::clone(&self.served().load().store)
    }

    /// The local authority, which is made if there is none. `None`, and in the log why, if it cannot be.
    pub(super) fn authority(&self) -> Option<Arc<FallbackCa>> {
        let served = self.served().load();
        let present = served.fallback.get().cloned();
        let authority =
            present.or_else(|| open_fallback(&served.name, &self.boot.state).map(Arc::new))?;
        Some(Arc::clone(served.fallback.get_or_init(|| authority)))
    }

    /// The configurations as listeners ask for them.
    pub(super) fn present(self: &Arc<Self>) -> Tls {
        let [dot, doh, doq] = [(); 3].map(|()| Arc::clone(self));
        Tls {
            dot: Arc::new(move || Arc::clone(&dot.served().load().dot)),
            doh: Arc::new(move || Arc::clone(&doh.served().load().doh)),
            doq: Arc::new(move || Arc::clone(&doq.served().load().doq)),
            challenges: Arc::clone(&self.challenges),
        }
    }

    /// Takes over certificate files whenever they change.
    pub(super) async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let store = self.store();
            let event = tokio::task::spawn_blocking(move || store.poll()).await;
            if let Ok(Some(event)) = event {
                event.log();
            }
        }
    }

    /// Takes them over at once, if they have changed.
    pub(super) fn look_at_files(&self) {
        if let Some(event) = self.store().poll() {
            event.log();
        }
    }
}

impl Identified {
    fn new(config: &Config, identity: &Identity, before: Option<&CertStore>) -> Self {
        let Identity { boot, clock, .. } = identity;
        let name = config.tls.name.clone();
        let store = CertStore::of(&config.tls);
        if let Some(before) = before.filter(|_| config.tls.files.is_some() || config.acme.is_some())
        {
            store.succeed(before, &name);
        }
        if let Some(key) = identity.ordered(config) {
            store.set_issued(key);
        }
        if let Some(event) = store.poll() {
            event.log();
        }
        // Making keys takes time that a boot does not have, unless clients are to see them.
        let fallback = OnceLock::new();
        if store.own().is_none()
            && let Some(authority) = open_fallback(&name, &boot.state)
        {
            fallback.get_or_init(|| Arc::new(authority));
        }
        let leaf =
            fallback.get().map(|authority| authority.issue(&name, &own_addresses(), clock.utc()));
        match leaf {
            Some(Ok(leaf)) => store.set_fallback(leaf),
            Some(Err(error)) => {
                error!(%error, "no fallback certificate: DoT, DoH and DoQ need another one");
            }
            None => {}
        }
        let make = |alpn| match server_config(Arc::clone(&store), Arc::clone(clock), alpn) {
            Ok(config) => config,
            Err(error) => unreachable!("ring supports TLS 1.2 and 1.3: {error}"),
        };
        let [dot, doh, doq] = [ALPN_DOT, ALPN_DOH, ALPN_DOQ].map(make);
        let nts = match server_config_of_tls13(Arc::clone(&store), Arc::clone(clock), &[nts::ALPN])
        {
            Ok(config) => config,
            Err(error) => unreachable!("ring supports TLS 1.3: {error}"),
        };
        Self { store, dot, doh, doq, nts, fallback, name }
    }
}

/// The authority for `name` and its local domain; its certificate is put where clients can get it.
fn open_fallback(name: &Name, state: &StateDir) -> Option<FallbackCa> {
    let local = name.parent().filter(is_local);
    let zones: Vec<Name> = std::iter::once(name.clone()).chain(local).collect();
    let authority = FallbackCa::open(&Vault(state), &zones)
        .inspect_err(|error| error!(%error, "no fallback certificate: DoT, DoH and DoQ need files"))
        .ok()?;
    let file = state.path().join(CA_FILE);
    let present = std::fs::read_to_string(&file).unwrap_or_default();
    if present != authority.certificate_pem()
        && let Err(error) = std::fs::write(&file, authority.certificate_pem())
    {
        warn!(%error, file = %file.display(), "clients cannot be given the fallback authority's certificate");
    }
    Some(authority)
}

/// Whether `zone` is a domain that exists in homes only, and belongs to no registry.
fn is_local(zone: &Name) -> bool {
    HOME_DOMAINS.iter().filter_map(|end| end.parse().ok()).any(|end: Name| zone.is_within(&end))
}

/// The fallback authority's key in the state directory.
struct Vault<'s>(&'s StateDir);

impl KeyVault for Vault<'_> {
    fn load(&self) -> std::io::Result<Option<Vec<u8>>> {
        self.0.read(CA_KEY).map_err(std::io::Error::other)
    }

    fn store(&self, octets: &[u8]) -> std::io::Result<()> {
        self.0.write(CA_KEY, octets).map_err(std::io::Error::other)
    }
}

/// The addresses clients may know this machine by.
pub(super) fn own_addresses() -> Vec<IpAddr> {
    let any = [
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    ];
    let mut found: Vec<_> = any
        .into_iter()
        .flat_map(|wildcard| local_addresses(wildcard).unwrap_or_default())
        .map(|address| address.ip())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}
