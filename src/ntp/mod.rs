//! The NTP edge: client, engine, server.

pub mod client;
pub mod wire;
