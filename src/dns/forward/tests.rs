//! Real TLS on loopback against a certificate authority, a clock and upstreams of our own making.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, body, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use quinn::crypto::rustls::QuicServerConfig;
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::clock::UnixTime;
use crate::config::Transport;
use crate::tls::pki::{DAY, FakeClock, Leaf, Pki, TODAY, trust};
use crate::upstream::{Candidate, Pool};

const FLOOR_4H: UnixTime = UnixTime::from_secs(1_773_468_700 - 4 * 3600);

#[tokio::test]
async fn in_1970_with_a_floor_four_hours_old_names_are_resolved_and_tagged() {
    let lab = Lab::new("cold");
    let quad9 = lab.dot(&lab.valid(), echo).await;
    let (forwarder, _) = lab.forwarder(&[&quad9], CertDates::RuleR { floor: FLOOR_4H });

    let answer = forwarder.forward(query(7, "www.example.org")).await.unwrap();

    assert_eq!(answer.message[..2], [0, 7]);
    assert_eq!(answer.message[2] & 0x80, 0x80);
    assert!(answer.relaxed.is_some());
}

#[tokio::test]
async fn an_upstream_whose_certificate_expired_before_the_floor_is_refused() {
    let lab = Lab::new("expired");
    let leaf = lab.pki.leaf(NAME, FLOOR_4H - DAY * 90, FLOOR_4H - DAY);
    let old = lab.dot(&leaf, echo).await;
    let (forwarder, _) = lab.forwarder(&[&old], CertDates::RuleR { floor: FLOOR_4H });

    let error = forwarder.forward(query(7, "www.example.org")).await.unwrap_err();

    assert!(error.to_string().contains("expired"), "{error}");
    assert!(error.to_string().contains(&FLOOR_4H.to_string()), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_even_in_1970() {
    let lab = Lab::new("name");
    let other = lab.dot(&lab.pki.leaf("evil.test", TODAY - DAY, TODAY + DAY), echo).await;
    let (forwarder, _) = lab.forwarder(&[&other], CertDates::RuleR { floor: FLOOR_4H });

    let error = forwarder.forward(query(7, "www.example.org")).await.unwrap_err();

    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn when_time_is_known_what_expired_is_closed_and_what_is_valid_stays() {
    let lab = Lab::new("rise");
    let expired = lab.pki.leaf(NAME, FLOOR_4H - DAY, TODAY - Duration::from_secs(60));
    let (good, bad) = (lab.dot(&lab.valid(), echo).await, lab.dot(&expired, echo).await);
    let (forwarder, _) = lab.forwarder(&[&good, &bad], CertDates::RuleR { floor: FLOOR_4H });
    let ask = |id| ask_only(&forwarder, id);
    let [from_good, from_bad] = [ask(0).await.unwrap(), ask(1).await.unwrap()];

    lab.clock.set(TODAY);
    let settled = forwarder.rise(trust(CertDates::Strict));

    assert!(settled.passed.contains(&from_good.relaxed.unwrap()));
    assert!(!settled.passed.contains(&from_bad.relaxed.unwrap()));
    let [Refused { endpoint: EndpointId(1), error: CertError::Dates(facts) }] = &*settled.failed
    else {
        panic!("{settled:?}")
    };
    assert_eq!(facts.at, TODAY);
    assert_eq!(ask(0).await.unwrap().relaxed, None);
    assert_eq!(good.connections(), 1);
    assert!(ask(1).await.is_err());
}

#[tokio::test]
async fn a_chain_is_judged_although_its_session_has_closed() {
    let lab = Lab::new("closed");
    let good = lab.dot(&lab.valid(), echo).await;
    let (forwarder, _) = lab.forwarder(&[&good], CertDates::RuleR { floor: FLOOR_4H });
    let answer = ask_only(&forwarder, 0).await.unwrap();
    forwarder.path_changed();

    lab.clock.set(TODAY);
    let settled = forwarder.rise(trust(CertDates::Strict));

    assert!(settled.passed.contains(&answer.relaxed.unwrap()));
    assert_eq!(settled.failed, []);
}

#[tokio::test]
async fn resumption_never_carries_trust_from_one_generation_to_another() {
    let lab = Lab::new("resume");
    let server = lab.dot(&lab.valid(), echo).await;
    let (forwarder, _) = lab.forwarder(&[&server], CertDates::RuleR { floor: FLOOR_4H });
    let reconnect = async || {
        forwarder.path_changed();
        ask_only(&forwarder, 0).await.unwrap();
        server.last_handshake()
    };
    // Relaxed: never resumed.
    assert_eq!(reconnect().await, HandshakeKind::Full);
    assert_eq!(reconnect().await, HandshakeKind::Full);

    lab.clock.set(TODAY);
    let _ = forwarder.rise(trust(CertDates::Strict));
    // The relaxed sessions' tickets are of no use; the strict ones' are.
    assert_eq!(reconnect().await, HandshakeKind::Full);
    assert_eq!(reconnect().await, HandshakeKind::Resumed);

    let _ = forwarder.rise(trust(CertDates::Strict));
    assert_eq!(reconnect().await, HandshakeKind::Full);
}

#[tokio::test]
async fn a_resumed_session_s_chain_is_judged_like_any_other() {
    let lab = Lab::new("resume-expired");
    // It expires sooner than the ticket.
    let server = lab.dot(&lab.pki.leaf(NAME, TODAY - DAY, TODAY + DAY / 24), echo).await;
    lab.clock.set(TODAY);
    let (forwarder, _) = lab.forwarder(&[&server], CertDates::Strict);
    ask_only(&forwarder, 0).await.unwrap();

    lab.clock.set(TODAY + DAY / 12);
    forwarder.path_changed();
    let error = ask_only(&forwarder, 0).await.unwrap_err();

    // The client was done first.
    while server.connections() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.last_handshake(), HandshakeKind::Resumed);
    assert!(error.to_string().contains("expired"), "{error}");
}

#[tokio::test]
async fn many_questions_share_a_connection_and_are_answered_in_any_order() {
    let lab = Lab::new("pipeline");
    let slow_first = |query: &[u8]| {
        let delay = if query.windows(4).any(|part| part == b"slow") { 150 } else { 0 };
        vec![(Duration::from_millis(delay), answer(query))]
    };
    let server = lab.dot(&lab.valid(), slow_first).await;
    let (forwarder, _) = lab.forwarder(&[&server], CertDates::RuleR { floor: FLOOR_4H });
    let forwarder = &forwarder;
    let order = Mutex::new(Vec::new());
    let ask = async |id: u16, name: &str| {
        let answer = forwarder.forward(query(id, name)).await.unwrap();
        assert_eq!(answer.message[..2], id.to_be_bytes());
        order.lock().unwrap().push(id);
    };

    tokio::join!(ask(1, "slow.test"), ask(2, "a.test"), ask(3, "b.test"), ask(4, "c.test"));

    assert_eq!(order.lock().unwrap().last(), Some(&1));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn wrong_ids_and_wrong_questions_are_passed_over() {
    let lab = Lab::new("foreign");
    let liar = |query: &[u8]| {
        let mut wrong_id = answer(query);
        wrong_id[0] ^= 0xff;
        let mut wrong_question = answer(query);
        wrong_question[13] ^= 1;
        wrong_question.extend(b"poison");
        [wrong_id, wrong_question, vec![], vec![0; 3], answer(query)]
            .into_iter()
            .map(|message| (Duration::ZERO, message))
            .collect()
    };
    let server = lab.dot(&lab.valid(), liar).await;
    let (forwarder, _) = lab.forwarder(&[&server], CertDates::RuleR { floor: FLOOR_4H });

    let answer = ask_only(&forwarder, 0).await.unwrap();

    assert!(!answer.message.ends_with(b"poison"));
}

#[tokio::test]
async fn a_silent_operator_is_raced_by_another_and_found_out() {
    let lab = Lab::new("hedge");
    let (silent, quad9) =
        (lab.dot(&lab.valid(), |_| vec![]).await, lab.dot(&lab.valid(), echo).await);
    let (forwarder, mut events) =
        lab.forwarder(&[&silent, &quad9], CertDates::RuleR { floor: FLOOR_4H });
    let begun = lab.clock_mono();

    forwarder.forward(query(7, "www.example.org")).await.unwrap();

    assert!(lab.clock_mono() - begun < ANSWER);
    let failed = async {
        while let Some(event) = events.recv().await {
            if let ForwardEvent::Outcome { endpoint: EndpointId(0), outcome } = event {
                return outcome;
            }
        }
        panic!("no outcome");
    };
    // It is given its two seconds, though the race is over.
    let failed = timeout(Duration::from_secs(3), failed).await;
    assert!(matches!(failed, Ok(Outcome::Failed { .. })), "{failed:?}");
}

#[tokio::test]
async fn a_refused_connection_leads_to_the_next_at_once() {
    let lab = Lab::new("refused");
    let (dead, quad9) = (lab.dot(&lab.valid(), echo).await, lab.dot(&lab.valid(), echo).await);
    dead.stop().await;
    let (forwarder, _) = lab.forwarder(&[&dead, &quad9], CertDates::RuleR { floor: FLOOR_4H });
    let mut plan = (*forwarder.shared.plan.load_full()).clone();
    plan.order.iter_mut().for_each(|candidate| candidate.hedge_after = DEADLINE);
    forwarder.set_plan(plan);
    let begun = lab.clock_mono();

    forwarder.forward(query(7, "www.example.org")).await.unwrap();

    assert!(lab.clock_mono() - begun < ANSWER);
}

#[tokio::test]
async fn servfail_of_one_operator_is_not_the_last_word_unless_all_say_so() {
    let lab = Lab::new("servfail");
    let servfail = |query: &[u8]| {
        let mut wire = answer(query);
        wire[3] |= 2;
        vec![(Duration::ZERO, wire)]
    };
    let (weak, good) = (lab.dot(&lab.valid(), servfail).await, lab.dot(&lab.valid(), echo).await);
    let (forwarder, _) = lab.forwarder(&[&weak, &good], CertDates::RuleR { floor: FLOOR_4H });

    let both = forwarder.forward(query(7, "www.example.org")).await.unwrap();
    let alone = ask_only(&forwarder, 0).await.unwrap();

    assert_eq!(both.message[3] & 0x0f, 0);
    assert_eq!(alone.message[3] & 0x0f, 2);
}

#[tokio::test]
async fn an_operator_is_outdone_when_another_answers_what_it_does_not() {
    let lab = Lab::new("outdone");
    let servfail = |query: &[u8]| {
        let mut wire = answer(query);
        wire[3] |= 2;
        vec![(Duration::ZERO, wire)]
    };
    let (weak, good) = (lab.dot(&lab.valid(), servfail).await, lab.dot(&lab.valid(), echo).await);
    let (forwarder, mut events) =
        lab.forwarder(&[&weak, &good], CertDates::RuleR { floor: FLOOR_4H });
    let outdone = ForwardEvent::Outcome { endpoint: EndpointId(0), outcome: Outcome::Outdone };
    let mut told = || std::iter::from_fn(|| events.try_recv().ok()).collect::<Vec<_>>();

    ask_only(&forwarder, 0).await.unwrap();
    assert!(!told().contains(&outdone));
    forwarder.forward(query(7, "www.example.org")).await.unwrap();

    assert_eq!(told().last(), Some(&outdone));
}

#[tokio::test]
async fn whoever_takes_turns_is_asked_first_one_time_in_eight() {
    let lab = Lab::new("turns");
    let (best, other) = (lab.dot(&lab.valid(), echo).await, lab.dot(&lab.valid(), echo).await);
    let (forwarder, _) = lab.forwarder(&[&best, &other], CertDates::RuleR { floor: FLOOR_4H });
    let mut plan = (*forwarder.shared.plan.load_full()).clone();
    plan.turns = vec![1];
    plan.order.iter_mut().for_each(|candidate| candidate.hedge_after = DEADLINE);
    forwarder.set_plan(plan);

    for id in 0..7 {
        forwarder.forward(query(id, "www.example.org")).await.unwrap();
    }
    assert_eq!((best.connections(), other.connections()), (1, 0));
    forwarder.forward(query(7, "www.example.org")).await.unwrap();

    assert_eq!(other.connections(), 1);
}

#[tokio::test]
async fn a_silent_operator_delays_nobody_by_more_than_the_hedge_however_many_ask() {
    let lab = Lab::new("many");
    let (silent, quad9) =
        (lab.dot(&lab.valid(), |_| vec![]).await, lab.dot(&lab.valid(), echo).await);
    let (forwarder, _) = lab.forwarder(&[&silent, &quad9], CertDates::RuleR { floor: FLOOR_4H });
    ask_only(&forwarder, 1).await.unwrap();
    let begun = lab.clock_mono();

    // Ten times as many as a healthy operator's budget allows to be asked twice.
    let mut questions = tokio::task::JoinSet::new();
    for id in 0..100 {
        let forwarder = forwarder.clone();
        questions.spawn(async move { forwarder.forward(query(id, "www.example.org")).await });
    }
    assert!(questions.join_all().await.iter().all(Result::is_ok));

    assert!(lab.clock_mono() - begun < Duration::from_secs(1));
}

#[tokio::test]
async fn while_none_answers_a_question_fails_before_its_client_loses_patience() {
    let lab = Lab::new("dead");
    let silent = lab.dot(&lab.valid(), |_| vec![]).await;
    let (forwarder, _) = lab.forwarder(&[&silent; 4], CertDates::RuleR { floor: FLOOR_4H });
    let mut plan = (*forwarder.shared.plan.load_full()).clone();
    plan.all_down = true;
    forwarder.set_plan(plan);
    let begun = lab.clock_mono();

    forwarder.forward(query(7, "www.example.org")).await.unwrap_err();

    assert!(lab.clock_mono() - begun <= Duration::from_millis(2500));
}

#[tokio::test]
async fn a_connection_closed_while_idle_costs_no_answer() {
    let lab = Lab::new("reuse");
    // An empty list of answers would be silence; one marked so closes.
    let once = |query: &[u8]| vec![(Duration::ZERO, answer(query)), (CLOSE, vec![])];
    let server = lab.dot(&lab.valid(), once).await;
    let (forwarder, mut events) = lab.forwarder(&[&server], CertDates::RuleR { floor: FLOOR_4H });

    for id in 0..5 {
        forwarder.forward(query(id, "www.example.org")).await.unwrap();
    }

    while let Ok(event) = events.try_recv() {
        assert!(
            !matches!(event, ForwardEvent::Outcome { outcome: Outcome::Failed { .. }, .. }),
            "{event:?}"
        );
    }
}

#[tokio::test]
async fn what_the_old_path_took_is_not_told_of_the_new_one() {
    let lab = Lab::new("path");
    let server = lab.dot(&lab.valid(), echo).await;
    let (forwarder, mut events) = lab.forwarder(&[&server], CertDates::RuleR { floor: FLOOR_4H });

    for id in 0..3 {
        forwarder.forward(query(id, "www.example.org")).await.unwrap();
    }
    forwarder.path_changed();
    forwarder.forward(query(3, "www.example.org")).await.unwrap();

    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let ForwardEvent::Outcome { outcome: Outcome::Answered { latencies }, .. } = event {
            told.push(latencies.len());
        }
    }
    // The first over each path at once and alone: what waited is forgotten with its path.
    assert_eq!((told.pop(), told.first()), (Some(1), Some(&1)), "{told:?}");
}

#[tokio::test]
async fn a_connection_from_which_nothing_comes_back_is_replaced_before_a_client_asks_again() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let lab = Lab::new("half-open");
    let second_is_lost = |query: &[u8]| {
        if ASKED.fetch_add(1, Ordering::SeqCst) == 1 { vec![] } else { echo(query) }
    };
    let server = lab.dot(&lab.valid(), second_is_lost).await;
    let (forwarder, _) = lab.forwarder(&[&server], CertDates::RuleR { floor: FLOOR_4H });

    assert!(ask_only(&forwarder, 0).await.is_ok());
    let begun = lab.clock_mono();
    assert!(ask_only(&forwarder, 0).await.is_ok());
    assert!(lab.clock_mono() - begun < Duration::from_secs(1));
    assert!(ask_only(&forwarder, 0).await.is_ok());

    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_clock_forged_into_the_future_is_reported_with_the_dates() {
    let lab = Lab::new("forged");
    let server = lab.dot(&lab.valid(), echo).await;
    lab.clock.set(TODAY + DAY * 3650);
    let (forwarder, mut events) = lab.forwarder(&[&server], CertDates::Strict);

    assert!(ask_only(&forwarder, 0).await.is_err());
    let Some(ForwardEvent::Contradiction { endpoint: EndpointId(0), facts }) = events.recv().await
    else {
        panic!("no evidence")
    };
    assert_eq!(facts.at, TODAY + DAY * 3650);

    // Suspect: rule R again, and names go on.
    let _ = forwarder.rise(trust(CertDates::RuleR { floor: FLOOR_4H }));
    assert!(ask_only(&forwarder, 0).await.is_ok());
}

#[tokio::test]
async fn at_a_coarse_time_relaxed_answers_are_used_only_when_there_are_no_others() {
    let lab = Lab::new("coarse");
    let expired = lab.pki.leaf(NAME, FLOOR_4H - DAY, TODAY - Duration::from_secs(60));
    let (relaxed, strict) = (lab.dot(&expired, echo).await, lab.dot(&lab.valid(), echo).await);
    lab.clock.set(TODAY);
    let dates = CertDates::StrictElseRuleR { floor: FLOOR_4H };
    let (forwarder, mut events) = lab.forwarder(&[&relaxed, &strict], dates);

    let both = forwarder.forward(query(7, "www.example.org")).await.unwrap();
    let alone = ask_only(&forwarder, 0).await.unwrap();

    assert_eq!(both.relaxed, None);
    assert!(alone.relaxed.is_some());
    let Some(ForwardEvent::Contradiction { .. }) = events.recv().await else { panic!() };
    let verdict = ForwardEvent::Verdict { endpoint: EndpointId(0), relaxed_only: true };
    assert_eq!(events.recv().await, Some(verdict));
}

#[tokio::test]
async fn doh_goes_by_the_same_rules() {
    let lab = Lab::new("doh");
    let server = lab.doh(&lab.valid()).await;
    let (forwarder, _) = lab.forwarder(&[&server], CertDates::RuleR { floor: FLOOR_4H });

    let (one, two) = tokio::join!(
        forwarder.forward(query(7, "www.example.org")),
        forwarder.forward(query(8, "www.example.net"))
    );

    assert_eq!(one.as_ref().unwrap().message[..2], [0, 7]);
    assert_eq!(two.unwrap().message[..2], [0, 8]);
    assert!(one.unwrap().relaxed.is_some());
    assert_eq!(server.connections(), 1);
    let missing = lab.forwarder_to("/nothing", &[&server]);
    let error = missing.forward(query(7, "www.example.org")).await.unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
}

#[tokio::test]
async fn doq_goes_by_the_same_rules() {
    let lab = Lab::new("doq");
    let server = Server::start_quic(&lab.valid(), echo);
    let (forwarder, _) = lab.forwarder(&[&server], CertDates::RuleR { floor: FLOOR_4H });

    let (one, two) = tokio::join!(
        forwarder.forward(query(7, "www.example.org")),
        forwarder.forward(query(8, "www.example.net"))
    );

    assert_eq!(one.as_ref().unwrap().message[..2], [0, 7]);
    assert_eq!(two.unwrap().message[..2], [0, 8]);
    assert!(one.unwrap().relaxed.is_some());
    assert_eq!(server.connections(), 1);
    assert!(forwarder.shared.client.meter().read()[0] > 2_000, "a handshake is counted");

    lab.clock.set(TODAY);
    assert_eq!(forwarder.rise(trust(CertDates::Strict)).passed.len(), 1);
    let strict = forwarder.forward(query(9, "www.example.org")).await.unwrap();
    assert_eq!((strict.relaxed, server.connections()), (None, 1));

    forwarder.path_changed();
    forwarder.forward(query(10, "www.example.org")).await.unwrap();
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn over_quic_too_a_certificate_is_refused_for_its_name_or_its_dates() {
    let lab = Lab::new("doq-refused");
    let stranger = Server::start_quic(&lab.pki.leaf("other.test", TODAY - DAY, TODAY + DAY), echo);
    let gone = Server::start_quic(&lab.pki.leaf(NAME, TODAY - DAY * 90, TODAY - DAY * 30), echo);

    for (server, words) in [(&stranger, "was refused"), (&gone, "is expired")] {
        let (forwarder, _) = lab.forwarder(&[server], CertDates::RuleR { floor: TODAY });
        let error = forwarder.forward(query(7, "www.example.org")).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(server.connections(), 0);
    }
}

#[tokio::test]
async fn over_quic_what_answers_something_else_or_is_cut_short_is_no_answer() {
    let lab = Lab::new("doq-foreign");
    let foreign =
        Server::start_quic(&lab.valid(), |_| vec![(Duration::ZERO, answer(&other_query()))]);
    let cut = Server::start_quic(&lab.valid(), |_| vec![(Duration::ZERO, Vec::new())]);
    let closing = Server::start_quic(&lab.valid(), |_| vec![(CLOSE, Vec::new())]);

    for (server, words) in [
        (&foreign, "another question"),
        (&cut, "another question"),
        (&closing, "the connection closed"),
    ] {
        let (forwarder, _) = lab.forwarder(&[server], CertDates::RuleR { floor: FLOOR_4H });
        let error = forwarder.forward(query(7, "www.example.org")).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// Padded to a block, as ours are.
fn other_query() -> Vec<u8> {
    let mut query = query(0, "other.example.org");
    query.resize(128, 0);
    query
}

#[tokio::test]
async fn doh_may_be_asked_by_get() {
    let mut lab = Lab::new("doh-get");
    lab.method = config::Method::Get;
    let server = lab.doh(&lab.valid()).await;
    let (forwarder, _) = lab.forwarder(&[&server], CertDates::RuleR { floor: FLOOR_4H });

    let answer = forwarder.forward(query(7, "www.example.org")).await;

    assert_eq!(answer.unwrap().message[..2], [0, 7]);
}

#[tokio::test]
async fn a_key_that_is_not_pinned_is_refused_and_named() {
    let mut lab = Lab::new("pins");
    lab.pins = vec![config::Pin([7; 32])];
    let server = lab.dot(&lab.valid(), echo).await;
    let (forwarder, _) = lab.forwarder(&[&server], CertDates::RuleR { floor: FLOOR_4H });

    let error = forwarder.forward(query(7, "www.example.org")).await.unwrap_err().to_string();

    assert!(error.contains("is none of the 1 in `pins`"), "{error}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn without_upstreams_or_with_garbage_there_is_an_error() {
    let lab = Lab::new("none");
    let (forwarder, _) = lab.forwarder(&[], CertDates::Strict);

    let none = forwarder.forward(query(7, "www.example.org")).await;
    let garbage = forwarder.forward(vec![1, 2, 3]).await;

    assert_eq!(none.unwrap_err(), ForwardError::NoUpstream);
    assert!(matches!(garbage, Err(ForwardError::Unreachable(_))));
}

const NAME: &str = "dns.test";
/// In place of a delay: close the connection.
const CLOSE: Duration = Duration::MAX;

type Answers = Vec<(Duration, Vec<u8>)>;

fn echo(query: &[u8]) -> Answers {
    vec![(Duration::ZERO, answer(query))]
}

fn answer(query: &[u8]) -> Vec<u8> {
    assert_eq!(query.len() % 128, 0, "not padded");
    let mut wire = query.to_vec();
    wire[2] |= 0x80;
    wire
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let name: crate::wire::Name = name.parse().unwrap();
    [&id.to_be_bytes(), &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name.as_wire(), &[0, 1, 0, 1]].concat()
}

/// Asks one endpoint of `forwarder` and no other.
async fn ask_only(forwarder: &Forwarder, endpoint: usize) -> Result<Forwarded, ForwardError> {
    let all = forwarder.shared.plan.load_full();
    let only = |candidate: &&Candidate| candidate.id == EndpointId(endpoint);
    let order = all.order.iter().filter(only).cloned().collect();
    forwarder.set_plan(Plan { order, ..Plan::default() });
    let answer = forwarder.forward(query(1, "only.test")).await;
    forwarder.set_plan((*all).clone());
    answer
}

struct Lab {
    pki: Pki,
    clock: Arc<FakeClock>,
    ca: PathBuf,
    method: config::Method,
    pins: Vec<config::Pin>,
}

impl Lab {
    /// The clock wakes up in 1970.
    fn new(test: &str) -> Self {
        let pki = Pki::new();
        let ca = std::env::temp_dir()
            .join(format!("firstlight-forward-{test}-{}.pem", std::process::id()));
        std::fs::write(&ca, pki.pem()).unwrap();
        let clock = FakeClock::at(UnixTime::EPOCH);
        Self { pki, clock, ca, method: config::Method::Post, pins: Vec::new() }
    }

    fn valid(&self) -> Leaf {
        self.pki.leaf(NAME, TODAY - DAY, TODAY + DAY * 90)
    }

    fn clock_mono(&self) -> Instant {
        crate::node::ports::Clock::mono(&*self.clock)
    }

    fn forwarder(
        &self,
        servers: &[&Server],
        dates: CertDates,
    ) -> (Forwarder, mpsc::Receiver<ForwardEvent>) {
        self.make("/dns-query", servers, dates)
    }

    fn forwarder_to(&self, path: &str, servers: &[&Server]) -> Forwarder {
        self.make(path, servers, CertDates::RuleR { floor: FLOOR_4H }).0
    }

    fn make(
        &self,
        path: &str,
        servers: &[&Server],
        dates: CertDates,
    ) -> (Forwarder, mpsc::Receiver<ForwardEvent>) {
        let upstream = |(index, server): (usize, &&Server)| config::Upstream {
            name: NAME.parse().unwrap(),
            operator: format!("operator {index}"),
            addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            transport: server.transport,
            port: server.address.port(),
            path: path.to_owned(),
            method: self.method,
            ca: Some(self.ca.clone()),
            pins: self.pins.clone(),
        };
        let upstreams: Vec<_> = servers.iter().enumerate().map(upstream).collect();
        let clock = Arc::<FakeClock>::clone(&self.clock);
        let (forwarder, events) =
            Forwarder::new(&upstreams, Client::new(clock).unwrap(), trust(dates));
        forwarder.set_plan(Pool::new(forwarder.endpoints()).plan().clone());
        (forwarder, events)
    }

    async fn dot(&self, leaf: &Leaf, script: fn(&[u8]) -> Answers) -> Server {
        Server::start(leaf, Transport::Dot, script).await
    }

    async fn doh(&self, leaf: &Leaf) -> Server {
        Server::start(leaf, Transport::Doh, echo).await
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.ca);
    }
}

/// An upstream on loopback.
struct Server {
    address: SocketAddr,
    transport: Transport,
    handshakes: Arc<Mutex<Vec<HandshakeKind>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(leaf: &Leaf, transport: Transport, script: fn(&[u8]) -> Answers) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let alpn: &[&[u8]] = if transport == Transport::Dot { &[b"dot"] } else { &[b"h2"] };
        let acceptor = TlsAcceptor::from(leaf.server(alpn));
        let handshakes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&handshakes);
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                // A client that refuses the certificate ends the handshake.
                let Ok(stream) = acceptor.accept(tcp).await else { continue };
                let connection = stream.get_ref().1;
                assert_eq!(connection.server_name(), Some(NAME), "no SNI");
                seen.lock().unwrap().push(connection.handshake_kind().unwrap());
                match transport {
                    Transport::Dot => tokio::spawn(speak_dot(stream, script)),
                    Transport::Doh | Transport::Doq => tokio::spawn(speak_doh(stream)),
                };
            }
        });
        Self { address, transport, handshakes, task }
    }

    fn start_quic(leaf: &Leaf, script: fn(&[u8]) -> Answers) -> Self {
        let crypto = QuicServerConfig::try_from(leaf.server(&[b"doq"])).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = endpoint.local_addr().unwrap();
        let handshakes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&handshakes);
        let task = tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                // A client that refuses the certificate ends the handshake.
                let Ok(connection) = incoming.await else { continue };
                seen.lock().unwrap().push(HandshakeKind::Full);
                tokio::spawn(speak_doq(connection, script));
            }
        });
        Self { address, transport: Transport::Doq, handshakes, task }
    }

    fn connections(&self) -> usize {
        self.handshakes.lock().unwrap().len()
    }

    fn last_handshake(&self) -> HandshakeKind {
        *self.handshakes.lock().unwrap().last().unwrap()
    }

    async fn stop(&self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

type ServerStream = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;

async fn speak_dot(stream: ServerStream, script: fn(&[u8]) -> Answers) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Duration, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((delay, message)) = receiver.recv().await {
            if delay == CLOSE {
                let _ = writer.shutdown().await;
                return;
            }
            let len = u16::try_from(message.len()).unwrap();
            writer.write_all(&[&len.to_be_bytes()[..], &message].concat()).await.unwrap();
            writer.flush().await.unwrap();
        }
    });
    while let Ok(len) = reader.read_u16().await {
        let mut query = vec![0; len.into()];
        reader.read_exact(&mut query).await.unwrap();
        for (delay, message) in script(&query) {
            let sender = sender.clone();
            if delay == Duration::ZERO || delay == CLOSE {
                let _ = sender.send((delay, message));
                continue;
            }
            tokio::spawn(async move {
                sleep(delay).await;
                let _ = sender.send((delay, message));
            });
        }
    }
}

