//! Certificates that others bring: the files as certbot, lego and NixOS leave them and replace them,
//! step by step, while a client shakes hands.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use firstlight::admin::report::{Certs, Condition, Status};
use firstlight::admin::{Health, Request};
use lab::clients::{ask_tls, checking, shake_hands};
use lab::{DAY, Daemon, LOCAL, Lab, eventually, now};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const NAME: &str = "dns.home.lan";
/// Longer than files have to stand unchanged to be told of.
const PAUSE: Duration = Duration::from_secs(6);

#[test]
fn certbot_swaps_symlinks_one_by_one() {
    let lab = Lab::new();
    let (live, archive) = (lab.path("live/dns.home.lan"), lab.path("archive/dns.home.lan"));
    for folder in [&live, &archive] {
        fs::create_dir_all(folder).unwrap();
    }
    let kinds = ["cert", "privkey", "chain", "fullchain"];
    let place = |kind: &str, number: usize| {
        let link = live.join(format!("{kind}.pem"));
        let _ = fs::remove_file(&link);
        symlink(format!("../../archive/dns.home.lan/{kind}{number}.pem"), link).unwrap();
    };
    let write = |number: usize, (chain, key): &(String, String)| {
        let file = |kind: &str| archive.join(format!("{kind}{number}.pem"));
        fs::write(file("privkey"), key).unwrap();
        for kind in ["cert", "chain", "fullchain"] {
            fs::write(file(kind), chain).unwrap();
        }
    };
    let first = issue(&lab, 1);
    write(1, &first);
    for kind in kinds {
        place(kind, 1);
    }
    let rig = Rig::boot(&lab, "live/dns.home.lan/fullchain.pem", "live/dns.home.lan/privkey.pem");
    rig.serves(&first);

    let renew = |number: usize, pair: &(String, String), pause: &dyn Fn()| {
        write(number, pair);
        for kind in kinds {
            let previous = live.join(format!("previous_{kind}.pem"));
            symlink(live.join(format!("{kind}.pem")).read_link().unwrap(), previous).unwrap();
        }
        for kind in kinds {
            place(kind, number);
            if kind == "privkey" {
                pause();
            }
        }
        for kind in kinds {
            fs::remove_file(live.join(format!("previous_{kind}.pem"))).unwrap();
        }
    };
    rig.renews(&lab, |pair, pause| renew(2, pair, pause));
    rig.renews_slowly(&lab, |pair, pause| renew(3, pair, pause));

    // With `--reuse-key` the key in the archive is a link to the one before.
    let key = fs::read_to_string(live.join("privkey.pem")).unwrap();
    let chain = lab.authority.issue_again(NAME, (-DAY, 80 * DAY), &key);
    symlink("privkey3.pem", archive.join("privkey4.pem")).unwrap();
    fs::write(archive.join("fullchain4.pem"), &chain).unwrap();
    for kind in ["privkey", "fullchain"] {
        place(kind, 4);
    }
    rig.serves(&(chain, String::new()));
    rig.never_failed();
}

#[test]
fn lego_writes_the_certificate_and_then_the_key_in_place() {
    let lab = Lab::new();
    fs::create_dir(lab.path("certificates")).unwrap();
    let [chain, key] = ["crt", "key"].map(|end| lab.path(&format!("certificates/{NAME}.{end}")));
    let renew = |(certificate, private): &(String, String), pause: &dyn Fn()| {
        for (file, text) in [(&chain, certificate), (&key, private)] {
            // Emptied, and then written.
            let mut file = File::create(file).unwrap();
            pause();
            file.write_all(text.as_bytes()).unwrap();
            pause();
        }
    };
    let first = issue(&lab, 1);
    renew(&first, &|| ());
    let rig = Rig::boot(&lab, "certificates/dns.home.lan.crt", "certificates/dns.home.lan.key");
    rig.serves(&first);

    rig.renews(&lab, renew);
    rig.renews_slowly(&lab, renew);

    // Or renamed, one after the other.
    rig.renews_slowly(&lab, |pair, pause| {
        rename_each(&lab, &[(&chain, &pair.0), (&key, &pair.1)], pause);
    });
    rig.never_failed();
}

