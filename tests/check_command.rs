//! `firstlight check`, as a person runs it.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Upstreams, witnesses and sources against which nothing is to be said.
const SOUND: &str = include_str!("../config/default.toml");

#[test]
fn a_sound_configuration_exits_with_0_and_one_line() {
    let folder = Folder::fresh();
    let file = folder.write("f.toml", format!("{}{SOUND}", folder.quiet()));

    let (code, sum, report) = check(&["--config", file.to_str().unwrap()]);

    assert_eq!(report, "");
    assert_eq!(sum, format!("{}: 0 errors, 0 warnings\n", file.display()));
    assert_eq!(code, 0);
}

#[test]
fn mistakes_exit_with_2_and_are_told_on_standard_error() {
    let folder = Folder::fresh();
    let file = folder.write("f.toml", "[dns]\nlistn = []\n[clock]\nquorum = -1\n");

    let (code, sum, report) = check(&["--config", file.to_str().unwrap()]);

    assert_eq!(code, 2);
    assert!(sum.ends_with("2 errors, 0 warnings\n"), "{sum}");
    assert!(report.contains(&format!("--> {}:2:1\n", file.display())), "{report}");
    assert!(report.contains("did you mean `listen`?"), "{report}");
    assert!(report.contains(":4:10\n"), "{report}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let (code, _, report) = check(&["--config", "/nowhere/firstlight.toml"]);

    assert_eq!(code, 2);
    assert!(report.contains("cannot read /nowhere/firstlight.toml"), "{report}");
}

#[test]
fn a_file_that_is_no_text_is_a_mistake_with_a_place() {
    let folder = Folder::fresh();
    let file = folder.write("f.toml", b"[dns]\ncanary = \xff\n");

    let (code, _, report) = check(&["--config", file.to_str().unwrap()]);

    assert_eq!(code, 2);
    assert!(report.contains("f.toml:2:10") && report.contains("not UTF-8"), "{report}");
}

#[test]
fn what_does_not_fit_this_machine_is_a_warning_at_its_place() {
    let folder = Folder::fresh();
    let (tcp, udp) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    folder.write("empty.pem", "");
    folder.write("state", "a file where a directory should be");
    let text = format!(
        "[state]\ndirectory = \"state\"\n\
         [dns]\nlisten = []\n\
         [dot]\nlisten = [\"{}\"]\n\
         [doh]\nlisten = [\"192.0.2.77:8443\"]\n\
         [doq]\nlisten = [\"{}\"]\n\
         [ntp]\nlisten = []\n\
         [nts]\nlisten = []\n\
         [tls]\ncertificate = \"gone.pem\"\nkey = \"k.pem\"\n\
         [control]\ngroup = \"no-such-group\"\n\
         [clock]\nleap_file = \"empty.pem\"\n\
         [[clock.witness]]\nname = \"w.example.org\"\naddress = \"192.0.2.1\"\nca = \"empty.pem\"\n\
         [[clock.refclock]]\nkind = \"nmea\"\npath = \"/dev/no-such-tty\"\n\
         [metrics]\nlisten = []\n{SOUND}",
        tcp.local_addr().unwrap(),
        udp.local_addr().unwrap(),
    );
    let file = folder.write("f.toml", &text);

    let (code, sum, report) = check(&["--config", file.to_str().unwrap()]);

    for (place, message) in [
        (":2:13\n", "not a directory"),
        (":6:11\n", "cannot listen on TCP 127.0.0.1:"),
        (":8:11\n", "no interface has this address"),
        (":10:11\n", "cannot listen on UDP 127.0.0.1:"),
        (":16:15\n", "gone.pem: No such file"),
        (":19:9\n", "no group `no-such-group`"),
        (":21:13\n", "empty.pem is no list of leap seconds"),
        (":25:6\n", "empty.pem: no certificate"),
        (":28:8\n", "cannot use /dev/no-such-tty: No such file"),
    ] {
        assert!(report.contains(place) && report.contains(message), "{message}\n{report}");
    }
    assert!(sum.ends_with("0 errors, 9 warnings\n"), "{sum}{report}");
    assert_eq!(code, 0);
}

#[test]
fn files_of_keys_hints_and_anchors_are_read_and_what_is_wrong_in_them_is_named() {
    let folder = Folder::fresh();
    let keys = folder.write("keys", "1 SHA1 secret\n2 MD5 secret\n");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).unwrap();
    folder.write("hints", "; nothing\n");
    folder.write("anchors", "no anchors\n");
    let dns = "[dns]\nmode = \"recurse\"\nroot_hints = \"hints\"\nvalidate = true\n\
               trust_anchors = \"anchors\"\n";
    let quiet = folder.quiet();
    let quiet = quiet.replace("[dns]\n", dns).replace("[ntp]\n", "[ntp]\nkeys = \"keys\"\n");
    let source = "[[clock.source]]\naddress = \"192.0.2.9\"\noperator = \"own\"\nkey = 3\n";
    let file = folder.write("f.toml", format!("{quiet}{SOUND}{source}"));

    let (code, _, report) = check(&["--config", file.to_str().unwrap()]);

    for message in [
        "hints: it holds no A or AAAA record",
        "anchors",
        "keys: line 2: key 2: type MD5 is not used",
        "keys: others can read it (mode 0644)",
        "keys holds no key 3",
    ] {
        assert!(report.contains(message), "{message}\n{report}");
    }
    assert_eq!(code, 0, "{report}");
}

