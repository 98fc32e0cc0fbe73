//! Orders at pebble, the ACME server that Let's Encrypt tests clients with: each way of publishing,
//! against servers that are not of our making where there are any.
#![expect(clippy::unwrap_used, reason = "test code")]

#[path = "../lab/mod.rs"]
mod lab;
#[path = "../script/mod.rs"]
#[expect(dead_code, reason = "other listeners are in other tests")]
mod script;
mod tls_alpn;
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use caps::{CapSet, Capability};
use firstlight::acme::{
    AcmeDns, AcmeDnsAccount, Binding, Deadlines, DnsUpdate, Hook, Issuer, Job, Pending,
    PublishError, Publisher, TsigHash, TxtRecord,
};
use firstlight::cert::{Failure, Kind};
use firstlight::metered::Purpose;
use lab::{Lab, find, needing};
use libtest_mimic::{Arguments, Trial};
use nix::unistd::geteuid;
use world::{AcmeDnsServer, Challtestsrv, Diary, Knot, Machine, Pebble, dns01, names, run};

fn main() {
    let root = geteuid().is_root();
    let trials: Vec<Trial> = vec![
        needing(
            if find("pebble").is_some() { "knotd" } else { "pebble" },
            "a_wildcard_and_several_names_by_signed_updates",
            updates,
        ),
        needing("knotd", "an_update_that_is_refused_says_why", refused_updates),
        needing("pebble", "a_hook_publishes", hook),
        needing("pebble", "acme_dns_publishes_behind_an_alias", acme_dns),
        needing("pebble", "a_ca_that_asks_for_a_binding_gets_one", binding),
        needing("pebble", "a_ca_that_refuses_nonces_is_asked_again", nonces),
        needing("pebble", "a_ca_that_forgot_the_account_gets_the_same_key_again", amnesia),
        needing("pebble", "an_order_cut_off_is_gone_on_with", resumed),
        needing("pebble", "a_name_that_is_not_shown_to_be_ours_is_told_in_the_ca_s_words", invalid),
        needing(
            "pebble",
            "two_names_by_certificates_on_the_doh_port_while_a_client_goes_on_asking",
            tls_alpn::order,
        ),
        Trial::test(
            "a_certificate_for_a_ca_is_shown_to_who_asks_for_it_alone_and_nothing_else_is",
            || {
                tls_alpn::shown();
                Ok(())
            },
        ),
        Trial::test("a_hook_is_fenced", || {
            fenced();
            Ok(())
        }),
        Trial::test("a_hook_inherits_no_capability", || {
            uninherited();
            Ok(())
        })
        .with_kind(if root { "" } else { "not root" })
        .with_ignored_flag(!root),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn updates() {
    let lab = Lab::new();
    let knot = Knot::start(&lab);
    let pebble = Pebble::start(&lab, knot.address, &[], None);
    let names = names(&["*.home.test", "home.test", "dns.home.test"]);
    let pending = pebble.begin(&names);
    let diary = Diary::default();
    let solver = dns01(knot.publisher("home.test", knot.secret()), &diary);

    let transport = pebble.transport(&lab);
    let outcome = run(async {
        let job = Job { solver: &solver, ..pebble.job(&pending) };
        Issuer::new(transport.clone(), Deadlines::default()).carry_out(&job, &diary).await
    });
    // It is counted, and small enough for any link.
    let octets = transport.client.meter().read()[Purpose::Certificates as usize];
    assert!((10_000..40_000).contains(&octets), "{octets}");

    let chain = outcome.result.unwrap();
    assert!(outcome.accepted);
    assert!(names.iter().all(|name| chain.held.covers(name)), "{:?}", chain.held);
    assert_eq!(chain.held.ca.as_deref(), Some("pebble"));
    assert!(chain.certificates.len() >= 2);
    // Two values at the zone's own name, both taken back.
    assert_eq!(diary.seen().len(), 3);
    for record in diary.seen() {
        assert_eq!(knot.texts(&record.name), Vec::<String>::new());
    }
    assert_eq!(diary.published(), []);

    // The account that was registered serves again, and the pebble has no renewal information.
    let account = diary.account().unwrap();
    let again = run(async {
        let job = Job {
            solver: &solver,
            account: &account,
            replaces: Some(&chain.certificates[0]),
            ..pebble.job(&pending)
        };
        let issuer = pebble.issuer(&lab);
        assert_eq!(issuer.window(&pebble.ca, &chain.certificates[0]).await.unwrap(), None);
        issuer.carry_out(&job, &diary).await
    });
    assert_ne!(again.result.unwrap().held.serial, chain.held.serial);
    assert_eq!(diary.registered(), 1);
}

fn refused_updates() {
    let lab = Lab::new();
    let knot = Knot::start(&lab);
    let record = TxtRecord { name: "_acme-challenge.home.test.".into(), value: "v".into() };
    let elsewhere = TxtRecord { name: "www.home.test.".into(), value: "v".into() };
    let far = TxtRecord { name: "_acme-challenge.other.test.".into(), value: "v".into() };
    let present = |publisher: &dyn Publisher, record: &TxtRecord| run(publisher.present(record));

    let good = knot.publisher("home.test", knot.secret());
    assert_eq!(present(&*good, &record), Ok(()));
    assert_eq!(knot.texts(&record.name), ["v"]);
    assert_eq!(run(good.withdraw(&record)), Ok(()));
    assert_eq!(run(good.withdraw(&record)), Ok(()), "what is not there is no trouble");
    assert_eq!(knot.texts(&record.name), Vec::<String>::new());

    // Over UDP, where there is no TCP; and an answer that anybody may have made.
    let over_udp = knot.over_udp(&lab, 44, false);
    assert_eq!(present(&*over_udp, &record), Ok(()));
    assert_eq!(knot.texts(&record.name), ["v"]);
    assert_eq!(run(over_udp.withdraw(&record)), Ok(()));
    let forged = present(&*knot.over_udp(&lab, 45, true), &record).unwrap_err();
    assert!(forged.to_string().contains("a signature that is wrong"), "{forged}");

    let refused = present(&*good, &elsewhere).unwrap_err();
    assert!(matches!(refused, PublishError::Refused(_)), "{refused}");
    let far = present(&*good, &far).unwrap_err();
    assert!(far.to_string().contains("not in the zone"), "{far}");
    let wrong = knot.publisher("home.test", b"not the key of that name, but as long");
    let wrong = present(&*wrong, &record).unwrap_err();
    assert!(wrong.to_string().contains("does not take the key"), "{wrong}");
    let late = DnsUpdate::new(
        knot.address,
        "home.test",
        ("acme", TsigHash::Sha256, knot.secret()),
        Arc::new(Machine { behind: Duration::from_secs(50 * 365 * 86_400) }),
    );
    let late = present(&late.unwrap(), &record).unwrap_err();
    assert!(late.to_string().contains("another time"), "{late}");
}

fn hook() {
    let lab = Lab::new();
    let dns = Challtestsrv::start(&lab);
    let pebble = Pebble::start(&lab, dns.dns, &[], None);
    let program = dns.hook(&lab);
    let diary = Diary::default();
    let names = names(&["dns.home.test", "*.home.test"]);
    let pending = pebble.begin(&names);
    let solver = dns01(Arc::new(Hook::new(program, Duration::from_secs(20))), &diary);

    let outcome = run(async {
        let job = Job { solver: &solver, ..pebble.job(&pending) };
        pebble.issuer(&lab).carry_out(&job, &diary).await
    });

    assert!(names.iter().all(|name| outcome.result.as_ref().unwrap().held.covers(name)));
    assert_eq!(diary.published(), []);
    let said = fs::read_to_string(lab.path("hook.log")).unwrap();
    let calls: Vec<_> = said.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(calls, ["present", "present", "cleanup", "cleanup"]);
}

fn fenced() {
    let lab = Lab::new();
    let file = lab.path("hook");
    let write = |text: &str, mode| {
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    };
    let hook = Hook::new(file.clone(), Duration::from_secs(2));
    let record = TxtRecord { name: "_acme-challenge.home.test.".into(), value: "$(x) -v".into() };
    let present = || run(hook.present(&record));

    // What it finds: nothing of ours.
    let folder = lab.path("").display().to_string();
    write(
        &format!(
            "cd {folder}; env >env; echo \"$@\" >args; ls /proc/self/fd >fds; cut -d ' ' -f 1,5 /proc/$$/stat >group"
        ),
        0o700,
    );
    assert_eq!(present(), Ok(()));
    let read = |name: &str| fs::read_to_string(lab.path(name)).unwrap();
    let found = read("env");
    let mut variables: Vec<_> = found.lines().map(|line| line.split('=').next().unwrap()).collect();
    variables.sort_unstable();
    // The shell's own beside ours.
    variables.retain(|name| !["OLDPWD", "PWD", "SHLVL", "_"].contains(name));
    assert_eq!(variables, ["PATH"]);
    assert_eq!(read("args"), "present _acme-challenge.home.test. $(x) -v\n");
    // Itself and its group.
    let group = read("group");
    assert_eq!(
        group.trim().split_once(' ').map(|(own, group)| own == group),
        Some(true),
        "{group}"
    );
    // The last is the folder that is listed.
    assert_eq!(read("fds"), "0\n1\n2\n3\n");

    // What it may say, and how it ends.
    write("printf 'no\\033[2Jno\\n'; exit 3", 0o700);
    let failed = present().unwrap_err().to_string();
    assert!(failed.contains("exit status: 3") && failed.contains("no\\u{1b}[2Jno"), "{failed}");
    write("head -c 1000000 /dev/zero | tr '\\0' x; exit 1", 0o700);
    assert!(present().unwrap_err().to_string().len() < 1000);
    write(&format!("sleep 47 & echo $! >{folder}/child; wait"), 0o700);
    let killed = present().unwrap_err().to_string();
    assert!(killed.contains("killed"), "{killed}");
    let child = read("child");
    let alive = |child: &str| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    assert!(lab::eventually(Duration::from_secs(5), || (!alive(&child)).then_some(())).is_some());
    // Nor does it outlive who asked for it.
    let patient = Hook::new(file.clone(), Duration::from_secs(600));
    run(async {
        let asking = patient.present(&record);
        assert!(tokio::time::timeout(Duration::from_secs(1), asking).await.is_err());
    });
    let child = read("child");
    assert!(lab::eventually(Duration::from_secs(5), || (!alive(&child)).then_some(())).is_some());
    // What stays behind holds nothing up.
    write("sleep 5 & exit 0", 0o700);
    let begin = lab::now();
    assert_eq!(present(), Ok(()));
    assert!(lab::now() - begin < Duration::from_secs(2));

    // What is not run at all.
    write("exit 0", 0o722);
    assert!(present().unwrap_err().to_string().contains("others may write it"));
    write("exit 0", 0o600);
    assert!(present().unwrap_err().to_string().contains("not a file that can be run"));
    let relative = Hook::new("hook".into(), Duration::from_secs(2));
    assert!(relative.check().unwrap_err().to_string().contains("not an absolute path"));
    // Nor what anybody may put another program in the place of.
    let open = lab.path("open");
    fs::create_dir(&open).unwrap();
    write("exit 0", 0o700);
    fs::rename(&file, open.join("hook")).unwrap();
    let hook = Hook::new(open.join("hook"), Duration::from_secs(2));
    for (mode, fit) in [(0o777, false), (0o1777, true), (0o755, true)] {
        fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
        let found = hook.check();
        assert_eq!(found.is_ok(), fit, "{mode:o}: {found:?}");
    }
}

/// The service may have capabilities to hand on; the hook does not get them.
fn uninherited() {
    let lab = Lab::new();
    let file = lab.path("hook");
    let (said, script) = (lab.path("said"), "grep -E '^Cap(Inh|Amb)' /proc/self/status");
    fs::write(&file, format!("#!/bin/sh\n{script} >{}\n", said.display())).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    for set in [CapSet::Inheritable, CapSet::Ambient] {
        caps::raise(None, set, Capability::CAP_NET_BIND_SERVICE).unwrap();
    }
    let record = TxtRecord { name: "_acme-challenge.home.test.".into(), value: "x".into() };

    run(Hook::new(file, Duration::from_secs(5)).present(&record)).unwrap();

    let none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    assert_eq!(fs::read_to_string(said).unwrap(), none);
    assert!(caps::has_cap(None, CapSet::Ambient, Capability::CAP_NET_BIND_SERVICE).unwrap());
}

fn acme_dns() {
    let lab = Lab::new();
    let dns = Challtestsrv::start(&lab);
    let pebble = Pebble::start(&lab, dns.dns, &[], None);
    let server = AcmeDnsServer::start(&lab, &dns);
    dns.alias("_acme-challenge.dns.home.test.", "d4.acme-dns.test.");
    let account = |password: &str| AcmeDnsAccount {
        domain: "dns.home.test".into(),
        subdomain: "d4".into(),
        username: "user".into(),
        password: password.into(),
    };
    let diary = Diary::default();
    let names = names(&["dns.home.test"]);
    let pending = pebble.begin(&names);
    let publisher = |password| {
        let (transport, roots) = (pebble.transport(&lab), pebble.ca.roots.clone());
        AcmeDns::new(transport, roots, &server.url, vec![account(password)])
    };
    let order = |password| {
        let solver = dns01(Arc::new(publisher(password)), &diary);
        run(async {
            let job = Job { solver: &solver, ..pebble.job(&pending) };
            pebble.issuer(&lab).carry_out(&job, &diary).await
        })
    };

    let Failure { kind, detail } = order("wrong").result.unwrap_err();
    assert_eq!(kind, Kind::Validation);
    assert!(detail.contains("acme-dns answered with 401"), "{detail}");
    assert!(order("secret").result.unwrap().held.covers("dns.home.test"));
}

fn binding() {
    let lab = Lab::new();
    let dns = Challtestsrv::start(&lab);
    let secret = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let mut pebble = Pebble::start(&lab, dns.dns, &[], Some(("kid-1", secret)));

    let refused = run(pebble.issuer(&lab).register(&pebble.ca, &pebble.account)).unwrap_err();
    assert_eq!(refused.kind, Kind::Refused, "{refused}");
    let key = data_encoding::BASE64URL_NOPAD.decode(secret.as_bytes()).unwrap();
    pebble.ca.binding = Some(Binding { kid: "kid-1".into(), key });
    // Ahead of the first order.
    let account = run(pebble.issuer(&lab).register(&pebble.ca, &pebble.account)).unwrap();

    let diary = Diary::default();
    let names = names(&["dns.home.test"]);
    let pending = pebble.begin(&names);
    let solver = dns01(dns.publisher(), &diary);
    let outcome = run(async {
        let job = Job { account: &account, solver: &solver, ..pebble.job(&pending) };
        pebble.issuer(&lab).carry_out(&job, &diary).await
    });

    outcome.result.unwrap();
    assert_eq!(diary.registered(), 0);
}

fn nonces() {
    let lab = Lab::new();
    let dns = Challtestsrv::start(&lab);
    let pebble = Pebble::start(&lab, dns.dns, &[("PEBBLE_WFE_NONCEREJECT", "30")], None);
    let diary = Diary::default();
    let names = names(&["dns.home.test"]);
    let pending = pebble.begin(&names);
    let solver = dns01(dns.publisher(), &diary);

    // As `cert` has it: at once, and what was begun is gone on with.
    let mut tries = Vec::new();
    for _ in 0..6 {
        let outcome = run(async {
            let account = diary.account().unwrap_or(pebble.account.clone());
            let pending = diary.pending().unwrap_or(pending.clone());
            let job = Job { account: &account, solver: &solver, ..pebble.job(&pending) };
            pebble.issuer(&lab).carry_out(&job, &diary).await
        });
        match outcome.result {
            Ok(_) => return,
            Err(failure) => tries.push(failure.kind),
        }
        assert!(tries.iter().all(|kind| *kind == Kind::BadNonce), "{tries:?}");
    }
    panic!("{tries:?}");
}

fn amnesia() {
    let lab = Lab::new();
    let dns = Challtestsrv::start(&lab);
    let mut pebble = Pebble::start(&lab, dns.dns, &[], None);
    let account = run(pebble.issuer(&lab).register(&pebble.ca, &pebble.account)).unwrap();
    pebble.restart();

    let diary = Diary::default();
    let names = names(&["dns.home.test"]);
    let pending = pebble.begin(&names);
    let solver = dns01(dns.publisher(), &diary);
    let order = |register| {
        run(async {
            let job = Job { account: &account, register, solver: &solver, ..pebble.job(&pending) };
            pebble.issuer(&lab).carry_out(&job, &diary).await
        })
    };

    let forgotten = order(false);
    assert_eq!(forgotten.result.unwrap_err().kind, Kind::AccountUnknown);
    assert!(!forgotten.accepted);
    order(true).result.unwrap();
    assert_eq!(diary.account().unwrap().key, account.key);
}

fn resumed() {
    let lab = Lab::new();
    let dns = Challtestsrv::start(&lab);
    let pebble = Pebble::start(&lab, dns.dns, &[], None);
    let diary = Diary::default();
    let names = names(&["dns.home.test"]);
    let pending = pebble.begin(&names);
    let solver = dns01(dns.publisher(), &diary);
    let order = async |pending: &Pending| {
        let account = diary.account().unwrap_or(pebble.account.clone());
        let job = Job { account: &account, solver: &solver, ..pebble.job(pending) };
        pebble.issuer(&lab).carry_out(&job, &diary).await
    };

    // The power goes as soon as the CA has accepted the order.
    run(async {
        tokio::select! {
            _ = order(&pending) => panic!("the order was to be cut off"),
            () = diary.accepted() => {}
        }
    });
    let pending = diary.pending().unwrap();
    let outcome = run(order(&pending));

    outcome.result.unwrap();
    assert!(!outcome.accepted, "another order was made");
    assert_eq!(diary.published(), []);
    // What the CA does not know any more is no obstacle.
    let url = pending.url.as_ref().map(|url| url.replace("my-order/", "my-order/x"));
    let lost = Pending { url, ..pending };
    let outcome = run(order(&lost));
    outcome.result.unwrap();
    assert!(outcome.accepted);
}

fn invalid() {
    let lab = Lab::new();
    let dns = Challtestsrv::start(&lab);
    let pebble = Pebble::start(&lab, dns.dns, &[], None);
    let diary = Diary::default();
    let names = names(&["dns.home.test"]);
    let pending = pebble.begin(&names);
    let solver = dns01(dns.wrong_publisher(), &diary);

    let outcome = run(async {
        let job = Job { solver: &solver, ..pebble.job(&pending) };
        pebble.issuer(&lab).carry_out(&job, &diary).await
    });

    let Failure { kind, detail } = outcome.result.unwrap_err();
    assert_eq!(kind, Kind::Validation, "{detail}");
    assert!(detail.starts_with("dns.home.test: ") && detail.contains("DNS challenge"), "{detail}");
    assert!(outcome.accepted);
    assert_eq!(diary.published(), []);
}
