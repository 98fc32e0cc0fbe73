//! pebble, and the servers that it finds records at.

use std::fmt;
use std::fs;
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::spawn;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use firstlight::acme::{
    Account, Ca, Deadlines, DnsUpdate, Issuer, Job, Journal, Pending, Propagation, PublishError,
    Publisher, Solver, TsigHash, TxtRecord,
};
use firstlight::clock::UnixTime;
use firstlight::fetch::{self, Network, Transport};
use firstlight::host::kernel::{KernelClock, OsClock as _};
use firstlight::metered::Purpose;
use firstlight::node::ports::Clock;
use firstlight::tls::{Client, Roots};
use futures_util::future::BoxFuture;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Notify;

use crate::lab::{DAY, Lab, eventually, find};

/// Runs `work` as the daemon would, on one thread.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub(crate) fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

pub(crate) fn dns01(publisher: Arc<dyn Publisher>, diary: &Diary) -> Solver {
    Solver::Dns01 { publisher, propagation: Arc::new(diary.clone()) }
}

/// The machine's clock, which pebble has too, or one that is behind.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(crate) behind: Duration,
}

impl Clock for Machine {
    fn mono(&self) -> Instant {
        KernelClock.mono()
    }

    fn utc_at(&self, at: Instant) -> UnixTime {
        KernelClock.utc() - self.mono().saturating_duration_since(at) - self.behind
    }
}

