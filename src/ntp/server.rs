//! Serves time to clients of NTP version 3 and 4, and the truth about what it is worth
//! (RFC 5905 section 9.2).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::clock::{NtpStatus, UnixTime};
use crate::net::rate::{Limiter, Rate};
use crate::net::{Clients, Datagram, Handler, Socket};
use crate::node::ports::Clock;
use crate::ntp::interleaved::Earlier;
use crate::ntp::keys::{Keys, Seal};
use crate::ntp::wire::{
    self, HEADER_LEN, Header, LEAP_UNKNOWN, MODE_CLIENT, MODE_SERVER, STRATUM_UNSYNCHRONIZED,
};

/// The answer to `question`, or why there is none.
///
/// It is 48 octets long and thus never longer than the question, of which only the header counts
/// here. While `status` is not synchronized the
/// answer says so: leap indicator 3, stratum 16.
///
/// `received` and `sent` are our UTC when the question came and as the answer
/// goes, `now` is the same as `sent` on the monotonic clock. With `earlier` the
/// answer is in interleaved mode: that is when the one before it left.
///
/// # Errors
///
/// [`Silence`]: the packet is not a client's question.
pub fn respond(
    question: &[u8],
    status: &NtpStatus,
    received: UnixTime,
    sent: UnixTime,
    now: Instant,
    earlier: Option<u64>,
) -> Result<[u8; HEADER_LEN], Silence> {
    let question = parse(question)?;
    let origin = earlier.map_or(question.transmit_timestamp, |_| question.receive_timestamp);
    let answer = Header {
        version: question.version,
        mode: MODE_SERVER,
        poll: question.poll,
        precision: PRECISION,
        origin_timestamp: origin,
        receive_timestamp: wire::from_utc(received),
        transmit_timestamp: earlier.unwrap_or_else(|| wire::from_utc(sent)),
        ..Header::default()
    };
    let standing = if status.synchronized {
        Header {
            leap: status.leap & 0b11,
            stratum: status.stratum,
            root_delay: wire::to_short(status.root_delay),
            root_dispersion: wire::to_short(status.root_dispersion_at(now)),
            reference_id: status.reference_id,
            reference_timestamp: wire::from_utc(status.reference_time),
            ..answer
        }
    } else {
        Header {
            leap: LEAP_UNKNOWN,
            stratum: STRATUM_UNSYNCHRONIZED,
            root_dispersion: wire::to_short(MAX_DISPERSION),
            // RFC 5905 figure 13: the association has not yet synchronized for the first time.
            reference_id: *b"INIT",
            ..answer
        }
    };
    Ok(standing.emit())
}

/// The kiss code RATE in answer to `question` (RFC 5905 section 7.4): ask less often.
///
/// It tells no time: all its timestamps are the client's own.
///
/// # Errors
///
/// [`Silence`]: the packet is not a client's question.
pub fn kiss_rate(question: &[u8]) -> Result<[u8; HEADER_LEN], Silence> {
    let question = parse(question)?;
    let kiss = Header {
        leap: LEAP_UNKNOWN,
        version: question.version,
        mode: MODE_SERVER,
        stratum: 0,
        poll: question.poll.max(KISS_POLL),
        precision: PRECISION,
        reference_id: *b"RATE",
        origin_timestamp: question.transmit_timestamp,
        receive_timestamp: question.transmit_timestamp,
        transmit_timestamp: question.transmit_timestamp,
        ..Header::default()
    };
    Ok(kiss.emit())
}

/// Why a packet gets no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Silence {
    /// Not a client's question: an answer, a broadcast, or the control and private modes 6
    /// and 7 that amplify.
    #[error("mode {0} is not a client's")]
    Mode(u8),
    /// Fewer than 48 octets.
    #[error("{0} octets are no NTP header")]
    Short(usize),
    /// Neither version 3 nor 4.
    #[error("version {0} is not served")]
    Version(u8),
}

/// Answers the questions that come in by [`crate::net`].
#[derive(Debug)]
pub struct TimeServer {
    clock: Arc<dyn Clock>,
    status: Arc<ArcSwap<NtpStatus>>,
    keys: ArcSwap<Keys>,
    clients: ArcSwapOption<Clients>,
    earlier: Earlier,
    limiter: ArcSwapOption<Limiter>,
    start: Instant,
    /// Milliseconds since `start` before which no kiss is sent.
    next_kiss: AtomicU64,
    counts: Counts,
}

