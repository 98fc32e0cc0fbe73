//! A million random questions: whichever way the answer path takes, it gives the same octets, and
//! they are what was stored, aged to the second, for this client.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use firstlight::cache::{Answer, Bounds, Cache, Key, Near, Provenance};
use firstlight::clock::UnixTime;
use firstlight::config::{ClientNetwork, Plaintext};
use firstlight::dns::answer::{AnswerSettings, Answerer};
use firstlight::dns::listen::Quick;
use firstlight::dns::{BoxFuture, Client, Forward, ForwardError, Forwarded, Protocol};
use firstlight::host::kernel::{KernelClock, OsClock};
use firstlight::names::{Entry, Names};
use firstlight::node::ports::Clock;
use firstlight::wire::Query;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, CNAME, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const QUESTIONS: usize = 1_000_000;
/// One in so many answers is read by hickory-proto and compared record by record.
const READ: usize = 40;
const NAMES: usize = 400;

#[test]
fn every_way_to_an_answer_gives_the_same_octets_and_the_right_ones() {
    let halves: Vec<_> =
        [1, 2].map(|seed| thread::spawn(move || Lab::new(seed).ask(QUESTIONS / 2))).into();
    let mut answered = 0;
    for half in halves {
        answered += half.join().unwrap();
    }
    eprintln!("{answered} of {QUESTIONS} questions were answered at once");
    assert!(answered > QUESTIONS / 2, "{answered}");
}

struct Lab {
    rng: StdRng,
    clock: Arc<VirtualClock>,
    answerer: Answerer,
    near: Near,
    stored: Vec<Stored>,
    /// Keeps the handle's runtime alive.
    _runtime: tokio::runtime::Runtime,
}

/// What the upstream said, and when.
struct Stored {
    message: Message,
    at: Instant,
}

impl Lab {
    fn new(seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let clock = Arc::new(VirtualClock(Mutex::new(KernelClock.mono())));
        let cache = Arc::new(Cache::new(64 << 20, Duration::from_secs(86_400)));
        let answerer = Answerer::new(
            settings(),
            Arc::clone(&cache),
            Arc::new(Nobody),
            Arc::<VirtualClock>::clone(&clock),
            runtime.handle().clone(),
        );
        let mut lab = Self {
            rng: StdRng::seed_from_u64(seed),
            clock,
            answerer,
            near: Near::new(),
            stored: Vec::new(),
            _runtime: runtime,
        };
        lab.stored = (0..NAMES).map(|number| lab.store(number)).collect();
        lab
    }

