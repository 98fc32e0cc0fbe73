//! firstlight beside other resolvers, in one run on one machine: `benches/compare`.
//!
//! Every server runs on one core, the load and the upstream on another, in a network of their own.
//! All servers are up at the same time and are asked in turn, so that what disturbs the machine
//! disturbs all of them. The figure to compare is the CPU time that an answer takes the server: it
//! holds even where the load is the limit. `docs/performance.md` says what it means.
#![expect(clippy::print_stdout, reason = "a command, whose result is what it prints")]
#![expect(clippy::disallowed_methods, reason = "what is measured is time")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures are small, and for people"
)]

mod echo;
mod load;
mod measure;
mod questions;
mod servers;
mod table;
mod world;

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use measure::{Bench, Job, Test};
use questions::Pool;
use servers::{AGAIN, ECHO, FIRSTLIGHT, Kind, PEERS, Server};
use table::Results;
use world::{Cores, World, address};

/// Why nothing, or not all, could be measured.
type Failure = Box<dyn std::error::Error>;

/// Measures firstlight beside other resolvers, and prints how they compare.
#[derive(Parser)]
#[command(name = "benches/compare")]
struct Options {
    /// What to measure; without any, everything
    #[arg(value_enum)]
    tests: Vec<Test>,
    /// How often; the tables show medians
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Whom to measure beside firstlight, of those that are installed; "none" for nobody
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Length of each measurement, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// The core of the servers and the core of the load
    #[arg(long, value_delimiter = ',', num_args = 2, default_values_t = [0, 1])]
    cores: Vec<usize>,
    /// Puts the tables between the two marks in this file
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Only send back what comes to this address
    #[arg(long, hide = true)]
    echo: Option<SocketAddrV4>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(code) => code,
        Err(error) => {
            println!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode, Failure> {
    if let Some(address) = options.echo {
        match echo::serve(address)? {}
    }
    if let Some(status) = world::enter()? {
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let kinds = lineup(&options.peers)?;
    let tests = if options.tests.is_empty() { Test::ALL } else { &options.tests };
    let world = World::start(Cores { server: options.cores[0], load: options.cores[1] })?;
    let pool = Pool::new();
    let mut bench = Bench {
        world: &world,
        pool: &pool,
        time: Duration::from_secs_f64(options.seconds),
        results: Results::default(),
        round: 0,
        turn: 0,
    };
    let begun = Instant::now();
    for round in 0..options.rounds {
        bench.round = round;
        one_round(&mut bench, &kinds, tests)?;
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        eprintln!("compare: round {} of {} done after {minutes:.1} min", round + 1, options.rounds);
    }
    let tables = table::render(&bench.results, &kinds, options.rounds);
    println!("{tables}");
    if let Some(file) = &options.write {
        table::write(file, &tables)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Everybody once, in every test.
fn one_round(
    bench: &mut Bench<'_>,
    kinds: &[&'static Kind],
    tests: &[Test],
) -> Result<(), Failure> {
    let jobs: Vec<Job> = tests.iter().flat_map(|test| test.jobs()).copied().collect();
    for (number, kind) in kinds.iter().enumerate() {
        let done = bench.alone(kind, address(number), &jobs);
        complain(kind, done);
    }
    if !jobs.iter().any(|job| job.is_shared()) {
        return Ok(());
    }
    let mut servers = Vec::new();
    for (number, kind) in kinds.iter().enumerate() {
        let started = Server::start(kind, bench.world, address(number));
        servers.extend(complain(kind, started));
    }
    servers.retain(|server| complain(server.kind, bench.prime(server)).is_some());
    if bench.round % 2 == 1 {
        // Being first or last may be an advantage: nobody is to have it each time.
        servers.reverse();
    }
    let whole = bench.time;
    for &job in jobs.iter().filter(|job| job.is_shared()) {
        bench.time = whole / job.turns();
        for turn in 0..job.turns() {
            bench.turn = turn;
            if job == Job::MissCalm {
                bench.direct()?;
            }
            for server in servers.iter().filter(|server| server.kind.can(job)) {
                complain(server.kind, bench.measure(job, server));
            }
            servers.rotate_left(1);
        }
    }
    bench.time = whole;
    Ok(())
}

/// Says what went wrong. The run goes on: its other figures are worth having.
fn complain<T>(kind: &Kind, result: Result<T, Failure>) -> Option<T> {
    result.inspect_err(|error| eprintln!("compare: {}: {error}", kind.name)).ok()
}

/// Who is measured, in this order: firstlight, the others, the limit, firstlight again.
fn lineup(wanted: &[String]) -> Result<Vec<&'static Kind>, Failure> {
    let names: Vec<_> = PEERS.iter().map(|kind| kind.name).chain([ECHO.name]).collect();
    for name in wanted {
        if name != "none" && !names.contains(&name.as_str()) {
            return Err(format!("no peer is called {name}; there are {}", names.join(", ")).into());
        }
    }
    let is_wanted = |kind: &Kind| wanted.is_empty() || wanted.iter().any(|name| name == kind.name);
    let mut kinds = vec![&FIRSTLIGHT];
    for kind in PEERS.iter().filter(|kind| is_wanted(kind)) {
        match kind.version() {
            Some(version) => {
                eprintln!("compare: {} {version}", kind.name);
                kinds.push(kind);
            }
            None => eprintln!("compare: {} is not installed, and left out", kind.name),
        }
    }
    if is_wanted(&ECHO) {
        kinds.push(&ECHO);
    }
    kinds.push(&AGAIN);
    Ok(kinds)
}
