//! Serves time to clients of NTP version 3 and 4, and the truth about what it is worth
//! (RFC 5905 section 9.2).

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::clock::{NtpStatus, UnixTime};
use crate::net::rate::{Limiter, Rate};
use crate::net::{Clients, Datagram, Handler, Socket};
use crate::node::ports::Clock;
use crate::ntp::census::{Census, Met};
pub use crate::ntp::census::{Client, How};
use crate::ntp::interleaved::Earlier;
use crate::ntp::keys::{Keys, Seal};
use crate::ntp::nts::cookies::{self, CookieKeys, Protection};
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
    kiss(question, *b"RATE")
}

fn kiss(question: &[u8], code: [u8; 4]) -> Result<[u8; HEADER_LEN], Silence> {
    let question = parse(question)?;
    let kiss = Header {
        leap: LEAP_UNKNOWN,
        version: question.version,
        mode: MODE_SERVER,
        stratum: 0,
        poll: question.poll.max(KISS_POLL),
        precision: PRECISION,
        reference_id: code,
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
    cookies: ArcSwapOption<CookieKeys>,
    clients: ArcSwapOption<Clients>,
    earlier: Earlier,
    /// Whether clients are remembered.
    remember: AtomicBool,
    census: Census,
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
    /// Answered under NTS.
    pub nts: AtomicU64,
    /// Answered with an NTS NAK: the cookie's key is gone, or the question was changed.
    pub nts_naks: AtomicU64,
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
            cookies: ArcSwapOption::empty(),
            clients: ArcSwapOption::empty(),
            earlier: Earlier::new(),
            remember: AtomicBool::new(true),
            census: Census::new(),
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

    /// From here on, who has a cookie of one of `keys` is answered under NTS.
    pub fn set_cookie_keys(&self, keys: Arc<CookieKeys>) {
        self.cookies.store(Some(keys));
    }

    /// The keys of cookies in use, if there are any.
    #[must_use]
    pub fn cookie_keys(&self) -> Option<Arc<CookieKeys>> {
        self.cookies.load_full()
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

    /// Whether addresses that ask are remembered; those known are forgotten if not.
    pub fn set_remember(&self, remember: bool) {
        self.remember.store(remember, Ordering::Relaxed);
        if !remember {
            self.census.forget();
        }
    }

    /// The addresses that have asked, who asked most first.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        self.census.clients()
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

    /// Appends the answer to `reply`, if there is one. Says how it is protected; `None` if who asks is
    /// not a client.
    fn answer(
        &self,
        question: &[u8],
        from: IpAddr,
        stamp: Option<UnixTime>,
        own: &mut Leaving,
        reply: &mut Vec<u8>,
    ) -> Option<How> {
        if self.clients.load().as_ref().is_some_and(|clients| !clients.contain(from)) {
            self.counts.denied.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let keys = self.keys.load();
        let seal = if keys.is_empty() { Seal::None } else { keys.check(question) };
        let stamped = stamp.and_then(|stamp| self.clock.moment_of(stamp));
        let received = stamped.unwrap_or_else(|| self.clock.mono());
        let protection =
            if question.len() > NTS_LEAST { self.protection(question) } else { Protection::None };
        if let Protection::Wrong { unique_id } = protection {
            self.nak(question, unique_id, from, received, reply);
            return Some(How::Plain);
        }
        let Some(answer) = self.header(question, from, received, own) else {
            return Some(How::Plain);
        };
        reply.extend_from_slice(&answer);
        if let Protection::Right(protected) = protection {
            protected.seal(reply);
            self.counts.nts.fetch_add(1, Ordering::Relaxed);
            return Some(How::Nts);
        }
        match seal {
            Seal::Right(id) => {
                if let Some(key) = keys.get(id) {
                    key.seal(id, reply);
                    self.counts.authenticated.fetch_add(1, Ordering::Relaxed);
                }
                Some(How::Key)
            }
            Seal::Wrong(_) => {
                // A code of four octets, all of them 0 (RFC 5905 section 7.3).
                reply.extend_from_slice(&[0; 4]);
                self.counts.unauthenticated.fetch_add(1, Ordering::Relaxed);
                Some(How::Plain)
            }
            Seal::Nak | Seal::None => Some(How::Plain),
        }
    }

    fn protection<'q>(&self, question: &'q [u8]) -> Protection<'q> {
        self.cookies.load().as_ref().map_or(Protection::None, |keys| keys.check(question))
    }

    /// An NTS NAK (RFC 8915 section 5.7), to who may ask at all.
    fn nak(
        &self,
        question: &[u8],
        unique_id: &[u8],
        from: IpAddr,
        received: Instant,
        reply: &mut Vec<u8>,
    ) {
        let bucket = self.limiter.load();
        if bucket.as_ref().is_some_and(|bucket| !bucket.take(from, received)) {
            self.counts.limited.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let Ok(kiss) = kiss(question, *b"NTSN") {
            reply.extend_from_slice(&kiss);
            cookies::nak(unique_id, reply);
            self.counts.nts_naks.fetch_add(1, Ordering::Relaxed);
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
            own.answered = Some(sent);
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
        own.stamped.push((own.place, from, received));
        let earlier = earlier.filter(|_| question.receive_timestamp != question.transmit_timestamp);
        if earlier.is_some() {
            own.watched = true;
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
        let before = reply.len();
        own.place = datagram.place;
        let how = self.answer(datagram.payload, from, datagram.stamp, own, reply);
        if let Some(how) = how.filter(|_| self.remember.load(Ordering::Relaxed)) {
            own.met.push(Met { from, answered: reply.len() > before, how });
        }
    }

    fn sending(&self, own: &mut Leaving) -> bool {
        if !own.met.is_empty() {
            // Once a batch, not once a datagram: the threads share it.
            let now = own.answered.take().unwrap_or_else(|| self.clock.mono());
            self.census.count(own.met.drain(..), now);
        }
        if own.stamped.is_empty() {
            return false;
        }
        let now = self.clock.mono();
        // Whoever asks again before the kernel has said more, or where it never does, is told the time
        // before the system call: after it, the client's machine may long have received the answer.
        let sent = wire::from_utc(self.clock.utc_at(now));
        for (_, client, received) in &own.stamped {
            self.earlier.left(*client, *received, sent);
        }
        // Many clients fill in an origin and never ask in interleaved mode.
        let watched = std::mem::take(&mut own.watched);
        if watched {
            own.handed_over = Some(now);
        } else {
            own.stamped.clear();
        }
        watched
    }

    fn sent(&self, own: &mut Leaving, left: &[Option<UnixTime>]) {
        let handed_over = own.handed_over.take();
        for (place, client, received) in own.stamped.drain(..) {
            let stamp = left.get(place).copied().flatten();
            // One from before is that of another answer.
            let moment = stamp
                .and_then(|stamp| self.clock.moment_of(stamp))
                .filter(|moment| handed_over.is_some_and(|before| *moment >= before));
            if let Some(moment) = moment {
                self.earlier.left(client, received, wire::from_utc(self.clock.utc_at(moment)));
            }
        }
    }
}

/// What a thread knows of its batch.
#[derive(Debug, Default)]
pub struct Leaving {
    /// Of the datagram at hand, in its batch.
    place: usize,
    /// Answers whose clients want to know when they left, by place, client and receive timestamp.
    stamped: Vec<(usize, IpAddr, u64)>,
    /// When the last answer was made: reading a clock costs.
    answered: Option<Instant>,
    /// Whether one of them is in interleaved mode, so that the next is likely to be, too.
    watched: bool,
    /// When the answers were handed to the kernel.
    handed_over: Option<Instant>,
    /// Who has asked.
    met: Vec<Met>,
}

/// What one address may ask: four times `per_second` at once, so that there is room for a burst at
/// start (RFC 5905 section 13: 8 questions, 2 s apart) of every machine behind one address
/// translator. None if that is 0.
#[must_use]
pub fn rate(per_second: u32) -> Option<Rate> {
    (per_second > 0).then(|| Rate { per_second, burst: per_second.saturating_mul(4) })
}

/// A question under NTS is longer: its identifier alone has 32 octets.
const NTS_LEAST: usize = HEADER_LEN + 36;

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
