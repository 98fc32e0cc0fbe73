//! The pool in virtual time, among endpoints that answer, fail and fall silent.

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::prelude::*;

use super::entry::{FAILURES, PROBE};
use super::*;

#[test]
fn the_faster_goes_first_and_negative_answers_count_as_answers() {
    let mut house = House::of(&["a", "b"]);
    house.answers(0, 15);
    house.answers(1, 1);

    assert_eq!(house.order(), [1, 0]);
    assert_eq!(house.reasons(), [Reason::Turn, Reason::Best]);
}

#[test]
fn an_endpoint_is_down_after_three_failures_in_a_row_and_up_at_its_answer() {
    let mut house = House::of(&["a", "b"]);
    house.answers(1, 5);
    house.fails(0, FAILURES - 1);
    assert_eq!(house.states()[0], State::Up);
    assert_eq!(house.order(), [1, 0]);

    house.fails(0, 1);

    assert_eq!(house.states()[0], State::Down);
    assert!(!house.pool.plan().order[1].hedges);
    assert_eq!(house.pool.poll_probe(house.now), None);
    house.now += PROBE * 2;
    assert_eq!(house.pool.poll_probe(house.now), Some(EndpointId(0)));
    assert_eq!(house.states()[0], State::Probing);
    house.answers(0, 5);
    assert_eq!(house.states()[0], State::Up);
}

#[test]
fn over_a_metered_link_one_at_a_time_is_probed_and_a_return_is_noticed_all_the_same() {
    let mut house = House::of(&["a", "b", "c"]);
    house.pool.set_metered(true);
    house.pool.handle_path_change(house.now);
    let probes = |house: &mut House, span: Duration| {
        let (end, mut probes) = (house.now + span, 0);
        while house.now < end {
            while house.pool.poll_probe(house.now).is_some() {
                probes += 1;
            }
            let (next, _) = house.pool.poll_timeout().unwrap();
            assert!(next > house.now, "what waits for its turn is not due at once");
            house.now = next.min(end);
        }
        probes
    };
    assert!((2..=11).contains(&probes(&mut house, SECOND * 600)));

    (0..3).for_each(|endpoint| house.fails(endpoint, FAILURES));

    assert!(house.pool.plan().all_down);
    assert!((25..=60).contains(&probes(&mut house, SECOND * 60)));
}

#[test]
fn one_that_is_overtaken_goes_last_until_it_is_heard() {
    let mut house = House::of(&["a", "b"]);
    house.answers(0, 1);
    house.answers(1, 5);
    assert_eq!(house.order(), [0, 1]);
    house.now += SECOND * 10;

    house.pool.handle_outcome(EndpointId(0), Outcome::Overtaken, house.now);

    assert_eq!(house.order(), [1, 0]);
    assert_eq!(house.reasons()[0], Reason::Silent);
    assert_eq!(house.pool.poll_probe(house.now), Some(EndpointId(0)));
    house.answers(0, 1);
    assert_eq!(house.order(), [0, 1]);
}

