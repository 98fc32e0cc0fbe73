//! Another configuration of orders, without a restart and without a handshake that fails.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use firstlight::admin::Request;
use firstlight::admin::report::Certs;

use crate::lab::{DAY, Daemon, Lab, eventually};
use crate::outside::firstlight;
use crate::rig::{Client, NAME, Rig, acme, ca, first, shake_hands, trusting};

/// How long what takes seconds may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

pub(crate) fn sources() {
    let mut rig = Rig::start(90 * 86_400);
    rig.lab.authority.issue_files_for(&rig.lab, "own", &[NAME], (-DAY, 30 * DAY));
    let without = rig.outside.text.clone();
    let files = "[tls]\ncertificate = \"own.pem\"\nkey = \"own.key\"\n";
    let with_files = without.replace("[tls]\n", files);
    let hook = hanging_hook(&rig.lab);
    let by_hook = |names: &str| acme(names) + &ca("pebble", "") + &hook;
    let by_update = |names: &str| acme(names) + &ca("pebble", "") + &rig.update();
    let (hook_alone, hook_more) =
        (by_hook(""), by_hook("names = [\"dns.home.test\", \"*.home.test\"]\n"));
    let (update_alone, update_more) =
        (by_update(""), by_update("names = [\"dns.home.test\", \"home.test\"]\n"));

    rig.outside.text.clone_from(&with_files);
    let daemon = rig.boot_with("");
    let config = trusting(&rig.lab, &rig.pebble, &[rig.lab.path("ca.pem")]);
    let of_files = first(&rig.lab, &config, &daemon);
    let client = Client::start(config.clone(), rig.lab.dot());
    let served = || shake_hands(&config, rig.lab.dot()).unwrap();
    let in_force = |text: &str, orders: &str| {
        fs::write(rig.lab.path("firstlight.toml"), format!("{text}{orders}")).unwrap();
        let (code, out, err) = firstlight(&rig.lab, &["reload"]);
        assert_eq!(code, 0, "{out}{err}");
    };

    // The files' pair serves until there is another, and an order that is not wanted any more ends.
    in_force(&without, &hook_alone);
    let running = hangs(&rig.lab, 1);
    assert_eq!(served(), of_files);
    let told = || daemon.status().conditions.into_iter().map(|held| held.name).collect::<Vec<_>>();
    let missing = "certificate-missing".to_owned();
    assert!(eventually(SOON, || told().contains(&missing).then_some(())).is_some());
    let (_, table, _) = firstlight(&rig.lab, &["certs"]);
    for row in
        ["files of a configuration before", "29 d without a renewal", "Under way", "At pebble"]
    {
        assert!(table.contains(row), "{row}\n{table}");
    }
    in_force(&with_files, "");
    ends(&running, &daemon);
    let quiet = eventually(SOON, || (!told().contains(&missing)).then_some(()));
    assert!(quiet.is_some(), "{:?}", told());
    in_force(&without, &hook_alone);
    let running = hangs(&rig.lab, 2);
    assert_eq!(served(), of_files);
    in_force(&without, &update_alone);
    ends(&running, &daemon);
    let ordered = eventually(SOON, || Some(served()).filter(|serial| *serial != of_files));
    let ordered = ordered.unwrap_or_else(|| panic!("{}", daemon.log()));
    assert_eq!(certs(&daemon).names, [NAME]);

    // Another name.
    in_force(&without, &update_more);
    let more = eventually(SOON, || Some(served()).filter(|serial| *serial != ordered));
    let more = more.unwrap_or_else(|| panic!("{}", daemon.log()));
    let report = certs(&daemon);
    assert_eq!((report.source.as_str(), report.serial.as_str()), ("acme", more.as_str()));
    assert_eq!(report.names, [NAME, "home.test"]);
    for name in ["_acme-challenge.dns.home.test.", "_acme-challenge.home.test."] {
        assert_eq!(rig.knot.texts(name), Vec::<String>::new(), "nothing stays behind");
    }

    // What cannot be used.
    for (mistaken, what) in [
        (update_more.replace("agree = true", "agree = 7"), "agree"),
        (update_more.replace("\"dns.home.test\", ", ""), "clients check `dns.home.test`"),
    ] {
        fs::write(rig.lab.path("firstlight.toml"), format!("{without}{mistaken}")).unwrap();
        let refused = daemon.call(&Request::Reload).unwrap_err().to_string();
        assert!(refused.contains(what), "{refused}");
    }
    let unmoved = certs(&daemon);
    let due = |report: Certs| report.orders.unwrap().due;
    assert_eq!((&unmoved.names, &unmoved.serial), (&report.names, &more));
    assert_eq!(due(unmoved), due(report));
    assert_eq!(served(), more);

    // Files again, in the middle of an order.
    in_force(&without, &hook_more);
    let running = hangs(&rig.lab, 3);
    assert_eq!(served(), more);
    in_force(&with_files, "");
    ends(&running, &daemon);
    assert_eq!(served(), of_files);
    assert_eq!(certs(&daemon).orders, None);

    let (shaken, failures) = client.stop();
    assert_eq!(failures, Vec::<String>::new(), "{}", daemon.log());
    assert!(shaken > 20, "{shaken}");
    // Neither files nor orders: one of the local authority, whom the client does not know.
    in_force(&without, "");
    let refused = shake_hands(&config, rig.lab.dot()).unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    assert_eq!(certs(&daemon).source, "fallback");
}

/// `[acme.hook]` of a program that does not end by itself, and leaves its process id.
fn hanging_hook(lab: &Lab) -> String {
    let program = lab.path("hanging");
    let text =
        format!("#!/bin/sh\necho $$ >>{}\nexec sleep 120\n", lab.path("hanging.pids").display());
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    format!("[acme.hook]\nprogram = \"{}\"\ntimeout = 60\n", program.display())
}

/// The process of the hook that hangs as the `nth`, once it does.
fn hangs(lab: &Lab, nth: usize) -> String {
    let found = eventually(SOON, || {
        let pids = fs::read_to_string(lab.path("hanging.pids")).ok()?;
        let pids: Vec<_> = pids.lines().map(str::to_owned).collect();
        assert!(pids.len() <= nth, "{pids:?}");
        pids.get(nth - 1).cloned()
    });
    found.unwrap_or_else(|| {
        panic!("hook {nth} does not run\n{}", fs::read_to_string(lab.path("log")).unwrap())
    })
}

fn ends(pid: &str, daemon: &Daemon) {
    let alive = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    let ended = eventually(Duration::from_secs(10), || (!alive()).then_some(()));
    assert!(ended.is_some(), "the order before goes on\n{}", daemon.log());
}

fn certs(daemon: &Daemon) -> Certs {
    serde_json::from_value(daemon.call(&Request::Certs).unwrap()).unwrap()
}
