//! 2018: the house failed over to its second uplink, and names sat on sessions over the first.
//!
//! In a network of its own: whatever belongs to connections over the first uplink is lost from one
//! moment on without a word, while new ones come through, as when a router beyond the house changes
//! over. Then the same when the house itself sees its first link go down. The figures are printed.
#![expect(clippy::unwrap_used, reason = "test code")]
#![expect(clippy::print_stdout, reason = "the figures")]

mod lab;

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use lab::load::{Asked, ask_all};
use lab::namespace::{Line, plaintext, run_inside, shell, uplink};
use lab::{DAY, Lab, Resolver};

/// A first answer must have come over the second uplink by then, if nothing tells of the change,
const SILENTLY: Duration = Duration::from_millis(1500);
/// and if the kernel does.
const TOLD: Duration = Duration::from_millis(500);
/// How long all is well before: so that latencies are known, and the plan rests on them.
const BEFORE: Duration = Duration::from_secs(8);
/// How long it is watched.
const AFTER: Duration = Duration::from_secs(5);
/// Between two questions.
const EVERY: Duration = Duration::from_millis(20);

fn main() {
    run_inside(
        &["unshare", "ip", "nft", "ss", "unbound"],
        &[
            ("the_first_uplink_dies_and_nobody_says_so", || change_over(false, SILENTLY)),
            ("the_first_uplink_goes_down", || change_over(true, TOLD)),
        ],
    );
}

fn change_over(seen: bool, most: Duration) {
    let lab = Lab::new();
    let line = Line::new(&lab);
    uplink(1, 100);
    uplink(2, 200);
    let mut resolvers = [30, 31, 32].map(|host| Resolver::new(&lab, host, (-DAY, 89 * DAY)));
    resolvers.iter_mut().for_each(Resolver::start);
    let (mut setup, _wan) = lab.honest();
    for resolver in &resolvers {
        setup = setup.upstream(resolver, &resolver.name);
    }
    let mut daemon = setup.without_rate().boot();
    daemon.serves(&lab).unwrap();
    daemon.wait_for("the time is known", 20, |status| status.time.certificate_dates == "strict");

    let count = (BEFORE + AFTER).as_millis() / EVERY.as_millis();
    let names: Vec<_> =
        (0..count).map(|number| format!("n{number}.changes.lab.example.com")).collect();
    let places = resolvers.each_ref().map(|resolver| resolver.address);
    let asked = thread::scope(|scope| {
        let asking = scope.spawn(|| ask_all(lab.dns(), &names, EVERY));
        thread::sleep(BEFORE);
        assert!(line.silence_connections(&places) >= places.len(), "not all are asked");
        if seen {
            shell("ip link set up1 down");
        }
        asking.join().unwrap()
    });

    let died = BEFORE;
    let fresh = resolvers.each_ref().map(|resolver| resolver.answer);
    let (first, gap, lost) = figures(&asked, died, &fresh);
    println!(
        "  {}: first answer to a question asked after {first:.1?}, none for {gap:.1?}, {lost} lost",
        if seen { "link down" } else { "without an event" },
    );
    assert!(gap > EVERY * 3 / 2, "nothing was cut");
    assert!(first <= most, "{first:?}\n{}", daemon.log());
    assert_eq!(lost, 0, "{}", daemon.log());
    assert_eq!(plaintext(), 0, "packets to port 53");
}

/// When the first question asked past `died` was answered, counted from there; the longest time
/// without any answer; and how many questions had none.
fn figures(asked: &[Asked], died: Duration, fresh: &[Ipv4Addr]) -> (Duration, Duration, usize) {
    let came = |asked: &Asked| {
        let heard = asked.heard.as_ref()?;
        let good = heard.code == ResponseCode::NoError && fresh.contains(&heard.address?);
        good.then_some(asked.after + heard.took)
    };
    let lost = asked.iter().filter(|asked| came(asked).is_none()).count();
    // What took the rules their time to come into force is not over the second.
    let cut = died + Duration::from_millis(100);
    let first = asked.iter().filter(|asked| asked.after >= cut).filter_map(came).min().unwrap();
    let mut all: Vec<_> = asked.iter().filter_map(came).collect();
    all.sort_unstable();
    let gap = all.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap();
    (first.saturating_sub(died), gap, lost)
}
