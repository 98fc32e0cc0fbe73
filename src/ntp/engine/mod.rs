//! Steers the clock by many readings: the Kalman filter of ntp-proto, and the fences around it.
//!
//! Nothing else knows that library. It takes offsets of less than a second
//! only: its 32.32 durations saturate at 34 years and lose precision long
//! before. All thresholds at which it would end the process are off.

mod filter;
#[cfg(test)]
mod hostile;
mod library;
mod queue;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ntp_proto::{
    AlgorithmConfig, KalmanClockController, KalmanControllerMessage, Measurement, NtpDuration,
    NtpInstant, NtpLeapIndicator, StateUpdate, StepThreshold, SynchronizationConfig, TimeSnapshot,
    TimeSyncController,
};

use self::filter::Filter;
use self::library::{SteeredClock, duration_of, nanos_of, ntp_duration, seconds, timestamp};
use self::queue::RoundTrips;
use crate::clock::{Nanos, Reading, Verdict, describe, nanos};
use crate::node::ports::Steer;

/// Readings of a source before its voice counts: with fewer, the filter's frequency
/// estimate runs wild (measured: 495 ppm for minutes).
pub const SAMPLES_WITHHELD: u32 = 9;

/// Offsets from here on are not for steering: the trust machine steps, and the engine is rebuilt.
pub const MAX_OFFSET: Nanos = 1_000_000_000;

/// log2 of the shortest and the longest poll interval the engine asks for, in seconds.
pub const POLL_LIMITS: (i8, i8) = (4, 8);

/// What names a source: whatever the caller has.
pub trait SourceId: Copy + Debug + Eq + Hash + Ord + Send + 'static {}

impl<T: Copy + Debug + Eq + Hash + Ord + Send + 'static> SourceId for T {}

/// The engine over one clock, from a coarse set of it to the next.
///
/// Give it each reading as it comes, and call [`Self::handle_timeout`] at
/// [`Self::poll_timeout`]. Spurious calls do nothing. `now` is that of the
/// clock given at the start, and never goes back. When another hand steps the
/// clock, drop the engine and make another.
#[derive(Debug)]
pub struct Engine<S: SourceId> {
    controller: KalmanClockController<SteeredClock, S>,
    clock: SteeredClock,
    sources: BTreeMap<S, Source<S>>,
    consensus: Option<Consensus<S>>,
    slew_end: Option<Instant>,
    start: (Instant, NtpInstant),
}

/// What the sources agree on.
#[derive(Clone, Debug, PartialEq)]
pub struct Consensus<S> {
    /// The sources that count, the best first: it is the system peer.
    pub used: Vec<S>,
    /// Round trip to the primary source.
    pub root_delay: Duration,
    /// Standard deviation of our clock, the sources' own dispersions included.
    pub root_dispersion: Duration,
    /// One more than the system peer's.
    pub stratum: u8,
    /// Leap second announced by the majority: 0, 1 or 2 (RFC 5905 figure 9).
    pub leap: u8,
    /// When this was found.
    pub at: Instant,
}

/// What the filter makes of one source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// How far the source is ahead of our clock.
    pub offset: Nanos,
    /// Standard deviation of that.
    pub uncertainty: Duration,
    /// Mean round trip.
    pub delay: Duration,
    /// Readings taken.
    pub samples: u32,
    /// log2 of the poll interval the filter wants, in seconds; 0 while its voice is withheld.
    pub poll: i8,
}

/// The outcome of one reading.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineUpdate<S> {
    /// Present when this reading led to a consensus; none while voices are withheld or disagree.
    pub consensus: Option<Consensus<S>>,
    /// The source as it stands after this reading.
    pub estimate: Estimate,
}

/// A reading the engine does not take.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// Not newer than the last one of its source, or handed in late.
    #[error("the reading is not newer than the last, or more than 5 s old")]
    Old,
    /// Its round trip is longer than usual: it waited in a queue, and the offset is off by up to half of that.
    #[error("the round trip of {} is unusually long", describe(nanos(*.delay)))]
    Queued {
        /// The round trip.
        delay: Duration,
    },
    /// Not where the source's filter expects it. The third in a row starts the filter over.
    #[error("the source is {} away from our clock, which nothing foretold", describe(*.offset))]
    Surprising {
        /// How far the source is ahead of our clock.
        offset: Nanos,
    },
    /// [`MAX_OFFSET`] or more away from our clock.
    #[error("the source is {} away from our clock", describe(*.offset))]
    TooFar {
        /// How far the source is ahead of our clock.
        offset: Nanos,
    },
}

#[derive(Debug)]
struct Source<S: SourceId> {
    filter: Filter<S>,
    samples: u32,
    /// Readings in a row that its filter did not expect.
    surprises: u32,
    stratum: u8,
    last_at: Instant,
    round_trips: RoundTrips,
}

