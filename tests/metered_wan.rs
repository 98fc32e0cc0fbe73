//! 2018: the house failed over to a metered link, and background transfer ate what was paid for.
//!
//! The daemon is real, unbound its upstream; a file says when the link is metered, as a fail-over
//! script does it.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::fs;

use lab::clients::ask_udp;
use lab::{DAY, Lab, Resolver, needing};
use libtest_mimic::Arguments;

fn main() {
    let name = "on_the_spare_link_names_go_on_and_each_octet_is_accounted_for";
    libtest_mimic::run(&Arguments::from_args(), vec![needing("unbound", name, fail_over)]).exit();
}

fn fail_over() {
    let lab = Lab::new();
    let (setup, _wan) = lab.honest();
    let mut resolver = Resolver::new(&lab, 30, (-DAY, 89 * DAY));
    resolver.start();
    let flag = lab.path("metered");
    let metered = format!(
        "[metered]\nflag_file = \"{}\"\nbudget_bytes = 20000\n\n[[upstream]]",
        flag.display()
    );
    let setup = setup.upstream(&resolver, "good").replacing("[[upstream]]", &metered);
    let mut daemon = setup.boot();
    daemon.serves(&lab).unwrap();
    let asked = |number: u32| {
        let answer = ask_udp(lab.dns(), &format!("n{number}.lab.example.com"));
        assert_eq!(answer.unwrap().addresses, [resolver.answer], "question {number}");
    };
    asked(0);
    let status = daemon.wait_for("octets are counted", 10, |status| {
        status.uplink.day["names"] > 0
            && status.uplink.day["time"] > 0
            && status.uplink.day["witnesses"] > 0
    });
    assert_eq!(status.uplink.metered, None);
    assert_eq!(status.uplink.day_metered.values().sum::<u64>(), 0);

    fs::write(&flag, "").unwrap();
    let status =
        daemon.wait_for("the link counts as metered", 5, |status| status.uplink.metered.is_some());
    assert!(status.conditions.iter().any(|condition| condition.name == "metered"));
    let before = status.uplink.day_metered["names"];
    (1..=10).for_each(asked);
    let status = daemon.wait_for("the questions are accounted for", 5, |status| {
        status.uplink.day_metered["names"] > before
    });
    // A question and its answer over TLS, with headers, are some 500 octets.
    let each = (status.uplink.day_metered["names"] - before) / 10;
    assert!((300..2_000).contains(&each), "{each} octets a question");
    assert!(!status.conditions.iter().any(|condition| condition.name == "metered-budget"));

    (11..=60).for_each(asked);
    let status = daemon.wait_for("the budget is spent, and that is said", 5, |status| {
        status.conditions.iter().any(|condition| condition.name == "metered-budget")
    });
    asked(61);

    fs::remove_file(&flag).unwrap();
    let spent = status.uplink.day_metered["names"];
    let status = daemon
        .wait_for("the house is back on its own link", 5, |status| status.uplink.metered.is_none());
    assert!(!status.conditions.iter().any(|condition| condition.name == "metered"));
    let at_return = status.uplink.day_metered["names"];
    assert!(at_return >= spent);
    (62..=70).for_each(asked);
    let status = daemon.wait_for("what follows is counted", 5, |status| {
        status.uplink.day["names"] > at_return + 3_000
    });
    assert_eq!(status.uplink.day_metered["names"], at_return, "on a link that costs nothing");
}
