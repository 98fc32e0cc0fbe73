//! The daemon as a client of chronyd servers, plain, with a shared key and under NTS, of five sources
//! one or two of which lie.
//!
//! Nothing here sets a clock: chronyd runs with `-x`, and the daemon observes.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::time::Duration;

use firstlight::admin::Request;
use firstlight::admin::report::Status;
use firstlight::host::kernel::{KernelClock, OsClock};
use lab::chrony::{KEYS, Server};
use lab::{HOUR, Lab, Says, TimeSource, eventually, needing};
use libtest_mimic::{Arguments, Trial};

#[derive(Clone, Copy)]
enum By {
    Nothing,
    Key,
    Nts,
}

fn main() {
    let trial = |name: &str, by, liars| needing("chronyd", name, move || outvoted(by, liars));
    let mut trials: Vec<Trial> = vec![
        trial("four_chronyd_outvote_a_liar", By::Nothing, 1),
        trial("three_chronyd_outvote_two_liars_who_agree", By::Nothing, 2),
        trial("four_chronyd_with_a_key_outvote_a_liar", By::Key, 1),
        trial("three_chronyd_with_a_key_outvote_two_liars_who_agree", By::Key, 2),
        trial("four_chronyd_under_nts_outvote_a_liar", By::Nts, 1),
        trial("three_chronyd_under_nts_outvote_two_liars_who_agree", By::Nts, 2),
    ];
    let reload = "a_key_file_that_is_broken_costs_its_source_until_it_is_mended_and_read_again";
    trials.push(needing("chronyd", reload, broken_keys));
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(3);
    libtest_mimic::run(&arguments, trials).exit();
}

/// A line that is wrong costs its key alone, is a condition, and is mended by a reload.
fn broken_keys() {
    let lab = Lab::new();
    let server = Server::start(&lab, 10, "time.home.lan");
    lab.keep_secret("own.keys", "1 AES128 HEX:00\n7 SHA1 ASCII:other\n");
    let ip = server.exchange.ip();
    let setup = lab
        .configure()
        .replacing("[ntp]\n", "[ntp]\nkeys = \"own.keys\"\n")
        .source_by(&format!("address = \"{ip}\"\nport = 1123\nkey = 1"));
    let daemon = setup.boot();

    let broken = |status: &Status| status.conditions.iter().any(|it| it.name == "ntp-keys");
    let status = daemon.wait_for("the condition", 5, broken);
    let condition = status.conditions.iter().find(|it| it.name == "ntp-keys").unwrap();
    assert!(
        condition.text.contains("own.keys: line 1: key 1: an AES128 key has 16"),
        "{condition:?}"
    );
    let failed = eventually(Duration::from_secs(5), || {
        let failure = daemon.sources().sources.remove(0).failure;
        failure.filter(|why| why.contains("key 1 is not in the file"))
    });
    assert!(failed.is_some(), "{:?}", daemon.sources());

    lab.keep_secret("own.keys", KEYS.1);
    daemon.call(&Request::Reload).unwrap();
    daemon.wait_for("no condition", 5, |status| !broken(status));
    let heard = eventually(Duration::from_secs(20), || {
        daemon.sources().sources[0].age.is_some().then_some(())
    });
    assert!(heard.is_some(), "{:?}", daemon.sources());
}

fn outvoted(by: By, liars: u8) {
    let lab = Lab::new();
    lab.keep_secret(KEYS.0, KEYS.1);
    let liars: Vec<_> =
        (0..liars).map(|at| TimeSource::start(&lab, 30 + at, Says::Off(HOUR))).collect();
    let honest: Vec<_> = (10..15 - u8::try_from(liars.len()).unwrap())
        .map(|host| Server::start(&lab, host, "time.home.lan"))
        .collect();
    let keys = format!("[ntp]\nkeys = \"{}\"\n", KEYS.0);
    let mut setup = lab.configure().replacing("[ntp]\n", &keys);
    // The liars come first: whoever believes the first who answers believes them.
    for (index, liar) in liars.iter().enumerate() {
        setup = setup.source(liar, &format!("liar{index}"), "");
    }
    for (index, server) in honest.iter().enumerate() {
        let (ip, port) = (server.exchange.ip(), server.exchange.port());
        let more = match by {
            By::Nothing => "port = 1123".to_owned(),
            By::Key => "port = 1123\nkey = 1".to_owned(),
            By::Nts => {
                format!("name = \"time.home.lan\"\nnts = true\nnts_port = {port}\nca = \"ca.pem\"")
            }
        };
        let keys = format!("address = \"{ip}\"\noperator = \"honest{index}\"\n{more}");
        setup = setup.source_by(&keys);
    }
    let daemon = setup.boot();

    let status = daemon.wait_for("synchronised", 40, |status| status.time.ntp.synchronized);
    assert_eq!(status.time.ntp.stratum, 3, "{status:?}");
    let shown: jiff::Timestamp = status.time.utc.parse().unwrap();
    let off = shown.as_second() - KernelClock.utc().secs();
    assert!(off.abs() <= 1, "{off} s off");
    // Authenticated time beside it: two operators under NTS agree.
    if matches!(by, By::Nts) {
        daemon.wait_for("verified", 40, |status| status.time.verified);
    }
    let told = eventually(Duration::from_secs(20), || {
        let sources = daemon.sources().sources;
        let (lie, true_ones) = sources.split_at(liars.len());
        let named = lie.iter().all(|source| source.verdict == "falseticker");
        (named && true_ones.iter().all(|source| source.verdict == "truechimer")).then_some(())
    });
    assert!(told.is_some(), "{:#?}", daemon.sources());
}
