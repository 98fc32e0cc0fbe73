//! The pipeline, between a scripted upstream and hickory-proto as the client.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::op::{Edns, Message as Hickory, MessageType, OpCode, Query as Question};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{DNSClass, Name as HickoryName, RData, Record, RecordType};
use proptest::prelude::*;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::cache::{Bounds, ChainId};
use crate::clock::UnixTime;
use crate::config::ClientNetwork;
use crate::dns::{BoxFuture, ForwardError, Forwarded};
use crate::filter::{Filter, Verdict};
use crate::names::{Entry, Names};

#[tokio::test]
async fn a_miss_is_asked_upstream_once_and_kept() {
    let mut lab = Lab::new(settings());
    let first = lab.spawn(query("www.example."));

    let asked = lab.upstream().await;
    let sent = Hickory::from_vec(&asked.query).unwrap();
    assert!(sent.metadata.recursion_desired);
    assert_eq!(sent.queries[0].name().to_string(), "www.example.");
    asked.answer(&positive("www.example.", 300));

    assert_eq!(ttls(&first.await.unwrap().unwrap()), [300]);
    lab.clock.pass(Duration::from_secs(9));
    let (read, quick) = lab.quick(&query("www.example."));
    assert_eq!((quick, ttls(&read)), (Quick::Reply(Origin::Cache), vec![291]));
    assert_eq!((lab.answerer.counts().forwarded, lab.answerer.counts().cached), (1, 1));
}

#[tokio::test]
async fn equal_questions_share_one_upstream_query() {
    let mut lab = Lab::new(settings());
    let clients: Vec<_> = (0..20).map(|_| lab.spawn(query("www.example."))).collect();

    let asked = lab.upstream().await;
    tokio::task::yield_now().await;
    asked.answer(&positive("www.example.", 300));

    for client in clients {
        assert_eq!(ttls(&client.await.unwrap().unwrap()), [300]);
    }
    assert!(lab.asked.try_recv().is_err(), "asked more than once");
    assert_eq!((lab.answerer.counts().flights, lab.answerer.counts().shared), (1, 19));
}

#[tokio::test]
async fn an_answer_goes_on_when_the_client_has_left() {
    let mut lab = Lab::new(settings());
    let client = lab.spawn(query("www.example."));
    let asked = lab.upstream().await;
    client.abort();
    assert!(client.await.is_err());

    asked.answer(&positive("www.example.", 300));
    lab.landed().await;

    assert_eq!(lab.quick(&query("www.example.")).1, Quick::Reply(Origin::Cache));
}

#[tokio::test]
async fn a_stale_answer_stands_in_for_an_upstream_that_fails() {
    let mut lab = Lab::new(settings());
    lab.keep("www.example.", 60).await;
    lab.clock.pass(Duration::from_secs(61));

    let client = lab.spawn(query("www.example."));
    lab.upstream().await.fail(ForwardError::NoUpstream);

    let stale = client.await.unwrap().unwrap();
    assert_eq!((ttls(&stale), ede(&stale).unwrap().0), (vec![30], 3));
    // Nobody has to wait for the next attempt, which goes on behind another stale answer.
    lab.clock.pass(Duration::from_secs(1));
    let (again, quick) = lab.quick(&query("www.example."));
    assert_eq!((quick, ede(&again).unwrap().0), (Quick::Reply(Origin::Stale), 3));
    lab.upstream().await.answer(&positive("www.example.", 60));
    lab.landed().await;
    assert_eq!(ttls(&lab.quick(&query("www.example.")).0), [60]);
}

#[tokio::test]
async fn a_servfail_of_an_upstream_is_no_reason_to_forget_an_answer() {
    let mut lab = Lab::new(settings());
    lab.keep("www.example.", 60).await;
    lab.clock.pass(Duration::from_secs(61));

    let client = lab.spawn(query("www.example."));
    lab.upstream().await.answer(&empty("www.example.", ResponseCode::ServFail, None));

    let stale = client.await.unwrap().unwrap();
    assert_eq!((stale.metadata.response_code, ttls(&stale)), (ResponseCode::NoError, vec![30]));
}

#[tokio::test]
async fn a_stale_answer_stands_in_for_an_upstream_that_is_slow() {
    let mut lab = Lab::new(AnswerSettings { patience: Duration::from_millis(10), ..settings() });
    lab.keep("www.example.", 60).await;
    lab.clock.pass(Duration::from_secs(61));

    let client = lab.spawn(query("www.example."));
    let asked = lab.upstream().await;
    let stale = client.await.unwrap().unwrap();
    assert_eq!((ttls(&stale), ede(&stale).unwrap().0), (vec![30], 3));

    // The refresh goes on behind it, and nobody else waits.
    assert_eq!(lab.quick(&query("www.example.")).1, Quick::Reply(Origin::Stale));
    asked.answer(&positive("www.example.", 60));
    lab.landed().await;
    let (fresh, _) = lab.quick(&query("www.example."));
    assert_eq!((ttls(&fresh), ede(&fresh)), (vec![60], None));
}

