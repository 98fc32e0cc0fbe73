//! The DNS listeners over real sockets, with an answerer that follows a script.
#![expect(clippy::unwrap_used, reason = "test code")]

mod script;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use firstlight::dns::Origin;
use firstlight::dns::listen::{Limits, Listeners, Places, STEPS};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use script::{NAME, open};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a busy machine may take for what takes no time.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn udp_answers_come_from_the_address_asked_at_once_or_later() {
    for (wildcard, from, asked) in
        [("0.0.0.0", "127.0.0.1:0", "127.0.0.2"), ("[::]", "[::1]:0", "::1")]
    {
        let (listeners, script, _) = open(wildcard, Limits::default());
        let client = UdpSocket::bind(from).await.unwrap();
        // A connected socket takes answers from nowhere else.
        let asked: IpAddr = asked.parse().unwrap();
        client.connect((asked, listeners.places().dns[0].port())).await.unwrap();

        client.send(&query(1, "held")).await.unwrap();
        client.send(&query(2, "quick")).await.unwrap();

        assert_eq!(receive(&client).await, 2);
        script.let_go.add_permits(1);
        assert_eq!(receive(&client).await, 1);
    }
}

#[tokio::test]
async fn a_panic_or_garbage_costs_udp_one_datagram() {
    let (listeners, _script, _) = open("127.0.0.1", Limits::default());
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(listeners.places().dns[0]).await.unwrap();

    client.send(b"").await.unwrap();
    client.send(b"garbage").await.unwrap();
    client.send(&query(1, "panic")).await.unwrap();
    client.send(&query(2, "quick")).await.unwrap();

    assert_eq!(receive(&client).await, 2);
    assert_eq!(count(&listeners.udp_tally().panics), 1);
    assert_eq!(count(&listeners.counters().dropped), 2);
}

#[tokio::test]
async fn questions_beyond_the_limit_are_shed_and_late_ones_given_up() {
    let limits = Limits { waiting: 1, answer: Duration::from_millis(500), ..Limits::default() };
    let (listeners, _script, _) = open("127.0.0.1", limits);
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(listeners.places().dns[0]).await.unwrap();

    client.send(&query(1, "late")).await.unwrap();
    client.send(&query(2, "late")).await.unwrap();
    client.send(&query(3, "quick")).await.unwrap();

    assert_eq!(receive(&client).await, 3);
    until(|| count(&listeners.counters().shed) == 1).await;
    until(|| count(&listeners.counters().late) == 1).await;
}

#[tokio::test]
async fn without_room_to_wait_outdated_data_is_given_out_and_nobody_gives_way() {
    let limits = Limits { waiting: 1, ..Limits::default() };
    let (listeners, script, _) = open("127.0.0.1", limits);
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(listeners.places().dns[0]).await.unwrap();
    let mut tcp = TcpStream::connect(listeners.tcp()[0]).await.unwrap();

    client.send(&query(1, "held")).await.unwrap();
    until(|| count(&script.asked) == 1).await;
    client.send(&query(2, "outdated")).await.unwrap();
    assert_eq!(receive(&client).await, 2);
    tcp.write_all(&frame(&query(3, "outdated"))).await.unwrap();
    assert_eq!(ids(&read_some(&mut tcp).await), [3]);

    script.let_go.add_permits(1);
    assert_eq!(receive(&client).await, 1);
    let counters = listeners.counters();
    assert_eq!((count(&counters.shed_stale), count(&counters.shed)), (2, 0));
}

