//! Authenticated time from the `Date` header of HTTPS servers.
//!
//! NTP can be forged by anyone on the path; a web server's `Date` only by who
//! holds a certificate for its name. It is good to about half a second: enough
//! to tell a right clock from a wrong one.

mod date;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::clock::{CertDates, Level, TimeTrust, UnixTime};
use crate::config::{self, Transport};
use crate::metered::Purpose;
use crate::net::Counted;
use crate::tls::{
    CertError, Client, Roots, Validity, cert_error, judge, judge_by_rule_r, server_name, validity,
};

/// An HTTPS server that is asked for the time, by its address.
#[derive(Clone, Debug)]
pub struct Target {
    /// The name its certificate must carry.
    pub name: String,
    /// Who runs it.
    pub operator: String,
    /// Where it is reached.
    pub address: SocketAddr,
    path: String,
    server_name: ServerName<'static>,
    roots: Roots,
}

/// Every witness of a configuration: `[[clock.witness]]`, and each address of
/// each DoH upstream. A name no certificate can carry is left out, and logged.
#[must_use]
pub fn targets(witnesses: &[config::Witness], upstreams: &[config::Upstream]) -> Vec<Target> {
    let own = witnesses.iter().filter_map(|witness| target(witness.clone(), &[]));
    let doh = upstreams.iter().filter(|upstream| upstream.transport == Transport::Doh);
    let doh = doh.flat_map(|upstream| {
        upstream.addresses.iter().filter_map(|address| {
            let witness = config::Witness {
                name: upstream.name.clone(),
                operator: upstream.operator.clone(),
                address: (*address, upstream.port).into(),
                path: upstream.path.clone(),
                ca: upstream.ca.clone(),
            };
            target(witness, &upstream.pins)
        })
    });
    own.chain(doh).collect()
}

/// What a witness says about time. Whether that counts is decided elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Testimony {
    /// Who runs the witness.
    pub operator: String,
    /// The middle of the second it states.
    pub stated: UnixTime,
    /// The middle of the exchange, on the monotonic clock.
    pub at: Instant,
    /// How far the truth at `at` may lie from `stated`: half a second, and half the round trip.
    pub error: Duration,
    /// When its certificate chain is valid.
    pub validity: Validity,
    /// Whether the chain passes rule R at the floor.
    pub passes_rule_r: bool,
    /// Whether the chain is valid at the time it states itself: else it does not count.
    pub valid_at_stated: bool,
    /// Whether the chain is valid at our clock's time.
    pub valid_at_clock: bool,
}

/// Asks `target` for the time, within three seconds.
///
/// The handshake accepts a chain that is valid at some instant, so that a floor
/// set wrongly ahead can be found out; the testimony says at which it is.
/// Nothing of the connection is kept or shared.
///
/// # Errors
///
/// If there is no authenticated `Date`, or a cache's.
pub async fn fetch(
    target: &Target,
    client: &Client,
    floor: UnixTime,
) -> Result<Testimony, WitnessError> {
    timeout(DEADLINE, exchange(target, client, floor)).await.unwrap_or(Err(WitnessError::Timeout))
}

/// Why a witness gave no testimony.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// The answer comes from a cache (RFC 9111 section 5.1).
    #[error("the answer comes from a cache: it has an Age header")]
    Aged,
    /// The chain is valid at no time at all, or not for this name.
    #[error(transparent)]
    Certificate(CertError),
    /// No `Date` header, several, or one that is not in the form of RFC 9110 section 5.6.7.
    #[error("no usable Date header")]
    Date,
    /// No HTTP response.
    #[error("HTTP: {0}")]
    Http(String),
    /// No TCP connection.
    #[error("no TCP connection: {0}")]
    Tcp(io::Error),
    /// No answer in time.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Timeout,
    /// The handshake failed.
    #[error("TLS: {0}")]
    Tls(io::Error),
}

/// For connection, handshake and answer together.
const DEADLINE: Duration = Duration::from_secs(3);
/// A response's status line and headers.
const HEAD: usize = 16 << 10;
/// `Date` names whole seconds: the middle is off by no more.
const HALF_SECOND: Duration = Duration::from_millis(500);

fn target(witness: config::Witness, pins: &[config::Pin]) -> Option<Target> {
    match server_name(&witness.name) {
        Ok(server_name) => Some(Target {
            name: witness.name.to_string(),
            operator: witness.operator,
            address: witness.address,
            path: witness.path,
            server_name,
            roots: Roots::or_builtin(witness.ca.as_deref()).pinned(pins),
        }),
        Err(error) => {
            tracing::warn!(witness = %witness.name, %error, "left out: not a name for TLS");
            None
        }
    }
}

