//! `firstlight certs instructions`: how each kind of device is made to use this machine.

use std::fmt::Write;

use super::authority;
use super::profile::{DOT_PORT, url};
use crate::admin::Request;
use crate::admin::report::{Access, Authority, Devices, FALLBACK};
use crate::cli::daemon::Daemon;
use crate::cli::exit::{self, Failure};
use crate::cli::{ConfigFile, output};

/// Prints them, with the names and addresses of this machine.
pub(super) fn run(file: &ConfigFile) -> Result<u8, Failure> {
    let devices: Devices = Daemon::find(file)?.ask(&Request::Devices)?;
    let authority = match devices.source.as_deref() {
        Some(FALLBACK) => Some(authority::of(&devices)?),
        Some(_) | None => None,
    };
    output::print(instructions(&devices, authority))?;
    Ok(exit::OK)
}

/// `authority`: the local one, if devices have to trust it.
fn instructions(devices: &Devices, authority: Option<&Authority>) -> String {
    let mut text = head(devices, authority);
    let mut section = |title: &str, steps: Vec<String>| {
        let _ = writeln!(text, "\n{title}");
        for (number, step) in steps.iter().enumerate() {
            // Commands and files keep their lines.
            let _ = writeln!(text, "  {}. {}", number + 1, step.replace('\n', "\n     "));
        }
    };
    let install = authority.is_some();
    section("Android 9 or later", android(devices, install));
    section("iPhone, iPad, Mac", apple(install));
    if let Some(doh) = &devices.doh {
        section("Windows 11", windows(&devices.name, doh, install));
    }
    if let Some(dot) = &devices.dot {
        section("Linux with systemd-resolved", resolved(&devices.name, dot, install));
    }
    if let Some(doh) = &devices.doh {
        section("Firefox, whatever the system", firefox(&devices.name, doh, install));
    }
    text
}

fn head(devices: &Devices, authority: Option<&Authority>) -> String {
    let mut text = format!("Name  {}\n", devices.name);
    if let Some(dot) = &devices.dot {
        let _ = writeln!(text, "DoT   {}, port {}", listed(dot), dot.port);
    }
    if let Some(doh) = &devices.doh {
        let _ = writeln!(text, "DoH   {}, at {}", url(&devices.name, doh), listed(doh));
    }
    let _ = match authority {
        Some(authority) => writeln!(
            text,
            "CA    the local authority, which devices must be told to trust; SHA-256 fingerprint\n      \
             {}\n\n\
             Where a step says firstlight-ca.crt, take the file to the device that this makes here:\n  \
             firstlight certs ca > firstlight-ca.crt\n\
             and compare the fingerprint there. Installed, the authority can sign for {} and private\n\
             addresses alone.",
            authority.fingerprint,
            authority.names.join(", ")
        ),
        None => writeln!(
            text,
            "CA    devices need nothing, if they trust who issued the certificate; see `firstlight certs`"
        ),
    };
    if devices.source.is_none() {
        text.push_str("\nThere is no certificate: nothing of this works until there is one.\n");
    } else if !devices.named {
        let _ = writeln!(
            text,
            "\nThe certificate that is served is not for {}: devices will refuse it until that is\n\
             mended; see `firstlight certs`.",
            devices.name
        );
    }
    text
}

fn android(devices: &Devices, install: bool) -> Vec<String> {
    let name = &devices.name;
    if install {
        return vec![
            "Leave Settings, Network & internet, Private DNS at \"Automatic\". Where the network's\n\
             DNS server is this machine, Android then encrypts, without checking with whom."
                .to_owned(),
            format!(
                "Do not enter {name} as \"Private DNS provider hostname\": for that Android trusts\n\
                 the authorities of the system alone, whatever else is installed, and would resolve\n\
                 no name at all. It takes a certificate of a public authority."
            ),
        ];
    }
    let Some(dot) = &devices.dot else {
        return vec![
            "Nothing: Private DNS is DoT, which is not served; see [dot] listen.".to_owned(),
        ];
    };
    let mut steps = vec![
        "Settings, Network & internet, Private DNS, \"Private DNS provider hostname\".".to_owned(),
        format!("Enter {name} and save."),
        format!(
            "Android looks that name up by the network's ordinary DNS server: wherever the device\n\
             is to have names, it must resolve to {} there, and {} be reachable.\n\
             Where that is not so, no name resolves until Private DNS is off.",
            listed(dot),
            if dot.addresses.len() > 1 { "they" } else { "that" }
        ),
    ];
    if dot.port != DOT_PORT {
        steps.push(format!(
            "Android asks port {DOT_PORT} alone, and DoT is served on port {}: set [dot] listen first.",
            dot.port
        ));
    }
    steps
}

fn apple(install: bool) -> Vec<String> {
    let mut steps = vec![
        "Make a profile here, and take it to the device, by AirDrop or a web server of yours:\n  \
         firstlight certs profile --local --out firstlight.mobileconfig\n\
         So it holds on networks whose DNS server is this machine. Without --local it holds on every\n\
         network, mobile ones too, and no name is resolved where this machine cannot be reached."
            .to_owned(),
        "Open it there, then install it. iPhone, iPad: Settings, General, VPN & Device Management.\n\
         Mac: System Settings, General, Device Management, or Privacy & Security, Profiles."
            .to_owned(),
    ];
    if install {
        steps.push(
            "The profile holds the authority, which iPhone and iPad do not trust yet: turn it on in\n\
             Settings, General, About, Certificate Trust Settings. Mac: see in Keychain Access that\n\
             it is trusted."
                .to_owned(),
        );
    }
    steps.push(
        "The profile names the addresses of this machine at present. When they change make it again\n\
         and install it: it replaces the one before."
            .to_owned(),
    );
    steps
}

