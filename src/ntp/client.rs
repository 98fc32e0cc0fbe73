//! Asks one server once (RFC 5905 sections 8 and 9).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::timeout;
use tracing::trace;

use crate::clock::{Reading, UnixTime, nanos};
use crate::net::stamp;
use crate::node::ports::Clock;
use crate::ntp::keys::{Keys, Seal};
use crate::ntp::nts::client::{Answer, Question};
use crate::ntp::wire::{self, Header, LEAP_UNKNOWN, MODE_CLIENT, MODE_SERVER};

/// A server at a greater root distance is not worth asking (RFC 5905 appendix A.5.5.2: MAXDIST).
pub const MAX_ROOT_DISTANCE: Duration = Duration::from_millis(1500);

/// Why an exchange gave no reading.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A kiss code that answers our question: the server wants to be left alone.
    #[error("the server sent the kiss code {}", .0.as_str())]
    Kiss(Kiss),
    /// The server answers, and says that its time is worth nothing.
    #[error("the server is not synchronized: leap indicator {leap}, stratum {stratum}")]
    Unsynchronized {
        /// Its leap indicator.
        leap: u8,
        /// Its stratum.
        stratum: u8,
    },
    /// The answer's own numbers cannot be true.
    #[error("the answer is not plausible: {0}")]
    Implausible(&'static str),
    /// Too far from a primary source.
    #[error("root distance {} ms, more than {} ms", .0.as_millis(), MAX_ROOT_DISTANCE.as_millis())]
    TooDistant(Duration),
    /// Nobody listens there (ICMP port unreachable).
    #[error("the address refuses NTP (ICMP port unreachable)")]
    Refused,
    /// No answer to this question arrived in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// Its time comes from this very machine (RFC 5905 section 7.3, reference id).
    #[error("the server takes its time from this machine")]
    Loop,
    /// It was answered, and no answer carries a right code of this key.
    #[error("no answer has a right code of key {0}: keys or their numbers differ between the two")]
    Unauthenticated(u32),
    /// It was answered, and no answer has the keys that were exchanged with the server.
    #[error("no answer is protected by the keys that were exchanged (NTS)")]
    NtsForged,
    /// The server knows our cookie no longer: keys have to be exchanged anew.
    #[error("the server knows the cookie no longer (NTS NAK); keys are exchanged anew")]
    NtsNak,
    /// The key of this number is not known.
    #[error("key {0} is not in the file of keys; the source is not asked without")]
    NoKey(u32),
    /// The question could not be sent: no route, no address.
    #[error("the question could not be sent: {0}")]
    Network(io::Error),
}

/// Kiss codes that a client has to obey (RFC 5905 section 7.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kiss {
    /// DENY: stop asking.
    Deny,
    /// RATE: ask less often.
    Rate,
    /// RSTR: stop asking.
    Rstr,
    /// Any other code; it says only that the answer holds no time.
    Other([u8; 4]),
}

impl Kiss {
    fn from_reference_id(id: [u8; 4]) -> Self {
        match &id {
            b"DENY" => Self::Deny,
            b"RATE" => Self::Rate,
            b"RSTR" => Self::Rstr,
            _ => Self::Other(id),
        }
    }

    /// The code as it is written; what a server made up itself is not repeated.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "DENY",
            Self::Rate => "RATE",
            Self::Rstr => "RSTR",
            Self::Other(_) => "(other)",
        }
    }
}