async fn exchange(
    target: &Target,
    client: &Client,
    floor: UnixTime,
) -> Result<Testimony, WitnessError> {
    let stream = connect(target, client).await?;
    let chain: Vec<_> = stream
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default()
        .iter()
        .map(|der| der.clone().into_owned())
        .collect();

    let clock = client.clock();
    let begun = clock.mono();
    let headers = head(target, stream).await?;
    let round_trip = clock.mono().saturating_duration_since(begun);
    let at = begun + round_trip / 2;

    if headers.contains_key(header::AGE) {
        return Err(WitnessError::Aged);
    }
    let mut dates = headers.get_all(header::DATE).iter();
    let (Some(date), None) = (dates.next(), dates.next()) else { return Err(WitnessError::Date) };
    let stated = date::imf_fixdate(date.as_bytes()).ok_or(WitnessError::Date)? + HALF_SECOND;

    let Target { server_name, roots, .. } = target;
    let valid_at = |time| judge(&chain, server_name, roots, time).is_ok();
    Ok(Testimony {
        operator: target.operator.clone(),
        stated,
        at,
        error: HALF_SECOND + round_trip / 2,
        // The handshake has read them already.
        validity: validity(&chain).ok_or(WitnessError::Date)?,
        passes_rule_r: judge_by_rule_r(&chain, server_name, roots, floor).is_ok(),
        valid_at_stated: valid_at(stated),
        valid_at_clock: valid_at(clock.utc_at(at)),
    })
}

async fn connect(
    target: &Target,
    client: &Client,
) -> Result<TlsStream<Counted<TcpStream>>, WitnessError> {
    let tcp = TcpStream::connect(target.address).await.map_err(WitnessError::Tcp)?;
    tcp.set_nodelay(true).map_err(WitnessError::Tcp)?;
    let tcp = Counted::new(tcp, Arc::clone(client.meter()), Purpose::Witnesses);
    // Rule R without a floor: at the chain's own beginning.
    let anytime = TimeTrust {
        level: Level::Cold,
        verified: false,
        generation: 0,
        floor: UnixTime::EPOCH,
        dates: CertDates::RuleR { floor: UnixTime::EPOCH },
    };
    let verifier = client.verifier(target.roots.clone(), anytime);
    let config = client.config(&verifier, &[b"http/1.1"]);
    TlsConnector::from(config).connect(target.server_name.clone(), tcp).await.map_err(|error| {
        match cert_error(&error) {
            Some(reason) => WitnessError::Certificate(reason.clone()),
            None => WitnessError::Tls(error),
        }
    })
}

