//! The parts by themselves, and the machine under random inputs.

use std::time::Instant;

use proptest::prelude::*;

use super::guard::Guard;
use super::ladder::Ladder;
use super::lifecycle::{ORDER_PATIENCE, TICK};
use super::*;
use crate::clock::{CertDates, Level, Now, TimeTrust};
use crate::health::Severity;

#[test]
fn renewal_leaves_the_outage_to_survive_where_life_allows_it() {
    let policy = policy(1);
    let planned = |life| {
        let held = held("01", NOON, life);
        let wait = magnitude(policy.renew_at(&held).since(NOON));
        assert_eq!(policy.renew_at(&held), policy.renew_at(&held));
        (life.saturating_sub(policy.spare(&held)), wait)
    };

    for (life, expected) in [
        (HOUR * 160, HOUR * 60),
        (DAY * 45, DAY * 27),
        (DAY * 64, HOUR * 24 * 64 * 6 / 10),
        (DAY * 90, DAY * 54),
        (HOUR * 120, HOUR * 40),
        (Duration::from_secs(30), Duration::from_secs(10)),
        (Duration::ZERO, Duration::ZERO),
    ] {
        let (without_jitter, wait) = planned(life);
        assert_eq!(without_jitter, expected);
        assert!(wait <= expected && wait >= expected * 97 / 100, "{wait:?}");
    }
    // Nonsense is no reason to panic.
    planned(Duration::MAX);
}

#[test]
fn a_window_pulls_the_renewal_forward_and_never_puts_it_off() {
    let (mut machine, now) = machine(1);
    let held = held("01", now.utc, DAY * 45);
    let schedule = machine.policy().renew_at(&held);
    machine.handle_held(vec![held], now);
    let window = |from: Duration, to: Duration| Window {
        start: NOON + from,
        end: NOON + to,
        explanation: None,
    };

    machine.handle_window("01", window(DAY * 30, DAY * 31), None, now);
    assert_eq!(machine.next(now).map(|next| (next.due, next.why)), Some((schedule, Why::Schedule)));
    machine.handle_window("02", window(DAY, DAY * 2), None, now);
    assert_eq!(machine.next(now).unwrap().due, schedule);
    machine.handle_window("01", window(DAY * 2, DAY), None, now);
    assert_eq!(machine.next(now).unwrap().due, schedule);

    machine.handle_window("01", window(DAY, DAY * 2), None, now);
    let next = machine.next(now).unwrap();
    assert!(next.due >= NOON + DAY && next.due <= NOON + DAY * 2 && next.why == Why::Window);
    assert_eq!(machine.next(later(now, DAY)).unwrap().due, next.due);
    drain(&mut machine);
    machine.handle_timeout(later(now, DAY * 2));
    assert!(
        orders(&mut machine)
            .iter()
            .any(|order| { order.why == Why::Window && order.replaces.as_deref() == Some("01") })
    );
}

#[test]
fn a_certificate_covers_its_names_and_a_wildcard_one_label() {
    let mut held = held("01", NOON, DAY);
    held.names = vec!["Dns.Example.Org".to_owned(), "*.pi.example.org".to_owned()];

    for (name, covered) in [
        ("dns.example.org", true),
        ("one.PI.example.org", true),
        ("*.pi.example.org", true),
        ("pi.example.org", false),
        ("two.one.pi.example.org", false),
        ("example.org", false),
    ] {
        assert_eq!(held.covers(name), covered, "{name}");
    }
}

#[test]
fn what_is_served_has_the_names_and_was_issued_last_whatever_the_clock() {
    let (mut machine, now) = machine(1);
    let (old, young) = (held("01", NOON, DAY * 90), held("02", NOON + DAY, DAY * 7));
    let mut other = held("03", NOON + DAY * 2, DAY * 90);
    other.names = vec!["other.example.org".to_owned()];

    machine.handle_held(vec![old, other, young], now);

    assert_eq!(machine.in_service().unwrap().serial, "02");
    assert!(drain(&mut machine).contains(&Event::Serve("02".to_owned())));
    machine.handle_timeout(later(now, DAY * 3650));
    assert_eq!(machine.in_service().unwrap().serial, "02");
}

