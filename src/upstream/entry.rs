//! What is known of one endpoint.

use std::time::{Duration, Instant};

use super::latency::Latency;
use super::{Endpoint, State};

/// So many failures in a row make an endpoint down.
pub(super) const FAILURES: u32 = 3;
/// Between probes of one that failed, and up to as much again.
pub(super) const PROBE: Duration = Duration::from_secs(1);
/// While others answer, the time between probes of one that is down doubles this often: to 16 s,
/// and up to as much again.
const PROBE_DOUBLINGS: u32 = 4;
/// One that nobody has heard for so long is asked whether it is there.
pub(super) const QUIET: Duration = Duration::from_secs(5);
/// That time doubles this often, to 5 min 20 s, while each answer comes as the one before did.
const QUIET_DOUBLINGS: u32 = 6;
/// No hedge is sent sooner: answers that come at once scatter by as much.
const HEDGE_MIN: Duration = Duration::from_millis(20);
/// No hedge waits longer, unless answers take half of that anyhow.
const HEDGE_USUAL: Duration = Duration::from_millis(200);
/// No hedge waits longer.
const HEDGE_MAX: Duration = Duration::from_secs(1);
/// One never asked stands in the middle of what is usual, so that the fast stay first and the
/// slow are overtaken by it.
const UNKNOWN: Duration = Duration::from_millis(30);
/// A difference of less than this, or than a quarter, changes nothing.
const MATTERS: Duration = Duration::from_millis(5);
/// A difference of less than twice changes nothing so soon after the last.
const SETTLED: Duration = Duration::from_secs(5);
/// What a lost question costs.
const LOST: Duration = Duration::from_millis(500);

/// An endpoint and its record.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) endpoint: Endpoint,
    /// Its place in the list of operators.
    pub(super) operator: usize,
    pub(super) latency: Latency,
    /// Failures since its last answer.
    pub(super) failures: u32,
    /// Smoothed, of a thousand questions.
    pub(super) loss: u32,
    pub(super) relaxed_only: bool,
    /// Others were overtaking it when it was last heard of.
    pub(super) silent: bool,
    /// When it last answered anybody.
    pub(super) heard: Option<Instant>,
    /// When it was last probed.
    pub(super) probed: Option<Instant>,
    /// The outcome of that is not known.
    pending: bool,
    /// Failed probes since it went down.
    fruitless: u32,
    /// Probes since an answer surprised.
    sounded: u32,
    /// When it is to be probed next, unless all are down.
    pub(super) due: Option<Instant>,
    /// What it is ranked by, and hedged after: what was measured, less what does not matter.
    shown: Option<Shown>,
}

impl Entry {
    pub(super) fn new(endpoint: Endpoint, operator: usize) -> Self {
        Self {
            endpoint,
            operator,
            latency: Latency::default(),
            failures: 0,
            loss: 0,
            relaxed_only: false,
            silent: false,
            heard: None,
            probed: None,
            pending: false,
            fruitless: 0,
            sounded: 0,
            due: None,
            shown: None,
        }
    }

    pub(super) fn state(&self) -> State {
        match (self.failures >= FAILURES, self.pending) {
            (true, true) => State::Probing,
            (true, false) => State::Down,
            (false, _) => State::Up,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state() == State::Up
    }

    /// Whether it answers on this path, as far as is known.
    pub(super) fn is_proven(&self) -> bool {
        self.failures == 0 && self.latency.mean().is_some()
    }

    pub(super) fn handle_answers(&mut self, latencies: &[Duration], now: Instant) {
        let seldom = self.is_quiet(now);
        for latency in latencies {
            if self.latency.handle(*latency, seldom) {
                self.sounded = 0;
            }
            self.note_loss(0, seldom);
        }
        self.excuse();
        self.heard = Some(now);
        self.due = Some(now + self.until_sounding());
        self.settle(now);
    }

    pub(super) fn handle_failure(&mut self, salt: u64, now: Instant) {
        let was_up = self.is_up();
        let probed = self.probed.filter(|_| self.pending);
        self.note_loss(1000, self.is_quiet(now));
        self.failures = self.failures.saturating_add(1);
        self.pending = false;
        self.sounded = 0;
        self.settle(now);
        if !was_up && probed.is_none() {
            // Whatever clients fall back on does not put the probe off.
            return;
        }
        self.fruitless += u32::from(!was_up);
        // Counted from its beginning, a silent probe delays the next one by nothing.
        self.due = Some(probed.unwrap_or(now) + self.until_probe(salt));
    }

    pub(super) fn handle_probe(&mut self, salt: u64, now: Instant) {
        self.probed = Some(now);
        self.pending = true;
        if self.failures == 0 {
            self.sounded += 1;
            self.due = Some(now + self.until_sounding());
        } else {
            self.due = Some(now + self.until_probe(salt));
        }
    }

    /// Whether nobody has heard it lately.
    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        self.heard.is_none_or(|heard| now.saturating_duration_since(heard) >= QUIET)
    }

