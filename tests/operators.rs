//! 2018: one operator failed, and with it every name. Five operators, of which one at a time fails
//! in each way that operators fail; then all of them.
//!
//! The daemon is real. Two operators are unbound and dnsdist, three answer in this process, over TLS,
//! HTTPS and QUIC, and do as they are told; the one that fails is the one that is asked first. The
//! figures are printed. The bounds of time hold for a release build, and [`SLOWER`] times as much for a
//! debug build that shares its cores with the operators. `FIRSTLIGHT_QUESTIONS` is how many are asked
//! while one fails, `FIRSTLIGHT_EVERY_US` the time between two; if the former is given, faults that are
//! the same to QUIC as to TLS are tried over both.
#![expect(clippy::unwrap_used, reason = "test code")]
#![expect(clippy::print_stdout, reason = "the figures")]

mod lab;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use lab::distance::Distance;
use lab::faulty::{Fault, Faulty, Over};
use lab::load::{Asked, Heard, ask_all, quantile};
use lab::{DAY, Daemon, LOCAL, Lab, Resolver, Wan, eventually, find, needing, now};
use libtest_mimic::Arguments;
use tokio::runtime::Runtime;

/// How many times as long everything may take in a debug build.
const SLOWER: u32 = if cfg!(debug_assertions) { 3 } else { 1 };
/// What one bad operator may add, to half of the answers and to 99 in 100.
const ADDED: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(300)];
/// What local and stale answers may take, 99 in 100, whoever is dead. Beside the operators, on the
/// cores of a debug build, it is the machine's scheduler that is measured.
const AT_HAND: Duration = Duration::from_millis(if cfg!(debug_assertions) { 100 } else { 5 });
/// When nobody answers, a client is told so by then.
const TOLD: Duration = Duration::from_millis(2500);
/// They measure, and sleep most of the time: one takes a tenth of two cores. The bounds of a release
/// build leave no room for others.
const AT_A_TIME: usize = if cfg!(debug_assertions) { 3 } else { 1 };
/// How far away the operators are of which all is well.
const AWAY: Duration = Duration::from_millis(8);
/// A failure that shows by nothing but silence is a failure after this time.
const SILENCE: Duration = Duration::from_secs(2);

fn main() {
    let need = if find("unbound").is_some() { "dnsdist" } else { "unbound" };
    let mut trials = vec![needing(need, "all_operators_dead", all_dead)];
    for transport in [Over::Dot, Over::Doh, Over::Doq] {
        for fault in Fault::ALL {
            let meaningless = match transport {
                Over::Dot => false,
                // DNS over HTTPS leaves ids alone (RFC 8484 section 4.1).
                Over::Doh => fault == Fault::WrongId,
                Over::Doq => !QUIC.contains(&fault) && questions().is_none(),
            };
            if !meaningless {
                let name = format!("one_operator_{fault:?}_over_{transport:?}").to_lowercase();
                trials.push(needing(need, &name, move || one_fails(fault, transport)));
            }
        }
    }
    let arguments = Arguments { test_threads: Some(AT_A_TIME), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials).exit();
}

/// What is unlike other transports over QUIC.
const QUIC: &[Fault] = &[
    Fault::Silent,
    Fault::Resets,
    Fault::Expired,
    Fault::WrongId,
    Fault::Closes,
    Fault::HalfOpen,
    Fault::Stalls,
];

/// How many are to be asked while one fails, if it is said.
fn questions() -> Option<u32> {
    std::env::var("FIRSTLIGHT_QUESTIONS").ok().map(|number| number.parse().unwrap())
}

/// Between two questions.
fn every() -> Duration {
    let said = std::env::var("FIRSTLIGHT_EVERY_US").ok();
    Duration::from_micros(said.map_or(10_000, |micros| micros.parse().unwrap()))
}