#[test]
fn a_certificate_of_others_that_is_not_replaced_is_told_weeks_ahead_by_a_verified_clock_alone() {
    let first_told = |life: Duration, verified: bool| {
        let mut now = Now { mono: start(), utc: NOON };
        let certificate = Held { ca: None, ..held("01", NOON, life) };
        let mut machine =
            Lifecycle::new(Policy { cas: Vec::new(), ..policy(1) }, vec![certificate], None, now);
        let mut told: Vec<(&str, Severity, u64)> = Vec::new();
        while now.utc < NOON + life + DAY {
            machine.handle_trust(trust(verified), now);
            for alarm in machine.alarms(now) {
                if !told.iter().any(|(name, ..)| *name == alarm.name) {
                    let left = magnitude((NOON + life).since(now.utc).max(0));
                    told.push((alarm.name, alarm.severity, left.as_secs() / 3600));
                }
            }
            now = later(now, HOUR);
        }
        assert!(!drain(&mut machine).iter().any(|event| matches!(event, Event::Order(_))));
        told
    };
    let expected = |overdue, expiring| {
        vec![
            ("certificate-overdue", Severity::Warning, overdue),
            ("certificate-expiring", Severity::Error, expiring),
            ("certificate-expired", Severity::Error, 0),
        ]
    };

    assert_eq!(first_told(DAY * 90, true), expected(27 * 24, 7 * 24 - 1));
    assert_eq!(first_told(DAY * 45, true), expected(12 * 24, 7 * 24 - 1));
    assert_eq!(first_told(DAY * 398, true), expected(27 * 24, 7 * 24 - 1));
    assert_eq!(first_told(HOUR * 160, true), expected(64, 39));
    let unverified = first_told(DAY * 90, false);
    assert_eq!(unverified, [("certificate-unjudged", Severity::Notice, 90 * 24)]);
}

#[test]
fn each_class_of_failure_has_its_own_pace_and_none_gives_up() {
    let minutes = |kind, tries: usize| {
        let (mut ladder, mut now) = (Ladder::default(), start());
        let mut waits = Vec::new();
        for salt in 0..tries {
            ladder.handle_failure(kind, 1, salt as u64, now);
            let ready = ladder.ready().unwrap_or(now);
            waits.push((ready - now).as_secs_f64() / 60.0);
            now = ready;
        }
        waits
    };
    let near = |waits: Vec<f64>, expected: &[f64], least: f64| {
        for (wait, expected) in waits.iter().zip(expected) {
            assert!(*wait >= expected * least && *wait <= expected * 1.2, "{waits:?}");
        }
    };

    let network = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0];
    for kind in [Kind::Unreachable, Kind::Server, Kind::Garbage] {
        near(minutes(kind, 9), &network, 0.8);
    }
    near(minutes(Kind::Validation, 7), &[15.0, 30.0, 60.0, 120.0, 360.0, 360.0, 360.0], 1.0);
    near(minutes(Kind::Refused, 3), &[1440.0; 3], 1.0);
    near(minutes(Kind::BadNonce, 8), &[0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 4.0], 0.8);
    near(minutes(Kind::AccountUnknown, 3), &[0.0, 1.0, 2.0], 0.8);
    near(minutes(Kind::InvalidProfile, 3), &[0.0, 1.0, 2.0], 0.8);
    near(minutes(Kind::AlreadyReplaced, 3), &[0.0, 1.0, 2.0], 0.8);
    let limited = |secs| Kind::RateLimited { retry_after: Some(Duration::from_secs(secs)) };
    near(minutes(limited(36_000), 2), &[600.0; 2], 1.0);
    let year = minutes(limited(31_557_600), 1)[0];
    assert!((10_080.0..10_086.0).contains(&year), "{year}");
    assert!(minutes(limited(0), 1)[0] >= 1.0);
    assert!(minutes(Kind::RateLimited { retry_after: None }, 1)[0] >= 60.0);
}

#[test]
fn what_cannot_be_done_here_is_tried_again_when_time_runs_out() {
    let (mut machine, mut now) = machine(1);
    machine.handle_held(vec![held("01", now.utc, HOUR)], now);
    let mut tried = Vec::new();
    while tried.len() < 7 {
        let order = next_order(&mut machine, &mut now);
        tried.push((magnitude(now.utc.since(NOON)).as_secs() / 60, machine.is_urgent(now)));
        now = later(now, Duration::from_secs(1));
        let failure = Failure { kind: Kind::Local, detail: String::new() };
        machine.handle_ending(order.id, false, Ending::Failed(failure), now);
    }

    // Due at 20 min at the latest, and with less than 20 min left there is no time to lose.
    let urgent = tried.iter().position(|(_, urgent)| *urgent).unwrap();
    assert_eq!(tried[urgent], (40, true), "{tried:?}");
    assert!(tried[0].0 <= 20 && tried[urgent - 1].0 < 40 && tried[urgent + 1].0 > 40, "{tried:?}");
}

