//! TLS-ALPN-01 (RFC 8737) on our DoH listener, while that is in use.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use firstlight::acme::{Job, Solver};
use firstlight::cert::{Failure, Kind};
use firstlight::dns::listen::{Limits, Listeners, Places};
use firstlight::tls::{ALPN_CHALLENGE, Challenges};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::lab::Lab;
use crate::lab::clients::trusting;
use crate::script::{self, Script};
use crate::world::{Challtestsrv, DOH_HOST, DOH_PORT, Diary, Pebble, names, run};

/// How long a busy machine may take for what takes no time.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the certificate is ordered for.
const NAMES: [&str; 2] = ["dns.home.test", "pi1.home.test"];

pub(crate) fn order() {
    let lab = Lab::new();
    let dns = Challtestsrv::start(&lab);
    let pebble = Pebble::start(&lab, dns.dns, &[], None);
    let diary = Diary::default();
    run(async {
        let house = House::open(lab.place(DOH_HOST, DOH_PORT));
        let solver = Solver::TlsAlpn01 { challenges: Arc::clone(&house.challenges) };
        let order = async |of: &[&str]| {
            let pending = pebble.begin(&names(of));
            let job = Job { solver: &solver, ..pebble.job(&pending) };
            pebble.issuer(&lab).carry_out(&job, &diary).await.result
        };
        let (over, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let client = tokio::spawn(house.client().goes_on(Arc::clone(&over), Arc::clone(&answers)));

        let chain = order(&NAMES).await.unwrap();
        let during = answers.load(Ordering::SeqCst);
        let wildcard = order(&["*.home.test", "home.test"]).await.unwrap_err();
        over.store(true, Ordering::SeqCst);
        client.await.unwrap();

        assert!(NAMES.iter().all(|name| chain.held.covers(name)));
        assert_eq!(chain.held.ca.as_deref(), Some("pebble"));
        // The order takes more than a second, for that is how long its first wait is.
        assert!(during >= 10, "{during} answers");
        let Failure { kind, detail } = wildcard;
        assert_eq!(kind, Kind::Refused, "{detail}");
        assert!(detail.starts_with("*.home.test ") && detail.contains("needs DNS-01"), "{detail}");
        // Nothing was published, and nothing failed.
        assert_eq!((diary.seen(), diary.published()), (Vec::new(), Vec::new()));
        assert_eq!(house.failed_handshakes(), 0);

        // All is as it was.
        for name in NAMES {
            house.refuses(name).await;
        }
        house.client().ask().await;
    });
}

pub(crate) fn shown() {
    run(async {
        let house = House::open("127.0.0.1:0".parse().unwrap());
        house.refuses("home.test").await;
        let made = rcgen::generate_simple_self_signed(["home.test".to_owned()]).unwrap();
        let of_challenge = made.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = ring::default_provider();
        let key = CertifiedKey::from_der(vec![of_challenge.clone()], key, &provider).unwrap();
        let presented = house.challenges.present("home.test", key).unwrap();
        let failed = house.failed_handshakes();

        // No request is answered, and the connection is closed at once.
        let mut stream = house.connect("home.test", &[ALPN_CHALLENGE]).await.unwrap();
        assert_eq!(certificate(&stream), of_challenge);
        let _ = stream.write_all(b"GET /dns-query HTTP/1.1\r\nHost: home.test\r\n\r\n").await;
        let mut said = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut said)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), "");

        // Who offers what clients offer is a client, whatever else it offers.
        let h2 = &b"h2"[..];
        for alpn in [&[][..], &[h2], &[ALPN_CHALLENGE, h2], &[b"http/1.1", ALPN_CHALLENGE]] {
            let stream = house.connect("home.test", alpn).await.unwrap();
            assert_eq!(certificate(&stream), house.certificate, "{alpn:?}");
            assert_ne!(stream.get_ref().1.alpn_protocol(), Some(ALPN_CHALLENGE));
        }
        assert_eq!(house.failed_handshakes(), failed);
        // Nor is it for other names, or on other ports.
        house.refuses("www.home.test").await;
        let dot = house.listeners.places().dot[0];
        assert_refused(connect(dot, "home.test", &[ALPN_CHALLENGE]).await);

        drop(presented);
        house.refuses("home.test").await;
    });
}

