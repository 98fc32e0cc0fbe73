//! The commands that query each of firstlight's services, to be typed as they are printed.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::config::Config;

/// The files that commands name.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The program that runs.
    pub program: &'a Path,
    /// Its configuration.
    pub config: &'a Path,
    /// The authority behind its certificate.
    pub authority: &'a Path,
}

/// A command, and what it is to show.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// What it is to show.
    pub shows: &'static str,
    /// A line for the shell.
    pub command: String,
}

/// What to type to query each service that `config` switches on.
#[must_use]
pub fn commands(config: &Config, files: &Files<'_>) -> Vec<Step> {
    let [program, file, authority] = [files.program, files.config, files.authority].map(quoted);
    let name = &config.tls.name;
    let path = &config.doh.path;
    let mut steps = Vec::new();
    let mut step = |shows, command| steps.push(Step { shows, command });

    if let Some(kdig) = reached(&config.dns.listen).map(kdig) {
        if let Some(local) = config.names.iter().find(|local| !local.wildcard) {
            step("a name of your own, over UDP", format!("{kdig} {}", local.name));
        }
        step("DNS over UDP", format!("{kdig} {NAME}"));
        step("DNS over TCP", format!("{kdig} +tcp {NAME}"));
    }
    if let Some(kdig) = reached(&config.dot.listen).map(kdig) {
        let verified = format!("+tls-ca={authority} +tls-hostname={name}");
        step("DNS over TLS", format!("{kdig} {verified} {NAME}"));
    }
    if let Some(address) = reached(&config.doh.listen) {
        let kdig = kdig(address);
        let verified = format!("+tls-ca={authority} +tls-hostname={name} +https={name}{path}");
        step("DNS over HTTPS, GET", format!("{kdig} {verified} +https-get {NAME}"));
        step("DNS over HTTPS, POST", format!("{kdig} {verified} {NAME}"));
        step(
            "DNS over HTTPS by curl; the answer ends with the address",
            format!(
                "curl -sS --cacert {authority} --connect-to ::{address} \
                 'https://{name}{path}?dns={QUESTION}' | tail -c 4 | od -A n -t u1"
            ),
        );
    }
    if let Some(kdig) = reached(&config.doq.listen).map(kdig) {
        // The last of kdig's options decides the transport: +quic before +tls-ca ends in a crash.
        let verified = format!("+tls-ca={authority} +tls-hostname={name} +quic");
        step("DNS over QUIC", format!("{kdig} {verified} {NAME}"));
    }
    if let Some(address) = reached(&config.ntp.listen) {
        let (ip, port) = (address.ip(), address.port());
        step(
            "NTP: how far this machine's clock is off (-Q sets nothing)",
            format!("/usr/sbin/chronyd -Q -t 10 'server {ip} port {port} iburst maxsamples 1'"),
        );
    }
    step("what firstlight knows of itself", format!("{program} status --config {file}"));
    steps
}

/// [`commands`] as a text to be printed.
#[must_use]
pub fn narrate(config: &Config, files: &Files<'_>) -> String {
    commands(config, files).iter().fold(String::new(), |mut text, Step { shows, command }| {
        let _ = writeln!(text, "# {shows}\n{command}\n");
        text
    })
}

/// A name that the small world knows, and the great one too.
const NAME: &str = "www.example.com";
/// The question for its IPv4 address, as in the example of RFC 8484 section 4.1.1.
const QUESTION: &str = "AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB";

/// An address by which this machine reaches the service; `None` if it is off.
fn reached(listen: &[SocketAddr]) -> Option<SocketAddr> {
    let mut address = *listen.first()?;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Some(address)
}

/// The beginning of a kdig command to `address`.
fn kdig(address: SocketAddr) -> String {
    format!("kdig @{} -p {}", address.ip(), address.port())
}

/// A path as one word of a shell's command.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
