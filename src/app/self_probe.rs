//! Shakes hands with our own ports, as clients do: what they show must be what is in service.
//!
//! That the store holds the right certificate says nothing about who answers at a port, or whether
//! anybody does.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::steward::{Message, Steward};
use crate::clock::UnixTime;
use crate::health::Severity;
use crate::node::Input;
use crate::node::ports::Clock;
use crate::tls::{Client, held, issuer, server_name, shown};

/// The condition that a port shows something else than the certificate in service.
const CONDITION: &str = "certificate-served";
/// How often ports are probed that were in order.
const EACH: Duration = Duration::from_secs(600);
/// How soon after a change of the certificate, a reload, or a fault.
const SOON: Duration = Duration::from_secs(3);
/// For a connection and its handshake.
const DEADLINE: Duration = Duration::from_secs(5);

/// When our own ports are probed, and what was found.
#[derive(Debug)]
pub(super) struct SelfProbe {
    due: Instant,
    under_way: Option<JoinHandle<()>>,
    /// The leaf that was in service when this was last looked at.
    leaf: Option<CertificateDer<'static>>,
    /// The round before found something wrong.
    doubted: bool,
}

impl SelfProbe {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now + SOON, under_way: None, leaf: None, doubted: false }
    }

    /// Something changed.
    pub(super) fn soon(&mut self, now: Instant) {
        self.due = now + SOON;
    }

    fn is_due(&self, now: Instant) -> bool {
        now >= self.due && self.under_way.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Steward {
    /// Probes our own ports if it is time.
    pub(super) fn look_at_own_ports(&mut self, now: Instant) {
        let leaf = self.services.identity.store().leaf();
        if self.self_probe.leaf != leaf {
            self.self_probe.leaf = leaf;
            self.self_probe.soon(now);
        }
        if !self.self_probe.is_due(now) {
            return;
        }
        self.self_probe.due = now + EACH;
        let places = self.services.listeners.places();
        let ports = [("DoT", places.dot), ("DoH", places.doh)];
        let ports = ports.into_iter().flat_map(|(service, addresses)| {
            addresses.into_iter().map(move |address| (service, address))
        });
        let ports: Vec<_> = ports.collect();
        let name = server_name(&self.config.tls.name).ok();
        let (client, sender) = (self.services.client.clone(), self.sender.clone());
        let identity = self.services.identity.clone();
        self.self_probe.under_way = Some(tokio::spawn(async move {
            let found = probe(&client, name.as_ref(), ports, || identity.store().leaf()).await;
            let _ = sender.send(Message::Probed(complaint(&found))).await;
        }));
    }

    /// Tells people what is wrong with our own ports once two rounds in a row have found it: a
    /// single handshake may fall victim to a reload or a crowd.
    pub(super) fn judge_own_ports(&mut self, wrong: Option<String>) {
        let doubted = std::mem::replace(&mut self.self_probe.doubted, wrong.is_some());
        if wrong.is_some() {
            self.self_probe.soon(self.boot.clock.mono());
            if !doubted {
                return;
            }
        }
        let held = wrong.map(|text| (Severity::Error, text));
        self.feed(Input::Condition { name: CONDITION, held });
    }
}

/// What a port showed.
#[derive(Debug)]
struct Found {
    service: &'static str,
    /// Where it was probed.
    address: SocketAddr,
    fault: Option<Fault>,
}

/// What is wrong with a port.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Fault {
    /// It shows this leaf, and that one is in service.
    Other(CertificateDer<'static>, Option<CertificateDer<'static>>),
    /// It shows nothing, for this reason.
    Silent(String),
}

/// Shakes hands with `ports`, one after the other, seeking `name`; `in_service` gives the leaf they
/// should show.
async fn probe(
    client: &Client,
    name: Option<&ServerName<'static>>,
    ports: Vec<(&'static str, SocketAddr)>,
    in_service: impl Fn() -> Option<CertificateDer<'static>>,
) -> Vec<Found> {
    let mut found = Vec::new();
    for (service, address) in ports {
        let address = reached(address);
        let name = name.cloned().unwrap_or_else(|| address.ip().into());
        let before = in_service();
        let leaf = match timeout(DEADLINE, leaf_at(client, name, address)).await {
            Ok(leaf) => leaf,
            Err(_) => Err(format!("none within {} s", DEADLINE.as_secs())),
        };
        // It may have been replaced in between.
        let fault = fault(leaf, [before, in_service()]);
        found.push(Found { service, address, fault });
    }
    found
}

/// Where whatever listens at `address` is reached on this machine.
fn reached(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

async fn leaf_at(
    client: &Client,
    name: ServerName<'static>,
    address: SocketAddr,
) -> Result<CertificateDer<'static>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let chain = shown(client, name, stream).await.map_err(|error| error.to_string())?;
    chain.into_iter().next().ok_or_else(|| "no certificate was shown".to_owned())
}

/// What is wrong with a port that showed `leaf`, if it is none of those `in_service` before and after.
fn fault(
    leaf: Result<CertificateDer<'static>, String>,
    in_service: [Option<CertificateDer<'static>>; 2],
) -> Option<Fault> {
    match leaf {
        Ok(leaf) if in_service.iter().flatten().any(|held| *held == leaf) => None,
        Ok(leaf) => Some(Fault::Other(leaf, in_service.into_iter().next_back().flatten())),
        Err(reason) => Some(Fault::Silent(reason)),
    }
}

/// What people are told; `None` if every port is in order.
fn complaint(found: &[Found]) -> Option<String> {
    let (wrong, good): (Vec<_>, Vec<_>) = found.iter().partition(|port| port.fault.is_some());
    if wrong.is_empty() {
        return None;
    }
    let listed =
        |ports: &[&Found]| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let others = match good.len() {
        0 => "no port is in order".to_owned(),
        _ => format!("in order: {}", listed(&good)),
    };
    Some(format!(
        "clients are not shown the certificate in service: {}; {others}; see who listens there \
         (`ss -ltnp`) and what leads connections astray (`nft list ruleset`)",
        listed(&wrong)
    ))
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, address, fault } = self;
        write!(f, "{service} at {address}")?;
        match fault {
            None => Ok(()),
            Some(Fault::Silent(reason)) => write!(f, " fails at the TLS handshake: {reason}"),
            Some(Fault::Other(leaf, in_service)) => write!(
                f,
                " shows the one with serial {} of {}, not the one with serial {}",
                serial(leaf),
                issuer(std::slice::from_ref(leaf)).unwrap_or_else(|| "nobody".to_owned()),
                in_service.as_ref().map_or_else(|| "(there is none)".to_owned(), serial)
            ),
        }
    }
}

