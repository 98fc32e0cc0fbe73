//! The machine: clocks, state files, signals, links.

pub mod config_file;
pub mod state;
