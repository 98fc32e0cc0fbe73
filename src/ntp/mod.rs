//! The NTP edge: client, engine, server.
