//! What a text in the configuration may mean: addresses, names, paths.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use data_encoding::BASE64;
use hyper::Uri;
use ipnet::IpNet;

use crate::config::tree::Wrong;
use crate::config::{ClientNetwork, Pin};
use crate::wire::Name;

/// The address of a host. Names are refused: this is what breaks the circle at boot.
pub(super) fn address(text: &str) -> Result<IpAddr, Wrong> {
    let Ok(address) = text.parse::<IpAddr>() else {
        if let Ok(both) = text.parse::<SocketAddr>() {
            let remedy =
                format!("write \"{}\", and `port = {}` on its own line", both.ip(), both.port());
            return Err(Wrong::new(format!("`{text}` is an address with a port"), remedy));
        }
        if text.parse::<Name>().is_ok() && text.contains(|c: char| c.is_ascii_alphabetic()) {
            return Err(Wrong::new(
                format!(
                    "`{text}` is a name, not an IP address: a name would need DNS, DNS needs TLS, \
                     TLS needs time"
                ),
                "write the IP address, like \"192.0.2.1\" or \"2001:db8::1\"",
            ));
        }
        return Err(Wrong::new(
            format!("`{text}` is not an IP address"),
            "write an IP address, like \"192.0.2.1\" or \"2001:db8::1\"",
        ));
    };
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(Wrong::new(
            format!("`{text}` is not the address of one host"),
            "write the address of a single host",
        ));
    }
    Ok(address)
}

/// Clients that are answered: a word, or a network in CIDR notation (RFC 4632 section 3.1).
pub(super) fn clients(text: &str) -> Result<ClientNetwork, Wrong> {
    match text {
        "any" => return Ok(ClientNetwork::Any),
        "local" => return Ok(ClientNetwork::Local),
        _ => {}
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(ClientNetwork::Network(address.into()));
    }
    let network = text.parse::<IpNet>().map_err(|_| {
        Wrong::new(
            format!("`{text}` is not a network"),
            "write \"local\", \"any\", or a network like \"192.168.7.0/24\" or \"2001:db8:7::/48\"",
        )
    })?;
    if network.trunc() != network {
        return Err(Wrong::new(
            format!("`{text}` is an address within a network"),
            format!(
                "write \"{}\" for the network, or \"{}\" for the one client",
                network.trunc(),
                network.addr()
            ),
        ));
    }
    Ok(ClientNetwork::Network(network))
}

/// An address and port to listen on.
pub(super) fn listener(text: &str) -> Result<SocketAddr, Wrong> {
    let example = "write address and port, like \"0.0.0.0:53\" or \"[::]:53\"";
    let Ok(listener) = text.parse::<SocketAddr>() else {
        let remedy = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(v4)) => format!("add the port, like \"{v4}:53\""),
            Ok(IpAddr::V6(v6)) => format!("add brackets and the port, like \"[{v6}]:53\""),
            Err(_) => example.to_owned(),
        };
        return Err(Wrong::new(format!("`{text}` is not an address with a port"), remedy));
    };
    if listener.port() == 0 {
        return Err(Wrong::new("port 0 is no port", "write a port from 1 to 65535"));
    }
    if listener.ip().is_multicast() {
        return Err(Wrong::new(format!("`{text}` is a multicast address"), example));
    }
    Ok(listener)
}

/// The name of a host, as a certificate carries it (RFC 9525 section 6.3).
pub(super) fn host_name(text: &str) -> Result<Name, Wrong> {
    if text.parse::<IpAddr>().is_ok() {
        return Err(Wrong::new(
            format!("`{text}` is an address, not a name"),
            "write the name in the certificate, like \"dns.example.net\"",
        ));
    }
    let name = name(text)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text == "." || !text.chars().all(fits) {
        return Err(Wrong::new(
            format!("`{text}` is not the name of a host"),
            "use letters, digits, hyphens and dots, like \"dns.example.net\"",
        ));
    }
    Ok(name)
}