#[tokio::test]
async fn while_no_upstream_answers_a_stale_answer_is_given_at_once() {
    let mut lab = Lab::new(settings());
    lab.keep("www.example.", 60).await;
    lab.clock.pass(Duration::from_secs(61));
    lab.answerer.set_upstreams_down(true);

    // Nobody answers; without the word that all are down this would take as long as patience.
    let stale = lab.spawn(query("www.example.")).await.unwrap().unwrap();

    assert_eq!((ttls(&stale), ede(&stale).unwrap().0), (vec![30], 3));
    assert_eq!(lab.answerer.counts().stale, 1);
}

#[tokio::test]
async fn while_no_upstream_answers_nobody_waits_longer_than_a_client_does() {
    let mut lab = Lab::new(settings());
    lab.answerer.set_upstreams_down(true);

    let clients = ["one.example.", "two.example."].map(|name| lab.spawn(query(name)));
    let asked = lab.upstream().await;

    for client in clients {
        let answer = tokio::time::timeout(Duration::from_millis(2_500), client).await;
        let answer = answer.expect("a client has given up by then").unwrap().unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(ede(&answer).unwrap().0, 22);
    }
    drop(asked);
}

#[tokio::test]
async fn what_an_outage_held_up_is_asked_in_turns_the_latest_first() {
    let mut lab = Lab::new(AnswerSettings { pace: 100, ..settings() });
    lab.answerer.set_upstreams_down(true);
    let clients: Vec<_> = (0..4).map(|n| lab.spawn(query(&format!("n{n}.example.")))).collect();
    lab.landed().await;
    let probing = lab.upstream().await;

    lab.answerer.set_upstreams_down(false);
    let mut order = Vec::new();
    for _ in 0..3 {
        lab.clock.pass(Duration::from_millis(10));
        let asked = lab.upstream().await;
        let name = Hickory::from_vec(&asked.query).unwrap().queries[0].name().to_string();
        asked.answer(&positive(&name, 60));
        order.push(name);
    }
    probing.answer(&positive("n0.example.", 60));

    assert_eq!(order, ["n3.example.", "n2.example.", "n1.example."]);
    for client in clients {
        assert_eq!(client.await.unwrap().unwrap().metadata.response_code, ResponseCode::NoError);
    }
}

#[tokio::test]
async fn an_absent_name_is_absent_when_stale_too() {
    let mut lab = Lab::new(settings());
    let client = lab.spawn(query("gone.example."));
    lab.upstream().await.answer(&empty("gone.example.", ResponseCode::NXDomain, Some(60)));
    client.await.unwrap();
    lab.clock.pass(Duration::from_secs(61));

    let client = lab.spawn(query("gone.example."));
    lab.upstream().await.fail(ForwardError::NoUpstream);

    let stale = client.await.unwrap().unwrap();
    assert_eq!(stale.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(ede(&stale).unwrap().0, 19);
}

#[tokio::test]
async fn every_failure_says_why() {
    let mut lab = Lab::new(settings());
    let failures = [
        (ForwardError::NoUpstream, 22, "no upstream is configured"),
        (ForwardError::Unreachable("refused".into()), 22, "refused"),
        (ForwardError::Busy(9), 0, "9 questions"),
    ];
    for (error, code, text) in failures {
        let client = lab.spawn(query("www.example."));
        lab.upstream().await.fail(error);
        let reply = client.await.unwrap().unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        let (said, why) = ede(&reply).unwrap();
        assert!(said == code && why.contains(text), "{said} {why}");
        // Each failure makes the name wait for longer.
        lab.clock.pass(Duration::from_secs(8));
    }

    let client = lab.spawn(query("www.example."));
    lab.upstream().await.answer(&positive("ww2.example.", 60));
    let (code, why) = ede(&client.await.unwrap().unwrap()).unwrap();
    assert!(code == 23 && why.contains("another question"), "{code} {why}");
    assert_eq!(lab.answerer.counts().unfit, 1);
}

#[tokio::test]
async fn a_failure_is_remembered_for_a_second() {
    let mut lab = Lab::new(settings());
    let client = lab.spawn(query("www.example."));
    lab.upstream().await.fail(ForwardError::NoUpstream);
    client.await.unwrap();

    let (reply, quick) = lab.quick(&query("www.example."));
    assert_eq!((quick, ede(&reply).unwrap().0), (Quick::Reply(Origin::Cache), 22));
    lab.clock.pass(Duration::from_secs(1));
    assert_eq!(lab.quick(&query("www.example.")).1, Quick::Slow);
}

#[tokio::test]
async fn an_upstream_that_panics_is_a_failure_and_no_more() {
    let lab = Lab::new(settings());
    drop(lab.asked);

    let reply = answer(&lab.answerer, &query("www.example."), Protocol::Udp).await.unwrap();

    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(ede(&reply).unwrap().1.contains("lost"));
}

#[tokio::test]
async fn clients_without_encryption_get_what_the_policy_says() {
    let lab = Lab::new(settings());
    let code = |name: &str, protocol| {
        let mut out = Vec::new();
        match lab.answerer.quick(&query(name), &client(&lab.answerer, protocol), None, &mut out) {
            Quick::Reply(_) => {
                let reply = Hickory::from_vec(&out).unwrap();
                Some((reply.metadata.response_code, ede(&reply).map(|(code, _)| code)))
            }
            Quick::Drop | Quick::Slow => None,
        }
    };
    let refused = Some((ResponseCode::Refused, Some(18)));
    let local = Some((ResponseCode::NoError, None));

    lab.answerer.reload(AnswerSettings { plaintext: Plaintext::LocalOnly, ..settings() });
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        assert_eq!(code("pi.home.lan.", protocol), local);
        assert_eq!(code("www.example.", protocol), refused);
        // The alias is local, what it stands for is not.
        assert_eq!(code("shop.home.lan.", protocol), local);
    }
    assert_eq!(code("www.example.", Protocol::Dot), None);

    lab.answerer.reload(AnswerSettings { plaintext: Plaintext::Refuse, ..settings() });
    assert_eq!(code("pi.home.lan.", Protocol::Udp), refused);
    assert_eq!(code("pi.home.lan.", Protocol::Doh), local);
}

