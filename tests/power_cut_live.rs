//! The power cut of January 2025 over real sockets: unbound as resolvers over TLS, NTP servers,
//! HTTPS witnesses, and the daemon's clock in 1970. `power_cut.rs` plays it in virtual time.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::time::Duration;

use lab::clients::{Answer, ask_ntp, ask_udp};
use lab::relay::Relay;
use lab::{DAY, Daemon, HOUR, Lab, Resolver, Says, eventually, needing, truth};
use libtest_mimic::{Arguments, Trial};

fn main() {
    let trials = vec![
        needing(
            "unbound",
            "names_come_first_then_time_then_a_second_look_at_who_answered",
            power_cut,
        ),
        needing(
            "unbound",
            "an_upstream_that_turns_out_expired_answers_until_time_is_known",
            expiring,
        ),
        needing("unbound", "the_first_question_of_all_is_answered", first_question),
        needing("unbound", "tickets_of_the_relaxed_time_open_no_strict_connection", resumption),
        Trial::test("forged_ntp_sets_no_clock_and_darkens_nothing", || {
            forged();
            Ok(())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Valid since yesterday; and one that had expired when the power went, five hours ago.
fn power_cut() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    wan.down();
    let mut good = Resolver::new(&lab, 30, (-DAY, 89 * DAY));
    let mut gone = Resolver::new(&lab, 31, (-365 * DAY, -5 * HOUR));
    good.start();
    gone.start();
    lab.keep_floor(truth().offset(-4 * HOUR));

    let mut daemon = setup.upstream(&gone, "gone").upstream(&good, "good").boot();
    daemon.serves(&lab).unwrap();

    // Relaxed: the certificate is from yesterday, the clock in 1970.
    let answer = resolved(&lab, "first.lab.example.com").unwrap();
    assert_eq!(answer.addresses, [good.answer]);
    assert!(answer.ttl <= 60, "what is not certain is not kept for long: {answer:?}");
    let status = daemon.status();
    assert_eq!((status.time.level.as_str(), status.time.verified), ("cold", false));
    assert_eq!(status.time.certificate_dates, "rule-r");
    assert!(status.time.utc.starts_with("1970-"), "{}", status.time.utc);
    assert!(status.conditions.iter().any(|condition| condition.name == "dates-relaxed"));
    assert_eq!(ask_ntp(lab.ntp()).unwrap().leap, 3, "no time is told before it is known");
    refused(&lab, &daemon, &gone, &mut good);

    wan.up();
    let status = daemon.wait_for("time is found and verified", 15, |status| {
        status.time.verified && status.time.ntp.synchronized
    });
    assert_eq!(status.time.certificate_dates, "strict");
    assert!(!status.conditions.iter().any(|condition| condition.name == "dates-relaxed"));
    let reply = ask_ntp(lab.ntp()).unwrap();
    assert!(reply.is_synchronized() && reply.off.abs() < 50_000_000, "{reply:?}");

    // Judged again, the session has passed: its answers stay, and it goes on.
    assert!(!daemon.log().contains("closing"), "{}", daemon.log());
    assert_eq!(resolved(&lab, "first.lab.example.com").unwrap().addresses, [good.answer]);
    let after = resolved(&lab, "second.lab.example.com").unwrap();
    assert_eq!(after.addresses, [good.answer]);
    assert!(after.ttl > 60, "{after:?}");
    refused(&lab, &daemon, &gone, &mut good);
    assert!(
        eventually(Duration::from_secs(5), || {
            (lab.kept_floor()? >= truth().secs() - 60).then_some(())
        })
        .is_some()
    );
}

/// Whoever asks as soon as a socket answers waits for the upstream, and is not sent away.
fn first_question() {
    let lab = Lab::new();
    let mut resolver = Resolver::new(&lab, 30, (-DAY, 89 * DAY));
    resolver.start();
    let setup = lab.configure().upstream(&resolver, "good");

    for life in 0..10 {
        let mut daemon = setup.boot();
        let name = format!("life{life}.lab.example.com");
        // Without a pause: the moment that matters is over in a few milliseconds.
        let first = (0..2_000_000).find_map(|_| ask_udp(lab.dns(), &name));
        assert_eq!(first.unwrap().addresses, [resolver.answer], "{}", daemon.log());
        assert!(daemon.terminate().success());
    }
}

/// One whose certificate ran out while there was no power.
fn expiring() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    wan.down();
    let mut good = Resolver::new(&lab, 30, (-DAY, 89 * DAY));
    let mut late = Resolver::new(&lab, 31, (-365 * DAY, -HOUR));
    late.start();
    lab.keep_floor(truth().offset(-4 * HOUR));
    let mut daemon = setup.upstream(&late, "late").upstream(&good, "good").boot();
    daemon.serves(&lab).unwrap();

    // It may still be four hours ago, and nobody else answers.
    let names = ["a", "b", "c", "d"].map(|label| format!("{label}.lab.example.com"));
    for name in &names {
        assert_eq!(resolved(&lab, name).unwrap().addresses, [late.answer]);
    }
    assert_eq!(daemon.status().time.level, "cold");

    good.start();
    wan.up();
    daemon.wait_for("time is found and verified", 15, |status| {
        status.time.verified && status.time.ntp.synchronized
    });

    let log = daemon.log();
    let told = |line: &&str| line.contains("connection closed") && line.contains(&late.name);
    let [line] = log.lines().filter(told).collect::<Vec<_>>()[..] else {
        panic!("it is not told, or not once:\n{log}")
    };
    let date = truth().offset(-HOUR).to_string();
    assert!(line.contains(&date[..13]), "the line tells no dates: {line}");
    for name in &names {
        let answer = resolved(&lab, name).unwrap();
        assert_eq!(answer.addresses, [good.answer], "{name} is still what the expired one said");
    }
    refused(&lab, &daemon, &late, &mut good);
}

/// unbound gives tickets at every handshake; none of them may stand in for a certificate.
fn resumption() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    wan.down();
    let mut good = Resolver::new(&lab, 30, (-DAY, 89 * DAY));
    let mut late = Resolver::new(&lab, 31, (-365 * DAY, -HOUR));
    good.start();
    late.start();
    let to_good = Relay::start(&lab, 40, good.address);
    let to_late = Relay::start(&lab, 41, late.address);
    (good.address, late.address) = (to_good.address, to_late.address);
    lab.keep_floor(truth().offset(-4 * HOUR));
    let mut daemon = setup.upstream(&late, "late").upstream(&good, "good").boot();
    daemon.serves(&lab).unwrap();

    // Both have given tickets, and their connections break while the time is not known.
    for round in 0..3 {
        for label in ["a", "b", "c"] {
            resolved(&lab, &format!("{label}{round}.lab.example.com")).unwrap();
        }
        to_good.cut();
        to_late.cut();
    }
    assert_eq!(daemon.status().time.certificate_dates, "rule-r");
    let relaxed = [to_good.offers(), to_late.offers()].concat();
    assert!(relaxed.len() >= 4 && !relaxed.contains(&true), "a ticket was offered: {relaxed:?}");

    let before = [to_good.offers().len(), to_late.offers().len()];
    wan.up();
    daemon.wait_for("time is found and verified", 15, |status| {
        status.time.verified && status.time.certificate_dates == "strict"
    });
    good.stop();
    to_good.cut();
    for round in 0..5 {
        let answer = ask_udp(lab.dns(), &format!("strict{round}.lab.example.com")).unwrap();
        assert_eq!((answer.rcode, answer.addresses.len()), (2, 0), "round {round}: {answer:?}");
    }
    let strict = &to_late.offers()[before[1]..];
    assert!(!strict.is_empty() && !strict.contains(&true), "a ticket was offered: {strict:?}");

    // Strict trust may use the tickets that it was given itself: the wire would show them.
    good.address = to_good.server;
    good.start();
    for round in 0..4 {
        resolved(&lab, &format!("again{round}.lab.example.com")).unwrap();
        to_good.cut();
    }
    let offers = &to_good.offers()[before[0]..];
    assert!(offers.contains(&true), "no ticket is ever used: {offers:?}");
    assert!(!to_late.offers().contains(&true));
}

/// Every NTP answer is five years ahead; the witnesses tell the truth.
fn forged() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    wan.set(Says::Off(5 * lab::YEAR), true);
    let mut daemon = setup.boot();
    daemon.serves(&lab).unwrap();

    daemon.wait_for("the witnesses are believed", 30, |status| {
        assert!(!status.time.ntp.synchronized);
        status.time.verified
    });

    let reply = ask_ntp(lab.ntp()).unwrap();
    assert_eq!((reply.leap, reply.stratum), (3, 16));
    daemon.wait_for("the forgery is told", 5, |status| {
        status.conditions.iter().any(|condition| condition.name == "sources-contradicted")
    });
    let told = daemon.status().time.utc;
    assert_eq!(told[..15], truth().to_string()[..15], "right to ten minutes");
    assert!(daemon.sources().sources.iter().all(|source| source.verdict == "falseticker"));
}

/// Asks as a client does: again, if nothing came.
fn resolved(lab: &Lab, name: &str) -> Option<Answer> {
    eventually(Duration::from_secs(5), || {
        ask_udp(lab.dns(), name).filter(|answer| !answer.addresses.is_empty())
    })
}

/// Without the other, nothing is resolved: `resolver` is tried, and refused.
fn refused(lab: &Lab, daemon: &Daemon, resolver: &Resolver, other: &mut Resolver) {
    other.stop();
    for label in ["x", "y", "z"] {
        let name = format!("{label}{}.lab.example.com", rand::random::<u32>());
        let answer = ask_udp(lab.dns(), &name).unwrap();
        assert_eq!((answer.rcode, answer.addresses.len()), (2, 0), "{}", daemon.log());
    }
    let upstreams = daemon.upstreams();
    let seen = upstreams.iter().find(|upstream| upstream.name == resolver.name).unwrap();
    assert!(seen.failures > 0, "{upstreams:?}");
    other.start();
    let name = format!("back{}.lab.example.com", rand::random::<u32>());
    assert_eq!(resolved(lab, &name).unwrap().addresses, [other.answer]);
}
