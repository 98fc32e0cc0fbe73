//! The disk on which the daemon keeps its certificates is full.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use nix::sched::{CloneFlags, unshare};

use crate::lab::{Daemon, eventually};
use crate::rig::{Rig, shake_hands};

/// Certificates live for so many seconds.
const LIFE: u32 = 24;
/// So many are to come while there is no space.
const WITHOUT_SPACE: usize = 3;

/// A trial that is ignored where nothing can be mounted.
pub(crate) fn mounting(trial: Trial) -> Trial {
    let mounted = Command::new("unshare").args(["-m", "true"]).output();
    if mounted.is_ok_and(|mounted| mounted.status.success()) {
        return trial;
    }
    trial.with_kind("nothing can be mounted").with_ignored_flag(true)
}

pub(crate) fn before_a_renewal() {
    on_a_small_disk(|rig, disk| {
        let daemon = rig.boot();
        rig.watch(&daemon).stop();
        disk.fill();
        goes_on(rig, disk, daemon);
    });
}

pub(crate) fn from_the_very_start() {
    on_a_small_disk(|rig, disk| {
        disk.fill();
        let daemon = rig.boot();
        goes_on(rig, disk, daemon);
    });
}

/// Without space certificates come in memory, and with space they are kept.
fn goes_on(rig: &Rig, disk: &Disk, mut daemon: Daemon) {
    let client = rig.watch(&daemon);
    let full = daemon.wait_for("certificate-store", 20, |status| {
        status.conditions.iter().any(|condition| condition.name == "certificate-store")
    });
    let text = full.conditions.iter().find(|it| it.name == "certificate-store");
    let text = &text.unwrap().text;
    assert!(text.contains("No space left") && text.contains("make space"), "{text}");

    let mut told = BTreeSet::new();
    let renewed = eventually(Duration::from_secs(120), || {
        told.extend(daemon.status().conditions.into_iter().map(|condition| condition.name));
        (client.serials().len() > WITHOUT_SPACE).then_some(())
    });
    assert!(renewed.is_some(), "{:?}\n{}", client.serials(), daemon.log());
    // With a quarter of its life left a certificate does expire soon.
    told.retain(|name| name.starts_with("certificate") && name != "certificate-expiring");
    assert_eq!(told.into_iter().collect::<Vec<_>>(), ["certificate-store"], "{}", daemon.log());
    let said = || fs::read_to_string(rig.lab.path("pebble.log")).unwrap();
    let (orders, serials) = (said().matches("Added order").count(), client.serials().len());
    assert!((serials..=serials + 1).contains(&orders), "{orders} for {serials}");

    disk.free();
    daemon.wait_for("space is found", 70, |status| {
        !status.conditions.iter().any(|condition| condition.name == "certificate-store")
    });
    let (shaken, failures) = client.stop();
    assert_eq!(failures, Vec::<String>::new(), "{}", daemon.log());
    assert!(shaken > 100, "{shaken}");

    // What is served is what is kept, and so is the account.
    let checking = rig.checking();
    let served = || shake_hands(&checking, rig.lab.dot());
    let serial = served();
    daemon.kill();
    let daemon = rig.boot();
    assert_eq!(served(), serial, "{}", daemon.log());
    let renewed = eventually(Duration::from_secs(30), || (served() != serial).then_some(()));
    assert!(renewed.is_some(), "{}", daemon.log());
    assert!(said().contains("now 1 accounts") && !said().contains("now 2 accounts"), "{}", said());
}

/// The state directory of a rig.
struct Disk(PathBuf);

impl Disk {
    /// Neither an octet nor a file more.
    fn fill(&self) {
        let folder = self.0.join("ballast");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("octets"), vec![0; 1 << 20]).unwrap_err();
        (0..10_000).find(|file| fs::write(folder.join(file.to_string()), []).is_err()).unwrap();
    }

    fn free(&self) {
        fs::remove_dir_all(self.0.join("ballast")).unwrap();
    }
}

/// In a thread with mounts of its own, as have the programs that it starts.
fn on_a_small_disk(story: fn(&Rig, &Disk)) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let rig = Rig::start(LIFE);
        let disk = Disk(rig.lab.path("state"));
        fs::create_dir(&disk.0).unwrap();
        let shell = |script: &str| {
            let status = Command::new("sh").args(["-c", script]).arg(&disk.0).status().unwrap();
            assert!(status.success(), "{script}");
        };
        shell(
            "mount --make-rprivate / && exec mount -t tmpfs -o size=512k,nr_inodes=200,mode=700 none \"$0\"",
        );
        story(&rig, &disk);
        shell("umount --lazy \"$0\"");
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}
