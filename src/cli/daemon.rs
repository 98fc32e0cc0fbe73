//! The running daemon, as the commands find it.

use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admin::client::{CallError, call};
use crate::admin::{Request, path_to_call};
use crate::cli::exit::{self, Failure};
use crate::cli::{ConfigFile, output};
use crate::config::Config;
use crate::host::config_file::{LoadError, load};

/// A look at the daemon.
#[derive(Args, Debug)]
pub(super) struct Look {
    #[command(flatten)]
    file: ConfigFile,
    /// Print the daemon's own words: JSON.
    #[arg(long)]
    json: bool,
}

impl Look {
    /// Prints the daemon's answer to `request`: as JSON if that was wished for, else through `view`.
    pub(super) fn show<T: DeserializeOwned>(
        &self,
        request: &Request,
        view: impl FnOnce(&T) -> String,
    ) -> Result<u8, Failure> {
        let daemon = Daemon::find(&self.file)?;
        if self.json {
            let answer: Value = daemon.ask(request)?;
            output::print(format_args!("{answer:#}"))?;
        } else {
            output::print(view(&daemon.ask(request)?))?;
        }
        Ok(exit::OK)
    }
}

/// Where the daemon is.
#[derive(Debug)]
pub(super) struct Daemon(Config);

impl Daemon {
    /// The daemon that runs with `file`. If that cannot be read or has mistakes, the usual places
    /// are tried, and a note says so: the daemon may be running the last one that worked.
    pub(super) fn find(file: &ConfigFile) -> Result<Self, Failure> {
        let path = match load(file.config.as_deref()) {
            Ok(parsed) => return Ok(Self(parsed.config)),
            Err(LoadError::Unreadable { file, .. }) => file,
            Err(LoadError::Unusable(report)) => report.file().to_owned(),
        };
        let daemon = Self(Config::embedded().map_err(LoadError::from)?.config);
        output::note(format_args!(
            "note: {} cannot be used (`firstlight check` says why); asking on {}",
            path.display(),
            path_to_call(&daemon.0).display()
        ));
        Ok(daemon)
    }

    /// Its answer to `request`. The socket is looked for at each call: the daemon may just be starting.
    pub(super) fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, CallError> {
        let socket = path_to_call(&self.0);
        let answer = call(&socket, request)?;
        serde_json::from_value(answer)
            .map_err(|error| CallError::Garbled { socket, reason: error.to_string() })
    }

    /// Has it carry `request` out, and prints what came of it.
    pub(super) fn order(&self, request: &Request) -> Result<u8, Failure> {
        let answer: Value = self.ask(request)?;
        output::print(outcome(&answer))?;
        Ok(exit::OK)
    }
}

fn outcome(answer: &Value) -> String {
    match answer {
        Value::Null => "done".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(facts) => {
            let line = |(name, fact)| format!("{name}: {}\n", outcome(fact));
            facts.iter().map(line).collect::<Vec<_>>().concat()
        }
        Value::Array(items) => {
            let line = |item| format!("\n  {}", outcome(item).trim_end());
            items.iter().map(line).collect::<Vec<_>>().concat()
        }
        Value::Bool(_) | Value::Number(_) => answer.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_outcome_is_told_in_words() {
        assert_eq!(outcome(&Value::Null), "done");
        assert_eq!(
            outcome(&json!("the configuration is unchanged")),
            "the configuration is unchanged"
        );
        assert_eq!(
            outcome(&json!({"bytes": 12, "left": ["a", "b"]})),
            "bytes: 12\nleft: \n  a\n  b\n"
        );
    }
}
