//! Reads reference clocks, each in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};

use super::asking::Failure;
use super::steward::Message;
use crate::clock::SourceId;
use crate::config;
use crate::host::clock::MachineClock;
use crate::node::Input;
use crate::node::ports::Clock;
use crate::ntp::refclock::{self, RefClock};

/// A socket that cannot be opened is tried again after this time.
const AGAIN: Duration = Duration::from_secs(5);

/// The tasks; they end with it.
#[derive(Debug, Default)]
pub(super) struct RefClocks(Vec<AbortHandle>);

impl RefClocks {
    /// Reads `clocks`, which are sources from number `first` on, for the configuration `asked`.
    pub(super) fn start(
        clocks: &[config::RefClock],
        first: usize,
        asked: u64,
        machine: &Arc<MachineClock>,
        sender: &mpsc::Sender<Message>,
    ) -> Self {
        let tasks = clocks.iter().zip(first..).map(|(settings, id)| {
            let error = Duration::from_micros(settings.error_us.into());
            let reader = Reader {
                clock: RefClock::new(&settings.name, error),
                settings: settings.clone(),
                id: SourceId(id),
                asked,
                machine: Arc::clone(machine),
                sender: sender.clone(),
            };
            tokio::spawn(reader.run()).abort_handle()
        });
        Self(tasks.collect())
    }
}

impl Drop for RefClocks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

struct Reader {
    settings: config::RefClock,
    clock: RefClock,
    id: SourceId,
    asked: u64,
    machine: Arc<MachineClock>,
    sender: mpsc::Sender<Message>,
}

impl Reader {
    async fn run(mut self) {
        let path = self.settings.socket.clone();
        let mut told = false;
        loop {
            let failure = match refclock::open(&path) {
                Ok(socket) => {
                    info!(socket = %path.display(), "a reference clock is awaited");
                    told = false;
                    loop {
                        match refclock::receive(&socket).await {
                            Ok(sample) => self.take(sample).await,
                            Err(error) => break error,
                        }
                    }
                }
                Err(error) => error,
            };
            if !std::mem::replace(&mut told, true) {
                warn!(socket = %path.display(), error = %failure, "a reference clock cannot be read; other sources go on, and it is tried again each 5 s");
            }
            self.fail(format!("{}: {failure}", path.display())).await;
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn take(&mut self, sample: Result<refclock::Sample, refclock::Unfit>) {
        let (now, machine) = (self.machine.mono(), self.machine.os_utc());
        match sample.and_then(|sample| self.clock.take(&sample, now, machine)) {
            Ok(reading) => {
                let input = Input::Reading(self.id, reading);
                let message = Message::Heard { asked: self.asked, input, failure: None };
                let _ = self.sender.send(message).await;
            }
            Err(unfit) => {
                debug!(socket = %self.settings.socket.display(), %unfit, "a sample is dropped");
                self.fail(unfit.to_string()).await;
            }
        }
    }

    async fn fail(&self, why: String) {
        let failure = Some(Failure::Source(self.id, why));
        let input = Input::Silence(self.id);
        let _ = self.sender.send(Message::Heard { asked: self.asked, input, failure }).await;
    }
}
