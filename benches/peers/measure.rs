//! What is measured, and how.

use std::net::Ipv4Addr;
use std::time::Duration;

use clap::ValueEnum;

use crate::Failure;
use crate::load::{Load, Outcome, Pace, Way, guests};
use crate::questions::{Pool, Questions};
use crate::servers::{ECHO, Kind, Server, core_busy};
use crate::table::{Figure, Results};
use crate::world::{UPSTREAM, World, at};

/// A test by the name it is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Test {
    /// Cached answers over UDP, as many as can be had
    Udp,
    /// Cached answers over UDP, 5,000 in a second
    Udp5k,
    /// Cached answers over TCP
    Tcp,
    /// Cached answers over TLS, and how long they take at 1,000 in a second
    Dot,
    /// Cached answers over HTTPS, and how long they take at 1,000 in a second
    Doh,
    /// Full TLS handshakes, many at once and one after another
    Handshake,
    /// Questions that the upstream has to be asked, over TLS
    Miss,
    /// Memory at the start and for every cached name
    Memory,
    /// From the start of the process to the first answer of the upstream
    Start,
}

/// A measurement.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Job {
    Udp,
    Udp5k,
    Tcp,
    Dot,
    DotTail,
    Doh,
    DohTail,
    Handshakes,
    HandshakesInARow,
    Miss,
    MissCalm,
    Memory,
    Start,
}

impl Test {
    pub(crate) const ALL: &[Self] = &[
        Self::Udp,
        Self::Udp5k,
        Self::Tcp,
        Self::Dot,
        Self::Doh,
        Self::Handshake,
        Self::Miss,
        Self::Memory,
        Self::Start,
    ];

    pub(crate) const fn jobs(self) -> &'static [Job] {
        match self {
            Self::Udp => &[Job::Udp],
            Self::Udp5k => &[Job::Udp5k],
            Self::Tcp => &[Job::Tcp],
            Self::Dot => &[Job::Dot, Job::DotTail],
            Self::Doh => &[Job::Doh, Job::DohTail],
            Self::Handshake => &[Job::Handshakes, Job::HandshakesInARow],
            Self::Miss => &[Job::Miss, Job::MissCalm],
            Self::Memory => &[Job::Memory],
            Self::Start => &[Job::Start],
        }
    }
}

impl Job {
    /// In how many turns of all servers it is done in a round. What is told from the difference of
    /// two small figures is told best by many short looks, each at everybody.
    pub(crate) const fn turns(self) -> u32 {
        match self {
            Self::MissCalm => 8,
            _ => 1,
        }
    }

    /// Whether it is done while all servers are up.
    pub(crate) const fn is_shared(self) -> bool {
        !matches!(self, Self::Memory | Self::Start)
    }
}

/// Connections, and questions under way over all of them.
const UDP: (usize, usize) = (8, 128);
const STREAMS: (usize, usize) = (10, 100);
/// Guests at once.
const GUESTS: usize = 64;
/// Misses under way.
const MISSES: (usize, usize) = (4, 50);
/// Starts in a round.
const STARTS: usize = 3;
/// Before each measurement, so that everything is warm.
const WARM_UP: Duration = Duration::from_millis(300);

/// The state of a run.
pub(crate) struct Bench<'w> {
    pub(crate) world: &'w World,
    pub(crate) pool: &'w Pool,
    pub(crate) time: Duration,
    pub(crate) results: Results,
    pub(crate) round: usize,
    pub(crate) turn: u32,
}

