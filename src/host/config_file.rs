//! Finds the configuration and reads it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{Config, Parsed, Report};

/// Where the configuration is looked for when no file is named.
pub const DEFAULT_FILE: &str = "/etc/firstlight/firstlight.toml";

/// Reads the configuration in `file`; without one that in [`DEFAULT_FILE`], or the built-in one if
/// there is no such file.
///
/// # Errors
///
/// If the file cannot be read, or is no usable configuration.
pub fn load(file: Option<&Path>) -> Result<Parsed, LoadError> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if file.is_none() && error.kind() == io::ErrorKind::NotFound => {
            return Ok(Config::embedded()?);
        }
        Err(source) => return Err(LoadError::Unreadable { file: path.to_owned(), source }),
    };
    let text = String::from_utf8(text).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let mut report = Report::new(path, &String::from_utf8_lossy(error.as_bytes()));
        report.error(Some(at..at + 1), "the text is not UTF-8 here", "save the file as UTF-8");
        report
    })?;
    Ok(Config::parse(&text, path)?)
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read.
    #[error("error: cannot read {}: {source}\n   = help: check the path and its permissions", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It has mistakes.
    #[error(transparent)]
    Unusable(#[from] Report),
}
