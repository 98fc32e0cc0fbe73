//! The daemon orders its certificate of a real CA and serves it: a whole life in seconds, and what
//! may come between.
#![expect(clippy::unwrap_used, reason = "test code")]

mod by_hand;
mod full;
mod killed;
#[path = "../lab/mod.rs"]
mod lab;
mod outside;
mod publishers;
mod quiet;
mod reload;
mod rig;
mod second_ca;
#[expect(dead_code, reason = "made for orders without a daemon")]
#[path = "../acme/world.rs"]
mod world;

use std::process::Command;
use std::time::Duration;

use firstlight::admin::Request;
use firstlight::admin::report::Figures;
use lab::{eventually, find, live_by_the_machine_s_clock, needing};
use libtest_mimic::{Arguments, Trial};
use nix::unistd::geteuid;
use rig::Rig;

fn main() {
    live_by_the_machine_s_clock();
    let missing = ["knotd", "unbound", "curl"].into_iter().find(|program| find(program).is_none());
    let program = missing.unwrap_or("pebble");
    let told = missing.or(find("pebble").map(|_| "pebble-challtestsrv")).unwrap_or("pebble");
    let trials: Vec<Trial> = vec![
        needing(program, "a_whole_life_in_seconds_and_no_handshake_fails", whole_life),
        tracing(program, "the_system_s_resolver_has_no_part_in_orders", quiet::orders),
        needing(told, "a_hook_publishes_by_the_configuration", publishers::hook),
        needing(told, "acme_dns_publishes_by_the_configuration", publishers::acme_dns),
        needing(told, "a_handshake_shows_a_name_while_doh_goes_on", publishers::tls_alpn),
        needing(program, "a_ca_for_customers_gets_the_binding", publishers::binding),
        needing(program, "the_second_ca_issues_where_the_first_is_dead", second_ca::takes_over),
        needing(program, "a_person_renews_and_rehearses", by_hand::renewal_and_rehearsal),
        needing(program, "another_configuration_costs_no_handshake", reload::sources),
        by_root("nobody_but_the_privileged_has_anything_ordered", by_hand::privilege),
        needing(program, "killed_at_each_step_it_goes_on_where_it_was", killed::at_each_step),
        full::mounting(needing(program, "renewals_need_no_space", full::before_a_renewal)),
        full::mounting(needing(program, "a_first_order_needs_no_space", full::from_the_very_start)),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A trial that needs strace besides `program`, and leave to trace.
fn tracing(program: &'static str, name: &str, test: fn()) -> Trial {
    let program = if find(program).is_some() { "strace" } else { program };
    let trial = needing(program, name, test);
    let allowed = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if allowed.is_ok_and(|output| !output.status.success()) {
        return trial.with_kind("strace may not trace here").with_ignored_flag(true);
    }
    trial
}

/// A trial for which the test must run as root.
fn by_root(name: &str, test: fn()) -> Trial {
    let root = geteuid().is_root();
    Trial::test(name, move || {
        test();
        Ok(())
    })
    .with_kind(if root { "" } else { "not run as root" })
    .with_ignored_flag(!root)
}

fn whole_life() {
    let rig = Rig::start(30);
    let daemon = rig.boot();
    let client = rig.watch(&daemon);

    // The first, and four renewals at the least.
    let lived =
        eventually(Duration::from_secs(120), || (client.serials().len() >= 5).then_some(()));
    assert!(lived.is_some(), "{:?}\n{}", client.serials(), daemon.log());

    let figures = daemon.call(&Request::Figures).unwrap();
    let figures: Figures = serde_json::from_value(figures).unwrap();
    let ended = figures.totals.orders.unwrap();
    assert!(ended.issued >= 4, "{ended:?}\n{}", daemon.log());

    // What is signed, but not encrypted, is said and counted.
    let plaintext = daemon.status().dns.plaintext_exceptions;
    assert!(plaintext[0].starts_with("updates to 127."), "{plaintext:?}");
    assert!(!plaintext[0].contains(", 0 so far"), "{plaintext:?}");

    let (shaken, failures) = client.stop();
    assert_eq!(failures, Vec::<String>::new(), "{}", daemon.log());
    assert!(shaken > 100, "{shaken}");
}