#[tokio::test]
async fn how_long_questions_take_is_noted_whatever_way_they_came() {
    const WAIT: Duration = Duration::from_millis(400);
    let (listeners, script, certificate) = open("127.0.0.1", Limits::default());
    let places = listeners.places();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    udp.connect(places.dns[0]).await.unwrap();
    let mut tcp = TcpStream::connect(listeners.tcp()[0]).await.unwrap();
    let mut dot = tls(places.dot[0], &certificate, b"dot").await;
    let mut doh = Http::connect(places.doh[0], &certificate, b"h2").await;
    // A connection that was idle for a while has asked nothing meanwhile.
    sleep(WAIT).await;

    for round in 1..=3 {
        udp.send(&query(1, "quick")).await.unwrap();
        receive(&udp).await;
        tcp.write_all(&frame(&query(1, "quick")).repeat(2)).await.unwrap();
        while noted(&listeners, Origin::Local).0 < round * 5 - 2 {
            sleep(Duration::from_millis(1)).await;
        }
        dot.write_all(&frame(&query(1, "quick"))).await.unwrap();
        read_some(&mut dot).await;
        assert_eq!(doh.ask(&Method::POST, &query(1, "quick")).await.status(), 200);
        assert_eq!(noted(&listeners, Origin::Local).0, round * 5);
    }
    let (_, _, sum) = noted(&listeners, Origin::Local);
    assert!(sum < WAIT, "what was answered at once took {sum:?}");

    let held =
        [query(1, "held"), frame(&query(1, "held")), frame(&query(1, "held")), query(1, "held")];
    udp.send(&held[0]).await.unwrap();
    tcp.write_all(&held[1]).await.unwrap();
    dot.write_all(&held[2]).await.unwrap();
    let asked = tokio::spawn(async move { doh.ask(&Method::POST, &held[3]).await.status() });
    until(|| count(&script.asked) == 4).await;
    sleep(WAIT).await;
    script.let_go.add_permits(4);
    assert_eq!(asked.await.unwrap(), 200);
    until(|| noted(&listeners, Origin::Upstream).0 == 4).await;
    let (_, shorter, sum) = noted(&listeners, Origin::Upstream);
    assert!(shorter == 0 && sum >= WAIT * 4, "{shorter} of {sum:?}");
}

#[tokio::test]
async fn answers_on_one_connection_overtake_each_other_and_travel_together() {
    let (listeners, script, certificate) = open("127.0.0.1", Limits::default());
    let row =
        [frame(&query(1, "held")), frame(&query(2, "quick")), frame(&query(3, "quick"))].concat();
    let mut tcp = TcpStream::connect(listeners.tcp()[0]).await.unwrap();
    let mut dot = tls(listeners.places().dot[0], &certificate, b"dot").await;

    tcp.write_all(&row).await.unwrap();
    dot.write_all(&row).await.unwrap();

    assert_eq!(ids(&read_some(&mut tcp).await), [2, 3]);
    assert_eq!(ids(&read_some(&mut dot).await), [2, 3]);
    script.let_go.add_permits(2);
    assert_eq!(ids(&read_some(&mut tcp).await), [1]);
    assert_eq!(ids(&read_some(&mut dot).await), [1]);
}

