//! Exit codes, the same for every command.

/// All is well.
pub const OK: u8 = 0;
/// The command ran, and its answer is no: unhealthy, or a promise broken.
pub const FAILED: u8 = 1;
/// The command line or the configuration cannot be used (clap exits with the same code).
pub const CONFIG: u8 = 2;
/// No daemon answers on the control socket.
pub const UNREACHABLE: u8 = 3;
/// The daemon refused: only root, its own user and the configured group may change things.
pub const DENIED: u8 = 4;