/// What became of the packets.
#[derive(Debug, Default)]
pub struct Counts {
    /// Answered with time.
    pub answered: AtomicU64,
    /// Answered with leap indicator 3.
    pub unsynchronized: AtomicU64,
    /// Answered with the kiss code RATE.
    pub kissed: AtomicU64,
    /// Dropped because their address asks too much.
    pub limited: AtomicU64,
    /// Dropped: its address is not one of those that are told the time.
    pub denied: AtomicU64,
    /// Dropped: not a client's mode.
    pub wrong_mode: AtomicU64,
    /// Dropped: too short.
    pub short: AtomicU64,
    /// Dropped: neither version 3 nor 4.
    pub wrong_version: AtomicU64,
    /// Answered with a code of a key that is shared with the client.
    pub authenticated: AtomicU64,
    /// Answered in interleaved mode.
    pub interleaved: AtomicU64,
    /// Answered with a crypto-NAK: the code is wrong, or its key not known.
    pub unauthenticated: AtomicU64,
}

impl TimeServer {
    /// Serves what `clock` reads as what `status` says it is worth.
    ///
    /// Without a `rate` nobody is limited.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, status: Arc<ArcSwap<NtpStatus>>, rate: Option<Rate>) -> Self {
        let start = clock.mono();
        let limiter = ArcSwapOption::from_pointee(rate.map(|rate| Limiter::new(rate, start)));
        let (next_kiss, counts) = (AtomicU64::new(0), Counts::default());
        Self {
            clock,
            status,
            keys: ArcSwap::default(),
            clients: ArcSwapOption::empty(),
            earlier: Earlier::new(),
            limiter,
            start,
            next_kiss,
            counts,
        }
    }

    /// From here on, who has one of `keys` is answered with its code.
    pub fn set_keys(&self, keys: Keys) {
        self.keys.store(Arc::new(keys));
    }

    /// From here on, only `clients` are answered. Before that everybody is.
    pub fn set_clients(&self, clients: Clients) {
        self.clients.store(Some(Arc::new(clients)));
    }

    /// From here on an address may ask so often; without a `rate`, as often as it likes.
    pub fn set_rate(&self, rate: Option<Rate>) {
        let limiter = rate.map(|rate| Limiter::new(rate, self.clock.mono()));
        self.limiter.store(limiter.map(Arc::new));
    }

    /// The keys in use.
    #[must_use]
    pub fn keys(&self) -> Arc<Keys> {
        self.keys.load_full()
    }

    /// Forgets when answers left: the clock has been set since.
    pub fn clock_was_set(&self) {
        self.earlier.forget();
    }

    /// What became of the packets so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Appends the answer to `reply`, if there is one.
    fn answer(
        &self,
        question: &[u8],
        from: IpAddr,
        stamp: Option<UnixTime>,
        own: &mut Leaving,
        reply: &mut Vec<u8>,
    ) {
        if self.clients.load().as_ref().is_some_and(|clients| !clients.contain(from)) {
            self.counts.denied.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let keys = self.keys.load();
        let seal = if keys.is_empty() { Seal::None } else { keys.check(question, HEADER_LEN) };
        let taken = self.clock.mono();
        let received = stamp.and_then(|stamp| self.clock.moment_of(stamp)).unwrap_or(taken);
        let Some(answer) = self.header(question, from, received, own) else { return };
        reply.extend_from_slice(&answer);
        match seal {
            Seal::Right(id) => {
                if let Some(key) = keys.get(id) {
                    key.seal(id, reply);
                    self.counts.authenticated.fetch_add(1, Ordering::Relaxed);
                }
            }
            Seal::Wrong(_) => {
                // A code of four octets, all of them 0 (RFC 5905 section 7.3).
                reply.extend_from_slice(&[0; 4]);
                self.counts.unauthenticated.fetch_add(1, Ordering::Relaxed);
            }
            Seal::Nak | Seal::None => {}
        }
    }

    fn header(
        &self,
        question: &[u8],
        from: IpAddr,
        received: Instant,
        own: &mut Leaving,
    ) -> Option<[u8; HEADER_LEN]> {
        let bucket = self.limiter.load();
        let limited = bucket.as_ref().is_some_and(|bucket| !bucket.take(from, received));
        let (answer, count) = if !limited {
            let status = self.status.load();
            let count = if status.synchronized {
                &self.counts.answered
            } else {
                &self.counts.unsynchronized
            };
            let sent = self.clock.mono();
            let utc = |at| self.clock.utc_at(at);
            // What an answer was worth that was not to be believed is not told later as right.
            let earlier = if status.synchronized {
                self.interleave(question, from, utc(received), own)
            } else {
                None
            };
            (respond(question, &status, utc(received), utc(sent), sent, earlier), count)
        } else if self.may_kiss(received) {
            (kiss_rate(question), &self.counts.kissed)
        } else {
            self.counts.limited.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let count = match answer {
            Ok(_) => count,
            Err(Silence::Mode(_)) => &self.counts.wrong_mode,
            Err(Silence::Short(_)) => &self.counts.short,
            Err(Silence::Version(_)) => &self.counts.wrong_version,
        };
        count.fetch_add(1, Ordering::Relaxed);
        answer.ok()
    }

    /// For a client that asks in interleaved mode, when the answer before this one left. It says so
    /// by the receive timestamp of that answer as its origin; others leave that empty, or fill in
    /// another one, and cost no more than a look.
    fn interleave(
        &self,
        question: &[u8],
        from: IpAddr,
        received: UnixTime,
        own: &mut Leaving,
    ) -> Option<u64> {
        let question = parse(question).ok()?;
        if question.origin_timestamp == 0 || question.version != 4 {
            return None;
        }
        let earlier = self.earlier.sent_at(from, question.origin_timestamp);
        let received = wire::from_utc(received);
        self.earlier.answering(from, received);
        own.0.push((from, received));
        let earlier = earlier.filter(|_| question.receive_timestamp != question.transmit_timestamp);
        if earlier.is_some() {
            self.counts.interleaved.fetch_add(1, Ordering::Relaxed);
        }
        earlier
    }

    /// Whether a kiss may be sent, whoever it is for: a forged address must not be flooded with
    /// them either.
    fn may_kiss(&self, now: Instant) -> bool {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let now = millis(now.saturating_duration_since(self.start));
        let kiss = self.next_kiss.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            (next <= now).then_some(now + millis(KISS_INTERVAL))
        });
        kiss.is_ok()
    }
}

