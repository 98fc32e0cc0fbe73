//! How far the clock may be believed: trust levels, quorum, witnesses, floor (pure).

mod floor;
mod judge;
mod leap;
mod pool;
mod select;
mod sources;
mod status;
mod time;
mod trust;
mod witnesses;

use std::time::Duration;
use std::time::Instant;

pub use floor::{Floor, FloorOrigin, Guess, SavedFloor};
pub use leap::{LeapListError, LeapSeconds};
pub use pool::{Pool, PoolEvent};
pub use select::{Agreement, Interval, agreement};
pub use sources::{Kiss, Polls, Reading, SourceId, SourceKind, SourceSpec, Verdict};
pub use status::{LastReading, SourceReport, Trouble};
pub use time::{Nanos, ParseTimeError, UnixTime, describe, magnitude, nanos};
pub use trust::{Basis, Event, Holdover, Now, Policy, Resumed, Trust};
pub use witnesses::{Testimony, WitnessId};

/// How far the clock is trusted.
///
/// ```text
///          quorum, or witnesses alone      4 rounds of a quorum       no update for 8 polls
///   Cold ────────────────────────▶ Coarse ─────────────▶ Disciplined ◀──────────────▶ Holdover
///     ▲                              ▲                        │                          │
///     │                              │ witnesses agree again  │   witnesses contradict   │
///     └───────── (start)          Suspect ◀───────────────────┴──────────────────────────┘
/// ```
#[derive(
    Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Only the floor is known: the time is somewhere after it.
    Cold,
    /// Authenticated time contradicts the clock.
    Suspect,
    /// The clock was set once; nothing has confirmed it yet.
    Coarse,
    /// It was disciplined; the sources are silent, and the error grows.
    Holdover,
    /// A quorum of sources keeps finding the clock right.
    Disciplined,
}

/// How the validity period of an upstream's certificate chain is judged.
///
/// Chain, signature and name are verified all the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CertDates {
    /// Rule R: at `max(floor, greatest notBefore in the chain)`. Not yet valid
    /// passes, expired before the floor never does.
    RuleR {
        /// No earlier time is possible.
        floor: UnixTime,
    },
    /// At the clock's time.
    Strict,
    /// At the clock's time; rule R only while no upstream passes that.
    StrictElseRuleR {
        /// No earlier time is possible.
        floor: UnixTime,
    },
}

/// What may be believed about time, published to whoever has to act on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TimeTrust {
    /// How far the clock is trusted.
    pub level: Level,
    /// Whether authenticated time of two operators agrees with the clock.
    pub verified: bool,
    /// Counts the changes of trust; whatever was learnt under an older one is re-checked.
    pub generation: u64,
    /// No earlier time is possible.
    pub floor: UnixTime,
    /// The rule for certificate dates at this level.
    pub dates: CertDates,
}

/// What NTP clients are told (RFC 5905 section 7.3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NtpStatus {
    /// False: leap indicator 3 and stratum 16, whatever the rest says.
    pub synchronized: bool,
    /// 2 behind a stratum 1 source.
    pub stratum: u8,
    /// Reference id: the IPv4 address of the system peer, or what stands for it.
    pub reference_id: [u8; 4],
    /// Total round trip to the primary source.
    pub root_delay: Duration,
    /// Error bound at `since`.
    pub root_dispersion: Duration,
    /// When `root_dispersion` was right.
    pub since: Instant,
    /// Its growth since then, in parts per million.
    pub growth_ppm: u32,
    /// When the clock was last set or corrected.
    pub reference_time: UnixTime,
    /// Warning of a leap second at the end of the UTC day (RFC 5905 figure 9: 0, 1 or 2).
    pub leap: u8,
}

impl NtpStatus {
    /// The error bound at `now`.
    #[must_use]
    pub fn root_dispersion_at(&self, now: Instant) -> Duration {
        let age = now.saturating_duration_since(self.since);
        self.root_dispersion + age.mul_f64(f64::from(self.growth_ppm) / 1e6)
    }
}

#[cfg(test)]
mod tests;
