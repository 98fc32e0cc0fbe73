//! Every way to show that a name is ours, by the daemon's own configuration.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::lab::clients::{self, question};
use crate::lab::{Daemon, LOCAL, Lab, eventually};
use crate::outside::Outside;
use crate::rig::{NAME, Rig, acme, ca, first, trusting};
use crate::world::{AcmeDnsServer, Challtestsrv, DOH_HOST, DOH_PORT, Pebble};

pub(crate) fn hook() {
    let house = House::build();
    let program = house.dns.hook(&house.lab);
    let publisher = format!("[acme.hook]\nprogram = \"{}\"\n", program.display());

    let daemon = house.outside.boot(&house.lab, &(acme("") + &ca("pebble", "") + &publisher));
    house.serves_an_ordered_one(&daemon);

    let said = eventually(Duration::from_secs(5), || {
        let said = fs::read_to_string(house.lab.path("hook.log")).unwrap();
        said.contains("cleanup").then_some(said)
    });
    let said = said.expect("nothing was cleaned up");
    let calls: Vec<_> = said.lines().map(|line| line.rsplit_once(' ').unwrap().0).collect();
    let at = "_acme-challenge.dns.home.test.";
    assert_eq!(calls, [format!("present {at}"), format!("cleanup {at}")]);
}

pub(crate) fn acme_dns() {
    let house = House::build();
    let server = AcmeDnsServer::start(&house.lab, &house.dns);
    house.dns.alias("_acme-challenge.dns.home.test.", "d4.acme-dns.test.");
    let account = "{\"subdomain\": \"d4\", \"username\": \"user\", \"password\": \"secret\"}";
    house.lab.keep_secret("accounts.json", &format!("{{\"{NAME}\": {account}}}"));
    let publisher = format!(
        "[acme.acme_dns]\nurl = \"{}\"\naccounts = \"accounts.json\"\nca = \"ca.pem\"\n",
        server.url
    );

    let daemon = house.outside.boot(&house.lab, &(acme("") + &ca("pebble", "") + &publisher));

    house.serves_an_ordered_one(&daemon);
}

pub(crate) fn tls_alpn() {
    let mut house = House::build();
    let doh = house.lab.place(DOH_HOST, DOH_PORT);
    house.outside.text = house.outside.text.replace(&house.lab.doh().to_string(), &doh.to_string());
    let orders = acme("challenge = \"tls-alpn-01\"\n") + &ca("pebble", "");

    let daemon = house.outside.boot(&house.lab, &orders);
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    let client = spawn(move || {
        let mut answers = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            answers.push(ask_doh(doh));
            sleep(Duration::from_millis(50));
        }
        answers
    });
    house.serves_an_ordered_one(&daemon);
    over.store(true, Ordering::Relaxed);

    let answers = client.join().unwrap();
    let failures: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert_eq!(failures, Vec::<&String>::new(), "{}", daemon.log());
    assert!(answers.len() > 10, "{} answers", answers.len());
}

pub(crate) fn binding() {
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let rig = Rig::binding(LIFE, Some(("kid-1", key)));
    rig.lab.keep_secret("eab.key", key);
    let bound = "eab_kid = \"kid-1\"\neab_key_file = \"eab.key\"\n";

    let daemon = rig.boot_with(&(acme("") + &ca("pebble", bound) + &rig.update()));

    first(&rig.lab, &rig.checking(), &daemon);
}

/// Of a certificate that is not to be renewed while the test runs, in seconds.
const LIFE: u32 = 90 * 86_400;

/// A lab whose names are in a server that is told what to say.
struct House {
    lab: Lab,
    dns: Challtestsrv,
    pebble: Pebble,
    outside: Outside,
}

impl House {
    fn build() -> Self {
        let lab = Lab::new();
        let dns = Challtestsrv::start(&lab);
        let pebble = Pebble::start_issuing(&lab, dns.dns, &[], None, LIFE);
        let outside = Outside::start(&lab, dns.dns);
        Self { lab, dns, pebble, outside }
    }

    fn serves_an_ordered_one(&self, daemon: &Daemon) {
        first(&self.lab, &trusting(&self.lab, &self.pebble, &[]), daemon);
        // Whoever waits for what is not seen anywhere gets a certificate as well, but later.
        assert!(!daemon.log().contains("not all records are seen"), "{}", daemon.log());
    }
}

/// Asks for a local name by HTTP/1.1 over a connection of its own.
fn ask_doh(server: SocketAddr) -> Result<(), String> {
    let (_, query) = question(LOCAL.0);
    let identity = ServerName::try_from(NAME).unwrap();
    let tls = ClientConnection::new(clients::trusting(&[b"http/1.1"]), identity).unwrap();
    let tcp = TcpStream::connect(server).map_err(|error| error.to_string())?;
    tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut stream = StreamOwned::new(tls, tcp);
    let request = format!(
        "GET /dns-query?dns={} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n",
        BASE64URL_NOPAD.encode(&query)
    );
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|error| error.to_string())?;
    let well = answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(&LOCAL.1.octets());
    if well { Ok(()) } else { Err(String::from_utf8_lossy(&answer).into_owned()) }
}