/// Knows what it is told; the system's resolver knows none of these names.
#[derive(Debug)]
struct Hosts(Vec<(&'static str, IpAddr)>);

impl Network for Hosts {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let found = self.0.iter().filter(|(host, _)| *host == name).map(|(_, address)| *address);
        Box::pin(std::future::ready(Ok(found.collect())))
    }
}

/// What is kept of orders, and what was looked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Diary {
    kept: Arc<Mutex<Kept>>,
    accepted: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Kept {
    account: Option<Account>,
    registered: usize,
    pending: Option<Pending>,
    seen: Vec<TxtRecord>,
}

impl Diary {
    pub(crate) fn account(&self) -> Option<Account> {
        self.kept.lock().unwrap().account.clone()
    }

    pub(crate) fn registered(&self) -> usize {
        self.kept.lock().unwrap().registered
    }

    pub(crate) fn pending(&self) -> Option<Pending> {
        self.kept.lock().unwrap().pending.clone()
    }

    /// What was published and not taken back.
    pub(crate) fn published(&self) -> Vec<TxtRecord> {
        self.pending().unwrap().published
    }

    pub(crate) fn seen(&self) -> Vec<TxtRecord> {
        self.kept.lock().unwrap().seen.clone()
    }

    /// Until the CA has accepted an order.
    pub(crate) async fn accepted(&self) {
        self.accepted.notified().await;
    }
}

impl Journal for Diary {
    fn account(&self, account: &Account) {
        let mut kept = self.kept.lock().unwrap();
        kept.account = Some(account.clone());
        kept.registered += 1;
    }

    fn pending(&self, pending: &Pending) {
        self.kept.lock().unwrap().pending = Some(pending.clone());
        if pending.url.is_some() {
            self.accepted.notify_waiters();
        }
    }
}

impl Propagation for Diary {
    /// At the second look.
    fn sees<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, bool> {
        let seen = &mut self.kept.lock().unwrap().seen;
        let before = seen.contains(record);
        if !before {
            seen.push(record.clone());
        }
        Box::pin(std::future::ready(before))
    }
}

/// A program that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, log: &Path) -> Self {
        let out = fs::File::create(log).unwrap();
        let command = command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn listens(address: SocketAddr) {
    let connected = || TcpStream::connect(address).ok();
    assert!(eventually(Duration::from_secs(20), connected).is_some(), "nothing at {address}");
}

/// An ACME server.
pub(crate) struct Pebble {
    pub(crate) ca: Ca,
    /// Not registered yet.
    pub(crate) account: Account,
    address: SocketAddr,
    config: PathBuf,
    dns: SocketAddr,
    environment: Vec<(&'static str, &'static str)>,
    process: Option<Running>,
}

impl Pebble {
    pub(crate) fn start(
        lab: &Lab,
        dns: SocketAddr,
        environment: &[(&'static str, &'static str)],
        binding: Option<(&str, &str)>,
    ) -> Self {
        Self::start_issuing(lab, dns, environment, binding, 5 * 365 * 86_400)
    }

    /// Its certificates live for so many seconds.
    pub(crate) fn start_issuing(
        lab: &Lab,
        dns: SocketAddr,
        environment: &[(&'static str, &'static str)],
        binding: Option<(&str, &str)>,
        life: u32,
    ) -> Self {
        let address = lab.place(40, 14000);
        let valid = (-3650 * DAY, 3650 * DAY);
        lab.authority.issue_files_for(lab, "pebble", &["pebble.test", "acme-dns.test"], valid);
        let keys = binding.map_or_else(String::new, |(kid, key)| format!("\"{kid}\": \"{key}\""));
        let config = lab.path("pebble.json");
        let text = format!(
            "{{\"pebble\": {{\"listenAddress\": \"{address}\", \
             \"managementListenAddress\": \"{}\", \"certificate\": \"{}\", \"privateKey\": \"{}\", \
             \"httpPort\": 5002, \"tlsPort\": {DOH_PORT}, \"ocspResponderURL\": \"\", \
             \"certificateValidityPeriod\": {life}, \"externalAccountBindingRequired\": {}, \"externalAccountMACKeys\": {{{keys}}}}}}}",
            lab.place(40, 15000),
            lab.path("pebble.pem").display(),
            lab.path("pebble.key").display(),
            binding.is_some(),
        );
        fs::write(&config, text).unwrap();
        let ca = Ca {
            name: "pebble".into(),
            directory: "https://pebble.test:14000/dir".into(),
            roots: Roots::with_file(&lab.path("ca.pem")).unwrap(),
            binding: None,
        };
        let environment = environment.to_vec();
        let account = Account::fresh(&ca).unwrap();
        let mut pebble = Self { ca, account, address, config, dns, environment, process: None };
        pebble.restart();
        pebble
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it anew: it forgets everything.
    pub(crate) fn restart(&mut self) {
        self.process = None;
        let mut command = Command::new(find("pebble").unwrap());
        command.arg("-config").arg(&self.config).arg("-dnsserver").arg(self.dns.to_string());
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "0");
        command.env("PEBBLE_AUTHZREUSE", "0").envs(self.environment.iter().copied());
        self.process = Some(Running::start(&mut command, &self.config.with_extension("log")));
        listens(self.address);
    }

    pub(crate) fn transport(&self, lab: &Lab) -> Transport {
        let hosts =
            vec![("pebble.test", self.address().ip()), ("acme-dns.test", lab.address(43).into())];
        Transport {
            client: Client::new(Arc::new(Machine::default())).unwrap(),
            network: Arc::new(Hosts(hosts)),
            deadlines: fetch::Deadlines::default(),
            purpose: Purpose::Certificates,
        }
    }

    pub(crate) fn issuer(&self, lab: &Lab) -> Issuer {
        Issuer::new(self.transport(lab), Deadlines::default())
    }

    /// An order for `names` that has yet to be placed.
    pub(crate) fn begin(&self, names: &[String]) -> Pending {
        Pending::fresh(&self.ca.name, names).unwrap()
    }

    /// An order that is shown nothing.
    pub(crate) fn job<'a>(&'a self, pending: &'a Pending) -> Job<'a> {
        static NOBODY: std::sync::LazyLock<Solver> =
            std::sync::LazyLock::new(|| dns01(Arc::new(Nowhere), &Diary::default()));
        Job {
            ca: &self.ca,
            account: &self.account,
            register: false,
            profile: None,
            replaces: None,
            pending,
            solver: &NOBODY,
        }
    }
}

#[derive(Debug)]
struct Nowhere;

impl Publisher for Nowhere {
    fn present<'a>(&'a self, _: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(std::future::ready(Err(PublishError::Configured("nowhere".into()))))
    }

    fn withdraw<'a>(&'a self, _: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// knotd with the zone `home.test`, which the key `acme` may update at one name and below another.
pub(crate) struct Knot {
    pub(crate) address: SocketAddr,
    _process: Running,
}

const SECRET: &[u8] = b"32 octets that are known to both";

impl Knot {
    pub(crate) fn start(lab: &Lab) -> Self {
        let address = lab.place(41, 5391);
        let folder = lab.path("knot");
        fs::create_dir_all(&folder).unwrap();
        let zone = "$ORIGIN home.test.\n$TTL 60\n@ SOA ns admin 1 3600 600 86400 60\n@ NS ns\nns A \
                    192.0.2.1\n";
        fs::write(folder.join("home.test.zone"), zone).unwrap();
        let text = format!(
            "server:\n    listen: \"{}@{}\"\n    rundir: \"{at}\"\n\
             key:\n  - id: acme\n    algorithm: hmac-sha256\n    secret: \"{}\"\n\
             acl:\n  - id: acme\n    key: acme\n    action: update\n    update-type: [TXT]\n    \
             update-owner: name\n    update-owner-match: equal\n    \
             update-owner-name: [\"_acme-challenge.home.test.\", \"_acme-challenge.dns.home.test.\"]\n\
             database:\n    storage: \"{at}\"\n\
             template:\n  - id: default\n    storage: \"{at}\"\n    file: \"%s.zone\"\n\
             zone:\n  - domain: home.test\n    acl: acme\n",
            address.ip(),
            address.port(),
            BASE64.encode(SECRET),
            at = folder.display(),
        );
        let config = folder.join("knot.conf");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(find("knotd").unwrap());
        command.arg("-c").arg(&config);
        let process = Running::start(&mut command, &folder.join("log"));
        listens(address);
        Self { address, _process: process }
    }

    #[expect(clippy::unused_self, reason = "it is knotd's")]
    pub(crate) fn secret(&self) -> &'static [u8] {
        SECRET
    }

    pub(crate) fn publisher(&self, zone: &str, secret: &[u8]) -> Arc<dyn Publisher> {
        let key = ("acme", TsigHash::Sha256, secret);
        Arc::new(DnsUpdate::new(self.address, zone, key, Arc::new(Machine::default())).unwrap())
    }

    /// By way of a relay that has no TCP; `forged`: one that takes the signature off the answer.
    pub(crate) fn over_udp(&self, lab: &Lab, host: u8, forged: bool) -> Arc<dyn Publisher> {
        let relay = UdpSocket::bind(lab.place(host, 5391)).unwrap();
        let (here, there) = (relay.local_addr().unwrap(), self.address);
        spawn(move || {
            let mut octets = [0; 4096];
            while let Ok((length, client)) = relay.recv_from(&mut octets) {
                let behind = UdpSocket::bind("127.0.0.1:0").unwrap();
                behind.send_to(&octets[..length], there).unwrap();
                let length = behind.recv(&mut octets).unwrap();
                let mut answer = octets[..length].to_vec();
                if forged {
                    let mut message = Message::from_vec(&answer).unwrap();
                    message.take_signature();
                    answer = message.to_vec().unwrap();
                }
                relay.send_to(&answer, client).unwrap();
            }
        });
        let key = ("acme", TsigHash::Sha256, SECRET);
        Arc::new(DnsUpdate::new(here, "home.test", key, Arc::new(Machine::default())).unwrap())
    }

    /// The TXT records at `name`.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::TXT));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send_to(&message.to_vec().unwrap(), self.address).unwrap();
        let mut answer = [0; 4096];
        let length = socket.recv(&mut answer).unwrap();
        let message = Message::from_vec(&answer[..length]).unwrap();
        let texts = message.answers.iter().filter_map(|record| {
            if let RData::TXT(text) = &record.data { Some(text.to_string()) } else { None }
        });
        texts.collect()
    }
}