#[tokio::test]
async fn what_is_not_served_is_refused() {
    let lab = Lab::new(settings());
    let rcode = |qtype, class| {
        let mut message = Hickory::from_vec(&query("version.bind.")).unwrap();
        message.queries[0].set_query_type(qtype).set_query_class(class);
        lab.quick(&message.to_vec().unwrap()).0.metadata.response_code
    };

    assert_eq!(rcode(RecordType::AXFR, DNSClass::IN), ResponseCode::Refused);
    assert_eq!(rcode(RecordType::IXFR, DNSClass::IN), ResponseCode::Refused);
    assert_eq!(rcode(RecordType::TXT, DNSClass::CH), ResponseCode::Refused);
    let mut notify = query("www.example.");
    notify[2] |= 4 << 3;
    assert_eq!(lab.quick(&notify).0.metadata.response_code, ResponseCode::NotImp);
    let mut response = query("www.example.");
    response[2] |= 0x80;
    let mut out = Vec::new();
    assert_eq!(
        lab.answerer.quick(&response, &client(&lab.answerer, Protocol::Udp), None, &mut out),
        Quick::Drop
    );
    let counts = lab.answerer.counts();
    assert_eq!((counts.refused, counts.malformed, counts.dropped), (3, 1, 1));
}

#[tokio::test]
async fn a_question_for_any_record_over_udp_gets_one() {
    let lab = Lab::new(settings());
    let mut message = Hickory::from_vec(&query("www.example.")).unwrap();
    message.queries[0].set_query_type(RecordType::ANY);
    let any = message.to_vec().unwrap();

    let (reply, _) = lab.quick(&any);
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(reply.answers[0].record_type(), RecordType::HINFO);
    let mut out = Vec::new();
    assert_eq!(
        lab.answerer.quick(&any, &client(&lab.answerer, Protocol::Tcp), None, &mut out),
        Quick::Slow
    );
}

#[tokio::test]
async fn id_case_and_flags_are_the_clients_own() {
    let mut lab = Lab::new(settings());
    lab.keep("www.example.", 300).await;
    let mut shouted = query("www.example.");
    shouted[..2].copy_from_slice(&[0xbe, 0xef]);
    shouted[2] &= !1;
    shouted[12..25].copy_from_slice(b"\x03WwW\x07eXAMPLe\0");

    let mut out = Vec::new();
    lab.answerer.quick(&shouted, &client(&lab.answerer, Protocol::Udp), None, &mut out);

    assert_eq!(out[..2], [0xbe, 0xef]);
    assert_eq!(out[2] & 1, 0, "RD is set");
    assert_eq!(&out[12..25], b"\x03WwW\x07eXAMPLe\0");
}

#[tokio::test]
async fn only_clients_who_ask_for_it_see_the_ad_bit() {
    let mut lab = Lab::new(settings());
    lab.keep("www.example.", 300).await;
    let authentic = |change: fn(&mut Hickory)| {
        let mut message = Hickory::from_vec(&query("www.example.")).unwrap();
        change(&mut message);
        lab.quick(&message.to_vec().unwrap()).0.metadata.authentic_data
    };

    assert!(!authentic(|_| ()));
    assert!(authentic(|message| message.metadata.authentic_data = true));
}

#[tokio::test]
async fn relaxed_answers_are_dropped_when_their_chain_fails() {
    let mut lab = Lab::new(settings());
    for (name, chain) in [("good.example.", 1), ("bad.example.", 2)] {
        let client = lab.spawn(query(name));
        lab.upstream().await.answer_through(&positive(name, 300), Some(ChainId(chain)));
        assert_eq!(ttls(&client.await.unwrap().unwrap()), [60]);
    }

    lab.answerer.cache().settle(&BTreeSet::from([ChainId(1)]));

    assert_eq!(lab.quick(&query("good.example.")).1, Quick::Reply(Origin::Cache));
    assert_eq!(lab.quick(&query("bad.example.")).1, Quick::Slow);
}

