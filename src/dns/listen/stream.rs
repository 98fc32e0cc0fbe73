//! DNS over TCP and TLS (RFC 7766, RFC 7858): queries in a row, answers as they are ready.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Sleep, sleep, timeout};

use super::accept::Link;
use super::{Answered, CountPanic, Quick, count};
use crate::dns::{Client, Protocol};

/// Room for a row of queries, all of which are answered before the next read.
const READ: usize = 4096;
/// Answers gathered before they are written.
const WRITE: usize = 32 << 10;
/// Buffers larger than this are given back when they are empty.
const KEEP: usize = 16 << 10;
/// For the client to close its side after we closed ours.
const CLOSE: Duration = Duration::from_millis(500);

/// Serves one connection to its end.
pub(super) async fn serve<S>(stream: S, client: Client, link: Link)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shared = Arc::clone(&link.shared);
    let _count = CountPanic(&shared.counters.panics);
    let mut connection = Connection {
        stream,
        client,
        link,
        input: Vec::with_capacity(READ),
        reply: Vec::new(),
        output: Vec::new(),
        pending: JoinSet::new(),
        reading: true,
    };
    match connection.run().await {
        End::Done => close(&mut connection.stream).await,
        End::Late => count(&shared.counters.cut),
        End::Gone => {}
    }
}

struct Connection<S> {
    stream: S,
    client: Client,
    link: Link,
    /// What was read and not taken yet.
    input: Vec<u8>,
    /// Room for one answer.
    reply: Vec<u8>,
    /// Answers, each behind its length, to be written together.
    output: Vec<u8>,
    /// Queries that wait for their answers.
    pending: JoinSet<Option<Vec<u8>>>,
    /// Whether further queries are taken.
    reading: bool,
}

/// How a connection ends.
enum End {
    /// Every answer is sent: with a farewell.
    Done,
    /// The client broke off, or has to give way.
    Gone,
    /// The client let a deadline pass.
    Late,
}