impl<S: SourceId> Source<S> {
    /// Whether a filter that has settled could foresee `offset`.
    ///
    /// A jump of source or clock, fed as it is, keeps the filter's frequency
    /// wrong for hours (measured: no consensus within 10 min after 300 ms), so
    /// it is kept out until it turns out to stay. A queue on the way shifts an
    /// offset by half the time it adds at most; that is no surprise.
    fn expects(&self, offset: Nanos, reading: &Reading) -> bool {
        if self.samples < SAMPLES_WITHHELD {
            return true;
        }
        let seen = self.filter.observe();
        let queued = reading.delay.saturating_sub(duration_of(seen.delay)) / 2;
        let drifted = reading.at.saturating_duration_since(self.last_at).mul_f64(DRIFT);
        let slack = SURPRISE + 4 * duration_of(seen.uncertainty) + queued + drifted;
        (offset - nanos_of(seen.offset)).abs() <= nanos(slack)
    }
}

impl<S: SourceId> Engine<S> {
    /// An engine that steers `clock` as soon as `minimum_agreeing` sources agree.
    #[must_use]
    pub fn new(clock: Arc<dyn Steer>, minimum_agreeing: usize) -> Self {
        const NEVER: StepThreshold = StepThreshold { forward: None, backward: None };
        let synchronization = SynchronizationConfig {
            minimum_agreeing_sources: minimum_agreeing.max(1),
            // Beyond any of these the library calls `std::process::exit`.
            single_step_panic_threshold: NEVER,
            startup_step_panic_threshold: NEVER,
            accumulated_step_panic_threshold: None,
            warn_on_jump: false,
            ..SynchronizationConfig::default()
        };
        let start = clock.mono();
        let clock = SteeredClock(clock);
        let controller = TimeSyncController::new(clock.clone(), synchronization, algorithm());
        let Ok(controller) = controller;
        Self {
            controller,
            clock,
            sources: BTreeMap::new(),
            consensus: None,
            slew_end: None,
            // The library's instants cannot be made, only moved: this one is the
            // origin that virtual time is counted from.
            start: (start, NtpInstant::now()),
        }
    }

    /// Takes one reading of `source` and steers the clock if that leads to it.
    ///
    /// # Errors
    ///
    /// [`Refused`]: the reading changes nothing.
    pub fn handle_reading(
        &mut self,
        source: S,
        reading: &Reading,
        now: Instant,
    ) -> Result<EngineUpdate<S>, Refused> {
        if now.saturating_duration_since(reading.at) > MAX_AGE {
            return Err(Refused::Old);
        }
        let offset = reading.utc.since(self.clock.0.utc_at(reading.at));
        if offset.abs() >= MAX_OFFSET {
            return Err(Refused::TooFar { offset });
        }
        if let Some(known) = self.sources.get_mut(&source) {
            if reading.at <= known.last_at {
                return Err(Refused::Old);
            }
            known.surprises = if known.expects(offset, reading) { 0 } else { known.surprises + 1 };
            known.last_at = reading.at;
            match known.surprises {
                0 if !known.round_trips.take(reading.delay, reading.at) => {
                    return Err(Refused::Queued { delay: reading.delay });
                }
                0 => (),
                1..SURPRISES => return Err(Refused::Surprising { offset }),
                SURPRISES.. => self.remove(source),
            }
        }
        let measurement = self.measurement(reading, offset, now);

        let controller = &mut self.controller;
        let entry = self.sources.entry(source).or_insert_with(|| {
            let filter = Filter::new(controller, source, reading);
            controller.source_update(source, true);
            let mut round_trips = RoundTrips::new(reading.at);
            round_trips.take(reading.delay, reading.at);
            Source {
                filter,
                samples: 0,
                surprises: 0,
                stratum: 0,
                last_at: reading.at,
                round_trips,
            }
        });
        entry.samples += 1;
        entry.stratum = reading.stratum;

        let message = entry.filter.handle_measurement(measurement);
        let mut consensus = None;
        if let Some(message) = message
            && entry.samples >= SAMPLES_WITHHELD
        {
            let update = self.controller.source_message(source, message);
            consensus = self.apply(update, now);
        }
        let estimate = self.estimate(source).unwrap_or_default();
        Ok(EngineUpdate { consensus, estimate })
    }