/// Asks `target` for the time and waits at most `patience` for the answer.
///
/// Each question has a socket of its own on a random port and a random transmit
/// timestamp: an answer is believed only if it comes back to both (RFC 5905
/// section 8: TEST2). The server's era is chosen by `floor` ([`wire::to_utc`]).
///
/// An answer is believed only with the `proof` that is asked for, and not from a server that has its time
/// from this machine: from the address that it was asked from, or one whose reference id is among `own`.
///
/// # Errors
///
/// [`AskError`] says what the server did instead of giving the time.
pub async fn ask(
    target: SocketAddr,
    clock: &dyn Clock,
    floor: UnixTime,
    patience: Duration,
    mut proof: Proof<'_>,
    own: &[[u8; 4]],
) -> Result<Reading, AskError> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.map_err(AskError::Network)?;
    socket.connect(target).await.map_err(AskError::Network)?;

    let nonce = rand::random();
    // Nothing but version, mode and nonce is said: a client's clock is nobody's
    // business (RFC 8633 section 3.3, draft-ietf-ntp-data-minimization).
    let question =
        Header { version: 4, mode: MODE_CLIENT, transmit_timestamp: nonce, ..Header::default() };
    let mut question = question.emit().to_vec();
    match &proof {
        Proof::None => {}
        Proof::Key { keys, id } => {
            keys.get(*id).ok_or(AskError::NoKey(*id))?.seal(*id, &mut question);
        }
        Proof::Nts(protection) => protection.protect(&mut question),
    }
    // Where the kernel does not say when datagrams come and go, they do as we read and write them.
    let _ = stamp::on_arrival(&socket);
    let watch = stamp::Departures::watch(&socket).ok();
    let left = || watch.as_ref()?.next().and_then(|(_, at)| clock.moment_of(at));
    let written = clock.mono();
    socket.send(&question).await.map_err(refused_or_network)?;
    let sent = left();

    let mut forged = None;
    let answer = timeout(patience, receive(&socket, clock, nonce, &mut proof, &mut forged)).await;
    let (header, received) = match answer {
        Ok(answer) => answer?,
        Err(_) => return Err(forged.unwrap_or(AskError::Silent(patience))),
    };
    // It may have had to wait until the address of the next machine was known.
    let sent = sent.or_else(left).unwrap_or(written).max(written);
    let received = received.max(sent);
    let here = socket.local_addr().map(|here| wire::reference_id(here.ip()));
    let loops =
        own.contains(&header.reference_id) || here.is_ok_and(|here| here == header.reference_id);
    if header.stratum > 1 && loops {
        return Err(AskError::Loop);
    }
    let reading = read(&header, sent, received, floor)?;
    Ok(Reading { reference_id: wire::reference_id(target.ip()), ..reading })
}

/// By what a server proves that an answer is its own.
#[derive(Debug)]
pub enum Proof<'p> {
    /// By nothing: whoever sees the question can answer.
    None,
    /// By a key that is shared with it.
    Key {
        /// All keys.
        keys: &'p Keys,
        /// The number of the one.
        id: u32,
    },
    /// By keys that were exchanged (RFC 8915).
    Nts(&'p mut Question),
}

impl Proof<'_> {
    /// Whether `packet`, with `header`, is believed; else the error that it stands for if no better
    /// one comes.
    fn holds(&mut self, packet: &[u8], header: &Header) -> Result<(), AskError> {
        match self {
            Self::None => Ok(()),
            Self::Key { keys, id } => {
                let right = keys.check(packet) == Seal::Right(*id);
                if right { Ok(()) } else { Err(AskError::Unauthenticated(*id)) }
            }
            Self::Nts(question) => match question.check(packet) {
                Answer::Right => Ok(()),
                Answer::Unprotected if header.stratum == 0 && header.reference_id == *b"NTSN" => {
                    Err(AskError::NtsNak)
                }
                Answer::Unprotected | Answer::Wrong => Err(AskError::NtsForged),
            },
        }
    }
}

