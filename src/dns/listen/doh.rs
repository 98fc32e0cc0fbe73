//! DNS over HTTPS (RFC 8484), HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::accept::Link;
use super::activity::{Activity, Watched};
use super::{CountPanic, NoAnswer, Quick, Shared, count, kibibytes};
use crate::dns::Client;

/// The media type of DNS messages (RFC 8484 section 6).
const MEDIA_TYPE: &str = "application/dns-message";
/// The longest DNS message (RFC 8484 section 6).
const MAX_MESSAGE: usize = 65_535;
/// Requests of one connection under way at the same time.
const MAX_STREAMS: u32 = 100;
/// Room for the head of a request; holds a GET of some 10 KiB of query.
const MAX_HEAD: usize = 16 << 10;
/// What a client may send ahead of being read.
const MAX_WINDOW: u32 = 64 << 10;
/// Streams a client may open and reset before they are looked at (CVE-2023-44487).
const MAX_RESETS: usize = 20;
/// For the client to close its side after we closed ours.
const CLOSE: Duration = Duration::from_millis(500);

/// Serves one connection to its end, in the version of HTTP that ALPN chose.
pub(super) async fn serve(stream: Box<TlsStream<TcpStream>>, client: Client, link: Link) {
    let activity = Arc::new(Activity::default());
    let (shared, requests) = (Arc::clone(&link.shared), Arc::clone(&activity));
    let service = service_fn(move |request| {
        let (shared, requests) = (Arc::clone(&shared), Arc::clone(&requests));
        async move {
            let _count = CountPanic(&shared.counters.panics);
            let _request = requests.start();
            Ok::<_, Infallible>(respond(request, client, &shared, &requests).await)
        }
    });
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    // No `Date` from either: the machine's clock may be wrong, and RFC 9110
    // section 6.6.1 wants none from a server without a clock.
    if http2 {
        let connection = http2::Builder::new(InPlace)
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(MAX_WINDOW)
            .initial_connection_window_size(MAX_WINDOW)
            .max_header_list_size(16 << 10)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(MAX_RESETS)
            .max_send_buf_size(MAX_MESSAGE + 1)
            .serve_connection(stream, service);
        drive(connection, http2::Connection::graceful_shutdown, &activity, link).await;
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .auto_date_header(false)
            // A bound behind ours, which ends the connection with a farewell.
            .header_read_timeout(2 * link.shared.limits.idle)
            .max_headers(64)
            .max_buf_size(MAX_HEAD)
            .serve_connection(stream, service);
        drive(connection, http1::Connection::graceful_shutdown, &activity, link).await;
    }
}

/// Runs requests within their connection's task for as long as they need not wait: most are
/// answered by then, and all answers to what was read at once leave in one write and one TLS
/// record. What has to wait becomes a task.
#[derive(Clone, Copy, Debug)]
struct InPlace;

impl<F> Executor<F> for InPlace
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, request: F) {
        let mut request = Box::pin(request);
        // Whoever waits is polled again by its task, which leaves a waker of its own.
        if request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            tokio::spawn(request);
        }
    }
}

/// Runs a connection until it ends, is idle for too long, goes too far, has to give way, or its
/// listener is gone.
async fn drive<C>(connection: C, finish: fn(Pin<&mut C>), activity: &Activity, mut link: Link)
where
    C: Future<Output = hyper::Result<()>>,
{
    let limits = link.shared.limits;
    let mut connection = pin!(connection);
    let _end = activity.end_with();
    let mut finishing = false;
    let mut seen = 0;
    let mut idle = Duration::ZERO;
    loop {
        let left = limits.idle.saturating_sub(idle);
        let tick = if finishing { CLOSE } else { limits.idle_pressed.min(left) };
        tokio::select! {
            // In this order, so that what has already arrived is answered before the end.
            biased;
            _ = connection.as_mut() => return,
            () = link.slot.displaced() => return,
            () = activity.excess() => return count(&link.shared.counters.cut),
            _ = link.closing.changed(), if !finishing => {
                finishing = true;
                finish(connection.as_mut());
            }
            () = sleep(tick) => {
                if activity.went_on(&mut seen) {
                    idle = Duration::ZERO;
                } else if finishing {
                    return count(&link.shared.counters.cut);
                } else {
                    idle += tick;
                    if idle >= limits.idle || link.shared.admission.pressed() {
                        finishing = true;
                        finish(connection.as_mut());
                    }
                }
            }
        }
    }
}

