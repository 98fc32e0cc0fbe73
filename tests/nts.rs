//! Time that nobody on the way can forge: chronyd as a client of the daemon under NTS, and the daemon
//! as a client of several chronyd.
//!
//! Nothing here sets a clock: chronyd runs with `-x`, and the daemon observes.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use firstlight::admin::Request;
use firstlight::admin::report::{Source, Status};
use firstlight::host::kernel::{KernelClock, OsClock};
use lab::chrony::{Server, VALID, chronyd, end};
use lab::{DAY, Daemon, HOUR, Lab, Setup, YEAR, eventually, needing};
use libtest_mimic::{Arguments, Trial};

fn main() {
    let trials: Vec<Trial> = vec![
        needing("chronyd", "chronyd_is_served_under_nts_across_a_renewal_and_a_restart", serve),
        needing("chronyd", "chronyd_refuses_another_authority_s_certificate", refuse),
        needing(
            "chronyd",
            "cookies_of_yesterday_verify_a_boot_in_1970_without_tls",
            boot_on_cookies,
        ),
        needing("chronyd", "a_server_with_another_s_certificate_is_not_believed", wrong_name),
        needing("chronyd", "keys_got_in_1970_by_an_expired_certificate_are_dropped", stolen),
    ];
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(trials.len());
    libtest_mimic::run(&arguments, trials).exit();
}

/// Keys are exchanged by the certificate of the moment, and outlive a restart.
fn serve() {
    let lab = Lab::new();
    let certify = || {
        let names = ["dns.home.lan", &lab.nts().ip().to_string()];
        lab.authority.issue_files_for(&lab, "own", &names, VALID);
    };
    certify();
    let (setup, _wan) = lab.honest();
    let setup = setup.certificate("own.pem", "own.key");
    let mut daemon = setup.boot();
    daemon.wait_for("synchronised", 20, |status| status.time.ntp.synchronized);

    let client = Client::start(&lab, "ca.pem");
    client.wait_for_answers(3);
    assert_eq!(counted(&daemon, "nts_keys_exchanged"), 1);
    assert!(counted(&daemon, "nts") >= 3);
    let clients = daemon.call(&Request::Clients).unwrap();
    assert_eq!(clients[0]["how"], "nts", "{clients}");

    certify();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(daemon.terminate().code(), Some(0));
    let daemon = Daemon::start(&lab, &[]);
    daemon.wait_for("synchronised again", 20, |status| status.time.ntp.synchronized);
    let before = client.answers();
    client.wait_for_answers(before + 3);
    let (exchanged, naks) = (counted(&daemon, "nts_keys_exchanged"), counted(&daemon, "nts_naks"));
    assert_eq!((exchanged, naks), (0, 0), "its cookies are good for the next daemon");

    // A client that comes later meets the renewed certificate.
    drop(client);
    let client = Client::start(&lab, "ca.pem");
    client.wait_for_answers(1);
}

fn refuse() {
    let lab = Lab::new();
    let other = Lab::new();
    let names = [&*lab.nts().ip().to_string()];
    lab.authority.issue_files_for(&lab, "own", &names, VALID);
    fs::copy(other.path("ca.pem"), lab.path("other.pem")).unwrap();
    let (setup, _wan) = lab.honest();
    let daemon = setup.certificate("own.pem", "own.key").boot();
    daemon.wait_for("synchronised", 20, |status| status.time.ntp.synchronized);

    let client = Client::start(&lab, "other.pem");
    std::thread::sleep(Duration::from_secs(6));

    assert_eq!(client.answers(), 0, "{}", client.log());
    assert_eq!(counted(&daemon, "nts_keys_exchanged"), 0);
    assert!(counted(&daemon, "nts_exchanges_failed") > 0);
}

/// The power cut, in a house with NTS: whoever forges every other packet gains nothing.
fn boot_on_cookies() {
    let lab = Lab::new();
    let mut servers = [10, 11, 12].map(|host| Server::start(&lab, host, "time.home.lan"));
    let mut setup = lab.configure();
    for (server, operator) in servers.iter().zip(["nist", "ptb", "netnod"]) {
        setup = source(setup, server, operator);
    }
    let mut daemon = setup.boot();

    let ready = |status: &Status| status.time.verified && status.time.ntp.synchronized;
    let status = daemon.wait_for("synchronised and verified", 40, ready);
    assert_eq!(status.time.ntp.stratum, 3, "{status:?}");
    assert_right(&daemon);
    for source in daemon.sources().sources {
        assert!(source.nts_cookies.is_some_and(|cookies| cookies > 4), "{source:?}");
    }
    assert_eq!(exchanges(&daemon), 3, "{}", daemon.log());
    assert_eq!(daemon.terminate().code(), Some(0));

    // The power comes back, and the time servers' TLS does not.
    for server in &mut servers {
        server.restart_without_exchange(&lab);
    }
    let daemon = setup.boot();
    daemon.wait_for("verified", 30, |status| status.time.verified);
    assert_eq!(exchanges(&daemon), 3, "none is added: {}", daemon.log());
    assert_right(&daemon);
}

