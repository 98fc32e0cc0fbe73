//! Threads that answer datagrams: one for each CPU and address.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::bind;
use super::datagram::{Batch, Datagram, Socket};
use super::families::Families;
use super::open::Listen;
use crate::clock::UnixTime;

/// Pause after an error that may repeat at once, so that it cannot spin.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Answers datagrams, on several threads at once.
pub trait Handler: Send + Sync + 'static {
    /// What each thread has for itself.
    type Own: Default;

    /// Whether it wants to know when the kernel received a datagram.
    const STAMPED: bool = false;

    /// A batch of datagrams was received, which are about to be handled.
    fn received(&self, _own: &mut Self::Own) {}

    /// Writes the reply to `datagram` into `reply`, which comes empty; left empty, nothing is sent.
    ///
    /// `socket` is what it came by, for whoever replies later. Must not block.
    fn handle(
        &self,
        datagram: Datagram<'_>,
        socket: &Arc<Socket>,
        own: &mut Self::Own,
        reply: &mut Vec<u8>,
    );

    /// The replies to a batch of datagrams are about to be handed to the kernel. Says whether it is
    /// worth a few system calls to know when they leave ([`Self::sent`]).
    fn sending(&self, _own: &mut Self::Own) -> bool {
        false
    }

    /// What [`Self::sending`] wanted to know: when the reply at each place of the batch left, where the
    /// kernel says, by the machine's clock.
    fn sent(&self, _own: &mut Self::Own, _left: &[Option<UnixTime>]) {}
}

/// What the threads of a service have done.
#[derive(Debug, Default)]
pub struct Tally {
    /// Datagrams received.
    pub received: Families,
    /// Replies sent by the receiving threads.
    pub sent: AtomicU64,
    /// Replies the kernel refused.
    pub send_failed: AtomicU64,
    /// Panics of the handler that were caught.
    pub panics: AtomicU64,
}

/// A datagram service, to be kept open by [`super::KeepOpen`].
pub struct DatagramListen<H> {
    service: &'static str,
    thread: &'static str,
    handler: Arc<H>,
    tally: Arc<Tally>,
}

impl<H: Handler> DatagramListen<H> {
    /// A service of the name `service` (for the log) whose threads are named `thread`.
    #[must_use]
    pub fn new(service: &'static str, thread: &'static str, handler: Arc<H>) -> Self {
        Self { service, thread, handler, tally: Arc::default() }
    }

    /// What its threads have done, over all addresses.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl<H: Handler> Listen for DatagramListen<H> {
    type Guard = Threads;

    fn listen(&self, address: SocketAddr) -> io::Result<(SocketAddr, Threads)> {
        // The CPUs this process may use: the affinity mask and the cgroup's quota.
        let count = thread::available_parallelism().map_or(1, usize::from);
        // When replies leave, the kernel says by socket, so two threads would hear of each other's.
        let of_held = if H::STAMPED { 1 } else { count };
        let (sockets, held) = match bind::held_udp(address, of_held)? {
            Some(sockets) => (sockets, true),
            None => (bind::udp(address, count)?, false),
        };
        let local = sockets.first().map_or(Ok(address), UdpSocket::local_addr)?;
        let threads = Threads::start(self, sockets, held)?;
        Ok((local, threads))
    }

    fn service(&self) -> &'static str {
        self.service
    }
}

impl<H> fmt::Debug for DatagramListen<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramListen")
            .field("service", &self.service)
            .field("tally", &self.tally)
            .finish_non_exhaustive()
    }
}

/// The threads of one address. Dropped, they answer what is queued, and end; what is queued in a
/// socket that is held is left to its next reader.
#[derive(Debug)]
pub struct Threads {
    stop: Arc<AtomicBool>,
    /// Whether the socket is held by somebody else, too.
    held: bool,
    running: Vec<(Arc<Socket>, JoinHandle<()>)>,
}