#[test]
fn an_order_that_never_ends_is_given_up_and_its_late_certificate_is_taken() {
    let (mut machine, mut now) = machine(1);
    machine.handle_timeout(now);
    let order = orders(&mut machine).pop().unwrap();
    assert_eq!((order.why, order.replaces, order.register), (Why::Missing, None, false));

    now = later(now, ORDER_PATIENCE);
    machine.handle_timeout(now);
    assert!(matches!(machine.next(now).unwrap().hold, Some(Hold::Retry { .. })));
    let fresh = held("0a", now.utc, DAY * 45);
    machine.handle_ending(order.id, true, Ending::Issued(fresh.clone()), now);

    assert_eq!(machine.in_service(), Some(&fresh));
    assert_eq!(machine.next(now).unwrap().hold, None);
    // A report that comes twice counts once.
    machine.handle_ending(order.id, true, Ending::Issued(held("0b", now.utc, DAY)), now);
    assert_eq!(machine.in_service(), Some(&fresh));
}

#[test]
fn while_the_clock_is_not_verified_nothing_is_ordered_asked_or_judged() {
    let (mut machine, now) = machine(2);
    machine.handle_held(vec![held("01", NOON, DAY * 45)], now);
    drain(&mut machine);
    machine.handle_trust(trust(false), now);
    for days in [0, 20, 44, 60, 7300] {
        let now = later(now, DAY * days);
        machine.handle_timeout(now);

        assert_eq!(machine.handle_renew(now), Err(Hold::Unverified));
        assert_eq!(machine.handle_rehearse(now), Err(Hold::Unverified));
        assert_eq!(machine.endurance(now), None);
        assert_eq!(drain(&mut machine), []);
        let alarms = machine.alarms(now);
        assert_eq!(alarms.len(), 1);
        let severity = if days == 0 { Severity::Notice } else { Severity::Warning };
        assert_eq!((alarms[0].name, alarms[0].severity), ("certificate-unjudged", severity));
        assert!(alarms[0].text.contains("not judged: the clock is not verified"));
    }
}

#[test]
fn a_person_who_wants_a_renewal_gets_it_at_once_or_is_told_why_not() {
    let (mut machine, mut now) = machine(1);
    machine.handle_held(vec![held("00", NOON, DAY * 90)], now);
    for serial in ["01", "02", "03"] {
        now = later(now, HOUR);
        assert_eq!(machine.handle_renew(now), Ok(()));
        let order = orders(&mut machine).pop().unwrap();
        assert_eq!(order.why, Why::Asked);
        assert_eq!(machine.handle_renew(now), Err(Hold::Running));
        let fresh = held(serial, now.utc, DAY * 90);
        machine.handle_ending(order.id, true, Ending::Issued(fresh), now);
    }

    let Err(Hold::Guard { bound: Bound::Week, until }) = machine.handle_renew(now) else {
        panic!("a fourth certificate within a week");
    };
    assert_eq!(until, NOON + HOUR + DAY * 7);
    machine.handle_timeout(later(now, DAY));
    assert_eq!(orders(&mut machine), [], "the wish was not remembered");
    assert_eq!(machine.handle_renew(later(now, DAY * 7)), Ok(()));
}

#[test]
fn a_rehearsal_comes_half_way_to_the_renewal_and_its_failure_is_told() {
    let (mut machine, now) = machine(2);
    let certificate = held("01", now.utc, DAY * 90);
    let renewal = machine.policy().renew_at(&certificate).since(NOON);
    machine.handle_held(vec![certificate], now);
    let half = later(now, magnitude(renewal / 2) + Duration::from_secs(1));
    machine.handle_timeout(later(now, DAY * 20));
    assert_eq!(orders(&mut machine), []);

    machine.handle_timeout(half);
    let order = orders(&mut machine).pop().unwrap();
    assert!(order.staging && order.ca == CaId(0) && order.replaces.is_none());
    let failure = Failure { kind: Kind::Validation, detail: "no TXT record".to_owned() };
    machine.handle_ending(order.id, true, Ending::Failed(failure), half);

    let other = orders(&mut machine).pop().unwrap();
    assert!(other.staging && other.ca == CaId(1), "the other CA is rehearsed all the same");
    machine.handle_ending(other.id, true, Ending::Passed, half);
    let alarm = machine.alarms(half).pop().unwrap();
    assert_eq!((alarm.name, alarm.severity), ("certificate-rehearsal", Severity::Warning));
    assert!(alarm.text.contains("no TXT record"), "{}", alarm.text);

    assert_eq!(machine.handle_rehearse(half), Ok(()));
    for _ in 0..2 {
        let order = orders(&mut machine).pop().unwrap();
        machine.handle_ending(order.id, true, Ending::Passed, half);
    }
    assert_eq!(machine.alarms(half), []);
    machine.handle_timeout(later(half, DAY));
    assert_eq!(orders(&mut machine), []);
}

