//! The command line: what a person may ask of the program.

mod cache;
mod certs;
mod check;
mod clients;
mod daemon;
mod drill;
pub mod exit;
mod floor;
mod health;
mod output;
mod reload;
mod run;
mod setup;
mod sources;
mod status;
mod table;
mod tracking;
mod trial;
mod upstreams;
mod wait_clock;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

/// Reads the command line, does what it says, and gives the exit code (see [`exit`]).
#[must_use]
pub fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Cache(show) => cache::show(&show),
        Command::Certs(certs) => certs::run(&certs),
        Command::Check(what) => check::run(&what),
        Command::Drill(drill) => drill::run(&drill),
        Command::Floor(floor) => floor::run(&floor),
        Command::Flush(flush) => cache::flush(&flush),
        Command::Health(health) => health::run(&health),
        Command::Reload(file) => reload::run(&file),
        Command::Run(run) => Ok(run::run(run)),
        Command::Setup(how) => setup::run(&how),
        Command::Sources(sources) => sources::run(&sources),
        Command::Status(look) => status::run(&look),
        Command::Clients(clients) => clients::run(&clients),
        Command::Tracking(look) => tracking::run(&look),
        Command::Try(how) => trial::run(&how),
        Command::Upstreams(upstreams) => upstreams::run(&upstreams),
        Command::WaitClock(wait) => wait_clock::run(&wait),
    };
    ExitCode::from(outcome.unwrap_or_else(|failure| {
        output::note(&failure);
        failure.code()
    }))
}

/// The command line as clap knows it: for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// DNS and NTP for a LAN, from a box that boots without knowing the time.
#[derive(Debug, Parser)]
#[command(name = "firstlight", version, after_help = exit::HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Report every mistake in the configuration, and what does not fit this machine.
    Check(check::Check),
    /// Serve DNS and NTP until told to stop.
    Run(run::Run),
    /// Look at this machine, ask a few questions, and write a configuration for it.
    Setup(setup::Setup),
    /// See it heal: a small world on this machine, and a clock that starts in 1970.
    Try(trial::Try),
    /// Show how things are, at a glance.
    Status(daemon::Look),
    /// Show the time sources, as `chronyc sources` does, and the witnesses.
    Sources(sources::Sources),
    /// Show who asks for the time, as `chronyc clients` does (needs privilege).
    Clients(clients::Clients),
    /// Show what is known of time, as `chronyc tracking` does.
    Tracking(daemon::Look),
    /// Show the certificate, the outage it survives and when it is renewed; have it renewed; and give
    /// devices what they need to trust it.
    Certs(certs::Certs),
    /// Show the upstreams.
    Upstreams(upstreams::Upstreams),
    /// Tell by the exit code whether a part does its work: 0 or 1, and 3 without a daemon.
    Health(health::Check),
    /// Wait until the clock is right; also for a daemon that is not there yet.
    WaitClock(wait_clock::Wait),
    /// Show the floor, below which no time is possible, and the guess; or set the floor.
    Floor(floor::Ask),
    /// Read the configuration again.
    Reload(ConfigFile),
    /// Show what the cache holds, in all or under a name.
    Cache(cache::Show),
    /// Forget cached answers.
    Flush(cache::Flush),
    /// Replay the incidents against the real state machines, in virtual time.
    Drill(drill::Drill),
}

/// Which configuration is meant.
#[derive(Args, Debug)]
struct ConfigFile {
    /// The configuration; by default /etc/firstlight/firstlight.toml, or the built-in one without it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
