//! The signals a daemon obeys.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// What the sender of a signal wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGTERM or SIGINT: drain, and end.
    Stop,
}

/// The signals that came, in order of their kinds.
#[derive(Debug)]
pub struct Signals {
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// Takes the signals over from their defaults, which end the process.
    ///
    /// # Errors
    ///
    /// The kernel refuses a handler.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hangup.recv() => Signal::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn hangup_reloads_and_terminate_stops() {
        let mut signals = Signals::open().unwrap();

        assert_eq!(sent("HUP", &mut signals).await, Signal::Reload);
        assert_eq!(sent("TERM", &mut signals).await, Signal::Stop);
        assert_eq!(sent("INT", &mut signals).await, Signal::Stop);
    }

    async fn sent(name: &str, signals: &mut Signals) -> Signal {
        let kill = format!("kill -{name} {}", std::process::id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        signals.next().await
    }
}
