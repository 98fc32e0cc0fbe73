//! What outlives the process.

use std::time::{Duration, Instant};

use crate::clock::{Now, UnixTime, magnitude, nanos};

use super::guard::Entry;
use super::ladder::{LIMITED_MAX, Ladder, STEP_MAX};
use super::lifecycle::Lifecycle;
use super::schedule::Window;

/// What the next process has to know: chiefly, what the CAs have been asked for. Times are seconds
/// since 1970 by the verified clock.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(default)]
pub struct Saved {
    /// Orders that CAs accepted in the last day.
    pub accepted: Vec<i64>,
    /// Certificates issued in the last week: for which names, and when.
    pub issued: Vec<(String, i64)>,
    /// Failed validations in the last hour.
    pub invalid: Vec<i64>,
    /// Where we stand with each CA.
    pub cas: Vec<SavedCa>,
    /// The renewal window the CA last gave.
    pub window: Option<SavedWindow>,
    /// Orders that failed since the last that did not.
    pub failures: u32,
    /// The last of them, in words.
    pub last_failure: Option<String>,
}

/// Where we stand with one CA.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(default)]
pub struct SavedCa {
    /// Its name in the configuration.
    pub name: String,
    /// Failures in a row.
    pub steps: u32,
    /// When the next try is due.
    pub next: Option<i64>,
    /// Until when it wants no order.
    pub limited: Option<i64>,
    /// Since when nothing has succeeded there.
    pub failing_since: Option<i64>,
    /// For which certificate's renewal a rehearsal there has succeeded.
    pub rehearsed: Option<String>,
}

/// A renewal window (RFC 9773 section 4.2).
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(default)]
pub struct SavedWindow {
    /// The serial of the certificate.
    pub serial: String,
    /// The earliest moment.
    pub start: i64,
    /// The latest.
    pub end: i64,
    /// A page that says why.
    pub explanation: Option<String>,
}

/// A failure is remembered for no longer than that.
const FAILING_MAX: Duration = Duration::from_secs(7 * 86_400);

impl Lifecycle {
    /// What to keep on disk at [`super::Event::Save`], and at a clean stop.
    #[must_use]
    pub fn saved(&self) -> Saved {
        let (None, Some(anchor)) = (&self.unread, self.anchor) else {
            return self.unread.clone().unwrap_or_default();
        };
        let stamp = |at: Instant| {
            let ahead = nanos(at.saturating_duration_since(anchor.mono));
            let behind = nanos(anchor.mono.saturating_duration_since(at));
            anchor.utc.offset(ahead - behind).secs()
        };
        let cas = self.policy.cas.iter().zip(&self.ladders).zip(&self.rehearsals);
        Saved {
            accepted: self.guard.accepted.iter().map(|entry| entry.stamp.secs()).collect(),
            issued: self
                .guard
                .issued
                .iter()
                .map(|(names, entry)| (names.clone(), entry.stamp.secs()))
                .collect(),
            invalid: self.guard.invalid.iter().map(|entry| entry.stamp.secs()).collect(),
            cas: cas
                .map(|((ca, ladder), rehearsal)| SavedCa {
                    name: ca.name.clone(),
                    steps: ladder.steps,
                    next: ladder.next.map(stamp),
                    limited: ladder.limited.map(stamp),
                    failing_since: ladder.failing_since.map(stamp),
                    rehearsed: rehearsal.passed.clone(),
                })
                .collect(),
            window: self.window.as_ref().map(|(serial, window)| SavedWindow {
                serial: serial.clone(),
                start: window.start.secs(),
                end: window.end.secs(),
                explanation: window.explanation.clone(),
            }),
            failures: self.failures,
            last_failure: self.last_failure.clone(),
        }
    }

    /// Takes what an earlier process kept, once the clock can tell how long ago that was. Every
    /// wait is bounded anew: the clock of that process may have been wrong.
    pub(super) fn read_saved(&mut self, now: Now) {
        let Some(saved) = self.unread.take_if(|_| self.verified) else { return };
        let entry = |secs: &i64| Entry::restored(UnixTime::from_secs(*secs), now);
        self.guard.accepted.extend(saved.accepted.iter().map(entry));
        self.guard.invalid.extend(saved.invalid.iter().map(entry));
        let issued = saved.issued.iter().map(|(names, secs)| (names.clone(), entry(secs)));
        self.guard.issued.extend(issued);
        let later = |secs: Option<i64>, most: Duration| {
            let wait = UnixTime::from_secs(secs?).since(now.utc);
            (wait > 0).then(|| now.mono + magnitude(wait).min(most))
        };
        for kept in saved.cas {
            let Some(place) = self.policy.cas.iter().position(|ca| ca.name == kept.name) else {
                continue;
            };
            let since = kept.failing_since.map(|secs| {
                let ago = magnitude(now.utc.since(UnixTime::from_secs(secs)).max(0));
                now.mono.checked_sub(ago.min(FAILING_MAX)).unwrap_or(now.mono)
            });
            self.ladders[place] = Ladder {
                steps: kept.steps,
                next: later(kept.next, STEP_MAX),
                limited: later(kept.limited, LIMITED_MAX),
                failing_since: since,
                ..Ladder::default()
            };
            self.rehearsals[place].passed = kept.rehearsed;
        }
        self.window = saved.window.map(|kept| {
            let (start, end) = (UnixTime::from_secs(kept.start), UnixTime::from_secs(kept.end));
            (kept.serial, Window { start, end, explanation: kept.explanation })
        });
        self.failures = saved.failures;
        self.last_failure = saved.last_failure;
    }
}