#[tokio::test]
async fn a_row_longer_than_may_be_in_flight_is_answered_whole() {
    let (listeners, script, _) = open("127.0.0.1", Limits { in_flight: 2, ..Limits::default() });
    let mut tcp = TcpStream::connect(listeners.tcp()[0]).await.unwrap();
    let row: Vec<u8> = (0..7).flat_map(|id| frame(&query(id, "held"))).collect();

    tcp.write_all(&row).await.unwrap();
    // Whoever closes his side has still asked.
    tcp.shutdown().await.unwrap();
    script.let_go.add_permits(7);

    let mut answered = ids(&read_all(&mut tcp).await);
    answered.sort_unstable();
    assert_eq!(answered, (0..7).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_query_may_come_in_pieces_and_behind_a_long_answer() {
    let (listeners, script, _) = open("127.0.0.1", Limits { in_flight: 1, ..Limits::default() });
    let mut tcp = TcpStream::connect(listeners.tcp()[0]).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    script.let_go.add_permits(1);

    let row = [frame(&query(1, "held-big")), frame(&query(2, "quick"))].concat();
    for piece in row.chunks(7) {
        tcp.write_all(piece).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    tcp.write_all(&row).await.unwrap();
    script.let_go.add_permits(1);

    // Two answers of 60,000 octets and two short ones.
    let mut answers = vec![0; 2 * (60_000 + 2 + 26 + 16) + 2 * (2 + 23 + 16)];
    let read = timeout(PATIENCE, tcp.read_exact(&mut answers)).await;
    assert!(read.is_ok(), "an answer is missing");
    assert_eq!(ids(&answers), [1, 2, 1, 2]);
}

#[tokio::test]
async fn who_sends_garbage_is_heard_no_more_but_gets_the_answers_due() {
    let (listeners, script, _) = open("127.0.0.1", Limits::default());
    let mut tcp = TcpStream::connect(listeners.tcp()[0]).await.unwrap();

    let row = [frame(&query(1, "held")), frame(b""), frame(&query(2, "quick"))].concat();
    tcp.write_all(&row).await.unwrap();
    until(|| count(&listeners.counters().dropped) == 1).await;
    script.let_go.add_permits(1);

    assert_eq!(ids(&read_all(&mut tcp).await), [1]);
}

#[tokio::test]
async fn an_address_has_its_cap_and_others_are_not_touched_by_it() {
    let limits = Limits { connections_per_address: 2, ..Limits::default() };
    let (listeners, _script, _) = open("127.0.0.1", limits);
    let to = listeners.tcp()[0];
    let mut first = TcpStream::connect(to).await.unwrap();
    let _second = TcpStream::connect(to).await.unwrap();
    until(|| listeners.connections() == 2).await;

    let mut third = TcpStream::connect(to).await.unwrap();
    assert_eq!(third.read(&mut [0; 8]).await.unwrap_or(0), 0);

    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut neighbour = socket.connect(to).await.unwrap();
    for connection in [&mut first, &mut neighbour] {
        connection.write_all(&frame(&query(1, "quick"))).await.unwrap();
        assert_eq!(ids(&read_some(connection).await), [1]);
    }
    assert_eq!(count(&listeners.counters().refused), 1);
}

#[tokio::test]
async fn who_drips_stays_silent_or_does_not_read_is_cut_off() {
    let brief = Duration::from_millis(150);
    let limits = Limits { handshake: brief, message: brief, write: brief, ..Limits::default() };
    let (listeners, _script, _) = open("127.0.0.1", limits);

    // Half a handshake.
    let mut silent = TcpStream::connect(listeners.places().dot[0]).await.unwrap();
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert_eq!(count(&listeners.counters().handshake_failures), 1);

    // An octet now and then: no octet wins time.
    let mut dripping = TcpStream::connect(listeners.tcp()[0]).await.unwrap();
    let message = frame(&query(1, "quick"));
    let mut sent = 0;
    while dripping.write_all(&message[sent..=sent]).await.is_ok() && sent < message.len() - 2 {
        sent += 1;
        sleep(brief / 8).await;
    }
    assert_eq!(dripping.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert!(sent < 16, "{sent} octets were taken");
    assert_eq!(count(&listeners.counters().cut), 1);

    // Answers beyond what the sockets hold.
    let mut deaf = TcpStream::connect(listeners.tcp()[0]).await.unwrap();
    let row: Vec<u8> = (0..1000).flat_map(|id| frame(&query(id, "big"))).collect();
    deaf.write_all(&row).await.unwrap();
    until(|| count(&listeners.counters().cut) == 2).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_politely() {
    let brief = Duration::from_millis(300);
    let limits = Limits { idle: brief, idle_pressed: brief / 2, ..Limits::default() };
    let (listeners, _script, certificate) = open("127.0.0.1", limits);
    let mut dot = tls(listeners.places().dot[0], &certificate, b"dot").await;

    dot.write_all(&frame(&query(1, "quick"))).await.unwrap();
    assert_eq!(ids(&read_some(&mut dot).await), [1]);

    // rustls makes an error of an end without close_notify.
    assert_eq!(dot.read(&mut [0; 8]).await.unwrap(), 0);
    let mut doh = tls(listeners.places().doh[0], &certificate, b"http/1.1").await;
    assert_eq!(doh.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(count(&listeners.counters().cut), 0);
}

#[tokio::test]
async fn who_comes_again_resumes_its_session() {
    let (listeners, _script, certificate) = open("127.0.0.1", Limits::default());
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(client_config(&certificate, &[version], b"dot"));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut dot = connect(listeners.places().dot[0], Arc::clone(&config)).await;

            // TLS 1.3's tickets come behind the handshake: they are read with the answer.
            dot.write_all(&frame(&query(1, "quick"))).await.unwrap();
            assert_eq!(ids(&read_some(&mut dot).await), [1]);

            assert_eq!(dot.get_ref().1.handshake_kind(), Some(kind), "{:?}", version.version);
        }
    }
}

#[tokio::test]
async fn a_panic_costs_one_connection() {
    let (listeners, _script, _) = open("127.0.0.1", Limits::default());
    let mut unlucky = TcpStream::connect(listeners.tcp()[0]).await.unwrap();
    unlucky.write_all(&frame(&query(1, "panic"))).await.unwrap();
    assert_eq!(unlucky.read(&mut [0; 8]).await.unwrap_or(0), 0);

    let mut next = TcpStream::connect(listeners.tcp()[0]).await.unwrap();
    next.write_all(&frame(&query(2, "quick"))).await.unwrap();

    assert_eq!(ids(&read_some(&mut next).await), [2]);
    assert_eq!(count(&listeners.counters().panics), 1);
    until(|| listeners.connections() == 1).await;
}

#[tokio::test]
async fn doh_answers_get_post_and_head_over_both_versions_of_http() {
    let (listeners, script, certificate) = open("127.0.0.1", Limits::default());
    script.let_go.add_permits(2);
    for version in [&b"http/1.1"[..], b"h2"] {
        let mut http = Http::connect(listeners.places().doh[0], &certificate, version).await;
        for (method, label) in
            [(Method::GET, "quick"), (Method::POST, "quick"), (Method::POST, "held")]
        {
            let response = http.ask(&method, &query(7, label)).await;

            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["content-type"], "application/dns-message");
            assert_eq!(response.headers()["cache-control"], "max-age=60");
            assert!(!response.headers().contains_key("date"));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(ids(&frame(&body)), [7]);
        }

        let response = http.ask(&Method::HEAD, &query(7, "quick")).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_ne!(response.headers()["content-length"], "0");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "");
    }
    assert_eq!(listeners.counters().doh.read(), [8, 0]);
}

#[tokio::test]
async fn doh_says_what_is_wrong_with_a_request() {
    let limits = Limits { answer: Duration::from_millis(50), ..Limits::default() };
    let (listeners, _script, certificate) = open("127.0.0.1", limits);
    let good = BASE64URL_NOPAD.encode(&query(1, "quick"));
    for version in [&b"http/1.1"[..], b"h2"] {
        let mut http = Http::connect(listeners.places().doh[0], &certificate, version).await;
        let get = |target: String| request("GET", &target, "", Vec::new());
        let post = |kind, body| request("POST", "/dns-query", kind, body);
        let dns = "application/dns-message";
        for (request, status) in [
            (get(format!("/other?dns={good}")), 404),
            (get("/dns-query".to_owned()), 400),
            (get(format!("/dns-query?dns={good}=")), 400),
            (get("/dns-query?dns=AAAA".to_owned()), 400),
            (request("PUT", "/dns-query", dns, query(1, "quick")), 405),
            (post("text/plain", query(1, "quick")), 415),
            (post("", query(1, "quick")), 415),
            (post(dns, vec![0; 65_536]), 413),
            (post(dns, b"garbage".to_vec()), 400),
            (post(dns, query(1, "late")), 504),
            (get(format!("/dns-query?x=y&dns={good}")), 200),
            (post("Application/DNS-Message; charset=binary", query(1, "quick")), 200),
        ] {
            let (method, uri) = (request.method().clone(), request.uri().clone());

            let response = http.send(request).await;

            assert_eq!(response.status(), status, "{method} {uri}");
            // An unread request body ends an HTTP/1.1 connection.
            if version == b"http/1.1" {
                http = Http::connect(listeners.places().doh[0], &certificate, version).await;
            }
        }
    }
}

#[tokio::test]
async fn a_request_body_that_drips_is_not_waited_for() {
    let limits = Limits { message: Duration::from_millis(100), ..Limits::default() };
    let (listeners, _script, certificate) = open("127.0.0.1", limits);

    let mut doh = dripping_request(&listeners, &certificate).await;

    assert!(read_some(&mut doh).await.starts_with(b"HTTP/1.1 408"));
}

#[tokio::test]
async fn request_bodies_have_a_bound_in_all() {
    let (listeners, _script, certificate) =
        open("127.0.0.1", Limits { bodies: 1, ..Limits::default() });
    let mut http = Http::connect(listeners.places().doh[0], &certificate, b"h2").await;
    let doh = dripping_request(&listeners, &certificate).await;

    wait_for_status(&mut http, 503).await;
    drop(doh);
    wait_for_status(&mut http, 200).await;
}

/// CVE-2023-44487: streams that are opened and reset cost the server more than the client.
#[tokio::test]
async fn a_rapid_reset_ends_the_connection_and_leaves_no_question_waiting() {
    let (listeners, _script, certificate) =
        open("127.0.0.1", Limits { waiting: 64, ..Limits::default() });
    let mut attacker = tls(listeners.places().doh[0], &certificate, b"h2").await;
    attacker.write_all(HTTP2).await.unwrap();
    let head = get("late");
    let len = u8::try_from(head.len()).unwrap();
    let attack: Vec<u8> = (0..100_u32)
        .flat_map(|number| {
            let stream = (2 * number + 1).to_be_bytes();
            let open = [&[0, 0, len, 1, 5], &stream[..], &head].concat();
            let reset = [&[0, 0, 4, 3, 0], &stream[..], &[0, 0, 0, 8]].concat();
            [open, reset].concat()
        })
        .collect();
    attacker.write_all(&attack).await.unwrap();

    let farewell = read_all(&mut attacker).await;
    assert!(farewell.ends_with(b"too_many_resets"), "{farewell:?}");
    until(|| listeners.connections() == 0).await;
    assert!(listeners.drain(PATIENCE).await, "questions of reset streams still wait");
}

/// Frames that are no requests cost the server, too: each ping has to be answered.
#[tokio::test]
async fn who_pings_and_asks_nothing_is_cut_off() {
    let (listeners, _script, certificate) = open("127.0.0.1", Limits::default());
    let mut attacker = tls(listeners.places().doh[0], &certificate, b"h2").await;
    attacker.write_all(HTTP2).await.unwrap();
    let pings = b"\0\0\x08\x06\0\0\0\0\0pingping".repeat(100);

    let mut sent = 0;
    while attacker.write_all(&pings).await.is_ok() && attacker.flush().await.is_ok() {
        sent += pings.len();
    }

    // What the sockets hold beyond what was read.
    assert!(sent < 16 << 20, "{sent} octets were taken");
    until(|| listeners.connections() == 0).await;
    assert_eq!(count(&listeners.counters().cut), 1);
}

/// No window is ever opened: every answer stays with the server, which makes no more than a few.
#[tokio::test]
async fn who_takes_no_answers_is_given_few_and_cut_off() {
    for window in [0, 1] {
        let limits = Limits { write: Duration::from_millis(300), ..Limits::default() };
        let (listeners, script, certificate) = open("127.0.0.1", limits);
        let mut deaf = tls(listeners.places().doh[0], &certificate, b"h2").await;
        deaf.write_all(&HTTP2[..24]).await.unwrap();
        deaf.write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, window]).await.unwrap();
        let head = get("big");
        let len = u8::try_from(head.len()).unwrap();
        let asked: Vec<u8> = (0..100_u32)
            .flat_map(|number| {
                let stream = (2 * number + 1).to_be_bytes();
                [&[0, 0, len, 1, 5], &stream[..], &head].concat()
            })
            .collect();
        deaf.write_all(&asked).await.unwrap();

        until(|| count(&listeners.counters().cut) == 1).await;

        until(|| listeners.connections() == 0).await;
        let made = script.big.load(Ordering::Relaxed);
        assert!((1..10).contains(&made), "{made} answers of 60,000 octets were made");
    }
}

