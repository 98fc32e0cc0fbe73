//! Writes the manual pages and the completions of firstlight into a folder, for packages:
//! `cargo run --example generate -- FOLDER`.
//!
//! The commands are those that clap knows, the settings those of `config/firstlight.toml`. The pages bear
//! the date of the release, or of `SOURCE_DATE_EPOCH` if that is in the environment of the build.

mod manual;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let (Some(folder), None) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        eprintln!("usage: generate FOLDER");
        return ExitCode::from(2);
    };
    match manual::write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot write into {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}
