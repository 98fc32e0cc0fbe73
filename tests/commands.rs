//! The commands against a scripted daemon, and without one.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use firstlight::admin::{self, BoxFuture, Control, Health, Policy, Reason, Request, Response};
use firstlight::clock::SavedFloor;
use firstlight::host::state::StateDir;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

#[test]
fn without_a_daemon_the_commands_say_so_and_exit_with_3() {
    let folder = Folder::fresh();

    for command in [
        "status",
        "sources",
        "tracking",
        "clients",
        "upstreams",
        "certs",
        "health",
        "reload",
        "cache",
        "flush",
    ] {
        let (code, out, err) = folder.run(&[command]);

        assert_eq!((code, out.as_str()), (3, ""), "{command}");
        assert!(err.contains("control.sock: is firstlight running?"), "{command}: {err}");
    }
}

#[test]
fn status_is_told_in_words_or_as_the_daemon_gave_it() {
    let daemon = Daemon::start(|_| Response::Ok(status("disciplined", true)));

    let (code, words, err) = daemon.folder.run(&["status"]);
    let (json_code, json, _) = daemon.folder.run(&["status", "--json"]);

    assert_eq!((code, json_code, err.as_str()), (0, 0, ""));
    assert!(words.contains("2026-03-14T06:11:40Z by our clock, disciplined\n"), "{words}");
    assert!(words.ends_with("Nothing is wrong.\n"), "{words}");
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), status("disciplined", true));
    assert_eq!(*daemon.asked.lock().unwrap(), [Request::Status, Request::Status]);
}

#[test]
fn sources_say_in_words_by_what_they_are_protected_when_asked_for_more() {
    let daemon = Daemon::start(|_| {
        let source = |address: &str, cookies: Value, key: Value| {
            json!({
                "address": address, "operator": "op", "verdict": "truechimer", "prefer": false,
                "trust": false, "nts_cookies": cookies, "key": key, "stratum": 2, "poll": 16.0,
                "reach": 255, "age": 3.0, "offset": 0.0, "error": 0.01, "failure": null,
            })
        };
        let sources = [
            source("192.0.2.1:123", json!(7), Value::Null),
            source("192.0.2.2:123", json!(0), Value::Null),
            source("192.0.2.3:123", Value::Null, json!(4)),
            source("192.0.2.4:123", Value::Null, Value::Null),
        ];
        Response::Ok(json!({ "sources": sources, "witnesses": [] }))
    });

    let (_, short, _) = daemon.folder.run(&["sources"]);
    let (code, long, err) = daemon.folder.run(&["sources", "-v"]);

    assert_eq!((code, err.as_str()), (0, ""));
    assert!(!short.contains("NTS"), "{short}");
    let (_, protection) = long.rsplit_once("\n\n").unwrap();
    assert_eq!(
        protection,
        "Source     Protected by\n\
         192.0.2.1  NTS, 7 cookies\n\
         192.0.2.2  NTS, no cookie: keys have to be exchanged first\n\
         192.0.2.3  key 4\n"
    );
}

#[test]
fn health_is_an_exit_code_and_a_line_with_the_reason() {
    let daemon = Daemon::start(|request| {
        let healthy = *request != Request::Health { kind: Health::Clock };
        let reason = if healthy { "fine" } else { "the clock was never set" };
        Response::Ok(json!({ "healthy": healthy, "reason": reason }))
    });

    let dns = daemon.folder.run(&["health", "dns"]);
    let clock = daemon.folder.run(&["health", "clock"]);
    let all = daemon.folder.run(&["health"]);

    assert_eq!(dns, (0, "dns: well: fine\n".to_owned(), String::new()));
    assert_eq!(clock.0, 1);
    assert_eq!(clock.1, "clock: NOT WELL: the clock was never set\n");
    assert_eq!((all.0, all.1.lines().count()), (1, 4), "{}", all.1);
}

