//! A page, figures and health by HTTP, for whoever watches over this machine: to be read only, within bounds.
//!
//! Neither a name that was asked for nor a client is shown, and nothing can be changed: so nobody is asked
//! who they are. The page and the words of conditions, which may quote the configuration, are kept from pages
//! in a browser that get here by DNS rebinding.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST,
    HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::admin::report::{Figures, HealthReport};
use crate::admin::{Control, DEADLINE, Health, Request, Response, metrics, page};
use crate::net::{Accepting, Admission, Listen, Slot, Welcome};

/// Connections at once; further ones are closed.
const MAX_CONNECTIONS: usize = 16;
/// Room for the head of a request.
const MAX_HEAD: usize = 8 << 10;
/// Header fields of a request.
const MAX_FIELDS: usize = 64;
/// For a client to send the head of its request.
const READ: Duration = Duration::from_secs(5);
/// For a connection in all: to ask, to be answered and to take the answer.
const WHOLE: Duration = Duration::from_secs(15);

/// The listener for monitoring, to be kept open by [`crate::net::KeepOpen`].
pub struct MonitoringListen {
    control: Arc<dyn Control>,
    admission: Arc<Admission>,
    runtime: Handle,
}

impl MonitoringListen {
    /// Shows what `control` answers; connections run on `runtime`.
    #[must_use]
    pub fn new(control: Arc<dyn Control>, runtime: Handle) -> Self {
        let admission = Admission::new(MAX_CONNECTIONS, MAX_CONNECTIONS);
        Self { control, admission, runtime }
    }
}

impl Listen for MonitoringListen {
    type Guard = Accepting;

    fn listen(&self, address: SocketAddr) -> io::Result<(SocketAddr, Accepting)> {
        let door =
            Door { control: Arc::clone(&self.control), admission: Arc::clone(&self.admission) };
        Accepting::start(address, &self.runtime, door)
    }

    fn service(&self) -> &'static str {
        "figures and health over HTTP"
    }
}

impl fmt::Debug for MonitoringListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonitoringListen").finish_non_exhaustive()
    }
}

struct Door {
    control: Arc<dyn Control>,
    admission: Arc<Admission>,
}

impl Welcome for Door {
    fn welcome(&self, stream: TcpStream, address: SocketAddr, closing: &watch::Receiver<()>) {
        let Some(slot) = self.admission.admit_if_free(address.ip()) else {
            tracing::debug!(client = %address, "too many connections for figures and health");
            return;
        };
        tokio::spawn(serve(stream, Arc::clone(&self.control), slot, closing.clone()));
    }

    fn not_accepted(&self, error: &io::Error, lasts: bool) {
        if lasts {
            tracing::warn!(%error, "connections for figures and health cannot be accepted");
        }
    }
}

/// Answers one request: whoever has another connects anew.
async fn serve(
    stream: TcpStream,
    control: Arc<dyn Control>,
    slot: Slot,
    mut closing: watch::Receiver<()>,
) {
    let service = service_fn(move |request| {
        let control = Arc::clone(&control);
        async move { Ok::<_, Infallible>(respond(&request, &*control).await) }
    });
    // No `Date`: the machine's clock may be wrong (RFC 9110 section 6.6.1).
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .header_read_timeout(READ)
        .keep_alive(false)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = timeout(WHOLE, connection) => {
            if let Ok(Err(error)) = served {
                tracing::debug!(%error, "a client of figures and health was lost");
            }
        }
        _ = closing.changed() => {}
    }
    drop(slot);
}

/// An answer: its status, media type and body.
type Answer = (StatusCode, &'static str, String);

async fn respond(
    request: &hyper::Request<Incoming>,
    control: &dyn Control,
) -> hyper::Response<Full<Bytes>> {
    let read_only = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, media_type, text) = match (what(request.uri().path()), read_only) {
        (None, _) => said(StatusCode::NOT_FOUND, NOT_FOUND),
        (Some(_), false) => said(StatusCode::METHOD_NOT_ALLOWED, "this can be read only\n"),
        (Some(Page::Metrics), true) => show_metrics(control).await,
        (Some(Page::Style), true) => {
            (StatusCode::OK, "text/css; charset=utf-8", page::STYLE.into())
        }
        (Some(Page::Status { json }), true) if is_meant(request.headers()) => {
            show_status(json, control).await
        }
        (Some(Page::Status { .. }), true) => said(StatusCode::FORBIDDEN, &format!("{WITHHELD}\n")),
        (Some(Page::Health(part)), true) => {
            let headers = request.headers();
            show_health(part, wants_json(headers), is_meant(headers), control).await
        }
    };
    let mut response = hyper::Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    if request.method() == Method::HEAD {
        let length = response.body().size_hint().exact().unwrap_or(0);
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        *response.body_mut() = Full::default();
    }
    response
}

/// What can be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Page {
    Health(Health),
    Metrics,
    Status { json: bool },
    Style,
}

const NOT_FOUND: &str = "there are: / /status.json /metrics /health/live /health/dns /health/clock \
                         /health/cert\n";
