//! The composition root: wires the edges to the node, supervises, nothing else.

mod asking;
mod boot;
mod cached;
mod certs;
mod certs_report;
mod changes;
mod control;
mod filter;
mod identity;
mod inception;
mod issuing;
mod keep;
mod leap;
mod logging;
mod lookup;
mod monitoring;
mod notices;
mod nts;
mod pools;
mod recursion;
mod refclocks;
mod reload;
mod renumber;
mod self_probe;
mod services;
mod snapshot;
mod steering;
mod steward;
mod supervise;
mod uplink;
mod validation;
mod watchdog;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{Mutex, mpsc};
use tracing::{error, info, warn};

pub(crate) use self::boot::bounds;
pub(crate) use self::leap::read as read_leap_file;

use self::boot::Boot;
use self::control::Desk;
use self::services::Services;
use self::snapshot::Snapshots;
use self::steward::{Message, Steward};
use self::supervise::keep;
use crate::admin;
use crate::host::limits;
use crate::host::link::Links;
use crate::host::notify;
use crate::host::passed::{self, Passed};
use crate::host::signal::{Signal, Signals};
use crate::net::held;

/// Messages waiting for the steward at most; who has one more waits, too.
const MAILBOX: usize = 1024;
/// Answers under way at a stop are waited for so long.
const GRACE: Duration = Duration::from_secs(4);
/// A failing watch goes on after this pause.
const PAUSE: Duration = Duration::from_secs(1);

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration; the usual places without it.
    pub config: Option<PathBuf>,
    /// Where the clock starts, whatever the machine's clock shows (`firstlight try`).
    pub start: Option<crate::clock::UnixTime>,
}

/// Runs the daemon until it is told to stop.
///
/// Gives the exit code: 0 after a stop, 1 if the system gives it nothing to run with, 2 if there
/// is no usable configuration and never was one.
#[must_use]
pub fn run(options: &Options) -> u8 {
    let passed = passed::take();
    let boot = match Boot::new(options) {
        Ok(boot) => boot,
        Err(refusal) => {
            eprintln!("{refusal}");
            return 2;
        }
    };
    logging::start(boot.config.log.json);
    limits::raise_descriptors();
    boot.tell();
    take_over(passed);
    let workers = thread::available_parallelism().map_or(1, usize::from).min(4);
    let runtime = runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "the system gives no threads or descriptors; nothing can be served");
            return 1;
        }
    };
    runtime.block_on(serve(Arc::new(boot), options.clone()));
    runtime.shutdown_timeout(Duration::from_secs(1));
    0
}

async fn serve(boot: Arc<Boot>, options: Options) {
    // Before the first answer: whoever sees one may send a signal.
    let signals = Signals::open();
    let (services, reports) = Services::open(&boot);
    let services = Arc::new(services);
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    services.pass_on(reports, sender.clone());
    for (kind, address) in held::unused() {
        warn!(?kind, %address, "a socket of the service manager's is at no address of the configuration: who asks there gets no answer; stop its socket unit, or listen there");
    }
    notify::ready();
    let watched = Arc::clone(&services);
    keep("watchdog", move || watchdog::feed(Arc::clone(&watched)));

    // Sockets answer: what was known before comes back beside them.
    let snapshots = Arc::clone(&services.snapshots);
    keep("snapshot", move || Arc::clone(&snapshots).run());
    let desk = Arc::new(Desk::new(Arc::clone(&services), sender.clone()));
    services.show(&desk, &boot);
    let (place, changes) = (Arc::clone(&boot), sender.clone());
    keep("control", move || control::listen(Arc::clone(&place), Arc::clone(&desk)));
    keep("links", move || watch_links(changes.clone()));

    let mailbox = Arc::new(Mutex::new(mailbox));
    let snapshots = Arc::clone(&services.snapshots);
    let (rooms, letters) = (Arc::clone(&services), sender.clone());
    let steward = keep("node", move || {
        let file = options.config.clone();
        let steward = Steward::new(Arc::clone(&boot), Arc::clone(&rooms), file, letters.clone());
        let mailbox = Arc::clone(&mailbox);
        async move { steward.run(&mut *mailbox.lock().await).await }
    });

    obey_signals(signals, &sender).await;

    notify::stopping();
    info!("stopping: answers under way are sent");
    let drained = services.drain(GRACE).await;
    if !drained {
        warn!(seconds = GRACE.as_secs(), "some answers were not found in time");
    }
    let end = async {
        let _ = sender.send(Message::Stop).await;
        let _ = steward.await;
    };
    let _ = tokio::time::timeout(GRACE, end).await;
    if tokio::time::timeout(GRACE, snapshots.aside(Snapshots::write)).await.is_err() {
        warn!(seconds = GRACE.as_secs(), "the disk was too slow for the cache's snapshot");
    }
}

/// Serves on the sockets that the service manager passed on, where the configuration has their addresses.
fn take_over(passed: Passed) {
    if passed.unfit > 0 {
        warn!(
            descriptors = passed.unfit,
            "the service manager passed on what is neither a UDP nor a TCP socket"
        );
    }
    if let Err(error) = held::hold(passed.udp, passed.tcp) {
        warn!(%error, "a socket of the service manager's is not bound; another one is opened in its place");
    }
}

async fn obey_signals(signals: io::Result<Signals>, sender: &mpsc::Sender<Message>) {
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            warn!(%error, "signals are not heard: stop with SIGKILL, reload by `firstlight reload`");
            return std::future::pending().await;
        }
    };
    loop {
        match signals.next().await {
            Signal::Reload => {
                if sender.try_send(Message::Reload(None)).is_err() {
                    warn!("too busy to read the configuration again; send SIGHUP once more");
                }
            }
            Signal::Stop => return,
        }
    }
}

async fn watch_links(sender: mpsc::Sender<Message>) {
    let mut links = match Links::open() {
        Ok(links) => links,
        Err(error) => {
            warn!(%error, "changes of links and routes are not seen; upstreams and sources are asked on time all the same");
            return;
        }
    };
    loop {
        match links.changed().await {
            Ok(change) => {
                info!(gained = ?change.gained, lost = ?change.lost, "addresses or routes changed");
                let _ = sender.send(Message::PathChanged).await;
            }
            Err(error) => {
                warn!(%error, "the watch over links failed and goes on");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether a socket path can serve as the folder of what must not outlive the boot.
pub(crate) fn runtime_folder(config: &crate::config::Config) -> PathBuf {
    let socket = admin::path_to_serve(config);
    socket.parent().map_or_else(|| config.state.directory.clone(), PathBuf::from)
}
