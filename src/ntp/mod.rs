//! The NTP edge: client, engine, server.

pub mod client;
pub mod engine;
pub mod rate;
pub mod server;
pub mod wire;