impl Bench<'_> {
    /// The tests for which a server is started anew.
    pub(crate) fn alone(
        &mut self,
        kind: &'static Kind,
        address: Ipv4Addr,
        jobs: &[Job],
    ) -> Result<(), Failure> {
        if jobs.contains(&Job::Start) && kind.can(Job::Start) {
            for _ in 0..STARTS {
                let server = Server::start(kind, self.world, address)?;
                let millis = server.started.as_secs_f64() * 1e3;
                self.results.add(Job::Start, Figure::Millis, kind.name, millis);
            }
        }
        // The same in every round, and it takes long.
        if jobs.contains(&Job::Memory) && kind.can(Job::Memory) && self.round == 0 {
            let server = Server::start(kind, self.world, address)?;
            let empty = server.memory();
            server.settle()?;
            let (questions, number) = self.pool.many();
            self.fill(&server, questions)?;
            self.results.add(Job::Memory, Figure::Memory, kind.name, empty / 1e6);
            let per_name = (server.memory() - empty) / number;
            self.results.add(Job::Memory, Figure::PerName, kind.name, per_name);
        }
        Ok(())
    }

    /// Puts every popular name into the server's cache.
    pub(crate) fn prime(&self, server: &Server) -> Result<(), Failure> {
        if server.kind.name == ECHO.name {
            return Ok(());
        }
        server.settle()?;
        self.fill(server, self.pool.prime())
    }

    fn fill(&self, server: &Server, mut questions: Questions<'_>) -> Result<(), Failure> {
        let (connections, under_way) = MISSES;
        let mut load = Load::connect(Way::Udp, server.at(53), connections, &self.world.tls)?;
        let outcome =
            load.ask(&mut questions, Pace::UnderWay(under_way), Duration::from_secs(120))?;
        check(server, "filling its cache", &outcome);
        Ok(())
    }

    /// One measurement of one server.
    pub(crate) fn measure(&mut self, job: Job, server: &Server) -> Result<(), Failure> {
        let name = server.kind.name;
        let popular = &mut self.pool.popular();
        let turn = format!("{}-{}", self.round, self.turn);
        let unheard = |what| Questions::unheard(format!("{what}{turn}-{name}"));
        let (outcome, cpu) = match job {
            Job::Udp => self.load(server, Way::Udp, UDP.0, popular, Pace::UnderWay(UDP.1))?,
            Job::Udp5k => self.load(server, Way::Udp, UDP.0, popular, Pace::Busy(5e3))?,
            Job::Tcp => self.stream(server, Way::Tcp, Pace::UnderWay(STREAMS.1))?,
            Job::Dot => self.stream(server, Way::Dot, Pace::UnderWay(STREAMS.1))?,
            Job::DotTail => self.stream(server, Way::Dot, Pace::Busy(1e3))?,
            Job::Doh => self.stream(server, Way::Doh, Pace::UnderWay(STREAMS.1))?,
            Job::DohTail => self.stream(server, Way::Doh, Pace::Busy(1e3))?,
            Job::Handshakes => self.guests(server, GUESTS)?,
            Job::HandshakesInARow => self.guests(server, 1)?,
            Job::Miss => {
                let questions = &mut unheard("many");
                self.load(server, Way::Udp, MISSES.0, questions, Pace::UnderWay(MISSES.1))?
            }
            // The upstream shares the core with the load, which must leave it to it.
            Job::MissCalm => {
                let questions = &mut unheard("calm");
                self.load(server, Way::Udp, MISSES.0, questions, Pace::Calm(500.0))?
            }
            Job::Memory | Job::Start => return Ok(()),
        };
        check(server, &format!("{job:?}"), &outcome);
        let cpu = cpu.as_secs_f64() * 1e6 / outcome.answers.max(1) as f64;
        self.results.add(job, Figure::Cpu, name, cpu);
        self.results.add(job, Figure::PerSecond, name, outcome.per_second());
        for (figure, share) in [(Figure::P50, 0.5), (Figure::P99, 0.99)] {
            if let Some(latency) = outcome.percentile(share) {
                self.results.add(job, figure, name, latency);
            }
        }
        if let (Job::MissCalm, Some(p50)) = (job, outcome.percentile(0.5)) {
            let direct = self.results.last(job, Figure::P50, DIRECT).unwrap_or(0.0);
            self.results.add(job, Figure::Added, name, p50 - direct);
        }
        Ok(())
    }

    /// The latency of the upstream itself, over TLS as a forwarder asks it.
    pub(crate) fn direct(&mut self) -> Result<(), Failure> {
        let mut load = Load::connect(Way::Dot, at(UPSTREAM, 853), 1, &self.world.tls)?;
        let mut questions = Questions::unheard(format!("direct{}-{}", self.round, self.turn));
        let outcome = load.ask(&mut questions, Pace::Calm(500.0), self.time)?;
        if let Some(p50) = outcome.percentile(0.5) {
            self.results.add(Job::MissCalm, Figure::P50, DIRECT, p50);
        }
        Ok(())
    }

    fn stream(&mut self, server: &Server, way: Way, pace: Pace) -> Result<Measured, Failure> {
        let popular = &mut self.pool.popular();
        self.load(server, way, STREAMS.0, popular, pace)
    }

    fn load(
        &mut self,
        server: &Server,
        way: Way,
        connections: usize,
        questions: &mut Questions<'_>,
        pace: Pace,
    ) -> Result<Measured, Failure> {
        let port = match way {
            Way::Udp | Way::Tcp => 53,
            Way::Dot => 853,
            Way::Doh => 443,
        };
        let mut load = Load::connect(way, server.at(port), connections, &self.world.tls)?;
        load.ask(questions, pace, WARM_UP)?;
        let time = self.time;
        self.watched(server, || Ok(load.ask(questions, pace, time)?))
    }

    fn guests(&mut self, server: &Server, number: usize) -> Result<Measured, Failure> {
        let popular = &mut self.pool.popular();
        let (tls, time) = (&self.world.tls, self.time);
        guests(server.at(853), tls, popular, number, WARM_UP)?;
        self.watched(server, || Ok(guests(server.at(853), tls, popular, number, time)?))
    }

    /// The CPU time that the server takes meanwhile.
    fn watched(
        &mut self,
        server: &Server,
        load: impl FnOnce() -> Result<Outcome, Failure>,
    ) -> Result<Measured, Failure> {
        let core = self.world.cores.server;
        let (busy, cpu) = (core_busy(core), server.cpu());
        let outcome = load()?;
        let cpu = server.cpu().saturating_sub(cpu);
        let others = core_busy(core).saturating_sub(busy).saturating_sub(cpu);
        self.results.disturbed(others.as_secs_f64() / outcome.elapsed.as_secs_f64());
        Ok((outcome, cpu))
    }
}

/// What became of the questions, and the CPU time that the server took.
type Measured = (Outcome, Duration);

/// The upstream, asked without a server between.
const DIRECT: &str = "the upstream itself";

/// Says so if answers were missing or wrong: figures of such a run mean little.
fn check(server: &Server, what: &str, outcome: &Outcome) {
    let echoes = if server.kind.name == ECHO.name { outcome.wrong } else { 0 };
    let (wrong, lost) = (outcome.wrong - echoes, outcome.lost);
    if outcome.answers == 0 || wrong + lost > 0 {
        let (name, right) = (server.kind.name, outcome.answers - wrong);
        eprintln!("compare: {name}, {what}: {right} right, {wrong} wrong, {lost} lost");
    }
}
