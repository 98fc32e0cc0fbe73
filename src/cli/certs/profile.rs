//! `firstlight certs profile`: a configuration profile for Apple devices.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use ring::digest::{SHA256, digest};

use super::authority;
use super::plist::{Document, Value};
use crate::admin::Request;
use crate::admin::report::{Access, Devices, FALLBACK};
use crate::cli::daemon::Daemon;
use crate::cli::exit::{self, Failure};
use crate::cli::{ConfigFile, output};

/// The only port for DoT that devices know which are told a name alone.
pub(super) const DOT_PORT: u16 = 853;
const DOH_PORT: u16 = 443;

/// Which profile, and where to.
#[derive(Args, Debug)]
pub(super) struct Profile {
    /// Have names resolved by DoT. The default, where it is served.
    #[arg(long, conflicts_with = "doh")]
    dot: bool,
    /// Have names resolved by DoH.
    #[arg(long)]
    doh: bool,
    /// Only on networks whose DNS server is this machine, as their DHCP has it. Without this the profile
    /// holds everywhere, and where this machine cannot be reached no name is resolved.
    #[arg(long)]
    local: bool,
    /// Write to this file, say `firstlight.mobileconfig`, instead of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    file: ConfigFile,
}

/// Makes the profile.
pub(super) fn run(profile: &Profile) -> Result<u8, Failure> {
    let devices: Devices = Daemon::find(&profile.file)?.ask(&Request::Devices)?;
    let way = match (profile.dot, profile.doh, &devices.dot) {
        (true, ..) | (false, false, Some(_)) => Way::Dot,
        (false, true, _) | (false, false, None) => Way::Doh,
    };
    let text = make(&devices, way, profile.local)?;
    for doubt in doubts(&devices, way) {
        output::note(format_args!("note: {doubt}"));
    }
    match &profile.out {
        None => output::print(text)?,
        Some(file) => {
            fs::write(file, text).map_err(|why| Failure::File { file: file.clone(), why })?;
        }
    }
    Ok(exit::OK)
}

/// How names are resolved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Dot,
    Doh,
}

fn access(devices: &Devices, way: Way) -> Result<&Access, Failure> {
    let (access, what) = match way {
        Way::Dot => (&devices.dot, "DoT is not served; see [dot] listen"),
        Way::Doh => (&devices.doh, "DoH is not served; see [doh] listen"),
    };
    access.as_ref().ok_or_else(|| Failure::Wanting(what.to_owned()))
}

/// The profile's text. `local`: it holds only where the network's DNS server is this machine.
fn make(devices: &Devices, way: Way, local: bool) -> Result<String, Failure> {
    let access = access(devices, way)?;
    let name = devices.name.as_str();
    let (protocol, short, server) = match way {
        Way::Dot => ("TLS", "dot", ("ServerName", name.into())),
        Way::Doh => ("HTTPS", "doh", ("ServerURL", url(name, access).into())),
    };
    let authority = match devices.source.as_deref() {
        Some(FALLBACK) => Some(authority::of(devices)?),
        Some(_) | None => None,
    };
    let trust = authority.map_or("", |authority| &authority.fingerprint);
    let identifier = format!("firstlight.{name}.{short}");
    let payload = |part: &str, kind: &str, title: String, content: Vec<(&'static str, Value)>| {
        let identifier =
            if part.is_empty() { identifier.clone() } else { format!("{identifier}.{part}") };
        let mut entries = vec![
            ("PayloadType", kind.into()),
            ("PayloadVersion", Value::Integer(1)),
            ("PayloadIdentifier", identifier.as_str().into()),
            ("PayloadUUID", uuid(&[&identifier, trust]).into()),
            ("PayloadDisplayName", title.into()),
        ];
        entries.extend(content);
        Value::Dictionary(entries)
    };

    let mut parts = Vec::new();
    if let Some(authority) = authority {
        let content = vec![
            ("PayloadCertificateFileName", "firstlight.cer".into()),
            ("PayloadContent", Value::Data(authority::der(authority)?.to_vec())),
        ];
        let title = format!("Certificate authority of {name}");
        parts.push(payload("authority", "com.apple.security.root", title, content));
    }
    let addresses =
        || Value::Array(access.addresses.iter().map(|ip| ip.to_string().into()).collect());
    let settings = vec![("DNSProtocol", protocol.into()), ("ServerAddresses", addresses()), server];
    let mut content = vec![("DNSSettings", Value::Dictionary(settings))];
    if local {
        let here = vec![("Action", "Connect".into()), ("DNSServerAddressMatch", addresses())];
        let elsewhere = vec![("Action", "Disconnect".into())];
        let rules = vec![Value::Dictionary(here), Value::Dictionary(elsewhere)];
        content.push(("OnDemandRules", Value::Array(rules)));
    }
    let title = format!("DNS by {name}");
    parts.push(payload("dns", "com.apple.dnsSettings.managed", title.clone(), content));
    let content = vec![("PayloadContent", Value::Array(parts))];
    let whole = payload("", "Configuration", title, content);
    Ok(Document(&whole).to_string())
}

