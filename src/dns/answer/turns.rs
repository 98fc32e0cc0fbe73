//! Whose turn it is to be asked, while upstreams are down and after they return.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::dns::ForwardError;
use crate::node::ports::Clock;
use crate::upstream::{Admission, Pace, Purpose};

/// Questions that wait for their turn at most.
const WAITING_MAX: usize = 1_000;

/// What tells questions apart.
type Octets = Arc<[u8]>;

/// The edge of [`Pace`].
#[derive(Debug)]
pub(super) struct Turns {
    table: Mutex<Table>,
    down: AtomicBool,
    clock: Arc<dyn Clock>,
    runtime: Handle,
}

#[derive(Debug)]
struct Table {
    pace: Pace<Octets>,
    waiting: BTreeMap<Octets, oneshot::Sender<()>>,
    /// A task tells those who wait of their turns.
    driven: bool,
}

impl Turns {
    pub(super) fn new(rate: u32, clock: Arc<dyn Clock>, runtime: Handle) -> Arc<Self> {
        let pace = Pace::new(rate, WAITING_MAX, clock.mono());
        let table = Mutex::new(Table { pace, waiting: BTreeMap::new(), driven: false });
        Arc::new(Self { table, down: AtomicBool::new(false), clock, runtime })
    }

    pub(super) fn set_rate(&self, rate: u32) {
        self.table().pace.set_rate(rate);
    }

    /// Whether no upstream answers.
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    pub(super) fn set_down(&self, down: bool) {
        if self.down.swap(down, Ordering::Relaxed) == down {
            return;
        }
        let now = self.clock.mono();
        let mut table = self.table();
        if down {
            table.pace.handle_down(now);
        } else {
            table.pace.handle_return(now);
        }
    }

    /// Waits until `question` may be asked.
    ///
    /// # Errors
    ///
    /// If it failed a moment ago, or had to give way to others.
    pub(super) async fn come(
        self: &Arc<Self>,
        question: &Octets,
        purpose: Purpose,
    ) -> Result<(), ForwardError> {
        let turn = {
            let mut table = self.table();
            let now = self.clock.mono();
            match table.pace.handle_question(Arc::clone(question), purpose, now) {
                Admission::Go => return Ok(()),
                Admission::Cooling(_) => return Err(ForwardError::Cooling),
                Admission::Instead(other) if other == *question => return Err(too_many()),
                // Who is dropped learns so from its end of the channel.
                Admission::Instead(other) => drop(table.waiting.remove(&other)),
                Admission::Wait => {}
            }
            let (tell, turn) = oneshot::channel();
            table.waiting.insert(Arc::clone(question), tell);
            if !std::mem::replace(&mut table.driven, true) {
                self.runtime.spawn(Arc::clone(self).drive());
            }
            turn
        };
        turn.await.map_err(|_| too_many())
    }

    /// Somebody else asks what is under way: if it waits, it waits as one that has just come.
    pub(super) fn ask_again(&self, question: &Octets) {
        let mut table = self.table();
        if table.waiting.contains_key(question) {
            let now = self.clock.mono();
            let admission = table.pace.handle_question(Arc::clone(question), Purpose::Client, now);
            if admission == Admission::Go
                && let Some(tell) = table.waiting.remove(question)
            {
                let _ = tell.send(());
            }
        }
    }

    /// A question that came to be asked was answered, or was not.
    pub(super) fn asked(&self, question: &Octets, answered: bool) {
        let now = self.clock.mono();
        self.table().pace.handle_outcome(Arc::clone(question), answered, now);
    }

    /// Nobody waits for `question` any longer.
    pub(super) fn gone(&self, question: &Octets) {
        let mut table = self.table();
        if table.waiting.remove(question).is_some() {
            table.pace.handle_gone(question);
        }
    }

    /// Tells those who wait of their turns, until nobody waits.
    async fn drive(self: Arc<Self>) {
        loop {
            let wait = {
                let mut table = self.table();
                let now = self.clock.mono();
                while let Some(question) = table.pace.poll_go(now) {
                    if let Some(tell) = table.waiting.remove(&question) {
                        // Whoever has left since takes no turn from anybody.
                        let _ = tell.send(());
                    }
                }
                let Some((at, _)) = table.pace.poll_timeout() else {
                    table.driven = false;
                    return;
                };
                at.saturating_duration_since(now)
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_many() -> ForwardError {
    ForwardError::Busy(WAITING_MAX)
}
