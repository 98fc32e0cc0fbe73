//! The servers: how each is set up and started, and what it uses.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use firstlight::wire::{Message, Type, flags};
use rand::random;

use crate::Failure;
use crate::measure::Job;
use crate::questions::Questions;
use crate::world::{START, World, at, fill};

/// A kind of server.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    program: &'static str,
    config: (&'static str, &'static str),
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    version: &'static [&'static str],
    lacks: &'static [Job],
}

/// What Debian 12's package cannot do over TLS and HTTPS for its clients.
const NO_TLS: &[Job] =
    &[Job::Dot, Job::DotTail, Job::Doh, Job::DohTail, Job::Handshakes, Job::HandshakesInARow];

/// The program measured; the first in every round, and once more as the last.
pub(crate) const FIRSTLIGHT: Kind = Kind {
    name: "firstlight",
    program: env!("CARGO_BIN_EXE_firstlight"),
    config: ("firstlight.toml", include_str!("config/firstlight.toml")),
    arguments: &["run", "--config", "{config}"],
    environment: &[],
    version: &["--version"],
    lacks: &[],
};

/// The same again: what lies between the two is noise.
pub(crate) const AGAIN: Kind = Kind { name: "again", ..FIRSTLIGHT };

/// What the kernel takes: every datagram goes back as it came.
pub(crate) const ECHO: Kind = Kind {
    name: "echo",
    program: "/proc/self/exe",
    config: ("unused", ""),
    arguments: &["--echo", "{address}:53"],
    environment: &[],
    version: &[],
    lacks: &[
        Job::Tcp,
        Job::Dot,
        Job::DotTail,
        Job::Doh,
        Job::DohTail,
        Job::Handshakes,
        Job::HandshakesInARow,
        Job::Miss,
        Job::MissCalm,
        Job::Memory,
        Job::Start,
    ],
};

/// The others.
pub(crate) const PEERS: [Kind; 7] = [
    Kind {
        name: "unbound",
        program: "unbound",
        config: ("unbound.conf", include_str!("config/unbound.conf")),
        arguments: &["-d", "-c", "{config}"],
        environment: &[],
        version: &["-V"],
        lacks: &[],
    },
    Kind {
        name: "dnsdist",
        program: "dnsdist",
        config: ("dnsdist.lua", include_str!("config/dnsdist.lua")),
        arguments: &["--supervised", "--disable-syslog", "-C", "{config}"],
        environment: &[],
        version: &["--version"],
        lacks: &[],
    },
    Kind {
        name: "knot-resolver",
        program: "kresd",
        config: ("kresd.lua", include_str!("config/kresd.lua")),
        arguments: &["-n", "-q", "-c", "{config}", "{folder}"],
        environment: &[],
        version: &["--version"],
        lacks: &[],
    },
    Kind {
        name: "pdns-recursor",
        program: "pdns_recursor",
        config: ("recursor.conf", include_str!("config/recursor.conf")),
        arguments: &["--config-dir={folder}"],
        environment: &[],
        version: &["--version"],
        lacks: NO_TLS,
    },
    Kind {
        name: "dnsmasq",
        program: "dnsmasq",
        config: ("dnsmasq.conf", include_str!("config/dnsmasq.conf")),
        arguments: &["-k", "-C", "{config}"],
        environment: &[],
        version: &["--version"],
        // It asks upstreams over UDP, and closes a TCP connection after 100 questions.
        lacks: &[
            Job::Tcp,
            Job::Dot,
            Job::DotTail,
            Job::Doh,
            Job::DohTail,
            Job::Handshakes,
            Job::HandshakesInARow,
            Job::Miss,
            Job::MissCalm,
            Job::Start,
        ],
    },
    Kind {
        name: "smartdns",
        program: "smartdns",
        config: ("smartdns.conf", include_str!("config/smartdns.conf")),
        arguments: &["-f", "-x", "-c", "{config}", "-p", "{folder}/pid"],
        environment: &[],
        version: &["-v"],
        lacks: NO_TLS,
    },
    Kind {
        name: "hickory-dns",
        program: "hickory-dns",
        config: ("hickory.toml", include_str!("config/hickory.toml")),
        arguments: &["--workers", "1", "-q", "-c", "{config}", "-z", "{folder}"],
        environment: &[("SSL_CERT_FILE", "{ca}"), ("RUST_LOG", "error")],
        version: &["--version"],
        lacks: &[],
    },
];

impl Kind {
    pub(crate) fn can(&self, job: Job) -> bool {
        !self.lacks.contains(&job)
    }

    /// What it says of its version; `None` if it is not installed.
    pub(crate) fn version(&self) -> Option<String> {
        if self.version.is_empty() {
            return None;
        }
        let output = Command::new(self.program).args(self.version).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let number = |word: &str| {
            let word = word.trim_start_matches('v');
            let is_it =
                word.len() > 3 && !word.contains(':') && word.as_bytes()[0].is_ascii_digit();
            is_it.then(|| word.to_owned())
        };
        Some(text.split_whitespace().find_map(number).unwrap_or_default())
    }
}

/// A server at work. Ended when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: &'static Kind,
    pub(crate) address: Ipv4Addr,
    /// From the start of the process to the first answer.
    pub(crate) started: Duration,
    child: Child,
}