/// Waits for the answer to the question with `nonce`; anything else is passed over. What an answer
/// without proof stands for is left in `forged`.
async fn receive(
    socket: &UdpSocket,
    clock: &dyn Clock,
    nonce: u64,
    proof: &mut Proof<'_>,
    forged: &mut Option<AskError>,
) -> Result<(Header, Instant), AskError> {
    // NTS fills a whole datagram with cookies.
    let mut packet = [0; 2048];
    loop {
        let read = || stamp::receive(socket, &mut packet);
        let (len, stamp) = socket
            .async_io(Interest::READABLE | Interest::ERROR, read)
            .await
            .map_err(refused_or_network)?;
        let read = clock.mono();
        let received = stamp.and_then(|stamp| clock.moment_of(stamp)).unwrap_or(read);
        let packet = packet.get(..len).unwrap_or_default();
        match Header::parse(packet) {
            Some(header) if header.mode == MODE_SERVER && header.origin_timestamp == nonce => {
                match proof.holds(packet, &header) {
                    Ok(()) => return Ok((header, received)),
                    Err(error) => {
                        trace!(len, %error, "an answer without proof");
                        *forged = Some(error);
                    }
                }
            }
            Some(_) | None => trace!(len, "not an answer to this question"),
        }
    }
}

/// Judges an answer whose origin timestamp is right (RFC 5905 section 8, TEST3 to TEST7).
fn read(
    header: &Header,
    sent: Instant,
    received: Instant,
    floor: UnixTime,
) -> Result<Reading, AskError> {
    let &Header { leap, stratum, precision, .. } = header;
    if stratum == 0 {
        return Err(AskError::Kiss(Kiss::from_reference_id(header.reference_id)));
    }
    if leap == LEAP_UNKNOWN || stratum > 15 {
        return Err(AskError::Unsynchronized { leap, stratum });
    }
    if header.receive_timestamp == 0 || header.transmit_timestamp == 0 {
        return Err(AskError::Implausible("it holds no time"));
    }
    let inside = wire::between(header.receive_timestamp, header.transmit_timestamp);
    if inside < 0 {
        return Err(AskError::Implausible("it left before the question arrived"));
    }

    let exchange = received.saturating_duration_since(sent);
    if inside > nanos(exchange + exchange / 100 + CLOCK_GRAIN) {
        return Err(AskError::Implausible("it was kept longer than the whole exchange took"));
    }
    let delay = (nanos(exchange) - inside).max(0);
    let delay = Duration::from_nanos(u64::try_from(delay).unwrap_or(u64::MAX));
    let root_delay = wire::from_short(header.root_delay);
    let root_dispersion = wire::from_short(header.root_dispersion);
    let error = delay / 2 + root_delay / 2 + root_dispersion + wire::from_exponent(precision);
    if error >= MAX_ROOT_DISTANCE {
        return Err(AskError::TooDistant(error));
    }

    Ok(Reading {
        at: sent + exchange / 2,
        utc: wire::to_utc(header.receive_timestamp, floor).offset(inside / 2),
        delay,
        error,
        stratum,
        reference_id: header.reference_id,
        leap,
        root_delay,
        root_dispersion,
        precision,
    })
}

/// How far apart two clocks may read one short span, beside 1 % for their frequencies.
const CLOCK_GRAIN: Duration = Duration::from_millis(1);

