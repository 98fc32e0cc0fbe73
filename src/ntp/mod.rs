//! The NTP edge: client, engine, server.

pub mod client;
pub mod engine;
pub mod server;
pub mod wire;