/// A DNS name that a certificate can have, in lower case: letters, digits and hyphens (RFC 5280
/// section 4.2.1.6), or a wildcard, which is the whole first label (RFC 9525 section 6.3).
pub(super) fn certified_name(text: &str) -> Result<String, Wrong> {
    if text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok() {
        return Err(Wrong::new(
            format!("`{text}` is an address: no public CA issues for private addresses"),
            "write the name that clients know this machine by, like \"dns.example.org\"",
        ));
    }
    let (base, wildcard) = text.strip_prefix("*.").map_or((text, false), |base| (base, true));
    if base.contains('*') {
        return Err(Wrong::new(
            format!("`{text}`: `*` stands for a label only as the whole first one"),
            "write \"*.example.org\"",
        ));
    }
    let name = name(base)?.to_string();
    let fits = |label: &str| {
        let hyphens = label.starts_with('-') || label.ends_with('-');
        !label.is_empty()
            && !hyphens
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if !name.split('.').all(fits) {
        return Err(Wrong::new(
            format!("`{text}` is not a name that a certificate can have"),
            "use letters, digits and, within labels, hyphens, like \"dns.example.org\"",
        ));
    }
    Ok(if wildcard { format!("*.{name}") } else { name })
}

/// Any domain name.
pub(super) fn name(text: &str) -> Result<Name, Wrong> {
    text.parse().map_err(|error| {
        Wrong::new(
            format!("`{text}` is not a domain name: {error}"),
            "write labels with dots between, like \"pi.home.lan\"",
        )
    })
}

/// The owner of local records and whether it is a wildcard (RFC 4592).
pub(super) fn owner(text: &str) -> Result<(Name, bool), Wrong> {
    let (base, wildcard) = text.strip_prefix("*.").map_or((text, false), |base| (base, true));
    if base.contains('*') {
        return Err(Wrong::new(
            format!("`{text}`: `*` stands for names only as the whole first label"),
            "write \"*.home.lan\"",
        ));
    }
    Ok((name(base)?, wildcard))
}

/// The path of an HTTP resource (RFC 9110 section 4.1), without query and template.
pub(super) fn resource(text: &str) -> Result<String, Wrong> {
    if !text.starts_with('/') {
        let message = format!("`{text}` is not the path of a resource: it does not begin with `/`");
        return Err(Wrong::new(message, format!("write \"/{text}\"")));
    }
    let odd =
        |c: char| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '{' | '}' | '"' | '<' | '>');
    if let Some(odd) = text.chars().find(|c| odd(*c)) {
        return Err(Wrong::new(
            format!("`{odd}` cannot stand in the path of a resource"),
            "write the path alone, like \"/dns-query\", without `{?dns}`",
        ));
    }
    Ok(text.to_owned())
}

/// The URL of a resource that is reached over TLS (RFC 9110 section 4.2.2).
pub(super) fn https(text: &str) -> Result<String, Wrong> {
    let wrong = |what: &str| {
        let remedy = "write a URL like \"https://acme.example.net/directory\"";
        Err(Wrong::new(format!("`{text}` {what}"), remedy))
    };
    let Ok(url) = text.parse::<Uri>() else { return wrong("is no URL") };
    if url.scheme_str() != Some("https") {
        return wrong("does not begin with https://, and secrets go over nothing else");
    }
    let odd = |c: char| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '@');
    let (host, authority) = (url.host().unwrap_or_default(), url.authority());
    let bare = authority.is_some_and(|authority| authority.as_str() == host);
    let port = url.port_u16().is_some_and(|port| port > 0);
    if host.is_empty() || !(bare || port) || text.contains(odd) {
        return wrong("is no URL of a host, a port and a path alone");
    }
    Ok(text.to_owned())
}

/// The path of a file.
pub(super) fn path(text: &str) -> Result<PathBuf, Wrong> {
    if text.is_empty() || text.contains('\0') {
        return Err(Wrong::new("this is no path", "write a path, absolute or beside this file"));
    }
    Ok(PathBuf::from(text))
}

/// A word for people: an operator, a group. Letter case is not told apart.
pub(super) fn label(text: &str) -> Result<String, Wrong> {
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err(Wrong::new("this is no name", "write a short word"));
    }
    Ok(text.trim().to_lowercase())
}

/// The name of a reference clock. NTP clients are shown its beginning as a reference id, in
/// capitals (RFC 5905 figure 12).
pub(super) fn clock_name(text: &str) -> Result<String, Wrong> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !(1..=16).contains(&text.len()) || !text.chars().all(fits) {
        return Err(Wrong::new(
            format!("`{text}` is no name of a clock"),
            "write up to 16 letters and digits, like \"GPS\"",
        ));
    }
    Ok(text.to_owned())
}

/// The pin of a key: SHA-256 of its `SubjectPublicKeyInfo`, in base64.
pub(super) fn pin(text: &str) -> Result<Pin, Wrong> {
    let digits = text.trim();
    let digits = digits.strip_prefix("sha256/").unwrap_or(digits);
    let octets = BASE64.decode(digits.as_bytes()).ok();
    octets.and_then(|octets| octets.try_into().ok()).map(Pin).ok_or_else(|| {
        let remedy = "write the 44 characters that `kdig -d @ADDRESS +tls-ca .` prints after \
                      \"PIN:\"";
        Wrong::new(format!("`{text}` is no pin of a key"), remedy)
    })
}

