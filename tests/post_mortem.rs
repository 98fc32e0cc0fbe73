//! The setup that the post-mortem of the power cut ended with, over real sockets: a GPS box of
//! one's own on the LAN, preferred and keyless, and three addresses of one operator beside it.
//!
//! Whatever the GPS box does, time is found, and local names are answered throughout. What takes
//! ten minutes (a floor that lies ahead) is played in virtual time here.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use firstlight::clock::{Level, SavedFloor, magnitude};
use firstlight::drill::{Setup as Virtual, World, years};
use lab::clients::{ask_ntp, ask_tcp, ask_udp};
use lab::{Daemon, HOUR, HttpsServer, LOCAL, Lab, Says, TimeSource, Wan, YEAR, now, truth};

#[test]
fn with_the_gps_box_hung_or_five_years_off_time_is_found() {
    let wrong = [Says::Frozen(truth().offset(-4 * HOUR)), Says::Off(5 * YEAR), Says::Off(-YEAR)];
    // Three sources of one operator are no quorum, though a witness agrees: that takes 20 s.
    thread::scope(|scope| {
        for says in wrong {
            scope.spawn(move || {
                let lab = Lab::new();
                let repaired = Repaired::new(&lab, "");
                repaired.gps.says(says);

                let daemon = Repaired::boots(&lab, "@0");

                finds_the_time(&lab, &daemon);
                assert_eq!(daemon.sources().sources[0].verdict, "falseticker", "{says:?}");
            });
        }
    });
}

#[test]
fn with_all_of_it_well_time_is_found_at_once() {
    let lab = Lab::new();
    let _repaired = Repaired::new(&lab, "");
    let begin = now();

    let daemon = Repaired::boots(&lab, "@0");

    finds_the_time(&lab, &daemon);
    assert!(now() - begin < Duration::from_secs(8));
}

#[test]
fn with_the_gps_box_alone_time_is_served_and_not_vouched_for() {
    let lab = Lab::new();
    let repaired = Repaired::new(&lab, "trust = true\n");
    repaired.wan.down();
    lab.keep_floor(truth().offset(-4 * HOUR));

    let daemon = Repaired::boots(&lab, "@0");

    let names = Names::watch(&lab);
    let status = daemon.wait_for("the box disciplines", 40, |status| status.time.ntp.synchronized);
    assert!(!status.time.verified);
    assert!(status.time.ntp.root_dispersion >= 1.0, "{:?}", status.time.ntp);
    let reply = ask_ntp(lab.ntp()).unwrap();
    assert!(reply.is_synchronized() && reply.off.abs() < 50_000_000, "{reply:?}");
    assert!(lab.kept_floor().unwrap() < truth().secs() - 3 * 3600, "nothing of it is kept");

    // The WAN returns.
    repaired.wan.up();
    daemon.wait_for("others vouch for it", 20, |status| status.time.verified);
    names.never_failed();
}

#[test]
fn a_clock_that_starts_five_years_ahead_is_set_back() {
    let lab = Lab::new();
    let _repaired = Repaired::new(&lab, "");

    let daemon = Repaired::boots(&lab, &truth().offset(5 * YEAR).to_string());

    finds_the_time(&lab, &daemon);
}

#[test]
fn a_certificate_of_our_own_from_five_years_ahead_is_no_time() {
    let lab = Lab::new();
    let repaired = Repaired::new(&lab, "");
    lab.authority.issue_files(&lab, "dns.home.lan", (5 * YEAR, 6 * YEAR));
    repaired.configure(&lab, "").certificate("dns.home.lan.pem", "dns.home.lan.key").write();

    // As it would start by itself: at the best guess, wherever the machine's clock stands.
    let mut daemon = Daemon::start(&lab, &[]);
    daemon.serves(&lab).unwrap();

    let guess = daemon.status().time.guess;
    assert_eq!(guess.origin, "our own certificate", "{guess:?}");
    finds_the_time(&lab, &daemon);
}

