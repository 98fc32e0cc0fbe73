//! More than one CA.

use std::net::TcpListener;
use std::time::Duration;

use firstlight::admin::Request;
use firstlight::admin::report::Certs;

use crate::lab::{Daemon, eventually, now};
use crate::outside::{DEAD, firstlight};
use crate::rig::{Rig, acme, ca, first};

/// For longer than this no connection to a CA is waited for.
const PATIENCE: Duration = Duration::from_secs(11);

pub(crate) fn takes_over() {
    let rig = Rig::start(90 * 86_400);
    let cas =
        |names: [&str; 2]| acme("") + &names.map(|name| ca(name, "")).concat() + &rig.update();
    let begin = now();
    let daemon = rig.boot_with(&cas(["dead", "pebble"]));

    // Without a certificate there is nothing to wait for.
    let serial = first(&rig.lab, &rig.checking(), &daemon);
    let took = now() - begin;
    assert!(took < Duration::from_secs(40), "{took:?}");
    let log = daemon.log();
    assert!(log.contains("Connection refused"), "{log}");

    // Where there is no account, there is none when it is needed either: somebody is told.
    let told = |daemon: &Daemon| {
        let conditions = certs_conditions(daemon);
        conditions.into_iter().find(|(name, _)| name == "certificate-account")
    };
    let (_, text) = eventually(Duration::from_secs(10), || told(&daemon)).unwrap();
    assert!(text.contains("dead: ") && text.contains("Connection refused"), "{text}");
    let (_, table, _) = firstlight(&rig.lab, &["certs"]);
    assert!(table.contains("(certificate-account)"), "{table}");

    // Nobody waits for one that takes connections and says nothing, once it is not wanted.
    let dead = TcpListener::bind(rig.lab.place(DEAD, 14000)).unwrap();
    let in_force = |names| {
        rig.outside.configure(&rig.lab, &cas(names));
        assert_eq!(firstlight(&rig.lab, &["reload"]).0, 0, "{}", daemon.log());
    };
    in_force(["pebble", "dead"]);
    let (silent, _) = dead.accept().unwrap();

    // A CA that is not needed so far has an account all the same.
    in_force(["pebble", "second"]);
    let registered = eventually(Duration::from_secs(10), || {
        let kept = rig.lab.names_in("state/acme");
        let account = kept.iter().any(|name| name.starts_with("account-second"));
        (account && told(&daemon).is_none()).then_some(())
    });
    assert!(registered.is_some(), "{:?}\n{}", rig.lab.names_in("state/acme"), daemon.log());
    let told_again = eventually(PATIENCE, || told(&daemon));
    assert_eq!(told_again, None);
    drop(silent);
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("an account is registered")).unwrap();
    assert!(line.contains("second"), "{line}");
    let certs: Certs = serde_json::from_value(daemon.call(&Request::Certs).unwrap()).unwrap();
    assert_eq!((certs.source.as_str(), certs.serial), ("acme", serial));
}

/// Name and text of each condition.
fn certs_conditions(daemon: &Daemon) -> Vec<(String, String)> {
    let held = daemon.status().conditions;
    held.into_iter().map(|held| (held.name, held.text)).collect()
}