fn one_fails(fault: Fault, transport: Over) {
    let scene = Scene::new(transport);
    let questions = questions().unwrap_or(200);
    let mut healthy = waits(&scene.ask("healthy", (questions / 10).max(100)));
    let contacts = scene.own[0].contacts();

    scene.own[0].set(fault);
    let asked = scene.ask("faulty", questions);

    let contacts = scene.own[0].contacts() - contacts;
    let mut answers = scene.answers();
    if [Fault::Expired, Fault::WrongName, Fault::WrongId, Fault::WrongQuestion].contains(&fault) {
        // What it says is worth nothing.
        answers.remove(&scene.own[0].answer);
    }
    let good = |heard: &Heard| {
        let told = heard.code == ResponseCode::NoError
            && heard.address.is_some_and(|address| answers.contains(&address));
        // Only a signature could tell that it lies, and these names have none.
        told || fault == Fault::Nxdomain && heard.code == ResponseCode::NXDomain
    };
    let failures: Vec<_> =
        asked.iter().filter(|asked| !asked.heard.as_ref().is_some_and(good)).collect();
    let mut faulty = waits(&asked);
    let added = [0.5, 0.99]
        .map(|part| quantile(&mut faulty, part).saturating_sub(quantile(&mut healthy, part)));
    let mut at_first = asked.clone();
    at_first.retain(|asked| asked.after < SILENCE);
    println!(
        "  {fault:?} over {transport:?}: {} of {questions} failed, added p50 {:.1?}, p99 {:.1?}; \
         p50 at first {:.1?}, longest {:.1?}, healthy p50 {:.1?}, p99 {:.1?}; {contacts} contacts",
        failures.len(),
        added[0],
        added[1],
        quantile(&mut waits(&at_first), 0.5),
        quantile(&mut faulty, 1.0),
        quantile(&mut healthy, 0.5),
        quantile(&mut healthy, 0.99),
    );
    assert!(contacts > 0, "nobody asked the operator that fails");
    assert!(failures.is_empty(), "{failures:#?}\n{}", scene.daemon.log());
    for (added, most) in added.into_iter().zip(ADDED) {
        assert!(added <= most * SLOWER, "{added:?} added: {:#?}", scene.daemon.upstreams());
    }
}

/// Nobody answers: what is at hand is given out at once, and the rest is told what is wrong.
fn all_dead() {
    let scene = Scene::new(Over::Dot);
    let known = scene.ask("known", 200);
    // Only those of our own operators are outdated soon.
    let own: BTreeSet<_> = scene.own.iter().map(|operator| operator.answer).collect();
    let outdated: Vec<String> = known
        .into_iter()
        .filter(|asked| {
            asked.heard.as_ref().is_some_and(|heard| own.contains(&heard.address.unwrap()))
        })
        .map(|asked| asked.name)
        .collect();
    assert!(outdated.len() > 50, "{} names known", outdated.len());
    thread::sleep(Duration::from_millis(1500));

    scene.own.iter().for_each(|operator| operator.set(Fault::Silent));
    scene.ways.iter().for_each(|way| way.silence(true));
    let begin = now();
    for round in ["at first", "once it is known"] {
        let names: Vec<_> = (0..150)
            .flat_map(|number| {
                [
                    LOCAL.0.to_owned(),
                    outdated[number % outdated.len()].clone(),
                    format!("unknown{number}.{}.lab.example.com", round.len()),
                ]
            })
            .collect();
        let (asked, known) = thread::scope(|scope| {
            let asking = scope.spawn(|| ask_all(scene.lab.dns(), &names, every()));
            let dead =
                || scene.daemon.upstreams().iter().all(|upstream| upstream.state != "up").then(now);
            let known = eventually(Duration::from_secs(10), dead);
            (asking.join().unwrap(), known)
        });
        let known = known.unwrap_or_else(|| panic!("{:#?}", scene.daemon.upstreams()));
        let part =
            |first: usize| -> Vec<Asked> { asked.iter().skip(first).step_by(3).cloned().collect() };
        let (local, stale, unknown) = (part(0), part(1), part(2));
        let [mut for_local, mut for_stale, mut for_unknown] =
            [&local, &stale, &unknown].map(|asked| waits(asked));
        println!(
            "  all dead, {round}: local p99 {:.1?}; stale p50 {:.1?}, p99 {:.1?}, longest {:.1?}; \
             told of it p50 {:.1?}, longest {:.1?}",
            quantile(&mut for_local, 0.99),
            quantile(&mut for_stale, 0.5),
            quantile(&mut for_stale, 0.99),
            quantile(&mut for_stale, 1.0),
            quantile(&mut for_unknown, 0.5),
            quantile(&mut for_unknown, 1.0),
        );
        for asked in local.iter().chain(&stale) {
            let heard = asked.heard.as_ref().unwrap_or_else(|| panic!("{round}: {asked:?}"));
            assert_eq!(heard.code, ResponseCode::NoError, "{round}: {asked:?}");
        }
        for asked in &unknown {
            let heard = asked.heard.as_ref().unwrap_or_else(|| panic!("{round}: {asked:?}"));
            assert_eq!(heard.code, ResponseCode::ServFail, "{round}: {asked:?}");
            assert!(heard.error.is_some(), "{round}: {asked:?}");
        }
        assert!(quantile(&mut for_unknown, 1.0) <= TOLD + every() * SLOWER, "{round}");
        assert!(quantile(&mut for_local, 0.99) <= AT_HAND, "{round}");
        if round == "at first" {
            println!("  all known to be dead after {:.1?}", known - begin);
        } else {
            assert!(quantile(&mut for_stale, 0.99) <= AT_HAND, "{round}");
        }
    }
}

