//! An answerer that does what the first label of the question tells it to, and certificates for it.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use firstlight::cache::Near;
use firstlight::config::ClockMode;
use firstlight::dns::listen::{
    ALPN_DOH, ALPN_DOQ, ALPN_DOT, Answer, Limits, Listeners, Places, PresentConfig, Quick, Tls,
};
use firstlight::dns::{BoxFuture, Client, Origin};
use firstlight::host::clock::MachineClock;
use firstlight::host::kernel::{KernelClock, OsClock as _};
use firstlight::node::ports::Clock;
use firstlight::tls::Challenges;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// The name in the certificate.
pub(crate) const NAME: &str = "dns.test";

/// Answers as the first label says: `quick` at once, `held` when it is let go, `late` never,
/// `outdated` as `held` unless there is no room to wait,
/// `big` and `held-big` at length, `panic` not at all. The answer is 192.0.2.1 with a TTL of 60.
#[derive(Debug)]
pub(crate) struct Script {
    /// Each permit lets one held answer go.
    pub(crate) let_go: Semaphore,
    /// Answers at length that were made at once.
    pub(crate) big: AtomicU64,
    /// Questions that were not answered at once.
    pub(crate) asked: AtomicU64,
}

impl Default for Script {
    fn default() -> Self {
        Self { let_go: Semaphore::new(0), big: AtomicU64::new(0), asked: AtomicU64::new(0) }
    }
}

impl Answer for Script {
    fn quick(&self, query: &[u8], _: &Client, _: Option<&mut Near>, reply: &mut Vec<u8>) -> Quick {
        reply.clear();
        match first_label(query) {
            Some(b"quick") => reply.extend(respond(query, 0)),
            Some(b"big") => {
                self.big.fetch_add(1, Ordering::Relaxed);
                reply.extend(respond(query, 60_000));
            }
            Some(b"panic") => panic!("as the script says"),
            Some(b"held" | b"held-big" | b"late" | b"outdated") => return Quick::Slow,
            _ => return Quick::Drop,
        }
        Quick::Reply(Origin::Local)
    }

    fn stale(&self, query: &[u8], _: &Client, reply: &mut Vec<u8>) -> bool {
        reply.clear();
        let outdated = first_label(query) == Some(b"outdated");
        if outdated {
            reply.extend(respond(query, 0));
        }
        outdated
    }

    fn answer(&self, query: Vec<u8>, _: Client) -> BoxFuture<'_, Option<(Vec<u8>, Origin)>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            if first_label(&query) == Some(b"late") {
                return pending().await;
            }
            self.let_go.acquire().await.unwrap().forget();
            let padding = if first_label(&query) == Some(b"held-big") { 60_000 } else { 0 };
            Some((respond(&query, padding), Origin::Upstream))
        })
    }
}

/// Listeners on any free port of `address`, for every protocol; their script; their certificate.
pub(crate) fn open(
    address: &str,
    limits: Limits,
) -> (Listeners, Arc<Script>, CertificateDer<'static>) {
    let script = Arc::<Script>::default();
    let any = vec![format!("{address}:0").parse().unwrap()];
    let places = Places {
        dns: any.clone(),
        dot: any.clone(),
        doh: any.clone(),
        doq: any,
        path: "/dns-query".to_owned(),
    };
    let (tls, certificate) = tls();
    let answer = Arc::clone(&script) as Arc<dyn Answer>;
    let listeners = Listeners::open(&places, answer, tls, limits, clock(), &Handle::current());
    assert_eq!(listeners.refused().len(), 0, "{:?}", listeners.refused());
    (listeners, script, certificate)
}

/// For every encrypted protocol, with a certificate of their own.
pub(crate) fn tls() -> (Tls, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let config = |alpn: &[&[u8]]| -> PresentConfig {
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let config = Arc::new(config);
        Arc::new(move || Arc::clone(&config))
    };
    let tls = Tls {
        dot: config(ALPN_DOT),
        doh: config(ALPN_DOH),
        doq: config(ALPN_DOQ),
        challenges: Challenges::new(clock()),
    };
    (tls, certificate)
}

/// The machine's clock.
pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(MachineClock::new(ClockMode::Observe, KernelClock.utc(), Arc::new(KernelClock)))
}

fn first_label(query: &[u8]) -> Option<&[u8]> {
    let (len, rest) = query.get(12..)?.split_first()?;
    rest.get(..usize::from(*len))
}

/// The answer to `query`, filled up with `padding` octets.
fn respond(query: &[u8], padding: usize) -> Vec<u8> {
    let question = 12 + query[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
    let mut answer = query[..question].to_vec();
    answer[2] |= 0x80;
    answer[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01");
    answer.resize(answer.len() + padding, 0);
    answer
}
