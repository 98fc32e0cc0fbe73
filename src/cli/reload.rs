//! `firstlight reload`: the configuration read again.

use crate::admin::Request;
use crate::cli::ConfigFile;
use crate::cli::daemon::Daemon;
use crate::cli::exit::Failure;

/// Has the daemon read its configuration again, and prints what came of it.
pub(super) fn run(file: &ConfigFile) -> Result<u8, Failure> {
    Daemon::find(file)?.order(&Request::Reload)
}