impl Threads {
    fn start<H: Handler>(
        listen: &DatagramListen<H>,
        sockets: Vec<UdpSocket>,
        held: bool,
    ) -> io::Result<Self> {
        let mut this = Self { stop: Arc::default(), held, running: Vec::new() };
        for socket in sockets {
            let socket = Arc::new(Socket::new(socket)?);
            if H::STAMPED
                && let Err(error) = socket.stamp()
            {
                tracing::warn!(service = listen.service, %error, "the kernel does not say when datagrams came; they count as received when they are read");
            }
            let worker = Worker {
                service: listen.service,
                socket: Arc::clone(&socket),
                handler: Arc::clone(&listen.handler),
                tally: Arc::clone(&listen.tally),
                stop: Arc::clone(&this.stop),
                held,
            };
            let thread = thread::Builder::new().name(listen.thread.to_owned());
            this.running.push((socket, thread.spawn(move || worker.run())?));
        }
        Ok(this)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if !self.held {
            for (socket, _) in &self.running {
                socket.stop_receiving();
            }
        }
        for (_, thread) in self.running.drain(..) {
            // Panics of the handler are caught within; another one was reported by the hook.
            let _ = thread.join();
        }
    }
}

struct Worker<H> {
    service: &'static str,
    socket: Arc<Socket>,
    handler: Arc<H>,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    held: bool,
}