#[test]
fn wait_clock_waits_for_the_daemon_and_then_for_the_clock() {
    let folder = Folder::fresh();
    let mut waiting = folder.command(&["wait-clock", "--timeout", "30"]).spawn().unwrap();
    let mut lines = BufReader::new(waiting.stderr.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    let absent = line();
    let round = AtomicU32::new(0);

    let daemon = Daemon::start_in(folder, move |_| {
        let level = if round.fetch_add(1, Ordering::Relaxed) == 0 { "cold" } else { "disciplined" };
        Response::Ok(status(level, false))
    });
    let cold = line();
    let code = waiting.wait().unwrap().code();
    let mut out = String::new();
    waiting.stdout.unwrap().read_to_string(&mut out).unwrap();

    assert!(absent.starts_with("waiting: no daemon listens on "), "{absent}");
    assert_eq!(cold, "waiting: cold: the time is not known yet; names are served all the same");
    assert_eq!(code, Some(0));
    assert!(out.starts_with("the time is right, after "), "{out}");
    let (code, _, err) = daemon.folder.run(&["wait-clock", "--verified", "--timeout", "0"]);
    assert_eq!(code, 1);
    assert!(err.contains("disciplined, but no witnesses have confirmed it"), "{err}");
}

#[test]
fn the_floor_of_a_running_daemon_is_set_by_the_daemon() {
    let daemon = Daemon::start(|request| {
        let asked = *request == Request::Status;
        Response::Ok(if asked { status("cold", false) } else { Value::Null })
    });

    let (code, out, _) = daemon.folder.run(&["floor", "--set", "@1773468700"]);

    assert_eq!(code, 0);
    let line = "  floor  2026-03-14T02:00:00Z  authenticated time kept on disk\n";
    assert_eq!(out.matches(line).count(), 2, "{out}");
    let set = Request::SetFloor { seconds: 1_773_468_700 };
    assert_eq!(*daemon.asked.lock().unwrap(), [Request::Status, set, Request::Status]);
    assert!(!daemon.folder.state().exists());
}

#[test]
fn without_a_daemon_the_floor_is_set_on_disk_up_and_down() {
    let folder = Folder::fresh();

    let (looked, fresh, _) = folder.run(&["floor"]);
    assert_eq!(looked, 0);
    assert!(fresh.contains("  the release of this program\n"), "{fresh}");
    assert!(!folder.state().exists(), "a look leaves no traces");

    for time in ["2033-05-18T03:33:20Z", "2001-09-09T01:46:40Z"] {
        let (code, out, err) = folder.run(&["floor", "--set", time]);
        assert_eq!((code, err.as_str()), (0, ""));
        let (_, after) = out.split_once("and will start with\n").unwrap();
        assert!(after.starts_with(&format!("  floor  {time}  set by hand")), "{out}");
        let (_, shown, _) = folder.run(&["floor"]);
        assert!(shown.contains(&format!("  floor  {time}  set by hand")), "{shown}");
    }

    let (state, failure) = StateDir::open(folder.state());
    assert!(failure.is_none());
    let kept = SavedFloor { seconds: 1_000_000_000, overrides_build: true };
    assert_eq!(state.read_json("floor").unwrap(), Some(kept));
    fs::write(folder.state().join("floor"), "rubbish").unwrap();
    let (code, out, err) = folder.run(&["floor"]);
    assert_eq!(code, 0);
    assert!(out.contains("  the release of this program\n"), "{out}");
    assert!(err.contains("floor.bad"), "{err}");
}

#[test]
fn what_the_daemon_did_is_told_and_what_it_refuses_too() {
    let daemon = Daemon::start(|request| match request {
        Request::Reload => Response::Ok(json!("the configuration is unchanged")),
        Request::Flush { name: Some(_), .. } => Response::Ok(json!({ "flushed": 3 })),
        Request::Flush { name: None, .. } => Response::refused(Reason::Denied, "user 7 may not"),
        Request::Cache { .. }
        | Request::Health { .. }
        | Request::SetFloor { .. }
        | Request::Certs
        | Request::Clients
        | Request::Devices
        | Request::Figures
        | Request::Rehearse
        | Request::Renew
        | Request::Sources
        | Request::Tracking
        | Request::Status
        | Request::Upstreams => Response::refused(Reason::Failed, "it is on fire"),
    });
    let run = |arguments: &[&str]| daemon.folder.run(arguments);

    assert_eq!(run(&["reload"]).1, "the configuration is unchanged\n");
    assert_eq!(run(&["flush", "Example.NET."]).1, "flushed: 3\n");
    assert_eq!(run(&["flush", "--subtree", "example.net"]).1, "flushed: 3\n");
    assert_eq!(run(&["flush"]), (4, String::new(), "error: user 7 may not\n".to_owned()));
    assert_eq!(run(&["cache", "example.net"]).0, 1);
    let name = || "example.net".to_owned();
    assert_eq!(
        *daemon.asked.lock().unwrap(),
        [
            Request::Reload,
            Request::Flush { name: Some(name()), subtree: false },
            Request::Flush { name: Some(name()), subtree: true },
            Request::Flush { name: None, subtree: false },
            Request::Cache { name: Some(name()) },
        ]
    );
}

#[test]
fn a_rehearsal_and_a_renewal_are_waited_for_and_their_end_is_the_exit_code() {
    let round = AtomicU32::new(0);
    let daemon = Daemon::start(move |request| {
        if *request != Request::Certs {
            return Response::Ok(Value::Null);
        }
        // Under way, then ended; and well the second time.
        Response::Ok(match round.fetch_add(1, Ordering::Relaxed) {
            0 | 2 => certs("01", true, None, false),
            1 => certs("01", false, Some("no TXT record"), false),
            3..=5 => certs("01", false, None, true),
            _ => certs("02", false, None, true),
        })
    });
    let run = |arguments: &[&str]| daemon.folder.run(arguments);
    let text = |text: &str| text.to_owned();

    let failed = text("le: NOT WELL: no TXT record\n");
    assert_eq!(run(&["certs", "check"]), (1, failed, String::new()));
    let passed = text("le: well: an order would succeed\n");
    assert_eq!(run(&["certs", "check"]), (0, passed, String::new()));
    let renewed = text("a certificate is in service, serial 02\n");
    assert_eq!(run(&["certs", "renew", "--wait"]), (0, renewed, String::new()));
    assert_eq!(run(&["certs", "check", "--no-wait"]).0, 0);

    let asked = daemon.asked.lock().unwrap();
    let changes: Vec<_> = asked.iter().filter(|request| **request != Request::Certs).collect();
    assert_eq!(
        changes,
        [&Request::Rehearse, &Request::Rehearse, &Request::Renew, &Request::Rehearse]
    );
}

#[test]
fn who_may_change_nothing_may_have_nothing_ordered_and_still_look() {
    let daemon = Daemon::start_under(Folder::fresh(), Policy::decided_by(|_| false), |request| {
        assert!(!request.needs_privilege());
        Response::Ok(certs("01", false, None, true))
    });

    for arguments in [&["certs", "renew"][..], &["certs", "check"], &["certs", "renew", "--wait"]] {
        let (code, out, err) = daemon.folder.run(arguments);
        assert_eq!((code, out.as_str()), (4, ""), "{arguments:?}: {err}");
    }
    let (code, out, _) = daemon.folder.run(&["certs"]);
    assert_eq!(code, 0);
    assert!(out.contains("At le        rehearsed: the renewal would succeed\n"), "{out}");
}

#[test]
fn a_configuration_with_mistakes_does_not_hide_the_daemon_that_runs_without_it() {
    let folder = Folder::fresh();
    fs::write(folder.file(), "[control]\nsocket = 7\n").unwrap();

    // Whatever runs on this machine may answer, so only look.
    let (_, _, err) = folder.run(&["status"]);

    assert!(err.contains("firstlight.toml cannot be used (`firstlight check` says why)"), "{err}");
    assert!(err.contains("asking on /"), "{err}");
}

#[test]
fn a_reader_who_goes_away_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);

    let mut command = Command::new(env!("CARGO_BIN_EXE_firstlight"));
    let output = command.args(["drill", "--list"]).stdout(writer).output().unwrap();

    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