#[test]
fn a_person_sees_where_the_rehearsals_and_the_orders_stand() {
    let (mut machine, now) = machine(2);
    let mut two = policy(2);
    two.cas[1].staging = false;
    machine.handle_held(vec![held("01", now.utc, DAY * 90)], now);
    machine.handle_policy(two, now);
    let seen = |machine: &Lifecycle| {
        let seen = machine
            .rehearsals()
            .map(|it| (it.staging, it.running, it.passed, it.failure.is_some(), it.failures));
        <[_; 2]>::try_from(seen.collect::<Vec<_>>()).unwrap()
    };
    let without = (false, false, false, false, 0);
    assert_eq!(seen(&machine), [(true, false, false, false, 0), without]);

    assert_eq!(machine.handle_rehearse(now), Ok(()));
    assert_eq!(seen(&machine), [(true, true, false, false, 0), without]);
    assert!(machine.running().unwrap().staging);
    let order = orders(&mut machine).pop().unwrap();
    let failure = Failure { kind: Kind::Refused, detail: "CAA".to_owned() };
    machine.handle_ending(order.id, true, Ending::Failed(failure.clone()), now);
    assert_eq!(seen(&machine), [(true, false, false, true, 1), without]);
    let names: Vec<_> = machine.rehearsals().map(|it| (it.ca, it.failure)).collect();
    assert_eq!(names, [("ca0", Some(&failure)), ("ca1", None)]);
    assert_eq!(machine.failures(), (0, None), "it was no order");

    assert_eq!(machine.handle_rehearse(now), Ok(()));
    let order = orders(&mut machine).pop().unwrap();
    machine.handle_ending(order.id, true, Ending::Passed, now);
    assert_eq!(seen(&machine), [(true, false, true, false, 0), without]);

    assert_eq!(machine.handle_renew(now), Ok(()));
    assert!(!machine.running().unwrap().staging && !machine.rehearsals().any(|it| it.running));
    let order = orders(&mut machine).pop().unwrap();
    machine.handle_ending(order.id, true, Ending::Failed(failure), now);
    let told = (1, Some("ca0: the CA refuses to certify a name (CAA)"));
    assert_eq!((machine.running(), machine.failures()), (None, told));

    // It passed with the certificate before.
    machine.handle_held(vec![held("02", now.utc + HOUR, DAY * 90)], now);
    assert_eq!(seen(&machine), [(true, false, false, false, 0), without]);
}

#[test]
fn after_a_failed_validation_the_staging_directory_is_tried_before_the_ca() {
    let (mut machine, mut now) = machine(1);
    let invalid = || Failure { kind: Kind::Validation, detail: String::new() };
    machine.handle_timeout(now);
    let mut made = Vec::new();
    let script = [
        Ending::Failed(invalid()),
        Ending::Failed(invalid()),
        Ending::Failed(invalid()),
        Ending::Passed,
        Ending::Issued(held("01", NOON, DAY * 45)),
    ];
    for ending in script {
        let order = next_order(&mut machine, &mut now);
        made.push((order.staging, now.utc.since(NOON) / 60_000_000_000));
        machine.handle_ending(order.id, true, ending, now);
    }

    let (staging, minutes): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    assert_eq!(staging, [false, true, false, true, false]);
    assert_eq!(minutes[3], minutes[4]);
    assert!(minutes[3] >= 15 + 30 + 60, "{minutes:?}");
    assert_eq!(machine.in_service().unwrap().serial, "01");
}