async fn speak_doq(connection: quinn::Connection, script: fn(&[u8]) -> Answers) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let connection = connection.clone();
        tokio::spawn(async move {
            let framed = receive.read_to_end(1 << 16).await.unwrap();
            assert_eq!(framed[2..4], [0, 0], "the id is 0");
            for (delay, message) in script(&framed[2..]) {
                if delay == CLOSE {
                    return connection.close(0_u8.into(), b"");
                }
                sleep(delay).await;
                let len = u16::try_from(message.len()).unwrap().to_be_bytes();
                send.write_all(&[&len[..], &message].concat()).await.unwrap();
            }
            send.finish().unwrap();
        });
    }
}

async fn speak_doh(stream: ServerStream) {
    let serve = async |request: Request<body::Incoming>| {
        let get = request.method() == Method::GET;
        let mut response = Response::new(Full::new(Bytes::new()));
        if request.uri().path() != "/dns-query" {
            *response.status_mut() = hyper::StatusCode::NOT_FOUND;
            return Ok::<_, hyper::Error>(response);
        }
        let query = if get {
            let parameter = request.uri().query().unwrap().strip_prefix("dns=").unwrap();
            BASE64URL_NOPAD.decode(parameter.as_bytes()).unwrap().into()
        } else {
            request.into_body().collect().await?.to_bytes()
        };
        assert_eq!(query[..2], [0, 0]);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, "application/dns-message".parse().unwrap());
        *response.body_mut() = answer(&query).into();
        Ok(response)
    };
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service_fn(serve))
        .await;
}
