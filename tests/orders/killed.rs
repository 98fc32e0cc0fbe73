//! The daemon is killed at each step of an order, and the next one goes on with it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::{scope, sleep};
use std::time::Duration;

use firstlight::acme::Account;
use firstlight::acme::kept::Kept;
use firstlight::host::state::StateDir;
use rustls::ClientConfig;

use crate::lab::{Daemon, eventually, now};
use crate::rig::{NAME, Rig, shake_hands};

/// What a daemon does up to the account.
const REGISTERING: [Step; 4] = [
    Step::Kept("account-pebble"),
    Step::Kept("order-pebble"),
    Step::Said("POST /sign-me-up"),
    Step::Said("accounts in memory"),
];
/// What it does for each certificate, but for keeping it.
const ORDERING: [Step; 13] = [
    Step::Said("GET /dir"),
    Step::Said("HEAD /nonce-plz"),
    Step::Said("POST /order-plz"),
    Step::Said("Added order"),
    Step::Said("POST /authZ/"),
    Step::Published,
    Step::Said("POST /chalZ/"),
    Step::Said("set VALID"),
    Step::Said("POST /my-order/"),
    Step::Said("POST /finalize-order/"),
    Step::Said("Issued certificate"),
    Step::Said("POST /certZ/"),
    Step::Withdrawn,
];
/// From here on the daemon knows of the order ...
const KNOWN: Step = Step::Said("POST /authZ/");
/// ... and it is about to end.
const ISSUED: Step = Step::Said("POST /certZ/");
/// How long after the step it is killed.
const LATER: [Duration; 2] = [Duration::ZERO, Duration::from_millis(20)];
/// Certificates live for so many seconds, and a third of that is quiet.
const LIFE: u32 = 90;
const LABS: usize = 8;

/// After what the daemon is killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// The value is in the store.
    Kept(&'static str),
    /// The CA says so in its log.
    Said(&'static str),
    /// The record for the CA is in DNS.
    Published,
    /// It is no more, and the certificate is on its way.
    Withdrawn,
}

pub(crate) fn at_each_step() {
    scope(|labs| {
        for part in 0..LABS {
            labs.spawn(move || {
                let lab = Killing::start();
                let mine = |steps: &[Step]| {
                    let all = steps.iter().flat_map(|step| LATER.map(|later| (*step, later)));
                    all.skip(part).step_by(LABS).collect::<Vec<_>>()
                };
                let first = [&REGISTERING[..], &ORDERING, &[Step::Kept("certificate-1")]].concat();
                for (step, later) in mine(&first) {
                    lab.kill(step, later, false);
                }
                let renewal = [&ORDERING[..], &[Step::Kept("certificate-2")]].concat();
                for (step, later) in mine(&renewal) {
                    lab.kill(step, later, true);
                }
            });
        }
    });
}

/// A rig, and a state directory with a certificate of which the renewal is due.
struct Killing {
    rig: Rig,
    checking: Arc<ClientConfig>,
    due: String,
}

/// What the CA has seen so far.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The length of its log.
    log: usize,
    accounts: usize,
    orders: usize,
}

impl Killing {
    fn start() -> Self {
        let rig = Rig::start(LIFE);
        let checking = rig.checking();
        let mut daemon = rig.boot();
        let shown = || shake_hands(&checking, rig.lab.dot()).ok();
        let due = eventually(Duration::from_secs(30), shown);
        let due = due.unwrap_or_else(|| panic!("{}", daemon.log()));
        daemon.kill();
        fs::rename(rig.lab.path("state"), rig.lab.path("due")).unwrap();
        Self { rig, checking, due }
    }

    /// A daemon is killed on the way to the next certificate, or to its first.
    fn kill(&self, step: Step, later: Duration, renewal: bool) {
        let rig = &self.rig;
        let case = &format!("{step:?} and {later:?}, renewal: {renewal}");
        let reached = (0..3).find_map(|_| self.reach(step, renewal, case));
        let (mut daemon, before) = reached.unwrap_or_else(|| panic!("{case}: thrice without it"));
        sleep(later);
        daemon.kill();
        let account = self.account();

        let mut daemon = rig.boot();

        let served = eventually(Duration::from_secs(30), || {
            let serial = shake_hands(&self.checking, rig.lab.dot()).ok()?;
            (serial != self.due).then_some(serial)
        });
        assert!(served.is_some(), "{case}: {}", daemon.log());
        daemon.wait_for("all is well with the certificate", 10, |status| {
            !status.conditions.iter().any(|condition| condition.name.starts_with("certificate"))
        });
        let orders = self.seen().orders - before.orders;
        let most = if follows(step, KNOWN) { 1 } else { 2 };
        assert!((1..=most).contains(&orders), "{case}: {orders} orders\n{}", daemon.log());
        let kept = self.account().unwrap();
        assert!(kept.url.is_some(), "{case}");
        assert!(account.is_none_or(|account| account.key == kept.key), "{case}");
        assert_eq!(self.published(), Vec::<String>::new(), "{case}");
        let store = self.store();
        assert_eq!((store.order_at("pebble"), store.alarm()), (None, None), "{case}");
        let (certificates, accounts) = if renewal { (2, 0) } else { (1, 1) };
        assert_eq!(store.certificates().len(), certificates, "{case}");
        assert_eq!(self.seen().accounts, before.accounts + accounts, "{case}");
        self.is_tidy(case);
        daemon.kill();
    }

