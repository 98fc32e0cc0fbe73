//! An answer path like the daemon's, with a cache full of answers and no network.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use firstlight::cache::{Cache, Near};
use firstlight::clock::UnixTime;
use firstlight::config::Config;
use firstlight::dns::answer::{AnswerSettings, Answerer};
use firstlight::dns::listen::Quick;
use firstlight::dns::{BoxFuture, Client, Forward, ForwardError, Forwarded, Origin, Protocol};
use firstlight::node::ports::Clock;
use tokio::runtime::{Builder, Runtime};

/// Devices that ask.
const CLIENTS: usize = 64;

/// What is configured: everything by default, but for a name and an upstream that is never asked.
const CONFIG: &str = r#"
[[upstream]]
name = "dns.example.net"
addresses = ["192.0.2.53"]

[[clock.source]]
address = "192.0.2.123"

[[name]]
name = "pi.home.lan"
addresses = ["10.77.0.2"]
"#;

/// An answer path, and the questions that its cache can answer.
#[derive(Debug)]
pub(crate) struct Answering {
    pub(crate) answerer: Answerer,
    pub(crate) questions: Vec<Vec<u8>>,
    clients: Vec<Client>,
    clock: Arc<SteadyClock>,
    asked: usize,
    /// What a thread that receives datagrams keeps for itself.
    near: Near,
    reply: Vec<u8>,
    /// What cannot be answered at once would run here; it does not.
    _runtime: Runtime,
}

impl Answering {
    /// With so many names in the cache.
    pub(crate) fn new(names: usize) -> Self {
        let config = Config::parse(CONFIG, Path::new("benchmark.toml")).expect("a configuration");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let cache = Cache::new(256 << 20, Duration::ZERO);
        let clock = Arc::new(SteadyClock::start());
        let answerer = Answerer::new(
            AnswerSettings::from(&config.config),
            Arc::new(cache),
            Arc::new(Upstream),
            Arc::<SteadyClock>::clone(&clock),
            runtime.handle().clone(),
        );
        let client = |number: usize| Client {
            address: SocketAddr::from(([10, 77, 1, number as u8], 40_000)),
            protocol: Protocol::Udp,
            arrived: clock.mono(),
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        let questions: Vec<_> =
            (0..names).map(|number| question(&format!("host{number}.example.com"), 1)).collect();
        runtime.block_on(async {
            for question in &questions {
                answerer.answer(question, &clients[0]).await.expect("an answer");
            }
        });
        let (near, reply) = (Near::new(), Vec::new());
        Self { answerer, questions, clients, clock, asked: 0, near, reply, _runtime: runtime }
    }

    /// Asks a question of the next device, received by itself, on the path that does not wait.
    pub(crate) fn ask(&mut self, question: &[u8]) -> Quick {
        self.asked += 1;
        let client = Client { arrived: self.clock.mono(), ..self.clients[self.asked % CLIENTS] };
        self.answerer.quick(question, &client, Some(&mut self.near), &mut self.reply)
    }

    /// Asks `count` questions that the cache answers, each name in turn.
    pub(crate) fn hit(&mut self, count: usize) {
        let questions = std::mem::take(&mut self.questions);
        for question in questions.iter().cycle().take(count) {
            assert_eq!(self.ask(question), Quick::Reply(Origin::Cache));
        }
        self.questions = questions;
    }
}

/// A question of class IN with EDNS, as a stub resolver asks it.
pub(crate) fn question(name: &str, qtype: u8) -> Vec<u8> {
    let mut octets = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        octets.push(label.len() as u8);
        octets.extend_from_slice(label.as_bytes());
    }
    octets.extend([0, 0, qtype, 0, 1]);
    octets.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    octets
}

/// Answers every question with one address, for a day.
#[derive(Debug)]
struct Upstream;

impl Forward for Upstream {
    fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
        let end = 12 + query[12..].iter().position(|&octet| octet == 0).unwrap_or(0) + 5;
        let mut message = query[..end].to_vec();
        message[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        message.extend(b"\xc0\x0c\0\x01\0\x01\0\x01\x51\x80\0\x04\xc0\0\x02\x07");
        Box::pin(async { Ok(Forwarded::unchecked(message, None)) })
    }
}

/// Goes on by 10 µs whenever it is read: reading the machine's would be measured too.
#[derive(Debug)]
struct SteadyClock {
    start: Instant,
    reads: AtomicU64,
}

impl SteadyClock {
    #[expect(clippy::disallowed_methods, reason = "where its time starts")]
    fn start() -> Self {
        Self { start: Instant::now(), reads: AtomicU64::new(0) }
    }
}

impl Clock for SteadyClock {
    fn mono(&self) -> Instant {
        self.start + Duration::from_micros(10 * self.reads.fetch_add(1, Ordering::Relaxed))
    }

    fn utc_at(&self, _: Instant) -> UnixTime {
        UnixTime::EPOCH
    }
}
