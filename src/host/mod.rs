//! The machine: clocks, state files, signals, links.

pub mod boot;
pub mod clock;
pub mod config_file;
pub mod hands;
pub mod kernel;
pub mod limits;
pub mod link;
pub mod notify;
pub mod passed;
pub mod signal;
pub mod state;