#[tokio::test]
async fn an_answer_too_long_for_udp_is_cut() {
    let mut lab = Lab::new(settings());
    let mut long = Hickory::from_vec(&positive("www.example.", 300)).unwrap();
    for n in 0..100 {
        let rdata = RData::A(A(Ipv4Addr::new(192, 0, 2, n)));
        long.add_answer(Record::from_rdata(name("www.example."), 300, rdata));
    }
    let client = lab.spawn(query("www.example."));
    lab.upstream().await.answer(&long.to_vec().unwrap());
    let cut = client.await.unwrap().unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty() && cut.edns.is_some());

    let whole = answer(&lab.answerer, &query("www.example."), Protocol::Tcp).await.unwrap();
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 101));
}

#[tokio::test]
async fn a_local_alias_into_the_world_is_completed() {
    let mut lab = Lab::new(settings());
    let client = lab.spawn(query("shop.home.lan."));
    let asked = lab.upstream().await;
    let mut upstream =
        Hickory::from_vec(&empty("shop.example.", ResponseCode::NoError, None)).unwrap();
    let alias = RData::CNAME(CNAME(name("cdn.example.")));
    upstream.add_answer(Record::from_rdata(name("shop.example."), 300, alias));
    let address = RData::A(A(Ipv4Addr::new(192, 0, 2, 7)));
    upstream.add_answer(Record::from_rdata(name("cdn.example."), 20, address.clone()));
    asked.answer(&upstream.to_vec().unwrap());

    let reply = client.await.unwrap().unwrap();

    let owners: Vec<_> = reply.answers.iter().map(|record| record.name.to_string()).collect();
    assert_eq!(owners, ["shop.home.lan.", "shop.example.", "cdn.example."]);
    assert_eq!(reply.answers[2].data, address);
    assert_eq!(ttls(&reply), [60, 300, 20]);
}

#[tokio::test]
async fn an_answer_in_use_is_refreshed_before_it_expires() {
    let mut lab = Lab::new(settings());
    lab.keep("www.example.", 100).await;
    lab.quick(&query("www.example."));
    lab.clock.pass(Duration::from_secs(95));

    let (reply, quick) = lab.quick(&query("www.example."));
    assert_eq!((quick, ttls(&reply)), (Quick::Reply(Origin::Cache), vec![5]));
    lab.upstream().await.answer(&positive("www.example.", 100));
    lab.landed().await;

    assert_eq!(ttls(&lab.quick(&query("www.example.")).0), [100]);
    assert_eq!(lab.answerer.counts().refreshed, 1);
}

#[tokio::test]
async fn over_a_metered_link_nothing_is_asked_before_somebody_wants_it() {
    let mut lab = Lab::new(settings());
    lab.keep("www.example.", 100).await;
    lab.answerer.set_metered(true);
    lab.quick(&query("www.example."));
    lab.clock.pass(Duration::from_secs(95));

    let (reply, _) = lab.quick(&query("www.example."));

    assert_eq!(ttls(&reply), [5]);
    assert_eq!(lab.answerer.counts().refreshed, 0);
}

#[tokio::test]
async fn when_too_many_questions_are_under_way_one_that_nobody_answers_gives_way() {
    let mut lab = Lab::new(settings());
    let oldest = lab.spawn(query("n0.example."));
    let mut unanswered = vec![lab.upstream().await];
    let waiting: Vec<_> = (1..1_000).map(|n| lab.spawn(query(&format!("n{n}.example.")))).collect();
    while lab.answerer.counts().flights < 1_000 {
        tokio::task::yield_now().await;
    }

    let refused = answer(&lab.answerer, &query("too.soon."), Protocol::Udp).await.unwrap();
    assert!(ede(&refused).unwrap().1.contains("1000 questions"));
    lab.clock.pass(Duration::from_millis(500));
    let newest = lab.spawn(query("one.more."));

    assert!(ede(&oldest.await.unwrap().unwrap()).unwrap().1.contains("1000 questions"));
    assert_eq!(lab.answerer.counts().shed, 2);
    // The question that gave way may be asked again, and is another then.
    let again = lab.spawn(query("n0.example."));
    for _ in 0..1_001 {
        let asked = lab.upstream().await;
        let name = Hickory::from_vec(&asked.query).unwrap().queries[0].name().to_string();
        if ["one.more.", "n0.example."].contains(&name.as_str()) {
            asked.answer(&positive(&name, 300));
        } else {
            unanswered.push(asked);
        }
    }
    assert_eq!(ttls(&newest.await.unwrap().unwrap()), [300]);
    assert_eq!(ttls(&again.await.unwrap().unwrap()), [300]);
    drop(waiting);
}

