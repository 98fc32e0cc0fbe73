//! Validation beside unbound's: zones in order, and zones broken on purpose, signed by knotd.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use firstlight::cache::Validation;
use firstlight::clock::{CertDates, Level, Nanos, TimeTrust, UnixTime};
use firstlight::dns::{Anchors, BoxFuture, Forward, ForwardError, Forwarded, Validator};
use firstlight::host::kernel::{KernelClock, OsClock};
use firstlight::node::ports::Clock;
use firstlight::wire::Ede;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::rr::{Name, RecordType};
use lab::signed::{Signed, ZONES};
use lab::{Lab, find};
use libtest_mimic::{Arguments, Trial};

type Test = fn(&Lab, &Signed);

const TESTS: &[(&str, Test)] = &[
    ("verdicts_are_unbound_s_over_zones_in_order_and_broken_ones", verdicts),
    ("what_is_bogus_is_refused_with_its_reason", reasons),
    ("whoever_validates_itself_gets_the_data_as_it_is", checking_disabled),
    ("below_a_negative_anchor_nothing_is_validated", negative_anchors),
    ("in_1970_signatures_count_without_dates_and_are_looked_at_again_when_time_is_known", in_1970),
    ("a_denial_that_was_expanded_with_its_wildcard_is_the_wildcard_s", expanded),
    ("the_daemon_validates_from_the_first_second_on", daemon),
];

fn main() {
    let missing = ["knotd", "keymgr", "unbound"].iter().find(|program| find(program).is_none());
    // Signed once; every test has validators of its own.
    let world = Arc::new(LazyLock::new(|| {
        let lab = Lab::new();
        let signed = Signed::new(&lab);
        (lab, signed)
    }));
    let trials = TESTS.iter().map(|&(name, test)| match missing {
        None => {
            let world = Arc::clone(&world);
            Trial::test(name, move || {
                test(&world.0, &world.1);
                Ok(())
            })
        }
        Some(program) => {
            Trial::test(format!("{name} (needs {program})"), || Ok(())).with_ignored_flag(true)
        }
    });
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials.collect());
    // Ends the servers.
    drop(world);
    conclusion.exit();
}

/// Everything that is asked of every zone.
const QUESTIONS: &[(&str, RecordType)] = &[
    ("", RecordType::SOA),
    ("", RecordType::DNSKEY),
    ("", RecordType::DS),
    ("", RecordType::MX),
    ("www", RecordType::A),
    ("www", RecordType::AAAA),
    ("www", RecordType::MX),
    ("www", RecordType::DS),
    ("gone", RecordType::A),
    ("below.www", RecordType::A),
    ("one.wild", RecordType::A),
    ("one.wild", RecordType::AAAA),
    ("two.one.wild", RecordType::A),
    ("wild", RecordType::A),
    ("empty.above", RecordType::A),
    ("deep.empty.above", RecordType::A),
    ("alias", RecordType::A),
    ("alias", RecordType::CNAME),
    ("out", RecordType::A),
    ("nowhere", RecordType::A),
    ("into", RecordType::A),
    ("www.moved", RecordType::A),
    ("gone.moved", RecordType::A),
    ("sub", RecordType::DS),
];

