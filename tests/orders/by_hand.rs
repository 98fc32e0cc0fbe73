//! What a person has done by `firstlight certs`, and sees there.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use data_encoding::BASE64;
use firstlight::admin::Request;
use firstlight::admin::report::{Certs, Endings, Figures};

use crate::lab::{Daemon, Lab};
use crate::outside::{firstlight, told};
use crate::rig::{Rig, acme, ca, first, shake_hands};

pub(crate) fn renewal_and_rehearsal() {
    let rig = Rig::start(90 * 86_400);
    let staging = "staging = \"https://staging.test:14000/dir\"\n";
    let daemon = rig.boot_with(&(acme("") + &ca("pebble", staging) + &rig.update()));
    let config = rig.checking();
    let serial = first(&rig.lab, &config, &daemon);
    let served = || shake_hands(&config, rig.lab.dot()).unwrap();

    // What lies ahead.
    let (code, table, _) = firstlight(&rig.lab, &["certs"]);
    assert_eq!(code, 0);
    for row in [
        "Certificate  ordered by ACME\n",
        "Names        dns.home.test\n",
        "Issuer       CN=Pebble Intermediate CA",
        &format!("Serial       {serial}\n"),
        "Survives     an outage of 89 d",
        ", by the schedule\n",
        "Rehearsal    planned for ",
        "At pebble    not rehearsed so far\n",
    ] {
        assert!(table.contains(row), "{row}\n{table}");
    }
    let certs = report(&rig.lab);
    let orders = certs.orders.unwrap();
    assert_eq!((certs.source.as_str(), certs.verified), ("acme", true));
    assert_eq!((certs.serial, orders.serial.as_ref()), (serial.clone(), Some(&serial)));
    assert_eq!((certs.renewal, certs.why.as_str()), (Some(orders.due.clone()), "by the schedule"));
    assert!(orders.rehearsal.unwrap() < orders.due && orders.due < certs.not_after);

    // A rehearsal, of which nothing is kept, and a renewal.
    let (code, out, err) = firstlight(&rig.lab, &["certs", "check"]);
    assert_eq!((code, out.as_str()), (0, "pebble: well: an order would succeed\n"), "{err}");
    let rehearsed = report(&rig.lab).orders.unwrap().authorities.remove(0);
    assert!(rehearsed.passed && rehearsed.failure.is_none(), "{rehearsed:?}");
    assert_eq!(served(), serial);
    let (code, out, err) = firstlight(&rig.lab, &["certs", "renew", "--wait"]);
    let renewed = served();
    assert_eq!(
        (code, out),
        (0, format!("a certificate is in service, serial {renewed}\n")),
        "{err}"
    );
    assert_ne!(renewed, serial);

    // A key that the server of the zone does not know.
    rig.lab.keep_secret("tsig.key", &BASE64.encode(b"not the key of that name, but as long"));
    let why = "_acme-challenge.dns.home.test. could not be published: ";
    let (code, out, _) = firstlight(&rig.lab, &["certs", "check"]);
    assert_eq!(code, 1);
    assert!(out.starts_with("pebble: NOT WELL: ") && out.contains(why), "{out}");
    assert!(out.contains("does not take the key"), "{out}");
    let condition = report(&rig.lab).conditions.remove(0);
    assert_eq!(
        (condition.name.as_str(), condition.severity.as_str()),
        ("certificate-rehearsal", "warning")
    );
    assert!(condition.text.contains(why), "{condition:?}");
    let (code, out, _) = firstlight(&rig.lab, &["certs", "renew", "--wait"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.starts_with("the order failed: pebble: ") && out.contains(why), "{out}");
    let (_, table, _) = firstlight(&rig.lab, &["certs"]);
    for row in ["Last failure  pebble: ", "At pebble     the rehearsal failed", why] {
        assert!(table.contains(row), "{row}\n{table}");
    }
    assert_eq!(served(), renewed, "what is in service is not touched");

    // Mended, it is as it was, and nothing has to be started anew.
    rig.lab.keep_secret("tsig.key", &BASE64.encode(rig.knot.secret()));
    let (code, out, err) = firstlight(&rig.lab, &["certs", "check"]);
    assert_eq!((code, out.as_str()), (0, "pebble: well: an order would succeed\n"), "{err}");
    assert_eq!(report(&rig.lab).conditions, []);
    assert_eq!(served(), renewed);

    let figures: Figures = serde_json::from_value(daemon.call(&Request::Figures).unwrap()).unwrap();
    let wanted = Endings { issued: 2, failed: 1, rehearsed: 2, rehearsals_failed: 1 };
    assert_eq!(figures.totals.orders, Some(wanted), "{}", daemon.log());
}

/// The exit code of what is not permitted.
const DENIED: i32 = 4;
/// The user and the group of nobody.
const NOBODY: u32 = 65_534;

pub(crate) fn privilege() {
    let lab = Lab::new();
    lab.configure().write();
    let mut daemon = Daemon::start(&lab, &["--start", "@0"]);
    daemon.serves(&lab).unwrap();
    daemon.wait_for("commands are heard", 5, |_| true);
    // Where nobody may look into the folder of the build.
    let program = lab.path("firstlight");
    // By another process: while this one writes a program, a child of another test may hold it open.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_firstlight")).arg(&program).status();
    assert!(copied.unwrap().success());
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).arg("--config").arg(lab.path("firstlight.toml"));
        told(&command.uid(NOBODY).gid(NOBODY).output().unwrap())
    };

    for what in [&["certs", "renew"][..], &["certs", "renew", "--wait"], &["certs", "check"]] {
        let (code, out, err) = as_nobody(what);
        assert_eq!((code, out.as_str()), (DENIED, ""), "{what:?}: {err}");
        assert!(err.contains("user 65534 may not do this"), "{err}");
        assert_eq!(firstlight(&lab, what).0, 1, "who may is told that there is no CA");
    }
    assert_eq!(as_nobody(&["certs"]).0, 0, "anybody may look");
}

fn report(lab: &Lab) -> Certs {
    let (code, json, err) = firstlight(lab, &["certs", "--json"]);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&json).unwrap()
}
