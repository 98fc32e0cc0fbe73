//! `firstlight cache` and `firstlight flush`: the answers that are kept.

use clap::Args;

use crate::admin::Request;
use crate::cli::ConfigFile;
use crate::cli::daemon::Daemon;
use crate::cli::exit::Failure;
use crate::wire::Name;

/// Whose answers.
#[derive(Args, Debug)]
pub(super) struct Under {
    /// Those of this name; all without it.
    name: Option<Name>,
    #[command(flatten)]
    file: ConfigFile,
}

/// Prints what the cache holds.
pub(super) fn show(under: &Under) -> Result<u8, Failure> {
    // The root stands for no name in particular: what is held in all is told with any.
    let name = under.name.as_ref().map_or_else(|| ".".to_owned(), ToString::to_string);
    Daemon::find(&under.file)?.order(&Request::Cache { name })
}

/// Has answers forgotten, and prints how it went.
pub(super) fn flush(under: &Under) -> Result<u8, Failure> {
    let name = under.name.as_ref().map(ToString::to_string);
    Daemon::find(&under.file)?.order(&Request::Flush { name })
}