#[test]
fn one_that_is_down_while_others_answer_is_probed_each_half_minute_at_least() {
    let mut house = House::of(&["a", "b"]);
    house.now += HOUR;
    house.answers(1, 5);
    house.fails(0, 100);
    let mut gaps = Vec::new();
    let mut last = house.now;
    for _ in 0..1000 {
        house.answers(1, 5);
        house.now += SECOND / 4;
        if house.pool.poll_probe(house.now) == Some(EndpointId(0)) {
            gaps.push(house.now - last);
            last = house.now;
        }
        // The probe's outcome, or of what clients fall back on: that does not put the next one off.
        house.fails(0, 1);
    }

    assert!(gaps.len() > 7, "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= SECOND * 33), "{gaps:?}");
    assert!(gaps.last() >= Some(&(SECOND * 16)), "{gaps:?}");
}

#[test]
fn after_three_days_of_outage_the_first_probe_comes_within_two_seconds() {
    let mut house = House::of(&["a", "a", "b", "c"]);
    house.run(HOUR);
    house.latency = vec![None; 4];
    house.fails(0, 1);
    house.run(HOUR * 72);
    assert!(house.pool.all_down() && house.pool.plan().all_down);
    assert!(house.pool.plan().order.iter().all(|candidate| candidate.hedges));
    // One an operator, each second or two.
    let probes = house.probes.len();
    house.run(HOUR);
    let an_hour = house.probes.len() - probes;
    assert!((3 * 1800..=3 * 3600).contains(&an_hour), "{an_hour}");

    house.latency = vec![Some(20); 4];
    let back = house.now;
    let heard = |house: &House| !house.pool.all_down();
    house.run_until(SECOND * 10, heard);

    let first = house.probes.iter().find(|(at, _)| *at >= back).unwrap().0;
    assert!(first - back <= SECOND * 2);
    assert!(house.now - back <= SECOND * 2 + MS * 20);
    assert_eq!(house.states(), [State::Up; 4]);
    house.run(SECOND * 5);
    assert_eq!(house.pool.outages().count(), 0);
    assert_eq!(house.pool.health().map(|health| health.loss).max(), Some(0));
}

#[test]
fn while_all_are_down_the_addresses_of_an_operator_take_turns() {
    let mut house = House::of(&["a", "a", "a", "b"]);
    house.latency = vec![None; 4];
    house.run(HOUR);

    house.latency[2] = Some(9);
    let back = house.now;
    house.run_until(SECOND * 60, |house| !house.pool.all_down());

    assert!(house.now - back <= SECOND * 2 * 3 + MS * 9, "{:?}", house.now - back);
}

#[test]
fn when_everything_falls_silent_that_is_known_within_ten_seconds_of_one_question() {
    let mut house = House::of(&["a", "a", "b", "c"]);
    house.run(HOUR);
    house.latency = vec![None; 4];
    house.now += SECOND * 2;
    house.fails(0, 1);
    let begun = house.now;

    house.run_until(SECOND * 60, |house| house.pool.all_down());

    assert!(house.now - begun <= SECOND * 10, "{:?}", house.now - begun);
}

#[test]
fn an_answer_elsewhere_does_not_excuse_a_dead_endpoint() {
    let mut house = House::of(&["a", "b"]);
    house.fails(0, FAILURES);

    house.answers(1, 9);

    assert_eq!(house.states(), [State::Down, State::Up]);
    let outages: Vec<_> = house.pool.outages().collect();
    assert_eq!(outages, [Outage { operator: "a", addresses: 1, heard: None }]);
}

#[test]
fn an_operator_is_down_when_all_its_addresses_are_and_its_return_is_noticed_at_once() {
    let mut house = House::of(&["a", "a", "a", "b"]);
    house.run(HOUR);
    house.latency = vec![None, None, None, Some(9)];
    house.fails(1, FAILURES);
    assert_eq!(house.pool.outages().count(), 0);
    house.run(HOUR);
    let outages: Vec<_> = house.pool.outages().map(|it| (it.operator, it.addresses)).collect();
    assert_eq!(outages, [("a", 3)]);

    house.latency = vec![Some(9); 4];
    house.run_until(SECOND * 60, |house| house.pool.outages().count() == 0);
    house.run(PROBE * 2);

    assert_eq!(house.states(), [State::Up; 4]);
}

#[test]
fn a_route_change_clears_every_penalty_and_has_everybody_asked_at_once() {
    let mut house = House::of(&["a", "b"]);
    house.answers(1, 5);
    house.fails(0, 100);
    house.now += PROBE;

    house.pool.handle_path_change(house.now);

    assert_eq!(house.states(), [State::Up; 2]);
    assert_eq!(house.order(), [0, 1]);
    let asked = [house.pool.poll_probe(house.now), house.pool.poll_probe(house.now)];
    assert_eq!(asked, [Some(EndpointId(0)), Some(EndpointId(1))]);
    assert_eq!(house.pool.poll_probe(house.now), None);
}

#[test]
fn what_began_before_the_end_of_an_outage_is_held_against_nobody_and_what_began_after_is() {
    let mut house = House::of(&["a", "b"]);
    let failed = Outcome::Failed { began: house.now };
    house.fails(0, FAILURES);
    house.fails(1, FAILURES);
    house.now += SECOND;
    house.answers(1, 9);

    for _ in 0..FAILURES {
        house.pool.handle_outcome(EndpointId(0), failed.clone(), house.now + SECOND);
    }
    assert_eq!(house.states(), [State::Up; 2]);
    house.fails(0, FAILURES);

    assert_eq!(house.states(), [State::Down, State::Up]);
}

#[test]
fn relaxed_only_goes_after_strict_but_before_dead() {
    let mut house = House::of(&["a", "b", "c"]);
    house.pool.handle_verdict(EndpointId(0), true);
    house.answers(2, 900);
    assert_eq!(house.order(), [1, 2, 0]);

    house.fails(1, FAILURES);
    assert_eq!(house.order(), [2, 0, 1]);
    house.pool.handle_trust_change(house.now);
    assert_eq!(house.order(), [0, 2, 1]);
}

#[test]
fn a_probe_that_never_reports_is_repeated() {
    let mut house = House::of(&["a", "b"]);
    house.answers(1, 9);
    house.fails(0, FAILURES);
    house.now += PROBE * 2;
    assert_eq!(house.pool.poll_probe(house.now), Some(EndpointId(0)));

    house.now += PROBE * 2;

    assert_eq!(house.pool.poll_probe(house.now), Some(EndpointId(0)));
}

#[test]
fn an_operator_that_others_outdo_is_demoted_for_a_minute_and_no_longer() {
    let mut house = House::of(&["a", "a", "b"]);
    house.answers(2, 200);
    for endpoint in [0, 0, 1, 0] {
        assert_eq!(house.order()[0], 0);
        house.answers(endpoint, 1);
        house.outdone(endpoint);
    }
    assert_eq!(house.order()[0], 2);
    assert_eq!(house.reasons(), [Reason::Outdone, Reason::Outdone, Reason::Best]);

    let end = house.now + SECOND * 60;
    house.pool.handle_timeout(house.now + SECOND * 59);
    assert_eq!(house.order()[0], 2);
    assert!(house.pool.poll_timeout() <= Some((end, "operator's demotion ends")));
    house.pool.handle_timeout(end);

    assert_eq!(house.order()[0], 0);
}

#[test]
fn whoever_is_outdone_by_a_name_now_and_then_is_not_demoted() {
    let mut house = House::of(&["a", "b"]);
    for _ in 0..1000 {
        (0..5).for_each(|_| house.answers(0, 1));
        house.outdone(0);
        assert_eq!(house.order()[0], 0);
    }
}

#[test]
fn a_family_that_fails_while_the_other_answers_goes_last_whoever_was_asked() {
    let mut house = House::with(&[("a", true), ("b", false), ("b", true), ("a", false)]);
    house.answers(1, 90);
    house.fails(0, FAILURES);

    // The other IPv6 address was never asked.
    assert_eq!(house.order(), [3, 1, 0, 2]);
    assert_eq!(house.reasons()[2], Reason::FamilyDown);
    // It is remembered over an outage of everything.
    for endpoint in 1..4 {
        house.fails(endpoint, FAILURES);
    }
    assert!(house.pool.all_down());
    house.answers(1, 90);
    assert_eq!(house.order(), [3, 1, 0, 2]);

    house.answers(2, 1);
    assert_eq!(house.reasons()[2], Reason::Best);
}

#[test]
fn an_endpoint_that_was_slow_is_trusted_again_without_a_client_s_question() {
    let mut house = House::of(&["a", "b"]);
    house.run(HOUR);
    for _ in 0..40 {
        house.answers(0, 2000);
        house.answers(1, 40);
    }
    assert_eq!(house.order(), [1, 0]);

    for _ in 0..300 {
        house.run(SECOND);
        house.answers(1, 40);
    }

    assert_eq!(house.order(), [0, 1], "{:?}", house.pool.health().collect::<Vec<_>>());
}

#[test]
fn idle_endpoints_are_asked_some_three_hundred_times_a_day_each() {
    let mut house = House::of(&["a", "b", "c"]);
    house.run(HOUR * 24);

    let each = house.probes.len() / 3;
    assert!((250..400).contains(&each), "{each}");
}

#[test]
fn latencies_that_scatter_leave_the_plan_alone() {
    let mut house = House::of(&["a", "b", "c"]);
    house.run(SECOND);
    for round in 0..100 {
        house.scattered(round);
    }
    let _ = house.pool.poll_plan();

    let changes: usize = (0..10_000)
        .map(|round| {
            house.scattered(round);
            usize::from(house.pool.poll_plan().is_some())
        })
        .sum();

    assert!(changes <= 200, "{changes}");
}

#[test]
fn a_hedge_waits_for_the_percentile_within_reason() {
    let mut house = House::of(&["near", "scattered", "far", "unknown"]);
    for round in 0..64 {
        house.answers(0, 2);
        house.answers(1, if round % 8 == 0 { 900 } else { 20 });
        house.answers(2, 600 + round);
        house.now += SECOND;
    }

    let after: Vec<_> = house.pool.health().map(|health| health.hedge_after).collect();

    assert_eq!(after[0], MS * 20);
    assert!(after[1] >= MS * 200 && after[1] < MS * 400, "{after:?}");
    assert!(after[2] > MS * 600 && after[2] < MS * 700, "{after:?}");
    assert_eq!(after[3], MS * 200);
}

#[test]
fn on_a_fresh_path_a_hedge_waits_for_what_is_usual_there_within_a_second() {
    let mut house = House::of(&["near", "other"]);
    house.run(SECOND);
    for _ in 0..40 {
        house.answers(0, 5);
        house.now += MS * 20;
    }

    let after = house.pool.health().next().map(|health| health.hedge_after);

    assert_eq!(after, Some(MS * 20));
}

proptest! {
    #[test]
    fn whatever_happens_all_are_planned_the_next_is_another_operator_s_and_probes_come_in_time(
        steps in prop::collection::vec((0_u8..8, 0_usize..6, 0_u64..5_000), 0..200),
    ) {
        let mut house = House::with(
            &[("a", false), ("a", true), ("b", false), ("c", true), ("c", false)],
        );
        let mut probed = house.now;
        for (what, endpoint, millis) in steps {
            let id = EndpointId(endpoint);
            let was_down = house.pool.all_down();
            match what {
                0 => house.answers(endpoint, millis),
                1 | 2 => house.fails(endpoint, 1),
                3 => house.pool.handle_path_change(house.now),
                4 => house.pool.handle_verdict(id, millis % 2 == 0),
                5 => house.outdone(endpoint),
                6 => house.pool.handle_trust_change(house.now),
                _ => house.now += Duration::from_millis(millis),
            }
            let mut seen = house.order();
            seen.sort_unstable();
            prop_assert_eq!(seen, [0, 1, 2, 3, 4]);

            let (states, reasons) = (house.states(), house.reasons());
            let plan = house.pool.plan();
            let up = |candidate: &Candidate| states[candidate.id.0] == State::Up;
            let usable = |candidate: &Candidate| up(candidate)
                && reasons[candidate.id.0] != Reason::FamilyDown;
            prop_assert!(plan.order.is_sorted_by_key(|candidate| !usable(candidate)));
            let strict = |it: &&Candidate| usable(it)
                && !matches!(reasons[it.id.0], Reason::Relaxed | Reason::Outdone);
            let mut strict = plan.order.iter().filter(strict);
            if let (Some(first), Some(second)) = (strict.next(), strict.next()) {
                let others = plan.order.iter().filter(|it| it.operator != first.operator);
                let another = others.filter(|it| usable(it)).any(|it| {
                    !matches!(reasons[it.id.0], Reason::Relaxed | Reason::Outdone)
                });
                prop_assert!(!another || first.operator != second.operator);
            }

            house.pool.handle_timeout(house.now);
            if house.pool.all_down() {
                let (due, _) = house.pool.poll_timeout().unwrap();
                prop_assert!(due <= house.now + SECOND * 2);
                if !was_down {
                    probed = house.now;
                }
            }
            if let Some((due, _)) = house.pool.poll_timeout() {
                house.now = house.now.max(due);
                house.pool.handle_timeout(house.now);
                let mut count = 0;
                while house.pool.poll_probe(house.now).is_some() {
                    count += 1;
                    prop_assert!(count <= 5);
                }
                if count > 0 && house.pool.all_down() {
                    prop_assert!(was_down || house.now <= probed + SECOND * 2);
                }
            }
        }
    }

    #[test]
    fn whatever_was_held_against_an_endpoint_ends_by_itself_once_it_answers(
        troubles in prop::collection::vec((0_u8..3, 0_usize..4, 0_u64..3_000), 0..200),
    ) {
        let mut house = House::of(&["a", "a", "b", "c"]);
        for (what, endpoint, millis) in troubles {
            match what {
                0 => house.fails(endpoint, 1),
                1 => house.outdone(endpoint),
                _ => house.answers(endpoint, millis),
            }
            house.run(Duration::from_millis(millis));
        }

        house.run(SECOND * 400);

        let well = house.pool.health().all(|health| health.failures == 0 && health.loss <= 20);
        prop_assert!(well, "{:?}", house.pool.health().collect::<Vec<_>>());
        prop_assert!(house.reasons().iter().all(|reason| {
            matches!(reason, Reason::Best | Reason::Turn | Reason::Next)
        }), "{:?}", house.pool.health().collect::<Vec<_>>());
    }

    #[test]
    fn no_operator_is_asked_first_more_often_than_seven_times_in_eight_while_another_is_as_good(
        latencies in prop::collection::vec(1_u64..40, 4),
    ) {
        let mut house = House::of(&["a", "a", "b", "c"]);
        house.latency = latencies.into_iter().map(Some).collect();
        house.run(SECOND * 10);
        let plan = house.pool.plan();
        let mut firsts = BTreeMap::<&str, u32>::new();
        for turn in 0..10_000 {
            let first = plan.order_at(turn).next().unwrap();
            *firsts.entry(&first.operator).or_default() += 1;
        }

        prop_assert!(firsts.len() == 3 && firsts.values().all(|count| *count <= 8750), "{:?}", firsts);
    }
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A pool, and what its endpoints do when they are probed.
struct House {
    pool: Pool,
    now: Instant,
    /// How long each takes to answer, in milliseconds; `None`: for ever.
    latency: Vec<Option<u64>>,
    probes: Vec<(Instant, EndpointId)>,
    pending: BTreeMap<(Instant, usize), (EndpointId, Outcome)>,
}

impl House {
    fn of(operators: &[&'static str]) -> Self {
        Self::with(&operators.iter().map(|operator| (*operator, false)).collect::<Vec<_>>())
    }

    /// Of operators, and whether over IPv6.
    #[expect(clippy::disallowed_methods, reason = "test code")]
    fn with(endpoints: &[(&str, bool)]) -> Self {
        let endpoint = |(index, (operator, ipv6)): (usize, &(&str, bool))| {
            let last = u8::try_from(index).unwrap();
            let v4 = std::net::Ipv4Addr::new(192, 0, 2, last);
            Endpoint {
                name: format!("dns.{operator}.test"),
                operator: (*operator).to_owned(),
                address: if *ipv6 {
                    (v4.to_ipv6_compatible(), 853).into()
                } else {
                    (v4, 853).into()
                },
            }
        };
        Self {
            pool: Pool::new(endpoints.iter().enumerate().map(endpoint).collect()),
            now: Instant::now(),
            latency: (10..).take(endpoints.len()).map(Some).collect(),
            probes: Vec::new(),
            pending: BTreeMap::new(),
        }
    }

    fn answers(&mut self, endpoint: usize, millis: u64) {
        let latencies = vec![Duration::from_millis(millis)];
        self.pool.handle_outcome(EndpointId(endpoint), Outcome::Answered { latencies }, self.now);
    }

    fn fails(&mut self, endpoint: usize, times: u32) {
        for _ in 0..times {
            let failed = Outcome::Failed { began: self.now };
            self.pool.handle_outcome(EndpointId(endpoint), failed, self.now);
        }
    }

    fn outdone(&mut self, endpoint: usize) {
        self.pool.handle_outcome(EndpointId(endpoint), Outcome::Outdone, self.now);
    }

    /// Each answers in 10 ms to 30 ms, a few in more.
    fn scattered(&mut self, round: u64) {
        for endpoint in 0..self.latency.len() {
            let draw = (round * 7919 + endpoint as u64 * 104_729) % 1009;
            self.answers(endpoint, 10 + draw % 21 + if draw.is_multiple_of(16) { 60 } else { 0 });
            self.now += MS * 10;
        }
    }

    /// Lets time pass; probes have their outcomes after the latency, or 2 s of silence.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.run_until(span, |house| house.now >= end);
        self.now = end;
    }

    /// Lets time pass until `done`, or for `limit`.
    fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) {
        let end = self.now + limit;
        if self.probes.is_empty() {
            self.pool.handle_path_change(self.now);
        }
        while !done(self) {
            let timer = self.pool.poll_timeout().map(|(at, _)| at.max(self.now));
            let arrival = self.pending.keys().next().map(|(at, _)| *at);
            let Some(next) = [timer, arrival].into_iter().flatten().min() else { return };
            if next > end {
                return;
            }
            self.now = next;
            if arrival == Some(next) {
                let (_, (id, outcome)) = self.pending.pop_first().unwrap();
                self.pool.handle_outcome(id, outcome, self.now);
            }
            self.pool.handle_timeout(self.now);
            while let Some(id) = self.pool.poll_probe(self.now) {
                let (after, outcome) = match self.latency[id.0].map(Duration::from_millis) {
                    Some(latency) => (latency, Outcome::Answered { latencies: vec![latency] }),
                    None => (SECOND * 2, Outcome::Failed { began: self.now }),
                };
                self.probes.push((self.now, id));
                self.pending.insert((self.now + after, self.probes.len()), (id, outcome));
            }
        }
    }

    fn order(&self) -> Vec<usize> {
        self.pool.plan().order.iter().map(|candidate| candidate.id.0).collect()
    }

    fn states(&self) -> Vec<State> {
        self.pool.health().map(|health| health.state).collect()
    }

    fn reasons(&self) -> Vec<Reason> {
        self.pool.health().map(|health| health.reason).collect()
    }
}