fn status(level: &str, verified: bool) -> Value {
    json!({
        "version": "0.1.0",
        "uptime": 60,
        "configuration": "built in",
        "time": {
            "utc": "2026-03-14T06:11:40Z",
            "level": level,
            "verified": verified,
            "mode": "observe",
            "steering_refused": null,
            "floor": { "time": "2026-03-14T02:00:00Z", "origin": "authenticated time kept on disk" },
            "guess": { "time": "2026-03-14T03:00:00Z", "origin": "the machine's clock" },
            "certificate_dates": "strict",
            "generation": 2,
            "ntp": {
                "synchronized": level == "disciplined",
                "stratum": 2,
                "root_delay": 0.01,
                "root_dispersion": 0.001,
                "answered": 0,
            },
            "frequency_ppm": 0.0,
            "engine_panics": 0,
        },
        "dns": {
            "plaintext": "serve",
            "local_names": 0,
            "counters": { "cached": 1 },
            "plaintext_exceptions": [],
        },
        "listeners": { "open": ["udp 127.0.0.1:5353"], "refused": [] },
        "certificate": null,
        "conditions": [],
    })
}

/// What is told of a certificate that is ordered of one authority.
fn certs(serial: &str, running: bool, failure: Option<&str>, passed: bool) -> Value {
    json!({
        "utc": "2026-03-14T06:11:40Z",
        "verified": true,
        "source": "acme",
        "certificate": null,
        "key": null,
        "name": "dns.example.org",
        "names": ["dns.example.org"],
        "issuer": "CN=E8",
        "serial": serial,
        "not_before": "2026-03-01T00:00:00Z",
        "not_after": "2026-05-30T00:00:00Z",
        "survives": 6_000_000,
        "renewal": "2026-04-23T00:00:00Z",
        "why": "by the schedule",
        "orders": {
            "serial": serial,
            "survives": 6_000_000,
            "survives_at_worst": 3_000_000,
            "due": "2026-04-23T00:00:00Z",
            "why": "by the schedule",
            "hold": null,
            "rehearsal": "2026-03-27T00:00:00Z",
            "running": null,
            "failures": 0,
            "last_failure": null,
            "authorities": [{
                "authority": "le",
                "staging": true,
                "running": running,
                "passed": passed,
                "failure": failure,
                "failures": 0,
            }],
        },
        "conditions": [],
    })
}

