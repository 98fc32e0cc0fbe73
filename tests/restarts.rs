//! The power goes at the worst moment, two hundred times: it starts every time, and what it knew
//! stays known. Restarts within one boot cost no time either.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use lab::clients::{NtpReply, ask_ntp, ask_udp};
use lab::{Daemon, LOCAL, Lab, eventually, needing, now, truth};
use libtest_mimic::{Arguments, Trial};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn main() {
    // It may be there, and not be allowed to look into other processes.
    let allowed = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    let barred = allowed.is_ok_and(|output| !output.status.success());
    let mut each_call =
        needing("strace", "a_kill_at_any_state_writing_call_costs_nothing", kills_at_each_call);
    if barred {
        each_call = each_call.with_kind("strace may not trace here").with_ignored_flag(true);
    }
    let trials = vec![
        Trial::test("two_hundred_kills_under_load_cost_nothing", || {
            two_hundred_kills();
            Ok(())
        }),
        each_call,
        Trial::test("a_restart_within_one_boot_goes_on_with_the_time_it_had", || {
            restarts_in_one_boot();
            Ok(())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A start takes no less, where nobody else works.
const SHORT: Duration = Duration::from_millis(75);
/// A start is over by then, however busy the machine.
const LONG: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

/// 200 `kill -9` at random moments, while a client asks.
fn two_hundred_kills() {
    let lab = Lab::new();
    let (setup, _wan) = lab.honest();
    disciplined_once(&lab, &setup.boot());
    let load = Load::start(&lab);
    let mut random = StdRng::seed_from_u64(20_250_118);
    let first = kept_floor(&lab);
    let mut floor = first;

    // How long a start takes here, which is far longer where others work: lives end around that.
    let mut start = SHORT;
    for life in 0..200 {
        let begin = now();
        let mut daemon = Daemon::start(&lab, &[]);
        if life % 20 == 0 {
            daemon.serves(&lab).unwrap();
            start = (now() - begin).clamp(SHORT, SHORT * 10);
        }
        thread::sleep(start.mul_f64(random.random_range(0.4..2.0)));
        assert_eq!(daemon.ended(Duration::ZERO), None, "life {life}: {}", daemon.log());
        daemon.kill();

        let kept = kept_floor(&lab);
        assert!(kept >= floor, "life {life}: the floor went back from {floor} to {kept}");
        floor = kept;
        assert_eq!(set_aside(&lab), [""; 0], "life {life}");
    }

    assert!(floor > first, "no life was long enough to write the floor");
    let answered = load.stop();
    assert!(answered > 200, "only {answered} answers: the lives were too short to mean anything");
    in_order(&lab);
}

/// One kill at each call that writes state.
fn kills_at_each_call() {
    let lab = Lab::new();
    let (setup, _wan) = lab.honest();
    disciplined_once(&lab, &setup.boot());
    let mut floor = kept_floor(&lab);

    let files = ["state/floor", "state/config", "state/fallback-ca", "run/time"];
    let unfinished = |file: &str| {
        let (folder, name) = file.split_once('/').unwrap();
        format!("{folder}/.{name}.tmp")
    };
    let on_file = ["openat", "write", "fsync", "rename"].map(|call| (call, 1));
    let mut moments: Vec<_> = files
        .iter()
        .flat_map(|file| on_file.map(|(call, nth)| (unfinished(file), call, nth)))
        .collect();
    // The folder is tried at each start.
    moments.extend(["openat", "write", "unlink"].map(|call| ("state/probe".to_owned(), call, 1)));
    // The flush after a rename; strace counts by thread.
    moments.extend(["state", "run"].map(|folder| (folder.to_owned(), "fsync", 1)));

    for (path, call, nth) in moments {
        // Made again at each start, so that its writing can be interrupted.
        for file in ["state/config", "state/fallback-ca"] {
            drop(fs::remove_file(lab.path(file)));
        }
        let moment = format!("{call} {nth} of {path}");

        let mut daemon = killed_at(&lab, &path, call, nth);
        let ended = daemon.ended(LONG);
        assert!(ended.is_some_and(|status| !status.success()), "{moment}: {ended:?}");
        drop(daemon);
        let kept = kept_floor(&lab);
        assert!(kept >= floor, "{moment}: the floor went back from {floor} to {kept}");
        floor = kept;

        let mut daemon = Daemon::start(&lab, &[]);
        daemon.serves(&lab).unwrap();
        assert_eq!(set_aside(&lab), [""; 0], "{moment}");
        let knows = usable(&lab, first_reply(&lab)).is_some();
        assert!(knows || path == "run/.time.tmp", "{moment}: {}", daemon.log());
        // The first answer may be a moment old: the signal is obeyed all the same.
        assert!(daemon.terminate().success(), "{moment}: {}", daemon.log());
        in_order(&lab);
    }
}

/// Starts the daemon under strace, which kills it at the `nth` such call on `path`.
fn killed_at(lab: &Lab, path: &str, call: &str, nth: u32) -> Daemon {
    let path = lab.path(path).display().to_string();
    // `rename` is `renameat` on some machines.
    let (trace, inject) =
        (format!("trace=/^{call}"), format!("inject=/^{call}:signal=SIGKILL:when={nth}"));
    let strace =
        ["strace", "-f", "-qqq", "-o", "/dev/null", "-P", &path, "-e", &trace, "-e", &inject];
    Daemon::start_under(lab, &strace, &[])
}

/// 20 restarts and 20 `kill -9`: NTP clients and upstreams see none of it.
fn restarts_in_one_boot() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    let mut daemon = setup.boot();
    disciplined_once(&lab, &daemon);
    // What is known must come from the disk, and from nobody else.
    wan.down();

    for round in 0..40 {
        if round % 2 == 0 {
            assert!(daemon.terminate().success());
        } else {
            daemon.kill();
        }
        drop(daemon);
        daemon = Daemon::start(&lab, &[]);

        let first = first_reply(&lab);
        assert_eq!(daemon.status().time.certificate_dates, "strict", "round {round}");
        let reply = usable(&lab, first);
        let reply = reply.unwrap_or_else(|| panic!("round {round}: {}", daemon.log()));
        assert!(reply.off.abs() < 20_000_000, "round {round}: {} ns off", reply.off);
        assert!(reply.root_dispersion < 1.0, "round {round}: {reply:?}");
        assert!(!daemon.log().contains("RuleR"), "{}", daemon.log());
    }
}

/// What the daemon says of the time first; as soon as its port is open, which is a moment before it is
/// known what it may say.
fn first_reply(lab: &Lab) -> NtpReply {
    eventually(LONG, || ask_ntp(lab.ntp())).expect("no answer by NTP")
}

/// `first`, or a later reply, that a client may use; within a second.
fn usable(lab: &Lab, first: NtpReply) -> Option<NtpReply> {
    if first.is_synchronized() {
        return Some(first);
    }
    eventually(SECOND, || ask_ntp(lab.ntp()).filter(NtpReply::is_synchronized))
}

/// Waits until the clock is disciplined, verified, and all of it kept.
fn disciplined_once(lab: &Lab, daemon: &Daemon) {
    daemon.wait_for("time is disciplined and verified", 20, |status| {
        status.time.verified && status.time.level == "disciplined"
    });
    let kept = || {
        let time = fs::read_to_string(lab.path("run/time")).ok()?;
        (time.contains("\"verified\":true") && lab.path("state/floor").exists()).then_some(())
    };
    eventually(Duration::from_secs(20), kept).unwrap();
}

/// The floor on disk, read without the daemon's code: any two versions of it differ by their length
/// or their checksum, and half of one is none.
fn kept_floor(lab: &Lab) -> i64 {
    let text = fs::read_to_string(lab.path("state/floor")).unwrap();
    let (_, value) = text.split_once('\n').unwrap();
    let floor = serde_json::from_str::<serde_json::Value>(value).unwrap()["seconds"].as_i64();
    assert!(floor.unwrap() <= truth().secs() + 1, "{text}");
    floor.unwrap()
}

fn set_aside(lab: &Lab) -> Vec<String> {
    let names = [lab.names_in("state"), lab.names_in("run")].concat();
    names.into_iter().filter(|name| Path::new(name).extension() == Some("bad".as_ref())).collect()
}

/// Nothing is lost, and nothing left over, once the daemon has started and stopped.
fn in_order(lab: &Lab) {
    let mut daemon = Daemon::start(lab, &[]);
    daemon.serves(lab).unwrap();
    assert!(daemon.terminate().success(), "{}", daemon.log());
    assert_eq!(
        lab.names_in("state"),
        ["config", "fallback-ca", "fallback-ca.pem", "floor", "nts-cookies"]
    );
    let run = lab.names_in("run");
    assert_eq!(run.iter().filter(|name| *name != "control.sock").collect::<Vec<_>>(), ["time"]);
}

/// A client that never stops asking.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Load {
    fn start(lab: &Lab) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (server, ended, count) = (lab.dns(), Arc::clone(&stop), Arc::clone(&answered));
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                // While nobody listens, the loopback refuses at once.
                if ask_udp(server, LOCAL.0).is_some() {
                    count.fetch_add(1, Ordering::Relaxed);
                } else {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self { stop, answered, thread }
    }

    /// How many answers it had.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.answered.load(Ordering::Relaxed)
    }
}
