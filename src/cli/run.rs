//! `firstlight run`: the daemon itself.

use std::path::PathBuf;

use clap::Args;

use crate::app;
use crate::clock::UnixTime;

/// How to run.
#[derive(Args, Debug)]
pub(super) struct Run {
    /// The configuration; by default /etc/firstlight/firstlight.toml, or the built-in one without it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The clock starts here, whatever the machine's shows; needs clock.mode = "observe".
    #[arg(long, value_name = "RFC3339|@EPOCH", hide = true)]
    start: Option<UnixTime>,
}

/// Runs until told to stop.
pub(super) fn run(run: Run) -> u8 {
    app::run(&app::Options { config: run.config, start: run.start })
}
