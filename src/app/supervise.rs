//! Keeps a task alive: a panic costs what it held in memory, and is counted.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::error;

/// A part that panicked is started again after this pause.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 1000 });

/// Panics of kept tasks since the start.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Panics of kept tasks since the start.
pub(super) fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Runs what `start` makes, and again whenever that panics; ends when it ends by itself.
pub(super) fn keep<F>(
    part: &'static str,
    start: impl Fn() -> F + Send + Sync + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    // Making it may panic as well as running it.
    let start = Arc::new(start);
    let run = move || {
        let start = Arc::clone(&start);
        tokio::spawn(async move { start().await })
    };
    let mut running = run();
    tokio::spawn(async move {
        while let Err(fault) = (&mut running).await {
            if fault.is_cancelled() {
                return;
            }
            let panics = PANICS.fetch_add(1, Ordering::Relaxed) + 1;
            error!(part, %fault, panics, "a part failed and is started again; names are served all the same");
            tokio::time::sleep(PAUSE).await;
            running = run();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_runs_again_until_it_ends_by_itself() {
        let lives = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lives);

        let kept = keep("test", move || {
            let life = counted.fetch_add(1, Ordering::Relaxed);
            async move { assert!(life >= 3, "life {life} ends badly") }
        });

        kept.await.unwrap();
        assert_eq!(lives.load(Ordering::Relaxed), 4);
        assert!(panics() >= 3);
    }
}
