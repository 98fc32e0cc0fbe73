//! What people run: curl, stubby, systemd-resolved and Chromium are answered over an encrypted
//! connection whose certificate they verify; and are not where it is not the one they look for.
//!
//! None of them changes the machine: those that read fixed files see them in a mount namespace.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use lab::clients::ask_udp;
use lab::{Daemon, LOCAL, Lab, YEAR, eventually, find};
use libtest_mimic::{Arguments, Trial};
use nix::unistd::geteuid;

/// Where systemd keeps its servers.
const RESOLVED: &str = "/lib/systemd/systemd-resolved";
/// A local name whose address serves the page.
const SITE: &str = "page.home.lan";
const PAGE: &str = "the page of the house";
/// The certificate of an authority that signed nothing here.
const STRANGER: &str = "stranger.pem";

fn main() {
    let trials = vec![
        trial("curl_fetches_a_page_by_doh", &["curl"], false, curl),
        trial("stubby_in_strict_mode_is_answered", &["stubby"], false, stubby),
        trial(
            "systemd_resolved_in_strict_mode_is_answered",
            &[RESOLVED, "unshare", "mount"],
            true,
            resolved,
        ),
        trial(
            "chromium_shows_a_page_by_doh_alone",
            &["chromium", "certutil", "unshare", "mount"],
            true,
            chromium,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Ignored, with the reason, where one of `programs` or, if it takes that, root is missing.
fn trial(name: &str, programs: &[&str], root: bool, test: fn()) -> Trial {
    let missing = programs.iter().find(|program| find(program).is_none());
    let reason = match missing {
        Some(program) => format!("{program} is not installed"),
        None if root && !geteuid().is_root() => "a mount namespace takes root".to_owned(),
        None => String::new(),
    };
    let ignored = !reason.is_empty();
    Trial::test(name, move || {
        test();
        Ok(())
    })
    .with_kind(reason)
    .with_ignored_flag(ignored)
}

fn curl() {
    let house = House::new();
    let fetch = |authority: &str| {
        let url = format!("https://{}/dns-query", house.lab.doh());
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "10", "--cacert", authority])
            .args(["--doh-url", &url, &house.url()])
            .current_dir(house.lab.path(""))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };

    house.hears_only_encrypted(|| assert!(fetch("ca.pem").contains(PAGE)));
    assert_eq!(fetch(STRANGER), "", "believed without the authority");
}

fn stubby() {
    let house = House::new();
    for (name, answers) in [("dns.home.lan", true), ("other.home.lan", false)] {
        let stub = house.lab.place(30, 5300);
        let (to, ca) = (house.lab.dot(), house.lab.path("ca.pem"));
        let text = format!(
            "resolution_type: GETDNS_RESOLUTION_STUB\n\
             dns_transport_list: [GETDNS_TRANSPORT_TLS]\n\
             tls_authentication: GETDNS_AUTHENTICATION_REQUIRED\n\
             tls_ca_file: \"{ca}\"\n\
             listen_addresses:\n  - {}@{}\n\
             upstream_recursive_servers:\n  \
             - address_data: {}\n    tls_port: {}\n    tls_auth_name: \"{name}\"\n",
            stub.ip(),
            stub.port(),
            to.ip(),
            to.port(),
            ca = ca.display(),
        );
        let file = house.lab.path("stubby.yml");
        fs::write(&file, text).unwrap();
        let mut command = Command::new("stubby");
        command.arg("-C").arg(file);
        let _running = Running::start(command, &house.lab.path("stubby.log"));

        house.is_asked_through(stub, answers);
    }
}

fn resolved() {
    let house = House::new();
    for (name, answers) in [("dns.home.lan", true), ("other.home.lan", false)] {
        let stub = house.lab.place(30, 5300);
        let text = format!(
            "[Resolve]\nDNS={}#{name}\nDNSOverTLS=yes\nDomains=~.\nDNSSEC=no\nLLMNR=no\n\
             MulticastDNS=no\nDNSStubListener=no\nDNSStubListenerExtra={stub}\n",
            house.lab.dot()
        );
        let file = house.lab.path("resolved.conf");
        fs::write(&file, text).unwrap();
        let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/resolve && \
                      chown systemd-resolve:systemd-resolve /run/systemd/resolve && \
                      mount --bind resolved.conf /etc/systemd/resolved.conf && \
                      mount --bind ca.pem /etc/ssl/certs/ca-certificates.crt && \
                      exec env SYSTEMD_LOG_TARGET=console \"$0\"";
        let command = house.in_own_mounts(script, RESOLVED);
        let _running = Running::start(command, &house.lab.path("resolved.log"));

        house.is_asked_through(stub, answers);
    }
}

fn chromium() {
    let house = House::new();
    let policy = serde_json::json!({
        "BuiltInDnsClientEnabled": true,
        "DnsOverHttpsMode": "secure",
        "DnsOverHttpsTemplates": format!("https://{}/dns-query", house.lab.doh()),
    });
    fs::write(house.lab.path("policy.json"), policy.to_string()).unwrap();
    let show = |authority: &str| {
        let script = format!(
            "mkdir -p /etc/chromium/policies && mount -t tmpfs tmpfs /etc/chromium/policies && \
             mkdir /etc/chromium/policies/managed && \
             cp policy.json /etc/chromium/policies/managed && \
             rm -rf home && mkdir -p home/.pki/nssdb && export HOME=$PWD/home && \
             certutil -d sql:home/.pki/nssdb -N --empty-password && \
             certutil -d sql:home/.pki/nssdb -A -t C,, -n lab -i {authority} && \
             exec timeout --kill-after 5 60 chromium --headless --no-sandbox --disable-gpu \
             --disable-quic --no-first-run --disable-background-networking \
             --disable-component-update --disable-default-apps --disable-sync \
             --user-data-dir=$PWD/home/profile --dump-dom \"$0\""
        );
        let output = house.in_own_mounts(&script, &house.url()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };

    house.hears_only_encrypted(|| {
        let shown = show("ca.pem");
        assert!(shown.contains(PAGE), "{shown}");
    });
    let shown = show(STRANGER);
    assert!(!shown.contains(PAGE), "believed without the authority: {shown}");
}

/// The daemon with a certificate of the lab's authority, and a web server that only it knows.
struct House {
    daemon: Daemon,
    site: SocketAddr,
    lab: Lab,
}

impl House {
    fn new() -> Self {
        let lab = Lab::new();
        // Whatever the machine's clock shows: these clients judge by it.
        let names = ["dns.home.lan", &lab.dns().ip().to_string()];
        lab.authority.issue_files_for(&lab, "dns", &names, (-20 * YEAR, 20 * YEAR));
        let stranger = rcgen::generate_simple_self_signed([SITE.to_owned()]).unwrap();
        fs::write(lab.path(STRANGER), stranger.cert.pem()).unwrap();
        let site = serve_page(lab.place(40, 0));
        let setup = lab.configure().certificate("dns.pem", "dns.key");
        setup.name(SITE, lab.address(40)).write();
        let mut daemon = Daemon::start(&lab, &[]);
        daemon.serves(&lab).unwrap();
        Self { daemon, site, lab }
    }

    fn url(&self) -> String {
        format!("http://{SITE}:{}/", self.site.port())
    }

    /// What `client` asks reaches the daemon, and none of it in plaintext.
    fn hears_only_encrypted(&self, client: impl FnOnce()) {
        let counted = || {
            let counters = self.daemon.status().dns.counters;
            ["local", "udp_received"].map(|name| counters[name])
        };
        let [local, plain] = counted();

        client();

        let after = counted();
        assert!(after[0] > local, "nothing was asked");
        assert_eq!(after[1], plain, "questions in plaintext");
    }

    /// A resolver on the machine passes questions on to the daemon, or rather gives no answer.
    fn is_asked_through(&self, stub: SocketAddr, answers: bool) {
        let up = eventually(Duration::from_secs(10), || TcpStream::connect(stub).ok());
        assert!(up.is_some(), "no stub; its log is in {}", self.lab.path("").display());
        let ask = || ask_udp(stub, LOCAL.0).filter(|answer| answer.addresses == [LOCAL.1]);
        if answers {
            self.hears_only_encrypted(|| {
                let answer = eventually(Duration::from_secs(10), ask);
                assert!(answer.is_some(), "no answer; see {}", self.lab.path("").display());
            });
        } else {
            assert_eq!(ask(), None, "believed under another name");
        }
    }

    /// `script` with `$0`, as root of mounts of its own.
    fn in_own_mounts(&self, script: &str, argument: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, argument]).current_dir(self.lab.path(""));
        command
    }
}

/// A program at work; killed by its id at the end.
struct Running(Child);

impl Running {
    fn start(mut command: Command, log: &Path) -> Self {
        let log = fs::File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A web server with one page, until the test ends.
fn serve_page(address: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { continue };
            drop(client.set_read_timeout(Some(Duration::from_secs(1))));
            drop(client.read(&mut [0; 4096]));
            let response = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{PAGE}",
                PAGE.len()
            );
            drop(client.write_all(response.as_bytes()));
        }
    });
    address
}
