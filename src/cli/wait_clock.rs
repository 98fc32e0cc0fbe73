//! `firstlight wait-clock`: for whatever must not start before the time is right.

use std::thread;
use std::time::Duration;

use clap::Args;

use crate::admin::report::{Status, Time};
use crate::admin::{Request, words};
use crate::cli::daemon::Daemon;
use crate::cli::exit::{self, Failure};
use crate::cli::{ConfigFile, output, table};
use crate::host::kernel::{KernelClock, OsClock};

/// How long to wait, and for what.
#[derive(Args, Debug)]
pub(super) struct Wait {
    /// Give up after so many seconds, with exit code 1; without it, wait for ever.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Wait until witnesses of two operators have confirmed the time, too.
    #[arg(long)]
    verified: bool,
    #[command(flatten)]
    file: ConfigFile,
}

/// Waits, says at each change what for, and prints what it came to.
pub(super) fn run(wait: &Wait) -> Result<u8, Failure> {
    let daemon = Daemon::find(&wait.file)?;
    let begin = KernelClock.mono();
    let mut told = String::new();
    loop {
        let missing = match daemon.ask::<Status>(&Request::Status) {
            Ok(status) => missing(&status.time, wait.verified),
            Err(error) => Some(error.to_string()),
        };
        let waited = KernelClock.mono().saturating_duration_since(begin);
        let Some(missing) = missing else {
            output::print(format_args!("the time is right, after {}", table::span(waited)))?;
            return Ok(exit::OK);
        };
        let left = wait.timeout.map(|limit| Duration::from_secs(limit).saturating_sub(waited));
        if left == Some(Duration::ZERO) {
            output::note(format_args!("given up after {}: {missing}", table::span(waited)));
            return Ok(exit::FAILED);
        }
        if missing != told {
            output::note(format_args!("waiting: {missing}"));
            told = missing;
        }
        thread::sleep(left.map_or(PERIOD, |left| left.min(PERIOD)));
    }
}

const PERIOD: Duration = Duration::from_millis(500);

/// What is wanting; `None` if the time is right.
fn missing(time: &Time, verified: bool) -> Option<String> {
    let right = time.level == "disciplined" || (time.level == "holdover" && time.ntp.synchronized);
    if !right {
        return Some(format!("{}: {}", time.level, words::level(&time.level)));
    }
    (verified && !time.verified)
        .then(|| format!("{}, but no witnesses have confirmed it", time.level))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::status;

    #[test]
    fn holdover_counts_while_clients_are_served_and_witnesses_if_they_are_asked_for() {
        let wants = |level: &str, synchronized, confirmed, verified| {
            let mut time = status().time;
            time.level = level.to_owned();
            time.ntp.synchronized = synchronized;
            time.verified = confirmed;
            missing(&time, verified)
        };

        assert_eq!(wants("disciplined", true, false, false), None);
        assert_eq!(wants("holdover", true, true, true), None);
        assert!(wants("holdover", false, true, false).unwrap().starts_with("holdover: "));
        assert!(wants("coarse", false, true, false).unwrap().starts_with("coarse: "));
        assert!(wants("disciplined", true, false, true).unwrap().contains("no witnesses"));
    }
}
