//! What is got of certificate authorities, on a real disk: damaged, full, and read by nobody else.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use firstlight::acme::kept::{Issued, Kept};
use firstlight::acme::{Account, KeyPem, Pending};
use firstlight::host::state::StateDir;
use lab::{DAY, Lab};
use nix::sched::{CloneFlags, unshare};

#[test]
fn keys_are_for_nobody_else_to_read() {
    let lab = Lab::new();
    let kept = open(&lab.path("state/acme"));

    kept.keep_account(&account()).unwrap();
    kept.keep_order(&pending(&issued(&lab, 0))).unwrap();
    kept.keep_certificate(&issued(&lab, 0)).unwrap();

    let names = lab.names_in("state/acme");
    assert_eq!(names, ["account-ca", "certificate-1", "copy-of-account-ca", "order-ca"]);
    let mode = |name: &str| fs::metadata(lab.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("state/acme"), 0o700);
    for name in names {
        assert_eq!(mode(&format!("state/acme/{name}")), 0o600, "{name}");
    }
}

#[test]
fn a_file_cut_short_anywhere_costs_that_file_alone() {
    let lab = Lab::new();
    let folder = lab.path("state/acme");
    let kept = open(&folder);
    kept.keep_certificate(&issued(&lab, 0)).unwrap();
    kept.keep_certificate(&issued(&lab, 1)).unwrap();
    kept.keep_account(&account()).unwrap();
    let files = ["account-ca", "certificate-2"].map(|name| folder.join(name));
    let whole = files.clone().map(|file| fs::read(file).unwrap());

    for part in 0..50 {
        for (file, whole) in files.iter().zip(&whole) {
            fs::write(file, &whole[..whole.len() * part / 50]).unwrap();
        }

        let kept = open(&folder);
        assert_eq!(kept.certificates().len(), 1);
        assert_eq!(kept.account_at("ca"), Some(account()));

        let text = kept.alarm().unwrap().text;
        for file in &files {
            assert!(text.contains(&format!("{}.bad", file.display())), "{text}");
        }
        // Told once: the next process finds nothing that is damaged.
        assert!(open(&folder).certificates().len() == 1 && open(&folder).alarm().is_none());
    }
}

#[test]
fn a_full_disk_leaves_the_old_certificate_and_is_made_up_for() {
    let lab = Lab::new();
    // Mounts of this thread's own, which go with it.
    let filled = thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNS).is_err() {
            return;
        }
        let folder = lab.path("small");
        fs::create_dir(&folder).unwrap();
        let mounted = "mount --make-rprivate / && exec mount -t tmpfs -o size=64k none \"$0\"";
        let mounted = Command::new("sh").args(["-c", mounted]).arg(&folder).status().unwrap();
        if mounted.success() {
            fills_up(&lab, &folder);
        }
    });
    filled.join().unwrap();
}

fn fills_up(lab: &Lab, folder: &Path) {
    let kept = open(&folder.join("acme"));
    let [old, fresh] = [0, 1].map(|days| issued(lab, days));
    kept.keep_certificate(&old).unwrap();
    kept.keep_order(&pending(&fresh)).unwrap();
    let ballast = folder.join("ballast");
    drop(fs::write(&ballast, vec![0; 1 << 20]));

    // It comes while there is no space, and nothing else can be begun.
    kept.keep_certificate(&fresh).unwrap();
    assert!(kept.keep_account(&account()).is_err());

    assert_eq!(kept.certificates().len(), 2);
    let text = kept.alarm().unwrap().text;
    assert!(text.contains("No space left") && text.contains("certificate-2"), "{text}");
    kept.retry();
    assert_eq!(kept.alarm().unwrap().text, text);
    let other = open(&folder.join("acme"));
    assert_eq!(other.certificates().len(), 1);
    assert_eq!(other.order_at("ca"), Some(pending(&fresh)));

    fs::remove_file(ballast).unwrap();
    kept.retry();

    assert_eq!(kept.alarm(), None);
    let other = open(&folder.join("acme"));
    assert_eq!((other.certificates().len(), other.order_at("ca"), other.alarm()), (2, None, None));
}

fn open(folder: &Path) -> Kept {
    let (state, _) = StateDir::open(folder);
    Kept::new(Arc::new(state))
}

fn issued(lab: &Lab, days: i128) -> Issued {
    let (chain, key) = lab.authority.issue("dns.home.lan", (days * DAY, (days + 90) * DAY));
    Issued { ca: "ca".to_owned(), got: 0, chain, key: KeyPem(key) }
}

fn pending(issued: &Issued) -> Pending {
    Pending {
        ca: "ca".to_owned(),
        names: vec!["dns.home.lan".to_owned()],
        key: issued.key.clone(),
        url: Some("https://ca.test/order/1".to_owned()),
        published: Vec::new(),
    }
}

fn account() -> Account {
    Account {
        ca: "ca".to_owned(),
        directory: "https://ca.test/directory".to_owned(),
        url: Some("https://ca.test/account/7".to_owned()),
        key: KeyPem("a key".to_owned()),
    }
}