async fn respond(
    request: Request<Incoming>,
    client: Client,
    shared: &Arc<Shared>,
    activity: &Arc<Activity>,
) -> Response<Full<Bytes>> {
    let head = request.method() == Method::HEAD;
    let mut response = match answer(request, client, shared, activity).await {
        Ok(message) => {
            let age = format!("max-age={}", max_age(&message));
            let mut response = Response::new(Full::new(activity.hand_out(message)));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
            if let Ok(age) = HeaderValue::from_str(&age) {
                headers.insert(CACHE_CONTROL, age);
            }
            response
        }
        Err(status) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = status;
            if status == StatusCode::METHOD_NOT_ALLOWED {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
            }
            response
        }
    };
    if head {
        let len = response.body().size_hint().exact().unwrap_or(0);
        response.headers_mut().insert(CONTENT_LENGTH, len.into());
        *response.body_mut() = Full::default();
    }
    response
}

async fn answer(
    request: Request<Incoming>,
    client: Client,
    shared: &Shared,
    activity: &Activity,
) -> Result<Vec<u8>, StatusCode> {
    if !activity.takes_answers(shared.limits.write).await {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    let query = query(request, shared).await?;
    let client = Client { arrived: shared.clock.mono(), ..client };
    count(shared.counters.doh.of(client.address.ip()));
    let mut reply = Vec::with_capacity(512);
    match shared.answer.quick(&query, &client, None, &mut reply) {
        Quick::Reply(origin) => {
            shared.answered(origin, &client);
            Ok(reply)
        }
        Quick::Drop => {
            count(&shared.counters.dropped);
            Err(StatusCode::BAD_REQUEST)
        }
        Quick::Slow => {
            let Some(place) = shared.enter(&query, &client, &mut reply) else { return Ok(reply) };
            // Boxed: every request would have room for it otherwise, and most need no waiting.
            Box::pin(shared.ask(query, client, &place)).await.map_err(|reason| match reason {
                NoAnswer::Dropped => StatusCode::BAD_REQUEST,
                NoAnswer::Late => StatusCode::GATEWAY_TIMEOUT,
                NoAnswer::Shed => StatusCode::SERVICE_UNAVAILABLE,
            })
        }
    }
}

/// The DNS message of a request (RFC 8484 section 4.1), or the status that says what is wrong with it.
async fn query(request: Request<Incoming>, shared: &Shared) -> Result<Vec<u8>, StatusCode> {
    if request.uri().path() != shared.path.load().as_str() {
        return Err(StatusCode::NOT_FOUND);
    }
    match *request.method() {
        Method::GET | Method::HEAD => {
            let parameters = request.uri().query().unwrap_or_default().split('&');
            let mut dns = parameters.filter_map(|parameter| parameter.strip_prefix("dns="));
            let encoded = dns.next().ok_or(StatusCode::BAD_REQUEST)?;
            BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| StatusCode::BAD_REQUEST)
        }
        Method::POST => {
            let media_type =
                request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let media_type =
                media_type.and_then(|value| value.split(';').next()).unwrap_or_default();
            if !media_type.trim().eq_ignore_ascii_case(MEDIA_TYPE) {
                return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
            }
            let len = request.body().size_hint();
            if len.lower() > MAX_MESSAGE as u64 {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            let len = len.exact().and_then(|len| usize::try_from(len).ok()).unwrap_or(MAX_MESSAGE);
            let room =
                shared.bodies.try_acquire_many(u32::try_from(kibibytes(len)).unwrap_or(u32::MAX));
            let _room = room.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
            let body = Limited::new(request.into_body(), MAX_MESSAGE).collect();
            match timeout(shared.limits.message, body).await {
                Ok(Ok(body)) => Ok(body.to_bytes().into()),
                Ok(Err(error)) if error.is::<LengthLimitError>() => {
                    Err(StatusCode::PAYLOAD_TOO_LARGE)
                }
                Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
                Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
            }
        }
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// How long a message may be kept, in seconds: its least TTL (RFC 8484 section 5.1), for a
/// negative answer that of its SOA record (RFC 2308 section 5). 0 for anything else.
fn max_age(message: &[u8]) -> u32 {
    least_ttl(message).unwrap_or(0)
}

fn least_ttl(message: &[u8]) -> Option<u32> {
    const SOA: [u8; 2] = [0, 6];
    let (header, mut rest) = message.split_first_chunk::<12>()?;
    let [_, _, flags, rcode, counts @ ..] = *header;
    let truncated = flags & 2 != 0;
    // NOERROR and NXDOMAIN; anything else is trouble that may pass.
    if truncated || !matches!(rcode & 15, 0 | 3) {
        return None;
    }
    let [questions, answers, authorities] =
        [0, 2, 4].map(|at| u16::from_be_bytes([counts[at], counts[at + 1]]));
    for _ in 0..questions {
        rest = skip_name(rest)?.get(4..)?;
    }
    let mut least = None;
    for number in 0..u32::from(answers) + u32::from(authorities) {
        let (fixed, tail) = skip_name(rest)?.split_first_chunk::<10>()?;
        let [kind0, kind1, _, _, ttl @ .., len0, len1] = *fixed;
        let (data, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes([len0, len1])))?;
        let ttl = match data.last_chunk() {
            // The last field of a SOA record bounds how long a denial may be kept.
            Some(minimum) if [kind0, kind1] == SOA => {
                Some(u32::from_be_bytes(ttl).min(u32::from_be_bytes(*minimum)))
            }
            _ => (number < u32::from(answers)).then(|| u32::from_be_bytes(ttl)),
        };
        least = least.into_iter().chain(ttl).min();
        rest = tail;
    }
    // A TTL with the highest bit set counts as 0 (RFC 2181 section 8).
    least.filter(|ttl| ttl >> 31 == 0)
}

/// What follows the name at the start of `octets`.
fn skip_name(mut octets: &[u8]) -> Option<&[u8]> {
    loop {
        let (&len, rest) = octets.split_first()?;
        match len {
            0 => return Some(rest),
            1..64 => octets = rest.get(usize::from(len)..)?,
            192.. => return rest.get(1..),
            64..192 => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_keeps_for_its_least_ttl() {
        let message =
            message(0, &[(1, 300, b"\x01\x02\x03\x04"), (1, 60, b"\x01\x02\x03\x05")], &[]);

        assert_eq!(max_age(&message), 60);
    }

    #[test]
    fn a_denial_keeps_for_its_soa() {
        let soa = b"\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x1e";

        assert_eq!(max_age(&message(3, &[], &[(6, 3600, soa)])), 30);
        assert_eq!(max_age(&message(0, &[], &[])), 0);
    }

    #[test]
    fn trouble_does_not_keep() {
        let servfail = message(2, &[(1, 300, b"\x01\x02\x03\x04")], &[]);
        let cut = &message(0, &[(1, 300, b"\x01\x02\x03\x04")], &[])[..30];

        assert_eq!(max_age(&servfail), 0);
        assert_eq!(max_age(cut), 0);
        assert_eq!(max_age(&message(0, &[(1, 1 << 31, b"")], &[])), 0);
    }

    proptest! {
        #[test]
        fn no_message_can_upset_it(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            max_age(&octets);
        }
    }

    type Record<'a> = (u8, u32, &'a [u8]);

    /// A response to `a./A/IN`.
    fn message(rcode: u8, answers: &[Record<'_>], authorities: &[Record<'_>]) -> Vec<u8> {
        let (an, ns) = (u8::try_from(answers.len()), u8::try_from(authorities.len()));
        let mut message =
            vec![0, 1, 0x81, 0x80 | rcode, 0, 1, 0, an.unwrap(), 0, ns.unwrap(), 0, 0];
        message.extend(b"\x01a\0\0\x01\0\x01");
        for (kind, ttl, data) in answers.iter().chain(authorities) {
            message.extend(b"\xc0\x0c\0");
            message.extend([*kind, 0, 1]);
            message.extend(ttl.to_be_bytes());
            message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend(*data);
        }
        message
    }
}
