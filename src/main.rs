//! The firstlight daemon and its commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    firstlight::cli::main()
}
