//! The health of every endpoint, and the order in which they are tried.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// One address of one upstream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// The TLS name.
    pub name: String,
    /// Who runs it.
    pub operator: String,
    /// Where it is reached.
    pub address: SocketAddr,
}

/// Which endpoint: its place in the list the pool was made from.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EndpointId(pub usize);

/// How exchanges with an endpoint ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// With answers, whatever their RCODEs: NXDOMAIN is as good as an address.
    Answered {
        /// From each question's sending to its answer, a handshake not counted; oldest first.
        latencies: Vec<Duration>,
    },
    /// One, without: refused, reset, silent, or not verifiable.
    Failed,
}

/// What an endpoint is believed to be.
///
/// ```text
///          FAILURES in a row            probe is due
///     Up ───────────────────▶ Down ───────────────────▶ Probing
///     ▲                        ▲                          │  │
///     │                        └────────── fails ─────────┘  │
///     └──────── answers; or any answers while all are down ──┘
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It failed too often; a probe is due later.
    Down,
    /// A probe was asked for and its outcome is awaited.
    Probing,
    /// It answers, or was never asked.
    Up,
}

/// Knows every endpoint's health and orders them.
///
/// Feed it outcomes, in any order, `now` never going back; after each call read
/// [`Self::plan`], and call [`Self::poll_probe`] until it gives `None` at
/// latest when [`Self::poll_timeout`] says. Spurious calls do nothing.
#[derive(Debug)]
pub struct Pool {
    entries: Vec<Entry>,
}

impl Pool {
    /// All `endpoints` are up; their order decides between equals.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self { entries: endpoints.into_iter().map(Entry::new).collect() }
    }

    /// Takes note of how exchanges with `endpoint` ended.
    pub fn handle_outcome(&mut self, endpoint: EndpointId, outcome: Outcome, now: Instant) {
        let all_down = self.all_down();
        let Some(entry) = self.entries.get_mut(endpoint.0) else { return };
        match outcome {
            Outcome::Answered { latencies } => {
                for latency in latencies {
                    entry.sample(latency);
                }
                entry.pardon();
                if all_down {
                    // The path was dead, not the endpoints.
                    self.entries.iter_mut().for_each(Entry::pardon);
                }
            }
            Outcome::Failed => {
                entry.failures = entry.failures.saturating_add(1);
                // Counted from its beginning, a silent probe delays the next one by nothing.
                let probe = entry.probing_since.take();
                entry.probes += u32::from(probe.is_some());
                entry.failed_at = Some(probe.unwrap_or(now));
            }
        }
    }

    /// Takes note that `endpoint`'s certificate passes rule R only, or strictly after all.
    ///
    /// While the former, it is tried after all that are up and pass strictly.
    pub fn handle_verdict(&mut self, endpoint: EndpointId, relaxed_only: bool) {
        if let Some(entry) = self.entries.get_mut(endpoint.0) {
            entry.relaxed_only = relaxed_only;
        }
    }

    /// Forgets whose certificate passes rule R only: trust in the clock changed.
    pub fn handle_trust_change(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.relaxed_only = false);
    }

    /// Clears every penalty and latency: a link, address or route changed, and
    /// nothing that was learnt need hold on the new path.
    pub fn handle_path_change(&mut self, _now: Instant) {
        for entry in &mut self.entries {
            entry.pardon();
            entry.latency = None;
        }
    }

    /// An endpoint that should be asked something now, to see whether it is
    /// back; `None` if none is due.
    pub fn poll_probe(&mut self, now: Instant) -> Option<EndpointId> {
        let all_down = self.all_down();
        let (index, entry) =
            self.entries.iter_mut().enumerate().find(|(index, entry)| {
                entry.probe_due(*index, all_down).is_some_and(|at| at <= now)
            })?;
        entry.probing_since = Some(now);
        Some(EndpointId(index))
    }

    /// When [`Self::poll_probe`] must be called next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let all_down = self.all_down();
        let due = |(index, entry): (usize, &Entry)| entry.probe_due(index, all_down);
        self.entries.iter().enumerate().filter_map(due).min().map(|at| (at, "upstream probe"))
    }

    /// The order in which to try the endpoints, neighbours being of different
    /// operators as far as there are any.
    ///
    /// Those that are down stand last, yet in it: when nothing else is left
    /// they are tried all the same.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut ranked: Vec<(usize, &Entry)> = self.entries.iter().enumerate().collect();
        ranked.sort_by_key(|(index, entry)| (entry.rank(), entry.expected(), *index));

        let mut order = Vec::with_capacity(ranked.len());
        for group in ranked.chunk_by(|(_, a), (_, b)| a.rank() == b.rank()) {
            // The nth endpoint of an operator comes in the nth round.
            let mut rounds = BTreeMap::<&str, usize>::new();
            let mut dealt: Vec<_> = group
                .iter()
                .map(|(index, entry)| {
                    let round = rounds.entry(&entry.endpoint.operator).or_default();
                    *round += 1;
                    (*round, EndpointId(*index), *entry)
                })
                .collect();
            dealt.sort_by_key(|(round, ..)| *round);
            order.extend(dealt.into_iter().map(|(_, id, entry)| Candidate {
                id,
                operator: entry.endpoint.operator.clone(),
                relaxed_only: entry.relaxed_only,
                hedge_after: entry.hedge_after(),
            }));
        }
        Plan { order }
    }

    /// Every endpoint and what is known of it, in the order given to [`Self::new`].
    pub fn health(&self) -> impl Iterator<Item = Health<'_>> {
        self.entries.iter().map(|entry| Health {
            endpoint: &entry.endpoint,
            state: entry.state(),
            latency: entry.latency.map(|latency| latency.mean),
            failures: entry.failures,
            relaxed_only: entry.relaxed_only,
        })
    }

    /// Whether no endpoint is up: it is more likely our path than all of them.
    #[must_use]
    pub fn all_down(&self) -> bool {
        self.entries.iter().all(|entry| entry.state() != State::Up)
    }
}