const WITHHELD: &str = "ask by address to read more";
/// What the page may load, and where it may be shown: nothing but its style, and in no frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";
const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

fn what(path: &str) -> Option<Page> {
    match path {
        "/" => Some(Page::Status { json: false }),
        "/status.json" => Some(Page::Status { json: true }),
        "/page.css" => Some(Page::Style),
        "/metrics" => Some(Page::Metrics),
        _ => {
            let part = path.strip_prefix("/health/")?;
            Health::ALL.iter().find(|kind| kind.name() == part).map(|kind| Page::Health(*kind))
        }
    }
}

async fn show_status(json: bool, control: &dyn Control) -> Answer {
    match ask::<Figures>(control, Request::Figures).await {
        Ok(figures) if json => {
            (StatusCode::OK, JSON, serde_json::to_string(&figures).unwrap_or_default() + "\n")
        }
        Ok(figures) => (StatusCode::OK, HTML, page::html(&figures)),
        Err(why) => said(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
    }
}

async fn show_metrics(control: &dyn Control) -> Answer {
    match ask::<Figures>(control, Request::Figures).await {
        Ok(figures) => match metrics::text(figures) {
            Ok(text) => (StatusCode::OK, metrics::MEDIA_TYPE, text),
            Err(error) => said(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        Err(why) => said(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
    }
}

async fn show_health(part: Health, json: bool, meant: bool, control: &dyn Control) -> Answer {
    let asked = ask::<HealthReport>(control, Request::Health { kind: part }).await;
    let mut report = asked.unwrap_or_else(|reason| HealthReport {
        healthy: false,
        reason,
        conditions: Vec::new(),
    });
    if !meant {
        for condition in &mut report.conditions {
            WITHHELD.clone_into(&mut condition.text);
        }
    }
    let status = if report.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if json {
        let text = serde_json::to_string(&report).unwrap_or_default();
        return (status, JSON, text + "\n");
    }
    said(status, &format!("{}\n", report.in_words(part)))
}

/// What the daemon answers; else why it does not, for a person.
async fn ask<T: DeserializeOwned>(control: &dyn Control, request: Request) -> Result<T, String> {
    match timeout(DEADLINE, control.handle(request, false)).await {
        Ok(Response::Ok(value)) => serde_json::from_value(value).map_err(|error| error.to_string()),
        Ok(Response::Refused(refusal)) => Err(refusal.message),
        Err(_) => Err(format!(
            "the part that knows has not answered in {} s; names are served all the same",
            DEADLINE.as_secs()
        )),
    }
}

fn said(status: StatusCode, text: &str) -> Answer {
    (status, TEXT, text.to_owned())
}

/// Whether JSON is asked for (RFC 9110 section 12.5.1). Text is for everybody else: people have browsers.
fn wants_json(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    ranges.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|range| range.eq_ignore_ascii_case(JSON));
        let refused = |weight: &str| weight.trim_matches(['0', '.']).is_empty();
        named && !parts.any(|part| part.strip_prefix("q=").is_some_and(refused))
    })
}

/// Whether this machine was asked by an address, or a name that nobody outside can own. A page that gets here
/// by DNS rebinding asks by a name of its own: that is what tells it from whoever wants to know.
fn is_meant(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    let host = host.to_str().unwrap_or(".");
    let address = host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok();
    address || (host.starts_with('[') && host.ends_with(']')) || !host.contains('.')
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::admin::{BoxFuture, Reason};
    use crate::net::KeepOpen;

    #[tokio::test]
    async fn health_is_told_by_status_text_and_json() {
        let (address, _open) = start();

        let well = get(address, "/health/live", "").await;
        let ill = get(address, "/health/clock", "").await;
        let json =
            get(address, "/health/clock", "Accept: text/html, application/json;q=0.9\r\n").await;
        let refused = get(address, "/health/clock", "Accept: application/json;q=0.0\r\n").await;

        assert!(well.starts_with("HTTP/1.1 200 OK\r\n"), "{well}");
        assert!(well.ends_with("\r\n\r\nlive: well: the daemon answers\n"), "{well}");
        assert!(ill.starts_with("HTTP/1.1 503 "), "{ill}");
        assert!(
            ill.ends_with(
                "\r\n\r\nclock: NOT WELL: the clock is cold\n  warning clock-unknown: no time yet\n"
            ),
            "{ill}"
        );
        assert!(json.starts_with("HTTP/1.1 503 "), "{json}");
        let (_, body) = json.split_once("\r\n\r\n").unwrap();
        let body: HealthReport = serde_json::from_str(body).unwrap();
        assert_eq!((body.healthy, body.conditions[0].name.as_str()), (false, "clock-unknown"));
        assert!(refused.contains("content-type: text/plain"), "{refused}");
    }

    #[tokio::test]
    async fn a_page_that_was_led_here_by_its_own_name_reads_no_words() {
        let (address, _open) = start();
        let ask = async |host: &str| {
            say(address, &format!("GET /health/clock HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
        };

        for host in
            ["127.0.0.1:9853", "192.0.2.1", "[2001:db8::1]:9853", "[::1]", "localhost:9853", "pi"]
        {
            let answer = ask(host).await;
            assert!(answer.ends_with("warning clock-unknown: no time yet\n"), "{host}: {answer}");
        }
        for host in ["rebind.example", "rebind.example:9853", "127.0.0.1.nip.example", "."] {
            let answer = ask(host).await;
            assert!(!answer.contains("no time yet"), "{host}: {answer}");
            assert!(answer.contains("warning clock-unknown: ask by address"), "{host}: {answer}");
        }
    }

    #[tokio::test]
    async fn the_page_is_for_whoever_asks_by_address() {
        let (address, _open) = start();
        let ask = async |path: &str, host: &str| {
            say(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
        };

        for path in ["/", "/status.json"] {
            let answer = ask(path, "192.0.2.1:9853").await;
            // The script of these tests has no figures.
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            let answer = ask(path, "rebind.example").await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
            assert!(answer.ends_with("ask by address to read more\n"), "{answer}");
        }
        let style = ask("/page.css", "pi").await;
        assert!(style.starts_with("HTTP/1.1 200 OK\r\n"), "{style}");
        assert!(style.contains("content-type: text/css; charset=utf-8\r\n"), "{style}");
        assert!(style.contains("content-security-policy: default-src 'none'; style-src 'self'"));
    }

    #[tokio::test]
    async fn a_daemon_that_says_no_is_not_well_and_has_no_figures() {
        let (address, _open) = start();

        for path in ["/metrics", "/health/dns"] {
            let answer = get(address, path, "").await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.contains("it is stopping"), "{answer}");
        }
    }

    #[tokio::test]
    async fn nothing_else_is_there_and_nothing_can_be_changed() {
        let (address, _open) = start();

        for path in
            ["//", "/metrics/", "/health", "/health/", "/health/all", "//metrics", "/Metrics"]
        {
            let answer = get(address, path, "").await;
            assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
            let answer = say(address, &format!("{method} /health/live HTTP/1.1\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
            assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
        }
        let head = say(address, "HEAD /health/live HTTP/1.1\r\n\r\n").await;
        assert!(head.contains("content-length: 31\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[tokio::test]
    async fn a_connection_is_for_one_request() {
        let (address, _open) = start();

        let twice = "GET /health/live HTTP/1.1\r\n\r\n".repeat(2);
        let answer = say(address, &twice).await;

        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn heads_without_end_or_sense_are_cut() {
        let (address, _open) = start();

        let long = format!("GET /health/live HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD));
        let many =
            format!("GET /health/live HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(MAX_FIELDS + 1));
        for head in [&*long, &*many, "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n"] {
            let answer = say(address, head).await;
            assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }

    #[tokio::test]
    async fn the_seventeenth_connection_is_closed_and_a_place_comes_free() {
        let (address, _open) = start();
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }

        assert_eq!(get(address, "/health/live", "").await, "");

        idle.pop();
        let freed = async { while get(address, "/health/live", "").await.is_empty() {} };
        timeout(Duration::from_secs(2), freed).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_hangs_is_given_up() {
        let stuck = ask::<HealthReport>(&Stuck, Request::Health { kind: Health::Live }).await;

        assert!(stuck.unwrap_err().contains("has not answered in 5 s"));
    }

    fn start() -> (SocketAddr, KeepOpen<MonitoringListen>) {
        let listen = MonitoringListen::new(Arc::new(Script), Handle::current());
        let loopback = "127.0.0.1:0".parse().unwrap();
        let open = KeepOpen::start(listen, &[loopback], &Handle::current());
        (open.open()[0], open)
    }

    async fn get(address: SocketAddr, path: &str, fields: &str) -> String {
        say(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).await
    }

    /// What comes back for some octets; empty if the connection is closed or reset.
    async fn say(address: SocketAddr, octets: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(octets.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// Alive, its clock cold, and the rest stopping.
    #[derive(Debug)]
    struct Script;

    impl Control for Script {
        fn handle(&self, request: Request, privileged: bool) -> BoxFuture<'_, Response> {
            assert!(!privileged);
            let held = json!([{
                "name": "clock-unknown", "severity": "warning", "text": "no time yet", "seconds": 1
            }]);
            let Request::Health { kind } = request else {
                return Box::pin(ready(Response::refused(Reason::Failed, "it is stopping")));
            };
            let response = match kind {
                Health::Live => Response::Ok(json!({
                    "healthy": true, "reason": "the daemon answers", "conditions": []
                })),
                Health::Clock => Response::Ok(json!({
                    "healthy": false, "reason": "the clock is cold", "conditions": held
                })),
                Health::Cert | Health::Dns => Response::refused(Reason::Failed, "it is stopping"),
            };
            Box::pin(ready(response))
        }
    }

    #[derive(Debug)]
    struct Stuck;

    impl Control for Stuck {
        fn handle(&self, _: Request, _: bool) -> BoxFuture<'_, Response> {
            Box::pin(pending())
        }
    }
}
