//! HTTPS within bounds: one connection that is kept, one request at a time.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::http::response::Parts;
use hyper::{HeaderMap, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use jiff::fmt::rfc2822::DateTimeParser;
use rustls::pki_types::ServerName;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::network::Transport;
use crate::clock::{CertDates, Level, TimeTrust, UnixTime, magnitude};
use crate::net::Counted;
use crate::tls::{Roots, cert_error};

/// Octets of an answer's head at most.
const HEAD: usize = 32 << 10;
/// Octets of an answer's body at most.
const BODY: usize = 256 << 10;
/// Addresses of a name that are tried.
const ADDRESSES: usize = 4;
/// Clients say what they are (RFC 8555 section 6.1).
const USER_AGENT: &str = concat!("firstlight/", env!("CARGO_PKG_VERSION"));

/// Makes requests to whatever hosts URLs name, each verified against the same roots.
#[derive(Clone)]
pub struct Http(Arc<Inner>);

struct Inner {
    transport: Transport,
    roots: Roots,
    /// `host:port`, and the connection.
    kept: Mutex<Option<(String, Connection)>>,
    /// `Retry-After` of the last answer.
    retry_after: Mutex<Option<Duration>>,
}

struct Connection {
    requests: SendRequest<Full<Bytes>>,
    /// Drives it, and ends with it.
    _driver: JoinSet<()>,
}

/// Why there is no answer, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection ended early.
    #[error("the connection to {host} ended: {reason}")]
    Cut {
        /// Of whom.
        host: String,
        /// Why.
        reason: String,
    },
    /// There is no connection.
    #[error("no connection to {host}: {reason}")]
    Connect {
        /// Of whom.
        host: String,
        /// Why.
        reason: String,
    },
    /// The answer is no HTTP.
    #[error("{host} sent what is no HTTP: {reason}")]
    Garbage {
        /// Of whom.
        host: String,
        /// Why.
        reason: String,
    },
    /// The answer is too long.
    #[error("{host} answered with more than {limit} octets")]
    Long {
        /// Of whom.
        host: String,
        /// Octets at most.
        limit: usize,
    },
    /// It took too long.
    #[error("no answer from {host} within {} s", after.as_secs())]
    Late {
        /// Of whom.
        host: String,
        /// How long.
        after: Duration,
    },
    /// The host has no address.
    #[error("no address of {host}: {reason}")]
    Resolve {
        /// Of whom.
        host: String,
        /// Why.
        reason: String,
    },
    /// The answer is no success.
    #[error("{host} answered with {status}")]
    Status {
        /// Of whom.
        host: String,
        /// Which.
        status: StatusCode,
    },
    /// The URL is none over HTTPS.
    #[error("{url} is no HTTPS URL")]
    Url {
        /// Which.
        url: String,
    },
}