#[test]
fn a_floor_that_lies_five_years_ahead_is_lowered_after_ten_minutes() {
    for (saved, build) in [(years(5), 0), (0, years(5))] {
        for seed in 0..6 {
            let mut setup = repaired();
            let origin = setup.truth;
            setup.build = setup.build.offset(build);
            setup.saved = (saved > 0).then(|| SavedFloor {
                seconds: origin.offset(saved).secs(),
                overrides_build: false,
            });
            setup.guess = origin.offset(saved.max(build));
            let mut world = World::new(&setup, seed, now());

            let took = world.run_until(Duration::from_secs(660), |world| world.ntp().synchronized);

            let took = took.unwrap_or_else(|| panic!("{:#?}", world.timeline));
            assert!(took >= Duration::from_secs(600), "after {took:?}");
            assert!(world.trust().verified && world.trust().level == Level::Disciplined);
            assert!(magnitude(world.error()) < Duration::from_millis(100));
        }
    }
}

/// The repaired setup in virtual time.
fn repaired() -> Virtual {
    let mut setup = Virtual::power_cut();
    let public = ("operator", false, false);
    setup.sources = vec![("gps", true, false), public, public, public];
    setup
}

/// The GPS box, the three addresses of one operator, and the witnesses of two others.
struct Repaired {
    gps: TimeSource,
    wan: Wan,
}

impl Repaired {
    /// `more`: further keys of the GPS box.
    fn new(lab: &Lab, more: &str) -> Self {
        let source = |host| TimeSource::start(lab, host, Says::Off(0));
        let repaired = Self {
            gps: source(10),
            wan: Wan {
                sources: [11, 12, 13].map(source).into(),
                witnesses: [20, 21].map(|host| HttpsServer::start(lab, host)).into(),
            },
        };
        repaired.configure(lab, more).write();
        repaired
    }

    fn configure<'l>(&self, lab: &'l Lab, more: &str) -> lab::Setup<'l> {
        let gps = lab.configure().source(&self.gps, "own", &format!("prefer = true\n{more}"));
        let public =
            self.wan.sources.iter().fold(gps, |setup, source| setup.source(source, "operator", ""));
        let witnesses = self.wan.witnesses.iter().zip(["google", "quad9"]);
        witnesses.fold(public, |setup, (witness, operator)| setup.witness(witness, operator))
    }

    /// The daemon, with its clock at `start`, once local names are answered.
    fn boots(lab: &Lab, start: &str) -> Daemon {
        let mut daemon = Daemon::start(lab, &["--start", start]);
        daemon.serves(lab).unwrap();
        daemon
    }
}

/// Time is found and verified, NTP clients are never told a wrong one, and local names never fail.
fn finds_the_time(lab: &Lab, daemon: &Daemon) {
    let names = Names::watch(lab);
    daemon.wait_for("time is found and verified", 40, |status| {
        let reply = ask_ntp(lab.ntp()).unwrap();
        assert!(!reply.is_synchronized() || reply.off.abs() < 50_000_000, "{reply:?}");
        status.time.verified && status.time.ntp.synchronized
    });
    let reply = ask_ntp(lab.ntp()).unwrap();
    assert!(reply.is_synchronized() && reply.off.abs() < 50_000_000, "{reply:?}");
    names.never_failed();
}

/// Asks for a local name without pause.
struct Names {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<u32>,
}

impl Names {
    fn watch(lab: &Lab) -> Self {
        let (server, stop) = (lab.dns(), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut answered = 0;
            while !ended.load(Ordering::Relaxed) {
                for (way, ask) in [("UDP", ask_udp as fn(_, _) -> _), ("TCP", ask_tcp)] {
                    let begin = now();
                    let answer = ask(server, LOCAL.0).unwrap_or_else(|| {
                        let waited = now() - begin;
                        panic!("{way}: no answer in {waited:?}, after {answered} of them")
                    });
                    assert_eq!(answer.addresses, [LOCAL.1]);
                    answered += 1;
                }
                thread::sleep(Duration::from_millis(20));
            }
            answered
        });
        Self { stop, thread }
    }

    fn never_failed(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.thread.join().unwrap() > 0);
    }
}