#[test]
fn nixos_moves_each_file_into_place() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("acme/dns.home.lan")).unwrap();
    let file = |name: &str| lab.path(&format!("acme/dns.home.lan/{name}.pem"));
    let renew = |(chain, key): &(String, String), pause: &dyn Fn()| {
        let full = format!("{key}{chain}");
        let files = [
            (&file("fullchain"), chain),
            (&file("key"), key),
            (&file("cert"), chain),
            (&file("full"), &full),
        ];
        rename_each(&lab, &files, pause);
    };
    let first = issue(&lab, 1);
    renew(&first, &|| ());
    let rig = Rig::boot(&lab, "acme/dns.home.lan/fullchain.pem", "acme/dns.home.lan/key.pem");
    rig.serves(&first);

    rig.renews(&lab, renew);
    rig.renews_slowly(&lab, renew);
    rig.never_failed();
}

#[test]
fn one_file_may_hold_both_and_a_reload_takes_it_over_at_once() {
    let lab = Lab::new();
    let both =
        |(chain, key): &(String, String)| fs::write(lab.path("full.pem"), format!("{key}{chain}"));
    let [first, second] = [1, 2].map(|days| issue(&lab, days));
    both(&first).unwrap();
    let rig = Rig::boot(&lab, "full.pem", "full.pem");
    rig.serves(&first);

    both(&second).unwrap();
    rig.daemon.call(&Request::Reload).unwrap();

    assert_eq!(ask_tls(lab.dot(), LOCAL.0).unwrap().1[0], leaf(&second));
    rig.never_failed();
}

#[test]
fn other_files_at_a_reload_displace_nothing_until_they_hold_a_pair() {
    let lab = Lab::new();
    let [first, second] = [1, 2].map(|days| issue(&lab, days));
    fs::write(lab.path("one.pem"), format!("{}{}", first.0, first.1)).unwrap();
    let rig = Rig::boot(&lab, "one.pem", "one.pem");
    rig.serves(&first);

    lab.configure().certificate("two.pem", "two.key").write();
    rig.daemon.call(&Request::Reload).unwrap();

    let held = rig.condition("certificate-files");
    assert_eq!(held.severity, "warning");
    assert!(held.text.contains("two.pem") && held.text.contains("two.key"), "{}", held.text);
    assert!(held.text.contains("the pair read before is served on"), "{}", held.text);
    let told = || rig.daemon.log().lines().filter(|line| line.contains("two.pem")).count();
    assert_eq!(eventually(Duration::from_secs(5), || (told() > 0).then(told)), Some(1));
    rig.serves(&first);
    fs::write(lab.path("two.pem"), &second.0).unwrap();
    fs::write(lab.path("two.key"), &second.1).unwrap();
    rig.serves(&second);
    rig.cleared("certificate-files");
    assert_eq!(told(), 1, "{}", rig.daemon.log());
    rig.never_failed();
}

#[test]
fn one_that_nobody_renews_is_told_once_the_time_is_verified_and_not_before() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    wan.down();
    lab.authority.issue_files(&lab, NAME, (-85 * DAY, 5 * DAY));
    let daemon = setup.certificate("dns.home.lan.pem", "dns.home.lan.key").boot();

    // In 1970 it is not valid yet, and years later it is expired: nothing is said about either.
    daemon
        .wait_for("it is not judged", 5, |status| holds(status, "certificate-unjudged").is_some());
    assert!(holds(&daemon.status(), "certificate-expiring").is_none());
    let certs = || {
        let answer = daemon.call(&Request::Certs).unwrap();
        serde_json::from_value::<Certs>(answer).unwrap()
    };
    assert_eq!((certs().source.as_str(), certs().survives), ("files", None));
    let health = daemon.call(&Request::Health { kind: Health::Cert }).unwrap();
    assert_eq!(health["healthy"], true, "{health}");
    wan.up();
    let status = daemon
        .wait_for("it is judged", 30, |status| holds(status, "certificate-expiring").is_some());

    assert!(status.time.verified && holds(&status, "certificate-unjudged").is_none());
    let held = holds(&status, "certificate-expiring").unwrap();
    assert!(
        held.text.contains("expires in 4 d") && held.text.contains("renews its files"),
        "{}",
        held.text
    );
    let told = certs();
    assert_eq!((&*told.names, told.issuer.as_str()), (&[NAME.to_owned()][..], "CN=Lab"));
    assert_eq!(told.survives.map(|seconds| seconds / 86_400), Some(4));
    assert_eq!(told.conditions.len(), 1);
    lab.authority.issue_files(&lab, NAME, (-DAY, 89 * DAY));
    daemon.wait_for("it is renewed", 10, |status| {
        !status.conditions.iter().any(|held| held.name.starts_with("certificate"))
    });
}

