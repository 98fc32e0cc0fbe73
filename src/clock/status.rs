//! What the trust machine tells: NTP clients, people, and the next process of this boot.

use std::fmt;
use std::time::{Duration, Instant};

use super::floor::{FloorOrigin, SavedFloor};
use super::leap;
use super::sources::Verdict;
use super::time::{Nanos, UnixTime, describe, magnitude, nanos};
use super::trust::{Now, Resumed, Trust};
use super::witnesses::Testimony;
use super::{CertDates, Level, NtpStatus};

/// Frequency tolerance of a clock whose frequency nothing has measured (PHI, RFC 5905 section 7.2).
const PHI_PPM: u32 = 15;
/// After this long under discipline the frequency counts as measured.
const MEASURED_AFTER: Duration = Duration::from_secs(3600);

/// A source as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceReport {
    /// Whether there is anybody: a pool's place may be empty.
    pub present: bool,
    /// What selection makes of it.
    pub verdict: Verdict,
    /// Whether it is preferred.
    pub prefer: bool,
    /// The last eight polls, newest lowest.
    pub reach: u8,
    /// Seconds between two polls.
    pub interval: Duration,
    /// What it said last.
    pub last: Option<LastReading>,
}

/// A source's last answer, against the clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LastReading {
    /// How long ago that was.
    pub age: Duration,
    /// Its time less ours, in nanoseconds.
    pub offset: Nanos,
    /// Its root distance.
    pub error: Duration,
    /// Its stratum.
    pub stratum: u8,
}

/// Something about time that a person should know, with its facts.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Trouble {
    /// The clock has never been set.
    Cold {
        /// Sources that answer, of those configured.
        answering: (usize, usize),
        /// Sources that must agree.
        need: usize,
    },
    /// Sources and witnesses agree on a time below the floor.
    FloorAhead {
        /// The floor, and where it comes from.
        floor: (UnixTime, FloorOrigin),
        /// The time they agree on.
        witnessed: UnixTime,
    },
    /// No source has answered for eight polls.
    Holdover {
        /// How far off the clock may be.
        error: Duration,
    },
    /// Certificate dates are not checked strictly.
    Relaxed {
        /// No earlier time is possible.
        floor: UnixTime,
    },
    /// The sources want the clock moved, and nothing authenticated supports that.
    SourcesContradicted {
        /// By how much they would move it.
        by: Nanos,
    },
    /// Authenticated time contradicts the clock.
    Suspect {
        /// What the clock shows.
        clock: UnixTime,
        /// Operators whose certificates are out of date by this clock.
        operators: usize,
    },
    /// No witness has confirmed the clock.
    Unverified {
        /// Witnesses configured.
        witnesses: usize,
    },
}

impl Trust {
    /// What NTP clients are told at `now`.
    #[must_use]
    pub fn ntp_status(&self, now: Now) -> NtpStatus {
        let measured = self
            .disciplined_since
            .is_some_and(|since| now.mono.saturating_duration_since(since) > MEASURED_AFTER);
        let growth_ppm = if measured { self.policy.holdover.drift_ppm } else { PHI_PPM };
        let Some(estimate) = self.estimate else {
            return NtpStatus {
                synchronized: false,
                stratum: 16,
                reference_id: *b"INIT",
                root_delay: Duration::ZERO,
                root_dispersion: Duration::ZERO,
                since: now.mono,
                growth_ppm,
                reference_time: self.reference_time,
                leap: 0,
            };
        };
        let mut status = NtpStatus {
            synchronized: false,
            stratum: estimate.stratum,
            reference_id: estimate.reference_id,
            root_delay: estimate.root_delay,
            root_dispersion: estimate.root_dispersion.max(self.astray(now)),
            since: estimate.since,
            growth_ppm,
            reference_time: self.reference_time,
            leap: self.leap_at(now.utc, estimate.leap),
        };
        status.synchronized = match self.level {
            Level::Cold | Level::Coarse => false,
            Level::Suspect => self.witnessed.is_some(),
            Level::Holdover | Level::Disciplined => true,
        } && status.root_dispersion_at(now.mono) < self.policy.holdover.limit
            && estimate.stratum < 16;
        status
    }

    /// How wrong the clock may be that has left what witnesses confirmed, whatever sources say of it.
    fn astray(&self, now: Now) -> Duration {
        let span = self.confirmed_span(now.mono).filter(|span| !span.contains(now.utc));
        span.map_or(Duration::ZERO, |span| {
            magnitude(now.utc.since(span.low)).max(magnitude(now.utc.since(span.high)))
        })
    }

    /// The leap warning of the day of `utc`: by the list, if it still holds, else as the sources
    /// `announce` it, which only the last day of a month can have.
    fn leap_at(&self, utc: UnixTime, announced: u8) -> u8 {
        let listed = self.leap_seconds.as_ref().and_then(|list| list.warning(utc));
        listed.unwrap_or(if leap::may_end_with_leap_second(utc) { announced } else { 0 })
    }

