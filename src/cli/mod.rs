//! The command line: what a person may ask of the program.

mod check;
pub mod exit;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app;
use crate::clock::UnixTime;

/// Reads the command line, does what it says, and gives the exit code (see [`exit`]).
#[must_use]
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Check(file) => check::run(file.config.as_deref()),
        Command::Run(run) => app::run(&app::Options { config: run.file.config, start: run.start }),
    }
}

/// DNS and NTP for a LAN, from a box that boots without knowing the time.
#[derive(Debug, Parser)]
#[command(name = "firstlight", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Report every mistake in the configuration, and what does not fit this machine.
    Check(ConfigFile),
    /// Serve DNS and NTP until told to stop.
    Run(Run),
}

/// How to run.
#[derive(Args, Debug)]
pub struct Run {
    /// Which configuration.
    #[command(flatten)]
    pub file: ConfigFile,
    /// The clock starts here, whatever the machine's shows; needs clock.mode = "observe".
    #[arg(long, value_name = "RFC3339|@EPOCH", hide = true)]
    pub start: Option<UnixTime>,
}

/// Which configuration is meant.
#[derive(Args, Debug)]
pub struct ConfigFile {
    /// The configuration; by default /etc/firstlight/firstlight.toml, or the built-in one without it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