/// The order in which to try endpoints.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Best first.
    pub order: Vec<Candidate>,
}

/// An endpoint in a [`Plan`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Candidate {
    /// Which.
    pub id: EndpointId,
    /// Who runs it.
    pub operator: String,
    /// Its certificate passes rule R only, though the clock is set: never hedge to it.
    pub relaxed_only: bool,
    /// Silent for this long, it is slower than about 19 of 20 of its answers:
    /// ask another operator too.
    pub hedge_after: Duration,
}

/// What is known of an endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Health<'a> {
    /// Which.
    pub endpoint: &'a Endpoint,
    /// What it is believed to be.
    pub state: State,
    /// Its smoothed latency; `None` if it never answered on this path.
    pub latency: Option<Duration>,
    /// Failures since its last answer.
    pub failures: u32,
    /// Its certificate passes rule R only, though the clock is set.
    pub relaxed_only: bool,
}

/// So many failures in a row make an endpoint down.
const FAILURES: u32 = 3;
/// Between probes while every endpoint is down, plus up to as much again by place in the list.
const PROBE: Duration = Duration::from_secs(1);
/// While others answer, that time doubles this often: to 32 s.
const PROBE_DOUBLINGS: u32 = 5;
/// A probe without outcome after this long is given up; exchanges end sooner.
const PROBE_LOST: Duration = Duration::from_secs(3);
/// No hedge is sent sooner.
const HEDGE_MIN: Duration = Duration::from_millis(200);
/// No hedge waits longer.
const HEDGE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry {
    endpoint: Endpoint,
    latency: Option<Latency>,
    failures: u32,
    /// Failed probes since its last answer.
    probes: u32,
    failed_at: Option<Instant>,
    probing_since: Option<Instant>,
    relaxed_only: bool,
}

/// Smoothed mean and mean deviation, as TCP estimates round trips (RFC 6298 section 2).
#[derive(Clone, Copy, Debug)]
struct Latency {
    mean: Duration,
    deviation: Duration,
}