fn serial(leaf: &CertificateDer<'static>) -> String {
    let held = held(std::slice::from_ref(leaf), UnixTime::EPOCH, None);
    held.map_or_else(|| "(unreadable)".to_owned(), |held| held.serial)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::tls::pki::{DAY, FakeClock, Leaf, Pki, TODAY};

    #[test]
    fn what_was_in_service_before_or_after_the_handshake_is_in_order_and_nothing_else() {
        let [old, new, other] = leaves().map(|leaf| leaf.chain().remove(0));
        let held = || [Some(old.clone()), Some(new.clone())];

        assert_eq!(fault(Ok(old.clone()), held()), None);
        assert_eq!(fault(Ok(new.clone()), held()), None);
        let amiss = Fault::Other(other.clone(), Some(new.clone()));
        assert_eq!(fault(Ok(other.clone()), held()), Some(amiss));
        assert_eq!(fault(Ok(other.clone()), [None, None]), Some(Fault::Other(other, None)));
        let silent = Fault::Silent("cut".to_owned());
        assert_eq!(fault(Err("cut".to_owned()), held()), Some(silent));
    }

    #[test]
    fn wildcards_are_reached_by_loopback() {
        for (listens, at) in [
            ("0.0.0.0:853", "127.0.0.1:853"),
            ("[::]:443", "[::1]:443"),
            ("192.0.2.1:853", "192.0.2.1:853"),
        ] {
            assert_eq!(reached(listens.parse().unwrap()), at.parse().unwrap());
        }
    }

    #[tokio::test]
    async fn a_port_that_shows_another_certificate_or_nothing_is_named_beside_those_in_order() {
        let [ours, theirs, _] = leaves();
        let [good, taken] = [serve(&ours).await, serve(&theirs).await];
        // Accepts and says nothing; and nobody at all.
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mute_at = mute.local_addr().unwrap();
        let (client, held) = (Client::new(FakeClock::at(TODAY)).unwrap(), ours.chain());
        let name = "dns.test".try_into().unwrap();
        let look = async |ports| {
            let found = probe(&client, Some(&name), ports, || held.first().cloned()).await;
            complaint(&found)
        };

        assert_eq!(look(vec![("DoT", good), ("DoH", good)]).await, None);
        let ports = vec![("DoT", good), ("DoH", taken), ("DoT", mute_at), ("DoT", gone)];
        let told = look(ports).await.unwrap();

        let [mine, other] = [&ours, &theirs].map(|leaf| serial(&leaf.chain()[0]));
        for part in [
            format!("DoH at {taken} shows the one with serial {other} of "),
            format!(", not the one with serial {mine}; "),
            format!("DoT at {mute_at} fails at the TLS handshake: none within 5 s"),
            format!("DoT at {gone} fails at the TLS handshake: Connection refused"),
            format!("in order: DoT at {good};"),
        ] {
            assert!(told.contains(&part), "{part}: {told}");
        }
    }

    #[tokio::test]
    async fn whoever_shows_our_certificate_without_its_key_is_found_out() {
        let [ours, theirs, _] = leaves();
        let taken = serve_with(ours.chain(), &theirs).await;
        let client = Client::new(FakeClock::at(TODAY)).unwrap();

        let found =
            probe(&client, None, vec![("DoT", taken)], || ours.chain().into_iter().next()).await;

        assert!(matches!(&found[0].fault, Some(Fault::Silent(_))), "{found:?}");
    }

    fn leaves() -> [Leaf; 3] {
        let pki = Pki::new();
        [1, 2, 3].map(|days| pki.leaf("dns.test", TODAY, TODAY + DAY * days))
    }

    async fn serve(leaf: &Leaf) -> SocketAddr {
        serve_with(leaf.chain(), leaf).await
    }

    /// A server that shows `chain` and has the key of `leaf`.
    async fn serve_with(chain: Vec<CertificateDer<'static>>, leaf: &Leaf) -> SocketAddr {
        let key = leaf.certified().key;
        let key = Arc::new(rustls::sign::CertifiedKey::new(chain, key));
        let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(key));
        let mut config = (*leaf.server(&[])).clone();
        config.cert_resolver = resolver;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = acceptor.accept(stream).await;
            }
        });
        address
    }
}