#[test]
fn a_certificate_must_fit_its_key_and_carry_the_name() {
    let folder = Folder::fresh();
    let pair = rcgen::generate_simple_self_signed(["dns.home.lan".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["dns.home.lan".to_owned()]).unwrap();
    folder.write("chain.pem", pair.cert.pem());
    folder.write("key.pem", pair.signing_key.serialize_pem());
    folder.write("other.pem", other.signing_key.serialize_pem());
    folder.write("garbage.pem", "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n");
    let check_pair = |name: &str, key: &str| {
        let quiet = folder.quiet();
        let tls =
            format!("[tls]\nname = \"{name}\"\ncertificate = \"chain.pem\"\nkey = \"{key}\"\n");
        let file = folder.write("f.toml", format!("{quiet}{tls}{SOUND}"));
        check(&["--config", file.to_str().unwrap()]).2
    };

    assert_eq!(check_pair("dns.home.lan", "key.pem"), "");
    assert!(check_pair("dns.home.lan", "other.pem").contains("is not the key of"));
    assert!(check_pair("dns.home.lan", "garbage.pem").contains("no private key in it"));
    assert!(check_pair("ns.home.lan", "key.pem").contains("does not carry the name `ns.home.lan`"));
}

/// `[acme]` as far as every test has it.
const ORDERED: &str = "[tls]\nname = \"dns.example.org\"\n[acme]\nagree = true\n";

#[test]
fn files_of_acme_are_read_as_the_daemon_reads_them() {
    let folder = Folder::fresh();
    let secret = |name: &str, content: &str, mode| {
        let file = folder.write(name, content);
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    };
    secret("tsig.key", "c2VjcmV0\n", 0o600);
    secret("eab.key", "c2VjcmV0\n", 0o640);
    secret("open.key", "c2VjcmV0\n", 0o644);
    secret("accounts.json", ACCOUNTS, 0o600);
    secret("hook", "#!/bin/sh\n", 0o755);
    secret("open-hook", "#!/bin/sh\n", 0o777);
    folder.write("empty.pem", "");
    let update = "[acme.update]\naddress = \"192.0.2.1\"\nzone = \"example.org\"\n\
                  key_name = \"k\"\nkey_file = \"tsig.key\"\n";
    let hook = format!("[acme.hook]\nprogram = \"{}/hook\"\n", folder.0.display());
    let acme_dns = "[acme.acme_dns]\nurl = \"https://a.example\"\naccounts = \"accounts.json\"\n";
    let ca = "[[acme.ca]]\nname = \"zerossl\"\neab_kid = \"k\"\neab_key_file = \"eab.key\"\n";
    let told = |names: &str, rest: &str| {
        let text = format!("{}{ORDERED}{names}\n{rest}{SOUND}", folder.quiet());
        let file = folder.write("f.toml", text);
        let (code, _, report) = check(&["--config", file.to_str().unwrap()]);
        assert_eq!(code, 0, "{report}");
        report
    };

    for sound in [format!("{update}{ca}"), hook.clone(), acme_dns.to_owned()] {
        assert_eq!(told("", &sound), "");
    }
    let names = "names = [\"*.example.org\", \"dns.example.org\", \"a.example.org\", \
                 \"*.a.example.org\"]";
    for (names, rest, place, message) in [
        ("", update.replace("tsig.key", "gone.key"), ":24:12\n", "gone.key: No such file"),
        ("", update.replace("tsig.key", "accounts.json"), ":24:12\n", "not hold a key in base64"),
        ("", update.replace("tsig.key", "open.key"), ":24:12\n", "(mode 0644)"),
        (
            "",
            update.to_owned() + &ca.replace("eab.key", "accounts.json"),
            ":28:16\n",
            "key in base64url",
        ),
        ("", update.to_owned() + &ca.replace("eab.key", "open.key"), ":28:16\n", "(mode 0644)"),
        ("", format!("{update}{ca}ca = \"empty.pem\"\n"), ":29:6\n", "empty.pem: no certificate"),
        ("", hook.replace("hook\"", "gone\""), ":21:11\n", "gone: No such file"),
        ("", hook.replace("/hook\"", "/open-hook\""), ":21:11\n", "others may write it"),
        ("", acme_dns.replace("accounts.json", "tsig.key"), ":22:12\n", "this is no JSON"),
        ("", format!("{acme_dns}ca = \"empty.pem\"\n"), ":23:6\n", "empty.pem: no certificate"),
        (
            names,
            acme_dns.to_owned(),
            ":22:12\n",
            "holds no account for `a.example.org`, `example.org`",
        ),
    ] {
        let report = told(names, &rest);
        assert!(report.contains(place) && report.contains(message), "{message}\n{report}");
        assert_eq!(report.matches("warning: ").count(), 1, "{report}");
        assert!(!report.contains("hunter2"), "{report}");
    }
}

const ACCOUNTS: &str = r#"{"dns.example.org": {"fulldomain": "d.a.example", "subdomain": "d",
    "username": "u", "password": "hunter2"}}"#;

