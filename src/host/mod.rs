//! The machine: clocks, state files, signals, links.

pub mod config_file;
pub mod state;
pub mod boot;
pub mod clock;
pub mod link;
pub mod notify;
pub mod signal;
