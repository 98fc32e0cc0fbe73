//! A task that begins on the thread that makes it.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// A task that runs where it is made until it first has to wait, and on a runtime from there on.
///
/// A question that is spawned costs a wake-up of the runtime before it is even sent. Begun in
/// place it is on its way at once, and the runtime hears of it when the answer is there.
pub(super) struct Task {
    runtime: Handle,
    state: Mutex<State>,
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

enum State {
    /// Not begun, or waiting for the first time.
    Waiting(Work),
    /// Polled where it was made.
    Beginning {
        woken: bool,
        aborted: bool,
    },
    /// A task of the runtime like any other.
    Spawned(AbortHandle),
    Over,
}

impl Task {
    /// A task for `runtime`. Nothing happens before [`Self::begin`].
    pub(super) fn new(
        runtime: &Handle,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<Self> {
        let state = Mutex::new(State::Waiting(Box::pin(work)));
        Arc::new(Self { runtime: runtime.clone(), state })
    }

    /// Runs it until it has to wait. It must not block before that. A panic ends it alone.
    pub(super) fn begin(self: &Arc<Self>) {
        let beginning = State::Beginning { woken: false, aborted: false };
        let before = std::mem::replace(&mut *self.state(), beginning);
        let State::Waiting(work) = before else {
            *self.state() = before;
            return;
        };
        let _runtime = self.runtime.enter();
        let waker = Waker::from(Arc::clone(self));
        let polled = catch_unwind(AssertUnwindSafe(move || {
            let mut work = work;
            match work.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(()) => None,
                Poll::Pending => Some(work),
            }
        }));
        let mut state = self.state();
        let left = match (polled.unwrap_or(None), &*state) {
            (Some(work), &State::Beginning { woken, aborted: false }) => {
                *state = if woken { self.spawn(work) } else { State::Waiting(work) };
                None
            }
            (left, _) => {
                *state = State::Over;
                left
            }
        };
        drop(state);
        drop(left);
    }

    /// Ends it, unless it has ended.
    pub(super) fn abort(&self) {
        let mut state = self.state();
        match &mut *state {
            State::Beginning { aborted, .. } => *aborted = true,
            State::Spawned(handle) => handle.abort(),
            State::Waiting(_) | State::Over => {
                let before = std::mem::replace(&mut *state, State::Over);
                drop(state);
                let _runtime = self.runtime.enter();
                drop(before);
            }
        }
    }

    fn spawn(&self, work: Work) -> State {
        State::Spawned(self.runtime.spawn(work).abort_handle())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let mut state = self.state();
        match &mut *state {
            State::Beginning { woken, .. } => *woken = true,
            State::Waiting(_) => {
                if let State::Waiting(work) = std::mem::replace(&mut *state, State::Over) {
                    *state = self.spawn(work);
                }
            }
            State::Spawned(_) | State::Over => {}
        }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn it_runs_at_once_until_it_has_to_wait_and_on_the_runtime_from_there_on() {
        let (tell, told) = oneshot::channel();
        let (report, reported) = oneshot::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&begun);
        let runtime = Handle::current();

        let ran = thread::spawn(move || {
            let work = async move {
                flag.store(true, Ordering::Relaxed);
                report.send((told.await.unwrap(), tokio::task::try_id().is_some())).unwrap();
            };
            Task::new(&runtime, work).begin();
        });
        ran.join().unwrap();
        assert!(begun.load(Ordering::Relaxed));
        tell.send(7).unwrap();

        assert_eq!(reported.await.unwrap(), (7, true));
    }

    #[tokio::test]
    async fn woken_while_it_begins_it_goes_on() {
        let (report, reported) = oneshot::channel();
        let work = async {
            tokio::task::yield_now().await;
            report.send(()).unwrap();
        };

        Task::new(&Handle::current(), work).begin();

        reported.await.unwrap();
    }

    #[tokio::test]
    async fn aborted_it_is_dropped_wherever_it_waits() {
        for spawned in [false, true] {
            let (held, dropped) = oneshot::channel::<()>();
            let (wake, mut woken) = tokio::sync::mpsc::unbounded_channel();
            let task = Task::new(&Handle::current(), async move {
                let _held = held;
                while woken.recv().await.is_some() {}
            });
            task.begin();
            if spawned {
                wake.send(()).unwrap();
                tokio::task::yield_now().await;
            }

            task.abort();

            assert!(dropped.await.is_err());
        }
    }

    #[tokio::test]
    async fn a_panic_ends_it_alone() {
        let (held, dropped) = oneshot::channel::<()>();

        Task::new(&Handle::current(), async move {
            let _held = held;
            panic!("on purpose");
        })
        .begin();

        assert!(dropped.await.is_err());
    }
}