impl Http {
    /// No connection is made so far.
    #[must_use]
    pub fn new(transport: Transport, roots: Roots) -> Self {
        let (kept, retry_after) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { transport, roots, kept, retry_after }))
    }

    /// How long the last answer asked us to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        *self.0.retry_after.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The resource at `url`, if the status says that it is one.
    ///
    /// # Errors
    ///
    /// There is no answer, or it has another status than 200.
    pub async fn get(&self, url: &str) -> Result<Bytes, HttpError> {
        let request = Request::get(url).body(Full::default());
        let request = request.map_err(|_| HttpError::Url { url: url.to_owned() })?;
        let (parts, body) = self.send(request).await?;
        if parts.status == StatusCode::OK {
            return Ok(body);
        }
        Err(HttpError::Status { host: host_of(url), status: parts.status })
    }

    /// The answer to `request`, whatever its status.
    ///
    /// # Errors
    ///
    /// There is no answer, or it cannot be used.
    pub async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Parts, Bytes), HttpError> {
        let place = Place::of(request.uri())?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() =
            path.parse().map_err(|_| HttpError::Url { url: place.host.clone() })?;
        let headers = request.headers_mut();
        let host = place.authority().parse();
        headers.insert(header::HOST, host.map_err(|_| HttpError::Url { url: place.host.clone() })?);
        headers.insert(header::USER_AGENT, header::HeaderValue::from_static(USER_AGENT));

        *self.0.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let after = self.0.transport.deadlines.request;
        let late = || HttpError::Late { host: place.host.clone(), after };
        let answer = timeout(after, self.exchange(&place, request)).await;
        let (parts, body) = answer.map_err(|_| late())??;
        let wait = self.wait(&parts.headers);
        *self.0.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = wait;
        Ok((parts, body))
    }

    async fn exchange(
        &self,
        place: &Place,
        request: Request<Full<Bytes>>,
    ) -> Result<(Parts, Bytes), HttpError> {
        let host = || place.host.clone();
        let mut connection = match self.kept(place) {
            Some(connection) => connection,
            None => self.connect(place).await?,
        };
        let answer = match connection.requests.try_send_request(request).await {
            Ok(answer) => answer,
            Err(mut error) => {
                // The server closed the connection before anything of the request left.
                let Some(request) = error.take_message() else {
                    return Err(http_error(host(), &error.into_error()));
                };
                connection = self.connect(place).await?;
                let answer = connection.requests.send_request(request).await;
                answer.map_err(|error| http_error(host(), &error))?
            }
        };
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, BODY).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return HttpError::Long { host: host(), limit: BODY };
            }
            match error.downcast::<hyper::Error>() {
                Ok(error) => http_error(host(), &error),
                Err(error) => HttpError::Cut { host: host(), reason: error.to_string() },
            }
        })?;
        let kept = Some((place.authority(), connection));
        *self.0.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok((parts, body.to_bytes()))
    }

    /// The connection that is kept, if it goes to `place` and is still there.
    fn kept(&self, place: &Place) -> Option<Connection> {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (authority, connection) = kept.take()?;
        let fit = authority == place.authority() && connection.requests.is_ready();
        fit.then_some(connection)
    }

    async fn connect(&self, place: &Place) -> Result<Connection, HttpError> {
        let Transport { network, deadlines, .. } = &self.0.transport;
        let host = || place.host.clone();
        let addresses = if let Ok(address) = place.host.parse::<IpAddr>() {
            vec![address]
        } else {
            let found = match timeout(deadlines.resolve, network.resolve(&place.host)).await {
                Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
                Ok(Ok(_)) => Err("it has none".to_owned()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {} s", deadlines.resolve.as_secs())),
            };
            found.map_err(|reason| HttpError::Resolve { host: host(), reason })?
        };
        let mut reason = String::new();
        for address in addresses.into_iter().take(ADDRESSES) {
            let address = SocketAddr::new(address, place.port);
            match timeout(deadlines.connect, self.connect_to(place, address)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => reason = format!("{address}: {error}"),
                Err(_) => {
                    reason = format!("{address}: nothing within {} s", deadlines.connect.as_secs());
                }
            }
        }
        Err(HttpError::Connect { host: host(), reason })
    }

    async fn connect_to(&self, place: &Place, address: SocketAddr) -> io::Result<Connection> {
        let Transport { client, network, purpose, .. } = &self.0.transport;
        let tcp = network.connect(address).await?;
        let tcp = Counted::new(tcp, Arc::clone(client.meter()), *purpose);
        // Whoever is spoken to has to be who it is, at a time that is known.
        let trust = TimeTrust {
            level: Level::Coarse,
            verified: true,
            generation: 0,
            floor: UnixTime::EPOCH,
            dates: CertDates::Strict,
        };
        let verifier = client.verifier(self.0.roots.clone(), trust);
        let config = client.config(&verifier, &[b"http/1.1"]);
        let name = ServerName::try_from(place.host.clone()).map_err(io::Error::other)?;
        let tls = TlsConnector::from(config).connect(name, tcp).await;
        let tls = tls.map_err(|error| match cert_error(&error) {
            Some(reason) => io::Error::other(reason.clone()),
            None => error,
        })?;
        let http = http1::Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(tls)).await;
        let (requests, connection) = http.map_err(io::Error::other)?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // What goes wrong is told to the request under way.
            drop(connection.await);
        });
        Ok(Connection { requests, _driver: driver })
    }

    /// `Retry-After` as a span (RFC 9110 section 10.2.3). A date is held against the date of the
    /// answer itself: our clock and the server's need not agree.
    fn wait(&self, headers: &HeaderMap) -> Option<Duration> {
        let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(secs) = text.parse::<u32>() {
            return Some(Duration::from_secs(secs.into()));
        }
        let date = |text: &str| {
            let date = DateTimeParser::new().parse_timestamp(text).ok()?;
            Some(UnixTime::from_secs(date.as_second()))
        };
        let stated = headers.get(header::DATE).and_then(|value| date(value.to_str().ok()?));
        let now = stated.unwrap_or_else(|| self.0.transport.client.clock().utc());
        Some(magnitude(date(text)?.since(now).max(0)))
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("transport", &self.0.transport).finish_non_exhaustive()
    }
}

/// Where a request goes.
struct Place {
    host: String,
    port: u16,
}

impl Place {
    fn of(uri: &Uri) -> Result<Self, HttpError> {
        let host = uri.host().filter(|_| uri.scheme_str() == Some("https"));
        let host = host.ok_or_else(|| HttpError::Url { url: uri.to_string() })?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: uri.port_u16().unwrap_or(443) })
    }

    /// As a `Host` header has it.
    fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 443 { host } else { format!("{host}:{}", self.port) }
    }
}

fn http_error(host: String, error: &hyper::Error) -> HttpError {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    let reason = format!("{error}{}", source.unwrap_or_default());
    if error.is_parse() {
        HttpError::Garbage { host, reason }
    } else {
        HttpError::Cut { host, reason }
    }
}

fn host_of(url: &str) -> String {
    let uri = url.parse::<Uri>().ok();
    uri.and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default()
}
