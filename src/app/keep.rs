//! Writes state files one after another, off every path that answers.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use serde::Serialize;
use serde_json::Value;
use tracing::{error, warn};

use crate::host::state::StateDir;

/// Takes values to be kept and writes them in order, on a thread of its own.
pub(crate) struct Keeper {
    queue: Option<Sender<(Arc<StateDir>, &'static str, Value)>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread.
    pub(crate) fn start() -> Self {
        let (queue, values) = channel();
        let thread = thread::Builder::new().name("state".to_owned()).spawn(move || write(&values));
        match thread {
            Ok(thread) => Self { queue: Some(queue), thread: Some(thread) },
            Err(error) => {
                error!(%error, "no thread for state files: nothing is kept");
                Self { queue: None, thread: None }
            }
        }
    }

    /// Keeps `value` under `name`, some time soon.
    pub(crate) fn keep<T: Serialize>(&self, state: &Arc<StateDir>, name: &'static str, value: &T) {
        let Ok(value) = serde_json::to_value(value) else { return };
        if let Some(queue) = &self.queue {
            let _ = queue.send((Arc::clone(state), name, value));
        }
    }

    /// Writes what is queued, and ends.
    pub(crate) fn finish(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

fn write(values: &Receiver<(Arc<StateDir>, &'static str, Value)>) {
    let mut failing = false;
    while let Ok((state, name, value)) = values.recv() {
        match state.write_json(name, &value) {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                warn!(%error, name, "kept in memory until it can be written");
            }
            Err(_) => {}
        }
    }
}