#[test]
fn two_boxes_of_a_pair_are_told_where_they_lock_each_other_out() {
    let folder = Folder::fresh();
    let hook = folder.write("hook", "#!/bin/sh\n");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let hook = format!("[acme.hook]\nprogram = \"{}\"\n", hook.display());
    let of = |name: &str, rest: &str| {
        let text = format!("{}{ORDERED}{rest}\n{hook}{SOUND}", folder.quiet());
        folder.write(name, text).to_str().unwrap().to_owned()
    };
    let pair = |one: &str, other: &str| {
        let (code, sum, report) = check(&["--config", one, "--pair", other]);
        assert_eq!(code, 0, "{report}");
        assert!(sum.starts_with(one), "{sum}");
        report
    };
    let named = |own: &str| format!("names = [\"dns.example.org\", \"{own}.example.org\"]\n");
    let (one, other) = (of("1.toml", &named("pi1")), of("2.toml", &named("pi2")));
    let sound = of("3.toml", &(named("pi2") + "life_percent = 55\n"));
    let twin = of("4.toml", &(named("pi1") + "life_percent = 55\n"));

    assert_eq!(pair(&one, &sound), "");
    let report = pair(&one, &other);
    assert!(report.contains("2.toml renews after 60 % of the life, too"), "{report}");
    assert!(
        report.contains("1.toml:17:1\n") && report.matches("warning: ").count() == 1,
        "{report}"
    );
    let report = pair(&one, &twin);
    assert!(report.contains("4.toml orders for exactly these names of `letsencrypt`"), "{report}");
    assert!(
        report.contains("1.toml:19:9\n") && report.matches("warning: ").count() == 1,
        "{report}"
    );

    // At another CA, or under another name.
    let ca = "[[acme.ca]]\nname = \"own\"\ndirectory = \"https://ca.example.org/\"\n";
    let apart = of("5.toml", &(named("pi1") + "life_percent = 55\n" + ca));
    assert_eq!(pair(&one, &apart), "");
    let text = fs::read_to_string(&sound).unwrap();
    let text = text.replace("dns.example.org", "ns.example.org");
    let stranger = folder.write("6.toml", text);
    let report = pair(&one, stranger.to_str().unwrap());
    assert!(report.contains("neither certificate would have the other's name"), "{report}");

    // One that orders nothing has nothing to lose; one that cannot be read is named.
    let files = folder.write("7.toml", format!("{}{SOUND}", folder.quiet()));
    assert_eq!(pair(&one, files.to_str().unwrap()), "");
    let broken = folder.write("8.toml", "[acme]\n");
    let (code, _, report) = check(&["--config", &one, "--pair", broken.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(report.contains("8.toml:1:1\n"), "{report}");
    let (code, _, report) = check(&["--config", &one, "--pair", "/nowhere/2.toml"]);
    assert_eq!(code, 2);
    assert!(report.contains("cannot read /nowhere/2.toml"), "{report}");
}

fn check(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstlight"));
    let output = command.arg("check").args(arguments).output().unwrap();
    let text = |octets| String::from_utf8(octets).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A folder below the system's temporary one, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn fresh() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("firstlight-check-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Settings that ask nothing of the machine the test runs on.
    fn quiet(&self) -> String {
        let listen = ["dns", "dot", "doh", "doq", "ntp", "nts"]
            .map(|name| format!("[{name}]\nlisten = []\n"));
        format!("[state]\ndirectory = \"{}\"\n{}", self.0.display(), listen.concat())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
