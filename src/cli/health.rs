//! `firstlight health`: one part's state as an exit code, for keepalived and its like.

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::admin::report::HealthReport;
use crate::admin::{Health, Request};
use crate::cli::daemon::Daemon;
use crate::cli::exit::{self, Failure};
use crate::cli::{ConfigFile, output};

/// What is to be well.
#[derive(Args, Debug)]
pub(super) struct Check {
    /// The part; all of them without it.
    #[arg(value_enum)]
    part: Option<Health>,
    #[command(flatten)]
    file: ConfigFile,
}

/// Prints a line for each part, with the conditions about it, and fails unless all are well.
pub(super) fn run(check: &Check) -> Result<u8, Failure> {
    let daemon = Daemon::find(&check.file)?;
    let mut code = exit::OK;
    for part in check.part.as_ref().map_or(&Health::ALL[..], std::slice::from_ref) {
        let report: HealthReport = daemon.ask(&Request::Health { kind: *part })?;
        output::print(report.in_words(*part))?;
        if !report.healthy {
            code = exit::FAILED;
        }
    }
    Ok(code)
}

impl ValueEnum for Health {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(match self {
            Self::Cert => "the certificate that clients are shown",
            Self::Clock => "the trust in the time",
            Self::Dns => "answers to questions",
            Self::Live => "the process itself",
        }))
    }
}
