//! The machine: clocks, state files, signals, links.

pub mod boot;
pub mod clock;