impl Server {
    /// Starts a server and waits for its first answer, for which it has to ask the upstream.
    pub(crate) fn start(
        kind: &'static Kind,
        world: &World,
        address: Ipv4Addr,
    ) -> Result<Self, Failure> {
        let folder = world.folder.join(kind.name);
        // What another round left behind, if there was one.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let config = folder.join(kind.config.0);
        fs::write(&config, fill(kind.config.1, &folder, address))?;
        let fill = |text: &str| fill(&text.replace("{config}", &show(&config)), &folder, address);
        let log = fs::File::create(folder.join("log"))?;
        let mut command = Command::new(kind.program);
        command.args(kind.arguments.iter().map(|text| fill(text))).current_dir(&folder);
        command.envs(kind.environment.iter().map(|&(name, text)| (name, fill(text))));
        command.stdout(log.try_clone()?).stderr(log);

        let begun = Instant::now();
        let child = world.spawn(&mut command)?;
        let mut server = Self { kind, address, started: Duration::ZERO, child };
        let mut probe = Probe::new(server.at(53))?;
        while probe.ttl().is_none() {
            if let Some(status) = server.child.try_wait()? {
                return Err(server.complain(&folder, &format!("it ended: {status}")));
            }
            if begun.elapsed() > START {
                return Err(server.complain(&folder, "it does not answer"));
            }
        }
        server.started = begun.elapsed();
        Ok(server)
    }

    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        at(self.address, port)
    }

    /// Waits until answers may be kept for longer than the minute that firstlight allows while it
    /// does not know the time.
    pub(crate) fn settle(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        while Probe::new(self.at(53))?.ttl().is_none_or(|ttl| ttl <= 60) {
            if begun.elapsed() > START {
                return Err("it keeps answers for a minute only".into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn complain(&self, folder: &Path, what: &str) -> Failure {
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(5).collect();
        format!("{what}\n{}", last.join("\n")).into()
    }

    /// CPU time used so far, by the server and its children.
    ///
    /// The scheduler's count, in nanoseconds; of children that ended, in ticks of 10 ms.
    pub(crate) fn cpu(&self) -> Duration {
        let ended = stat(&process(self.child.id()), [15, 16]).iter().sum::<u64>();
        let running: u64 =
            self.tree().iter().flat_map(|&pid| tasks(pid)).map(|task| on_cpu(&task)).sum();
        Duration::from_nanos(running) + Duration::from_millis(10 * ended)
    }

    /// Resident memory in octets, of the server and its children.
    pub(crate) fn memory(&self) -> f64 {
        let of = |pid| -> Option<f64> {
            let status = fs::read_to_string(process(pid).join("status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse().ok()
        };
        self.tree().into_iter().filter_map(of).sum::<f64>() * 1024.0
    }

    fn tree(&self) -> Vec<u32> {
        let mut pids = vec![self.child.id()];
        let mut at = 0;
        while let Some(&pid) = pids.get(at) {
            for task in tasks(pid) {
                let children = fs::read_to_string(task.join("children")).unwrap_or_default();
                pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
            at += 1;
        }
        pids
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks questions for which a server has to ask its upstream, a new one each time.
struct Probe {
    socket: UdpSocket,
    questions: Questions<'static>,
}

impl Probe {
    fn new(server: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(1)))?;
        Ok(Self { socket, questions: Questions::unheard(format!("probe{}", random::<u32>())) })
    }

    /// Asks, and waits a millisecond for an answer: the time to live of its first record. Of an
    /// echo, the longest.
    fn ttl(&mut self) -> Option<u32> {
        let question = self.questions.next()?;
        let mut answer = [0; 1500];
        let sent = self.socket.send(question.octets);
        let len = match sent.and_then(|_| self.socket.recv(&mut answer)) {
            Ok(len) => len,
            Err(error) => {
                if error.kind() == ErrorKind::ConnectionRefused {
                    // Nobody listens so far, which is told at once.
                    thread::sleep(Duration::from_micros(200));
                }
                return None;
            }
        };
        let message = Message::parse(&answer[..len]).ok()?;
        if !message.header().has(flags::QR) {
            return Some(u32::MAX);
        }
        let first = message.records().next()?.ok()?;
        (first.rtype == Type::A).then_some(first.ttl)
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

fn process(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// The threads of a process; none if it has ended.
fn tasks(pid: u32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(process(pid).join("task"));
    tasks.into_iter().flatten().flatten().map(|task| task.path()).collect()
}

/// Nanoseconds that a thread has run.
fn on_cpu(task: &Path) -> u64 {
    let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

/// Fields of `stat`, counted from 0 as in proc(5) less one.
fn stat<const N: usize>(process: &Path, fields: [usize; N]) -> [u64; N] {
    let text = fs::read_to_string(process.join("stat")).unwrap_or_default();
    // The name of the program may hold spaces; it ends with the last parenthesis.
    let rest = text.rsplit(") ").next().unwrap_or_default();
    let words: Vec<_> = rest.split(' ').collect();
    fields.map(|field| words.get(field - 2).and_then(|word| word.parse().ok()).unwrap_or(0))
}

/// Time that `core` was busy, with whatever, and time that the hypervisor kept it.
pub(crate) fn core_busy(core: usize) -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let name = format!("cpu{core} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_default();
    let ticks: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    // All but idle and waiting for disks.
    let busy = ticks.iter().take(8).enumerate().filter(|&(at, _)| at != 3 && at != 4);
    Duration::from_millis(busy.map(|(_, ticks)| 10 * ticks).sum())
}
