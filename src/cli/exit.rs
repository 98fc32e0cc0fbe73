//! Exit codes, the same for every command, and the failures that lead to them.

use std::io;
use std::path::PathBuf;

use crate::admin::Reason;
use crate::admin::client::CallError;
use crate::host::config_file::LoadError;
use crate::host::state::StateError;

/// All is well.
pub const OK: u8 = 0;
/// The command ran, and its answer is no: unhealthy, or a promise broken.
pub const FAILED: u8 = 1;
/// The command line or the configuration cannot be used (clap exits with the same code).
pub const CONFIG: u8 = 2;
/// No daemon answers on the control socket.
pub const UNREACHABLE: u8 = 3;
/// The daemon refused: only root, its own user and the configured group may change things.
pub const DENIED: u8 = 4;

/// The codes, for the help text.
pub(super) const HELP: &str = "Exit codes: 0 well, 1 not well or failed, 2 command line or \
configuration unusable, 3 no daemon answers, 4 not permitted.";

/// Why a command could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The daemon did not do it.
    #[error("error: {0}")]
    Call(#[from] CallError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Configuration(#[from] LoadError),
    /// A file that was asked for could not be written.
    #[error("error: cannot write {}: {why}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// The result could not be printed.
    #[error("error: cannot write to standard output: {0}")]
    Output(io::Error),
    /// A state file could not be read or written.
    #[error("error: {0}\n   = help: try as root, or as the daemon's user")]
    State(#[from] StateError),
    /// The trial could not be set up.
    #[error("error: cannot {what}: {why}")]
    Trial {
        /// What was to be done.
        what: &'static str,
        /// Why it cannot be.
        why: String,
    },
    /// Questions were to be asked, and nobody is there to answer.
    #[error(
        "error: standard input gives no answers; nothing was changed\n   \
         = help: run it in a terminal, or take the defaults: --yes (--dry-run shows them)"
    )]
    Unanswered,
    /// The daemon has nothing that would serve.
    #[error("error: {0}")]
    Wanting(String),
}

impl Failure {
    /// What the process exits with.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Call(CallError::Refused(refusal)) => match refusal.reason {
                Reason::Denied => DENIED,
                Reason::Busy | Reason::TimedOut => UNREACHABLE,
                Reason::Failed | Reason::Malformed => FAILED,
            },
            Self::Call(CallError::Closed(_)) => DENIED,
            Self::Call(
                CallError::Absent(_)
                | CallError::Garbled { .. }
                | CallError::Io { .. }
                | CallError::Silent(_),
            ) => UNREACHABLE,
            Self::Configuration(_) | Self::Unanswered => CONFIG,
            Self::File { .. }
            | Self::Output(_)
            | Self::State(_)
            | Self::Trial { .. }
            | Self::Wanting(_) => FAILED,
        }
    }
}
