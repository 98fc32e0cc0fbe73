//! The NTP edge: client, engine, reference clocks, server.

mod census;
pub mod client;
pub mod engine;
mod interleaved;
pub mod keys;
pub mod nts;
pub mod refclock;
pub mod server;
pub mod wire;