impl<H: Handler> Worker<H> {
    fn run(&self) {
        let mut batch = Batch::new(&self.socket);
        let mut own = H::Own::default();
        let mut left = Vec::new();
        loop {
            match batch.receive(&self.socket) {
                Ok(0) | Err(_) if self.stop.load(Ordering::Relaxed) => return,
                Ok(0) => {}
                Ok(received) => {
                    // Once a batch, not once a datagram: the threads share these.
                    add(self.tally.received.of(self.socket.local().ip()), received);
                    self.survives(|| self.handler.received(&mut own));
                    batch.answer(|datagram, reply| self.handle(datagram, &mut own, reply));
                    let mut watched = false;
                    self.survives(|| watched = self.handler.sending(&mut own));
                    let sent = if watched {
                        let sent = batch.send_watched(&self.socket, &mut left);
                        self.survives(|| self.handler.sent(&mut own, &left));
                        sent
                    } else {
                        batch.send(&self.socket)
                    };
                    add(&self.tally.sent, sent.sent);
                    add(&self.tally.send_failed, sent.failed);
                }
                Err(error) => {
                    tracing::debug!(service = self.service, %error, "receive failed");
                    thread::sleep(ERROR_PAUSE);
                }
            }
            if self.held && self.stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    fn handle(&self, datagram: Datagram<'_>, own: &mut H::Own, reply: &mut Vec<u8>) {
        if !self.survives(|| self.handler.handle(datagram, &self.socket, own, reply)) {
            reply.clear();
        }
    }

    /// Calls the handler; false if it panicked.
    fn survives(&self, call: impl FnOnce()) -> bool {
        let outcome = catch_unwind(AssertUnwindSafe(call));
        if let Err(payload) = &outcome {
            let panics = self.tally.panics.fetch_add(1, Ordering::Relaxed) + 1;
            // A hostile client must not fill the log with it.
            if panics.is_power_of_two() {
                let message = panic_message(&**payload);
                tracing::error!(service = self.service, message, panics, "a handler panicked");
            }
        }
        outcome.is_ok()
    }
}

fn add(counter: &AtomicU64, count: usize) {
    if count > 0 {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_panic_costs_one_datagram_and_is_counted() {
        let listen = DatagramListen::new("test", "test", Arc::new(Touchy));
        let (address, _threads) = listen.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = client();

        client.send_to(b"panic", address).unwrap();
        client.send_to(b"echo", address).unwrap();

        let mut reply = [0; 16];
        let (len, _) = client.recv_from(&mut reply).unwrap();
        assert_eq!(&reply[..len], b"echo");
        assert_eq!(listen.tally().panics.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn dropped_threads_answer_what_is_queued_and_free_the_address() {
        let listen = DatagramListen::new("test", "test", Arc::new(Touchy));
        let (address, threads) = listen.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let clients: Vec<_> = (0..50).map(|_| client()).collect();
        for client in &clients {
            client.send_to(b"echo", address).unwrap();
        }

        drop(threads);

        for client in clients {
            assert_eq!(client.recv(&mut [0; 16]).unwrap(), 4);
        }
        assert!(bind::udp(address, 1).is_ok());
    }

    /// What the kernel says stays true for whoever comes late.
    #[test]
    fn a_datagram_that_had_to_wait_says_when_it_came() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listen = DatagramListen::new("test", "test", Arc::new(Slow));
            let (server, _threads) = listen.listen(address.parse().unwrap()).unwrap();
            let client = UdpSocket::bind(address).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            client.connect(server).unwrap();
            // Both go to one thread, which is busy with the first for 40 ms.
            client.send(b"slow").unwrap();
            thread::sleep(Duration::from_millis(10));
            client.send(b"fast").unwrap();

            let mut reply = [0; 16];
            client.recv(&mut reply).unwrap();
            client.recv(&mut reply).unwrap();

            let waited = i128::from_be_bytes(reply);
            assert!((20_000_000..1_000_000_000).contains(&waited), "{waited} ns");
        }
    }

    #[test]
    fn who_wants_to_know_is_told_when_replies_left() {
        let (sender, told) = mpsc::channel();
        let listen = DatagramListen::new("test", "test", Arc::new(Curious(sender)));
        let (address, _threads) = listen.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = client();
        for question in [&b"plain"[..], b"when", b"plain"] {
            client.send_to(question, address).unwrap();
            client.recv(&mut [0; 16]).unwrap();
        }

        let left = told.recv_timeout(Duration::from_secs(10)).unwrap();

        assert!(matches!(left[..], [Some(_)]), "{left:?}");
        assert!(told.try_recv().is_err(), "of the others nothing is told");
    }

    struct Curious(mpsc::Sender<Vec<Option<UnixTime>>>);

    impl Handler for Curious {
        type Own = bool;

        fn handle(
            &self,
            datagram: Datagram<'_>,
            _: &Arc<Socket>,
            wants: &mut bool,
            reply: &mut Vec<u8>,
        ) {
            *wants |= datagram.payload == b"when";
            reply.extend_from_slice(datagram.payload);
        }

        fn sending(&self, wants: &mut bool) -> bool {
            std::mem::take(wants)
        }

        fn sent(&self, _: &mut bool, left: &[Option<UnixTime>]) {
            self.0.send(left.to_vec()).unwrap();
        }
    }

    struct Slow;

    impl Handler for Slow {
        type Own = ();

        const STAMPED: bool = true;

        #[expect(clippy::disallowed_methods, reason = "what the kernel's stamps are read from")]
        fn handle(
            &self,
            datagram: Datagram<'_>,
            _: &Arc<Socket>,
            (): &mut (),
            reply: &mut Vec<u8>,
        ) {
            if datagram.payload == b"slow" {
                thread::sleep(Duration::from_millis(40));
            }
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            let now = UnixTime::from_nanos(now.as_nanos().try_into().unwrap());
            reply.extend(now.since(datagram.stamp.unwrap()).to_be_bytes());
        }
    }

    struct Touchy;

    impl Handler for Touchy {
        type Own = ();

        fn handle(
            &self,
            datagram: Datagram<'_>,
            _: &Arc<Socket>,
            (): &mut (),
            reply: &mut Vec<u8>,
        ) {
            assert_ne!(datagram.payload, b"panic");
            reply.extend_from_slice(datagram.payload);
        }
    }

    fn client() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }
}