/// A DoH listener of ours, with a DoT listener beside it.
struct House {
    listeners: Listeners,
    challenges: Arc<Challenges>,
    certificate: CertificateDer<'static>,
}

impl House {
    fn open(doh: SocketAddr) -> Self {
        let (tls, certificate) = script::tls();
        let challenges = Arc::clone(&tls.challenges);
        let dot = vec![SocketAddr::new(doh.ip(), 0)];
        let places = Places { dot, doh: vec![doh], path: "/dns-query".into(), ..Places::default() };
        let answer = Arc::<Script>::default();
        let limits = Limits::default();
        let listeners =
            Listeners::open(&places, answer, tls, limits, script::clock(), &Handle::current());
        assert_eq!(listeners.refused().len(), 0, "{:?}", listeners.refused());
        Self { listeners, challenges, certificate }
    }

    fn doh(&self) -> SocketAddr {
        self.listeners.places().doh[0]
    }

    fn failed_handshakes(&self) -> u64 {
        self.listeners.counters().handshake_failures.load(Ordering::SeqCst)
    }

    fn client(&self) -> DohClient {
        DohClient { server: self.doh(), certificate: self.certificate.clone() }
    }

    async fn connect(&self, name: &str, alpn: &[&[u8]]) -> io::Result<TlsStream<TcpStream>> {
        connect(self.doh(), name, alpn).await
    }

    /// Whoever looks for a challenge of `name` is told that there is no such protocol here.
    async fn refuses(&self, name: &str) {
        assert_refused(self.connect(name, &[ALPN_CHALLENGE]).await);
    }
}

/// Asks by HTTP/1.1, and takes one certificate alone.
#[derive(Clone)]
struct DohClient {
    server: SocketAddr,
    certificate: CertificateDer<'static>,
}

impl DohClient {
    /// Asks twice each 50 ms, over a connection that it keeps and over another one.
    async fn goes_on(self, over: Arc<AtomicBool>, answers: Arc<AtomicU64>) {
        let mut kept = self.open(&[b"http/1.1"]).await;
        let mut pace = interval(Duration::from_millis(50));
        while !over.load(Ordering::SeqCst) {
            pace.tick().await;
            timeout(PATIENCE, async {
                ask_on(&mut kept).await;
                self.ask().await;
            })
            .await
            .unwrap();
            answers.fetch_add(2, Ordering::SeqCst);
        }
    }

    async fn ask(&self) {
        ask_on(&mut self.open(&[ALPN_CHALLENGE, b"http/1.1"]).await).await;
    }

    /// Connects by a name whose challenge may be pending.
    async fn open(&self, alpn: &[&[u8]]) -> SendRequest<Empty<Bytes>> {
        let tls = connect(self.server, NAMES[0], alpn).await.unwrap();
        assert_eq!(certificate(&tls), self.certificate, "it was shown a CA's certificate");
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

async fn ask_on(connection: &mut SendRequest<Empty<Bytes>>) {
    let query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x05quick\0\0\x01\0\x01";
    let uri = format!("/dns-query?dns={}", BASE64URL_NOPAD.encode(query));
    let request = Request::get(uri).header("Host", NAMES[0]).body(Empty::new()).unwrap();
    let response = connection.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let answer = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!((&answer[..2], &answer[answer.len() - 4..]), (&[0, 7][..], &[192, 0, 2, 1][..]));
}

/// Takes any certificate.
async fn connect(to: SocketAddr, name: &str, alpn: &[&[u8]]) -> io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(trusting(alpn));
    let name = name.to_owned().try_into().unwrap();
    timeout(PATIENCE, connector.connect(name, TcpStream::connect(to).await?)).await?
}

fn certificate(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn assert_refused(connected: io::Result<TlsStream<TcpStream>>) {
    let error = connected.expect_err("it was not refused").into_inner().unwrap();
    let refused = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
    assert_eq!(error.downcast_ref::<rustls::Error>(), Some(&refused), "{error}");
}
