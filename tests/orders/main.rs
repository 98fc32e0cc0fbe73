//! The daemon orders its certificate of a real CA and serves it: a whole life in seconds, and what
//! may come between.
#![expect(clippy::unwrap_used, reason = "test code")]

mod full;
mod killed;
#[path = "../lab/mod.rs"]
mod lab;
mod rig;
#[expect(dead_code, reason = "made for orders without a daemon")]
#[path = "../acme/world.rs"]
mod world;

use std::time::Duration;

use lab::{eventually, find, live_by_the_machine_s_clock, needing};
use libtest_mimic::Arguments;
use rig::Rig;

fn main() {
    live_by_the_machine_s_clock();
    let missing = ["knotd", "unbound", "curl"].into_iter().find(|program| find(program).is_none());
    let program = missing.unwrap_or("pebble");
    let trials = vec![
        needing(program, "a_whole_life_in_seconds_and_no_handshake_fails", whole_life),
        needing(program, "killed_at_each_step_it_goes_on_where_it_was", killed::at_each_step),
        full::mounting(needing(program, "renewals_need_no_space", full::before_a_renewal)),
        full::mounting(needing(program, "a_first_order_needs_no_space", full::from_the_very_start)),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn whole_life() {
    let rig = Rig::start(30);
    let daemon = rig.boot();
    let client = rig.watch(&daemon);

    // The first, and four renewals at the least.
    let lived =
        eventually(Duration::from_secs(120), || (client.serials().len() >= 5).then_some(()));
    assert!(lived.is_some(), "{:?}\n{}", client.serials(), daemon.log());

    // What is signed, but not encrypted, is said and counted.
    let plaintext = daemon.status().dns.plaintext_exceptions;
    assert!(plaintext[0].starts_with("updates to 127."), "{plaintext:?}");
    assert!(!plaintext[0].contains(", 0 so far"), "{plaintext:?}");

    let (shaken, failures) = client.stop();
    assert_eq!(failures, Vec::<String>::new(), "{}", daemon.log());
    assert!(shaken > 100, "{shaken}");
}