/// What the connection waits for, and so which deadline runs.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Waiting {
    /// Answers; they have deadlines of their own.
    Answers,
    /// The rest of a message.
    Message,
    /// The next query.
    Query,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn run(&mut self) -> End {
        let limits = self.link.shared.limits;
        let mut timer = pin!(sleep(limits.idle_pressed));
        let mut waiting = Waiting::Query;
        let mut idle = Duration::ZERO;
        loop {
            let taken = self.take_queries();
            while let Some(done) = self.pending.try_join_next() {
                self.put_answer(done);
            }
            if !self.output.is_empty() {
                match timeout(limits.write, self.write()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return End::Gone,
                    Err(_) => return End::Late,
                }
            }
            if self.query_waits() {
                continue;
            }
            if !self.reading && self.pending.is_empty() {
                return End::Done;
            }

            let room = self.reading && self.pending.len() < limits.in_flight;
            let next = match (room, self.input.is_empty(), self.pending.is_empty()) {
                (true, false, _) => Waiting::Message,
                (true, true, true) => Waiting::Query,
                _ => Waiting::Answers,
            };
            if next != waiting || taken > 0 {
                waiting = next;
                idle = Duration::ZERO;
                rearm(
                    timer.as_mut(),
                    if next == Waiting::Message { limits.message } else { limits.idle_pressed },
                );
            }

            if room && self.input.capacity() - self.input.len() < READ / 4 {
                self.input.reserve(READ);
            }
            tokio::select! {
                // In this order, so that what has already arrived is answered before the end.
                biased;
                read = self.stream.read_buf(&mut self.input), if room => match read {
                    Ok(0) => self.reading = false,
                    Ok(_) => {}
                    Err(_) => return End::Gone,
                },
                Some(done) = self.pending.join_next() => self.put_answer(done),
                _ = self.link.closing.changed(), if self.reading => self.reading = false,
                () = self.link.slot.displaced() => return End::Gone,
                () = timer.as_mut(), if waiting != Waiting::Answers => {
                    if waiting == Waiting::Message {
                        return End::Late;
                    }
                    idle += limits.idle_pressed;
                    if idle >= limits.idle || self.link.shared.admission.pressed() {
                        return End::Done;
                    }
                    rearm(timer.as_mut(), limits.idle_pressed.min(limits.idle.saturating_sub(idle)));
                }
            }
        }
    }

    /// Takes the whole queries of the input, as many as there is room for. Returns their number.
    fn take_queries(&mut self) -> usize {
        if !self.query_waits() {
            return 0;
        }
        let in_flight = self.link.shared.limits.in_flight;
        self.client.arrived = self.link.shared.clock.mono();
        let mut answered = Answered::default();
        let (mut taken, mut at) = (0, 0);
        while let Some(query) = self.input.get(at..).and_then(first_message) {
            if self.pending.len() >= in_flight || self.output.len() >= WRITE {
                break;
            }
            at += 2 + query.len();
            taken += 1;
            let counters = &self.link.shared.counters;
            let tcp = self.client.protocol == Protocol::Tcp;
            let queries = if tcp { &counters.tcp } else { &counters.dot };
            count(queries.of(self.client.address.ip()));
            match self.link.shared.answer.quick(query, &self.client, None, &mut self.reply) {
                Quick::Reply(origin) => {
                    answered.add(origin);
                    put(&mut self.output, &self.reply);
                }
                Quick::Slow => {
                    let shared = &self.link.shared;
                    let Some(place) = shared.enter(query, &self.client, &mut self.reply) else {
                        put(&mut self.output, &self.reply);
                        continue;
                    };
                    let shared = Arc::clone(&self.link.shared);
                    let (query, client) = (query.to_vec(), self.client);
                    self.pending.spawn(async move {
                        let answer = shared.ask(query, client, &place).await.ok();
                        drop(place);
                        answer
                    });
                }
                Quick::Drop => {
                    // Whoever sends what is not DNS does not get to send more of it.
                    count(&self.link.shared.counters.dropped);
                    self.reading = false;
                    at = self.input.len();
                }
            }
        }
        self.link.shared.answered_together(&mut answered, self.client.arrived);
        self.input.drain(..at);
        if self.input.is_empty() && self.input.capacity() > KEEP {
            self.input = Vec::new();
        }
        taken
    }

    /// Whether a whole query could be taken.
    fn query_waits(&self) -> bool {
        self.pending.len() < self.link.shared.limits.in_flight
            && first_message(&self.input).is_some()
    }

    fn put_answer(&mut self, done: Result<Option<Vec<u8>>, JoinError>) {
        if let Ok(Some(answer)) = done {
            put(&mut self.output, &answer);
        }
    }

    /// Writes every answer that is ready at once: one system call, one TLS record.
    async fn write(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&self.output).await?;
        self.stream.flush().await?;
        self.output.clear();
        if self.output.capacity() > KEEP {
            self.output = Vec::new();
        }
        Ok(())
    }
}

/// Says farewell (`close_notify`, FIN), and waits a little for the client's: a socket closed
/// with unread input resets the connection, and the reset overtakes the last answers.
pub(super) async fn close(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let farewell = async {
        stream.shutdown().await?;
        let mut ignored = [0; 512];
        while stream.read(&mut ignored).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = timeout(CLOSE, farewell).await;
}

/// The first message of `input`, which stands behind its length in two octets
/// (RFC 1035 section 4.2.2), if it is there whole.
fn first_message(input: &[u8]) -> Option<&[u8]> {
    let (len, rest) = input.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*len)))
}

fn put(output: &mut Vec<u8>, answer: &[u8]) {
    if let Ok(len) = u16::try_from(answer.len()) {
        output.extend_from_slice(&len.to_be_bytes());
        output.extend_from_slice(answer);
    }
}

/// Starts `timer` anew. The reset costs no lock where `set(sleep(after))` would take two.
pub(super) fn rearm(timer: Pin<&mut Sleep>, after: Duration) {
    timer.reset(sleep(after).deadline());
}
