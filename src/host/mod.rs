//! The machine: clocks, state files, signals, links.

pub mod state;