fn windows(name: &str, doh: &Access, install: bool) -> Vec<String> {
    let template = url(name, doh);
    let commands = doh.addresses.iter().map(|address| {
        format!(
            "  netsh dns add encryption server={address} dohtemplate={template} autoupgrade=yes udpfallback=no"
        )
    });
    let commands = commands.collect::<Vec<_>>().join("\n");
    let mut steps = Vec::new();
    if install {
        steps.push(
            "In a terminal as administrator:\n  certutil -addstore -f Root firstlight-ca.crt"
                .to_owned(),
        );
    }
    steps.push(format!("In a terminal as administrator:\n{commands}"));
    steps.push(format!(
        "Settings, Network & internet, the connection, DNS server assignment, Edit, Manual: enter\n\
         {}, with DNS over HTTPS on.",
        listed(doh)
    ));
    steps.push(
        "See there that these servers are shown as encrypted, and with\n  netsh dns show encryption\n\
         that the template is the one above."
            .to_owned(),
    );
    steps
}

fn resolved(name: &str, dot: &Access, install: bool) -> Vec<String> {
    let servers = dot.addresses.iter().map(|address| match (address.is_ipv6(), dot.port) {
        (_, DOT_PORT) => format!("{address}#{name}"),
        (false, port) => format!("{address}:{port}#{name}"),
        (true, port) => format!("[{address}]:{port}#{name}"),
    });
    let servers = servers.collect::<Vec<_>>().join(" ");
    let mut steps = Vec::new();
    if install {
        steps.push(
            "Debian, Ubuntu: put firstlight-ca.crt into /usr/local/share/ca-certificates/, then\n  \
             update-ca-certificates\n\
             Fedora: put it into /etc/pki/ca-trust/source/anchors/, then\n  update-ca-trust"
                .to_owned(),
        );
    }
    steps.push(format!(
        "Write /etc/systemd/resolved.conf.d/firstlight.conf:\n  \
         [Resolve]\n  DNS={servers}\n  DNSOverTLS=yes\n  Domains=~."
    ));
    steps.push("systemctl restart systemd-resolved".to_owned());
    steps
}

fn firefox(name: &str, doh: &Access, install: bool) -> Vec<String> {
    let mut steps = Vec::new();
    if install {
        steps.push(
            "Settings, Privacy & Security, View Certificates, Authorities, Import: firstlight-ca.crt,\n\
             trusted to identify websites."
                .to_owned(),
        );
    }
    steps.push(format!(
        "Settings, Privacy & Security, DNS over HTTPS, Max Protection, Custom:\n  {}",
        url(name, doh)
    ));
    steps.push(format!(
        "Firefox looks {name} up by the system's DNS, where it must resolve to\n{}.",
        listed(doh)
    ));
    steps
}

fn listed(access: &Access) -> String {
    let addresses: Vec<_> = access.addresses.iter().map(ToString::to_string).collect();
    if addresses.is_empty() { "no address".to_owned() } else { addresses.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::certs::profile::tests::devices;

    #[test]
    fn a_certificate_that_devices_trust_takes_no_authority() {
        let text = instructions(&devices("acme"), None);

        for part in [
            "DoT   10.0.0.1, fd00::1, port 853\n",
            "Enter dns.home.lan and save.",
            "server=fd00::1 dohtemplate=https://dns.home.lan/a&b autoupgrade=yes udpfallback=no\n",
            "DNS=10.0.0.1#dns.home.lan fd00::1#dns.home.lan\n",
            "Max Protection, Custom:\n       https://dns.home.lan/a&b\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("firstlight-ca.crt") && !text.contains("addstore"), "{text}");
    }

    #[test]
    fn the_local_authority_is_installed_where_that_helps() {
        let mut devices = devices("fallback");
        devices.dot.as_mut().unwrap().port = 8853;

        let text = instructions(&devices, devices.authority.as_ref());

        for part in [
            "SHA-256 fingerprint\n      AB\n",
            "Do not enter dns.home.lan",
            "certutil -addstore -f Root firstlight-ca.crt\n",
            "update-ca-certificates\n",
            "Certificate Trust Settings",
            "DNS=10.0.0.1:8853#dns.home.lan [fd00::1]:8853#dns.home.lan\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("provider hostname\"."), "{text}");
    }

    #[test]
    fn what_is_not_served_is_told() {
        let mut devices = devices("files");
        devices.named = false;
        (devices.dot, devices.doh) = (None, None);

        let text = instructions(&devices, None);

        assert!(text.contains("is not for dns.home.lan"), "{text}");
        assert!(text.contains("Private DNS is DoT, which is not served"), "{text}");
        assert!(!text.contains("Windows") && !text.contains("resolved.conf"), "{text}");
    }
}
