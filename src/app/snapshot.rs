//! Takes the cache over a power cut: reads the snapshot beside the first answers, and writes it no
//! oftener than flash can bear.

use std::io::Write;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::boot::Boot;
use crate::admin::report;
use crate::cache::{Cache, PAGE_LEN, PageError, Written};
use crate::clock::{Level, TimeTrust};
use crate::dns::answer::Answerer;
use crate::node::ports::Clock;

/// The file in the state directory.
const FILE: &str = "cache";
/// Between two writes while the daemon runs.
const EACH: Duration = Duration::from_secs(6 * 3600);
/// The longest snapshot, in octets: some twenty thousand answers, those in use first.
const LONGEST: u64 = 2 << 20;
/// What the disk is given in a day, in octets. It is counted in running time alone, and what is
/// left is kept in the snapshot: no stopping and starting gets more. With a first whole snapshot
/// on top, no day sees more than 8 MiB.
const PER_DAY: u64 = 6 << 20;
/// With less than this to give, a longer snapshot on disk is better than what would replace it.
const WORTHWHILE: u64 = 1 << 20;
/// Clocks may differ by so many seconds from one run to the next.
const SLACK: i64 = 60;

/// The cache on disk.
#[derive(Debug)]
pub(super) struct Snapshots {
    boot: Arc<Boot>,
    answerer: Arc<Answerer>,
    cache: Arc<Cache>,
    begun: AtomicBool,
    writing: Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// What there was to read has been read.
    complete: bool,
    trust: Option<TimeTrust>,
    /// When the snapshot was written, in UTC seconds, and when it was read.
    source: Option<(i64, Instant)>,
    /// For how many seconds the machine was off between the two, once that is known.
    offline: Option<i64>,
    budget: Budget,
    /// Changes of the cache as a whole that are none of its own counting.
    flushes: u64,
    /// The changes that are on disk.
    held: u64,
    /// When it was last written.
    wrote: Option<Instant>,
    report: report::Snapshot,
}

impl Snapshots {
    pub(super) fn new(boot: &Arc<Boot>, answerer: &Arc<Answerer>) -> Self {
        let known = Known {
            complete: false,
            trust: None,
            source: None,
            offline: None,
            budget: Budget { left: LONGEST, at: boot.clock.mono() },
            flushes: 0,
            held: 0,
            wrote: None,
            report: report::Snapshot::default(),
        };
        Self {
            boot: Arc::clone(boot),
            cache: Arc::clone(answerer.cache()),
            answerer: Arc::clone(answerer),
            begun: AtomicBool::new(false),
            writing: Mutex::default(),
            known: Mutex::new(known),
        }
    }

    /// Reads the snapshot, then writes one every few hours, for ever.
    pub(super) async fn run(self: Arc<Self>) {
        if !self.begun.swap(true, Ordering::Relaxed) {
            self.aside(Self::read).await;
        }
        loop {
            tokio::time::sleep(EACH).await;
            self.aside(Self::write).await;
        }
    }

    /// Does what waits for a disk where nobody waits for it.
    pub(super) async fn aside(self: &Arc<Self>, work: fn(&Self)) {
        let this = Arc::clone(self);
        if let Err(fault) = spawn_blocking(move || work(&this)).await
            && fault.is_panic()
        {
            resume_unwind(fault.into_panic());
        }
    }

    /// What a person may know of it.
    pub(super) fn report(&self) -> report::Snapshot {
        let now = self.boot.clock.mono();
        let known = self.known();
        let since = |at: Instant| now.saturating_duration_since(at).as_secs();
        report::Snapshot {
            enabled: self.is_enabled(),
            written_ago: known.wrote.map(since),
            budget: known.budget.at(now),
            ..known.report.clone()
        }
    }

    /// Something was flushed, and shall not come back from the disk.
    pub(super) fn note_flush(&self) {
        self.known().flushes += 1;
    }

    /// Trust in the clock has changed. As soon as the time is known at all, so is the age of what
    /// was read.
    pub(super) fn trust_is(&self, trust: TimeTrust) {
        let mut known = self.known();
        known.trust = Some(trust);
        self.date(&mut known);
    }

