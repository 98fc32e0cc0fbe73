//! The cache in virtual time, with messages written and read by hickory-proto.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name as HickoryName, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;
use crate::wire::{Ede, Hop, Rcode};

pub(in crate::cache) const DAY: Duration = Duration::from_secs(86_400);
const TTLS: Bounds = Bounds { min: 0, max: 86_400 };

#[test]
fn an_answer_ages_by_whole_seconds_and_expires_with_its_least_ttl() {
    let mut lab = Lab::new(1 << 20, Duration::ZERO);
    lab.keep(&positive("www.example.", &[300, 70]));

    lab.pass(Duration::from_millis(69_999));

    assert_eq!(ttls(&lab.ask("www.example.").unwrap()), [300 - 69, 1]);
    lab.pass(Duration::from_millis(1));
    assert!(lab.ask("www.example.").is_none());
}

#[test]
fn ttls_are_clamped_when_they_come_in() {
    let message = positive("www.example.", &[900_000, 0x8000_0001]);

    let answer = Answer::new(&message, &key("www.example."), TTLS, false).unwrap();

    assert_eq!(ttls(&read(&answer, "www.example.", Ttl::Aged(0))), [86_400, 0]);
    assert_eq!(answer.lifetime(), 0);
}

#[test]
fn short_ttls_are_lengthened_up_to_the_longest_allowed() {
    let bounds = Bounds { min: 120, max: 86_400 };
    let taken = |message: &[u8], bounds, relaxed| {
        let answer = Answer::new(message, &key("www.example."), bounds, relaxed).unwrap();
        (ttls(&read(&answer, "www.example.", Ttl::Aged(0))), answer.lifetime())
    };
    let message = positive("www.example.", &[300, 7, 0x8000_0001]);
    let failure = negative("www.example.", ResponseCode::ServFail, None, false);
    let nothing = negative("www.example.", ResponseCode::NXDomain, Some((3600, 60)), false);

    assert_eq!(taken(&message, bounds, false), (vec![300, 120, 120], 120));
    assert_eq!(taken(&message, bounds, true), (vec![60, 60, 60], 60));
    assert_eq!(taken(&message, Bounds { max: 90, ..bounds }, false).1, 90);
    assert_eq!(taken(&nothing, bounds, false), (vec![120], 120));
    assert_eq!(taken(&failure, bounds, false).1, 5);
}

#[test]
fn a_negative_answer_lives_as_long_as_its_soa_allows() {
    let lifetime = |rcode, soa, cname| {
        let message = negative("gone.example.", rcode, soa, cname);
        Answer::new(&message, &key("gone.example."), TTLS, false).unwrap().lifetime()
    };

    assert_eq!(lifetime(ResponseCode::NXDomain, Some((3600, 60)), false), 60);
    assert_eq!(lifetime(ResponseCode::NoError, Some((30, 60)), false), 30);
    assert_eq!(lifetime(ResponseCode::NoError, Some((3600, 60)), true), 60);
    // RFC 2308 section 5: without an SOA record it is not kept.
    assert_eq!(lifetime(ResponseCode::NXDomain, None, false), 0);
    assert_eq!(lifetime(ResponseCode::NoError, None, true), 0);
}

#[test]
fn a_failure_lives_for_five_seconds_and_never_over_an_answer() {
    let mut lab = Lab::new(1 << 20, DAY);
    let servfail = negative("www.example.", ResponseCode::ServFail, Some((3600, 3600)), false);
    assert!(lab.keep(&servfail));
    lab.pass(Duration::from_millis(4_999));
    assert_eq!(lab.ask("www.example.").unwrap().metadata.response_code, ResponseCode::ServFail);
    lab.pass(Duration::from_millis(1));
    assert!(matches!(lab.get("www.example."), Lookup::Miss));

    lab.keep(&positive("www.example.", &[10]));
    assert!(!lab.keep(&servfail));
    assert_eq!(lab.ask("www.example.").unwrap().metadata.response_code, ResponseCode::NoError);
    lab.pass(Duration::from_secs(10) + DAY);
    assert!(lab.keep(&servfail));
}

