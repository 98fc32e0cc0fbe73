//! kdig of the Knot DNS project as a client of every listener.
#![expect(clippy::unwrap_used, reason = "test code")]

mod script;

use std::process::Command;

use firstlight::dns::listen::Limits;
use libtest_mimic::{Arguments, Failed, Trial};
use script::open;

/// The way, and kdig's options for it.
const WAYS: [(&str, &[&str]); 6] = [
    ("udp", &["+notcp"]),
    ("tcp", &["+tcp"]),
    ("dot", &["+tls"]),
    ("doh_get", &["+https=/dns-query", "+https-get"]),
    ("doh_post", &["+https=/dns-query"]),
    ("doq", &["+quic"]),
];

fn main() {
    let missing = Command::new("kdig").arg("-V").output().is_err();
    let kind = if missing { "kdig is not installed (package knot-dnsutils)" } else { "" };
    let trials = WAYS.into_iter().flat_map(|(way, options)| {
        ["quick", "held"].map(|name| {
            let title = format!("kdig_is_answered_over_{way}_a_{name}_name");
            Trial::test(title, move || ask(way, options, name))
                .with_kind(kind)
                .with_ignored_flag(missing)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

fn ask(way: &str, options: &[&str], name: &str) -> Result<(), Failed> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _context = runtime.enter();
    let (listeners, script, _) = open("127.0.0.1", Limits::default());
    script.let_go.add_permits(1);
    let places = listeners.places();
    let address = match way {
        "udp" => places.dns[0],
        "tcp" => listeners.tcp()[0],
        "dot" => places.dot[0],
        "doq" => places.doq[0],
        _ => places.doh[0],
    };

    let output = Command::new("kdig")
        .args([&format!("@{}", address.ip()), "-p", &address.port().to_string()])
        .args(["+timeout=2", "+retry=0"])
        .args(options)
        .args([name, "A"])
        .output()?;

    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("status: NOERROR") && text.contains("192.0.2.1") {
        Ok(())
    } else {
        Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)).into())
    }
}
