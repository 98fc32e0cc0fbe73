//! Whatever lies on the disk or comes by the wire: the daemon starts, serves, and says what is wrong.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use firstlight::admin::Request;
use lab::clients::{ask_ntp, ask_on, ask_tcp, ask_tls, ask_udp, send_garbage};
use lab::{DAY, Daemon, LOCAL, Lab, eventually, truth};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const USUAL: (i128, i128) = (-DAY, 89 * DAY);

#[test]
fn packets_that_mean_nothing_are_counted_and_the_next_question_is_answered() {
    let lab = Lab::new();
    let mut daemon = lab.configure().boot();
    daemon.serves(&lab).unwrap();
    let before = malformed(&daemon);
    let mut random = StdRng::seed_from_u64(1);

    for length in [0, 1, 2, 11, 12, 13, 17, 47, 48, 49, 100, 512, 1500, 9000] {
        let mut octets = vec![0; length];
        random.fill_bytes(&mut octets);
        send_garbage(lab.dns(), &octets);
        send_garbage(lab.ntp(), &octets);
        // One question announced, and none that can be read.
        if length >= 12 {
            octets[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            octets[12..].fill(0xff);
            send_garbage(lab.dns(), &octets);
        }
        for octets in [octets.clone(), framed(&octets)] {
            let mut stream = TcpStream::connect(lab.dns()).unwrap();
            drop(stream.write_all(&octets));
        }
        assert_eq!(ask_udp(lab.dns(), LOCAL.0).unwrap().addresses, [LOCAL.1]);
        assert_eq!(ask_tcp(lab.dns(), LOCAL.0).unwrap().addresses, [LOCAL.1]);
        assert_eq!(ask_ntp(lab.ntp()).unwrap().leap, 3);
    }

    let counted =
        eventually(Duration::from_secs(2), || (malformed(&daemon) >= before + 20).then_some(()));
    assert!(counted.is_some(), "{:?}", daemon.status().dns.counters);
    assert!(daemon.status().time.ntp.malformed >= 8, "{:?}", daemon.status().time.ntp);
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

#[test]
fn a_connection_that_says_nothing_costs_nobody_else() {
    let lab = Lab::new();
    let mut daemon = lab.configure().boot();
    daemon.serves(&lab).unwrap();

    over_tls(&lab);
    let idle: Vec<_> = (0..50).map(|_| TcpStream::connect(lab.dot()).unwrap()).collect();

    over_tls(&lab);
    drop(idle);
}

const DAMAGED: [&str; 5] =
    ["state/floor", "state/config", "state/fallback-ca", "state/nts-cookies", "run/time"];

#[test]
fn state_files_of_garbage_or_cut_short_are_set_aside_and_made_again() {
    let lab = Lab::new();
    let (setup, _wan) = lab.honest();
    let mut daemon = setup.boot();
    daemon.wait_for("time is verified and kept", 20, |status| {
        status.time.verified && status.time.level == "disciplined"
    });
    let kept = DAMAGED.map(|file| lab.path(file));
    assert!(daemon.terminate().success());
    let whole = kept.clone().map(|file| fs::read(file).unwrap());
    let garbage: Vec<u8> = (0..=255).collect();

    for damage in [|_: &[u8]| Vec::new(), |whole: &[u8]| whole[..whole.len() / 2].to_vec()] {
        for (file, whole) in kept.iter().zip(&whole) {
            fs::write(file, damage(whole)).unwrap();
        }
        comes_up_with_fresh_files(&lab);
    }
    for file in &kept {
        fs::write(file, &garbage).unwrap();
    }
    comes_up_with_fresh_files(&lab);
}

/// Starts the daemon on damaged files, and sees them set aside and replaced.
fn comes_up_with_fresh_files(lab: &Lab) {
    let mut daemon = Daemon::start(lab, &[]);
    daemon.serves(lab).unwrap();
    over_tls(lab);
    daemon.wait_for("time is verified", 20, |status| {
        status.time.verified && status.time.level == "disciplined"
    });
    assert!(daemon.terminate().success());

    for file in DAMAGED {
        let aside = lab.path(&format!("{file}.bad"));
        fs::remove_file(aside).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    let made = ["config", "fallback-ca", "fallback-ca.pem", "floor", "nts-cookies"];
    assert_eq!(lab.names_in("state"), made);
    assert!(lab.kept_floor().unwrap() > truth().secs() - 60);
    assert!(lab.state().read("config").unwrap().is_some());
    assert!(lab.state().read("fallback-ca").unwrap().is_some());
}

#[test]
fn without_a_state_directory_everything_is_served_and_the_log_names_it() {
    let lab = Lab::new();
    let (setup, _wan) = lab.honest();
    fs::write(lab.path("file"), "").unwrap();
    // Below a file: not even root can make a folder there.
    let mut daemon = setup.replacing("directory = \"state\"", "directory = \"file/state\"").boot();

    daemon.serves(&lab).unwrap();
    daemon.wait_for("time is verified", 20, |status| {
        status.time.verified && status.time.ntp.synchronized
    });

    over_tls(&lab);
    assert!(ask_ntp(lab.ntp()).unwrap().is_synchronized());
    let folder = lab.path("file/state").display().to_string();
    assert!(daemon.log().contains(&folder), "{}", daemon.log());
}

#[test]
fn ports_in_use_are_named_and_taken_as_soon_as_they_are_free() {
    let lab = Lab::new();
    let ntp = UdpSocket::bind(lab.ntp()).unwrap();
    let dot = TcpListener::bind(lab.dot()).unwrap();
    let mut daemon = lab.configure().boot();

    daemon.serves(&lab).unwrap();
    let status = daemon.wait_for("the condition is raised", 5, |status| {
        status.conditions.iter().any(|condition| condition.name == "listeners-refused")
    });
    let held = status.conditions.iter().find(|it| it.name == "listeners-refused").unwrap();
    for place in [lab.ntp(), lab.dot()] {
        assert!(held.text.contains(&place.to_string()), "{}", held.text);
    }
    assert_eq!(status.listeners.refused.len(), 2, "{:?}", status.listeners);

    drop((ntp, dot));
    let bound = eventually(Duration::from_secs(3), || {
        daemon.status().listeners.refused.is_empty().then_some(())
    });
    assert!(bound.is_some(), "{:?}", daemon.status().listeners);
    assert_eq!(ask_ntp(lab.ntp()).unwrap().leap, 3);
    assert!(ask_tls(lab.dot(), LOCAL.0).is_some());
    daemon.wait_for("the condition is cleared", 17, |status| {
        !status.conditions.iter().any(|condition| condition.name == "listeners-refused")
    });
}

#[test]
fn a_key_of_another_certificate_leaves_the_fallback_in_place() {
    let lab = Lab::new();
    lab.authority.issue_files(&lab, "dns.home.lan", USUAL);
    lab.authority.issue_files(&lab, "other.home.lan", USUAL);

    let setup = lab.configure().certificate("dns.home.lan.pem", "other.home.lan.key");
    let mut daemon = setup.boot();
    daemon.serves(&lab).unwrap();

    let chain = over_tls(&lab);
    assert_ne!(chain[0], leaf(&lab, "dns.home.lan.pem"));
    assert_eq!(daemon.status().certificate.unwrap().source, "fallback");
    let told = eventually(Duration::from_secs(5), || {
        daemon.log().contains("is not the key of").then_some(())
    });
    assert!(told.is_some(), "{}", daemon.log());

    // It is mended while the daemon runs.
    lab.authority.issue_files(&lab, "other.home.lan", USUAL);
    fs::copy(lab.path("other.home.lan.pem"), lab.path("dns.home.lan.pem")).unwrap();
    shows(&lab, "dns.home.lan.pem");
}

#[test]
fn certificate_files_are_followed_and_connections_stay() {
    let lab = Lab::new();
    lab.authority.issue_files(&lab, "dns.home.lan", USUAL);
    let mut daemon = lab.configure().certificate("dns.home.lan.pem", "dns.home.lan.key").boot();
    daemon.serves(&lab).unwrap();
    shows(&lab, "dns.home.lan.pem");
    let mut connection = TcpStream::connect(lab.dns()).unwrap();
    let open = daemon.status().listeners.open;

    lab.authority.issue_files(&lab, "dns.home.lan", (-DAY, 30 * DAY));
    shows(&lab, "dns.home.lan.pem");
    let served = leaf(&lab, "dns.home.lan.pem");
    assert_eq!(daemon.status().listeners.open, open);
    assert_eq!(ask_on(&mut connection, LOCAL.0).unwrap().addresses, [LOCAL.1]);

    fs::remove_file(lab.path("dns.home.lan.pem")).unwrap();
    fs::write(lab.path("dns.home.lan.key"), "rubbish").unwrap();
    let told = eventually(Duration::from_secs(6), || {
        daemon.log().contains("the pair read before is served on").then_some(())
    });
    assert!(told.is_some(), "{}", daemon.log());
    assert_eq!(ask_tls(lab.dot(), LOCAL.0).unwrap().1[0], served);
    assert_eq!(ask_on(&mut connection, LOCAL.0).unwrap().addresses, [LOCAL.1]);
}

#[test]
fn a_bad_file_at_a_reload_changes_nothing_and_is_reported() {
    let lab = Lab::new();
    let setup = lab.configure();
    let mut daemon = setup.boot();
    daemon.serves(&lab).unwrap();
    let mut connection = TcpStream::connect(lab.dns()).unwrap();
    assert!(daemon.status().listeners.refused.is_empty());

    setup.clone().replacing("[ntp]", "[npt]").write();
    let refusal = daemon.call(&Request::Reload).unwrap_err().to_string();
    assert!(refusal.contains("npt") && refusal.contains("firstlight.toml:"), "{refusal}");
    daemon.signal(Signal::SIGHUP);
    let told = "the one before stays in force";
    let reported = eventually(Duration::from_secs(3), || {
        (daemon.log().matches(told).count() == 2).then_some(())
    });
    assert!(reported.is_some(), "{}", daemon.log());
    assert!(daemon.log().contains("npt"), "{}", daemon.log());
    assert_eq!(ask_on(&mut connection, LOCAL.0).unwrap().addresses, [LOCAL.1]);

    let other = ("nas.home.lan", Ipv4Addr::new(10, 77, 0, 3));
    setup.name(other.0, other.1).write();
    daemon.call(&Request::Reload).unwrap();
    assert_eq!(ask_on(&mut connection, other.0).unwrap().addresses, [other.1]);
}

#[test]
fn a_later_start_with_an_unusable_file_runs_the_one_that_worked() {
    let lab = Lab::new();
    let setup = lab.configure();
    let mut daemon = setup.boot();
    daemon.serves(&lab).unwrap();
    assert!(daemon.terminate().success());
    setup.clone().replacing("[ntp]", "[npt]").write();

    let mut daemon = Daemon::start(&lab, &["--start", "@0"]);

    daemon.serves(&lab).unwrap();
    let status = daemon.status();
    let held = status.conditions.iter().find(|it| it.name == "configuration-unusable").unwrap();
    assert_eq!(held.severity, "error");
    assert!(held.text.contains("npt"), "{}", held.text);
    assert!(status.configuration.contains("the copy of"), "{}", status.configuration);

    // Mended, and read again.
    setup.write();
    daemon.call(&Request::Reload).unwrap();
    daemon.wait_for("the condition is cleared", 3, |status| {
        !status.conditions.iter().any(|condition| condition.name == "configuration-unusable")
    });

    // So with a file that is gone.
    assert!(daemon.terminate().success());
    fs::remove_file(lab.path("firstlight.toml")).unwrap();
    fs::write(lab.path("firstlight.toml"), "[state]\ndirectory = \"state\"\n[").unwrap();
    let mut daemon = Daemon::start(&lab, &["--start", "@0"]);
    daemon.serves(&lab).unwrap();
}

#[test]
fn only_a_first_start_with_an_unusable_file_is_refused() {
    let lab = Lab::new();
    lab.configure().replacing("[ntp]", "[npt]").write();

    let mut daemon = Daemon::start(&lab, &[]);
    let ended = daemon.ended(Duration::from_secs(5)).unwrap();
    assert_eq!(ended.code(), Some(2));
    assert!(daemon.log().contains("npt"), "{}", daemon.log());

    // A copy that is damaged is no copy.
    fs::create_dir_all(lab.path("state")).unwrap();
    fs::write(lab.path("state/config"), "rubbish").unwrap();
    let mut daemon = Daemon::start(&lab, &[]);
    assert_eq!(daemon.ended(Duration::from_secs(5)).unwrap().code(), Some(2));
    assert!(lab.path("state/config.bad").exists());
}

#[test]
fn a_clock_that_is_to_be_steered_cannot_start_elsewhere() {
    let lab = Lab::new();
    let setup = lab.configure();
    setup.write();
    let text = fs::read_to_string(lab.path("firstlight.toml")).unwrap();
    let text = text.replace("mode = \"observe\"", "mode = \"steer\"");
    fs::write(lab.path("firstlight.toml"), text).unwrap();

    let mut daemon = Daemon::start(&lab, &["--start", "@0"]);

    assert_eq!(daemon.ended(Duration::from_secs(5)).unwrap().code(), Some(2));
}

/// Waits for an answer over DoT, which opens after the ports of plain DNS, and gives the chain shown.
fn over_tls(lab: &Lab) -> Vec<CertificateDer<'static>> {
    let told = eventually(Duration::from_secs(5), || ask_tls(lab.dot(), LOCAL.0));
    let (answer, chain) = told.unwrap();
    assert_eq!(answer.addresses, [LOCAL.1]);
    chain
}

/// Waits until DoT clients are shown the certificate in `file`.
fn shows(lab: &Lab, file: &str) {
    let expected = leaf(lab, file);
    let shown = eventually(Duration::from_secs(5), || {
        (ask_tls(lab.dot(), LOCAL.0)?.1[0] == expected).then_some(())
    });
    assert!(shown.is_some(), "{file} is not served after 5 s");
}

fn leaf(lab: &Lab, file: &str) -> CertificateDer<'static> {
    let mut pem = String::new();
    fs::File::open(lab.path(file)).unwrap().read_to_string(&mut pem).unwrap();
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn framed(octets: &[u8]) -> Vec<u8> {
    let length = u16::try_from(octets.len()).unwrap().to_be_bytes();
    [&length, octets].concat()
}

fn malformed(daemon: &Daemon) -> u64 {
    let counters = daemon.status().dns.counters;
    ["malformed", "dropped"].iter().filter_map(|name| counters.get(*name)).sum()
}