/// A client that never pauses, so that there is always something to read.
#[tokio::test(flavor = "multi_thread")]
async fn who_never_stops_asking_gives_way_and_ends_like_everybody() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let (listeners, _script, _) = open("127.0.0.1", limits);
    let to = listeners.tcp()[0];
    let floods = [flood(to).await, flood(to).await];
    until(|| listeners.connections() == 2).await;

    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut neighbour = socket.connect(to).await.unwrap();
    neighbour.write_all(&frame(&query(1, "quick"))).await.unwrap();
    assert_eq!(ids(&read_some(&mut neighbour).await), [1]);

    until(|| listeners.connections() == 2).await;
    until(|| floods.iter().any(JoinHandle::is_finished)).await;
    drop(neighbour);
    assert!(listeners.drain(Duration::from_secs(2)).await, "it is still listened to");
}

#[tokio::test]
async fn a_drain_sends_every_answer_that_is_under_way() {
    let (listeners, script, certificate) = open("127.0.0.1", Limits::default());
    let listeners = Arc::new(listeners);
    let places = listeners.places();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    udp.connect(places.dns[0]).await.unwrap();
    let mut tcp = TcpStream::connect(listeners.tcp()[0]).await.unwrap();
    let mut dot = tls(places.dot[0], &certificate, b"dot").await;
    let mut http = Http::connect(places.doh[0], &certificate, b"h2").await;
    udp.send(&query(1, "held")).await.unwrap();
    tcp.write_all(&frame(&query(2, "held"))).await.unwrap();
    dot.write_all(&frame(&query(3, "held"))).await.unwrap();
    let doh = tokio::spawn(async move { http.ask(&Method::POST, &query(4, "held")).await });
    // Each is known to wait when the one behind it on its way was answered.
    udp.send(&query(5, "quick")).await.unwrap();
    assert_eq!(receive(&udp).await, 5);
    tcp.write_all(&frame(&query(5, "quick"))).await.unwrap();
    assert_eq!(ids(&read_some(&mut tcp).await), [5]);
    dot.write_all(&frame(&query(5, "quick"))).await.unwrap();
    assert_eq!(ids(&read_some(&mut dot).await), [5]);
    sleep(Duration::from_millis(50)).await;

    let drain = tokio::spawn({
        let listeners = Arc::clone(&listeners);
        async move { listeners.drain(PATIENCE).await }
    });
    until(|| listeners.tcp().is_empty()).await;
    assert!(TcpStream::connect(places.dot[0]).await.is_err());
    assert!(!drain.is_finished());
    script.let_go.add_permits(4);

    assert_eq!(receive(&udp).await, 1);
    assert_eq!(ids(&read_all(&mut tcp).await), [2]);
    assert_eq!(ids(&read_all(&mut dot).await), [3]);
    assert_eq!(doh.await.unwrap().status(), StatusCode::OK);
    drop((tcp, dot));
    assert!(drain.await.unwrap());
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let (listeners, _script, _) = open("127.0.0.1", Limits::default());
    let mut tcp = TcpStream::connect(listeners.tcp()[0]).await.unwrap();
    tcp.write_all(&frame(&query(1, "late"))).await.unwrap();
    until(|| listeners.connections() == 1).await;
    sleep(Duration::from_millis(20)).await;

    assert!(!listeners.drain(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn a_reload_touches_only_the_listeners_that_change() {
    let (listeners, _script, certificate) = open("0.0.0.0", Limits::default());
    let before = listeners.places();
    let [udp, tcp] = [before.dns[0].port(), listeners.tcp()[0].port()];
    let dot = SocketAddr::from((Ipv4Addr::LOCALHOST, before.dot[0].port()));
    let mut stays = tls(dot, &certificate, b"dot").await;
    let mut goes = TcpStream::connect((Ipv4Addr::LOCALHOST, tcp)).await.unwrap();
    until(|| listeners.connections() == 2).await;

    // Single addresses, on ports that the wildcard holds.
    let single = [udp, tcp].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let any = "0.0.0.0:0".parse().unwrap();
    let path = "/dns-query".to_owned();
    let after = Places { dns: single.to_vec(), dot: vec![any], doh: vec![], doq: vec![], path };
    listeners.reconfigure(&after);

    assert!(listeners.places().dns.contains(&single[0]));
    assert!(listeners.tcp().contains(&single[1]));
    assert_eq!(listeners.places().dot, before.dot);
    assert_eq!(goes.read(&mut [0; 8]).await.unwrap(), 0);
    stays.write_all(&frame(&query(1, "quick"))).await.unwrap();
    assert_eq!(ids(&read_some(&mut stays).await), [1]);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, before.doh[0].port())).await.is_err());
}

