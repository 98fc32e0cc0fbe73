//! Certificates through outages, faulty CAs and wrong clocks, in virtual time.
//!
//! `docs/certificates.md` holds the table that `tables_are_those_of_the_documentation` makes.
#![expect(clippy::unwrap_used, reason = "test code")]

mod tables;
mod world;

use std::time::Duration;

use firstlight::cert::{CaId, Hold, Kind, Why};
use firstlight::clock::{Nanos, UnixTime, magnitude, nanos};
use firstlight::health::Severity;
use world::{DAY, HOUR, MINUTE, Mood, NOON, SECOND, World};

const UNREACHABLE: Mood = Mood::Fails(Kind::Unreachable, false, Duration::from_secs(30));
/// From the true time to 1970.
const TO_1970: Nanos = UnixTime::EPOCH.since(NOON);

#[test]
fn a_boot_in_1970_with_a_certificate_renews_it_at_its_time_once_the_clock_is_right() {
    let mut world = World::unverified(1, DAY * 45, DAY * 10, 1, TO_1970);
    // rustls-acme reckons once, by the clock of this moment, how long to sleep on the monotonic
    // clock: until a third of the life is left.
    let held = world.machine.in_service().unwrap();
    let third = held.not_after.since(held.not_before) / 3;
    let sleep = held.not_after.offset(-third).since(world.now().utc);
    let due = world.machine.next(world.now()).unwrap();
    assert_eq!((due.why, due.hold), (Why::Schedule, Some(Hold::Unverified)));
    world.run(HOUR * 5);
    assert!(world.orders.is_empty());
    assert!(world.raised.iter().all(|(name, severity, _)| {
        (*name, *severity) == ("certificate-unjudged", Severity::Notice)
    }));

    world.set_right();
    world.run(DAY * 30);

    let (at, order) = world.orders.iter().find(|(_, order)| !order.staging).unwrap();
    assert_eq!(order.why, Why::Schedule);
    let late = (NOON + *at).since(due.due);
    assert!(late >= 0 && late < nanos(SECOND), "{late}");
    assert_eq!(world.served.len(), 1);
    // It was renewed 17 days after the boot, with more than a third of its life left; the sleep
    // would have lasted 56 years.
    assert!(*at < DAY * 18 && magnitude(sleep) > DAY * 365 * 50, "{at:?}, {sleep} ns");
}

#[test]
fn a_boot_in_1970_after_the_renewal_was_due_renews_as_soon_as_the_clock_is_right() {
    for age in [DAY * 28, DAY * 44, DAY * 46] {
        let mut world = World::unverified(1, DAY * 45, age, 1, TO_1970);
        world.run(HOUR);
        assert!(world.orders.is_empty());

        world.set_right();
        world.run(MINUTE);

        assert_eq!(world.orders.len(), 1);
        assert_eq!(world.served.len(), 1);
    }
}

#[test]
fn a_clock_twenty_years_ahead_and_not_verified_orders_nothing_and_judges_nothing() {
    let mut world = World::unverified(1, DAY * 45, DAY * 10, 1, nanos(DAY * 7305));
    world.run(DAY * 16);

    assert!(world.orders.is_empty());
    let told = [Severity::Notice, Severity::Warning];
    let unjudged = told.map(|severity| ("certificate-unjudged", severity));
    let raised: Vec<_> =
        world.raised.iter().map(|(name, severity, _)| (*name, *severity)).collect();
    assert_eq!(raised, unjudged);
    assert_eq!(world.machine.endurance(world.now()), None);

    world.set_right();
    world.run(DAY * 2);
    assert_eq!(world.served.len(), 1);
}

#[test]
fn a_clock_twenty_years_ahead_that_passes_for_verified_makes_no_storm() {
    let mut world = World::unverified(1, DAY * 45, DAY * 10, 1, nanos(DAY * 7305));
    let first = world.machine.in_service().cloned();
    world.verify(true);
    world.run(DAY * 30);
    for _ in 0..100 {
        world.reboot(nanos(DAY * 7305));
        world.verify(true);
        world.run(HOUR);
    }

    assert_eq!(world.machine.in_service().cloned(), first);
    assert!(world.raised.iter().any(|(name, ..)| *name == "certificate-clock"));
    assert!(world.most_orders(DAY * 7).1 <= 4, "{:?}", world.most_orders(DAY * 7));

    // What such a clock wrote down does not bar the way once it is right.
    world.reboot(TO_1970);
    world.set_right();
    assert!(world.run_until(DAY * 7 + HOUR, |world| world.served.len() == 1));
}

/// The renewal was left to a hand, the hand was needed elsewhere, and then the network was gone.
#[test]
fn lobsters_a_renewal_that_fails_for_weeks_is_told_in_time_and_catches_up_by_itself() {
    // Nobody is at home for the last month of a certificate's life; its DNS provider has withdrawn
    // the token the challenge needs, soon after the last renewal.
    let mut world = World::new(7, DAY * 90, Duration::ZERO, 1);
    world.run(DAY * 20);
    world.everybody(Mood::Fails(Kind::Validation, true, SECOND * 40));
    world.run(DAY * 62);

    // The rehearsal failed 63 days before the end, the renewal 37 days before.
    let raised = |name: &str| world.raised.iter().find(|(of, ..)| *of == name).unwrap();
    assert!(raised("certificate-rehearsal").2 >= DAY * 62);
    assert!(raised("certificate-overdue").2 >= DAY * 34);
    assert_eq!(world.served.len(), 0);

    // Then the uplink is lost for three days, a week before the end, and the token is put right.
    world.everybody(UNREACHABLE);
    world.run(HOUR * 72);
    world.path_returns(true);
    assert!(world.run_until(MINUTE * 6, |world| world.served.len() == 1));
    assert!(world.least >= DAY * 4, "{:?}", world.least);
    world.run(HOUR);
    assert!(world.machine.alarms(world.now()).is_empty());
}