    /// A daemon that has come to that step, and what the CA had seen before. `None` if the order
    /// went without: pebble takes one proof in a hundred for the next order's, too.
    fn reach(&self, step: Step, renewal: bool, case: &str) -> Option<(Daemon, Seen)> {
        let state = self.rig.lab.path("state");
        drop(fs::remove_dir_all(&state));
        if renewal {
            let due = self.rig.lab.path("due");
            assert!(Command::new("cp").arg("-a").args([due, state]).status().unwrap().success());
        }
        let before = self.seen();
        let daemon = self.rig.boot();
        let reached = || self.is_reached(step, before.log);
        let begin = now();
        while !reached() {
            let waited = now().saturating_duration_since(begin);
            assert!(waited < Duration::from_secs(60), "{case}: {}", daemon.log());
            if self.is_reached(ISSUED, before.log) && !follows(step, ISSUED) && !reached() {
                return None;
            }
            sleep(Duration::from_millis(1));
        }
        Some((daemon, before))
    }

    /// Since the log of the CA was of length `from`.
    fn is_reached(&self, step: Step, from: usize) -> bool {
        let says = |what: &str| {
            let mut file = File::open(self.rig.lab.path("pebble.log")).unwrap();
            file.seek(SeekFrom::Start(from.try_into().unwrap())).unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            text.contains(what)
        };
        match step {
            Step::Kept(name) => self.rig.lab.path("state/acme").join(name).exists(),
            Step::Said(what) => says(what),
            Step::Published => !self.published().is_empty(),
            Step::Withdrawn => says("POST /certZ/") && self.published().is_empty(),
        }
    }

    fn seen(&self) -> Seen {
        let log = fs::read_to_string(self.rig.lab.path("pebble.log")).unwrap();
        let mut accounts = log.lines().filter_map(|line| {
            line.strip_suffix(" accounts in memory")?.rsplit(' ').next()?.parse().ok()
        });
        Seen {
            log: log.len(),
            accounts: accounts.next_back().unwrap_or(0),
            orders: log.matches("Added order").count(),
        }
    }

    fn published(&self) -> Vec<String> {
        self.rig.knot.texts(&format!("_acme-challenge.{NAME}."))
    }

    fn account(&self) -> Option<Account> {
        StateDir::untouched(self.rig.lab.path("state/acme")).read_json("account-pebble").unwrap()
    }

    fn store(&self) -> Kept {
        Kept::new(Arc::new(StateDir::untouched(self.rig.lab.path("state/acme"))))
    }

    /// Nobody else can read what is kept, and nothing is left behind.
    fn is_tidy(&self, case: &str) {
        for folder in ["state/acme", "state/acme-staging"] {
            let names = || self.rig.lab.names_in(folder);
            let left = |name: &String| name.starts_with('.') || name.contains(".bad");
            let tidy = || (!names().iter().any(left)).then_some(());
            assert!(eventually(Duration::from_secs(5), tidy).is_some(), "{case}: {:?}", names());
            let folder = self.rig.lab.path(folder);
            let mode = |path: &Path| Some(fs::metadata(path).ok()?.permissions().mode() & 0o777);
            assert_eq!(mode(&folder), Some(0o700), "{case}");
            // One that was being written may be gone.
            let mut modes = names().into_iter().filter_map(|name| mode(&folder.join(name)));
            assert!(modes.all(|mode| mode == 0o600), "{case}");
        }
    }
}

/// Whether a step is that one, or a later one.
fn follows(step: Step, on: Step) -> bool {
    let place = |of: Step| ORDERING.iter().position(|step| *step == of);
    match step {
        Step::Kept(name) => name.starts_with("certificate"),
        Step::Said(_) | Step::Published | Step::Withdrawn => place(step) >= place(on),
    }
}
