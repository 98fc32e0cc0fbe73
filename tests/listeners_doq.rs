//! DNS over QUIC as RFC 9250 has it: a client made from its text, against an answerer with a script.
#![expect(clippy::unwrap_used, reason = "test code")]

mod script;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use firstlight::dns::listen::{Answer, Limits, Listeners, Places};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, ReadError, ReadToEndError, RecvStream,
    SendStream, TransportConfig, VarInt,
};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use script::{NAME, Script, open};
use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

/// How long a busy machine may take for what takes no time.
const PATIENCE: Duration = Duration::from_secs(10);

/// RFC 9250 section 4.3.
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 1;
const PROTOCOL_ERROR: u32 = 2;
const REQUEST_CANCELLED: u32 = 3;
const EXCESSIVE_LOAD: u32 = 4;
const UNSPECIFIED_ERROR: u32 = 5;

#[tokio::test]
async fn answers_overtake_each_other() {
    let (listeners, script, certificate) = open("127.0.0.1", Limits::default());
    let client = connect(&listeners, &certificate).await;

    let held = send(&client, &query("held")).await;
    let quick = send(&client, &query("quick")).await;

    assert_eq!(answer(quick).await.unwrap(), answer_to("quick"));
    script.let_go.add_permits(1);
    assert_eq!(answer(held).await.unwrap(), answer_to("held"));
}

#[tokio::test]
async fn how_long_queries_take_is_noted() {
    const WAIT: Duration = Duration::from_millis(400);
    let (listeners, script, certificate) = open("127.0.0.1", Limits::default());
    let client = connect(&listeners, &certificate).await;
    sleep(WAIT).await;

    assert_eq!(ask(&client, &query("quick")).await.unwrap(), answer_to("quick"));
    let held = send(&client, &query("held")).await;
    until(|| count(&script.asked) == 1).await;
    sleep(WAIT).await;
    script.let_go.add_permits(1);
    assert_eq!(answer(held).await.unwrap(), answer_to("held"));

    let noted: BTreeMap<_, _> =
        listeners.latencies().read().map(|(origin, spans)| (origin.name(), spans)).collect();
    let (quick, held) = (&noted["local"], &noted["upstream"]);
    assert_eq!(quick.steps.iter().sum::<u64>(), 1);
    assert!(quick.sum < WAIT, "{quick:?}");
    assert_eq!(held.steps.iter().sum::<u64>(), 1);
    assert!(held.sum >= WAIT, "{held:?}");
}

#[tokio::test]
async fn a_connection_may_ask_as_often_as_it_likes() {
    let (listeners, script, certificate) = open("127.0.0.1", Limits::default());
    let client = connect(&listeners, &certificate).await;
    script.let_go.add_permits(300);

    let mut asked = Vec::new();
    for number in 0..600 {
        let client = client.clone();
        asked.push(tokio::spawn(async move {
            let label = if number % 2 == 0 { "quick" } else { "held" };
            assert_eq!(ask(&client, &query(label)).await.unwrap(), answer_to(label));
        }));
    }
    for asked in asked {
        timeout(PATIENCE, asked).await.unwrap().unwrap();
    }

    assert_eq!(ask(&client, &query("quick")).await.unwrap(), answer_to("quick"));
    assert_eq!(count(&listeners.counters().connections), 1);
    assert_eq!(listeners.counters().doq.sum(), 601);
}

#[tokio::test]
async fn answers_come_from_the_address_that_was_asked() {
    for (wildcard, asked) in [("0.0.0.0", "127.0.0.2"), ("[::]", "::1")] {
        let (listeners, _script, certificate) = open(wildcard, Limits::default());
        let asked: IpAddr = asked.parse().unwrap();
        let to = (asked, listeners.places().doq[0].port()).into();

        // A client of QUIC takes packets from nowhere else.
        let client = endpoint(to).connect_with(trusting(&certificate), to, NAME).unwrap();
        let client = timeout(PATIENCE, client).await.unwrap().unwrap();

        assert_eq!(ask(&client, &query("quick")).await.unwrap(), answer_to("quick"));
    }
}