    fn date(&self, known: &mut Known) {
        let timed = known.trust.is_some_and(|trust| trust.level >= Level::Coarse);
        let Some((written, read)) = known.source.filter(|_| timed) else { return };
        let offline = self.boot.clock.utc_at(read).secs().saturating_sub(written);
        if known.offline.is_some_and(|before| before.abs_diff(offline) <= 1) {
            return;
        }
        known.offline = Some(offline);
        let now = self.boot.clock.mono();
        if offline < -SLACK {
            let dropped = self.cache.drop_restored();
            let text = format!(
                "the snapshot is dated {} s in the future: one of two clocks was wrong, and its \
                 answers are of unknown age; {dropped} are dropped",
                offline.unsigned_abs()
            );
            warn!("{text}");
            known.report.trouble = Some(text);
            return;
        }
        let offline = offline.max(0).unsigned_abs();
        known.report.offline = Some(offline);
        let dropped = self.cache.set_offline(Duration::from_secs(offline), now);
        info!(offline, dropped, "the age of the cache's snapshot is known");
    }

    /// Reads the snapshot. Until that is done none is written: half of it would replace it.
    fn read(&self) {
        if self.is_enabled() {
            self.take_back();
        }
        self.known().complete = true;
    }

    /// Reads the snapshot into the cache.
    fn take_back(&self) {
        let begin = self.boot.clock.mono();
        let mut reading = Reading::default();
        let there = self.boot.state.read_pieces(FILE, PAGE_LEN, |page| {
            if let Err(error) = self.take(page, &mut reading) {
                reading.skipped += 1;
                reading.error.get_or_insert(error);
            }
        });
        let mut known = self.known();
        let trouble = match (there, reading.error) {
            (Ok(false), _) => return,
            (Err(error), _) => Some(format!("the snapshot of the cache is lost: {error}")),
            (Ok(true), Some(error)) => Some(format!(
                "{} of {} pages of the cache's snapshot are not used: {error}",
                reading.skipped, reading.pages
            )),
            (Ok(true), None) => None,
        };
        if let Some(text) = &trouble {
            warn!("{text}");
        }
        let now = self.boot.clock.mono();
        let took = now.saturating_duration_since(begin).as_millis();
        let milliseconds = u64::try_from(took).unwrap_or(u64::MAX);
        // Nobody knows what one that cannot be read had left.
        known.budget = Budget { left: reading.written.map_or(0, |written| written.left), at: now };
        known.report = report::Snapshot {
            read: Some(report::SnapshotRead {
                milliseconds,
                entries: reading.entries,
                left_out: reading.left_out,
                bytes: (reading.pages * PAGE_LEN) as u64,
                skipped_pages: reading.skipped,
            }),
            trouble: known.report.trouble.take().or(trouble),
            ..known.report.clone()
        };
        // Time may have become known meanwhile.
        self.date(&mut known);
        drop(known);
        info!(
            entries = reading.entries,
            left_out = reading.left_out,
            skipped_pages = reading.skipped,
            milliseconds,
            "the cache is as it was, its answers stale"
        );
    }

    fn take(&self, page: &[u8], reading: &mut Reading) -> Result<(), PageError> {
        reading.pages += 1;
        let written = Written::read(page)?;
        let now = self.boot.clock.mono();
        if *reading.written.get_or_insert(written) != written {
            return Err(PageError::Damaged);
        }
        {
            let mut known = self.known();
            if known.source.is_none() {
                known.source = written.at.map(|at| (at, now));
                self.date(&mut known);
            }
            if known.offline.is_some_and(|offline| offline < -SLACK) {
                return Ok(());
            }
        }
        let passes = |name: &[u8], _| self.answerer.passes(name);
        let restored = self.cache.restore(page, now, passes)?;
        reading.entries += restored.taken;
        reading.left_out += restored.left_out;
        Ok(())
    }