#[test]
fn after_a_failed_refresh_nobody_waits_and_one_tries_again_each_second() {
    let mut lab = Lab::new(1 << 20, DAY);
    lab.keep(&positive("www.example.", &[10]));
    lab.pass(Duration::from_secs(10));
    let stale = |lab: &Lab| match lab.get("www.example.") {
        Lookup::Stale { held, refresh, .. } => (held, refresh),
        other @ (Lookup::Fresh { .. } | Lookup::Miss) => panic!("{other:?}"),
    };
    assert_eq!(stale(&lab), (false, false));

    lab.keep(&negative("www.example.", ResponseCode::ServFail, None, false));
    assert_eq!(stale(&lab), (true, false));
    lab.pass(Duration::from_secs(1));
    assert_eq!(stale(&lab), (true, true));
    assert_eq!(stale(&lab), (true, false), "it is under way");
    lab.pass(Duration::from_secs(29));
    assert_eq!(stale(&lab), (false, false), "somebody waits for it again");

    let question = key("www.example.");
    lab.cache.hold(&plain(&question), lab.now);
    assert_eq!(stale(&lab), (true, false));
    lab.keep(&positive("www.example.", &[10]));
    assert!(lab.ask("www.example.").is_some());
}

#[test]
fn an_expired_answer_is_stale_for_as_long_as_allowed() {
    let mut lab = Lab::new(1 << 20, DAY);
    lab.keep(&positive("www.example.", &[10]));

    lab.pass(Duration::from_secs(10));
    let Lookup::Stale { answer, .. } = lab.get("www.example.") else { panic!("not stale") };
    let stale = read(&answer, "www.example.", Ttl::Fixed(30));
    assert_eq!(ttls(&stale), [30]);
    assert!(!stale.metadata.authentic_data);

    lab.pass(Duration::from_secs(86_399));
    assert!(matches!(lab.get("www.example."), Lookup::Stale { .. }));
    lab.pass(Duration::from_secs(1));
    assert!(matches!(lab.get("www.example."), Lookup::Miss));
}

#[test]
fn one_user_of_an_answer_about_to_expire_is_asked_to_refresh_it() {
    let mut lab = Lab::new(1 << 20, DAY);
    lab.keep(&positive("www.example.", &[100]));
    let refresh =
        |lab: &Lab| matches!(lab.get("www.example."), Lookup::Fresh { refresh: true, .. });

    lab.pass(Duration::from_secs(91));
    assert!(!refresh(&lab), "nobody else has used it");
    assert!(refresh(&lab));
    assert!(!refresh(&lab), "it is under way");
}

#[test]
fn relaxed_answers_are_short_lived_and_never_stale_or_authentic() {
    let mut lab = Lab::new(1 << 20, DAY);
    lab.keep_as(&positive("www.example.", &[300]), Provenance::Relaxed(ChainId(1)), true);

    let fresh = lab.ask("www.example.").unwrap();
    assert_eq!(ttls(&fresh), [60]);
    assert!(!fresh.metadata.authentic_data);
    lab.pass(Duration::from_secs(60));
    assert!(matches!(lab.get("www.example."), Lookup::Miss));
}

#[test]
fn settling_keeps_what_came_through_chains_that_passed() {
    let lab = Lab::new(1 << 20, DAY);
    lab.keep(&positive("strict.example.", &[300]));
    for (name, chain) in [("good.example.", 1), ("bad.example.", 2), ("worse.example.", 3)] {
        lab.keep_as(&positive(name, &[300]), Provenance::Relaxed(ChainId(chain)), true);
    }
    assert_eq!(lab.cache.stats().relaxed, 3);
    let asked_before = lab.cache.era();

    let settled = lab.cache.settle(&BTreeSet::from([ChainId(1)]));

    assert_eq!(settled, Settled { kept: 1, dropped: 2 });
    assert_eq!((lab.cache.stats().entries, lab.cache.stats().relaxed), (2, 0));
    assert!(lab.ask("good.example.").is_some() && lab.ask("strict.example.").is_some());
    assert!(lab.ask("bad.example.").is_none());

    // An answer that was on its way meanwhile came through a chain that has been judged.
    let question = key("late.example.");
    let late = Answer::new(&positive("late.example.", &[300]), &question, TTLS, true).unwrap();
    let provenance = Provenance::Relaxed(ChainId(2));
    assert!(!lab.cache.insert(&plain(&question), &late, provenance.into(), asked_before, lab.now));
}

