//! The log: one line an event, to standard error.

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::time::Uptime;

/// What is logged unless `FIRSTLIGHT_LOG` says otherwise. The filter library reports each update; the
/// recursor warns of each name that does not exist, and no name is to be in the log.
const DEFAULT: &str = "info,ntp_proto=warn,hyper=warn,h2=warn,rustls=warn,hickory_resolver=off,hickory_net=off,hickory_proto=off";

/// Starts the log. Lines carry the seconds since the start: wall time may be wrong, and
/// whoever collects the lines stamps them.
pub(super) fn start(json: bool) {
    let filter =
        EnvFilter::try_from_env("FIRSTLIGHT_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(Uptime::default())
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    // A second start in one process keeps the first log.
    let _ = if json { log.json().try_init() } else { log.try_init() };
}