#[test]
fn the_next_ca_is_asked_at_once_after_a_rate_limit_and_after_a_day_of_failures() {
    let fail = |kind| Ending::Failed(Failure { kind, detail: String::new() });
    let limited = Kind::RateLimited { retry_after: Some(DAY * 3) };
    let (mut machine, mut now) = machine(2);
    machine.handle_held(vec![held("00", NOON - DAY * 28, DAY * 45)], now);
    let order = next_order(&mut machine, &mut now);
    assert_eq!(order.ca, CaId(0));
    machine.handle_ending(order.id, false, fail(limited), now);
    let order = orders(&mut machine).pop().unwrap();
    assert_eq!((order.ca, order.replaces), (CaId(1), None));

    let (mut machine, mut now) = (self::machine(2).0, later(self::machine(2).1, HOUR));
    machine.handle_held(vec![held("00", NOON - DAY * 28, DAY * 45)], now);
    let begun = now.mono;
    loop {
        let order = next_order(&mut machine, &mut now);
        if order.ca == CaId(1) {
            break;
        }
        machine.handle_ending(order.id, false, fail(Kind::Server), now);
    }
    assert!(now.mono - begun >= DAY && now.mono - begun <= DAY + HOUR * 2);
}

#[test]
fn a_fresh_certificate_that_contradicts_the_clock_shuts_the_gate_and_displaces_nothing() {
    let (mut machine, mut now) = machine(1);
    now = later(now, DAY * 7300);
    let old = held("01", NOON - DAY, DAY * 45);
    machine.handle_held(vec![old.clone()], now);
    let order = next_order(&mut machine, &mut now);
    machine.handle_ending(order.id, true, Ending::Issued(held("02", NOON, DAY * 45)), now);

    assert_eq!(machine.in_service(), Some(&old));
    assert!(
        machine.alarms(now).iter().any(|alarm| {
            alarm.name == "certificate-clock" && alarm.severity == Severity::Error
        })
    );
    machine.handle_timeout(later(now, HOUR * 23));
    assert_eq!(orders(&mut machine), []);

    // The clock is set right, and witnesses say so.
    let right = Now { mono: now.mono + HOUR * 23, utc: NOON + HOUR };
    machine.handle_trust(TimeTrust { generation: 9, ..trust(true) }, right);
    assert_eq!(machine.alarms(right), []);
}

#[test]
fn what_is_saved_binds_the_next_process_and_a_clock_that_was_wrong_binds_it_not_for_long() {
    let (mut machine, mut now) = machine(1);
    machine.handle_held(vec![held("00", NOON - DAY * 28, DAY * 45)], now);
    let order = next_order(&mut machine, &mut now);
    let limited = Kind::RateLimited { retry_after: Some(DAY) };
    let failure = Failure { kind: limited, detail: "too many".to_owned() };
    machine.handle_ending(order.id, true, Ending::Failed(failure), now);
    let saved = machine.saved();
    assert!(drain(&mut machine).contains(&Event::Save));
    let text = serde_json::to_string(&saved).unwrap();
    assert_eq!(serde_json::from_str::<Saved>(&text).unwrap(), saved);

    let restart = |now: Now| {
        let held = vec![held("00", NOON - DAY * 28, DAY * 45)];
        let boot = Now { mono: now.mono, utc: UnixTime::EPOCH };
        let mut next = Lifecycle::new(policy(1), held, Some(saved.clone()), boot);
        assert_eq!(next.saved(), saved);
        next.handle_trust(trust(true), now);
        next
    };
    let soon = later(now, HOUR);
    assert!(matches!(restart(soon).next(soon).unwrap().hold, Some(Hold::Limited { .. })));
    assert_eq!(restart(soon).saved().accepted, saved.accepted);
    let late = later(now, DAY + HOUR);
    assert_eq!(orders(&mut restart(late)).len(), 1);

    // It was kept by a process whose clock ran twenty years ahead.
    let back = Now { mono: now.mono, utc: now.utc - DAY * 7300 };
    let mut next = restart(back);
    let due = Now { mono: now.mono + DAY * 8, utc: now.utc + DAY * 8 };
    next.handle_timeout(due);
    assert_eq!(orders(&mut next).len(), 1);
}