fn verdicts(_: &Lab, signed: &Signed) {
    let validator = validator(signed, 0, &[]);
    validator.rise(trust(CertDates::Strict));

    let mut differences = Vec::new();
    let zones = ZONES.iter().map(|zone| zone.name).chain([".", "test."]);
    for zone in zones {
        for &(label, rtype) in QUESTIONS {
            let name = match (label, zone) {
                ("", zone) => zone.to_owned(),
                (label, ".") => format!("{label}."),
                (label, zone) => format!("{label}.{zone}"),
            };
            let name = Name::from_ascii(&name).unwrap();
            let theirs = exchange(signed.validating, &question(&name, rtype));
            let theirs = Verdict::of(&Message::from_vec(&theirs).unwrap());
            let (ours, why) = ask(&validator, &name, rtype);
            if ours != theirs {
                differences.push(format!("{name} {rtype}: {ours:?} {why}, unbound {theirs:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}\n", differences.join("\n"));
}

/// The daemon boots in 1970 beside an upstream that validates nothing.
fn daemon(lab: &Lab, signed: &Signed) {
    let (setup, wan) = lab.honest();
    wan.down();
    let dns = format!("[dns]\nvalidate = true\ntrust_anchors = \"{}\"\n", signed.anchors.display());
    let (name, address) = &signed.tls;
    let upstream = format!(
        "[[upstream]]\nname = \"{name}\"\naddresses = [\"{}\"]\nport = {}\nca = \"ca.pem\"\n\n[dns]\n",
        address.ip(),
        address.port(),
    );
    let setup = setup.replacing("[dns]\n", &dns).replacing("[dns]\n", &upstream);
    let mut daemon = setup.boot();
    daemon.serves(lab).unwrap();
    let ask = |name: &str| {
        let answer = exchange(lab.dns(), &question(&name_of(name), RecordType::A));
        Message::from_vec(&answer).unwrap()
    };
    let told = |message: &Message| {
        let edns = message.edns.as_ref().unwrap();
        let octets: Vec<_> = edns
            .option(EdnsCode::Unknown(15))
            .map(|option| Vec::<u8>::try_from(option).unwrap())
            .unwrap_or_default();
        String::from_utf8_lossy(octets.get(2..).unwrap_or_default()).into_owned()
    };

    let good = ask("www.nsec3.test.");
    assert_eq!(good.metadata.response_code, ResponseCode::NoError, "{}", told(&good));
    assert!(!good.metadata.authentic_data, "the time is not known");
    assert_eq!(ask("www.expired.test.").metadata.response_code, ResponseCode::NoError);
    let bad = ask("www.badsig.test.");
    assert_eq!(bad.metadata.response_code, ResponseCode::ServFail);
    assert!(told(&bad).contains("the signature is wrong"), "{}", told(&bad));

    // Nothing tells the time but the root zone, which was signed a moment ago.
    let signed = KernelClock.utc();
    let guessed = daemon.wait_for("a guess", 15, |status| {
        let shown: jiff::Timestamp = status.time.utc.parse().unwrap();
        (shown.as_second() - signed.secs()).abs() < 6 * 3600
    });
    assert_eq!((&*guessed.time.level, guessed.time.ntp.synchronized), ("cold", false));
    assert_ne!(guessed.time.certificate_dates, "strict");

    wan.up();
    daemon.wait_for("time is found and verified", 15, |status| {
        status.time.verified && status.time.certificate_dates == "strict"
    });
    let good = ask("www.nsec3.test.");
    assert_eq!(good.metadata.response_code, ResponseCode::NoError, "{}", told(&good));
    assert!(good.metadata.authentic_data, "{good:?}");
    let late = ask("www.expired.test.");
    assert_eq!(late.metadata.response_code, ResponseCode::ServFail);
    assert!(told(&late).contains("the signature expired"), "{}", told(&late));
}

/// What a resolver makes of a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Verdict {
    rcode: ResponseCode,
    authentic: bool,
    answers: usize,
}

impl Verdict {
    fn of(message: &Message) -> Self {
        Self {
            rcode: message.metadata.response_code,
            authentic: message.metadata.authentic_data,
            answers: message.answers.len(),
        }
    }
}

fn reasons(_: &Lab, signed: &Signed) {
    let validator = validator(signed, 0, &[]);
    validator.rise(trust(CertDates::Strict));
    for (name, code, words) in [
        ("www.badsig.test.", Ede::DnssecBogus, "the signature is wrong"),
        ("www.expired.test.", Ede::SignatureExpired, "the signature expired"),
        ("www.nokey.test.", Ede::DnskeyMissing, "nokey.test. has no DNSKEY records"),
        ("www.wrongkey.test.", Ede::DnskeyMissing, "is the one its parent vouches for"),
        ("www.nosig.test.", Ede::RrsigsMissing, "there is no signature"),
        ("gone.nonsec.test.", Ede::NsecMissing, "not proven that there is none"),
    ] {
        let answer = forward(&validator, &question(&name_of(name), RecordType::A));
        let Err(ForwardError::Bogus { code: said, text }) = answer else {
            panic!("{name}: {answer:?}")
        };
        assert_eq!(said, code, "{name}: {text}");
        assert!(text.contains(words), "{name}: {text}");
    }
}

fn checking_disabled(_: &Lab, signed: &Signed) {
    let validator = validator(signed, 0, &[]);
    validator.rise(trust(CertDates::Strict));
    let mut query =
        Message::from_vec(&question(&name_of("www.badsig.test."), RecordType::A)).unwrap();
    query.metadata.checking_disabled = true;

    let answer = forward(&validator, &query.to_vec().unwrap()).unwrap();

    let message = Message::from_vec(&answer.message).unwrap();
    assert_eq!((message.answers.len(), message.metadata.authentic_data), (2, false));
}

fn negative_anchors(_: &Lab, signed: &Signed) {
    let validator = validator(signed, 0, &["badsig.test."]);
    validator.rise(trust(CertDates::Strict));

    let (verdict, why) = ask(&validator, &name_of("www.badsig.test."), RecordType::A);
    let (other, _) = ask(&validator, &name_of("www.expired.test."), RecordType::A);

    assert_eq!((verdict.rcode, verdict.authentic), (ResponseCode::NoError, false), "{why}");
    assert_eq!(other.rcode, ResponseCode::ServFail);
}

/// As unbound answers from a zone of its own: the wildcard's NSEC record, which proves that nothing
/// nearer exists, goes by the name that was asked for.
fn expanded(_: &Lab, signed: &Signed) {
    #[derive(Debug)]
    struct Expanding(Plain);

    impl Forward for Expanding {
        fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
            let asked = Message::from_vec(&query).unwrap().queries[0].name().clone();
            let mut answer = Message::from_vec(&exchange(self.0.0, &query)).unwrap();
            for record in &mut answer.authorities {
                if record.name.is_wildcard() {
                    record.name = asked.clone();
                }
            }
            let answer = answer.to_vec().unwrap();
            Box::pin(async { Ok(Forwarded::unchecked(answer, None)) })
        }
    }
    let anchors = Anchors::from_file(&signed.anchors).unwrap();
    let upstream = Arc::new(Expanding(Plain(signed.plain)));
    let validator = Validator::new(upstream, Arc::new(Shifted(0)), anchors, &[]);
    validator.rise(trust(CertDates::Strict));

    let (verdict, why) = ask(&validator, &name_of("one.wild.nsec.test."), RecordType::A);
    assert!(verdict.authentic && verdict.rcode == ResponseCode::NoError, "{verdict:?} {why}");
    // It denies other names no better than before.
    let (verdict, why) = ask(&validator, &name_of("gone.nonsec.test."), RecordType::A);
    assert_eq!(verdict.rcode, ResponseCode::ServFail, "{why}");
}

/// The power cut of January 2025, as DNSSEC has it: every signature is "not yet valid".
fn in_1970(_: &Lab, signed: &Signed) {
    let fifty_six_years = 56 * 31_557_600;
    let validator = validator(signed, fifty_six_years, &[]);
    let good = question(&name_of("www.nsec.test."), RecordType::A);
    let late = question(&name_of("www.expired.test."), RecordType::A);
    let bad = question(&name_of("www.badsig.test."), RecordType::A);
    validator.rise(trust(CertDates::RuleR { floor: UnixTime::EPOCH }));

    for query in [&good, &late] {
        let answer = forward(&validator, query).unwrap();
        let message = Message::from_vec(&answer.message).unwrap();
        assert!(answer.undated && !message.metadata.authentic_data, "{answer:?}");
    }
    let forged = forward(&validator, &bad);
    assert!(matches!(forged, Err(ForwardError::Bogus { code: Ede::DnssecBogus, .. })));

    // What a clock that is wrong and believed would do; and then it is set.
    validator.rise(trust(CertDates::Strict));
    let early = forward(&validator, &good);
    assert!(matches!(early, Err(ForwardError::Bogus { code: Ede::SignatureNotYetValid, .. })));
    let validator = self::validator(signed, 0, &[]);
    validator.rise(trust(CertDates::Strict));
    let answer = forward(&validator, &good).unwrap();
    assert!(!answer.undated && answer.validation == Validation::Secure, "{answer:?}");
    let expired = forward(&validator, &late);
    assert!(matches!(expired, Err(ForwardError::Bogus { code: Ede::SignatureExpired, .. })));
}

fn name_of(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn ask(validator: &Validator, name: &Name, rtype: RecordType) -> (Verdict, String) {
    match forward(validator, &question(name, rtype)) {
        Ok(forwarded) => {
            let message = Message::from_vec(&forwarded.message).unwrap();
            (Verdict::of(&message), format!("{:?}", forwarded.validation))
        }
        Err(error) => {
            let verdict = Verdict { rcode: ResponseCode::ServFail, authentic: false, answers: 0 };
            (verdict, error.to_string())
        }
    }
}

fn forward(validator: &Validator, query: &[u8]) -> Result<Forwarded, ForwardError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(validator.forward(query.to_vec()))
}

/// A validator on a clock that is so many seconds behind.
fn validator(signed: &Signed, behind: i64, negative: &[&str]) -> Validator {
    let upstream = Arc::new(Plain(signed.plain));
    let anchors = Anchors::from_file(&signed.anchors).unwrap();
    let negative: Vec<_> = negative.iter().map(|name| name.parse().unwrap()).collect();
    Validator::new(upstream, Arc::new(Shifted(behind)), anchors, &negative)
}

fn trust(dates: CertDates) -> TimeTrust {
    TimeTrust {
        level: Level::Disciplined,
        verified: true,
        generation: 1,
        floor: UnixTime::EPOCH,
        dates,
    }
}

fn question(name: &Name, rtype: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.authentic_data = true;
    message.add_query(Query::query(name.clone(), rtype));
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

/// A resolver that is asked over TCP.
#[derive(Debug)]
struct Plain(SocketAddr);

impl Forward for Plain {
    fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
        let answer = exchange(self.0, &query);
        Box::pin(async { Ok(Forwarded::unchecked(answer, None)) })
    }
}

fn exchange(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let len = u16::try_from(query.len()).unwrap().to_be_bytes();
    stream.write_all(&[&len, query].concat()).unwrap();
    let mut len = [0; 2];
    let asked = || format!("{server}: {:?}", Message::from_vec(query).unwrap().queries);
    stream.read_exact(&mut len).unwrap_or_else(|error| panic!("{}: {error}", asked()));
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer).unwrap();
    answer
}

/// The machine's time, by which the zones are signed, less so many seconds.
#[derive(Debug)]
struct Shifted(i64);

impl Clock for Shifted {
    fn mono(&self) -> Instant {
        lab::now()
    }

    fn utc_at(&self, _: Instant) -> UnixTime {
        KernelClock.utc().offset(Nanos::from(-self.0) * 1_000_000_000)
    }
}
