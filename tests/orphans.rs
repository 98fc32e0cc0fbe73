//! Two boxes that have each other for a time source: blind, they do not agree on 1970; and when one of them
//! knows the time, the other has it from it and not the other way round.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::thread::sleep;
use std::time::Duration;

use firstlight::admin::report;
use lab::{Lab, Says, Setup};

#[test]
fn two_blind_boxes_do_not_agree_on_1970_and_follow_no_circle() {
    let (first, second) = (Lab::new(), Lab::new());
    let (setup, wan) = first.honest();
    wan.down();
    wan.sources.iter().for_each(|source| source.says(Says::Silent));
    let one = follow(setup, &second, "second").boot();
    let other = follow(second.configure(), &first, "first").boot();

    // Longer than anybody waits who takes a lone clock of his own.
    sleep(Duration::from_secs(25));
    for (daemon, peer) in [(&one, 3), (&other, 0)] {
        let status = daemon.status();
        assert_eq!((&*status.time.level, status.time.ntp.synchronized), ("cold", false));
        let seen = &daemon.sources().sources[peer];
        assert_eq!(seen.verdict, "silent", "{seen:?}");
        let why = seen.failure.as_deref().unwrap();
        assert!(why.contains("not synchronized"), "{why}");
    }

    wan.up();
    wan.sources.iter().for_each(|source| source.says(Says::Off(0)));
    let knows = one.wait_for("verified", 30, |status| status.time.verified && synchronized(status));
    let told = other.wait_for("told by the first", 60, synchronized);
    assert_eq!(told.time.ntp.stratum, knows.time.ntp.stratum + 1);
    assert!(!told.time.verified, "a neighbour is no witness");
    let shown = |status: &report::Status| status.time.utc.parse::<jiff::Timestamp>().unwrap();
    let apart = shown(&other.status()).as_second() - shown(&one.status()).as_second();
    assert!(apart.abs() <= 1, "{apart} s");

    // Whoever has its time from us has nothing to tell us.
    let circle = one.wait_for("the circle is seen", 40, |_| {
        let failure = one.sources().sources.remove(3).failure;
        failure.is_some_and(|why| why.contains("takes its time from this machine"))
    });
    assert_eq!(circle.time.ntp.stratum, 2);
}

/// `setup` with the daemon of `lab` for a clock of one's own.
fn follow<'l>(setup: Setup<'l>, lab: &Lab, operator: &str) -> Setup<'l> {
    let (ip, port) = (lab.ntp().ip(), lab.ntp().port());
    let keys =
        format!("address = \"{ip}\"\nport = {port}\noperator = \"{operator}\"\ntrust = true");
    setup.source_by(&keys)
}

fn synchronized(status: &report::Status) -> bool {
    status.time.ntp.synchronized
}