proptest! {
    #[test]
    fn the_guard_keeps_its_bounds_and_always_opens_again(
        steps in prop::collection::vec((0_u8..4, 0_u64..200_000, any::<bool>()), 1..200),
    ) {
        let (limits, mut guard, mut now) = (Limits::default(), Guard::default(), start());
        let (mut accepted, mut issued, mut invalid) = (Vec::new(), Vec::new(), Vec::new());
        for (what, secs, urgent) in steps {
            now += Duration::from_secs(if what == 3 { secs } else { secs % 600 });
            if let Some((until, _)) = guard.holds(&limits, "a", urgent, now) {
                prop_assert!(until > now && until <= now + DAY * 7);
                if what == 3 {
                    now = until;
                }
            }
            if guard.holds(&limits, "a", urgent, now).is_some() {
                continue;
            }
            guard.handle_accepted(NOON, now);
            accepted.push(now);
            if what == 0 {
                guard.handle_issued("a".to_owned(), NOON, now);
                issued.push(now);
            } else {
                guard.handle_invalid(NOON, now);
                invalid.push(now);
            }
        }
        prop_assert!(most_within(&accepted, DAY) <= 20);
        prop_assert!(most_within(&issued, DAY * 7) <= 4);
        prop_assert!(most_within(&invalid, HOUR) <= 4);
    }

    /// Whatever happens, in whatever order: nothing is ordered unverified, one order at a time, our
    /// bounds hold, what is served stays, and a CA that answers is heard again within its wait.
    #[test]
    fn no_input_makes_a_storm_an_order_by_an_unverified_clock_or_a_standstill(
        seed in any::<u64>(),
        steps in prop::collection::vec((0_u8..14, 0_u32..100_000), 1..300),
    ) {
        let (_, mut now) = machine(2);
        let mut machine =
            Lifecycle::new(Policy { seed, ..policy(2) }, Vec::new(), None, now);
        let (mut verified, mut running) = (false, None::<Order>);
        let (mut accepted, mut issued, mut serials) = (Vec::new(), Vec::new(), 0);
        for (what, number) in steps {
            let served = machine.in_service().cloned();
            let mut displaced = false;
            match what {
                0 => {
                    verified = number % 4 != 0;
                    machine.handle_trust(TimeTrust { generation: number.into(), ..trust(verified) }, now);
                }
                1 => {
                    // A step, by up to a century, grants no trust.
                    let by = i128::from(number) - 50_000;
                    now.utc = now.utc.offset(by * 32_000_000_000_000);
                    verified = false;
                    machine.handle_trust(TimeTrust { generation: number.into(), ..trust(false) }, now);
                }
                2 => machine.handle_path_change(now),
                3 => { let _ = machine.handle_renew(now); }
                4 => { let _ = machine.handle_rehearse(now); }
                5 => {
                    let serial = served.as_ref().map_or("", |held| &held.serial).to_owned();
                    let start = now.utc - Duration::from_secs(number.into());
                    let window = Window { start, end: start + DAY, explanation: None };
                    machine.handle_window(&serial, window, None, now);
                }
                6 | 7 => if let Some(order) = running.take() {
                    serials += 1;
                    let life = [HOUR * 160, DAY * 45, DAY * 90][number as usize % 3];
                    let fresh = held(&serials.to_string(), now.utc, life);
                    let ending = if order.staging { Ending::Passed } else { Ending::Issued(fresh) };
                    if !order.staging {
                        issued.push(now.mono);
                        accepted.push(now.mono);
                        displaced = true;
                    }
                    machine.handle_ending(order.id, true, ending, now);
                },
                8..=10 => if let Some(order) = running.take() {
                    let kind = kinds()[number as usize % kinds().len()];
                    let took = number % 2 == 0;
                    if took && !order.staging {
                        accepted.push(now.mono);
                    }
                    let failure = Failure { kind, detail: String::new() };
                    machine.handle_ending(order.id, took, Ending::Failed(failure), now);
                },
                _ => {
                    let span = Duration::from_secs(number.into());
                    let until = (now.mono + span).min(machine.poll_timeout().0.max(now.mono));
                    now = later(now, until - now.mono);
                    machine.handle_timeout(now);
                }
            }
            let under_way = machine.running.as_ref().map(|running| running.order.id);
            if let Some(order) = running.take_if(|order| under_way != Some(order.id)) {
                // Given up: it counts as accepted.
                if !order.staging {
                    accepted.push(now.mono);
                }
            }
            for event in drain(&mut machine) {
                if let Event::Order(order) = event {
                    prop_assert!(verified, "an order by an unverified clock");
                    prop_assert!(running.is_none(), "two orders at once");
                    running = Some(order);
                }
            }
            if !displaced {
                prop_assert_eq!(machine.in_service(), served.as_ref());
            }
            let (wake, _) = machine.poll_timeout();
            prop_assert!(wake <= now.mono + TICK);
            let _ = (machine.alarms(now), machine.next(now), machine.endurance(now));
            prop_assert!(machine.alarms(now).iter().all(|alarm| CONDITIONS.contains(&alarm.name)));
        }
        prop_assert!(most_within(&accepted, DAY) <= 20);
        prop_assert!(most_within(&issued, DAY * 7) <= 4);

        // The world is in order again, for longer than any CA or bound may make us wait.
        machine.handle_trust(TimeTrust { generation: 1_000_000, ..trust(true) }, now);
        let end = now.mono + DAY * 9;
        while now.mono < end {
            for event in drain(&mut machine) {
                if let Event::Order(order) = event { running = Some(order); }
            }
            if let Some(order) = running.take() {
                serials += 1;
                let fresh = held(&serials.to_string(), now.utc, DAY * 45);
                let ending = if order.staging { Ending::Passed } else { Ending::Issued(fresh) };
                machine.handle_ending(order.id, true, ending, now);
                continue;
            }
            let wake = machine.poll_timeout().0.max(now.mono);
            now = later(now, wake - now.mono);
            machine.handle_timeout(now);
        }
        let next = machine.next(now).unwrap();
        prop_assert!(next.due > now.utc, "{next:?}");
        prop_assert!(machine.alarms(now).iter().all(|alarm| alarm.severity < Severity::Error));
    }
}

