//! Clients that mean harm, by the thousand, against the real daemon: a client like any other
//! notices nothing, memory has a bound, and when they are gone nothing of them stays.
//!
//! The figures are printed. The bounds hold for a debug build that shares two busy cores with its
//! attackers; with `FIRSTLIGHT_QUIET` set, for a release build on a machine that does nothing else,
//! they are those that the daemon is made for. `FIRSTLIGHT_ABUSE_MINUTE` floods for a whole minute.
#![expect(clippy::unwrap_used, reason = "test code")]
#![expect(clippy::print_stdout, reason = "the figures")]

mod lab;
mod siege;

use std::fs;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use firstlight::admin::Request;
use firstlight::admin::report::Status;
use lab::clients::{ask_tcp, question};
use lab::{DAY, Daemon, LOCAL, Lab, Resolver, eventually, needing, now};
use libtest_mimic::{Arguments, Trial};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use siege::honest::{Honest, Report};
use siege::http2::{Mischief, harass, starve};
use siege::process::{connections, cpu_time, peak_memory};
use siege::{Ground, connect, tls};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

/// How long each abuse goes on.
const SIEGE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 12 } else { 6 });
/// A build without optimization is many times slower; what floods it is less by this.
const SLOWER: u32 = if cfg!(debug_assertions) { 4 } else { 1 };
/// What half of the answers to the honest client may take, and 99 in 100, whatever the way.
const WAITS: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(3)];
const WAITS_WHEN_QUIET: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(10)];
/// What the daemon may use of memory, in bytes, whatever is done to it.
const MOST_MEMORY: u64 = 128 << 20;
/// How long it may take to be rid of what is left when the abuse has ended: an idle connection's
/// time and a little more.
const AFTERMATH: Duration = Duration::from_secs(20);

fn main() {
    // Two ends of every connection, and more.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most.min(16_384), most).unwrap();
    let mut trials = vec![
        trial("a_thousand_idle_connections", || {
            beside(|| crowd(1000, 4, &[Hold::Tcp, Hold::Dot, Hold::Doh]));
        }),
        trial("more_idle_connections_than_there_are_places", || {
            beside(|| crowd(2200, 10, &[Hold::Tcp]));
        }),
        trial("a_thousand_half_handshakes", || {
            beside(|| crowd(1000, 4, &[Hold::Silence, Hold::HalfHello]));
        }),
        trial("a_thousand_connections_that_drip", || {
            alone(|| crowd(1000, 4, &[Hold::DripQuery, Hold::DripPreface, Hold::DripBody]));
        }),
        trial("answers_that_are_never_taken", || alone(untaken_answers)),
        needing("unbound", "a_million_unique_names_a_minute", || alone(unique_names)),
    ];
    let mut lost = needing("strace", "connections_lost_before_they_are_accepted", || {
        beside(lost_connections);
    });
    // It may be there, and not be allowed to look into other processes.
    let allowed = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if allowed.is_ok_and(|output| !output.status.success()) {
        lost = lost.with_kind("strace may not trace here").with_ignored_flag(true);
    }
    trials.push(lost);
    for mischief in Mischief::ALL {
        trials.push(trial(&format!("http2_{mischief:?}"), move || beside(|| http2(mischief))));
    }
    // They measure. Three of those that may together take one core, where the bounds have room for it.
    let threads = if is_quiet() || !cfg!(debug_assertions) { 1 } else { 3 };
    let arguments = Arguments { test_threads: Some(threads), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials).exit();
}

/// Held by those that keep a core busy, against all others.
static CORES: RwLock<()> = RwLock::new(());

/// Runs `test` while no other runs.
fn alone(test: impl FnOnce()) {
    let _held = CORES.write().unwrap_or_else(PoisonError::into_inner);
    test();
}

/// Runs `test` while none runs that has to be [`alone`].
fn beside(test: impl FnOnce()) {
    let _held = CORES.read().unwrap_or_else(PoisonError::into_inner);
    test();
}

/// Whether the machine does nothing else.
fn is_quiet() -> bool {
    std::env::var_os("FIRSTLIGHT_QUIET").is_some()
}

fn trial(name: &str, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}

/// So many connections of these kinds, from so many addresses; who is cut off comes again.
fn crowd(connections: u32, addresses: u32, holds: &'static [Hold]) {
    let scene = Scene::new();
    let attack = |runtime: &Runtime, _: &Arc<AtomicBool>| {
        for number in 0..connections {
            let (from, ground) = (scene.attacker(number % addresses), scene.ground);
            let hold = holds[number as usize % holds.len()];
            runtime.spawn(async move {
                // They do not come all at once: that would be an abuse of another kind.
                sleep(SIEGE / 2 * number / connections).await;
                again(move || hold.keep(from, ground)).await;
            });
        }
    };
    scene.withstands(&["pi.home.lan"], attack);
}

