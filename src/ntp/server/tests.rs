use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::nanos;
use crate::config::ClientNetwork;
use crate::net::{DatagramListen, Listen, Threads};
use crate::ntp::client::{AskError, Kiss, Proof, ask};

#[test]
fn a_synchronized_clock_is_served_with_its_growing_dispersion() {
    let start = TestClock.mono();
    let status = synchronized(start);

    let answer = answer(&question(4), &status, start + Duration::from_secs(1000)).unwrap();

    assert_eq!((answer.leap, answer.version, answer.mode), (1, 4, MODE_SERVER));
    assert_eq!((answer.stratum, answer.reference_id), (2, [192, 0, 2, 1]));
    assert_eq!(answer.origin_timestamp, NONCE);
    assert_eq!(answer.poll, 6);
    assert_eq!(wire::from_short(answer.root_delay), Duration::from_millis(125));
    // 10 ms, and 1000 s of 15 ppm.
    let dispersion = wire::from_short(answer.root_dispersion);
    assert!(dispersion >= Duration::from_millis(25), "{dispersion:?}");
    assert!(dispersion < Duration::from_micros(25_020), "{dispersion:?}");
    assert_eq!(wire::to_utc(answer.receive_timestamp, RECEIVED), RECEIVED);
    assert_eq!(wire::to_utc(answer.transmit_timestamp, RECEIVED), SENT);
    assert_eq!(wire::to_utc(answer.reference_timestamp, REFERENCE), REFERENCE);
}

#[test]
fn until_it_is_synchronized_it_says_so_whatever_else_the_status_holds() {
    let start = TestClock.mono();
    let status = NtpStatus { synchronized: false, ..synchronized(start) };

    let answer = answer(&question(3), &status, start).unwrap();

    assert_eq!((answer.leap, answer.stratum, answer.version), (3, 16, 3));
    assert_eq!((answer.reference_id, answer.reference_timestamp), (*b"INIT", 0));
    assert_eq!(answer.origin_timestamp, NONCE);
}

#[test]
fn what_is_no_clients_question_gets_no_answer() {
    let start = TestClock.mono();
    let status = synchronized(start);
    let cases: &[(&[u8], Silence)] = &[
        (&[], Silence::Short(0)),
        (&[0x23; 47], Silence::Short(47)),
        (&[0x13; 48], Silence::Version(2)),
        (&[0x2b; 48], Silence::Version(5)),
        (&[0x16; 48], Silence::Mode(6)),
        (&[0x17; 48], Silence::Mode(7)),
        (&[0x24; 48], Silence::Mode(4)),
        (&[0x21; 48], Silence::Mode(1)),
    ];
    for (packet, silence) in cases {
        assert_eq!(answer(packet, &status, start), Err(*silence));
        assert_eq!(kiss_rate(packet), Err(*silence));
    }
}

#[test]
fn extension_fields_and_macs_are_passed_over() {
    let start = TestClock.mono();
    let mut keyed = question(4).to_vec();
    keyed.extend([7; 20]);

    assert_eq!(
        answer(&keyed, &synchronized(start), start),
        answer(&question(4), &synchronized(start), start)
    );
}

proptest! {
    #[test]
    fn no_packet_panics_or_is_amplified(packet in prop::collection::vec(any::<u8>(), 0..120)) {
        let start = TestClock.mono();
        for answer in [respond(&packet, &synchronized(start), RECEIVED, SENT, start, None), kiss_rate(&packet)] {
            prop_assert!(answer.is_err() || packet.len() >= HEADER_LEN);
        }
    }
}