const NOON: UnixTime = UnixTime::from_secs(1_773_489_600);

fn kinds() -> [Kind; 11] {
    [
        Kind::AccountUnknown,
        Kind::AlreadyReplaced,
        Kind::BadNonce,
        Kind::Garbage,
        Kind::InvalidProfile,
        Kind::RateLimited { retry_after: None },
        Kind::RateLimited { retry_after: Some(DAY * 400) },
        Kind::Refused,
        Kind::Server,
        Kind::Unreachable,
        Kind::Validation,
    ]
}

fn policy(cas: usize) -> Policy {
    let ca = |place| Ca { name: format!("ca{place}"), staging: true };
    Policy {
        names: vec!["dns.example.org".to_owned()],
        cas: (0..cas).map(ca).collect(),
        ..Policy::default()
    }
}

/// A machine without a certificate whose clock is verified, and its moment.
fn machine(cas: usize) -> (Lifecycle, Now) {
    let now = Now { mono: start(), utc: NOON };
    let mut machine = Lifecycle::new(policy(cas), Vec::new(), None, now);
    machine.verified = true;
    (machine, now)
}

fn held(serial: &str, not_before: UnixTime, life: Duration) -> Held {
    Held {
        serial: serial.to_owned(),
        names: vec!["dns.example.org".to_owned()],
        not_before,
        not_after: not_before + life,
        got: not_before,
        ca: Some("ca0".to_owned()),
    }
}

fn trust(verified: bool) -> TimeTrust {
    TimeTrust {
        level: if verified { Level::Disciplined } else { Level::Coarse },
        verified,
        generation: 0,
        floor: UnixTime::EPOCH,
        dates: CertDates::Strict,
    }
}

fn later(now: Now, by: Duration) -> Now {
    Now { mono: now.mono + by, utc: now.utc + by }
}

fn drain(machine: &mut Lifecycle) -> Vec<Event> {
    std::iter::from_fn(|| machine.poll_event()).collect()
}

fn orders(machine: &mut Lifecycle) -> Vec<Order> {
    let order = |event| if let Event::Order(order) = event { Some(order) } else { None };
    drain(machine).into_iter().filter_map(order).collect()
}

/// Lets time pass until an order is made.
fn next_order(machine: &mut Lifecycle, now: &mut Now) -> Order {
    loop {
        if let Some(order) = orders(machine).pop() {
            return order;
        }
        let wake = machine.poll_timeout().0.max(now.mono);
        *now = later(*now, wake - now.mono);
        machine.handle_timeout(*now);
    }
}

/// The most of `moments` that lie within any span of that length.
fn most_within(moments: &[Instant], span: Duration) -> usize {
    let from = |begin: Instant| {
        moments.iter().filter(move |at| **at >= begin && **at < begin + span).count()
    };
    moments.iter().map(|begin| from(*begin)).max().unwrap_or(0)
}

#[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
fn start() -> Instant {
    Instant::now()
}