/// Whatever comes together: past its time to live goes only what is good, unaltered and certain.
#[test]
fn every_combination_of_age_trust_validation_and_policy_is_used_as_it_may_be() {
    use Certainty::{Open, Refuted, Settled, Strict};
    let certainties = [Strict, Open, Settled, Refuted];
    let validations =
        [Validation::Bogus, Validation::Insecure, Validation::Secure, Validation::Unchecked];
    let rcodes = [ResponseCode::NoError, ResponseCode::NXDomain, ResponseCode::ServFail];
    let ages = [Age::Fresh, Age::Stale, Age::Beyond];
    let mut combinations = 0;
    for certainty in certainties {
        for validation in validations {
            for policy in [Policy::AsCame, Policy::Rewritten] {
                for rcode in rcodes {
                    for age in ages {
                        let lasts = matches!(certainty, Strict | Settled)
                            && validation != Validation::Bogus
                            && policy == Policy::AsCame
                            && rcode != ResponseCode::ServFail;
                        let expected = match age {
                            Age::Fresh if certainty != Refuted => "fresh",
                            Age::Stale if lasts => "stale",
                            Age::Fresh | Age::Stale | Age::Beyond => "nothing",
                        };
                        let (used, saved) = used(certainty, validation, policy, rcode, age);
                        let case = (certainty, validation, policy, rcode, age);
                        assert_eq!(used, expected, "{case:?}");
                        // To disk goes what may come back as stale.
                        assert_eq!(saved, lasts && !matches!(age, Age::Beyond), "{case:?}");
                        combinations += 1;
                    }
                }
            }
        }
    }
    assert_eq!(combinations, 288);
}

#[test]
fn other_filter_lists_drop_what_was_rewritten_and_what_does_not_pass() {
    let lab = Lab::new(1 << 20, DAY);
    let children = View(7);
    let rewritten = Standing { policy: Policy::Rewritten, ..Standing::from(Provenance::Strict) };
    let plain_standing = Standing::from(Provenance::Strict);
    lab.keep_under(&positive("rewritten.example.", &[300]), children, rewritten, false);
    lab.keep_under(&positive("game.example.", &[300]), children, plain_standing, false);
    lab.keep(&positive("game.example.", &[300]));
    lab.keep(&positive("www.example.", &[300]));
    let asked_before = lab.cache.era();

    let dropped =
        lab.cache.rejudge(|name, view| !(view == children && name.starts_with(b"\x04game")));

    assert_eq!((dropped, lab.cache.stats().entries), (2, 2));
    assert!(lab.ask("game.example.").is_some() && lab.ask("www.example.").is_some());
    // What was on its way meanwhile passed the lists of before.
    let question = key("late.example.");
    let late = Answer::new(&positive("late.example.", &[300]), &question, TTLS, false).unwrap();
    assert!(!lab.cache.insert(&plain(&question), &late, plain_standing, asked_before, lab.now));
}

#[test]
fn every_kind_of_question_has_an_answer_of_its_own() {
    let lab = Lab::new(1 << 20, DAY);
    lab.keep(&positive("www.example.", &[300]));

    let question = key("www.example.");
    let other = Key { dnssec_ok: true, ..plain(&question) };
    assert!(matches!(lab.cache.get(&other, lab.now), Lookup::Miss));
    let other = Key { checking_disabled: true, ..plain(&question) };
    assert!(matches!(lab.cache.get(&other, lab.now), Lookup::Miss));
    let other = Key { view: View(1), ..plain(&question) };
    assert!(matches!(lab.cache.get(&other, lab.now), Lookup::Miss));
}