    /// Has it probed at once, or a moment later if that was just done.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.due = Some(self.probed.map_or(now, |at| now.max(at + PROBE)));
    }

    /// Forgets its failures, and what is known of the path.
    pub(super) fn forget(&mut self, now: Instant) {
        self.pardon(now);
        self.sounded = 0;
        self.latency = Latency::default();
        self.settle(now);
    }

    /// Forgets its failures, and what was lost.
    pub(super) fn pardon(&mut self, now: Instant) {
        self.loss = 0;
        self.excuse();
        self.settle(now);
    }

    /// It keeps silent. Whoever is asked meanwhile should be another; it is soon known what it is.
    pub(super) fn handle_overtaken(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.silent, true) {
            self.doubt(now);
        }
    }

    fn excuse(&mut self) {
        self.silent = false;
        self.failures = 0;
        self.fruitless = 0;
        self.pending = false;
    }

    fn note_loss(&mut self, lost: u32, seldom: bool) {
        self.loss = if seldom { self.loss.midpoint(lost) } else { (self.loss * 7 + lost) / 8 };
    }

    fn until_sounding(&self) -> Duration {
        QUIET * (1 << self.sounded.min(QUIET_DOUBLINGS))
    }

    fn until_probe(&self, salt: u64) -> Duration {
        if self.is_up() {
            return PROBE;
        }
        let wait = PROBE * (1 << self.fruitless.min(PROBE_DOUBLINGS));
        wait + jitter(wait, salt + u64::from(self.fruitless))
    }

    /// Takes over what was measured, if it matters.
    fn settle(&mut self, now: Instant) {
        let measured = self.measured(now);
        let same = match (&self.shown, &measured) {
            (Some(shown), Some(measured)) => shown.resembles(measured),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.shown = measured;
        }
    }

    fn measured(&self, at: Instant) -> Option<Shown> {
        let Some(mean) = self.latency.mean() else {
            let failed = self.failures > 0;
            let expected = UNKNOWN + self.penalty();
            return failed.then_some(Shown { expected, hedge_after: HEDGE_USUAL, at });
        };
        let longest = (mean * 2).clamp(HEDGE_USUAL, HEDGE_MAX);
        let hedge_after = self.latency.p95().map_or(longest, |p95| p95.clamp(HEDGE_MIN, longest));
        Some(Shown { expected: mean + self.penalty(), hedge_after, at })
    }

    /// How long an answer is expected to take, for ordering.
    pub(super) fn expected(&self) -> Duration {
        self.shown.map_or(UNKNOWN, |shown| shown.expected)
    }

    pub(super) fn hedge_after(&self) -> Duration {
        self.shown.map_or(HEDGE_USUAL, |shown| shown.hedge_after)
    }

    fn penalty(&self) -> Duration {
        LOST * self.loss / 1000 + HEDGE_USUAL * self.failures.min(FAILURES)
    }
}

/// What an endpoint is ordered by and hedged after.
#[derive(Clone, Copy, Debug)]
struct Shown {
    expected: Duration,
    hedge_after: Duration,
    /// When that was measured.
    at: Instant,
}

impl Shown {
    /// Whether to go on with this rather than `measured`: answers scatter, and a plan that changed
    /// with each would never be right. What takes twice as long is told at once, and so is a hedge
    /// that may go out in half the time.
    fn resembles(&self, measured: &Self) -> bool {
        let differ =
            |a: Duration, b: Duration, parts: u32| a.abs_diff(b) > (a.min(b) / parts).max(MATTERS);
        let settled = measured.at.saturating_duration_since(self.at) >= SETTLED;
        let slightly = differ(self.expected, measured.expected, 4)
            || differ(self.hedge_after, measured.hedge_after, 4);
        let twice = differ(self.expected, measured.expected, 1);
        // At first nothing is known of how long answers take, and a hedge waits far too long.
        let sooner = self.hedge_after >= HEDGE_USUAL.max(measured.hedge_after * 2);
        !(twice || sooner || settled && slightly)
    }
}

/// Between nothing and `span`, told by `salt`: each time the same, and unlike its neighbours'.
pub(super) fn jitter(span: Duration, salt: u64) -> Duration {
    // Multiples of the golden ratio are spread evenly (Knuth, volume 3, section 6.4).
    let spread = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    span * u32::try_from(spread).unwrap_or_default() / 1024
}