#[test]
fn a_faulty_ca_sees_few_orders_for_weeks_and_is_found_well_within_a_wait() {
    for (name, mood, all, accepted, back) in faults() {
        let mut world = World::new(3, DAY * 90, DAY * 52, 1);
        world.everybody(mood);
        world.run(DAY * 23);
        let (tries, orders) = world.most_orders(DAY);
        assert!(tries <= all && orders <= accepted, "{name}: {tries}, {orders}");
        assert!(world.orders.len() > 21, "{name} is given up");

        let served = world.served.len();
        world.everybody(Mood::Well);

        let found = world.run_until(back, |world| world.served.len() > served);
        assert!(found, "{name} is not back after {back:?}");
    }
}

/// A fault, the most tries and the most orders at the CA itself in a day, and the longest wait
/// after its end.
pub(crate) fn faults() -> [(&'static str, Mood, usize, usize, Duration); 9] {
    let fails = |kind, accepted| Mood::Fails(kind, accepted, SECOND * 5);
    let limited = |wait| fails(Kind::RateLimited { retry_after: Some(wait) }, false);
    let ladder = MINUTE * 73;
    [
        ("no answer", UNREACHABLE, 32, 32, ladder),
        ("5xx", fails(Kind::Server, false), 32, 32, ladder),
        ("orders accepted, then nothing", Mood::Stalls, 20, 20, HOUR * 2 + MINUTE * 16),
        ("orders accepted, then 5xx", fails(Kind::Server, true), 20, 20, HOUR * 2 + MINUTE),
        ("rate limited for 6 h", limited(HOUR * 6), 5, 5, HOUR * 6 + MINUTE * 6),
        ("validation fails", fails(Kind::Validation, true), 9, 6, HOUR * 8),
        ("no nonce is taken", fails(Kind::BadNonce, false), 40, 40, ladder),
        ("account unknown", fails(Kind::AccountUnknown, false), 34, 34, ladder),
        ("nonsense", fails(Kind::Garbage, false), 32, 32, ladder),
    ]
}

#[test]
fn a_link_that_comes_and_goes_each_minute_makes_no_storm() {
    let mut world = World::new(3, DAY * 90, DAY * 52, 1);
    world.everybody(UNREACHABLE);
    world.run(DAY * 2);
    for _ in 0..60 * 24 * 3 {
        world.run(MINUTE);
        world.machine.handle_path_change(world.now());
    }

    let (tries, _) = world.most_orders(DAY);
    assert!(tries <= 48 * 6, "{tries}");
    world.path_returns(true);
    assert!(world.run_until(MINUTE * 35, |world| !world.served.is_empty()));
}

#[test]
fn a_restart_each_minute_beside_a_faulty_ca_makes_no_storm() {
    for mood in [
        Mood::Fails(Kind::Validation, true, SECOND * 10),
        Mood::Fails(Kind::Server, true, SECOND * 10),
        Mood::Fails(Kind::RateLimited { retry_after: Some(DAY) }, false, SECOND * 10),
    ] {
        let mut world = World::new(3, DAY * 90, DAY * 52, 1);
        world.everybody(mood);
        world.run(DAY * 2);
        for _ in 0..60 * 24 * 2 {
            world.run(SECOND * 55);
            world.reboot(0);
            world.run(SECOND * 5);
            world.set_right();
        }

        let (_, orders) = world.most_orders(DAY);
        assert!(orders <= 20, "{mood:?}: {orders}");
    }
}

#[test]
fn a_second_ca_steps_in_after_a_day_and_the_first_is_asked_again_the_next_time() {
    let mut world = World::new(5, DAY * 45, DAY * 25, 2);
    world.moods[0] = Mood::Fails(Kind::Server, false, SECOND);
    world.run(DAY * 10);
    assert_eq!(world.served.len(), 1);
    let (at, held) = &world.served[0];
    assert_eq!(held.ca.as_deref(), Some("ca1"));
    let first = world.orders.iter().find(|(_, order)| !order.staging).unwrap().0;
    assert!(*at >= first + DAY && *at <= first + DAY + HOUR * 2);

    world.everybody(Mood::Well);
    world.run(DAY * 30);
    let (_, order) = world.orders.iter().rev().find(|(_, order)| !order.staging).unwrap();
    assert_eq!((order.ca, &order.replaces), (CaId(0), &None));
}

#[test]
fn years_of_certificates_are_renewed_each_at_its_time_and_raise_nothing() {
    for life in [HOUR * 160, DAY * 45, DAY * 64, DAY * 90] {
        let mut world = World::new(9, life, Duration::ZERO, 2);
        world.run(DAY * 730);

        assert_eq!(world.raised, []);
        let spare = world.machine.policy().spare(world.machine.in_service().unwrap());
        assert!(world.least + SECOND * 30 >= spare, "{:?}", world.least);
        let days = magnitude(world.utc().since(NOON)).as_secs() / 86_400;
        let renewals = u64::try_from(world.served.len()).unwrap();
        let wait = life.saturating_sub(spare);
        assert!(renewals * wait.as_secs() / 86_400 <= days * 104 / 100, "{renewals}");
        let rehearsals = world.orders.iter().filter(|(_, order)| order.staging).count();
        assert!(rehearsals >= 2 * (world.served.len() - 1));
    }
}