impl Entry {
    fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            latency: None,
            failures: 0,
            probes: 0,
            failed_at: None,
            probing_since: None,
            relaxed_only: false,
        }
    }

    fn sample(&mut self, sample: Duration) {
        let sample = sample.min(Duration::from_secs(10));
        self.latency = Some(match self.latency {
            None => Latency { mean: sample, deviation: sample / 2 },
            Some(Latency { mean, deviation }) => Latency {
                mean: (mean * 7 + sample) / 8,
                deviation: (deviation * 3 + mean.abs_diff(sample)) / 4,
            },
        });
    }

    fn pardon(&mut self) {
        self.failures = 0;
        self.probes = 0;
        self.failed_at = None;
        self.probing_since = None;
    }

    fn state(&self) -> State {
        match self.probing_since {
            Some(_) => State::Probing,
            None if self.failures >= FAILURES => State::Down,
            None => State::Up,
        }
    }

    /// When this endpoint is to be probed; `None` while it is up.
    fn probe_due(&self, index: usize, all_down: bool) -> Option<Instant> {
        match self.state() {
            State::Up => None,
            State::Probing => self.probing_since.map(|since| since + PROBE_LOST),
            State::Down => {
                let wait = if all_down {
                    // Spread out: 13 shares no factor with 16.
                    PROBE + PROBE * u32::try_from(index * 13 % 16).unwrap_or(0) / 16
                } else {
                    PROBE * (1 << self.probes.min(PROBE_DOUBLINGS))
                };
                self.failed_at.map(|at| at + wait)
            }
        }
    }

    /// 0 is tried first.
    fn rank(&self) -> u8 {
        let down = self.state() != State::Up;
        u8::from(down) * 2 + u8::from(self.relaxed_only)
    }

    /// For ordering. One never asked stands in the middle of what is usual, so
    /// that the fast stay first and the slow are overtaken by it. A failure
    /// that did not suffice to be down still costs.
    fn expected(&self) -> Duration {
        let latency = self.latency.map_or(Duration::from_millis(30), |latency| latency.mean);
        latency + Duration::from_millis(200) * self.failures.min(FAILURES)
    }

    fn hedge_after(&self) -> Duration {
        self.latency.map_or(HEDGE_MIN, |Latency { mean, deviation }| {
            // Two deviations above the mean: about the 95th percentile.
            (mean + deviation * 2).clamp(HEDGE_MIN, HEDGE_MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_are_of_different_operators() {
        let pool = pool(&["quad9", "quad9", "quad9", "dns0", "google"]);

        assert_eq!(order(&pool), [0, 3, 4, 1, 2]);
    }

    #[test]
    fn the_faster_goes_first_and_negative_answers_count_as_answers() {
        let (mut pool, now) = (pool(&["a", "b"]), now());
        pool.handle_outcome(EndpointId(0), answered(15), now);
        pool.handle_outcome(EndpointId(1), answered(1), now);

        assert_eq!(order(&pool), [1, 0]);
    }

    #[test]
    fn an_endpoint_is_down_after_three_failures_in_a_row() {
        let (mut pool, now) = (pool(&["a", "b"]), now());
        fail(&mut pool, 0, FAILURES - 1, now);
        assert_eq!(states(&pool)[0], State::Up);
        assert_eq!(order(&pool), [1, 0]);

        fail(&mut pool, 0, 1, now);

        assert_eq!(states(&pool)[0], State::Down);
        assert_eq!(pool.poll_probe(now), None);
        assert_eq!(pool.poll_timeout().unwrap().0, now + PROBE);
        assert_eq!(pool.poll_probe(now + PROBE), Some(EndpointId(0)));
        assert_eq!(states(&pool)[0], State::Probing);
        pool.handle_outcome(EndpointId(0), answered(5), now + PROBE);
        assert_eq!(states(&pool)[0], State::Up);
        assert_eq!(pool.poll_timeout(), None);
    }

    #[test]
    fn after_any_outage_each_is_probed_within_two_seconds() {
        let (mut pool, mut now) = (pool(&["a", "b", "c"]), now());
        let end = now + Duration::from_secs(72 * 3600);
        for index in 0..3 {
            fail(&mut pool, index, 40, now);
        }
        let mut last = [now; 3];
        while now < end {
            let (due, _) = pool.poll_timeout().unwrap();
            now = now.max(due);
            while let Some(EndpointId(index)) = pool.poll_probe(now) {
                assert!(now - last[index] <= Duration::from_secs(2));
                last[index] = now;
                fail(&mut pool, index, 1, now);
            }
        }

        pool.handle_outcome(EndpointId(2), answered(20), now);

        assert_eq!(states(&pool), [State::Up; 3]);
    }

    #[test]
    fn an_answer_elsewhere_does_not_excuse_a_dead_endpoint() {
        let (mut pool, now) = (pool(&["a", "b"]), now());
        fail(&mut pool, 0, FAILURES, now);

        pool.handle_outcome(EndpointId(1), answered(9), now);

        assert_eq!(states(&pool), [State::Down, State::Up]);
    }

    #[test]
    fn a_route_change_clears_every_penalty() {
        let (mut pool, now) = (pool(&["a", "b"]), now());
        fail(&mut pool, 0, 100, now);

        pool.handle_path_change(now);

        assert_eq!(states(&pool), [State::Up; 2]);
        assert_eq!(order(&pool), [0, 1]);
    }

    #[test]
    fn relaxed_only_goes_after_strict_but_before_dead() {
        let (mut pool, now) = (pool(&["a", "b", "c"]), now());
        pool.handle_verdict(EndpointId(0), true);
        pool.handle_outcome(EndpointId(2), answered(900), now);
        assert_eq!(order(&pool), [1, 2, 0]);

        fail(&mut pool, 1, FAILURES, now);
        assert_eq!(order(&pool), [2, 0, 1]);
        pool.handle_trust_change();
        assert_eq!(order(&pool), [0, 2, 1]);
    }

    #[test]
    fn a_probe_that_never_reports_is_repeated() {
        let (mut pool, now) = (pool(&["a"]), now());
        fail(&mut pool, 0, FAILURES, now);
        let probed = now + PROBE * 2;
        assert_eq!(pool.poll_probe(probed), Some(EndpointId(0)));

        assert_eq!(pool.poll_probe(probed + PROBE_LOST), Some(EndpointId(0)));
    }

    proptest! {
        #[test]
        fn whatever_happens_all_are_in_the_plan_and_timeouts_lead_to_probes(
            steps in prop::collection::vec((0_u8..6, 0_usize..6, 0_u64..5_000), 0..200),
        ) {
            let (mut pool, mut now) = (pool(&["a", "a", "b", "c", "c"]), now());
            for (what, index, millis) in steps {
                let id = EndpointId(index);
                match what {
                    0 => pool.handle_outcome(id, answered(millis), now),
                    1 | 2 => pool.handle_outcome(id, Outcome::Failed, now),
                    3 => pool.handle_path_change(now),
                    4 => pool.handle_verdict(id, millis % 2 == 0),
                    _ => now += Duration::from_millis(millis),
                }
                let mut seen = order(&pool);
                seen.sort_unstable();
                prop_assert_eq!(seen, [0, 1, 2, 3, 4]);
                let plan = pool.plan();
                let up = |candidate: &Candidate| states(&pool)[candidate.id.0] == State::Up;
                prop_assert!(plan.order.is_sorted_by_key(|candidate| !up(candidate)));
                if pool.all_down() {
                    let (due, _) = pool.poll_timeout().unwrap();
                    prop_assert!(due <= now + PROBE_LOST);
                }
                if let Some((due, _)) = pool.poll_timeout() {
                    prop_assert!(pool.poll_probe(due.max(now)).is_some());
                }
            }
        }
    }

    fn pool(operators: &[&str]) -> Pool {
        let endpoint = |(index, operator): (usize, &&str)| Endpoint {
            name: format!("dns.{operator}.test"),
            operator: (*operator).to_owned(),
            address: ([192, 0, 2, u8::try_from(index).unwrap()], 853).into(),
        };
        Pool::new(operators.iter().enumerate().map(endpoint).collect())
    }

    fn order(pool: &Pool) -> Vec<usize> {
        pool.plan().order.iter().map(|candidate| candidate.id.0).collect()
    }

    fn states(pool: &Pool) -> Vec<State> {
        pool.health().map(|health| health.state).collect()
    }

    fn answered(millis: u64) -> Outcome {
        Outcome::Answered { latencies: vec![Duration::from_millis(millis)] }
    }

    fn fail(pool: &mut Pool, index: usize, times: u32, now: Instant) {
        for _ in 0..times {
            pool.handle_outcome(EndpointId(index), Outcome::Failed, now);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "test code")]
    fn now() -> Instant {
        Instant::now()
    }
}