/// The machine that every name belongs to, and the port by which pebble looks for certificates there.
pub(crate) const DOH_HOST: u8 = 46;
pub(crate) const DOH_PORT: u16 = 5001;

/// pebble's own DNS server, which is told what to say over HTTP.
pub(crate) struct Challtestsrv {
    pub(crate) dns: SocketAddr,
    management: SocketAddr,
    _process: Running,
}

impl Challtestsrv {
    pub(crate) fn start(lab: &Lab) -> Self {
        let (dns, management) = (lab.place(42, 8053), lab.place(42, 8055));
        let mut command = Command::new(find("pebble-challtestsrv").unwrap());
        command.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]);
        command.args(["-defaultIPv4", &lab.address(DOH_HOST).to_string()]);
        command.args(["-dns01", &dns.to_string(), "-management", &management.to_string()]);
        let process = Running::start(&mut command, &lab.path("challtestsrv.log"));
        listens(management);
        Self { dns, management, _process: process }
    }

    pub(crate) fn alias(&self, name: &str, target: &str) {
        post(
            self.management,
            "set-cname",
            &format!("{{\"host\":\"{name}\",\"target\":\"{target}\"}}"),
        );
    }

    /// A program that tells it.
    pub(crate) fn hook(&self, lab: &Lab) -> PathBuf {
        let file = lab.path("publish");
        // Descriptors of bash in place of a client that might not be installed.
        let text = format!(
            "#!/bin/bash\nset -eu\necho \"$@\" >>{log}\n\
             case $1 in\n\
             present) what=set-txt body=\"{{\\\"host\\\":\\\"$2\\\",\\\"value\\\":\\\"$3\\\"}}\" ;;\n\
             cleanup) what=clear-txt body=\"{{\\\"host\\\":\\\"$2\\\"}}\" ;;\n\
             *) exit 2 ;;\nesac\n\
             exec 9<>/dev/tcp/{ip}/{port}\n\
             printf 'POST /%s HTTP/1.0\\r\\nContent-Length: %d\\r\\n\\r\\n%s' \
             $what ${{#body}} \"$body\" >&9\n\
             read -r answer <&9\n[[ $answer == *' 200 '* ]]\n",
            log = lab.path("hook.log").display(),
            ip = self.management.ip(),
            port = self.management.port(),
        );
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        file
    }

    pub(crate) fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(Told { management: self.management, honest: true })
    }

    /// One that publishes something else.
    pub(crate) fn wrong_publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(Told { management: self.management, honest: false })
    }
}

