//! The log: one line an event, to standard error.

use std::env;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::fmt::time::Uptime;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// What is logged unless `FIRSTLIGHT_LOG` says otherwise. The filter library reports each update; the
/// recursor warns of each name that does not exist, and no name is to be in the log.
const DEFAULT: &str = "info,ntp_proto=warn,hyper=warn,h2=warn,rustls=warn,hickory_resolver=off,hickory_net=off,hickory_proto=off";

/// Starts the log. Lines carry the seconds since the start: wall time may be wrong, and
/// whoever collects the lines stamps them.
pub(super) fn start(json: bool) {
    let log = layer()
        .with_timer(Uptime::default())
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    let log = if json { log.json().boxed() } else { log.boxed() };
    // A second start in one process keeps the first log.
    let _ = tracing_subscriber::registry().with(log).with(wanted()).try_init();
}

fn wanted() -> Targets {
    let wanted = env::var("FIRSTLIGHT_LOG").ok().and_then(|text| text.parse().ok());
    wanted.or_else(|| DEFAULT.parse().ok()).unwrap_or_default()
}
