//! A daemon that orders: its CA, the DNS server it updates, and its clients.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use x509_parser::parse_x509_certificate;

use crate::lab::clients::{self, checking};
use crate::lab::{Daemon, Lab, eventually, find};
use crate::outside::Outside;
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
    pub(crate) outside: Outside,
}

impl Rig {
    /// The CA's certificates live for so many seconds.
    pub(crate) fn start(life: u32) -> Self {
        Self::binding(life, None)
    }

    /// The same; the CA opens accounts for whoever has one of its customers' keys.
    pub(crate) fn binding(life: u32, binding: Option<(&str, &str)>) -> Self {
        let lab = Lab::new();
        let knot = Knot::start(&lab);
        let pebble = Pebble::start_issuing(&lab, knot.address, &[], binding, life);
        lab.keep_secret("tsig.key", &BASE64.encode(knot.secret()));
        let outside = Outside::start(&lab, knot.address);
        Self { lab, knot, pebble, outside }
    }

    /// `[acme.update]`.
    pub(crate) fn update(&self) -> String {
        let at = self.knot.address;
        format!(
            "[acme.update]\naddress = \"{}\"\nport = {}\nzone = \"home.test\"\nkey_name = \"acme\"\n\
             key_file = \"tsig.key\"\n",
            at.ip(),
            at.port()
        )
    }

    /// A daemon whose clock starts in 1970.
    pub(crate) fn boot(&self) -> Daemon {
        self.boot_with(&(acme("") + &ca("pebble", "") + &self.update()))
    }

    /// The same, with `orders` as the section `[acme]` and those below it.
    pub(crate) fn boot_with(&self, orders: &str) -> Daemon {
        self.outside.boot(&self.lab, orders)
    }

    /// A client that shakes hands with DoT again and again, once there is a certificate of the CA,
    /// which it trusts and nobody else.
    pub(crate) fn watch(&self, daemon: &Daemon) -> Client {
        let config = self.checking();
        first(&self.lab, &config, daemon);
        Client::start(config, self.lab.dot())
    }

    /// Trusts the CA, checks name and dates, and resumes no session.
    pub(crate) fn checking(&self) -> Arc<ClientConfig> {
        trusting(&self.lab, &self.pebble, &[])
    }
}

/// `[acme]`, with more of its keys.
pub(crate) fn acme(more: &str) -> String {
    format!("[acme]\nagree = true\ncertificates_per_week = 1000000\n{more}")
}

/// `[[acme.ca]]` of the CA at `NAME.test`, with more of its keys.
pub(crate) fn ca(name: &str, more: &str) -> String {
    format!(
        "[[acme.ca]]\nname = \"{name}\"\ndirectory = \"https://{name}.test:14000/dir\"\n\
         ca = \"ca.pem\"\n{more}"
    )
}

/// The serial of the first certificate that passes `config`.
pub(crate) fn first(lab: &Lab, config: &Arc<ClientConfig>, daemon: &Daemon) -> String {
    let shaken = eventually(Duration::from_secs(60), || shake_hands(config, lab.dot()).ok());
    shaken.unwrap_or_else(|| panic!("no certificate in 60 s\n{}", daemon.log()))
}

/// Trusts the CA and the roots in further files, checks name and dates, and resumes no session.
pub(crate) fn trusting(lab: &Lab, pebble: &Pebble, others: &[PathBuf]) -> Arc<ClientConfig> {
    let mut curl = Command::new(find("curl").unwrap());
    let place = pebble.address();
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "5", "--cacert"]);
    curl.arg(lab.path("ca.pem")).arg("--resolve");
    curl.arg(format!("pebble.test:15000:{}", place.ip()));
    let root = curl.arg("https://pebble.test:15000/roots/0").output().unwrap();
    assert!(root.status.success(), "{}", String::from_utf8_lossy(&root.stderr));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&root.stdout).unwrap()).unwrap();
    for other in others {
        roots.add(CertificateDer::from_pem_file(other).unwrap()).unwrap();
    }
    checking(roots)
}

/// Shakes hands until it is told to stop.
pub(crate) struct Client {
    stop: Arc<AtomicBool>,
    serials: Arc<Mutex<BTreeSet<String>>>,
    task: JoinHandle<(usize, Vec<String>)>,
}

impl Client {
    pub(crate) fn start(config: Arc<ClientConfig>, dot: SocketAddr) -> Self {
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
    let leaf = clients::shake_hands(config, NAME, dot)?;
    Ok(HEXLOWER.encode(parse_x509_certificate(&leaf).unwrap().1.raw_serial()))
}
