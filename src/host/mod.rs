//! The machine: clocks, state files, signals, links.
