//! The appliance as one pure value; what happens in one leaf reaches another only here.

pub mod ports;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::clock::{
    self, Basis, Kiss, Nanos, Now, Reading, SavedFloor, SourceId, Testimony, TimeTrust, Trouble,
    Trust, UnixTime, WitnessId,
};
use crate::health::{Change, Health, Severity};

/// Something that happened at an edge.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A condition outside the clock came to hold, or (`None`) ceased to.
    Condition {
        /// Its stable name.
        name: &'static str,
        /// Its severity and text.
        held: Option<(Severity, String)>,
    },
    /// The engine's estimate of the clock's error.
    EngineError(Duration),
    /// The engine's wish for a source's polling interval.
    Pace(SourceId, Duration),
    /// A link, address or route changed.
    PathChanged,
    /// A source answered.
    Reading(SourceId, Reading),
    /// A source sent a kiss-o'-death packet.
    Kissed(SourceId, Kiss),
    /// An upstream's chain fails at the clock's time by its dates alone, but passes rule R.
    Refuted {
        /// Who runs that upstream.
        operator: String,
    },
    /// The administrator sets the floor.
    SetFloor(UnixTime),
    /// A source did not answer.
    Silence(SourceId),
    /// A witness answered.
    Testimony(WitnessId, Testimony),
    /// A witness could not be heard.
    WitnessFailed(WitnessId),
}

/// Something an edge has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask a time source.
    AskSource {
        /// Which.
        source: SourceId,
        /// How long to wait for it.
        patience: Duration,
    },
    /// Ask a witness.
    AskWitness(WitnessId),
    /// A condition changed; tell people.
    Announce(Change),
    /// Give a reading to the engine.
    Feed(SourceId, Reading),
    /// Act on a change of trust: renew TLS configurations, judge stored chains again.
    Publish(TimeTrust),
    /// Keep the floor on disk.
    SaveFloor(SavedFloor),
    /// Move the clock, and start the engine afresh.
    StepClock {
        /// By how much, in nanoseconds.
        by: Nanos,
        /// On whose word.
        basis: Basis,
    },
    /// Tell people that the floor proved wrong.
    TellFloorLowered {
        /// The floor that was refuted.
        from: UnixTime,
        /// The floor from here on.
        to: UnixTime,
    },
}

/// The whole appliance, less its sockets, files and clocks.
///
/// Same contract as [`Trust`]: `handle_*`, then [`Self::poll_action`] until empty
/// (each carried out before the next input), then sleep until [`Self::poll_timeout`].
#[derive(Debug)]
pub struct Node {
    trust: Trust,
    health: Health,
    actions: VecDeque<Action>,
}

impl Node {
    /// A node around a trust machine that has had no input yet.
    #[must_use]
    pub fn new(trust: Trust, now: Now) -> Self {
        let mut node = Self { trust, health: Health::default(), actions: VecDeque::new() };
        node.settle(now);
        node
    }

    /// Takes what happened at an edge.
    pub fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::Condition { name, held: Some((severity, text)) } => {
                self.health.raise(name, severity, text, now.mono);
            }
            Input::Condition { name, held: None } => self.health.clear(name),
            Input::EngineError(error) => self.trust.handle_engine_error(error, now),
            Input::Kissed(source, kiss) => self.trust.handle_kiss(source, kiss, now),
            Input::Pace(source, interval) => self.trust.handle_pace(source, interval),
            Input::PathChanged => self.trust.handle_path_change(now),
            Input::Reading(source, reading) => self.trust.handle_reading(source, reading, now),
            Input::Refuted { operator } => self.trust.handle_refutation(&operator, now),
            Input::SetFloor(floor) => self.trust.handle_floor(floor, now),
            Input::Silence(source) => self.trust.handle_silence(source, now),
            Input::Testimony(witness, said) => self.trust.handle_testimony(witness, said, now),
            Input::WitnessFailed(witness) => self.trust.handle_witness_failure(witness, now),
        }
        self.settle(now);
    }

    /// Does what is due. Too early a call does nothing.
    pub fn handle_timeout(&mut self, now: Now) {
        self.trust.handle_timeout(now);
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] must be called next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.trust.poll_timeout()
    }

    /// The next thing to do, oldest first.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The clock's trust, for reading.
    #[must_use]
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The conditions that hold.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Carries the leaves' events to each other and to the edges.
    fn settle(&mut self, mut now: Now) {
        while let Some(event) = self.trust.poll_event() {
            self.actions.push_back(match event {
                clock::Event::AskSource { source, patience } => {
                    Action::AskSource { source, patience }
                }
                clock::Event::AskWitness(witness) => Action::AskWitness(witness),
                clock::Event::Feed(source, reading) => Action::Feed(source, reading),
                clock::Event::FloorLowered { from, to } => Action::TellFloorLowered { from, to },
                clock::Event::Published(trust) => Action::Publish(trust),
                clock::Event::SaveFloor(floor) => Action::SaveFloor(floor),
                clock::Event::Set { by, basis } => {
                    now.utc = now.utc.offset(by);
                    Action::StepClock { by, basis }
                }
            });
        }
        self.report_time(now);
        while let Some(change) = self.health.poll_change() {
            self.actions.push_back(Action::Announce(change));
        }
    }

    fn report_time(&mut self, now: Now) {
        let troubles = self.trust.troubles(now);
        for name in TIME_CONDITIONS {
            match troubles.iter().find(|trouble| condition(trouble).0 == *name) {
                Some(trouble) => {
                    let (_, severity) = condition(trouble);
                    self.health.raise(name, severity, trouble.to_string(), now.mono);
                }
                None => self.health.clear(name),
            }
        }
    }
}

/// Every condition the clock can raise.
const TIME_CONDITIONS: &[&str] = &[
    "clock-suspect",
    "clock-unknown",
    "clock-unverified",
    "dates-relaxed",
    "floor-ahead",
    "holdover",
    "sources-contradicted",
];

/// The stable name and the severity of a trouble with time.
fn condition(trouble: &Trouble) -> (&'static str, Severity) {
    match trouble {
        Trouble::Cold { .. } => ("clock-unknown", Severity::Warning),
        Trouble::FloorAhead { .. } => ("floor-ahead", Severity::Error),
        Trouble::Holdover { .. } => ("holdover", Severity::Warning),
        Trouble::Relaxed { .. } => ("dates-relaxed", Severity::Notice),
        Trouble::SourcesContradicted { .. } => ("sources-contradicted", Severity::Error),
        Trouble::Suspect { .. } => ("clock-suspect", Severity::Error),
        Trouble::Unverified { .. } => ("clock-unverified", Severity::Notice),
    }
}