fn wrong_name() {
    let lab = Lab::new();
    let names = ["time.home.lan", "time.home.lan", "time.home.lan", "elsewhere.home.lan"];
    let servers: Vec<_> =
        (10..).zip(names).map(|(host, name)| Server::start(&lab, host, name)).collect();
    let mut setup = lab.configure();
    for (server, operator) in servers.iter().zip(["nist", "ptb", "netnod", "other"]) {
        setup = source(setup, server, operator);
    }
    let daemon = setup.boot();

    daemon.wait_for("verified", 40, |status| status.time.verified);
    let told = eventually(Duration::from_secs(10), || {
        let Source { verdict, failure, .. } = daemon.sources().sources.remove(3);
        let refused = failure.is_some_and(|why| why.contains("presented for time.home.lan"));
        (verdict == "silent" && refused).then_some(())
    });
    assert!(told.is_some(), "{:?}", daemon.sources());
}

/// Key exchanges that the daemons of this lab have told of.
fn exchanges(daemon: &Daemon) -> usize {
    daemon.log().matches("NTS keys exchanged").count()
}

fn counted(daemon: &Daemon, name: &str) -> u64 {
    daemon.status().time.ntp.counters.get(name).copied().unwrap()
}

/// It expired after the floor: while the time is not known, nothing speaks against it.
fn stolen() {
    let lab = Lab::new();
    let half_a_day_after_the_release = (-YEAR, -29 * DAY - 12 * HOUR);
    let name = "time.home.lan";
    let mut servers: Vec<_> = (10..13).map(|host| Server::start(&lab, host, name)).collect();
    servers.push(Server::start_with(&lab, 13, name, half_a_day_after_the_release));
    let mut setup = lab.configure();
    for (server, operator) in servers.iter().zip(["nist", "ptb", "netnod", "stolen"]) {
        setup = source(setup, server, operator);
    }
    let mut daemon = setup.boot();

    daemon.wait_for("verified", 40, |status| status.time.verified);
    let dropped = eventually(Duration::from_secs(30), || {
        let Source { failure, nts_cookies, .. } = daemon.sources().sources.remove(3);
        let expired = failure.is_some_and(|why| why.contains("time.home.lan is expired"));
        (expired && nts_cookies == Some(0)).then_some(())
    });
    assert!(dropped.is_some(), "{:?}\n{}", daemon.sources(), daemon.log());
    assert!(daemon.log().contains("NTS keys are dropped"), "{}", daemon.log());
    assert!(daemon.terminate().success());
    let kept = String::from_utf8(lab.state().read("nts-sessions").unwrap().unwrap()).unwrap();
    assert_eq!(kept.matches("time.home.lan").count(), 3, "{kept}");
}

/// The daemon's time is this machine's, which chronyd serves.
fn assert_right(daemon: &Daemon) {
    let shown: jiff::Timestamp = daemon.status().time.utc.parse().unwrap();
    let off = shown.as_second() - KernelClock.utc().secs();
    assert!(off.abs() <= 1, "{off} s off");
}

fn source<'l>(setup: Setup<'l>, server: &Server, operator: &str) -> Setup<'l> {
    let (ip, port) = (server.exchange.ip(), server.exchange.port());
    setup.source_by(&format!(
        "address = \"{ip}\"\noperator = \"{operator}\"\nname = \"time.home.lan\"\nnts = true\n\
         nts_port = {port}\nca = \"ca.pem\""
    ))
}

/// A chronyd that asks the daemon twice a second.
struct Client {
    process: Child,
    /// Its measurements, and what else it says.
    measurements: PathBuf,
    log: PathBuf,
}

impl Client {
    fn start(lab: &Lab, ca: &str) -> Self {
        let folder = lab.path("client");
        // This machine's clock is not the lab's: dates are not the matter here.
        let config = format!(
            "server {} nts ntsport {} iburst minpoll -1 maxpoll -1\nport 0\n\
             ntstrustedcerts {}\nnocerttimecheck 100\nlogdir {}\nlog rawmeasurements\n",
            lab.nts().ip(),
            lab.nts().port(),
            lab.path(ca).display(),
            folder.display(),
        );
        drop(fs::remove_dir_all(&folder));
        Self {
            process: chronyd(lab, "client", &config),
            measurements: folder.join("measurements.log"),
            log: lab.path("client.log"),
        }
    }

    /// Answers that it has checked and taken.
    fn answers(&self) -> usize {
        let log = fs::read_to_string(&self.measurements).unwrap_or_default();
        log.lines().filter(|line| line.contains("111 111")).count()
    }

    fn wait_for_answers(&self, wanted: usize) {
        let come = eventually(Duration::from_secs(20), || (self.answers() >= wanted).then_some(()));
        assert!(come.is_some(), "{} of {wanted} answers\n{}", self.answers(), self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}
