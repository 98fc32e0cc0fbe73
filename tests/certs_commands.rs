//! What `firstlight certs` gives devices, in the eyes of OpenSSL and of a reader of property lists.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::fs;
use std::process::{Command, Stdio};

use lab::{DAY, Daemon, Lab, Setup, needing, truth};
use libtest_mimic::{Arguments, Trial};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

const NAME: &str = "dns.home.lan";

fn main() {
    let test = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let trials = vec![
        needing("openssl", "the_authority_given_out_verifies_what_is_served", served),
        needing("openssl", "the_authority_s_key_signs_for_nothing_but_this_network", constrained),
        needing("python3", "a_profile_is_a_property_list_with_what_a_device_needs", profile),
        test("where_devices_trust_another_authority_the_local_one_is_still_given_out", idle),
        test("without_a_certificate_authority_nothing_is_ordered_or_rehearsed", without_a_ca),
        test("instructions_name_this_machine", instructions),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn served() {
    let lab = Lab::new();
    let _daemon = boot(&lab, &lab.configure());
    let (pem, told) = export(&lab);

    let fingerprint = run("openssl", &lab, "x509 -in export.pem -noout -fingerprint -sha256").1;
    let (_, fingerprint) = fingerprint.trim().split_once('=').unwrap();
    assert!(told.contains(&format!("SHA-256 fingerprint  {fingerprint}\n")), "{told}");
    assert!(told.contains("dns.home.lan, home.lan, and what is below"), "{told}");
    assert!(told.contains("192.168.0.0/16") && told.contains("certs instructions"), "{told}");
    assert_eq!(pem.matches("-----BEGIN").count(), 1, "the certificate, and no key");
    let (_, der, _) = ask(&lab, &["ca", "--der"]);
    assert_eq!(der, CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec());
    let (_, json, _) = ask(&lab, &["ca", "--json"]);
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["fingerprint"], fingerprint);
    assert_eq!(json["certificate"], pem.as_str());

    let shake = |authority: &str, name: &str| {
        // By the lab's time: what the machine shows may be anything.
        run(
            "openssl",
            &lab,
            &format!(
                "s_client -brief -connect {} -CAfile {authority} -no-CApath -no-CAstore \
                 -verify_return_error -verify_hostname {name} -attime {}",
                lab.dot(),
                truth().secs()
            ),
        )
    };
    let (well, text) = shake("export.pem", NAME);
    assert!(well && text.contains("Verification: OK"), "{text}");
    assert!(!shake("export.pem", "other.home.lan").0);
    assert!(!shake("ca.pem", NAME).0, "by an authority that signed nothing here");
}

fn constrained() {
    let lab = Lab::new();
    let _daemon = boot(&lab, &lab.configure());
    export(&lab);
    // Whoever takes the box has the key.
    let stolen = lab.state().read("fallback-ca").unwrap().unwrap();
    let stolen = String::from_utf8(stolen).unwrap();
    let key = stolen.split_once("-----BEGIN CERTIFICATE-----").map_or(&*stolen, |(key, _)| key);
    lab.keep_secret("stolen.key", key);

    let verify = |alternative: &str| {
        fs::write(lab.path("leaf.cnf"), format!("subjectAltName={alternative}\n")).unwrap();
        for command in [
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout leaf.key \
             -subj /O=leaf -out leaf.csr",
            "x509 -req -in leaf.csr -CA export.pem -CAkey stolen.key -set_serial 7 -days 30 \
             -extfile leaf.cnf -out leaf.pem",
        ] {
            let (well, text) = run("openssl", &lab, command);
            assert!(well, "{command}: {text}");
        }
        run("openssl", &lab, "verify -CAfile export.pem -no-CApath -no-CAstore leaf.pem")
    };

    for own in ["DNS:dns.home.lan", "DNS:x.home.lan", "IP:192.168.7.7", "IP:fd00::7"] {
        let (well, text) = verify(own);
        assert!(well, "{own}: {text}");
    }
    for other in [
        "DNS:example.com",
        "DNS:home.lan.example.com",
        "DNS:dns.home.lan,DNS:example.com",
        "IP:8.8.8.8",
        "IP:172.32.0.1",
        "IP:2001:4860:4860::8888",
    ] {
        let (well, text) = verify(other);
        assert!(!well && text.contains("permitted subtree violation"), "{other}: {text}");
    }
}

fn profile() {
    let lab = Lab::new();
    let setup = lab.configure().replacing("[doh]\n", "[doh]\npath = \"/a&b\"\n");
    let mut daemon = boot(&lab, &setup);
    let (pem, _) = export(&lab);
    let out = lab.path("firstlight.mobileconfig");
    let file = out.to_str().unwrap();

    let (code, nothing, told) = ask(&lab, &["profile", "--out", file]);
    assert_eq!((code, nothing), (0, Vec::new()), "{told}");
    assert!(told.contains("on port 8853 here"), "{told}");
    let dot = parse(&lab, &fs::read(&out).unwrap());
    let doh = parse(&lab, &ask(&lab, &["profile", "--doh"]).1);
    assert_eq!(parse(&lab, &ask(&lab, &["profile", "--dot"]).1), dot);

    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let addresses = Value::from(vec![lab.address(1).to_string()]);
    for profile in [&dot, &doh] {
        assert_eq!(profile["PayloadType"], "Configuration");
        let [authority, dns] = profile["PayloadContent"].as_array().unwrap().as_slice() else {
            panic!("{profile}");
        };
        assert_eq!(authority["PayloadType"], "com.apple.security.root");
        assert_eq!(authority["PayloadContent"], data_encoding::BASE64.encode(&der));
        assert_eq!(dns["PayloadType"], "com.apple.dnsSettings.managed");
        assert_eq!(dns["DNSSettings"]["ServerAddresses"], addresses);
    }
    let settings = |profile: &Value| profile["PayloadContent"][1]["DNSSettings"].clone();
    assert_eq!(settings(&dot)["DNSProtocol"], "TLS");
    assert_eq!(settings(&dot)["ServerName"], NAME);
    assert_eq!(settings(&doh)["DNSProtocol"], "HTTPS");
    assert_eq!(settings(&doh)["ServerURL"], "https://dns.home.lan:8443/a&b");
    assert_ne!(dot["PayloadUUID"], doh["PayloadUUID"]);
    let local = parse(&lab, &ask(&lab, &["profile", "--local"]).1);
    let rules = json!([
        { "Action": "Connect", "DNSServerAddressMatch": addresses },
        { "Action": "Disconnect" },
    ]);
    assert_eq!(local["PayloadContent"][1]["OnDemandRules"], rules);
    assert_eq!(dot["PayloadContent"][1].get("OnDemandRules"), None);
    assert_eq!(local["PayloadIdentifier"], dot["PayloadIdentifier"]);

    // Another start changes nothing, a certificate that devices trust takes the authority out.
    daemon.kill();
    let mut daemon = boot(&lab, &setup);
    assert_eq!(parse(&lab, &ask(&lab, &["profile", "--dot"]).1), dot);
    daemon.kill();
    keep_pair(&lab);
    let _daemon = boot(&lab, &setup.certificate("own.pem", "own.key"));
    let trusted = parse(&lab, &ask(&lab, &["profile", "--dot"]).1);
    assert_eq!(trusted["PayloadContent"].as_array().unwrap().len(), 1);
    assert_eq!(trusted["PayloadIdentifier"], dot["PayloadIdentifier"]);
    assert_eq!(trusted["PayloadContent"][0]["DNSSettings"], settings(&dot));
}

fn idle() {
    let lab = Lab::new();
    keep_pair(&lab);
    let mut daemon = boot(&lab, &lab.configure().certificate("own.pem", "own.key"));
    assert!(!lab.path("state/fallback-ca.pem").exists(), "it was not needed");

    let (first, told) = export(&lab);
    assert!(told.contains("do not need it at present"), "{told}");
    assert_eq!(export(&lab).0, first);
    assert!(!first.contains("PRIVATE"), "{first}");

    // What was given out is what serves if need be.
    daemon.kill();
    let _daemon = boot(&lab, &lab.configure());
    let (second, told) = export(&lab);
    assert_eq!(second, first);
    assert!(!told.contains("do not need it"), "{told}");
}

fn without_a_ca() {
    let lab = Lab::new();
    let _daemon = boot(&lab, &lab.configure());

    for (arguments, what) in [
        (&["renew"][..], "nothing is ordered"),
        (&["renew", "--wait"], "nothing is ordered"),
        (&["check"], "nothing is rehearsed"),
        (&["check", "--no-wait"], "nothing is rehearsed"),
    ] {
        let (code, out, err) = ask(&lab, arguments);

        assert_eq!((code, out), (1, Vec::new()), "{arguments:?}");
        let why = "no certificate authority is configured that could be asked";
        assert!(err.contains(&format!("error: {what}: {why}")), "{arguments:?}: {err}");
    }
    let (code, out, _) = ask(&lab, &["--json"]);
    let certs: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((code, &certs["source"], &certs["orders"]), (0, &"fallback".into(), &Value::Null));
}

fn instructions() {
    let lab = Lab::new();
    let _daemon = boot(&lab, &lab.configure());
    let (_, told) = export(&lab);
    let fingerprint = told.lines().next().unwrap().rsplit_once("  ").unwrap().1;

    let (code, text, err) = ask(&lab, &["instructions"]);

    let text = String::from_utf8(text).unwrap();
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(text.contains(fingerprint), "{text}");
    assert!(text.contains(&format!("DNS={}#{NAME}\n", lab.dot())), "{text}");
    let netsh = format!("server={} dohtemplate=https://{NAME}:8443/dns-query", lab.address(1));
    assert!(text.contains(&netsh), "{text}");
}

/// A daemon on `setup` whose clock is right, once it answers commands.
fn boot(lab: &Lab, setup: &Setup<'_>) -> Daemon {
    setup.write();
    let daemon = Daemon::start(lab, &["--start", &format!("@{}", truth().secs())]);
    daemon.status();
    daemon
}

/// A certificate of the lab's authority for the daemon's name.
fn keep_pair(lab: &Lab) {
    let (chain, key) = lab.authority.issue(NAME, (-DAY, 60 * DAY));
    fs::write(lab.path("own.pem"), chain).unwrap();
    lab.keep_secret("own.key", &key);
}

/// The authority as `export.pem` of the lab; gives it, and what was told beside it.
fn export(lab: &Lab) -> (String, String) {
    let (code, pem, told) = ask(lab, &["ca"]);
    assert_eq!(code, 0, "{told}");
    fs::write(lab.path("export.pem"), &pem).unwrap();
    (String::from_utf8(pem).unwrap(), told)
}

/// `firstlight certs` with `arguments`: exit code, standard output and standard error.
fn ask(lab: &Lab, arguments: &[&str]) -> (i32, Vec<u8>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstlight"));
    command.arg("certs").args(arguments).arg("--config").arg(lab.path("firstlight.toml"));
    let output = command.output().unwrap();
    (output.status.code().unwrap(), output.stdout, String::from_utf8(output.stderr).unwrap())
}

/// Runs a program in the lab's folder: whether it succeeded, and all that it said.
fn run(program: &str, lab: &Lab, arguments: &str) -> (bool, String) {
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace()).current_dir(lab.path("")).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A property list as Python reads it; data in base64.
fn parse(lab: &Lab, profile: &[u8]) -> Value {
    const READ: &str = "import base64, json, plistlib, sys\n\
        text = lambda data: base64.b64encode(data).decode()\n\
        print(json.dumps(plistlib.load(open(sys.argv[1], 'rb'), fmt=plistlib.FMT_XML), default=text))";
    fs::write(lab.path("profile.xml"), profile).unwrap();
    let mut command = Command::new("python3");
    let output = command.args(["-c", READ]).arg(lab.path("profile.xml")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
