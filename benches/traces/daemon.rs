//! The daemon's trust machine and time engine, wired as `app::steward` wires them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use firstlight::clock::{
    Event, Floor, Now, Policy, Reading, SourceId, SourceSpec, Trust, UnixTime,
};
use firstlight::node::ports::{Clock as _, Steer};
use firstlight::ntp::engine::Engine;

use crate::oscillator::Oscillator;
use crate::trace::SERVERS;

/// How often the steward looks for sources that do not count any longer.
const TICK: Duration = Duration::from_secs(1);
/// `clock.quorum` where the configuration does not say.
const QUORUM: usize = 3;
/// As in `app::filter`.
const MINIMUM: usize = 1;

#[derive(Debug)]
pub(crate) struct Daemon {
    clock: Arc<Oscillator>,
    trust: Trust,
    engine: Engine<SourceId>,
    next_tick: Instant,
    questions: Vec<Question>,
}

/// A source to be asked; it is silent if it has not answered within `patience`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) source: SourceId,
    pub(crate) patience: Duration,
}

impl Daemon {
    pub(crate) fn new(clock: Arc<Oscillator>, private: bool) -> Self {
        let source = |index| SourceSpec {
            operator: format!("operator {index}"),
            private,
            ..SourceSpec::default()
        };
        let policy = Policy {
            quorum: QUORUM,
            sources: (0..SERVERS).map(source).collect(),
            ..Policy::default()
        };
        let now = Now { mono: clock.mono(), utc: clock.utc() };
        let floor = Floor::new(UnixTime::from_secs(now.utc.secs() - 86_400), None);
        Self {
            trust: Trust::new(policy, floor, None, now),
            engine: engine(&clock),
            next_tick: now.mono,
            questions: Vec::new(),
            clock,
        }
    }

    pub(crate) fn next_wake(&self) -> Instant {
        let trust = self.trust.poll_timeout().map(|(at, _)| at);
        let engine = self.engine.poll_timeout().map(|(at, _)| at);
        [trust, engine, Some(self.next_tick)].into_iter().flatten().min().unwrap_or(self.next_tick)
    }

    /// Does what is due, and returns whom to ask.
    pub(crate) fn wake(&mut self) -> Vec<Question> {
        self.trust.handle_timeout(self.now());
        self.engine.handle_timeout(self.clock.mono());
        let now = self.now();
        if now.mono >= self.next_tick {
            self.next_tick = now.mono + TICK;
            for (index, report) in self.trust.sources(now).enumerate() {
                self.engine.handle_verdict(SourceId(index), report.verdict, now.mono);
            }
        }
        self.act()
    }

    /// Takes an answer, or that there was none.
    pub(crate) fn hear(&mut self, source: SourceId, answer: Option<Reading>) -> Vec<Question> {
        match answer {
            Some(reading) => self.trust.handle_reading(source, reading, self.now()),
            None => self.trust.handle_silence(source, self.now()),
        }
        self.act()
    }

    fn act(&mut self) -> Vec<Question> {
        while let Some(event) = self.trust.poll_event() {
            match event {
                Event::AskSource { source, patience } => {
                    self.questions.push(Question { source, patience });
                }
                Event::Feed(source, reading) => self.steer_by(source, &reading),
                Event::Set { by, .. } => {
                    self.clock.step(by);
                    self.engine = engine(&self.clock);
                }
                Event::AskWitness(_)
                | Event::FloorLowered { .. }
                | Event::Published(_)
                | Event::SaveFloor(_) => {}
            }
        }
        std::mem::take(&mut self.questions)
    }

    fn steer_by(&mut self, source: SourceId, reading: &Reading) {
        let Ok(update) = self.engine.handle_reading(source, reading, self.clock.mono()) else {
            return;
        };
        let poll = update.estimate.poll;
        if poll > 0 {
            self.trust.handle_pace(source, Duration::from_secs(1 << poll.min(10)));
        }
        if let Some(consensus) = update.consensus {
            self.trust.handle_engine_error(consensus.root_dispersion, self.now());
        }
    }

    fn now(&self) -> Now {
        Now { mono: self.clock.mono(), utc: self.clock.utc() }
    }
}

fn engine(clock: &Arc<Oscillator>) -> Engine<SourceId> {
    Engine::new(Arc::clone(clock) as Arc<dyn Steer>, MINIMUM)
}