#[tokio::test]
async fn without_room_to_wait_outdated_data_is_given_out_at_once() {
    let mut lab = Lab::new(settings());
    lab.keep("www.example.", 60).await;
    lab.clock.pass(Duration::from_secs(61));
    let stale = |name: &str| {
        let mut out = Vec::new();
        let found =
            lab.answerer.stale(&query(name), &client(&lab.answerer, Protocol::Udp), &mut out);
        found.then(|| Hickory::from_vec(&out).unwrap())
    };

    let read = stale("www.example.").unwrap();
    assert_eq!((ttls(&read), ede(&read).unwrap().0), (vec![30], 3));
    assert!(stale("www2.example.").is_none());
}

#[tokio::test]
async fn the_filter_is_asked_on_a_miss_and_its_verdict_kept() {
    #[derive(Debug, Default)]
    struct Ads(std::sync::atomic::AtomicUsize);
    impl Filter for Ads {
        fn judge(&self, name: &[u8]) -> Verdict<'_> {
            self.0.fetch_add(1, Ordering::Relaxed);
            if name.starts_with(b"\x03ads") { Verdict::Block("listed") } else { Verdict::Pass }
        }
    }
    let mut lab = Lab::new(settings());
    lab.keep("ads.example.", 300).await;
    lab.keep("www.example.", 300).await;
    let filter = Arc::new(Ads::default());

    let in_force: Arc<dyn Filter> = Arc::<Ads>::clone(&filter);
    lab.answerer.set_filter(Some(&in_force));

    let mut near = Near::new();
    for origin in [Origin::Blocked, Origin::Cache, Origin::Cache] {
        let mut out = Vec::new();
        let packet = query("ads.example.");
        let client = client(&lab.answerer, Protocol::Udp);
        let quick = lab.answerer.quick(&packet, &client, Some(&mut near), &mut out);
        let reply = Hickory::from_vec(&out).unwrap();
        assert_eq!(quick, Quick::Reply(origin));
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(ede(&reply), Some((15, "listed".to_owned())));
        assert_eq!(ttls(&reply), [60]);
    }
    assert_eq!(lab.quick(&query("www.example.")).1, Quick::Reply(Origin::Cache));
    // Two names were in the cache, one was asked for that was not.
    assert_eq!(filter.0.load(Ordering::Relaxed), 3);
    assert_eq!((lab.answerer.counts().blocked, lab.answerer.counts().cached), (1, 3));

    lab.answerer.set_filter(None);
    assert_eq!(lab.quick(&query("ads.example.")).1, Quick::Slow);
}

#[tokio::test]
async fn every_answer_is_counted_by_what_stands_behind_it_and_its_code() {
    let mut lab = Lab::new(AnswerSettings { rate: 1, ..settings() });
    lab.keep("www.example.", 300).await;
    for code in [ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::NotAuth] {
        let name = format!("{}.example.", u16::from(code));
        let client = lab.spawn(query(&name));
        lab.upstream().await.answer(&empty(&name, code, Some(60)));
        client.await.unwrap().unwrap();
    }
    // A version of EDNS that nobody speaks, an operation, a question cut short.
    let mut version = query("www.example.");
    let at = version.len() - 5;
    version[at] = 1;
    let mut status = query("www.example.");
    status[2] = 2 << 3;
    let short = &query("www.example.")[..14];
    let local = query("pi.home.lan.");
    for packet in [&version, &status, short, &query("www.example."), &query("2.example."), &local] {
        lab.quick(packet);
    }
    let address = "192.168.1.7:5353".parse().unwrap();
    let often = Client { address, ..client(&lab.answerer, Protocol::Udp) };
    let mut cookie = Hickory::from_vec(&local).unwrap();
    let edns = cookie.edns.as_mut().unwrap();
    edns.options_mut().insert(EdnsOption::Unknown(10, b"cookie!!".to_vec()));
    for packet in [&local, &local, &local, &cookie.to_vec().unwrap()] {
        lab.answerer.quick(packet, &often, None, &mut Vec::new());
    }

    lab.answerer.set_filter(Some(&(Arc::new(All) as Arc<dyn Filter>)));
    lab.quick(&query("ads.example."));

    let counted = lab.answerer.answers().filter(|(_, _, count)| *count > 0);

    assert_eq!(
        counted.collect::<Vec<_>>(),
        [
            (Origin::Malformed, "FORMERR", 1),
            (Origin::Malformed, "NOTIMP", 1),
            (Origin::Malformed, "other", 1),
            (Origin::Limited, "NOERROR", 1),
            (Origin::Limited, "other", 1),
            (Origin::Local, "NOERROR", 3),
            (Origin::Blocked, "NXDOMAIN", 1),
            (Origin::Cache, "NOERROR", 1),
            (Origin::Cache, "SERVFAIL", 1),
            (Origin::Upstream, "NOERROR", 1),
            (Origin::Upstream, "NXDOMAIN", 1),
            (Origin::Failed, "SERVFAIL", 1),
            (Origin::Failed, "other", 1),
        ]
    );
    let counts = lab.answerer.counts();
    assert_eq!((counts.malformed, counts.limited, counts.local), (3, 2, 3));
    assert_eq!((counts.cached, counts.forwarded, counts.failed), (2, 2, 2));
}