#[test]
fn long_answers_displace_each_other_and_no_short_ones() {
    let lab = Lab::new(4 << 20, DAY);
    let shorts = || (0..20_000).map(|n| format!("short{n}.example."));
    for name in shorts() {
        lab.keep(&positive(&name, &[300]));
    }

    // 20 KB each, and asked for again and again.
    let longs = || (0..500).map(|n| format!("long{n}.example."));
    for name in longs() {
        assert!(lab.keep(&long(&name)));
        for _ in 0..3 {
            lab.get(&name);
        }
    }

    let stats = lab.cache.stats();
    assert!(stats.bytes <= stats.limit, "{stats:?}");
    assert_eq!(shorts().filter(|name| lab.ask(name).is_some()).count(), 20_000);
    let kept = longs().filter(|name| lab.ask(name).is_some()).count();
    assert!((16..100).contains(&kept), "{kept} long answers are kept");
}

#[test]
fn an_answer_that_grows_long_or_short_again_changes_its_place() {
    let lab = Lab::new(16 << 20, DAY);
    for _ in 0..3 {
        lab.keep(&positive("www.example.", &[300]));
        let short = lab.cache.stats();
        lab.keep(&long("www.example."));
        assert!(lab.cache.stats().bytes > 20_000);
        lab.keep(&positive("www.example.", &[300]));
        assert_eq!(lab.cache.stats().bytes, short.bytes);
        assert_eq!(lab.cache.stats().entries, 1);
    }
}

#[test]
fn a_near_answer_is_given_out_only_while_it_is_in_the_cache() {
    let lab = Lab::new(1 << 20, DAY);
    let mut near = Near::new();
    let question = key("www.example.");
    let mut ask = || match lab.cache.get_near(&mut near, &plain(&question), lab.now) {
        Lookup::Fresh { answer, .. } => Some(ttls(&read(answer, "www.example.", Ttl::Aged(0)))),
        Lookup::Miss | Lookup::Stale { .. } => None,
    };
    assert_eq!(ask(), None);
    lab.keep(&positive("www.example.", &[300]));
    assert_eq!(ask(), Some(vec![300]));
    lab.keep(&positive("www.example.", &[200]));
    assert_eq!(ask(), Some(vec![200]), "it was replaced");
    lab.cache.flush_name(&"www.example".parse().unwrap());
    assert_eq!(ask(), None, "it was flushed");
    lab.keep(&positive("www.example.", &[100]));
    assert_eq!(ask(), Some(vec![100]));
    lab.cache.rejudge(|_, _| false);
    assert_eq!(ask(), None, "it was judged");
    let relaxed = Provenance::Relaxed(ChainId(1));
    lab.keep_as(&positive("www.example.", &[40]), relaxed, true);
    assert_eq!(ask(), Some(vec![40]));
    lab.cache.settle(&BTreeSet::new());
    assert_eq!(ask(), None, "its chain failed");
}