    /// Keeps a random answer for the name of this number, whatever flags it is asked for with.
    fn store(&mut self, number: usize) -> Stored {
        let message = self.random_answer(number);
        let octets = message.to_vec().unwrap();
        let asked = plain_query(number).to_vec().unwrap();
        let question = Query::parse(&asked).unwrap();
        let answer = Answer::new(&octets, question.key(), TTLS, false).unwrap();
        let (cache, now) = (self.answerer.cache(), self.clock.mono());
        for (dnssec_ok, checking_disabled) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let key = Key { dnssec_ok, checking_disabled, ..Key::of(&question) };
            cache.insert(&key, &answer, Provenance::Strict.into(), cache.era(), now);
        }
        Stored { message, at: now }
    }

    fn random_answer(&mut self, number: usize) -> Message {
        let owner = name(number);
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.add_query(Question::query(owner.clone(), RecordType::A));
        message.metadata.authentic_data = self.rng.random();
        let ttl = |rng: &mut StdRng| rng.random_range(1..100_000);
        let mut at = owner.clone();
        for _ in 0..self.rng.random_range(0..3) {
            let target: Name =
                format!("t{}.target.example.", self.rng.random_range(0..99)).parse().unwrap();
            let alias = RData::CNAME(CNAME(target.clone()));
            message.add_answer(Record::from_rdata(at, ttl(&mut self.rng), alias));
            at = target;
        }
        match self.rng.random_range(0..5) {
            0 => {
                message.metadata.response_code =
                    if self.rng.random() { ResponseCode::NXDomain } else { ResponseCode::NoError };
                let zone: Name = "example.".parse().unwrap();
                let minimum = self.rng.random_range(1..5_000);
                let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, minimum);
                message.add_authority(Record::from_rdata(
                    zone,
                    ttl(&mut self.rng),
                    RData::SOA(soa),
                ));
            }
            1 => {
                for _ in 0..self.rng.random_range(1..12) {
                    let text = "x".repeat(self.rng.random_range(1..250));
                    let text = RData::TXT(TXT::new(vec![text]));
                    message.add_additional(Record::from_rdata(
                        at.clone(),
                        ttl(&mut self.rng),
                        text,
                    ));
                }
                let address = RData::A(A(Ipv4Addr::from(self.rng.random::<u32>())));
                message.add_answer(Record::from_rdata(at, ttl(&mut self.rng), address));
            }
            _ => {
                for _ in 0..self.rng.random_range(1..90) {
                    let address = RData::A(A(Ipv4Addr::from(self.rng.random::<u32>())));
                    message.add_answer(Record::from_rdata(at.clone(), ttl(&mut self.rng), address));
                }
            }
        }
        if self.rng.random_ratio(1, 4) {
            let mut edns = Edns::new();
            edns.options_mut().insert(EdnsOption::Unknown(15, b"\0\x11filtered".to_vec()));
            message.set_edns(edns);
        }
        message
    }

    /// Asks so many random questions; returns how many were answered at once.
    fn ask(mut self, questions: usize) -> usize {
        let mut answered = 0;
        let (mut quick, mut near) = (Vec::new(), Vec::new());
        for count in 0..questions {
            if self.rng.random_ratio(1, 500) {
                *self.clock.0.lock().unwrap() +=
                    Duration::from_millis(self.rng.random_range(0..2_000));
            }
            if self.rng.random_ratio(1, 2_000) {
                let number = self.rng.random_range(0..NAMES);
                self.stored[number] = self.store(number);
            }
            let (number, packet) = self.random_query();
            let client = self.random_client();
            let found = self.answerer.quick(&packet, &client, None, &mut quick);
            let again = self.answerer.quick(&packet, &client, Some(&mut self.near), &mut near);
            assert_eq!(found, again, "{packet:02x?}");
            match found {
                Quick::Slow => continue,
                Quick::Drop => {
                    assert_eq!(self.slow(&packet, &client), None);
                    continue;
                }
                Quick::Reply(_) => {}
            }
            answered += 1;
            assert_eq!(quick, near, "{packet:02x?}");
            assert_eq!(self.slow(&packet, &client).as_deref(), Some(&quick[..]), "{packet:02x?}");
            check_frame(&packet, &client, &quick);
            if let Some(number) = number
                && count % READ == 0
            {
                self.check_records(number, &packet, &quick);
            }
        }
        answered
    }

    /// The answer of the way that may wait; nothing is waited for.
    fn slow(&self, packet: &[u8], client: &Client) -> Option<Vec<u8>> {
        let answer = pin!(self.answerer.answer(packet, client));
        match answer.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => answer.map(|(reply, _)| reply),
            Poll::Pending => panic!("what the quick way answers the slow way waits for"),
        }
    }

    /// A question, and the number of the name it is about if it is whole and about one of ours.
    fn random_query(&mut self) -> (Option<usize>, Vec<u8>) {
        let number = self.rng.random_range(0..NAMES);
        let mut message = plain_query(number);
        message.metadata.id = self.rng.random();
        message.metadata.recursion_desired = self.rng.random();
        message.metadata.authentic_data = self.rng.random();
        message.metadata.checking_disabled = self.rng.random();
        if self.rng.random_ratio(3, 4) {
            let mut edns = Edns::new();
            edns.set_max_payload(self.rng.random()).set_dnssec_ok(self.rng.random());
            for code in [10, 11, 12, 65_001] {
                if self.rng.random_ratio(1, 4) {
                    let len = match code {
                        10 => [8, 16, 24, 40, 5][self.rng.random_range(0..5)],
                        11 => 0,
                        _ => self.rng.random_range(0..60),
                    };
                    let content = (0..len).map(|_| self.rng.random()).collect();
                    edns.options_mut().insert(EdnsOption::Unknown(code, content));
                }
            }
            message.set_edns(edns);
        }
        let ours = match self.rng.random_range(0..20) {
            0 => {
                message.queries[0].set_name("pi.home.lan.".parse().unwrap());
                None
            }
            1 => {
                message.queries[0].set_query_type(RecordType::ANY);
                None
            }
            2 => {
                message.queries[0].set_query_type(RecordType::AXFR);
                None
            }
            _ => Some(number),
        };
        let mut packet = message.to_vec().unwrap();
        for octet in &mut packet[12..24] {
            if self.rng.random() {
                octet.make_ascii_uppercase();
            }
        }
        if self.rng.random_ratio(1, 10) {
            for _ in 0..self.rng.random_range(1..4) {
                let at = self.rng.random_range(0..packet.len());
                packet[at] = self.rng.random();
            }
            packet.truncate(self.rng.random_range(1..=packet.len()));
            return (None, packet);
        }
        (ours, packet)
    }

    fn random_client(&mut self) -> Client {
        let protocols = [Protocol::Doh, Protocol::Dot, Protocol::Tcp, Protocol::Udp, Protocol::Udp];
        let protocol = protocols[self.rng.random_range(0..protocols.len())];
        let network = [[192, 168, 1], [203, 0, 113]][usize::from(self.rng.random_ratio(1, 30))];
        let [a, b, c] = network;
        let address = (Ipv4Addr::new(a, b, c, self.rng.random()), 5353).into();
        Client { address, protocol, arrived: self.clock.mono() }
    }

    /// Compares a reply, as hickory-proto reads it, with what was stored.
    fn check_records(&self, number: usize, packet: &[u8], reply: &[u8]) {
        let (asked, read) = (Message::from_vec(packet).unwrap(), Message::from_vec(reply).unwrap());
        if read.metadata.truncation
            || !matches!(
                read.metadata.response_code,
                ResponseCode::NoError | ResponseCode::NXDomain
            )
        {
            return;
        }
        let Stored { message, at } = &self.stored[number];
        assert_eq!(read.metadata.response_code, message.metadata.response_code);
        let age = u32::try_from((self.clock.mono() - *at).as_secs()).unwrap();
        let stale = read.edns.as_ref().is_some_and(|edns| {
            edns.options().as_ref().iter().any(|(_, option)| {
                matches!(option, EdnsOption::Unknown(15, text) if text.starts_with(b"\0\x03") || text.starts_with(b"\0\x13"))
            })
        });
        assert!(!stale, "no refresh has failed");
        let lifetime = lifetime(message);
        let positive = message.answers.iter().any(|it| it.record_type() == RecordType::A);
        let expected: Vec<_> = message
            .all_sections()
            .map(|record| {
                let ttl = record.ttl.min(TTLS.max);
                let ttl = if positive { ttl } else { ttl.min(lifetime) };
                (record.name.to_string(), record.data.clone(), ttl - age)
            })
            .collect();
        let got: Vec<_> = read
            .all_sections()
            .map(|record| (record.name.to_string().to_lowercase(), record.data.clone(), record.ttl))
            .collect();
        assert_eq!(got, expected);
        let understands = asked.metadata.authentic_data
            || asked.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        assert_eq!(read.metadata.authentic_data, message.metadata.authentic_data && understands);
    }
}