#[tokio::test]
async fn clients_of_other_networks_are_refused() {
    let lab = Lab::new(settings());
    let code = |address: &str| {
        let address = address.parse().unwrap();
        let client = Client { address, ..client(&lab.answerer, Protocol::Dot) };
        let mut out = Vec::new();
        lab.answerer.quick(&query("pi.home.lan."), &client, None, &mut out);
        let reply = Hickory::from_vec(&out).unwrap();
        (reply.metadata.response_code, ede(&reply).map(|(code, _)| code))
    };
    let (served, refused) = ((ResponseCode::NoError, None), (ResponseCode::Refused, Some(18)));

    assert_eq!(code("192.168.1.7:5353"), served);
    assert_eq!(code("203.0.113.7:5353"), refused);
    lab.answerer.set_networks(vec!["203.0.113.0/24".parse().unwrap()]);
    assert_eq!(code("203.0.113.7:5353"), served);
    // A reload knows the machine's networks too.
    lab.answerer.reload(settings());
    assert_eq!(code("203.0.113.7:5353"), served);
    assert_eq!(lab.answerer.counts().denied, 1);
}

#[tokio::test]
async fn who_asks_too_much_over_udp_proves_its_address_first() {
    let lab = Lab::new(AnswerSettings { rate: 1, ..settings() });
    let ask = |address: &str, protocol, cookie: Option<&[u8]>| {
        let mut message = Hickory::from_vec(&query("pi.home.lan.")).unwrap();
        if let (Some(edns), Some(cookie)) = (&mut message.edns, cookie) {
            edns.options_mut().insert(EdnsOption::Unknown(10, cookie.to_vec()));
        }
        let address = address.parse().unwrap();
        let client = Client { address, ..client(&lab.answerer, protocol) };
        let mut out = Vec::new();
        lab.answerer.quick(&message.to_vec().unwrap(), &client, None, &mut out);
        Hickory::from_vec(&out).unwrap()
    };
    let answered = |reply: &Hickory| !reply.answers.is_empty();
    let udp = |cookie| ask("192.168.1.7:5353", Protocol::Udp, cookie);
    assert!(answered(&udp(None)) && answered(&udp(None)), "a burst passes");

    let cut = udp(None);
    assert!(cut.metadata.truncation && !answered(&cut));
    let bad = udp(Some(b"cookie!!"));
    assert_eq!((bad.metadata.response_code, answered(&bad)), (ResponseCode::BADCOOKIE, false));
    let cookie = option(&bad, 10).unwrap();
    assert_eq!((&cookie[..8], cookie.len()), (&b"cookie!!"[..], 24));
    assert!(answered(&udp(Some(&cookie))), "the cookie is a proof");
    assert!(answered(&ask("192.168.1.7:5353", Protocol::Tcp, None)), "TCP is a proof");
    assert!(answered(&ask("192.168.1.8:5353", Protocol::Udp, None)), "others are not to blame");
    assert!((0..9).all(|_| answered(&ask("127.0.0.1:5353", Protocol::Udp, None))));
    assert_eq!(lab.answerer.counts().limited, 2);
}

#[tokio::test]
async fn options_for_one_hop_are_answered_where_they_apply() {
    let lab = Lab::new(settings());
    let options = |protocol| {
        let mut message = Hickory::from_vec(&query("pi.home.lan.")).unwrap();
        let edns = message.edns.as_mut().unwrap();
        for (code, content) in [(10, b"cookie!!".to_vec()), (11, vec![]), (12, vec![0; 9])] {
            edns.options_mut().insert(EdnsOption::Unknown(code, content));
        }
        let mut out = Vec::new();
        lab.answerer.quick(
            &message.to_vec().unwrap(),
            &client(&lab.answerer, protocol),
            None,
            &mut out,
        );
        let reply = Hickory::from_vec(&out).unwrap();
        assert_eq!(option(&reply, 10).map(|cookie| cookie.len()), Some(24), "{protocol:?}");
        (option(&reply, 11), option(&reply, 12).is_some().then_some(out.len() % 468))
    };
    let seconds_15 = Some(vec![0, 150]);

    assert_eq!(options(Protocol::Udp), (None, None));
    assert_eq!(options(Protocol::Tcp), (seconds_15.clone(), None));
    assert_eq!(options(Protocol::Dot), (seconds_15, Some(0)));
    assert_eq!(options(Protocol::Doh), (None, Some(0)));
}