/// Asks for the head of the resource; redirects and errors have a `Date` too.
async fn head(
    target: &Target,
    stream: TlsStream<Counted<TcpStream>>,
) -> Result<HeaderMap, WitnessError> {
    let http = |error: &dyn std::fmt::Display| WitnessError::Http(error.to_string());
    let host = match target.address.port() {
        443 => target.name.clone(),
        port => format!("{}:{port}", target.name),
    };
    let request = Request::builder()
        .method(Method::HEAD)
        .uri(&target.path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "firstlight")
        .header(header::CACHE_CONTROL, "no-cache")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| http(&error))?;
    let (mut requests, connection) = http1::Builder::new()
        .max_buf_size(HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http(&error))?;
    let mut response = pin!(requests.send_request(request));
    let response = tokio::select! {
        response = &mut response => response,
        // Its end resolves the response, one way or the other.
        _ = connection => response.await,
    };
    Ok(response.map_err(|error| http(&error))?.into_parts().0.headers)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::tls::pki::{DAY, FakeClock, Leaf, Pki, TODAY};

    /// [`TODAY`].
    const DATE: &str = "Date: Sat, 14 Mar 2026 06:11:40 GMT\r\n";

    #[tokio::test]
    async fn a_box_in_1970_learns_the_time_from_a_web_server() {
        let pki = Pki::new();
        let leaf = pki.leaf("time.test", TODAY - DAY, TODAY + DAY * 90);

        let testimony = ask(&pki, &leaf, "", DATE, TODAY - DAY * 700).await.unwrap();

        assert_eq!(testimony.stated, TODAY + HALF_SECOND);
        assert!(testimony.error >= HALF_SECOND && testimony.error < DEADLINE);
        assert_eq!(testimony.validity.not_before, TODAY - DAY);
        assert!(testimony.passes_rule_r && testimony.valid_at_stated);
        assert!(!testimony.valid_at_clock);
    }

    #[tokio::test]
    async fn any_status_testifies_and_redirects_are_not_followed() {
        let pki = Pki::new();
        let leaf = pki.leaf("time.test", TODAY - DAY, TODAY + DAY);

        let testimony = ask(&pki, &leaf, "Location: https://127.0.0.1:1/\r\n", DATE, TODAY).await;

        assert!(testimony.is_ok_and(|testimony| testimony.valid_at_stated));
    }

    #[tokio::test]
    async fn no_date_two_dates_or_a_cached_one_are_no_testimony() {
        let pki = Pki::new();
        let leaf = pki.leaf("time.test", TODAY - DAY, TODAY + DAY);
        let ask = async |more: &str, date: &str| ask(&pki, &leaf, more, date, TODAY).await;

        assert!(matches!(ask("", "").await, Err(WitnessError::Date)));
        assert!(matches!(ask(DATE, DATE).await, Err(WitnessError::Date)));
        assert!(matches!(ask("", "Date: yesterday\r\n").await, Err(WitnessError::Date)));
        assert!(matches!(ask("Age: 0\r\n", DATE).await, Err(WitnessError::Aged)));
        let endless = format!("X: {}\r\n", "x".repeat(HEAD * 2));
        assert!(matches!(ask(&endless, DATE).await, Err(WitnessError::Http(_))));
    }

    #[tokio::test]
    async fn a_stolen_expired_certificate_testifies_against_itself() {
        let pki = Pki::new();
        let expired = pki.leaf("time.test", TODAY - DAY * 400, TODAY - DAY * 310);

        let testimony = ask(&pki, &expired, "", DATE, TODAY - DAY * 300).await.unwrap();

        assert!(!testimony.valid_at_stated);
        assert!(!testimony.passes_rule_r);
    }

    #[tokio::test]
    async fn a_floor_set_ahead_is_found_out() {
        let pki = Pki::new();
        let leaf = pki.leaf("time.test", TODAY - DAY, TODAY + DAY);

        let testimony = ask(&pki, &leaf, "", DATE, TODAY + DAY * 3650).await.unwrap();

        assert!(testimony.valid_at_stated);
        assert!(!testimony.passes_rule_r);
    }

    #[tokio::test]
    async fn a_stranger_s_certificate_is_refused() {
        let (pki, stranger) = (Pki::new(), Pki::new());
        let forged = stranger.leaf("time.test", TODAY - DAY, TODAY + DAY);
        let other = pki.leaf("other.test", TODAY - DAY, TODAY + DAY);

        for leaf in [forged, other] {
            let refused = ask(&pki, &leaf, "", DATE, TODAY).await;
            assert!(matches!(refused, Err(WitnessError::Certificate(_))), "{refused:?}");
        }
    }

    #[test]
    fn doh_upstreams_are_witnesses_too() {
        let upstream = |transport| config::Upstream {
            name: "dns.test".parse().unwrap(),
            operator: "test".to_owned(),
            addresses: vec![[192, 0, 2, 1].into(), [192, 0, 2, 2].into()],
            transport,
            port: 443,
            path: "/dns-query".to_owned(),
            method: config::Method::Post,
            ca: None,
            pins: Vec::new(),
        };

        let found = targets(&[], &[upstream(Transport::Doh), upstream(Transport::Dot)]);

        assert_eq!(found.len(), 2);
        assert_eq!(found[1].address, ([192, 0, 2, 2], 443).into());
    }

    /// Asks a server that shows `leaf` and answers with `more` and `date`, on a clock in 1970.
    async fn ask(
        pki: &Pki,
        leaf: &Leaf,
        more: &str,
        date: &str,
        floor: UnixTime,
    ) -> Result<Testimony, WitnessError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target {
            name: "time.test".to_owned(),
            operator: "test".to_owned(),
            address: listener.local_addr().unwrap(),
            path: "/".to_owned(),
            server_name: "time.test".try_into().unwrap(),
            roots: pki.roots(),
        };
        let acceptor = TlsAcceptor::from(leaf.server(&[b"http/1.1"]));
        let response = format!("HTTP/1.1 302 Found\r\nContent-Length: 9\r\n{more}{date}\r\n");
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            // A client that refuses the certificate ends the handshake.
            let Ok(mut stream) = acceptor.accept(tcp).await else { return };
            let mut request = [0; 1024];
            let len = stream.read(&mut request).await.unwrap();
            assert!(request[..len].starts_with(b"HEAD / HTTP/1.1\r\n"));
            let _ = stream.write_all(response.as_bytes()).await;
            let _ = stream.shutdown().await;
        });
        let clock = FakeClock::at(UnixTime::EPOCH);
        fetch(&target, &Client::new(Arc::<FakeClock>::clone(&clock)).unwrap(), floor).await
    }
}