#[tokio::test]
async fn the_longest_messages_fit_both_ways() {
    let (listeners, script, certificate) = open("127.0.0.1", Limits::default());
    let client = connect(&listeners, &certificate).await;
    script.let_go.add_permits(1);

    for label in ["big", "held-big"] {
        let mut long = query(label);
        long.resize(65_535, 0);
        let answer = ask(&client, &long).await.unwrap();
        assert!(answer.len() > 60_000 && answer.starts_with(&[0, 0, 0x81]));
    }
}

#[tokio::test]
async fn a_breach_of_the_protocol_ends_the_connection_with_its_code() {
    let limits = Limits { message: Duration::from_millis(200), ..Limits::default() };
    let (listeners, _script, certificate) = open("127.0.0.1", limits);
    let whole = frame(&query("quick"));
    let mut numbered = whole.clone();
    numbered[3] = 7;
    let mut response = whole.clone();
    response[4] |= 0x80;
    let mut with_option = query("quick");
    with_option[11] = 1;
    with_option.extend(b"\0\0\x29\x10\0\0\0\0\0\0\x04\0\x0b\0\0");

    for (breach, stream, ends) in [
        ("a message id", &numbered, true),
        ("edns-tcp-keepalive", &frame(&with_option), true),
        ("two queries", &[&whole[..], &whole].concat(), true),
        ("two queries and no end", &[&whole[..], &whole].concat(), false),
        ("an end within the query", &whole[..9].to_vec(), true),
        ("an end at once", &Vec::new(), true),
        ("no end", &whole, false),
        ("a drip", &whole[..9].to_vec(), false),
        ("a response", &response, true),
        ("no header", &frame(b"short"), true),
    ] {
        let client = connect(&listeners, &certificate).await;
        let (mut send, _recv) = client.open_bi().await.unwrap();
        send.write_all(stream).await.unwrap();
        if ends {
            send.finish().unwrap();
        }

        assert_eq!(closed(&client).await, PROTOCOL_ERROR, "{breach}");
    }
    until(|| listeners.connections() == 0).await;
}

#[tokio::test]
async fn a_client_can_open_no_unidirectional_stream() {
    let (listeners, _script, certificate) = open("127.0.0.1", Limits::default());
    let client = connect(&listeners, &certificate).await;

    assert!(timeout(Duration::from_millis(50), client.open_uni()).await.is_err());
    assert_eq!(ask(&client, &query("quick")).await.unwrap(), answer_to("quick"));
}

#[tokio::test]
async fn a_query_without_an_answer_costs_its_stream_alone() {
    let limits = Limits { waiting: 1, answer: Duration::from_millis(300), ..Limits::default() };
    let (listeners, _script, certificate) = open("127.0.0.1", limits);
    let client = connect(&listeners, &certificate).await;

    let displaced = send(&client, &query("late")).await;
    let late = send(&client, &query("late")).await;
    assert_eq!(reset(&answer(displaced).await), EXCESSIVE_LOAD);
    assert_eq!(reset(&answer(late).await), INTERNAL_ERROR);
    assert_eq!(reset(&ask(&client, &query("other")).await), UNSPECIFIED_ERROR);

    assert_eq!(ask(&client, &query("quick")).await.unwrap(), answer_to("quick"));
    for counter in [&listeners.counters().shed, &listeners.counters().late] {
        assert_eq!(count(counter), 1);
    }
}