#[test]
fn of_many_threads_one_is_told_to_refresh() {
    let mut lab = Lab::new(1 << 20, DAY);
    lab.keep(&positive("www.example.", &[100]));
    lab.get("www.example.");
    for round in 0..50 {
        lab.pass(Duration::from_secs(if round == 0 { 95 } else { 0 }));
        let told = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut near = Near::new();
                    let question = key("www.example.");
                    for _ in 0..100 {
                        let found = lab.cache.get_near(&mut near, &plain(&question), lab.now);
                        if matches!(found, Lookup::Fresh { refresh: true, .. }) {
                            told.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(told.into_inner(), 1, "round {round}");
        lab.keep(&positive("www.example.", &[100]));
        lab.pass(Duration::from_secs(95));
    }
}

#[test]
fn names_and_subtrees_can_be_flushed() {
    let lab = Lab::new(1 << 20, DAY);
    for name in ["example.", "www.example.", "xexample.", "other."] {
        lab.keep(&positive(name, &[300]));
    }

    assert_eq!(lab.cache.flush_name(&"www.example".parse().unwrap()), 1);
    lab.keep(&positive("www.example.", &[300]));
    assert_eq!(lab.cache.flush_subtree(&"example".parse().unwrap()), 2);
    assert!(lab.ask("xexample.").is_some() && lab.ask("example.").is_none());
    assert_eq!(lab.cache.flush_all(), 2);
    assert_eq!(lab.cache.stats().bytes, 0);
}

#[test]
fn a_flood_of_unique_names_does_not_evict_what_people_use() {
    let bytes = 1 << 20;
    let lab = Lab::new(bytes, DAY);
    let used: Vec<String> = (0..500).map(|n| format!("used{n}.example.")).collect();
    for name in &used {
        lab.keep(&positive(name, &[300]));
        lab.get(name);
    }

    for n in 0..20_000 {
        lab.keep(&positive(&format!("flood{n}.example."), &[300]));
        if n % 40 == 0 {
            lab.get(&used[n / 40]);
        }
    }

    let kept = used.iter().filter(|name| lab.ask(name).is_some()).count();
    assert!(kept >= 490, "{kept} of 500 are left");
    let stats = lab.cache.stats();
    assert!(stats.bytes <= bytes, "{stats:?}");
    assert!(stats.entries > 2_000, "{stats:?}");
}

#[test]
fn a_name_that_comes_back_soon_after_it_was_evicted_stays() {
    let lab = Lab::new(1 << 20, DAY);
    let flood = |range: std::ops::Range<usize>| {
        for n in range {
            lab.keep(&positive(&format!("flood{n}.example."), &[300]));
        }
    };
    flood(0..9_000);
    assert!(lab.ask("flood100.example.").is_none());

    let known = || (1_500..1_700).map(|n| format!("flood{n}.example."));
    let unknown = || (0..200).map(|n| format!("unknown{n}.example."));
    for name in known().chain(unknown()) {
        lab.keep(&positive(&name, &[300]));
    }
    flood(10_000..19_000);

    assert!(known().filter(|name| lab.ask(name).is_some()).count() > 100);
    assert_eq!(unknown().filter(|name| lab.ask(name).is_some()).count(), 0);
}

#[test]
fn what_an_upstream_says_about_an_answer_is_kept_without_its_opt_record() {
    let mut message = Message::from_vec(&positive("www.example.", &[300])).unwrap();
    let mut edns = Edns::new();
    edns.options_mut().insert(EdnsOption::Unknown(15, b"\0\x11blocked".to_vec()));
    edns.options_mut().insert(EdnsOption::Unknown(65001, b"x".to_vec()));
    message.set_edns(edns);
    let question = key("www.example.");
    let answer = Answer::new(&message.to_vec().unwrap(), &question, TTLS, false).unwrap();

    let read = read(&answer, "www.example.", Ttl::Aged(0));

    let options = read.edns.unwrap();
    let Some(EdnsOption::Unknown(_, ede)) = options.option(EdnsCode::Unknown(15)) else {
        panic!("{options:?}")
    };
    assert_eq!(ede, b"\0\x11blocked");
    assert!(options.option(EdnsCode::Unknown(65001)).is_none());
}

#[test]
fn a_failure_of_ours_says_why() {
    let question = key("www.example.");
    let answer = Answer::failure(&question, Ede::NetworkError, "connection refused", 99);

    assert_eq!((answer.rcode(), answer.lifetime()), (Rcode::SERVFAIL, 5));
    let read = read(&answer, "www.example.", Ttl::Aged(0));
    let options = read.edns.unwrap();
    let Some(EdnsOption::Unknown(_, ede)) = options.option(EdnsCode::Unknown(15)) else {
        panic!("{options:?}")
    };
    assert_eq!(ede, b"\0\x17connection refused");
}

#[test]
fn only_an_answer_to_the_question_is_taken() {
    let message = positive("www.example.", &[300]);
    let take = |message: &[u8], name| {
        Answer::new(message, &key(name), TTLS, false).map(|answer| answer.lifetime())
    };

    assert_eq!(take(&message, "www.example."), Ok(300));
    assert_eq!(take(&message, "ww2.example."), Err(AnswerError::OtherQuestion));
    let mut query = message.clone();
    query[2] &= 0x7f;
    assert_eq!(take(&query, "www.example."), Err(AnswerError::NotAResponse));
    assert!(take(&message[..message.len() - 1], "www.example.").is_err());
    assert!(matches!(take(&vec![0; 70_000], "www.example."), Err(AnswerError::Long(70_000))));
    let mut cut = message;
    cut[2] |= 2;
    assert_eq!(take(&cut, "www.example."), Ok(0));
}

proptest! {
    #[test]
    fn no_octets_make_taking_an_answer_panic(
        tail in prop::collection::vec(any::<u8>(), 0..200),
        counts in any::<[u8; 3]>(),
    ) {
        let question = key("a.b.");
        let [answers, authorities, additionals] = counts;
        let mut message = vec![0, 0, 0x80, 0, 0, 1, 0, answers, 0, authorities, 0, additionals];
        message.extend_from_slice(&question);
        message.extend_from_slice(&tail);
        if let Ok(answer) = Answer::new(&message, &question, TTLS, false) {
            let packet = packet("a.b.");
            let mut out = Vec::new();
            let query = Query::parse(&packet).unwrap();
            answer.write(&query, Ttl::Aged(7), None, &Hop::of(65_535), &mut out);
            prop_assert!(out.len() <= 65_535);
        }
    }

    /// Every record loses a second for every whole second, and the answer ends with the first.
    #[test]
    fn ageing_is_exact(ttls in prop::collection::vec(1..200_000_u32, 1..6), millis in 0..200_000_000_u64) {
        let mut lab = Lab::new(1 << 20, Duration::ZERO);
        lab.keep(&positive("www.example.", &ttls));
        lab.pass(Duration::from_millis(millis));

        let clamped: Vec<u32> = ttls.iter().map(|ttl| *ttl.min(&86_400)).collect();
        let least = clamped.iter().min().copied().unwrap();
        let age = u32::try_from(millis / 1000).unwrap();
        let expected = (age < least)
            .then(|| clamped.iter().map(|ttl| ttl - age).collect::<Vec<_>>());
        prop_assert_eq!(lab.ask("www.example.").map(|read| self::ttls(&read)), expected);
    }

    /// Through whatever a thread keeps near: the same answers.
    #[test]
    fn near_and_far_agree(
        steps in prop::collection::vec((0..40_u8, 0..12_u8, 0..40_u64), 1..200),
    ) {
        let mut lab = Lab::new(16 * 500, Duration::from_secs(60));
        let mut nears = [Near::new(), Near::new(), Near::new()];
        for (name, action, number) in steps {
            let text = format!("n{name}.example.");
            let question = key(&text);
            let ttl = u32::try_from(number).unwrap() + 1;
            match action {
                0 | 1 => _ = lab.keep(&positive(&text, &[ttl])),
                2 => {
                    let chain = Provenance::Relaxed(ChainId(number % 4));
                    lab.keep_as(&positive(&text, &[ttl]), chain, true);
                }
                3 => {
                    let failure = negative(&text, ResponseCode::ServFail, None, false);
                    lab.keep(&failure);
                }
                4 => {
                    let gone = negative(&text, ResponseCode::NXDomain, Some((ttl, ttl)), false);
                    lab.keep(&gone);
                }
                5 => lab.cache.hold(&plain(&question), lab.now),
                6 => _ = lab.cache.settle(&BTreeSet::from([ChainId(number % 4)])),
                7 => _ = lab.cache.rejudge(|name, _| u64::from(name[2]) % 10 != number % 10),
                8 => _ = lab.cache.flush_name(&text.trim_end_matches('.').parse().unwrap()),
                9 => lab.pass(Duration::from_millis(number * 100)),
                _ => {}
            }
            // Who is told to refresh is told once: that much may differ.
            let far = seen(&lab.get(&text), &text);
            for near in &mut nears {
                let found = lab.cache.get_near(near, &plain(&question), lab.now);
                prop_assert_eq!(seen(&found, &text), far.clone());
            }
        }
    }

    /// Random use never breaks the books: bytes stay under the limit and add up.
    #[test]
    fn the_books_stay_right(
        steps in prop::collection::vec((0..60_u8, 0..6_u8, 0..4_u64), 1..200),
    ) {
        let mut lab = Lab::new(16 * 1_500, Duration::from_secs(20));
        for (name, action, secs) in steps {
            let name = format!("n{name}.example.");
            match action {
                0 | 1 => _ = lab.keep(&positive(&name, &[10])),
                2 => _ = lab.keep_as(
                    &positive(&name, &[10]),
                    Provenance::Relaxed(ChainId(secs)),
                    true,
                ),
                3 => _ = lab.cache.settle(&BTreeSet::from([ChainId(secs)])),
                _ => {
                    if let Some(read) = lab.ask(&name) {
                        prop_assert_eq!(read.queries[0].name().to_string(), name);
                    }
                }
            }
            lab.pass(Duration::from_secs(secs));
            let stats = lab.cache.stats();
            prop_assert!(stats.bytes <= 16 * 1_500);
            prop_assert!(stats.entries * 150 <= stats.bytes);
        }
        lab.cache.flush_all();
        prop_assert_eq!(lab.cache.stats().bytes, 0);
    }
}

/// Through which chain an answer came, and what became of the chain.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Certainty {
    Strict,
    Open,
    Settled,
    Refuted,
}

#[derive(Clone, Copy, Debug)]
enum Age {
    Fresh,
    Stale,
    Beyond,
}

/// How the cache uses such an answer at such an age, and whether it would write it to disk.
fn used(
    certainty: Certainty,
    validation: Validation,
    policy: Policy,
    rcode: ResponseCode,
    age: Age,
) -> (&'static str, bool) {
    let mut lab = Lab::new(1 << 20, DAY);
    let message = if rcode == ResponseCode::NoError {
        positive("www.example.", &[40])
    } else {
        negative("www.example.", rcode, Some((40, 40)), false)
    };
    let relaxed = certainty != Certainty::Strict;
    let provenance = if relaxed { Provenance::Relaxed(ChainId(1)) } else { Provenance::Strict };
    let standing = Standing { provenance, validation, policy };
    assert!(lab.keep_under(&message, View::default(), standing, relaxed));
    match certainty {
        Certainty::Settled => _ = lab.cache.settle(&BTreeSet::from([ChainId(1)])),
        Certainty::Refuted => _ = lab.cache.settle(&BTreeSet::new()),
        Certainty::Strict | Certainty::Open => {}
    }
    let lifetime = Duration::from_secs(if rcode == ResponseCode::ServFail { 5 } else { 40 });
    let at = match age {
        Age::Fresh => lifetime,
        Age::Stale | Age::Beyond => lifetime + DAY,
    };
    let short_of = u64::from(!matches!(age, Age::Beyond));
    lab.pass(at.saturating_sub(Duration::from_millis(short_of)));
    let saved = lab.cache.measure(u64::MAX, lab.now).entries > 0;
    let used = match lab.get("www.example.") {
        Lookup::Fresh { .. } => "fresh",
        Lookup::Stale { .. } => "stale",
        Lookup::Miss => "nothing",
    };
    (used, saved)
}

/// A cache and a virtual clock.
pub(in crate::cache) struct Lab {
    pub(in crate::cache) cache: Cache,
    pub(in crate::cache) now: Instant,
}

impl Lab {
    pub(in crate::cache) fn new(bytes: usize, stale: Duration) -> Self {
        Self { cache: Cache::new(bytes, stale), now: start() }
    }

    pub(in crate::cache) fn pass(&mut self, by: Duration) {
        self.now += by;
    }

    pub(in crate::cache) fn keep(&self, message: &[u8]) -> bool {
        self.keep_as(message, Provenance::Strict, false)
    }

    pub(in crate::cache) fn keep_as(
        &self,
        message: &[u8],
        provenance: Provenance,
        relaxed: bool,
    ) -> bool {
        self.keep_under(message, View::default(), provenance.into(), relaxed)
    }

    pub(in crate::cache) fn keep_under(
        &self,
        message: &[u8],
        view: View,
        standing: Standing,
        relaxed: bool,
    ) -> bool {
        let question = crate::wire::Message::parse(message).unwrap().question();
        let answer = Answer::new(message, question, TTLS, relaxed).unwrap();
        let key = Key { view, ..plain(question) };
        self.cache.insert(&key, &answer, standing, self.cache.era(), self.now)
    }

    pub(in crate::cache) fn get(&self, name: &str) -> Lookup {
        self.cache.get(&plain(&key(name)), self.now)
    }

    /// The fresh answer as a client reads it.
    pub(in crate::cache) fn ask(&self, name: &str) -> Option<Message> {
        match self.get(name) {
            Lookup::Fresh { answer, age, .. } => Some(read(&answer, name, Ttl::Aged(age))),
            Lookup::Miss | Lookup::Stale { .. } => None,
        }
    }
}

/// What is told of a question, but for whom is told to refresh it.
pub(in crate::cache) fn seen<A: std::borrow::Borrow<Answer>>(
    found: &Lookup<A>,
    name: &str,
) -> Option<(Option<u32>, bool, Message)> {
    match found {
        Lookup::Fresh { answer, age, .. } => {
            Some((Some(*age), false, read(answer.borrow(), name, Ttl::Aged(*age))))
        }
        Lookup::Stale { answer, held, .. } => {
            Some((None, *held, read(answer.borrow(), name, Ttl::Fixed(30))))
        }
        Lookup::Miss => None,
    }
}

fn read(answer: &Answer, name: &str, ttl: Ttl) -> Message {
    let packet = packet(name);
    let mut out = Vec::new();
    answer.write(&Query::parse(&packet).unwrap(), ttl, None, &Hop::of(65_535), &mut out);
    Message::from_vec(&out).unwrap()
}

fn ttls(message: &Message) -> Vec<u32> {
    message.all_sections().map(|record| record.ttl).collect()
}

pub(in crate::cache) fn plain(question: &[u8]) -> Key<'_> {
    Key { question, dnssec_ok: false, checking_disabled: false, view: View::default() }
}

