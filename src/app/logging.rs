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
    let (wanted, complaint) = wanted(env::var("FIRSTLIGHT_LOG").ok().as_deref());
    // A second start in one process keeps the first log.
    let _ = tracing_subscriber::registry().with(log).with(wanted).try_init();
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}");
    }
}

/// What is logged if `FIRSTLIGHT_LOG` says so, and what is wrong with that.
fn wanted(said: Option<&str>) -> (Targets, Option<String>) {
    let by_default = || DEFAULT.parse().unwrap_or_default();
    match said.map(str::parse) {
        None => (by_default(), None),
        Some(Ok(wanted)) => (wanted, None),
        Some(Err(error)) => {
            let said = said.unwrap_or_default();
            let complaint = format!(
                "FIRSTLIGHT_LOG={said:?} cannot be read: {error}; the usual is logged; write a level like \
                 `debug`, or levels by module like `info,firstlight::ntp=debug`"
            );
            (by_default(), Some(complaint))
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn names_that_the_recursor_meets_are_not_logged_unless_it_is_said() {
        let (usual, complaint) = wanted(None);
        assert_eq!(complaint, None);
        assert!(usual.would_enable("firstlight::app", &Level::INFO));
        assert!(!usual.would_enable("firstlight::app", &Level::DEBUG));
        assert!(!usual.would_enable("hickory_resolver::recursor", &Level::ERROR));
        assert!(!usual.would_enable("ntp_proto", &Level::INFO));

        let (said, complaint) = wanted(Some("warn,firstlight::ntp=debug"));
        assert_eq!(complaint, None);
        assert!(said.would_enable("firstlight::ntp::engine", &Level::DEBUG));
        assert!(!said.would_enable("firstlight::app", &Level::INFO));
    }

    #[test]
    fn a_wish_that_cannot_be_read_is_named_and_the_usual_is_logged() {
        let (wanted, complaint) = wanted(Some("firstlight=loud"));

        let complaint = complaint.unwrap();
        assert!(complaint.starts_with("FIRSTLIGHT_LOG=\"firstlight=loud\" cannot be read: "));
        assert!(wanted.would_enable("firstlight", &Level::INFO));
        assert!(!wanted.would_enable("hickory_net", &Level::ERROR));
    }
}