    /// Ends a slew that is done.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.slew_end.is_some_and(|end| end <= now) {
            self.slew_end = None;
            let update = self.controller.time_update();
            self.apply(update, now);
        }
    }

    /// The next instant at which [`Self::handle_timeout`] must be called, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.slew_end.map(|end| (end, "end of a slew"))
    }

    /// Takes what the trust machine makes of a source: one that lies or refuses is forgotten at once.
    ///
    /// One that is silent, or agrees with nobody for want of others, is kept for an hour after its
    /// last reading: its filter knows the clock's frequency, and grows less certain by itself.
    pub fn handle_verdict(&mut self, source: S, verdict: Verdict, now: Instant) {
        let Some(known) = self.sources.get(&source) else { return };
        let kept = match verdict {
            Verdict::Truechimer => true,
            Verdict::Silent | Verdict::Undecided => {
                now.saturating_duration_since(known.last_at) < REMEMBERED
            }
            Verdict::Denied | Verdict::Falseticker => false,
        };
        if !kept {
            self.remove(source);
        }
    }

    /// Forgets a source.
    pub fn remove(&mut self, source: S) {
        self.controller.remove_source(source);
        self.sources.remove(&source);
    }

    /// The last consensus, with its dispersion at that time.
    #[must_use]
    pub fn consensus(&self) -> Option<&Consensus<S>> {
        self.consensus.as_ref()
    }

    /// What the filter makes of `source`, if it has any reading of it.
    #[must_use]
    pub fn estimate(&self, source: S) -> Option<Estimate> {
        self.sources.get(&source).map(|source| {
            let seen = source.filter.observe();
            Estimate {
                offset: nanos_of(seen.offset),
                uncertainty: duration_of(seen.uncertainty),
                delay: duration_of(seen.delay),
                samples: source.samples,
                poll: if source.samples < SAMPLES_WITHHELD {
                    0
                } else {
                    source.filter.desired_poll_interval().as_log()
                },
            }
        })
    }

    /// Spreads what the controller decided to the filters, and keeps its word on the whole.
    fn apply(
        &mut self,
        update: StateUpdate<S, KalmanControllerMessage>,
        now: Instant,
    ) -> Option<Consensus<S>> {
        if let Some(message) = update.source_message {
            for source in self.sources.values_mut() {
                source.filter.handle_message(message.clone());
            }
        }
        if let Some(slew) = update.next_update {
            self.slew_end = Some(now + slew);
        }
        let time = update.time_snapshot?;
        let used = update.used_sources?;
        let peer = self.sources.get(used.first()?)?;
        let consensus = Consensus {
            root_delay: duration_of(time.root_delay),
            root_dispersion: deviation(&time),
            stratum: peer.stratum.saturating_add(1),
            leap: match time.leap_indicator {
                NtpLeapIndicator::Leap61 => 1,
                NtpLeapIndicator::Leap59 => 2,
                NtpLeapIndicator::NoWarning
                | NtpLeapIndicator::Unknown
                | NtpLeapIndicator::Unsynchronized => 0,
            },
            used,
            at: now,
        };
        self.consensus = Some(consensus.clone());
        Some(consensus)
    }

    /// The reading in the library's terms, stamped `now`.
    ///
    /// The middle of the exchange would be more exact by half a round trip times
    /// the frequency error, which is nothing; but a filter drops what is older
    /// than the last correction, and so would lose the slower of two sources
    /// that are asked at once.
    fn measurement(
        &self,
        reading: &Reading,
        offset: Nanos,
        now: Instant,
    ) -> Measurement<NtpDuration> {
        let (start, origin) = self.start;
        let dispersion = reading.root_dispersion.max(LEAST_DISPERSION);
        Measurement {
            delay: ntp_duration(reading.delay.as_secs_f64()),
            offset: ntp_duration(seconds(offset)),
            localtime: timestamp(self.clock.0.utc_at(now)),
            monotime: origin + now.saturating_duration_since(start),
            stratum: reading.stratum,
            root_delay: ntp_duration(reading.root_delay.as_secs_f64()),
            root_dispersion: ntp_duration(dispersion.as_secs_f64()),
            leap: match reading.leap {
                0 => NtpLeapIndicator::NoWarning,
                1 => NtpLeapIndicator::Leap61,
                2 => NtpLeapIndicator::Leap59,
                _ => NtpLeapIndicator::Unknown,
            },
            precision: reading.precision,
        }
    }
}

/// How the library filters. Its other defaults stand.
///
/// Measured beside chronyd (docs/time.md): its own wander, 1e-8, lets the clock follow jitter, and an offset
/// left alone below two standard deviations stays for as long as the sources are silent.
fn algorithm() -> AlgorithmConfig {
    AlgorithmConfig {
        initial_wander: 2e-9,
        steer_offset_threshold: 0.0,
        steer_offset_leftover: 0.0,
        ..AlgorithmConfig::default()
    }
}

impl Default for Estimate {
    fn default() -> Self {
        let uncertainty = Duration::MAX;
        Self { offset: 0, uncertainty, delay: Duration::ZERO, samples: 0, poll: 0 }
    }
}

/// A reading handed in later than this tells nothing of the clock's present offset.
const MAX_AGE: Duration = Duration::from_secs(5);

/// A silent source's filter is kept for so long after its last reading.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// A jump of less than this is left to the filter.
const SURPRISE: Duration = Duration::from_millis(5);

/// So many surprises in a row are no accident.
const SURPRISES: u32 = 3;

/// Change of a clock's frequency that nobody foresees.
const DRIFT: f64 = 100e-6;

/// A source that claims no error at all would make the filter divide by zero.
const LEAST_DISPERSION: Duration = Duration::from_micros(1);

/// The standard deviation when the snapshot was made. Rounding may leave a variance below zero.
fn deviation(time: &TimeSnapshot) -> Duration {
    let deviation = time.root_variance_base.max(0.0).sqrt();
    Duration::try_from_secs_f64(deviation).unwrap_or(Duration::MAX)
}
