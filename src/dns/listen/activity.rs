//! What an HTTP client is about, which the protocol underneath does not say; and how much it may.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Octets a client may send with no request among them: twice the longest head. Pings, settings
/// and frames of nothing lead no farther.
const MAX_CHATTER: usize = 32 << 10;
/// The same for each request under way: twice the longest body.
const MAX_BODY: usize = 128 << 10;
/// The same once a request has ended, whose body may still be on its way: what a window holds.
const MAX_TAIL: usize = 64 << 10;
/// Octets of answers that a client has not taken, beyond which its next request waits.
const MAX_UNTAKEN: usize = 16 << 10;
/// Room that a buffer may have beyond its answer.
const MAX_SPARE: usize = 4 << 10;
/// Octets read from a connection before others have their turn.
const TURN: usize = 16 << 10;

/// What the client of one connection is about.
#[derive(Debug, Default)]
pub(super) struct Activity {
    started: AtomicU64,
    running: AtomicUsize,
    /// A request has ended.
    answered: AtomicBool,
    /// Octets that came since a request last started.
    chatter: AtomicUsize,
    /// Octets of answers that are not on their way yet.
    untaken: AtomicUsize,
    taken: Notify,
    excess: Notify,
    ended: AtomicBool,
}

impl Activity {
    /// Notes that a request has come. It is under way until the guard is dropped.
    pub(super) fn start(self: &Arc<Self>) -> UnderWay {
        self.started.fetch_add(1, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        self.chatter.store(0, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Whether a request runs, or ran since `seen` was last brought up to date.
    pub(super) fn went_on(&self, seen: &mut u64) -> bool {
        let started = self.started.load(Ordering::Relaxed);
        let before = std::mem::replace(seen, started);
        started != before || self.running.load(Ordering::Relaxed) > 0
    }

    /// Waits until the client has taken enough of its answers to be given another. False if it has
    /// not within `limit`, which is excess, or never will.
    pub(super) async fn takes_answers(&self, limit: Duration) -> bool {
        let room = async {
            loop {
                let taken = self.taken.notified();
                if self.untaken.load(Ordering::Relaxed) < MAX_UNTAKEN {
                    return;
                }
                taken.await;
            }
        };
        let took = timeout(limit, room).await.is_ok();
        if !took {
            self.excess.notify_one();
        }
        took && !self.ended.load(Ordering::Relaxed)
    }

    /// Notes, when the guard is dropped, that the connection is at its end: whoever waits for the
    /// client to take an answer has no answer to make any more.
    pub(super) fn end_with(&self) -> End<'_> {
        End(self)
    }

    /// The octets of an answer, counted until the last of them is on its way.
    pub(super) fn hand_out(self: &Arc<Self>, mut answer: Vec<u8>) -> Bytes {
        if answer.capacity() - answer.len() > MAX_SPARE {
            answer.shrink_to_fit();
        }
        self.untaken.fetch_add(answer.len(), Ordering::Relaxed);
        Bytes::from_owner(Untaken { answer, activity: Arc::clone(self) })
    }

    /// Waits until the client has gone too far.
    pub(super) async fn excess(&self) {
        self.excess.notified().await;
    }

    /// Notes that `octets` have come; whether they are too many.
    fn chatted(&self, octets: usize) -> bool {
        let chatter = self.chatter.fetch_add(octets, Ordering::Relaxed) + octets;
        let tail = if self.answered.load(Ordering::Relaxed) { MAX_TAIL } else { 0 };
        chatter > MAX_CHATTER + tail + MAX_BODY * self.running.load(Ordering::Relaxed)
    }
}

/// The span of a connection.
pub(super) struct End<'a>(&'a Activity);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// A request under way.
pub(super) struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.answered.store(true, Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Untaken {
    answer: Vec<u8>,
    activity: Arc<Activity>,
}

impl AsRef<[u8]> for Untaken {
    fn as_ref(&self) -> &[u8] {
        &self.answer
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        self.activity.untaken.fetch_sub(self.answer.len(), Ordering::Relaxed);
        self.activity.taken.notify_waiters();
    }
}

/// A stream that is read in turns, and no more once there is excess.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    /// Octets read in this turn.
    turn: usize,
}

impl<S> Watched<S> {
    pub(super) const fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity, turn: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn >= TURN {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) else {
            self.turn = 0;
            return Poll::Pending;
        };
        let octets = buffer.filled().len() - before;
        self.turn += octets;
        if self.activity.chatted(octets) {
            // Whoever waits for it ends the connection.
            self.activity.excess.notify_one();
            return Poll::Pending;
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, octets)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn who_has_much_to_say_is_read_in_turns_and_in_the_end_no_more() {
        let (mut client, server) = duplex(1 << 20);
        client.write_all(&vec![0; 1 << 20]).await.unwrap();
        let activity = Arc::new(Activity::default());
        let mut watched = Watched::new(server, Arc::clone(&activity));

        assert_eq!(read(&mut watched).await, TURN);
        let more = async { while read(&mut watched).await > 0 {} };
        tokio::join!(more, activity.excess());

        // A request under way would have allowed for more.
        let _request = activity.start();
        assert!(read(&mut watched).await > 0);
    }

    #[tokio::test]
    async fn the_next_answer_waits_until_the_one_before_is_taken() {
        let activity = Arc::new(Activity::default());
        let brief = Duration::from_millis(20);
        let answer = activity.hand_out(vec![0; 60_000]);
        assert!(!activity.takes_answers(brief).await);

        drop(answer);
        assert!(activity.takes_answers(brief).await);
        drop(activity.end_with());
        assert!(!activity.takes_answers(brief).await);
    }

    /// Reads until it would have to wait, or has had its turn.
    async fn read(watched: &mut Watched<tokio::io::DuplexStream>) -> usize {
        let mut octets = 0;
        poll_fn(|cx| {
            let mut room = [0; 4096];
            let mut buffer = ReadBuf::new(&mut room);
            while Pin::new(&mut *watched).poll_read(cx, &mut buffer).is_ready() {
                octets += buffer.filled().len();
                buffer.clear();
            }
            Poll::Ready(octets)
        })
        .await
    }
}