fn refused_or_network(error: io::Error) -> AskError {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        AskError::Refused
    } else {
        AskError::Network(error)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::clock::Nanos;

    #[tokio::test]
    async fn the_reading_is_the_servers_time_at_the_middle_of_the_exchange() {
        let server = Server::start(|question| vec![good_answer(question)]).await;

        let reading = server.ask().await.unwrap();

        let off = reading.utc.since(TestClock.utc_at(reading.at));
        assert!(off.abs() < nanos(reading.error), "{off} ns off, error {:?}", reading.error);
        assert_eq!((reading.stratum, reading.leap), (2, 0));
        // What it goes by to our own clients, and not what its own source is (RFC 5905 section 7.3).
        assert_eq!(reading.reference_id, [127, 0, 0, 1]);
        assert_eq!(reading.root_delay, Duration::from_millis(125));
        let root = reading.root_delay / 2 + reading.root_dispersion;
        assert!(reading.error >= root && reading.error < root + reading.delay);
    }

    #[tokio::test]
    async fn a_forged_answer_is_passed_over_and_the_true_one_read() {
        let server = Server::start(|question| {
            let wrong = Header { origin_timestamp: 7, stratum: 1, ..good_answer(question) };
            let echo = Header { mode: 3, stratum: 1, ..good_answer(question) };
            vec![wrong, echo, good_answer(question)]
        })
        .await;

        assert_eq!(server.ask().await.unwrap().stratum, 2);
    }

    #[tokio::test]
    async fn a_kiss_code_counts_only_with_our_nonce() {
        let kiss = |question: &Header| Header {
            leap: 3,
            stratum: 0,
            reference_id: *b"RATE",
            ..good_answer(question)
        };
        let honest = Server::start(move |question| vec![kiss(question)]).await;
        let forged =
            Server::start(move |question| vec![Header { origin_timestamp: 0, ..kiss(question) }])
                .await;

        assert!(matches!(honest.ask().await, Err(AskError::Kiss(Kiss::Rate))));
        assert!(matches!(forged.ask().await, Err(AskError::Silent(_))));
    }

    #[tokio::test]
    async fn a_server_that_follows_us_is_not_followed() {
        let follows = |stratum| {
            move |question: &Header| {
                vec![Header { stratum, reference_id: [127, 0, 0, 1], ..good_answer(question) }]
            }
        };
        let secondary = Server::start(follows(3)).await;
        // A stratum 1 server's id is four letters, whatever they look like.
        let primary = Server::start(follows(1)).await;

        assert!(matches!(secondary.ask().await, Err(AskError::Loop)));
        assert!(primary.ask().await.is_ok());

        // It had its time from another address of this machine than it is asked from.
        let other = Server::start(|question| {
            vec![Header { stratum: 3, reference_id: [192, 0, 2, 7], ..good_answer(question) }]
        });
        let other = other.await;
        let own = [[192, 0, 2, 6], [192, 0, 2, 7]];
        let said = ask(other.address, &TestClock, FLOOR, PATIENCE, Proof::None, &own).await;
        assert!(matches!(said, Err(AskError::Loop)));
    }

    #[tokio::test]
    async fn an_answer_that_has_to_wait_for_its_reader_is_not_the_later_for_it() {
        let server = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = server.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut packet = [0; 1024];
            let (_, from) = server.recv_from(&mut packet).unwrap();
            let question = Header::parse(&packet).unwrap();
            server.send_to(&good_answer(&question).emit(), from).unwrap();
        });

        let busy = async { std::thread::sleep(Duration::from_millis(60)) };
        let asking = ask(address, &MachineClock, FLOOR, PATIENCE, Proof::None, &[]);
        let (reading, ()) = tokio::join!(asking, busy);

        let delay = reading.unwrap().delay;
        assert!(delay < Duration::from_millis(40), "{delay:?}");
    }

    #[tokio::test]
    async fn a_closed_port_is_told_from_silence() {
        let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);

        let outcome = ask(address, &TestClock, FLOOR, PATIENCE, Proof::None, &[]).await;

        assert!(matches!(outcome, Err(AskError::Refused)), "{outcome:?}");
    }

    #[test]
    fn answers_without_time_are_refused_with_their_reason() {
        type Case = (fn(&mut Header), &'static str);
        const CASES: &[Case] = &[
            (|h| h.leap = 3, "the server is not synchronized: leap indicator 3, stratum 2"),
            (|h| h.stratum = 16, "the server is not synchronized: leap indicator 0, stratum 16"),
            (|h| h.transmit_timestamp = 0, "the answer is not plausible: it holds no time"),
            (
                |h| h.transmit_timestamp = h.receive_timestamp - 1,
                "the answer is not plausible: it left before the question arrived",
            ),
            (|h| h.root_dispersion = 2 << 16, "root distance 2062 ms, more than 1500 ms"),
            (|h| h.precision = 127, "root distance 65536072 ms, more than 1500 ms"),
            (|h| h.stratum = 0, "the server sent the kiss code (other)"),
        ];
        let start = TestClock.mono();
        for (spoil, reason) in CASES {
            let mut header = good_answer(&Header::default());
            spoil(&mut header);

            let outcome = read(&header, start, start, FLOOR);

            assert_eq!(outcome.unwrap_err().to_string(), *reason);
        }
    }

    #[test]
    fn a_server_cannot_claim_to_be_nearer_than_the_exchange_was_long() {
        let sent = TestClock.mono();
        let mut header = good_answer(&Header::default());
        header.transmit_timestamp = header.receive_timestamp + (1 << 30);

        let outcome = read(&header, sent, sent + Duration::from_millis(240), FLOOR);

        assert!(matches!(outcome, Err(AskError::Implausible(_))), "{outcome:?}");
    }

    #[test]
    fn a_question_that_lingers_in_the_server_is_no_network_delay() {
        let sent = TestClock.mono();
        let mut header = good_answer(&Header::default());
        header.transmit_timestamp = header.receive_timestamp + (1 << 30);

        let reading = read(&header, sent, sent + Duration::from_millis(270), FLOOR).unwrap();

        assert_eq!(reading.delay, Duration::from_millis(20));
        assert_eq!(reading.at, sent + Duration::from_millis(135));
        let received = wire::to_utc(header.receive_timestamp, FLOOR);
        assert_eq!(reading.utc.since(received), 125_000_000);
    }

    const FLOOR: UnixTime = UnixTime::from_secs(1_770_000_000);
    const PATIENCE: Duration = Duration::from_millis(300);
    const NOW: Nanos = 1_773_468_700_000_000_000;

    fn good_answer(question: &Header) -> Header {
        let now = wire::from_utc(TestClock.utc());
        Header {
            version: 4,
            mode: MODE_SERVER,
            stratum: 2,
            precision: -20,
            root_delay: wire::to_short(Duration::from_millis(125)),
            root_dispersion: wire::to_short(Duration::from_millis(10)),
            reference_id: [192, 0, 2, 1],
            origin_timestamp: question.transmit_timestamp,
            receive_timestamp: now,
            transmit_timestamp: now,
            ..Header::default()
        }
    }

    /// A clock that reads [`NOW`] at its first use, whatever the machine's says.
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
            UnixTime::from_nanos(
                NOW + nanos(at.saturating_duration_since(start))
                    - nanos(start.saturating_duration_since(at)),
            )
        }
    }

    /// The same, knowing what the machine's shows.
    #[derive(Debug)]
    struct MachineClock;

    impl Clock for MachineClock {
        fn mono(&self) -> Instant {
            TestClock.mono()
        }

        fn utc_at(&self, at: Instant) -> UnixTime {
            TestClock.utc_at(at)
        }

        #[expect(clippy::disallowed_methods, reason = "what the kernel's stamps are read from")]
        fn moment_of(&self, stamp: UnixTime) -> Option<Instant> {
            let stamp = Duration::from_nanos(stamp.nanos().try_into().unwrap());
            let age = (std::time::SystemTime::UNIX_EPOCH + stamp).elapsed().ok()?;
            self.mono().checked_sub(age)
        }
    }

    struct Server {
        address: SocketAddr,
    }

    impl Server {
        async fn start(respond: impl Fn(&Header) -> Vec<Header> + Send + 'static) -> Self {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = socket.local_addr().unwrap();
            tokio::spawn(async move {
                let mut packet = [0; 1024];
                while let Ok((len, from)) = socket.recv_from(&mut packet).await {
                    let question = Header::parse(&packet[..len]).unwrap();
                    for answer in respond(&question) {
                        socket.send_to(&answer.emit(), from).await.unwrap();
                    }
                }
            });
            Self { address }
        }

        async fn ask(&self) -> Result<Reading, AskError> {
            ask(self.address, &TestClock, FLOOR, PATIENCE, Proof::None, &[]).await
        }
    }
}
