//! The floor, below which no time is possible, and the guess, where the clock starts.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::time::UnixTime;

const YEAR: Duration = Duration::from_secs(31_557_600);

/// The floor as it is kept on disk.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SavedFloor {
    /// Seconds since the epoch: authenticated time had passed this point.
    pub seconds: i64,
    /// Set by hand, or lowered by witnesses: holds even below the build epoch.
    #[serde(default)]
    pub overrides_build: bool,
}

/// No earlier time than this is possible.
///
/// It refuses certificates that had expired before it, and quorums that lie
/// before it. Only authenticated time raises it: who forges NTP must not be
/// able to.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    build: UnixTime,
    saved: Option<SavedFloor>,
    running: Option<(Instant, UnixTime)>,
}

/// Where the floor comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FloorOrigin {
    /// The release was made after it.
    BuildEpoch,
    /// Set by hand, or lowered by the witnesses of two operators.
    Override,
    /// Authenticated time of this run, carried on by the monotonic clock.
    Running,
    /// Authenticated time of an earlier run.
    Saved,
}

impl Floor {
    /// The floor at start.
    #[must_use]
    pub const fn new(build: UnixTime, saved: Option<SavedFloor>) -> Self {
        Self { build, saved, running: None }
    }

    /// The floor at `now`, and where it comes from.
    #[must_use]
    pub fn at(&self, now: Instant) -> (UnixTime, FloorOrigin) {
        let kept = self.saved.map(|saved| {
            let origin =
                if saved.overrides_build { FloorOrigin::Override } else { FloorOrigin::Saved };
            (UnixTime::from_secs(saved.seconds), origin)
        });
        let base = match kept {
            Some(kept) if kept.1 == FloorOrigin::Override || kept.0 >= self.build => kept,
            _ => (self.build, FloorOrigin::BuildEpoch),
        };
        let running = self
            .running
            .map(|(at, bound)| (bound + now.saturating_duration_since(at), FloorOrigin::Running));
        running.filter(|running| running.0 > base.0).unwrap_or(base)
    }

    /// Authenticated time: at `now` it is later than `bound`. Never lowers the floor.
    pub fn raise(&mut self, bound: UnixTime, now: Instant) {
        if bound > self.at(now).0 {
            self.running = Some((now, bound));
        }
    }

    /// Sets the floor, up or down, against the build epoch too.
    pub fn set(&mut self, bound: UnixTime) {
        self.saved = Some(SavedFloor { seconds: bound.secs(), overrides_build: true });
        self.running = None;
    }

    /// What to keep on disk at `now`; `None` while only the build epoch is known.
    #[must_use]
    pub fn to_save(&self, now: Instant) -> Option<SavedFloor> {
        let (floor, origin) = self.at(now);
        let overrides_build = match origin {
            FloorOrigin::BuildEpoch => return None,
            FloorOrigin::Override => true,
            FloorOrigin::Running | FloorOrigin::Saved => floor < self.build,
        };
        Some(SavedFloor { seconds: floor.secs(), overrides_build })
    }
}

impl fmt::Display for FloorOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BuildEpoch => "the release of this program",
            Self::Override => "set by hand, or lowered by the witnesses of two operators",
            Self::Running => "authenticated time of this run",
            Self::Saved => "authenticated time kept on disk",
        })
    }
}

/// Where the clock starts. It refuses nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Guess {
    /// The best lower bound known, or the machine's clock if that is plausible.
    pub time: UnixTime,
    /// Where it comes from, for a person.
    pub origin: String,
}

impl Guess {
    /// The guess from the floor, further lower bounds with their origins, and the machine's clock.
    ///
    /// The machine's clock is taken only within a year above the other bounds: it
    /// may stand in 1970, or in 2040.
    #[must_use]
    pub fn new(
        floor: (UnixTime, FloorOrigin),
        bounds: impl IntoIterator<Item = (UnixTime, String)>,
        machine: UnixTime,
    ) -> Self {
        let (time, origin) =
            bounds.into_iter().fold((floor.0, floor.1.to_string()), |best, bound| {
                if bound.0 > best.0 { bound } else { best }
            });
        if machine >= time && machine <= time + YEAR {
            return Self { time: machine, origin: "the machine's clock".to_owned() };
        }
        Self { time, origin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_later_of_build_and_saved_time() {
        let now = start();
        let saved = |seconds| Some(SavedFloor { seconds, overrides_build: false });

        assert_eq!(Floor::new(at(100), None).at(now), (at(100), FloorOrigin::BuildEpoch));
        assert_eq!(Floor::new(at(100), saved(90)).at(now), (at(100), FloorOrigin::BuildEpoch));
        assert_eq!(Floor::new(at(100), saved(110)).at(now), (at(110), FloorOrigin::Saved));
    }

    #[test]
    fn a_floor_set_by_hand_holds_below_the_build_epoch_and_across_saving() {
        let now = start();
        let mut floor = Floor::new(at(100), None);

        floor.set(at(40));

        assert_eq!(floor.at(now).0, at(40));
        let kept = floor.to_save(now);
        assert_eq!(Floor::new(at(100), kept).at(now).0, at(40));

        floor.raise(at(60), now);
        let kept = floor.to_save(now + Duration::from_secs(5));
        assert_eq!(Floor::new(at(100), kept).at(now).0, at(65));
    }

    #[test]
    fn authenticated_time_raises_it_and_the_monotonic_clock_carries_it_on() {
        let now = start();
        let mut floor = Floor::new(at(100), None);

        floor.raise(at(500), now);
        floor.raise(at(200), now);

        assert_eq!(floor.at(now + Duration::from_secs(10)).0, at(510));
    }

    #[test]
    fn a_machine_clock_in_1970_or_2040_is_no_guess() {
        let floor = ("2026-11-01T00:00:00Z".parse().unwrap(), FloorOrigin::BuildEpoch);
        let guess = |machine: &str| Guess::new(floor, [], machine.parse().unwrap()).time;

        assert_eq!(guess("1970-01-01T00:00:10Z"), floor.0);
        assert_eq!(guess("2040-06-01T00:00:10Z"), floor.0);
        assert_eq!(guess("2026-12-24T18:00:00Z"), "2026-12-24T18:00:00Z".parse().unwrap());
    }

    #[test]
    fn the_latest_bound_is_the_guess_and_is_named() {
        let floor = (at(100), FloorOrigin::Saved);

        let guess = Guess::new(floor, [(at(300), "a file".into()), (at(200), "b".into())], at(0));

        assert_eq!(guess, Guess { time: at(300), origin: "a file".into() });
    }

    fn at(secs: i64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }
}