/// Writes files into a folder of their own, and moves each into its place.
fn rename_each(lab: &Lab, files: &[(&PathBuf, &String)], pause: &dyn Fn()) {
    fs::create_dir_all(lab.path("fresh")).unwrap();
    let draft = |file: &Path| lab.path("fresh").join(file.file_name().unwrap());
    for (file, text) in files {
        fs::write(draft(file), text).unwrap();
    }
    for (file, _) in files {
        fs::rename(draft(file), file).unwrap();
        pause();
    }
}

fn issue(lab: &Lab, days: i128) -> (String, String) {
    lab.authority.issue(NAME, (-DAY, (60 + days) * DAY))
}

fn leaf((chain, _): &(String, String)) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()
}

fn holds<'s>(status: &'s Status, name: &str) -> Option<&'s Condition> {
    status.conditions.iter().find(|held| held.name == name)
}

/// A daemon, and a client that shakes hands all the time and checks what it is shown.
struct Rig {
    daemon: Daemon,
    stop: Arc<AtomicBool>,
    client: Option<JoinHandle<(usize, Vec<String>)>>,
    dot: SocketAddr,
}

impl Rig {
    fn boot(lab: &Lab, certificate: &str, key: &str) -> Self {
        let mut daemon = lab.configure().certificate(certificate, key).boot();
        daemon.serves(lab).unwrap();
        daemon.wait_for("commands are heard", 5, |_| true);
        let (stop, dot) = (Arc::new(AtomicBool::new(false)), lab.dot());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(lab.path("ca.pem")).unwrap()).unwrap();
        let config = checking(roots);
        let stopped = Arc::clone(&stop);
        let client = thread::spawn(move || {
            let (mut shaken, mut failures) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                match shake_hands(&config, NAME, dot) {
                    Ok(_) => shaken += 1,
                    Err(error) => failures.push(error),
                }
                thread::sleep(Duration::from_millis(10));
            }
            (shaken, failures)
        });
        Self { daemon, stop, client: Some(client), dot }
    }

    /// Waits until clients are shown `pair`, and says how long it took.
    fn serves(&self, pair: &(String, String)) -> Duration {
        let (begin, leaf) = (now(), leaf(pair));
        let shown = eventually(Duration::from_secs(60), || {
            (ask_tls(self.dot, LOCAL.0)?.1[0] == leaf).then_some(())
        });
        assert!(shown.is_some(), "not served after 60 s: {}", self.daemon.log());
        now() - begin
    }

    fn renews(&self, lab: &Lab, renew: impl Fn(&(String, String), &dyn Fn())) {
        let pair = issue(lab, 2);
        renew(&pair, &|| ());
        let took = self.serves(&pair);
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert!(holds(&self.daemon.status(), "certificate-files").is_none());
    }

    /// Whoever renews is interrupted after each step.
    fn renews_slowly(&self, lab: &Lab, renew: impl Fn(&(String, String), &dyn Fn())) {
        let pair = issue(lab, 3);
        let told = std::cell::Cell::new(false);
        renew(&pair, &|| {
            thread::sleep(PAUSE);
            let status = self.daemon.status();
            if let Some(held) = holds(&status, "certificate-files") {
                told.set(true);
                assert_eq!(held.severity, "warning");
                assert!(
                    held.text.contains(".pem with the key")
                        || held.text.contains(".crt with the key"),
                    "{}",
                    held.text
                );
                assert!(held.text.contains("served on"), "{}", held.text);
            }
        });
        assert!(told.get(), "{}", self.daemon.log());
        self.serves(&pair);
        self.cleared("certificate-files");
    }

    fn condition(&self, name: &str) -> Condition {
        let found =
            eventually(Duration::from_secs(10), || holds(&self.daemon.status(), name).cloned());
        found.unwrap_or_else(|| panic!("{name}: {}", self.daemon.log()))
    }

    fn cleared(&self, name: &str) {
        let cleared = |status: &Status| holds(status, name).is_none();
        self.daemon.wait_for("the condition is cleared", 5, cleared);
    }

    fn never_failed(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let (shaken, failures) = self.client.take().unwrap().join().unwrap();
        assert!(
            failures.is_empty(),
            "{} of {shaken} failed: {:?}",
            failures.len(),
            failures.first()
        );
        assert!(shaken > 0);
    }
}