#[tokio::test]
async fn accepted_connections_send_without_delay() {
    let (listeners, script, _) = open("127.0.0.1", Limits::default());
    let mut tcp = TcpStream::connect(listeners.tcp()[0]).await.unwrap();

    // Nagle's algorithm would hold the second answer until the client
    // acknowledges the first, which it delays by 40 ms.
    let rounds = async {
        for id in 0..50 {
            let row = [frame(&query(id, "held")), frame(&query(id, "held"))].concat();
            tcp.write_all(&row).await.unwrap();
            for _ in 0..2 {
                script.let_go.add_permits(1);
                assert_eq!(ids(&read_some(&mut tcp).await), [id]);
            }
        }
    };

    assert!(timeout(Duration::from_millis(1500), rounds).await.is_ok());
}

/// How a client opens a connection of HTTP/2: the preface and settings, none of them changed.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The head of a GET as HPACK has it: `:method GET` and `:scheme https` by index, then a literal `:path`.
fn get(label: &str) -> Vec<u8> {
    let target = format!("/dns-query?dns={}", BASE64URL_NOPAD.encode(&query(1, label)));
    let len = u8::try_from(target.len()).unwrap();
    [&[0x82, 0x87, 0x04, len], target.as_bytes()].concat()
}

/// Asks without a pause over one connection, and reads all answers, until the server closes it.
async fn flood(to: SocketAddr) -> JoinHandle<()> {
    let (mut read, mut write) = TcpStream::connect(to).await.unwrap().into_split();
    let row = frame(&query(1, "quick")).repeat(1000);
    tokio::spawn(async move { while read.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} });
    tokio::spawn(async move { while write.write_all(&row).await.is_ok() {} })
}