#[tokio::test]
async fn too_many_who_wait_for_one_answer_are_turned_away_at_once() {
    let mut lab = Lab::new(settings());
    let waiting: Vec<_> = (0..1_000).map(|_| lab.spawn(query("www.example."))).collect();
    let asked = lab.upstream().await;
    while lab.answerer.counts().shared < 999 {
        tokio::task::yield_now().await;
    }

    let reply = answer(&lab.answerer, &query("www.example."), Protocol::Udp).await.unwrap();

    assert!(ede(&reply).unwrap().1.contains("1000 questions"));
    asked.answer(&positive("www.example.", 300));
    for client in waiting {
        assert_eq!(ttls(&client.await.unwrap().unwrap()), [300]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the client's flags, size and letter case, and whatever the upstream said: the
    /// thread that receives and the task that waits write the same octets.
    #[test]
    fn quick_equals_slow_octet_for_octet(
        shape in (any::<u16>(), any::<[bool; 3]>(), prop::option::of((any::<u16>(), any::<bool>()))),
        upper in any::<[bool; 8]>(),
        protocol in prop_oneof![Just(Protocol::Udp), Just(Protocol::Dot)],
        rcode in prop_oneof![
            Just(ResponseCode::NoError), Just(ResponseCode::NXDomain), Just(ResponseCode::ServFail),
        ],
        addresses in prop::collection::vec((1..90_000_u32, any::<[u8; 4]>()), 0..80),
        (authentic, soa) in (any::<bool>(), 1..5_000_u32),
        note in prop::option::of("[a-z ]{0,30}"),
    ) {
        let (id, [rd, ad, cd], edns) = shape;
        let mut question = Hickory::from_vec(&query("www.example.")).unwrap();
        question.metadata.id = id;
        question.metadata.recursion_desired = rd;
        question.metadata.authentic_data = ad;
        question.metadata.checking_disabled = cd;
        question.edns = edns.map(|(size, dnssec_ok)| {
            let mut edns = Edns::new();
            edns.set_max_payload(size).set_dnssec_ok(dnssec_ok);
            edns
        });
        let mut packet = question.to_vec().unwrap();
        for (octet, upper) in packet[12..].iter_mut().zip(upper) {
            if upper {
                octet.make_ascii_uppercase();
            }
        }
        let mut said = Hickory::from_vec(&empty("www.example.", rcode, Some(soa))).unwrap();
        said.metadata.authentic_data = authentic;
        for (ttl, address) in addresses {
            let rdata = RData::A(A(address.into()));
            said.add_answer(Record::from_rdata(name("www.example."), ttl, rdata));
        }
        if let Some(note) = note {
            let mut edns = Edns::new();
            let content = [b"\0\x11", note.as_bytes()].concat();
            edns.options_mut().insert(EdnsOption::Unknown(15, content));
            said.set_edns(edns);
        }
        let said = said.to_vec().unwrap();

        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut lab = Lab::new(settings());
            let answerer = Arc::clone(&lab.answerer);
            let asking = packet.clone();
            let slow = tokio::spawn(async move { answerer.answer(&asking, &client(&answerer, protocol)).await });
            lab.upstream().await.answer(&said);
            let (slow, _) = slow.await.unwrap().unwrap();
            let mut quick = b"what was here before".to_vec();
            let client = client(&lab.answerer, protocol);
            let answered = lab.answerer.quick(&packet, &client, None, &mut quick);
            assert_eq!(answered, Quick::Reply(Origin::Cache));
            assert_eq!(slow, quick);
            let read = Hickory::from_vec(&slow).unwrap();
            assert_eq!((read.metadata.id, read.metadata.recursion_desired), (id, rd));
            assert_eq!(read.edns.is_some(), edns.is_some());
            assert!(!read.metadata.authentic_data || ad || edns.is_some_and(|(_, dnssec)| dnssec));
        });
    }
}

/// An answerer with a virtual clock, and the upstream's end of it.
struct Lab {
    answerer: Arc<Answerer>,
    clock: Arc<VirtualClock>,
    asked: mpsc::UnboundedReceiver<Asked>,
}

impl Lab {
    fn new(settings: AnswerSettings) -> Self {
        let (forward, asked) = mpsc::unbounded_channel();
        let clock = Arc::new(VirtualClock::start());
        let answerer = Answerer::new(
            settings,
            Arc::new(Cache::new(1 << 20, Duration::ZERO)),
            Arc::new(Script(forward)),
            Arc::<VirtualClock>::clone(&clock),
            Handle::current(),
        );
        Self { answerer: Arc::new(answerer), clock, asked }
    }

    /// A client that waits for its answer.
    fn spawn(&self, packet: Vec<u8>) -> tokio::task::JoinHandle<Option<Hickory>> {
        let answerer = Arc::clone(&self.answerer);
        tokio::spawn(async move { answer(&answerer, &packet, Protocol::Udp).await })
    }

    /// The next question that reaches the upstream.
    async fn upstream(&mut self) -> Asked {
        self.asked.recv().await.unwrap()
    }

    /// Lets the answerer take what the upstream has said.
    async fn landed(&self) {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    async fn keep(&mut self, name: &str, ttl: u32) {
        let client = self.spawn(query(name));
        self.upstream().await.answer(&positive(name, ttl));
        client.await.unwrap().unwrap();
    }

    fn quick(&self, packet: &[u8]) -> (Hickory, Quick) {
        let mut out = Vec::new();
        let quick =
            self.answerer.quick(packet, &client(&self.answerer, Protocol::Udp), None, &mut out);
        let read = match quick {
            Quick::Reply(_) => Hickory::from_vec(&out).unwrap(),
            Quick::Drop | Quick::Slow => Hickory::query(),
        };
        (read, quick)
    }
}

async fn answer(answerer: &Answerer, packet: &[u8], protocol: Protocol) -> Option<Hickory> {
    let (reply, _) = answerer.answer(packet, &client(answerer, protocol)).await?;
    Some(Hickory::from_vec(&reply).unwrap())
}

/// A question that has reached the upstream.
struct Asked {
    query: Vec<u8>,
    reply: oneshot::Sender<Result<Forwarded, ForwardError>>,
}

impl Asked {
    fn answer(self, message: &[u8]) {
        self.answer_through(message, None);
    }