#[tokio::test]
async fn what_the_client_gives_up_is_given_up_here_too() {
    let (listeners, script, certificate) = open("127.0.0.1", Limits::default());
    let client = connect(&listeners, &certificate).await;

    // STOP_SENDING ends a question that nothing else would.
    let (_send, mut recv) = send(&client, &query("late")).await;
    until(|| count(&script.asked) == 1).await;
    recv.stop(VarInt::from_u32(REQUEST_CANCELLED)).unwrap();
    // RESET_STREAM within the query is answered by one.
    let (mut send, recv) = client.open_bi().await.unwrap();
    send.write_all(&frame(&query("quick"))[..9]).await.unwrap();
    send.reset(VarInt::from_u32(REQUEST_CANCELLED)).unwrap();
    assert_eq!(reset(&answer((send, recv)).await), REQUEST_CANCELLED);

    assert!(listeners.drain(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn queries_in_pieces_have_a_bound_in_all_and_whole_ones_do_not_wait_for_them() {
    let (listeners, _script, certificate) =
        open("127.0.0.1", Limits { bodies: 1, ..Limits::default() });
    let client = connect(&listeners, &certificate).await;
    let whole = frame(&query("quick"));
    let mut pieces = Vec::new();
    for _ in 0..2 {
        let (mut send, recv) = client.open_bi().await.unwrap();
        send.write_all(&whole[..9]).await.unwrap();
        pieces.push((send, recv));
    }

    assert_eq!(reset(&answer(pieces.pop().unwrap()).await), EXCESSIVE_LOAD);
    assert_eq!(ask(&client, &query("quick")).await.unwrap(), answer_to("quick"));
    let (mut send, recv) = pieces.pop().unwrap();
    send.write_all(&whole[9..]).await.unwrap();
    send.finish().unwrap();
    assert_eq!(answer((send, recv)).await.unwrap(), answer_to("quick"));
}

#[tokio::test]
async fn a_panic_costs_one_connection() {
    let (listeners, _script, certificate) = open("127.0.0.1", Limits::default());
    let unlucky = connect(&listeners, &certificate).await;
    let next = connect(&listeners, &certificate).await;

    let _streams = send(&unlucky, &query("panic")).await;

    assert_eq!(closed(&unlucky).await, INTERNAL_ERROR);
    assert_eq!(ask(&next, &query("quick")).await.unwrap(), answer_to("quick"));
    assert_eq!(count(&listeners.counters().panics), 1);
}

#[tokio::test]
async fn an_idle_client_is_seen_off_even_if_it_keeps_its_connection_alive() {
    let brief = Duration::from_millis(300);
    let limits = Limits { idle: brief, idle_pressed: brief / 2, ..Limits::default() };
    let (listeners, _script, certificate) = open("127.0.0.1", limits);
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(brief / 10));

    let client = connect_as(&listeners, trusting(&certificate), transport).await.unwrap();
    assert_eq!(ask(&client, &query("quick")).await.unwrap(), answer_to("quick"));

    assert_eq!(closed(&client).await, NO_ERROR);
    assert_eq!(count(&listeners.counters().cut), 0);
}

#[tokio::test]
async fn who_does_not_take_its_answer_is_cut_off() {
    let limits = Limits { write: Duration::from_millis(200), ..Limits::default() };
    let (listeners, _script, certificate) = open("127.0.0.1", limits);
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(1024));

    let deaf = connect_as(&listeners, trusting(&certificate), transport).await.unwrap();
    let _streams = send(&deaf, &query("big")).await;

    assert_eq!(closed(&deaf).await, UNSPECIFIED_ERROR);
    assert_eq!(count(&listeners.counters().cut), 1);
}

#[tokio::test]
async fn an_address_has_its_cap_and_others_are_not_touched_by_it() {
    let limits = Limits { connections_per_address: 2, ..Limits::default() };
    let (listeners, _script, certificate) = open("127.0.0.1", limits);
    let first = connect(&listeners, &certificate).await;
    let _second = connect(&listeners, &certificate).await;

    let third = connect_as(&listeners, trusting(&certificate), TransportConfig::default()).await;

    assert!(matches!(third, Err(ConnectionError::ConnectionClosed(_))), "{third:?}");
    assert_eq!(count(&listeners.counters().refused), 1);
    let to = listeners.places().doq[0];
    let neighbour = Endpoint::client("127.0.0.9:0".parse().unwrap()).unwrap();
    let neighbour = neighbour.connect_with(trusting(&certificate), to, NAME).unwrap().await;
    for client in [first, neighbour.unwrap()] {
        assert_eq!(ask(&client, &query("quick")).await.unwrap(), answer_to("quick"));
    }
}

#[tokio::test]
async fn a_newcomer_displaces_a_connection_of_whoever_has_most() {
    let (listeners, _script, certificate) =
        open("127.0.0.1", Limits { connections: 2, ..Limits::default() });
    let first = connect(&listeners, &certificate).await;
    let _second = connect(&listeners, &certificate).await;

    let to = listeners.places().doq[0];
    let neighbour = Endpoint::client("127.0.0.9:0".parse().unwrap()).unwrap();
    let neighbour = neighbour.connect_with(trusting(&certificate), to, NAME).unwrap().await;

    assert_eq!(closed(&first).await, EXCESSIVE_LOAD);
    assert_eq!(ask(&neighbour.unwrap(), &query("quick")).await.unwrap(), answer_to("quick"));
    assert_eq!(count(&listeners.counters().displaced), 1);
}

/// The fault of hickory-server that these listeners exist without: one silent peer, and nobody
/// is let in for five seconds.
#[tokio::test]
async fn silent_peers_delay_nobody() {
    let (listeners, _script, certificate) = open("127.0.0.1", Limits::default());
    let silent = Silent::new(20, &certificate).await;
    silent.knock(listeners.places().doq[0]).await;
    until(|| listeners.connections() == 20).await;

    let honest = timeout(Duration::from_secs(3), connect(&listeners, &certificate)).await;

    assert_eq!(ask(&honest.unwrap(), &query("quick")).await.unwrap(), answer_to("quick"));
    assert_eq!(count(&listeners.counters().retries), 0);
    assert_eq!(count(&listeners.counters().handshake_failures), 0);
}

#[tokio::test]
async fn under_load_addresses_are_to_be_proven_and_forged_ones_take_few_places() {
    let (listeners, _script, certificate) = open("127.0.0.1", Limits::default());
    let retries = || count(&listeners.counters().retries);
    let silent = Silent::new(100, &certificate).await;
    silent.knock(listeners.places().doq[0]).await;
    until(|| retries() == 68).await;
    assert_eq!(listeners.connections(), 32);
    silent.receives_retry().await;

    let honest = timeout(Duration::from_secs(3), connect(&listeners, &certificate)).await;

    assert_eq!(ask(&honest.unwrap(), &query("quick")).await.unwrap(), answer_to("quick"));
    assert!(retries() > 68);
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_given_up() {
    let limits = Limits { handshake: Duration::from_millis(200), ..Limits::default() };
    let (listeners, _script, certificate) = open("127.0.0.1", limits);
    let silent = Silent::new(3, &certificate).await;
    silent.knock(listeners.places().doq[0]).await;

    until(|| count(&listeners.counters().handshake_failures) == 3).await;
    // What QUIC still remembers of them counts for a second more.
    assert_eq!(listeners.connections(), 3);
    until(|| listeners.connections() == 0).await;
}

#[tokio::test]
async fn only_doq_is_spoken_and_nothing_early() {
    let (listeners, _script, certificate) = open("127.0.0.1", Limits::default());
    let to = listeners.places().doq[0];
    let other = connect_as(&listeners, speaking("h3", &certificate), TransportConfig::default());
    assert!(matches!(other.await, Err(ConnectionError::ConnectionClosed(_))));

    let (endpoint, config) = (endpoint(to), trusting(&certificate));
    let first = endpoint.connect_with(config.clone(), to, NAME).unwrap().await.unwrap();
    assert_eq!(ask(&first, &query("quick")).await.unwrap(), answer_to("quick"));
    // A ticket that allowed early data would be used here.
    let again = endpoint.connect_with(config, to, NAME).unwrap().into_0rtt();
    let again = again.map(drop).unwrap_err().await.unwrap();
    assert_eq!(ask(&again, &query("quick")).await.unwrap(), answer_to("quick"));
}

#[tokio::test]
async fn the_certificate_changes_from_one_handshake_to_the_next() {
    let script = Arc::<Script>::default();
    let [(mut tls, old), (other, new)] = [script::tls(), script::tls()];
    let present = Arc::new(ArcSwap::new((tls.doq)()));
    let presented = Arc::clone(&present);
    tls.doq = Arc::new(move || presented.load_full());
    let places = Places { doq: vec!["127.0.0.1:0".parse().unwrap()], ..Places::default() };
    let answerer = Arc::clone(&script) as Arc<dyn Answer>;
    let (limits, clock) = (Limits::default(), script::clock());
    let listeners = Listeners::open(&places, answerer, tls, limits, clock, &Handle::current());
    let before = connect(&listeners, &old).await;

    present.store((other.doq)());

    let after = connect(&listeners, &new).await;
    for client in [before, after] {
        assert_eq!(ask(&client, &query("quick")).await.unwrap(), answer_to("quick"));
    }
    let late = connect_as(&listeners, trusting(&old), TransportConfig::default()).await;
    assert!(matches!(late, Err(ConnectionError::TransportError(_))), "{late:?}");
}

#[tokio::test]
async fn a_drain_sends_what_is_under_way_and_says_farewell() {
    let (listeners, script, certificate) = open("127.0.0.1", Limits::default());
    let listeners = Arc::new(listeners);
    let asking = connect(&listeners, &certificate).await;
    let idle = connect(&listeners, &certificate).await;
    let to = listeners.places().doq[0];
    let held = send(&asking, &query("held-big")).await;
    until(|| count(&script.asked) == 1).await;

    let drain = tokio::spawn({
        let listeners = Arc::clone(&listeners);
        async move { listeners.drain(PATIENCE).await }
    });

    assert_eq!(closed(&idle).await, NO_ERROR);
    let newcomer = endpoint(to).connect_with(trusting(&certificate), to, NAME).unwrap();
    assert!(timeout(Duration::from_millis(200), newcomer).await.is_err());
    assert!(!drain.is_finished());
    script.let_go.add_permits(1);
    assert!(answer(held).await.unwrap().len() > 60_000);
    assert_eq!(closed(&asking).await, NO_ERROR);
    assert!(drain.await.unwrap());
    // The address is free again.
    until(|| std::net::UdpSocket::bind(to).is_ok()).await;
}

#[tokio::test]
async fn a_reload_that_keeps_the_address_keeps_connections() {
    let (listeners, _script, certificate) = open("127.0.0.1", Limits::default());
    let client = connect(&listeners, &certificate).await;

    let doq = vec!["127.0.0.1:0".parse().unwrap()];
    listeners.reconfigure(&Places { doq, ..Places::default() });

    assert_eq!(ask(&client, &query("quick")).await.unwrap(), answer_to("quick"));
    listeners.reconfigure(&Places::default());
    assert_eq!(closed(&client).await, NO_ERROR);
}

/// First packets of clients that are never heard of again.
struct Silent {
    initials: BTreeMap<Vec<u8>, Vec<u8>>,
    socket: UdpSocket,
}

impl Silent {
    /// `number` of them, from clients that knock where nobody is.
    async fn new(number: usize, certificate: &CertificateDer<'static>) -> Self {
        let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = nobody.local_addr().unwrap();
        let clients = endpoint(to);
        let config = trusting(certificate);
        let connect = |_| clients.connect_with(config.clone(), to, NAME).unwrap();
        let _waiting: Vec<_> = (0..number).map(connect).collect();
        let mut initials = BTreeMap::new();
        let mut packet = [0; 2048];
        while initials.len() < number {
            let len = timeout(PATIENCE, nobody.recv(&mut packet)).await.unwrap().unwrap();
            // A long header, then its destination's id (RFC 9000 section 17.2), which tells
            // the first packet of one connection from that of the next.
            let id = packet[6..6 + usize::from(packet[5])].to_vec();
            initials.entry(id).or_insert_with(|| packet[..len].to_vec());
        }
        Self { initials, socket: UdpSocket::bind("127.0.0.1:0").await.unwrap() }
    }

    async fn knock(&self, to: SocketAddr) {
        for initial in self.initials.values() {
            self.socket.send_to(initial, to).await.unwrap();
        }
    }

    /// Waits for a Retry packet (RFC 9000 section 17.2.5).
    async fn receives_retry(&self) {
        let received = async {
            let mut packet = [0; 2048];
            while packet[0] & 0xf0 != 0xf0 {
                self.socket.recv(&mut packet).await.unwrap();
            }
        };
        timeout(PATIENCE, received).await.unwrap();
    }
}

async fn connect(listeners: &Listeners, certificate: &CertificateDer<'static>) -> Connection {
    let connected = connect_as(listeners, trusting(certificate), TransportConfig::default()).await;
    connected.unwrap()
}

async fn connect_as(
    listeners: &Listeners,
    mut config: ClientConfig,
    transport: TransportConfig,
) -> Result<Connection, ConnectionError> {
    let to = listeners.places().doq[0];
    config.transport_config(Arc::new(transport));
    let connecting = endpoint(to).connect_with(config, to, NAME).unwrap();
    timeout(PATIENCE, connecting).await.unwrap()
}

/// A client's end, on any port of the family of `to`.
fn endpoint(to: SocketAddr) -> Endpoint {
    let any = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    Endpoint::client(any.parse().unwrap()).unwrap()
}

fn trusting(certificate: &CertificateDer<'static>) -> ClientConfig {
    speaking("doq", certificate)
}

fn speaking(alpn: &str, certificate: &CertificateDer<'static>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.into()];
    config.enable_early_data = true;
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
}

/// A query has the id 0, a stream of its own, and a length before it; it ends with the stream
/// (RFC 9250 section 4.2).
async fn send(client: &Connection, query: &[u8]) -> (SendStream, RecvStream) {
    let (mut send, recv) = client.open_bi().await.unwrap();
    send.write_all(&frame(query)).await.unwrap();
    send.finish().unwrap();
    (send, recv)
}

/// The answer in a stream that holds one and no more.
async fn answer((_, mut recv): (SendStream, RecvStream)) -> Result<Vec<u8>, ReadToEndError> {
    let stream = timeout(PATIENCE, recv.read_to_end(1 << 17)).await.unwrap()?;
    let (len, answer) = stream.split_first_chunk().unwrap();
    assert_eq!(usize::from(u16::from_be_bytes(*len)), answer.len());
    Ok(answer.to_vec())
}

async fn ask(client: &Connection, query: &[u8]) -> Result<Vec<u8>, ReadToEndError> {
    answer(send(client, query).await).await
}

/// The code with which the server closed the connection.
async fn closed(client: &Connection) -> u32 {
    let ended = timeout(PATIENCE, client.closed()).await.unwrap();
    let ConnectionError::ApplicationClosed(close) = ended else { panic!("{ended:?}") };
    code(close.error_code)
}

/// The code with which the server gave up the stream.
fn reset(answered: &Result<Vec<u8>, ReadToEndError>) -> u32 {
    let Err(ReadToEndError::Read(ReadError::Reset(reset))) = answered else {
        panic!("{answered:?}")
    };
    code(*reset)
}

fn code(code: VarInt) -> u32 {
    code.into_inner().try_into().unwrap()
}

/// A question for the A record of `LABEL.`.
fn query(label: &str) -> Vec<u8> {
    let len = u8::try_from(label.len()).unwrap();
    [b"\0\0\x01\0\0\x01\0\0\0\0\0\0", &[len][..], label.as_bytes(), b"\0\0\x01\0\x01"].concat()
}

fn answer_to(label: &str) -> Vec<u8> {
    let mut answer = query(label);
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01");
    answer
}

fn frame(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap();
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