/// Five operators, and a daemon that knows the time and all of them.
struct Scene {
    daemon: Daemon,
    /// The first is the one that is asked first.
    own: Vec<Faulty>,
    resolvers: Vec<Resolver>,
    ways: Vec<Distance>,
    _wan: Wan,
    /// Holds sockets on addresses of the lab, which goes last: then another may have them.
    _runtime: Runtime,
    lab: Lab,
}

impl Scene {
    /// One in which the first is asked first. Which of two that are hardly different has that place depends on
    /// who was heard first, and it is not changed for a few milliseconds.
    fn new(first: Over) -> Self {
        for _ in 0..3 {
            let scene = Self::start(first);
            if scene.prefers_the_first() {
                return scene;
            }
        }
        panic!("another operator was preferred three times");
    }

    fn start(first: Over) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let lab = Lab::new();
        let others = match first {
            Over::Dot => [Over::Doh, Over::Doq],
            Over::Doh => [Over::Dot, Over::Doq],
            Over::Doq => [Over::Dot, Over::Doh],
        };
        let own: Vec<_> = [(30, first), (31, others[0]), (32, others[1])]
            .into_iter()
            .map(|(host, transport)| {
                // The first is nearest, for all that HTTP costs.
                let away = match transport {
                    _ if host > 30 => AWAY,
                    Over::Dot | Over::Doq => Duration::from_millis(6),
                    Over::Doh => Duration::from_millis(4),
                };
                Faulty::start(&lab, host, transport, away, runtime.handle())
            })
            .collect();
        let valid = (-DAY, 89 * DAY);
        let mut resolvers =
            vec![Resolver::new(&lab, 33, valid), Resolver::dnsdist(&lab, 34, valid)];
        let mut ways = Vec::new();
        for (resolver, host) in resolvers.iter_mut().zip(43..) {
            resolver.start();
            let (server, runtime) = (resolver.address, runtime.handle());
            ways.push(Distance::start(&lab, host, server, AWAY, runtime));
        }
        let (mut setup, wan) = lab.honest();
        for (operator, number) in own.iter().zip(0..) {
            let more = match operator.transport {
                Over::Dot => "",
                Over::Doh => "transport = \"doh\"\n",
                Over::Doq => "transport = \"doq\"\n",
            };
            let (name, address) = (&operator.name, operator.address);
            setup = setup.upstream_at(name, &format!("own{number}"), address, more);
        }
        for (resolver, way) in resolvers.iter().zip(&ways) {
            setup = setup.upstream_at(&resolver.name, &resolver.name, way.address, "");
        }
        let mut daemon = setup.without_rate().boot();
        daemon.serves(&lab).unwrap();
        daemon
            .wait_for("the time is known", 20, |status| status.time.certificate_dates == "strict");
        Self { daemon, own, resolvers, ways, _wan: wan, _runtime: runtime, lab }
    }

    fn prefers_the_first(&self) -> bool {
        let preferred = eventually(Duration::from_secs(15), || {
            self.ask(&format!("warm{}", rand::random::<u32>()), 100);
            let upstreams = self.daemon.upstreams();
            let first = upstreams.iter().find(|upstream| upstream.place == 1)?;
            // Until it is known how long answers take, all hedges are late.
            (first.name == self.own[0].name && first.hedge_after_ms < 100.0).then_some(())
        });
        preferred.is_some()
    }

    /// Asks for names that nobody has asked for before.
    fn ask(&self, names: &str, questions: u32) -> Vec<Asked> {
        let names: Vec<_> =
            (0..questions).map(|number| format!("n{number}.{names}.lab.example.com")).collect();
        ask_all(self.lab.dns(), &names, every())
    }

    /// What the operators answer.
    fn answers(&self) -> BTreeSet<Ipv4Addr> {
        let own = self.own.iter().map(|operator| operator.answer);
        own.chain(self.resolvers.iter().map(|resolver| resolver.answer)).collect()
    }
}

/// How long the answers took.
fn waits(asked: &[Asked]) -> Vec<Duration> {
    asked.iter().filter_map(|asked| Some(asked.heard.as_ref()?.took)).collect()
}
