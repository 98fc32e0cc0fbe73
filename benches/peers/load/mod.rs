//! Asks questions, at a rate or as fast as they are answered, and checks every answer.

mod framed;
mod guests;
mod http2;
mod stream;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use rustls::ClientConfig;

pub(crate) use guests::guests;

use crate::questions::{Question, Questions};
use framed::Framed;
use http2::Http2;
use stream::Stream;
use udp::Udp;

/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often what is lost is looked for.
const SWEEP: Duration = Duration::from_millis(100);

/// Room for the questions of one connection that are under way.
const SLOTS: usize = 4096;

/// How questions reach the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    Udp,
    Tcp,
    Dot,
    Doh,
}

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// As many questions under way as there may be, over all connections.
    UnderWay(usize),
    /// So many in a second. While nothing comes, the core is kept busy, so that waking up is not
    /// part of what is measured.
    Busy(f64),
    /// So many in a second, from a core that others need meanwhile.
    Calm(f64),
}

/// What became of the questions.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) answers: u64,
    /// Answers with another code, or without the records that the question has.
    pub(crate) wrong: u64,
    pub(crate) lost: u64,
    pub(crate) elapsed: Duration,
    /// From each question to its answer, in microseconds; sorted.
    latencies: Vec<f64>,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.answers as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency, in microseconds, that this share of the answers kept to.
    pub(crate) fn percentile(&self, share: f64) -> Option<f64> {
        let place = (self.latencies.len() as f64 * share) as usize;
        self.latencies.get(place.min(self.latencies.len().saturating_sub(1))).copied()
    }

    fn judge(&mut self, message: Option<&[u8]>, slot: &Slot, at: Instant) {
        self.latencies.push((at - slot.asked).as_secs_f64() * 1e6);
        self.answers += 1;
        let right = message.is_some_and(|message| {
            message.len() >= 12
                && message[2] & 0x80 != 0
                && message[3] & 15 == slot.rcode
                && (message[7] > 0) == (slot.rcode == 0)
        });
        self.wrong += u64::from(!right);
    }
}

/// Connections to one server.
pub(crate) struct Load {
    lines: Vec<Line>,
}

impl Load {
    /// Opens `number` connections; over TLS they are past the handshake.
    pub(crate) fn connect(
        way: Way,
        server: SocketAddr,
        number: usize,
        tls: &Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let line = |_| {
            let link = match way {
                Way::Udp => Link::Udp(Udp::connect(server)?),
                Way::Tcp => Link::Framed(Framed::new(Stream::plain(server)?)),
                Way::Dot => Link::Framed(Framed::new(Stream::tls(server, tls, b"dot")?.shaken()?)),
                Way::Doh => Link::Http2(Http2::new(Stream::tls(server, tls, b"h2")?.shaken()?)),
            };
            Ok(Line { link, slots: Slots::new(), queued: false })
        };
        Ok(Self { lines: (0..number).map(line).collect::<io::Result<_>>()? })
    }

    /// Asks for `time`, or until there are no more questions, and waits for the last answers.
    pub(crate) fn ask(
        &mut self,
        questions: &mut Questions<'_>,
        pace: Pace,
        time: Duration,
    ) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        let begun = Instant::now();
        let mut swept = begun;
        let mut asked = 0_u64;
        let mut open = true;
        loop {
            let now = Instant::now();
            open &= now - begun < time;
            if open {
                let due = match pace {
                    Pace::UnderWay(_) => u64::MAX,
                    Pace::Busy(rate) | Pace::Calm(rate) => {
                        ((now - begun).as_secs_f64() * rate) as u64
                    }
                };
                open = self.put(questions, pace, due, &mut asked, now)?;
            } else if self.lines.iter().all(|line| line.slots.waiting == 0) {
                break;
            }
            if !self.take(&mut outcome)? {
                self.wait(pace, asked, begun)?;
            }
            if now - swept > SWEEP {
                swept = now;
                for line in &mut self.lines {
                    outcome.lost += line.slots.expire(now);
                }
            }
        }
        outcome.elapsed = begun.elapsed();
        outcome.latencies.sort_by(f64::total_cmp);
        Ok(outcome)
    }

    /// Sends what is due. Returns whether there are further questions.
    fn put(
        &mut self,
        questions: &mut Questions<'_>,
        pace: Pace,
        due: u64,
        asked: &mut u64,
        now: Instant,
    ) -> io::Result<bool> {
        let number = self.lines.len();
        let each = match pace {
            Pace::UnderWay(all) => all.div_ceil(number),
            Pace::Busy(_) | Pace::Calm(_) => SLOTS,
        };
        let mut full = 0;
        let mut next = *asked as usize % number;
        while *asked < due && full < number {
            let line = &mut self.lines[next];
            if line.slots.waiting >= each {
                full += 1;
                next = (next + 1) % number;
                continue;
            }
            let Some(question) = questions.next() else {
                self.flush()?;
                return Ok(false);
            };
            let token = line.slots.fill(&question, now);
            line.link.ask(token, question.octets)?;
            line.queued = true;
            *asked += 1;
            if matches!(pace, Pace::Busy(_) | Pace::Calm(_)) {
                full = 0;
                next = (next + 1) % number;
            }
        }
        self.flush()?;
        Ok(true)
    }

    fn flush(&mut self) -> io::Result<()> {
        for line in self.lines.iter_mut().filter(|line| line.queued) {
            line.queued = !line.link.flush()?;
        }
        Ok(())
    }

    /// Takes what has arrived. Returns whether anything had.
    fn take(&mut self, outcome: &mut Outcome) -> io::Result<bool> {
        let before = outcome.answers;
        for Line { link, slots, .. } in &mut self.lines {
            if slots.waiting == 0 {
                continue;
            }
            let mut at = None;
            link.take(&mut |token, message| {
                let at = *at.get_or_insert_with(Instant::now);
                if let Some(slot) = slots.empty(token) {
                    outcome.judge(message, &slot, at);
                }
            })?;
        }
        Ok(outcome.answers > before)
    }

    fn wait(&self, pace: Pace, asked: u64, begun: Instant) -> io::Result<()> {
        let timeout = match pace {
            Pace::Busy(_) => return Ok(()),
            Pace::UnderWay(_) => Duration::from_millis(10),
            Pace::Calm(rate) => {
                let due = begun + Duration::from_secs_f64((asked + 1) as f64 / rate);
                due.saturating_duration_since(Instant::now())
            }
        };
        let all = self.lines.iter().map(|line| line.link.descriptor());
        wait_for(all, timeout)
    }
}