/// Twenty connections over and over, from two addresses; every other one reads what comes.
fn http2(mischief: Mischief) {
    let scene = Scene::new();
    let attack = |runtime: &Runtime, _: &Arc<AtomicBool>| {
        for number in 0..20 / SLOWER {
            let (from, to) = (scene.attacker(number / 2 % 2), scene.ground.doh);
            runtime.spawn(again(move || harass(from, to, mischief, number % 2 == 0)));
        }
    };
    scene.withstands(&["pi.home.lan"], attack);
}

/// Two hundred connections that ask for as much as they can and take nothing of it.
fn untaken_answers() {
    let scene = Scene::new();
    let attack = |runtime: &Runtime, _: &Arc<AtomicBool>| {
        for number in 0..200 {
            let (from, to) = (scene.attacker(number % 2), scene.ground.doh);
            runtime.spawn(async move {
                sleep(SIEGE / 2 * number / 200).await;
                again(move || starve(from, to, BIG)).await;
            });
        }
    };
    scene.withstands(&["pi.home.lan"], attack);
}

/// A million names a minute that nobody asked for before, past what other people use.
fn unique_names() {
    let minute = std::env::var_os("FIRSTLIGHT_ABUSE_MINUTE").is_some();
    let lab = Lab::new();
    let mut resolver = Resolver::new(&lab, 30, (-DAY, DAY));
    resolver.start();
    // With a rate the flood would not get this far.
    lab.configure().without_rate().upstream(&resolver, "quad9").write();
    let mut scene = Scene::of(lab);
    scene.length = if minute { Duration::from_secs(60) } else { SIEGE };
    let (from, to) = ([0, 1, 2, 3].map(|number| scene.attacker(number)), scene.ground.dns);
    scene.withstands(&["pi.home.lan", "known.lab.example.com"], |runtime, over| {
        let over = Arc::clone(over);
        runtime.spawn_blocking(move || flood(from, to, &over));
    });
}

/// The daemon, who besieges it, and who suffers.
struct Scene {
    daemon: Daemon,
    lab: Lab,
    ground: Ground,
    length: Duration,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new();
        let many: Vec<_> = (0..3000_u32).map(|n| Ipv4Addr::from(0x0a4d_0000 + n)).collect();
        lab.configure().name_of_many(BIG, &many).write();
        Self::of(lab)
    }

    fn of(lab: Lab) -> Self {
        let mut daemon = Daemon::start(&lab, &["--start", "@0"]);
        daemon.serves(&lab).unwrap();
        Self { daemon, ground: Ground::of(&lab), lab, length: SIEGE }
    }

    fn attacker(&self, number: u32) -> Ipv4Addr {
        self.lab.address(100 + u8::try_from(number).unwrap())
    }

    /// Holds the daemon to its bounds while `attack` goes on, and afterwards. The attack ends with
    /// its runtime, or when the flag is set.
    fn withstands(
        &self,
        names: &'static [&'static str],
        attack: impl FnOnce(&Runtime, &Arc<AtomicBool>),
    ) {
        let pid = self.daemon.pid();
        let quiet = self.watch(names, Duration::from_secs(2));
        let (runtime, over) = (Runtime::new().unwrap(), Arc::default());

        attack(&runtime, &over);
        let besieged = self.watch(names, self.length);
        let (memory, held) = (peak_memory(pid), self.connections());
        over.store(true, Ordering::Relaxed);
        runtime.shutdown_background();

        let gone = eventually(AFTERMATH, || (self.connections() == 0).then_some(()));
        // What was asked last may still wait for an upstream.
        let rests = eventually(AFTERMATH, || {
            let before = cpu_time(pid);
            thread::sleep(Duration::from_secs(3));
            let used = cpu_time(pid).saturating_sub(before) / 3;
            (used <= Duration::from_millis(50)).then_some(used)
        });
        println!(
            "  quiet:    {quiet}\n  besieged: {besieged}\n  {held} connections, {} MB, then {rests:?} \
             of CPU a second; {:?}",
            memory >> 20,
            self.daemon.status().dns.counters,
        );

        let most = if is_quiet() { WAITS_WHEN_QUIET } else { WAITS };
        assert!(besieged.lost.is_empty(), "questions were lost");
        assert!(besieged.is_telling(), "too few questions were asked");
        assert!(besieged.wait(50) <= most[0] && besieged.wait(99) <= most[1], "late answers");
        assert!(memory <= MOST_MEMORY, "too much memory");
        assert!(gone.is_some(), "{} connections are left", self.connections());
        assert!(rests.is_some(), "it does not come to rest");
        assert!(!self.daemon.log().contains("panic"), "{}", self.daemon.log());
    }

    fn connections(&self) -> usize {
        [self.ground.dns, self.ground.dot, self.ground.doh].map(connections).iter().sum()
    }

    /// What the honest client meets meanwhile.
    fn watch(&self, names: &'static [&'static str], length: Duration) -> Report {
        let honest = Honest::start(self.ground, self.lab.address(200), names);
        thread::sleep(length);
        honest.stop()
    }
}