/// The name of a network interface, as the kernel bounds it.
pub(super) fn interface(text: &str) -> Result<String, Wrong> {
    let fits = (1..16).contains(&text.len());
    if !fits || text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        let remedy = "write it as `ip link` shows it, like \"wwan0\"";
        return Err(Wrong::new(format!("`{text}` is no name of a network interface"), remedy));
    }
    Ok(text.to_owned())
}

/// Whom an address belongs to as far as can be told: its /16, or /32 of IPv6.
pub(super) fn operator_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            format!("{a}.{b}.0.0/16")
        }
        IpAddr::V6(v6) => {
            let [a, b, ..] = v6.segments();
            format!("{a:x}:{b:x}::/32")
        }
    }
}

/// Whom a name belongs to as far as can be told: its last two labels.
pub(super) fn operator_named(name: &Name) -> String {
    let text = name.to_string();
    match text.rmatch_indices('.').nth(1) {
        Some((dot, _)) => text[dot + 1..].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_guessed_from_networks_and_names() {
        let operator = |text: &str| operator_of(text.parse().unwrap());
        assert_eq!(operator("162.159.200.1"), "162.159.0.0/16");
        assert_eq!(operator("2606:4700:f1::1"), "2606:4700::/32");

        let operator = |text: &str| operator_named(&text.parse().unwrap());
        assert_eq!(operator("dns.quad9.net"), "quad9.net");
        assert_eq!(operator("dns.google"), "dns.google");
        assert_eq!(operator("lan"), "lan");
    }

    #[test]
    fn a_name_in_place_of_an_address_is_told_why() {
        let wrong = address("time.cloudflare.com").unwrap_err();
        assert!(wrong.message.contains("TLS needs time"));

        assert!(address("192.0.2.1:123").unwrap_err().remedy.contains("port = 123"));
        assert!(address("192.0.2.256").unwrap_err().message.contains("not an IP address"));
        assert!(address("0.0.0.0").is_err());
        assert!(address("ff02::1").is_err());
    }

    #[test]
    fn listeners_need_a_port_and_resources_a_slash() {
        assert_eq!(
            listener("::").unwrap_err().remedy,
            "add brackets and the port, like \"[::]:53\""
        );
        assert!(listener("0.0.0.0:0").is_err());
        assert!(listener("[::]:53").is_ok());
        assert_eq!(resource("dns-query").unwrap_err().remedy, "write \"/dns-query\"");
        assert!(resource("/dns-query{?dns}").is_err());
    }

    #[test]
    fn urls_are_those_of_https_and_of_nothing_more() {
        for url in ["https://acme.example.net/directory", "https://[2001:db8::1]:14000/dir"] {
            assert_eq!(https(url).unwrap(), url);
        }
        assert!(https("http://acme.example.net/").unwrap_err().message.contains("nothing else"));
        for wrong in [
            "",
            "acme.example.net",
            "https://",
            "https:///directory",
            "https://a.example:99999/",
            "https://a.example:0/",
            "https://a.example/?b",
            "https://a.example/#b",
            "https://u:p@a.example/",
            "https://a.example/ b",
        ] {
            assert!(https(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn certificates_have_names_of_letters_digits_and_hyphens() {
        for (text, name) in [
            ("Dns.Example.org.", "dns.example.org"),
            ("*.Pi1.example.org", "*.pi1.example.org"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(certified_name(text).unwrap(), name);
        }
        for (text, message) in [
            ("192.168.7.1", "no public CA issues for private addresses"),
            ("[fd00::1]", "no public CA issues for private addresses"),
            ("dns.*.example.org", "only as the whole first one"),
            ("*.*.example.org", "only as the whole first one"),
            ("dns*.example.org", "only as the whole first one"),
            ("a_b.example.org", "not a name that a certificate can have"),
            ("-a.example.org", "not a name that a certificate can have"),
            ("*.a-.example.org", "not a name that a certificate can have"),
            ("a\\b.example", "not a domain name"),
            ("bücher.example", "not a domain name"),
            (".", "not a name that a certificate can have"),
            ("*.", "not a domain name"),
            ("", "not a domain name"),
        ] {
            let wrong = certified_name(text).unwrap_err();
            assert!(wrong.message.contains(message), "{text}: {}", wrong.message);
        }
    }
}