/// An HTTP client over TLS.
enum Http {
    V1(http1::SendRequest<Full<Bytes>>),
    V2(http2::SendRequest<Full<Bytes>>),
}

impl Http {
    async fn connect(
        to: SocketAddr,
        certificate: &CertificateDer<'static>,
        version: &[u8],
    ) -> Self {
        let stream = tls(to, certificate, version).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(version));
        let stream = TokioIo::new(stream);
        if version == b"h2" {
            let (http, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            Self::V2(http)
        } else {
            let (http, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            Self::V1(http)
        }
    }

    async fn ask(&mut self, method: &Method, query: &[u8]) -> Response<hyper::body::Incoming> {
        let dns = "application/dns-message";
        self.send(if method == Method::POST {
            request("POST", "/dns-query", dns, query.to_vec())
        } else {
            let target = format!("/dns-query?dns={}", BASE64URL_NOPAD.encode(query));
            request(method.as_str(), &target, "", Vec::new())
        })
        .await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Response<hyper::body::Incoming> {
        match self {
            Self::V1(http) => http.send_request(request).await.unwrap(),
            Self::V2(http) => http.send_request(request).await.unwrap(),
        }
    }
}

/// Asks until the status is `status`.
async fn wait_for_status(http: &mut Http, status: u16) {
    let answered =
        async { while http.ask(&Method::POST, &query(1, "quick")).await.status() != status {} };
    timeout(PATIENCE, answered).await.unwrap();
}

/// A request of which a part of the body is missing.
async fn dripping_request(
    listeners: &Listeners,
    certificate: &CertificateDer<'static>,
) -> TlsStream<TcpStream> {
    let mut doh = tls(listeners.places().doh[0], certificate, b"http/1.1").await;
    let head = "POST /dns-query HTTP/1.1\r\ncontent-type: application/dns-message\r\n\
                content-length: 30\r\n\r\nso far";
    doh.write_all(head.as_bytes()).await.unwrap();
    doh
}

fn request(method: &str, target: &str, content_type: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(format!("https://{NAME}{target}"));
    if !content_type.is_empty() {
        request = request.header("content-type", content_type);
    }
    request.body(Full::from(body)).unwrap()
}

async fn tls(
    to: SocketAddr,
    certificate: &CertificateDer<'static>,
    alpn: &[u8],
) -> TlsStream<TcpStream> {
    connect(to, Arc::new(client_config(certificate, rustls::DEFAULT_VERSIONS, alpn))).await
}

fn client_config(
    certificate: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[u8],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

async fn connect(to: SocketAddr, config: Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    TlsConnector::from(config).connect(name, stream).await.unwrap()
}

/// A question for the A record of `LABEL.`.
fn query(id: u16, label: &str) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend(b"\x01\0\0\x01\0\0\0\0\0\0");
    query.push(u8::try_from(label.len()).unwrap());
    query.extend(label.as_bytes());
    query.extend(b"\0\0\x01\0\x01");
    query
}

fn frame(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// The ids of the responses in `octets`, which hold whole ones.
fn ids(mut octets: &[u8]) -> Vec<u16> {
    let mut ids = Vec::new();
    while let Some((len, rest)) = octets.split_first_chunk() {
        let (message, rest) = rest.split_at(usize::from(u16::from_be_bytes(*len)));
        assert_eq!(message[2] & 0x80, 0x80, "no response");
        ids.push(u16::from_be_bytes([message[0], message[1]]));
        octets = rest;
    }
    ids
}

async fn receive(client: &UdpSocket) -> u16 {
    let mut answer = [0; 512];
    let len = timeout(PATIENCE, client.recv(&mut answer)).await.unwrap().unwrap();
    ids(&frame(&answer[..len]))[0]
}

async fn read_some(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut octets = vec![0; 4096];
    let read = timeout(PATIENCE, stream.read(&mut octets)).await.unwrap();
    octets.truncate(read.unwrap());
    octets
}

async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut octets = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut octets)).await.unwrap().unwrap();
    octets
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap();
}

/// How many answers from there were noted, how many of them within 100 ms, and how long all took.
fn noted(listeners: &Listeners, origin: Origin) -> (u64, u64, Duration) {
    let (_, spans) = listeners.latencies().read().find(|(of, _)| *of == origin).unwrap();
    let within =
        STEPS.iter().zip(spans.steps).filter(|(most, _)| **most <= Duration::from_millis(100));
    (spans.steps.iter().sum(), within.map(|(_, count)| count).sum(), spans.sum)
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
