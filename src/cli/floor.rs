//! `firstlight floor`: below what no time is possible, where the clock starts, and why.

use clap::Args;

use crate::admin::Request;
use crate::admin::client::CallError;
use crate::admin::report::{Origin, Status};
use crate::cli::daemon::Daemon;
use crate::cli::exit::{self, Failure};
use crate::cli::{ConfigFile, output, table};
use crate::clock::{Floor, FloorOrigin, Guess, ParseTimeError, SavedFloor, UnixTime};
use crate::config::Config;
use crate::host::boot::{build_epoch, marks};
use crate::host::config_file::load;
use crate::host::kernel::{KernelClock, OsClock};
use crate::host::state::{StateDir, StateError};
use crate::tls::CertStore;

/// To show the floor, or to set it.
#[derive(Args, Debug)]
pub(super) struct Ask {
    /// Set the floor, up or down, to a time as 2026-03-14T06:11:40Z or @SECONDS since 1970.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    set: Option<UnixTime>,
    #[command(flatten)]
    file: ConfigFile,
}

/// Prints floor and guess and where each comes from, before and after setting the floor if that is
/// wished for: in the daemon, or in the state directory if none runs.
pub(super) fn run(ask: &Ask) -> Result<u8, Failure> {
    let daemon = Daemon::find(&ask.file)?;
    match daemon.ask(&Request::Status) {
        Ok(before) => of_daemon(&daemon, &before, ask.set)?,
        Err(CallError::Absent(_)) => {
            of_state(&load(ask.file.config.as_deref())?.config, ask.set)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(exit::OK)
}

/// A floor set in milliseconds, say, would refuse every certificate there is.
fn moment(text: &str) -> Result<UnixTime, String> {
    let time: UnixTime = text.parse().map_err(|error: ParseTimeError| error.to_string())?;
    if (0..END_OF_9999).contains(&time.secs()) {
        return Ok(time);
    }
    Err("it lies outside the years 1970 to 9999; the number after @ counts seconds".to_owned())
}

/// 10000-01-01T00:00:00Z.
const END_OF_9999: i64 = 253_402_300_800;

fn of_daemon(daemon: &Daemon, before: &Status, set: Option<UnixTime>) -> Result<(), Failure> {
    let print = |title: &str, status: &Status| {
        let bounds = [("floor", &status.time.floor), ("guess", &status.time.guess)];
        let rows = bounds.map(|(name, Origin { time, origin })| row(name, time, origin));
        output::print(format_args!("{title}\n{}", table::aligned(&rows)))
    };
    let Some(floor) = set else {
        return print(
            "In the daemon that is running (the guess is where its clock started):",
            before,
        );
    };
    print("In the daemon that is running, before:", before)?;
    daemon.ask::<serde_json::Value>(&Request::SetFloor { seconds: floor.secs() })?;
    print("and after:", &daemon.ask(&Request::Status)?)
}

fn of_state(config: &Config, set: Option<UnixTime>) -> Result<(), Failure> {
    let directory = config.state.directory.display();
    let Some(floor) = set else {
        let state = StateDir::untouched(&config.state.directory);
        let title = format!("No daemon is running. With {directory}, one would start with");
        return Start::of(config, saved(&state)?).print(&title);
    };
    let (state, failure) = StateDir::open(&config.state.directory);
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    let title = format!("No daemon is running. With {directory}, one would have started with");
    Start::of(config, saved(&state)?).print(&title)?;
    let saved = SavedFloor { seconds: floor.secs(), overrides_build: true };
    state.write_json(FLOOR, &saved)?;
    Start::of(config, Some(saved)).print("\nand will start with")
}

/// The state value that holds the saved floor.
const FLOOR: &str = "floor";

/// The floor on disk. A damaged one is told, and then counts as none, as it will for the daemon.
fn saved(state: &StateDir) -> Result<Option<SavedFloor>, StateError> {
    match state.read_json(FLOOR) {
        Err(error @ StateError::Corrupt { .. }) => {
            output::note(format_args!("note: {error}"));
            Ok(None)
        }
        read => read,
    }
}

/// What a daemon would start with.
struct Start {
    floor: (UnixTime, FloorOrigin),
    guess: Guess,
    /// Everything that was compared, with its origin.
    known: Vec<(UnixTime, String)>,
}

impl Start {
    fn of(config: &Config, saved: Option<SavedFloor>) -> Self {
        let build = build_epoch();
        let floor = Floor::new(build, saved).at(KernelClock.mono());
        let mut bounds: Vec<_> =
            marks().into_iter().map(|mark| (mark.time, mark.origin.to_owned())).collect();
        let own = CertStore::new(config.tls.files.clone(), None);
        own.poll();
        let own = own.served().and_then(|served| served.validity);
        bounds
            .extend(own.map(|own| (own.not_before, "the own certificate's notBefore".to_owned())));
        let machine = KernelClock.utc();
        let guess = Guess::new(floor, bounds.iter().cloned(), machine);

        let mut known = vec![(build, FloorOrigin::BuildEpoch.to_string())];
        known.extend(saved.map(|saved| {
            let origin =
                if saved.overrides_build { FloorOrigin::Override } else { FloorOrigin::Saved };
            (UnixTime::from_secs(saved.seconds), origin.to_string())
        }));
        known.extend(bounds);
        known.push((machine, "the machine's clock (counts within a year after the others)".into()));
        Self { floor, guess, known }
    }

    fn print(&self, title: &str) -> Result<(), Failure> {
        let (floor, guess) = (&self.floor, &self.guess);
        let mut rows = vec![
            row("floor", &floor.0.to_string(), &floor.1.to_string()),
            row("guess", &guess.time.to_string(), &guess.origin),
        ];
        for (index, (time, origin)) in self.known.iter().enumerate() {
            rows.push(row(if index == 0 { "known" } else { "" }, &time.to_string(), origin));
        }
        output::print(format_args!("{title}\n{}", table::aligned(&rows)))
    }
}

fn row(name: &str, time: &str, origin: &str) -> [String; 3] {
    [format!("  {name}"), time.to_owned(), origin.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_in_milliseconds_is_taken_for_a_slip() {
        assert_eq!(moment("@1773468700"), moment("2026-03-14T06:11:40Z"));
        assert!(moment("@1773468700000").unwrap_err().contains("counts seconds"));
        assert!(moment("@-1").is_err());
        assert!(moment("tomorrow").unwrap_err().contains("write 2026-"));
    }
}