/// For how long an answer is fresh (RFC 2308 section 5 for one that denies).
fn lifetime(message: &Message) -> u32 {
    let least = message.all_sections().map(|record| record.ttl).min().unwrap_or(0).min(TTLS.max);
    let denial = message.authorities.iter().filter_map(|record| {
        let RData::SOA(soa) = &record.data else { return None };
        Some(soa.minimum.min(record.ttl))
    });
    denial.min().map_or(least, |denial| denial.min(least))
}

/// What holds for every reply: it is this client's own, and no longer than it may be.
fn check_frame(packet: &[u8], client: &Client, reply: &[u8]) {
    assert_eq!(reply[..2], packet[..2], "the id");
    assert_eq!(reply[2] & 0x80, 0x80, "QR");
    let Ok(query) = Query::parse(packet) else { return };
    assert_eq!(reply[2] & 1, packet[2] & 1, "RD");
    assert_eq!(reply[3] & 0x10, packet[3] & 0x10, "CD");
    assert_eq!(
        reply[12..12 + query.question.len()],
        *query.question,
        "the question as it was asked"
    );
    let size = query.edns.map_or(512, |edns| usize::from(edns.udp_size));
    if client.protocol == Protocol::Udp {
        assert!(reply.len() <= size.clamp(512, 1232), "{} octets", reply.len());
    } else {
        assert_eq!(reply[2] & 2, 0, "TC where nothing limits the length");
        let padded = query.edns.is_some_and(|edns| edns.padded);
        if padded && client.protocol != Protocol::Tcp {
            assert_eq!(reply.len() % 468, 0, "padding");
        }
    }
}

fn plain_query(number: usize) -> Message {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.add_query(Question::query(name(number), RecordType::A));
    message
}

fn name(number: usize) -> Name {
    format!("name{number}.example.").parse().unwrap()
}

const TTLS: Bounds = Bounds { min: 0, max: 86_400 };

fn settings() -> AnswerSettings {
    let pi = Entry {
        name: "pi.home.lan".parse().unwrap(),
        wildcard: false,
        addresses: vec![Ipv4Addr::new(10, 77, 0, 2).into()],
        cname: None,
        txt: Vec::new(),
        ttl: 60,
    };
    AnswerSettings {
        pace: 200,
        names: Names::new(&[pi], false),
        clients: vec![ClientNetwork::Local],
        rate: 0,
        plaintext: Plaintext::Serve,
        ttls: TTLS,
        stale: Duration::from_secs(86_400),
        patience: Duration::from_secs(60),
        idle: Duration::from_secs(15),
    }
}

/// An upstream that never answers.
#[derive(Debug)]
struct Nobody;

impl Forward for Nobody {
    fn forward(&self, _: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
        Box::pin(std::future::pending())
    }
}

#[derive(Debug)]
struct VirtualClock(Mutex<Instant>);

impl Clock for VirtualClock {
    fn mono(&self) -> Instant {
        *self.0.lock().unwrap()
    }

    fn utc_at(&self, _: Instant) -> UnixTime {
        UnixTime::EPOCH
    }
}