    fn answer_through(self, message: &[u8], relaxed: Option<ChainId>) {
        self.reply.send(Ok(Forwarded::unchecked(message.to_vec(), relaxed))).unwrap();
    }

    fn fail(self, error: ForwardError) {
        self.reply.send(Err(error)).unwrap();
    }
}

/// An upstream that does what the test says.
#[derive(Debug)]
struct Script(mpsc::UnboundedSender<Asked>);

impl Forward for Script {
    fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Asked { query, reply }).map_err(|_| ()).unwrap();
        Box::pin(async move { answer.await.unwrap() })
    }
}

/// Lets no name pass.
#[derive(Debug)]
struct All;

impl Filter for All {
    fn judge(&self, _: &[u8]) -> Verdict<'_> {
        Verdict::Block("listed")
    }
}

#[derive(Debug)]
struct VirtualClock(Mutex<Instant>);

impl VirtualClock {
    #[expect(clippy::disallowed_methods, reason = "where virtual time starts")]
    fn start() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn pass(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for VirtualClock {
    fn mono(&self) -> Instant {
        *self.0.lock().unwrap()
    }

    fn utc_at(&self, _: Instant) -> UnixTime {
        UnixTime::EPOCH
    }
}

fn settings() -> AnswerSettings {
    let entry = |name: &str| Entry {
        name: name.parse().unwrap(),
        wildcard: false,
        addresses: Vec::new(),
        cname: None,
        txt: Vec::new(),
        ttl: 60,
    };
    let pi = Entry { addresses: vec![Ipv4Addr::new(10, 77, 0, 2).into()], ..entry("pi.home.lan") };
    let shop = Entry { cname: Some("shop.example".parse().unwrap()), ..entry("shop.home.lan") };
    AnswerSettings {
        pace: 1_000,
        names: Names::new(&[pi, shop], false),
        clients: vec![ClientNetwork::Local],
        rate: 0,
        plaintext: Plaintext::Serve,
        ttls: Bounds { min: 0, max: 86_400 },
        stale: Duration::from_secs(86_400),
        patience: Duration::from_secs(60),
        idle: Duration::from_secs(15),
    }
}

/// A client that has just asked.
fn client(answerer: &Answerer, protocol: Protocol) -> Client {
    let address = (Ipv4Addr::LOCALHOST, 5353).into();
    Client { address, protocol, arrived: answerer.now() }
}

/// The question `name A IN` with EDNS.
fn query(of: &str) -> Vec<u8> {
    let mut message = Hickory::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(name(of), RecordType::A));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

/// A validated answer with one address.
fn positive(owner: &str, ttl: u32) -> Vec<u8> {
    let mut message = Hickory::from_vec(&empty(owner, ResponseCode::NoError, None)).unwrap();
    message.metadata.authentic_data = true;
    let rdata = RData::A(A(Ipv4Addr::new(192, 0, 2, 1)));
    message.add_answer(Record::from_rdata(name(owner), ttl, rdata));
    message.to_vec().unwrap()
}

/// An answer without records; with an SOA record of this time to live.
fn empty(owner: &str, rcode: ResponseCode, soa: Option<u32>) -> Vec<u8> {
    let mut message = Hickory::new(0, MessageType::Response, OpCode::Query);
    message.metadata.response_code = rcode;
    message.add_query(Question::query(name(owner), RecordType::A));
    if let Some(ttl) = soa {
        let soa = SOA::new(name("ns.example."), name("mail.example."), 1, 2, 3, 4, ttl);
        message.add_authority(Record::from_rdata(name("example."), ttl, RData::SOA(soa)));
    }
    message.to_vec().unwrap()
}

fn name(text: &str) -> HickoryName {
    text.parse().unwrap()
}

fn ttls(message: &Hickory) -> Vec<u32> {
    message.all_sections().map(|record| record.ttl).collect()
}

/// The content of an EDNS option.
fn option(message: &Hickory, code: u16) -> Option<Vec<u8>> {
    let edns = message.edns.as_ref()?;
    let option = edns.option(EdnsCode::from(code))?;
    let EdnsOption::Unknown(_, content) = option else { panic!("{option:?}") };
    Some(content.clone())
}

/// Code and text of the Extended DNS Error.
fn ede(message: &Hickory) -> Option<(u16, String)> {
    let content = option(message, 15)?;
    let (code, text) = content.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*code), String::from_utf8(text.to_vec()).unwrap()))
}