/// Waits until one of `descriptors` can be read.
fn wait_for<'d>(
    descriptors: impl Iterator<Item = BorrowedFd<'d>>,
    timeout: Duration,
) -> io::Result<()> {
    let mut polled: Vec<_> = descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    ppoll(&mut polled, Some(TimeSpec::from_duration(timeout)), None)?;
    Ok(())
}

struct Line {
    link: Link,
    slots: Slots,
    /// Something is not sent yet.
    queued: bool,
}

/// A connection. Each question has a token, by which its answer is known.
enum Link {
    Udp(Udp),
    Framed(Framed),
    Http2(Http2),
}

/// Told of every answer: its token, and the message if there was one.
type Sink<'s> = dyn FnMut(u16, Option<&[u8]>) + 's;

impl Link {
    /// Queues a question.
    fn ask(&mut self, token: u16, question: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(udp) => udp.ask(token, question),
            Self::Framed(framed) => framed.ask(token, question),
            Self::Http2(http2) => return http2.ask(token, question),
        }
        Ok(())
    }

    /// Sends what is queued, all in one write. Returns whether all could be sent.
    fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Udp(udp) => udp.flush(),
            Self::Framed(framed) => framed.flush(),
            Self::Http2(http2) => http2.flush(),
        }
    }

    fn take(&mut self, sink: &mut Sink<'_>) -> io::Result<()> {
        match self {
            Self::Udp(udp) => udp.take(sink),
            Self::Framed(framed) => framed.take(sink),
            Self::Http2(http2) => http2.take(sink),
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(udp) => udp.as_fd(),
            Self::Framed(framed) => framed.as_fd(),
            Self::Http2(http2) => http2.as_fd(),
        }
    }
}

/// What is under way on one connection.
struct Slots {
    places: Box<[Option<Slot>]>,
    next: u16,
    waiting: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    token: u16,
    asked: Instant,
    /// The code that the answer must have.
    rcode: u8,
}

impl Slots {
    fn new() -> Self {
        Self { places: vec![None; SLOTS].into(), next: 0, waiting: 0 }
    }

    fn fill(&mut self, question: &Question<'_>, asked: Instant) -> u16 {
        // A free place: what was never answered may still hold the next one.
        while self.places[usize::from(self.next) % SLOTS].is_some() {
            self.next = self.next.wrapping_add(1);
        }
        let token = self.next;
        self.places[usize::from(token) % SLOTS] =
            Some(Slot { token, asked, rcode: question.rcode });
        self.next = token.wrapping_add(1);
        self.waiting += 1;
        token
    }

    /// The question that `token` stands for, if it is still waiting.
    fn empty(&mut self, token: u16) -> Option<Slot> {
        let slot = self.places[usize::from(token) % SLOTS].take_if(|slot| slot.token == token)?;
        self.waiting -= 1;
        Some(slot)
    }

    /// Gives up what waits for too long; returns how many.
    fn expire(&mut self, now: Instant) -> u64 {
        let late = |slot: &mut Slot| now.saturating_duration_since(slot.asked) > PATIENCE;
        let lost = self.places.iter_mut().filter_map(|slot| slot.take_if(late)).count();
        self.waiting -= lost;
        lost as u64
    }
}