/// The canonical question `name A IN`.
pub(in crate::cache) fn key(name: &str) -> Vec<u8> {
    Query::parse(&packet(name)).unwrap().key().to_vec()
}

fn packet(name: &str) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.authentic_data = true;
    message.add_query(Question::query(name.parse().unwrap(), RecordType::A));
    message.set_edns(Edns::new());
    message.to_vec().unwrap()
}

fn response(name: &str) -> Message {
    let mut message = Message::new(7, MessageType::Response, OpCode::Query);
    message.metadata.authentic_data = true;
    message.add_query(Question::query(name.parse().unwrap(), RecordType::A));
    message
}

/// An answer with one A record for each time to live.
pub(in crate::cache) fn positive(name: &str, ttls: &[u32]) -> Vec<u8> {
    let owner: HickoryName = name.parse().unwrap();
    let mut message = response(name);
    for (&ttl, last) in ttls.iter().zip(1..) {
        let rdata = RData::A(A::new(192, 0, 2, last));
        message.add_answer(Record::from_rdata(owner.clone(), ttl, rdata));
    }
    message.to_vec().unwrap()
}

/// An answer of some 20 KB.
fn long(name: &str) -> Vec<u8> {
    let mut message = Message::from_vec(&positive(name, &[300])).unwrap();
    let text = hickory_proto::rr::rdata::TXT::new(vec!["x".repeat(250); 80]);
    let owner: HickoryName = name.parse().unwrap();
    message.add_answer(Record::from_rdata(owner, 300, RData::TXT(text)));
    message.to_vec().unwrap()
}

/// An answer without an A record; `soa` is its time to live and its last field.
pub(in crate::cache) fn negative(
    name: &str,
    rcode: ResponseCode,
    soa: Option<(u32, u32)>,
    cname: bool,
) -> Vec<u8> {
    let owner: HickoryName = name.parse().unwrap();
    let mut message = response(name);
    message.metadata.response_code = rcode;
    if cname {
        let rdata = RData::CNAME(CNAME("target.example.".parse().unwrap()));
        message.add_answer(Record::from_rdata(owner.clone(), 900, rdata));
    }
    if let Some((ttl, minimum)) = soa {
        let soa = SOA::new(owner.clone(), owner, 1, 2, 3, 4, minimum);
        message.add_authority(Record::from_rdata(
            "example.".parse().unwrap(),
            ttl,
            RData::SOA(soa),
        ));
    }
    message.to_vec().unwrap()
}
