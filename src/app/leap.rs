//! Keeps the list of leap seconds that a file holds, and tells people when it ends.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use super::steward::Steward;
use crate::clock::{LeapListError, LeapSeconds, Level, UnixTime, describe, nanos};
use crate::health::Severity;
use crate::node::Input;
use crate::node::ports::Clock;

/// How often the file is read: whatever updates it may do so at any time.
const READ_EACH: Duration = Duration::from_secs(3600);
/// So long before it ends, the list should have been replaced: the next is half a year older.
const WARN_BEFORE: Duration = Duration::from_secs(28 * 86_400);
/// A list has about 5 KiB.
const MOST: u64 = 64 * 1024;

/// What is known of the file.
#[derive(Debug, Default)]
pub(super) struct LeapFile {
    next: Option<Instant>,
    expires: Option<UnixTime>,
    failure: Option<String>,
}

/// Why a file does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("is no list of leap seconds: {0}")]
    Wrong(#[from] LeapListError),
}

impl Steward {
    /// Reads the file at once.
    pub(super) fn read_leap_file(&mut self) {
        let read = self.config.clock.leap_file.as_deref().map(read);
        self.leap_file.next = Some(self.boot.clock.mono() + READ_EACH);
        let (list, failure) = match read {
            Some(Ok(list)) => (Some(list), None),
            Some(Err(unfit)) => (None, Some(unfit.to_string())),
            None => (None, None),
        };
        self.leap_file.expires = list.as_ref().map(LeapSeconds::expires);
        self.leap_file.failure = failure;
        self.node.set_leap_seconds(list);
    }

    /// Reads the file if that is due, and tells people of it.
    pub(super) fn look_at_leap_file(&mut self, now: Instant) {
        if self.leap_file.next.is_none_or(|next| now >= next) {
            self.read_leap_file();
        }
        let known = self.node.trust().trust(now).level >= Level::Coarse;
        let path = self.config.clock.leap_file.as_deref().unwrap_or(Path::new("")).display();
        let LeapFile { expires, failure, .. } = &self.leap_file;
        let left = expires.filter(|_| known).map(|end| (end, end.since(self.boot.clock.utc())));
        let until_then = "leap seconds are taken from what the majority of the sources announces";
        let held = match (failure, left) {
            (Some(failure), _) => Some((
                Severity::Warning,
                format!("{path} {failure}; {until_then}; fetch it anew from IERS or NIST"),
            )),
            (None, Some((end, left))) if left <= 0 => Some((
                Severity::Warning,
                format!("{path} told of leap seconds until {end}; {until_then}; fetch a newer one"),
            )),
            (None, Some((end, left))) if left < nanos(WARN_BEFORE) => Some((
                Severity::Notice,
                format!(
                    "{path} tells of leap seconds until {end} only ({} left); fetch a newer one, or \
                     update what brings it",
                    describe(left).trim_start_matches('+')
                ),
            )),
            (None, _) => None,
        };
        self.feed(Input::Condition { name: "leap-seconds", held });
    }
}

/// Reads the list in the file at `path`.
pub(crate) fn read(path: &Path) -> Result<LeapSeconds, Unfit> {
    let mut text = String::new();
    File::open(path)?.take(MOST).read_to_string(&mut text)?;
    Ok(LeapSeconds::parse(&text)?)
}
