//! A daemon that orders: its CA, the DNS server it updates, the resolvers it asks, and its clients.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use firstlight::clock::magnitude;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use x509_parser::parse_x509_certificate;

use crate::lab::{DAY, Daemon, Lab, Resolver, Wan, eventually, find, truth};
use crate::world::{Knot, Pebble};

/// What clients check.
pub(crate) const NAME: &str = "dns.home.test";
/// How often they shake hands.
const EACH: Duration = Duration::from_millis(200);

/// All that a daemon needs that orders its certificate by signed updates.
pub(crate) struct Rig {
    pub(crate) lab: Lab,
    pub(crate) knot: Knot,
    pub(crate) pebble: Pebble,
    config: String,
    _wan: Wan,
    _resolvers: [Resolver; 2],
}

impl Rig {
    /// The CA's certificates live for so many seconds.
    pub(crate) fn start(life: u32) -> Self {
        let lab = Lab::new();
        let knot = Knot::start(&lab);
        let pebble = Pebble::start_issuing(&lab, knot.address, &[], None, life);
        let (at, ca) = (knot.address, pebble.address());
        let more = format!(
            "do-not-query-localhost: no\ncache-max-negative-ttl: 0\ncache-max-ttl: 0\n\
             local-zone: \"home.test.\" transparent\n\
             local-data: \"pebble.test. 60 A {}\"\n\
             stub-zone:\nname: \"home.test.\"\nstub-addr: \"{}@{}\"\n",
            ca.ip(),
            at.ip(),
            at.port(),
        );
        let resolvers = [30, 31].map(|host| {
            let mut resolver = Resolver::knowing(&lab, host, (-DAY, DAY), &more);
            resolver.start();
            resolver
        });
        lab.keep_secret("tsig.key", &BASE64.encode(knot.secret()));
        let config = format!(
            "[acme]\nagree = true\ncertificates_per_week = 1000000\n\
             [[acme.ca]]\nname = \"pebble\"\ndirectory = \"{}\"\nca = \"ca.pem\"\n\
             [acme.update]\naddress = \"{}\"\nport = {}\nzone = \"home.test\"\nkey_name = \"acme\"\n\
             key_file = \"tsig.key\"\n",
            pebble.ca.directory,
            at.ip(),
            at.port(),
        );
        let (setup, wan) = lab.honest();
        let setup = setup.upstream(&resolvers[0], "quad9").upstream(&resolvers[1], "cloudflare");
        let text = std::fs::read_to_string(setup.write()).unwrap();
        let config = text.replace("dns.home.lan", NAME) + &config;
        Self { lab, pebble, config, knot, _wan: wan, _resolvers: resolvers }
    }

    /// A daemon whose clock starts in 1970.
    pub(crate) fn boot(&self) -> Daemon {
        std::fs::write(self.lab.path("firstlight.toml"), &self.config).unwrap();
        let mut daemon = Daemon::start(&self.lab, &["--start", "@0"]);
        daemon.serves(&self.lab).unwrap();
        daemon
    }

    /// A client that shakes hands with DoT again and again, once there is a certificate of the CA,
    /// which it trusts and nobody else.
    pub(crate) fn watch(&self, daemon: &Daemon) -> Client {
        let (config, dot) = (self.checking(), self.lab.dot());
        let first = eventually(Duration::from_secs(60), || shake_hands(&config, dot).ok());
        assert!(first.is_some(), "{}", daemon.log());
        Client::start(config, dot)
    }

    /// Trusts the CA, checks name and dates, and resumes no session.
    pub(crate) fn checking(&self) -> Arc<ClientConfig> {
        let mut curl = Command::new(find("curl").unwrap());
        let place = self.pebble.address();
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "5", "--cacert"]);
        curl.arg(self.lab.path("ca.pem")).arg("--resolve");
        curl.arg(format!("pebble.test:15000:{}", place.ip()));
        let root = curl.arg("https://pebble.test:15000/roots/0").output().unwrap();
        assert!(root.status.success(), "{}", String::from_utf8_lossy(&root.stderr));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&root.stdout).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(Truth))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }
}

/// Shakes hands until it is told to stop.
pub(crate) struct Client {
    stop: Arc<AtomicBool>,
    serials: Arc<Mutex<BTreeSet<String>>>,
    task: JoinHandle<(usize, Vec<String>)>,
}

impl Client {
    fn start(config: Arc<ClientConfig>, dot: SocketAddr) -> Self {
        let (stop, serials) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stopped, seen) = (Arc::clone(&stop), Arc::<Mutex<BTreeSet<_>>>::clone(&serials));
        let task = thread::spawn(move || {
            let (mut shaken, mut failures) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                match shake_hands(&config, dot) {
                    Ok(serial) => {
                        shaken += 1;
                        seen.lock().unwrap().insert(serial);
                    }
                    Err(error) => failures.push(error),
                }
                sleep(EACH);
            }
            (shaken, failures)
        });
        Self { stop, serials, task }
    }

    /// Of the certificates that were seen.
    pub(crate) fn serials(&self) -> BTreeSet<String> {
        self.serials.lock().unwrap().clone()
    }

    /// How many handshakes succeeded, and what went wrong with the others.
    pub(crate) fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join().unwrap()
    }
}

/// The serial of the certificate that is shown at `dot`.
pub(crate) fn shake_hands(config: &Arc<ClientConfig>, dot: SocketAddr) -> Result<String, String> {
    let name = ServerName::try_from(NAME).unwrap();
    let mut connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = TcpStream::connect(dot).map_err(|error| error.to_string())?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|error| error.to_string())?;
    }
    let leaf = &connection.peer_certificates().unwrap()[0];
    Ok(HEXLOWER.encode(parse_x509_certificate(leaf).unwrap().1.raw_serial()))
}

/// The lab's true time.
#[derive(Debug)]
struct Truth;

impl TimeProvider for Truth {
    fn current_time(&self) -> Option<UnixTime> {
        let since = truth().since(firstlight::clock::UnixTime::EPOCH);
        Some(UnixTime::since_unix_epoch(magnitude(since)))
    }
}