/// A local name with a long answer.
const BIG: &str = "big.home.lan";

/// How a connection is held.
#[derive(Clone, Copy, Debug)]
enum Hold {
    Tcp,
    Dot,
    Doh,
    /// Where a `ClientHello` is expected.
    Silence,
    HalfHello,
    DripQuery,
    DripPreface,
    DripBody,
}

impl Hold {
    /// Holds one until the server closes it.
    async fn keep(self, from: Ipv4Addr, ground: Ground) -> io::Result<()> {
        let body = b"POST /dns-query HTTP/1.1\r\nhost: dns.home.lan\r\n\
                     content-type: application/dns-message\r\ncontent-length: 40\r\n\r\n";
        match self {
            Self::Tcp => drip(connect(from, ground.dns).await?, b"").await,
            Self::Dot => drip(tls(from, ground.dot, b"dot").await?, b"").await,
            Self::Doh => drip(tls(from, ground.doh, b"h2").await?, b"").await,
            Self::Silence => drip(connect(from, ground.dot).await?, b"").await,
            Self::HalfHello => {
                let mut stream = connect(from, ground.doh).await?;
                // A record of 512 octets that holds a `ClientHello`, and little of it.
                stream.write_all(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03").await?;
                drip(stream, b"").await
            }
            // As long as it says, a query would be.
            Self::DripQuery => drip(connect(from, ground.dns).await?, &[0, 64]).await,
            Self::DripPreface => {
                let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
                drip(tls(from, ground.doh, b"h2").await?, preface).await
            }
            Self::DripBody => {
                let mut stream = tls(from, ground.doh, b"http/1.1").await?;
                stream.write_all(body).await?;
                drip(stream, &[0; 40]).await
            }
        }
    }
}

/// Sends an octet each half second, then nothing, until the server closes the connection.
async fn drip(mut stream: impl AsyncRead + AsyncWrite + Unpin, octets: &[u8]) -> io::Result<()> {
    for octet in octets {
        stream.write_all(&[*octet]).await?;
        stream.flush().await?;
        if timeout(Duration::from_millis(500), closed(&mut stream)).await.is_ok() {
            return Ok(());
        }
    }
    closed(&mut stream).await;
    Ok(())
}

async fn closed(stream: &mut (impl AsyncRead + Unpin)) {
    while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
}

/// Does it over and over, with a pause between two times.
async fn again<T, F: Future<Output = io::Result<T>>>(mut task: impl FnMut() -> F) {
    loop {
        drop(task().await);
        sleep(Duration::from_millis(250)).await;
    }
}

/// Connections that are lost before they are accepted cost no more than a moment each: the daemon
/// does not spin, and accepts the next.
fn lost_connections() {
    let lab = Lab::new();
    lab.configure().write();
    let log = lab.path("trace").display().to_string();
    let inject = "inject=accept4:error=ECONNABORTED:when=1..70";
    let tracer = ["strace", "-f", "-o", &log, "-e", "trace=accept4", "-e", inject];
    let mut daemon = Daemon::start_under(&lab, &tracer, &[]);
    daemon.serves(&lab).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
    let child = fs::read_to_string(children).unwrap();
    let child = Pid::from_raw(child.trim().parse().unwrap());
    let before = cpu_time(child);

    // The kernel has the connection all the while.
    let answer = eventually(Duration::from_secs(30), || ask_tcp(lab.dns(), LOCAL.0));

    assert!(answer.is_some_and(|answer| answer.addresses == [LOCAL.1]), "{}", daemon.log());
    let errors = eventually(Duration::from_secs(30), || {
        let status = serde_json::from_value::<Status>(daemon.call(&Request::Status).ok()?);
        Some(status.unwrap().dns.counters["accept_errors"])
    });
    assert!(errors.is_some_and(|errors| errors >= 70), "{errors:?}");
    let used = cpu_time(child).saturating_sub(before);
    assert!(used < Duration::from_secs(1), "{used:?}");
}

/// Asks 16,667 times a second, or by [`SLOWER`] less, each time for another name.
fn flood(from: [Ipv4Addr; 4], to: SocketAddr, over: &AtomicBool) {
    let sockets = from.map(|from| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    });
    let (_, mut query) = question("n0000000.lab.example.com");
    let began = now();
    let (mut sent, mut answered) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        let due = now().saturating_duration_since(began).as_micros() / 60 / u128::from(SLOWER);
        for number in sent..due {
            // The id, and the seven digits of the name.
            query[..2].copy_from_slice(&rand::random::<[u8; 2]>());
            query[14..21].copy_from_slice(format!("{number:07}").as_bytes());
            drop(sockets[usize::try_from(number % 4).unwrap()].send(&query));
        }
        sent = due;
        for socket in &sockets {
            while socket.recv(&mut [0; 512]).is_ok() {
                answered += 1;
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    println!("  {sent} names asked for, {answered} answers");
}
