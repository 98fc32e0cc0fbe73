//! Operators and uplinks that fail, in virtual time: what people are told, and how soon it heals.

use std::time::{Duration, Instant};

use firstlight::drill::{Setup, World};
use firstlight::health::Severity;

#[test]
fn one_operator_down_is_told_from_the_uplink_down() {
    let mut house = house(&["quad9", "cloudflare", "google"]);

    house.upstreams[0].up = false;
    house.run(MINUTE * 10);
    let (severity, text) = condition(&house, "operator-down").unwrap();
    assert_eq!(severity, Severity::Notice);
    assert!(text.contains("quad9 (1 address, last heard 1"), "{text}");
    assert!(text.contains("questions go to cloudflare, google meanwhile"), "{text}");
    assert_eq!(condition(&house, "wan-down"), None);

    // With one left, somebody should look at it by day.
    house.upstreams[1].up = false;
    house.run(MINUTE * 10);
    assert_eq!(condition(&house, "operator-down").unwrap().0, Severity::Warning);

    house.upstreams[2].up = false;
    house.run(MINUTE * 10);
    let (severity, text) = condition(&house, "wan-down").unwrap();
    assert_eq!(severity, Severity::Error);
    assert!(text.contains("3 addresses of quad9, cloudflare, google"), "{text}");
    assert!(text.contains("look at the modem"), "{text}");
    assert_eq!(condition(&house, "operator-down"), None);
    house.path_changes();
    assert!(condition(&house, "wan-down").is_some());

    house.upstreams.iter_mut().for_each(|upstream| upstream.up = true);
    house.run(Duration::from_secs(5));
    assert_eq!(condition(&house, "wan-down"), None);
    assert_eq!(condition(&house, "operator-down"), None);
}

#[test]
fn of_a_single_operator_nobody_can_tell_whether_it_is_the_uplink() {
    let mut house = house(&["quad9", "quad9"]);

    house.upstreams.iter_mut().for_each(|upstream| upstream.up = false);
    house.run(MINUTE * 10);

    let (_, text) = condition(&house, "wan-down").unwrap();
    assert!(text.contains("an [[upstream]] of another operator would tell"), "{text}");
}

#[test]
fn after_an_outage_of_any_length_names_are_back_within_two_seconds() {
    for outage in [10, 60, 150, 600, 6 * 3600].map(Duration::from_secs) {
        let mut house = house(&["quad9", "cloudflare", "google"]);
        house.upstreams.iter_mut().for_each(|upstream| upstream.up = false);
        house.ask_name();
        house.run(outage);
        assert!(house.node.pool().all_down(), "{outage:?}");

        house.upstreams.iter_mut().for_each(|upstream| upstream.up = true);
        let took = house.run_until(MINUTE, |house| !house.node.pool().all_down()).unwrap();

        assert!(took <= Duration::from_millis(2100), "{took:?} after {outage:?}");
        // Nothing of it is left.
        house.run(Duration::from_secs(5));
        let patience = house.ask_name().unwrap();
        assert!(patience < Duration::from_millis(100), "{patience:?} after {outage:?}");
    }
}

#[test]
fn an_operator_that_fails_costs_clients_a_hedge_at_most_and_soon_nothing() {
    let mut house = house(&["quad9", "cloudflare", "google"]);
    house.upstreams[0].up = false;
    let mut waits = Vec::new();
    for _ in 0..200 {
        waits.push(house.ask_name().unwrap());
        house.run(Duration::from_millis(100));
    }

    assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(300)), "{waits:?}");
    assert!(waits[40..].iter().all(|wait| *wait <= Duration::from_millis(35)), "{waits:?}");
}

const MINUTE: Duration = Duration::from_secs(60);

/// A house that has been well for an hour.
#[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
fn house(operators: &[&'static str]) -> World {
    let setup = Setup { upstreams: operators.to_vec(), ..Setup::power_cut() };
    let mut house = World::new(&setup, 1, Instant::now());
    house.run(MINUTE * 60);
    assert!(house.broken.is_empty(), "{:?}", house.broken);
    house
}

fn condition(house: &World, name: &str) -> Option<(Severity, String)> {
    let conditions = house.node.health().conditions();
    let found = conditions.into_iter().find(|condition| condition.name == name);
    found.map(|condition| (condition.severity, condition.text.clone()))
}