#[derive(Debug)]
struct Told {
    management: SocketAddr,
    honest: bool,
}

impl Publisher for Told {
    fn present<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        let TxtRecord { name, value } = record;
        let value = if self.honest { value } else { "nonsense" };
        post(self.management, "set-txt", &format!("{{\"host\":\"{name}\",\"value\":\"{value}\"}}"));
        Box::pin(std::future::ready(Ok(())))
    }

    fn withdraw<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        post(self.management, "clear-txt", &format!("{{\"host\":\"{}\"}}", record.name));
        Box::pin(std::future::ready(Ok(())))
    }
}

fn post(to: SocketAddr, what: &str, body: &str) {
    let mut stream = TcpStream::connect(to).unwrap();
    let length = body.len();
    write!(stream, "POST /{what} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 "), "{what}: {answer}");
}

/// Speaks as acme-dns does, over TLS, and has its records in challtestsrv.
pub(crate) struct AcmeDnsServer {
    pub(crate) url: String,
}

impl AcmeDnsServer {
    pub(crate) fn start(lab: &Lab, dns: &Challtestsrv) -> Self {
        let listener = std::net::TcpListener::bind(lab.place(43, 8443)).unwrap();
        let chain = CertificateDer::pem_file_iter(lab.path("pebble.pem")).unwrap();
        let chain = chain.collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(lab.path("pebble.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let (config, management) = (Arc::new(config), dns.management);
        spawn(move || {
            for tcp in listener.incoming() {
                let (config, tcp) = (Arc::clone(&config), tcp.unwrap());
                spawn(move || {
                    let session = rustls::ServerConnection::new(config).unwrap();
                    drop(serve(rustls::StreamOwned::new(session, tcp), management));
                });
            }
        });
        Self { url: "https://acme-dns.test:8443".into() }
    }
}

/// Answers one request.
fn serve(
    mut stream: rustls::StreamOwned<rustls::ServerConnection, TcpStream>,
    management: SocketAddr,
) -> io::Result<()> {
    let mut request = Vec::new();
    let body = loop {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer)?;
        request.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && body.ends_with('}')
        {
            break body.to_owned();
        }
    };
    let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
    let allowed = head.starts_with("post /update http/1.1")
        && head.contains("x-api-user: user\r\n")
        && head.contains("x-api-key: secret\r\n");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let (status, answer) = if allowed {
        let (subdomain, value) =
            (body["subdomain"].as_str().unwrap(), body["txt"].as_str().unwrap());
        let set = format!("{{\"host\":\"{subdomain}.acme-dns.test.\",\"value\":\"{value}\"}}");
        post(management, "set-txt", &set);
        ("200 OK", format!("{{\"txt\": \"{value}\"}}"))
    } else {
        ("401 Unauthorized", "{\"error\": \"forbidden\"}".to_owned())
    };
    let length = answer.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{answer}")?;
    stream.flush()
}

impl fmt::Debug for Pebble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pebble").field("address", &self.address).finish_non_exhaustive()
    }
}