type Answer = dyn Fn(&Request) -> Response + Send + Sync;

/// A control socket that answers by a script, and what it was asked.
struct Daemon {
    asked: Arc<Mutex<Vec<Request>>>,
    folder: Folder,
    _runtime: Runtime,
}

impl Daemon {
    fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        Self::start_in(Folder::fresh(), answer)
    }

    fn start_in(
        folder: Folder,
        answer: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> Self {
        Self::start_under(folder, Policy::decided_by(|_| true), answer)
    }

    fn start_under(
        folder: Folder,
        policy: Policy,
        answer: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> Self {
        let runtime = Runtime::new().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script = Script { asked: Arc::clone(&asked), answer: Box::new(answer) };
        let listener = runtime.block_on(admin::bind(&folder.0.join("control.sock"))).unwrap();
        runtime.spawn(async move { admin::serve(listener, Arc::new(script), policy).await });
        Self { asked, folder, _runtime: runtime }
    }
}

struct Script {
    asked: Arc<Mutex<Vec<Request>>>,
    answer: Box<Answer>,
}

impl Control for Script {
    fn handle(&self, request: Request, _: bool) -> BoxFuture<'_, Response> {
        let response = (self.answer)(&request);
        self.asked.lock().unwrap().push(request);
        Box::pin(std::future::ready(response))
    }
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Script").finish_non_exhaustive()
    }
}

/// A folder with a configuration whose socket and state are below it, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn fresh() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("firstlight-commands-{}-{number}", std::process::id());
        let folder = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(&folder.0).unwrap();
        let text = "[control]\nsocket = \"control.sock\"\n[state]\ndirectory = \"state\"\n";
        fs::write(folder.file(), text).unwrap();
        folder
    }

    fn file(&self) -> PathBuf {
        self.0.join("firstlight.toml")
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstlight"));
        command.args(arguments).arg("--config").arg(self.file());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Exit code, standard output and standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |octets| String::from_utf8(octets).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
