//! Tells the service manager how the daemon stands (`sd_notify`, systemd's `Type=notify-reload`).
//!
//! Without `NOTIFY_SOCKET` in the environment none of this does anything, and
//! nothing depends on it: a message that cannot be sent is logged and forgotten.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

/// The sockets answer.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// How the daemon stands, in one line of words; `systemctl status` shows it.
pub fn status(words: &str) {
    // A message is lines of `KEY=value`: words must not bring lines of their own.
    let words = words.replace(['\n', '\r'], " ");
    send(&[NotifyState::Status(&words)]);
}

/// The configuration is being read again. Say [`ready`] when that is done, whatever the outcome.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "the service manager was not told of the reload"),
    }
}

/// After how long without [`alive`] the service manager takes the daemon for dead, and starts another;
/// `None` if it does not watch.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// The daemon does what it is for.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// The daemon drains and ends.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, ?states, "the service manager was not told");
    }
}