/// What keeps devices from being served by the profile as things stand.
fn doubts(devices: &Devices, way: Way) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(access) = access(devices, way) else { return found };
    if way == Way::Dot && access.port != DOT_PORT {
        found.push(format!(
            "Apple devices ask port {DOT_PORT} for DoT, and it is served on port {} here; a \
             profile by --doh can name the port",
            access.port
        ));
    }
    if access.addresses.is_empty() {
        found.push(
            "this machine has no address on a network; make the profile once it has".to_owned(),
        );
    }
    if devices.source.is_none() {
        found.push("there is no certificate: nothing is served until there is one".to_owned());
    } else if !devices.named {
        found.push(format!(
            "the certificate that is served is not for {}: devices will refuse it; see `firstlight certs`",
            devices.name
        ));
    }
    found
}

/// Where DoH is asked.
pub(super) fn url(name: &str, access: &Access) -> String {
    let port = if access.port == DOH_PORT { String::new() } else { format!(":{}", access.port) };
    format!("https://{name}{port}{}", access.path.as_deref().unwrap_or("/"))
}

/// Always the same for the same `parts` (RFC 9562 section 5.8), so that a profile replaces itself.
fn uuid(parts: &[&str]) -> String {
    let digest = digest(&SHA256, parts.join("\n").as_bytes());
    let mut octets = [0; 16];
    for (octet, from) in octets.iter_mut().zip(digest.as_ref()) {
        *octet = *from;
    }
    octets[6] = octets[6] & 0x0f | 0x80;
    octets[8] = octets[8] & 0x3f | 0x80;
    let hex = data_encoding::HEXUPPER.encode(&octets);
    [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| hex[part].to_owned()).join("-")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::admin::report::Authority;

    #[test]
    fn a_profile_for_a_certificate_that_devices_trust_holds_no_authority() {
        let text = make(&devices("acme"), Way::Doh, false).unwrap();

        assert!(text.contains("<string>https://dns.home.lan/a&amp;b</string>"), "{text}");
        assert!(text.contains("<string>10.0.0.1</string>"), "{text}");
        assert!(!text.contains("com.apple.security.root"), "{text}");
    }

    #[test]
    fn a_profile_is_the_same_each_time_and_another_for_another_authority() {
        let uuids = |devices: &Devices, way| {
            let text = make(devices, way, false).unwrap();
            let lines = text.lines().skip_while(|line| !line.contains("PayloadUUID"));
            lines
                .filter(|line| line.matches('-').count() == 4)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let ours = devices("fallback");
        let mut other = ours.clone();
        other.authority.as_mut().unwrap().fingerprint = "EF".to_owned();

        assert_eq!(uuids(&ours, Way::Dot).len(), 3);
        assert_eq!(make(&ours, Way::Dot, false).unwrap(), make(&ours, Way::Dot, false).unwrap());
        for (one, another) in [(&ours, Way::Doh), (&other, Way::Dot)]
            .into_iter()
            .flat_map(|(devices, way)| uuids(&ours, Way::Dot).into_iter().zip(uuids(devices, way)))
        {
            assert_ne!(one, another);
        }
        let expected = uuid(&["firstlight.dns.home.lan.dot", "AB"]);
        assert_eq!((expected.len(), expected.as_bytes()[14]), (36, b'8'));
    }

    #[test]
    fn what_a_profile_cannot_mend_is_told() {
        let mut devices = devices("files");
        assert_eq!(doubts(&devices, Way::Dot), Vec::<String>::new());

        devices.named = false;
        devices.dot.as_mut().unwrap().port = 8853;
        devices.doh = None;

        let told = doubts(&devices, Way::Dot);
        assert!(told[0].contains("on port 8853 here") && told[1].contains("not for dns.home.lan"));
        assert!(
            make(&devices, Way::Doh, false).unwrap_err().to_string().contains("DoH is not served")
        );
        devices.source = Some("fallback".to_owned());
        devices.authority = None;
        assert!(make(&devices, Way::Dot, false).is_err());
    }

    pub(in crate::cli::certs) fn devices(source: &str) -> Devices {
        let access = |port, path: Option<&str>| Access {
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            port,
            path: path.map(str::to_owned),
        };
        Devices {
            name: "dns.home.lan".to_owned(),
            source: Some(source.to_owned()),
            named: true,
            dot: Some(access(853, None)),
            doh: Some(access(443, Some("/a&b"))),
            authority: Some(Authority {
                certificate: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
                    .to_owned(),
                fingerprint: "AB".to_owned(),
                names: vec!["dns.home.lan".to_owned()],
                networks: vec!["10.0.0.0/8".to_owned()],
            }),
        }
    }
}
