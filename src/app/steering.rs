//! The hands on the clock: the engine's, and those of others.

use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::steward::Steward;
use crate::clock::{Nanos, Reading, SourceId, describe};
use crate::health::Severity;
use crate::host::hands;
use crate::node::Input;

/// Two moves of the machine's clock by other hands within this time, and it is left to them.
const HANDS_OFF: Duration = Duration::from_secs(600);

impl Steward {
    /// Sets the clock back that somebody else moved by `moved`; leaves it to them if they go on.
    pub(super) fn meet_other_hands(&mut self, moved: Nanos, now: Instant) {
        let suspects = hands::suspects().join(", ");
        let again = self.moved.is_some_and(|at| now.saturating_duration_since(at) < HANDS_OFF);
        self.moved = Some(now);
        if !again {
            warn!(
                by = describe(moved),
                suspects, "somebody else moved the machine's clock; it is set back"
            );
            self.boot.clock.resync_os();
            return;
        }
        self.boot.clock.observe();
        self.filter.reset();
        let text = format!(
            "somebody else keeps moving the machine's clock (last by {}; likely: {suspects}); it is left \
             to them, and a software clock serves names, certificates and NTP clients; stop the other \
             program and restart firstlight, or set clock.mode = \"observe\"",
            describe(moved)
        );
        self.feed(Input::Condition { name: "foreign-hands", held: Some((Severity::Error, text)) });
    }

    /// Sources that would lead the clock too far may have dragged its frequency before.
    pub(super) fn put_frequency_back(&mut self) {
        if let Some((from, to)) = self.filter.fall_back() {
            warn!(
                from,
                to, "the clock's frequency (ppm) is put back to what it was in the last day"
            );
        }
    }

    /// Gives a reading that agrees with the majority to the engine, which steers.
    pub(super) fn steer_by(&mut self, source: SourceId, reading: &Reading) {
        let outcome = self.filter.run(|engine, now| engine.handle_reading(source, reading, now));
        match outcome {
            Some(Ok(update)) => {
                let poll = update.estimate.poll;
                if poll > 0 {
                    let interval = Duration::from_secs(1 << poll.min(10));
                    self.feed(Input::Pace(source, interval));
                }
                if let Some(consensus) = update.consensus {
                    self.feed(Input::EngineError(consensus.root_dispersion));
                }
            }
            Some(Err(refused)) => debug!(source = source.0, %refused, "reading not used"),
            None => {}
        }
    }
}