    /// What a later process of this boot may resume from; `None` while the time is not good enough.
    #[must_use]
    pub fn to_resume(&self, now: Now) -> Option<Resumed> {
        let status = self.ntp_status(now);
        let doubted = self.own || self.level == Level::Suspect;
        (status.synchronized && !doubted).then(|| Resumed {
            error: status.root_dispersion_at(now.mono),
            verified: self.verified,
            stratum: status.stratum,
            reference_id: status.reference_id,
            root_delay: status.root_delay,
        })
    }

    /// The floor to keep on disk at a clean stop, if authenticated time has raised it.
    #[must_use]
    pub fn floor_to_save(&self, now: Instant) -> Option<SavedFloor> {
        self.verified.then(|| self.floor.to_save(now)).flatten()
    }

    /// The floor at `now` and where it comes from.
    #[must_use]
    pub fn floor(&self, now: Instant) -> (UnixTime, FloorOrigin) {
        self.floor.at(now)
    }

    /// The sources in the order of the configuration.
    pub fn sources(&self, now: Now) -> impl Iterator<Item = SourceReport> + '_ {
        self.sources.iter().map(move |source| SourceReport {
            present: source.present,
            verdict: source.verdict,
            prefer: source.spec.prefer,
            reach: source.reach,
            interval: source.interval(),
            last: source.reading.map(|reading| {
                let age = now.mono.saturating_duration_since(reading.at);
                LastReading {
                    age,
                    offset: (reading.utc + age).since(now.utc),
                    error: reading.error,
                    stratum: reading.stratum,
                }
            }),
        })
    }

    /// What each witness last said, in the order they were given.
    pub fn testimonies(&self) -> impl Iterator<Item = Option<Testimony>> + '_ {
        self.witnesses.testimonies()
    }

    /// Everything about time that a person should know, the gravest first.
    #[must_use]
    pub fn troubles(&self, now: Now) -> Vec<Trouble> {
        let mut found = Vec::new();
        if let Some((_, witnessed)) = self.below_floor {
            found.push(Trouble::FloorAhead { floor: self.floor.at(now.mono), witnessed });
        }
        match self.level {
            Level::Suspect => found.push(Trouble::Suspect {
                clock: now.utc,
                operators: self.refuting_operators(now.mono),
            }),
            Level::Cold => {
                let voters = self.sources.iter().filter(|source| source.votes());
                let answering = voters.clone().filter(|s| s.claim(now.mono).is_some());
                found.push(Trouble::Cold {
                    answering: (answering.count(), voters.count()),
                    need: self.need(now.mono),
                });
            }
            Level::Holdover => found.push(Trouble::Holdover {
                error: self.ntp_status(now).root_dispersion_at(now.mono),
            }),
            Level::Coarse | Level::Disciplined => {}
        }
        let falsetickers = self
            .sources
            .iter()
            .filter(|source| source.votes() && source.verdict == Verdict::Falseticker);
        let by = self.demand.or_else(|| {
            let outvoted = falsetickers.clone().count() * 2 > self.voters(now.mono);
            let reading = falsetickers.clone().find_map(|source| source.reading)?;
            let age = now.mono.saturating_duration_since(reading.at);
            outvoted.then(|| (reading.utc + age).since(now.utc))
        });
        if let Some(by) = by.filter(|_| self.level > Level::Cold) {
            found.push(Trouble::SourcesContradicted { by });
        }
        if let CertDates::RuleR { floor } | CertDates::StrictElseRuleR { floor } =
            self.trust(now.mono).dates
        {
            found.push(Trouble::Relaxed { floor });
        }
        if !self.verified && self.level > Level::Suspect {
            found.push(Trouble::Unverified { witnesses: self.policy.witnesses.len() });
        }
        found
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cold { answering: (answering, configured), need } => write!(
                f,
                "the time is not known: {answering} of {configured} time sources answer, \
                 {need} must agree; names are served all the same, NTP clients are told to wait"
            ),
            Self::FloorAhead { floor: (floor, origin), witnessed } => write!(
                f,
                "sources and witnesses say {witnessed}, but no time before {floor} is accepted \
                 ({origin}); if they still agree in ten minutes the floor is lowered, \
                 or set it at once: firstlight floor --set {witnessed}"
            ),
            Self::Holdover { error } => write!(
                f,
                "no time source keeps the clock right at present; it runs on by itself \
                 and may be off by {}",
                describe(nanos(*error))
            ),
            Self::Relaxed { floor } => write!(
                f,
                "dates of upstream certificates are judged by the floor, {floor}, \
                 until the clock is confirmed; chain, signature and name are checked as always"
            ),
            Self::SourcesContradicted { by } => write!(
                f,
                "the time sources would move the clock by {}, and no witness supports that; \
                 the clock is kept",
                describe(*by)
            ),
            Self::Suspect { clock, operators } => write!(
                f,
                "authenticated time contradicts the clock, which shows {clock} \
                 (certificates of {operators} operators are out of date by it); names go on"
            ),
            Self::Unverified { witnesses } => write!(
                f,
                "no two of {witnesses} witnesses have confirmed the clock; \
                 certificates are not renewed and the floor is not saved until then"
            ),
        }
    }
}