    /// Writes the cache to disk, if it has changed and the disk may be given as much.
    pub(super) fn write(&self) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.boot.clock.mono();
        let (changes, flushed, budget, at) = {
            let known = self.known();
            let changes = self.cache.stats().inserted + known.flushes;
            let certain = known.trust.is_some_and(|trust| {
                trust.verified || matches!(trust.level, Level::Disciplined | Level::Holdover)
            });
            let at = if certain {
                Some(self.boot.clock.utc_at(now).secs())
            } else if known.offline.is_none() {
                // What was read is as old as it was dated, and this run as long.
                let ran = |read| now.saturating_duration_since(read).as_secs().cast_signed();
                known.source.map(|(written, read)| written.saturating_add(ran(read)))
            } else {
                None
            };
            let changes = Some(changes).filter(|count| known.complete && *count != known.held);
            (changes, known.flushes > 0, known.budget, at)
        };
        let Some(changes) = changes.filter(|_| self.is_enabled()) else { return };
        let needed = self.cache.measure(LONGEST, now).bytes;
        if needed == 0 && !flushed {
            return;
        }
        let Some(most) = budget.grant(needed, now) else {
            let left = budget.at(now);
            info!(needed, left, "the cache's snapshot is left as it is, to spare the disk");
            return;
        };
        let written = Written { at, left: budget.at(now) - needed.min(most) };
        let done = self.boot.state.write_with(FILE, |file| {
            self.cache.save(written, most, now, |page| file.write_all(page))
        });
        let mut known = self.known();
        match done {
            Ok(saved) => {
                known.budget = budget.spend(saved.bytes, now);
                known.held = changes;
                known.wrote = Some(now);
                known.report.written_entries = saved.entries;
                known.report.written_bytes = saved.bytes;
                known.report.trouble = None;
                info!(entries = saved.entries, bytes = saved.bytes, "the cache is on disk");
            }
            Err(error) => {
                // Part of it may have been written.
                known.budget = budget.spend(needed.min(most), now);
                let text = format!("the cache cannot be written: {error}");
                warn!("{text}");
                known.report.trouble = Some(text);
            }
        }
    }

    fn is_enabled(&self) -> bool {
        self.boot.in_force.load().dns.snapshot
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What reading the file has given so far.
#[derive(Debug, Default)]
struct Reading {
    written: Option<Written>,
    pages: usize,
    skipped: usize,
    entries: usize,
    left_out: usize,
    error: Option<PageError>,
}

/// What the disk may still be given, in octets.
#[derive(Clone, Copy, Debug)]
struct Budget {
    left: u64,
    /// When that was right.
    at: Instant,
}

impl Budget {
    fn at(self, now: Instant) -> u64 {
        let ran = now.saturating_duration_since(self.at).as_secs();
        LONGEST.min(self.left.saturating_add(ran.saturating_mul(PER_DAY) / 86_400))
    }

    /// How long a snapshot may be that would take `needed` octets; `None`: none shall be written.
    fn grant(self, needed: u64, now: Instant) -> Option<u64> {
        let left = self.at(now);
        (left >= needed.min(WORTHWHILE)).then(|| left.min(LONGEST))
    }

    fn spend(self, octets: u64, now: Instant) -> Self {
        Self { left: self.at(now).saturating_sub(octets), at: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn no_way_of_running_or_restarting_costs_the_disk_more_than_eight_mebibytes_a_day() {
        for run in [1, 60, 600, 3_600, EACH.as_secs(), DAY] {
            for needed in [20_000, WORTHWHILE, 100 << 20] {
                let wrote = a_day_of(run, needed);
                assert!(wrote <= 8 << 20, "{wrote} in runs of {run} s, {needed} needed");
            }
        }
        assert!(a_day_of(EACH.as_secs(), 100 << 20) >= 6 << 20);
    }

    /// What is written in a day of runs of so many seconds, with a write after each six hours and
    /// at each stop.
    #[expect(clippy::disallowed_methods, reason = "where virtual time starts")]
    fn a_day_of(run: u64, needed: u64) -> u64 {
        let mut now = Instant::now();
        let (mut on_disk, mut wrote) = (LONGEST, 0);
        for _ in 0..DAY / run {
            let mut budget = Budget { left: on_disk, at: now };
            let mut rest = run;
            while rest > 0 {
                let step = rest.min(EACH.as_secs());
                rest -= step;
                now += Duration::from_secs(step);
                if let Some(most) = budget.grant(needed, now) {
                    wrote += needed.min(most);
                    budget = budget.spend(needed.min(most), now);
                    on_disk = budget.left;
                }
            }
        }
        wrote
    }
}
