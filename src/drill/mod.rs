//! The incidents, replayed in virtual time against the real state machines (pure).

mod attacks;
mod scenarios;
mod world;

use std::time::Instant;

pub use scenarios::SCENARIOS;
pub use world::{DAY, HONEST, Setup, Source, Upstream, Witness, World, years};

/// An incident that can be replayed.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What happened, in a line.
    pub story: &'static str,
    /// Plays it: from a seed that perturbs every delay, and any instant.
    pub play: fn(u64, Instant) -> World,
}

/// The scenario of that name.
#[must_use]
pub fn scenario(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}
