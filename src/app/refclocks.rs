//! Listens to the reference clocks, each in a task of its own, and tells people of those that fail.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::asking::Failure;
use super::boot::Boot;
use super::steward::{Message, Steward};
use super::supervise::keep;
use crate::clock::{SourceId, UnixTime, Verdict, describe};
use crate::config::{self, Config};
use crate::health::Severity;
use crate::node::Input;
use crate::node::ports::{Clock, Wall};
use crate::ntp::refclock::RefClock;

/// The tasks that listen. They end when this is dropped.
#[derive(Debug)]
pub(super) struct RefClocks {
    _stop: watch::Sender<()>,
}

impl RefClocks {
    /// Listens to the clocks of `config`, under the configuration of sources that is the `asked`th.
    pub(super) fn start(
        boot: &Boot,
        config: &Config,
        floor: UnixTime,
        asked: u64,
        sender: &mpsc::Sender<Message>,
    ) -> Self {
        let (stop, stopped) = watch::channel(());
        let first = config.clock.sources.len();
        for (index, refclock) in config.clock.refclocks.iter().enumerate() {
            let (id, refclock) = (SourceId(first + index), refclock.clone());
            let (clock, sender) = (Arc::clone(&boot.clock) as Arc<dyn Wall>, sender.clone());
            let stopped = stopped.clone();
            keep("a reference clock", move || {
                let refclock = RefClock::new(refclock.clone(), floor, Arc::clone(&clock));
                listen(refclock, id, asked, sender.clone(), stopped.clone())
            });
        }
        Self { _stop: stop }
    }
}

async fn listen(
    mut refclock: RefClock,
    id: SourceId,
    asked: u64,
    sender: mpsc::Sender<Message>,
    mut stopped: watch::Receiver<()>,
) {
    loop {
        let said = tokio::select! {
            _ = stopped.changed() => return,
            said = refclock.next() => said,
        };
        let (input, failure) = match said {
            Ok(reading) => (Input::Reading(id, reading), None),
            Err(trouble) => (Input::Silence(id), Some(Failure::Source(id, trouble.to_string()))),
        };
        if sender.send(Message::Heard { asked, member: None, input, failure }).await.is_err() {
            return;
        }
    }
}

impl Steward {
    /// Listens to the reference clocks in force.
    pub(super) fn listen_to_refclocks(&mut self) {
        let floor = self.node.trust().floor(self.boot.clock.mono()).0;
        let (config, sender) = (&self.config, &self.sender);
        self.refclocks = Some(RefClocks::start(&self.boot, config, floor, self.asked, sender));
    }

    /// Tells people of reference clocks that have stopped, or that the others contradict.
    pub(super) fn report_refclocks(&mut self) {
        let first = self.config.clock.sources.len();
        let reports: Vec<_> = self.node.trust().sources(self.boot.now()).skip(first).collect();
        let failures = self.source_failures.iter().skip(first);
        let troubles: Vec<_> = (self.config.clock.refclocks.iter().zip(reports).zip(failures))
            .filter_map(|((refclock, report), failure)| {
                let why = match (report.verdict, failure, report.last) {
                    (Verdict::Silent, Some(failure), _) => failure.clone(),
                    (Verdict::Falseticker, _, Some(last)) => {
                        format!("the other sources contradict it, by {}", describe(last.offset))
                    }
                    _ => return None,
                };
                Some(in_words(refclock, &why))
            })
            .collect();
        let text = format!(
            "{}; time is kept without it: see `firstlight sources`, and look at the receiver, its \
             antenna and cable, and at what sends its samples",
            troubles.join("; ")
        );
        let held = (!troubles.is_empty()).then_some((Severity::Warning, text));
        self.feed(Input::Condition { name: "reference-clock", held });
    }
}

fn in_words(refclock: &config::RefClock, why: &str) -> String {
    format!("reference clock {} ({}): {why}", refclock.name, refclock.path.display())
}
