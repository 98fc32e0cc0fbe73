//! Time sources found under a name: only once the time is known, and replaced when they are of no use.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use firstlight::admin::report;
use lab::{Daemon, HOUR, Lab, Says, Setup, TimeSource, eventually};

const POOL: &str = "pool.home.lan";

#[test]
fn a_pool_is_asked_once_the_time_is_known_and_who_refuses_is_replaced() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    wan.sources.iter().for_each(|source| source.says(Says::Silent));
    let members = [(40, Says::Off(0)), (41, Says::Deny), (42, Says::Off(0))];
    let members = members.map(|(host, says)| TimeSource::start(&lab, host, says));
    // Number 10 is a source already and must not have two votes.
    let daemon = pool(setup, &[10, 40, 41, 42].map(|host| lab.address(host)));

    sleep(Duration::from_secs(3));
    assert_eq!(of_pool(&daemon), [], "names do not decide about a clock that was never set");

    wan.sources.iter().for_each(|source| source.says(Says::Off(0)));
    let settled = eventually(Duration::from_secs(40), || {
        let seen = of_pool(&daemon);
        let both = seen.len() == 2 && seen.iter().all(|it| it.verdict == "truechimer");
        both.then_some(seen)
    });
    let mut settled: Vec<_> = settled
        .unwrap_or_else(|| panic!("{:#?}\n{}", daemon.sources(), daemon.log()))
        .into_iter()
        .map(|source| source.address)
        .collect();
    settled.sort();
    assert_eq!(settled, [members[0].address.to_string(), members[2].address.to_string()]);
    let log = daemon.log();
    assert!(log.contains("a time source that refuses, is silent or wrong is let go"), "{log}");
}

#[test]
fn a_pool_that_lies_sets_nothing_and_unseats_nobody() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    let _liars = [40, 41].map(|host| TimeSource::start(&lab, host, Says::Off(HOUR)));
    let daemon = pool(setup, &[40, 41].map(|host| lab.address(host)));

    let named = eventually(Duration::from_secs(40), || {
        let seen = of_pool(&daemon);
        (seen.len() == 2 && seen.iter().all(|it| it.verdict == "falseticker")).then_some(())
    });
    assert!(named.is_some(), "{:#?}", daemon.sources());
    let status = daemon.status();
    assert!(status.time.ntp.synchronized && status.time.verified, "{status:?}");
    drop(wan);
}

/// The daemon with a pool of two places under a local name that has these addresses.
fn pool(setup: Setup<'_>, addresses: &[Ipv4Addr]) -> Daemon {
    let pool = format!("name = \"{POOL}\"\nport = 1123\ncount = 2");
    setup.name_of_many(POOL, addresses).pool(&pool).boot()
}

fn of_pool(daemon: &Daemon) -> Vec<report::Source> {
    let sources = daemon.sources().sources.into_iter();
    sources.filter(|source| source.pool.as_deref() == Some(POOL)).collect()
}