impl Handler for TimeServer {
    type Own = Leaving;

    const STAMPED: bool = true;

    fn handle(
        &self,
        datagram: Datagram<'_>,
        _: &Arc<Socket>,
        own: &mut Leaving,
        reply: &mut Vec<u8>,
    ) {
        let from = datagram.peer.address.ip();
        self.answer(datagram.payload, from, datagram.stamp, own, reply);
    }

    fn sending(&self, own: &mut Leaving) {
        if own.0.is_empty() {
            return;
        }
        // Before the system call: after it, the client's machine may long have received them.
        let sent = wire::from_utc(self.clock.utc());
        for (client, received) in own.0.drain(..) {
            self.earlier.left(client, received, sent);
        }
    }
}

/// Answers of a batch whose clients want to know when they left, by client and receive timestamp.
#[derive(Debug, Default)]
pub struct Leaving(Vec<(IpAddr, u64)>);

/// What one address may ask: four times `per_second` at once, so that there is room for a burst at
/// start (RFC 5905 section 13: 8 questions, 2 s apart) of every machine behind one address
/// translator. None if that is 0.
#[must_use]
pub fn rate(per_second: u32) -> Option<Rate> {
    (per_second > 0).then(|| Rate { per_second, burst: per_second.saturating_mul(4) })
}

/// Kisses go out no more often.
const KISS_INTERVAL: Duration = Duration::from_secs(1);

/// log2 of what one reading of the clock may be off, in seconds: about a microsecond.
const PRECISION: i8 = -20;

/// RFC 5905 section 7.2: MAXDISP, the dispersion of a clock that was never set.
const MAX_DISPERSION: Duration = Duration::from_secs(16);

/// log2 of the poll interval a kissed client is asked to keep, in seconds.
const KISS_POLL: i8 = 6;

fn parse(packet: &[u8]) -> Result<Header, Silence> {
    let header = Header::parse(packet).ok_or(Silence::Short(packet.len()))?;
    match header {
        Header { mode, .. } if mode != MODE_CLIENT => Err(Silence::Mode(mode)),
        Header { version: 3 | 4, .. } => Ok(header),
        Header { version, .. } => Err(Silence::Version(version)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::nanos;
    use crate::config::ClientNetwork;
    use crate::net::{DatagramListen, Listen, Threads};
    use crate::ntp::client::{AskError, Kiss, ask};

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

        assert!(
            matches!(before, Err(AskError::Unsynchronized { leap: 3, stratum: 16 })),
            "{before:?}"
        );
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
        assert_eq!(
            (of(&counts.wrong_mode), of(&counts.short), of(&counts.wrong_version)),
            (2, 2, 1)
        );
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
            let key = Some(crate::ntp::client::Shared { keys: &theirs, id });
            ask(served.address, &TestClock, REFERENCE, Duration::from_millis(200), key).await
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
            let question = Header {
                origin_timestamp: origin,
                receive_timestamp: number,
                ..Header::parse(&question(4)).unwrap()
            };
            let (mut own, mut reply) = (Leaving::default(), Vec::new());
            self.server.answer(&question.emit(), CLIENT, None, &mut own, &mut reply);
            self.server.sending(&mut own);
            Header::parse(&reply).unwrap()
        }

        async fn ask(&self) -> Result<crate::clock::Reading, AskError> {
            ask(self.address, &TestClock, REFERENCE, Duration::from_millis(300), None).await
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
            let passed = nanos(at.saturating_duration_since(start))
                - nanos(start.saturating_duration_since(at));
            UnixTime::from_secs(2_000_000_000).offset(passed)
        }

        fn moment_of(&self, stamp: UnixTime) -> Option<Instant> {
            (stamp == STAMPED_30_MS_AGO)
                .then(|| self.mono().checked_sub(Duration::from_millis(30)).unwrap())
        }
    }
}