#[tokio::test]
async fn our_own_client_believes_it_only_when_it_is_synchronized() {
    let served = Served::start(None);
    served.publish(false);
    let before = served.ask().await;
    served.publish(true);
    let after = served.ask().await.unwrap();

    assert!(matches!(before, Err(AskError::Unsynchronized { leap: 3, stratum: 16 })), "{before:?}");
    let off = after.utc.since(TestClock.utc_at(after.at));
    assert!(off.abs() <= nanos(after.delay), "{off} ns off in {:?}", after.delay);
    assert_eq!(served.server.counts().answered.load(Ordering::Relaxed), 1);
    assert_eq!(served.server.counts().unsynchronized.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn who_asks_too_much_is_kissed_once_and_then_left_without_answer() {
    let served = Served::start(Some(Rate { per_second: 1, burst: 2 }));
    served.publish(true);

    let mut outcomes = Vec::new();
    for _ in 0..4 {
        outcomes.push(served.ask().await);
    }

    assert!(outcomes[0].is_ok() && outcomes[1].is_ok(), "{outcomes:?}");
    assert!(matches!(outcomes[2], Err(AskError::Kiss(Kiss::Rate))), "{outcomes:?}");
    assert!(matches!(outcomes[3], Err(AskError::Silent(_))), "{outcomes:?}");
}

#[test]
fn control_and_garbage_are_counted_and_do_not_stop_it() {
    let served = Served::start(None);
    served.publish(true);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(served.address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    for packet in [&[0x16u8; 48][..], &[0x17; 48], b"", b"hello", &[0x0b; 48]] {
        client.send(packet).unwrap();
    }
    client.send(&question(4)).unwrap();

    let mut reply = [0; 100];
    let len = client.recv(&mut reply).unwrap();

    assert_eq!(len, HEADER_LEN);
    assert_eq!(Header::parse(&reply).unwrap().origin_timestamp, NONCE);
    let counts = served.server.counts();
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    assert_eq!((of(&counts.wrong_mode), of(&counts.short), of(&counts.wrong_version)), (2, 2, 1));
}

#[test]
fn a_question_was_received_when_the_kernel_says_so() {
    let served = Served::start(None);
    let receive = |stamp| {
        let (mut own, mut reply) = (Leaving::default(), Vec::new());
        served.server.answer(&question(4), CLIENT, stamp, &mut own, &mut reply);
        let answer = Header::parse(&reply).unwrap();
        wire::between(answer.receive_timestamp, answer.transmit_timestamp)
    };

    assert!((30_000_000..60_000_000).contains(&receive(Some(STAMPED_30_MS_AGO))));
    assert!(receive(Some(RECEIVED)) < 10_000_000, "a stamp that says nothing");
    assert!(receive(None) < 10_000_000);
}

#[test]
fn an_answer_left_when_the_kernel_says_so_unless_that_is_of_another() {
    let served = Served::start(None);
    let next = |before: &Header, number, left| {
        let answer = served.interleaved_left(before.receive_timestamp, number, left);
        assert_eq!(answer.origin_timestamp, number, "in interleaved mode");
        answer
    };
    let first = served.interleaved(7, 1);

    let second = next(&first, 2, Some(STAMPED_NOW));
    let third = next(&second, 3, Some(STAMPED_30_MS_AGO));
    let fourth = next(&third, 4, None);
    let fifth = next(&fourth, 5, None);

    // It took 20 ms, of which nothing is known without a stamp, or by one from before the answer.
    let took =
        |of: &Header, told: &Header| wire::between(of.receive_timestamp, told.transmit_timestamp);
    assert!(took(&second, &third) >= 20_000_000, "{}", took(&second, &third));
    assert!(took(&third, &fourth) < 20_000_000, "{}", took(&third, &fourth));
    assert!(took(&fourth, &fifth) < 20_000_000, "{}", took(&fourth, &fifth));
}

#[test]
fn what_an_answer_was_worth_before_is_not_told_after_the_clock_was_set_or_lost() {
    let served = Served::start(None);
    let first = served.interleaved(7, 1);
    let second = served.interleaved(first.receive_timestamp, 2);
    assert_eq!(second.origin_timestamp, 2, "in interleaved mode");
    served.server.clock_was_set();

    let third = served.interleaved(second.receive_timestamp, 3);
    served.publish(false);
    let fourth = served.interleaved(third.receive_timestamp, 4);
    served.publish(true);
    let fifth = served.interleaved(fourth.receive_timestamp, 5);

    for answer in [third, fourth, fifth] {
        assert_eq!(answer.origin_timestamp, NONCE);
    }
}

#[tokio::test]
async fn clients_of_other_networks_get_no_answer() {
    let served = Served::start(None);
    served.publish(true);
    let network = |text: &str| ClientNetwork::Network(text.parse().unwrap());
    served.server.set_clients(Clients::new(&[network("192.0.2.0/24")], &[]));
    assert!(matches!(served.ask().await, Err(AskError::Silent(_))));
    assert_eq!(served.server.counts().denied.load(Ordering::Relaxed), 1);

    served.server.set_clients(Clients::new(&[ClientNetwork::Local], &[]));
    assert!(served.ask().await.is_ok());
}

#[tokio::test]
async fn who_shares_a_key_is_answered_with_its_code_and_a_wrong_code_with_a_nak() {
    let keys = |text: &str| {
        let file = std::env::temp_dir().join(format!("firstlight-keys-{}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        let keys = Keys::from_file(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        keys.0
    };
    let served = Served::start(None);
    served.publish(true);
    served.server.set_keys(keys("1 AES128 0123456789abcdef\n2 SHA1 secret\n"));
    let theirs = keys("1 AES128 0123456789abcdef\n2 SHA1 other\n3 SHA1 third\n");
    let ask = async |id| {
        let key = Proof::Key { keys: &theirs, id };
        ask(served.address, &TestClock, REFERENCE, Duration::from_millis(200), key, &[]).await
    };

    assert!(ask(1).await.is_ok());
    for id in [2, 3] {
        let outcome = ask(id).await;
        assert!(matches!(outcome, Err(AskError::Unauthenticated(_))), "{id}: {outcome:?}");
    }
    assert!(matches!(ask(4).await, Err(AskError::NoKey(4))));
    assert!(served.ask().await.is_ok(), "without a key");
    let counts = served.server.counts();
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    assert_eq!((of(&counts.authenticated), of(&counts.unauthenticated)), (1, 2));
}

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const STAMPED_30_MS_AGO: UnixTime = UnixTime::from_secs(30);
const STAMPED_NOW: UnixTime = UnixTime::from_secs(31);
const NONCE: u64 = 0x0123_4567_89ab_cdef;
const REFERENCE: UnixTime = UnixTime::from_secs(1_773_468_000);
const RECEIVED: UnixTime = UnixTime::from_secs(1_773_468_700);
const SENT: UnixTime = UnixTime::from_nanos(1_773_468_700_000_020_000);

fn question(version: u8) -> [u8; HEADER_LEN] {
    let poll = 6;
    let mode = MODE_CLIENT;
    Header { version, mode, poll, transmit_timestamp: NONCE, ..Header::default() }.emit()
}

fn answer(question: &[u8], status: &NtpStatus, now: Instant) -> Result<Header, Silence> {
    let answer = respond(question, status, RECEIVED, SENT, now, None)?;
    Ok(Header::parse(&answer).unwrap())
}

fn synchronized(since: Instant) -> NtpStatus {
    NtpStatus {
        synchronized: true,
        stratum: 2,
        reference_id: [192, 0, 2, 1],
        root_delay: Duration::from_millis(125),
        root_dispersion: Duration::from_millis(10),
        since,
        growth_ppm: 15,
        reference_time: REFERENCE,
        leap: 1,
    }
}

/// A server on a loopback port.
struct Served {
    server: Arc<TimeServer>,
    status: Arc<ArcSwap<NtpStatus>>,
    address: SocketAddr,
    _threads: Threads,
}

impl Served {
    fn start(rate: Option<Rate>) -> Self {
        let status = Arc::new(ArcSwap::from_pointee(synchronized(TestClock.mono())));
        let server = Arc::new(TimeServer::new(Arc::new(TestClock), status.clone(), rate));
        let listen = DatagramListen::new("ntp", "ntp", server.clone());
        let (address, threads) = listen.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        Self { server, status, address, _threads: threads }
    }

    fn publish(&self, is: bool) {
        let status = synchronized(TestClock.mono());
        self.status.store(Arc::new(NtpStatus { synchronized: is, ..status }));
    }

    /// Asks in interleaved mode, when the answer left that was received at `origin`; `number`
    /// is the question's.
    fn interleaved(&self, origin: u64, number: u64) -> Header {
        self.interleaved_left(origin, number, None)
    }

    /// The same; the answer leaves 20 ms later, and the kernel says that it `left` then.
    fn interleaved_left(&self, origin: u64, number: u64, left: Option<UnixTime>) -> Header {
        let question = Header {
            origin_timestamp: origin,
            receive_timestamp: number,
            ..Header::parse(&question(4)).unwrap()
        };
        let (mut own, mut reply) = (Leaving::default(), Vec::new());
        self.server.answer(&question.emit(), CLIENT, None, &mut own, &mut reply);
        let answer = Header::parse(&reply).unwrap();
        let watched = self.server.sending(&mut own);
        assert_eq!(watched, answer.origin_timestamp == number, "in interleaved mode alone");
        if watched && left.is_some() {
            std::thread::sleep(Duration::from_millis(20));
            self.server.sent(&mut own, &[left]);
        }
        answer
    }

    async fn ask(&self) -> Result<crate::clock::Reading, AskError> {
        ask(self.address, &TestClock, REFERENCE, Duration::from_millis(300), Proof::None, &[]).await
    }
}

/// A clock of its own, years off the machine's.
#[derive(Debug)]
struct TestClock;

impl Clock for TestClock {
    #[expect(clippy::disallowed_methods, reason = "real sockets need real time")]
    fn mono(&self) -> Instant {
        Instant::now()
    }

    fn utc_at(&self, at: Instant) -> UnixTime {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let start = *START.get_or_init(|| at);
        let passed =
            nanos(at.saturating_duration_since(start)) - nanos(start.saturating_duration_since(at));
        UnixTime::from_secs(2_000_000_000).offset(passed)
    }

    fn moment_of(&self, stamp: UnixTime) -> Option<Instant> {
        match stamp {
            STAMPED_NOW => Some(self.mono()),
            STAMPED_30_MS_AGO => self.mono().checked_sub(Duration::from_millis(30)),
            _ => None,
        }
    }
}
