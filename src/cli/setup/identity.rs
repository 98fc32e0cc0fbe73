//! Who the machine is in its network, by resolv.conf and the hosts file (pure).

use std::net::IpAddr;

use crate::config::HOME_DOMAINS;
use crate::wire::Name;

/// Home domains by which nothing can be found: mDNS's own, and names of the machine itself.
const OF_NO_USE: &[&str] = &["invalid", "local", "localdomain", "localhost", "onion", "test"];
/// How many name servers are shown.
const NAMESERVERS: usize = 8;

/// The servers that `resolv.conf` names.
pub(super) fn nameservers(resolv: &str) -> Vec<IpAddr> {
    let lines = resolv.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    // A zone, as in fe80::1%eth0, is of no interest here.
    let servers = lines.filter_map(|rest| rest.trim().split(['%', ' ']).next()?.parse().ok());
    servers.take(NAMESERVERS).collect()
}

/// The domain of the home network.
///
/// It is that of the machine's full name in the hosts file, which its administrator wrote; else the first
/// one to search, if it is a domain for homes: what a provider hands out is not this household's.
pub(super) fn domain(host: &str, hosts: &str, resolv: &str) -> Option<String> {
    let full = hosts.lines().filter_map(|line| line.split('#').next());
    let full = full.flat_map(|line| line.split_ascii_whitespace().skip(1));
    let mut own = full.filter_map(|name| {
        let (first, domain) = name.split_once('.')?;
        (first.eq_ignore_ascii_case(host)).then(|| usable(domain)).flatten()
    });
    let searched = || {
        let lines = resolv.lines().map(str::trim);
        let mut lists =
            lines.filter_map(|it| it.strip_prefix("search").or(it.strip_prefix("domain")));
        let first = lists.find_map(|list| list.split_ascii_whitespace().next())?;
        usable(first).filter(|domain| is_within(domain, HOME_DOMAINS))
    };
    own.next().or_else(searched)
}

/// The first label of a host name, if it can stand in a name.
pub(super) fn host(text: &str) -> Option<String> {
    let first = text.trim().split('.').next()?.to_ascii_lowercase();
    (!first.is_empty() && first != "localhost" && first.len() < 64 && is_label(&first))
        .then_some(first)
}

fn usable(domain: &str) -> Option<String> {
    let domain = domain.trim_end_matches('.').to_ascii_lowercase();
    let sound = domain.len() < 180 && domain.split('.').all(is_label);
    (sound && !is_within(&domain, OF_NO_USE)).then_some(domain)
}

fn is_label(label: &str) -> bool {
    let letters = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    letters && (1..64).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

fn is_within(domain: &str, ends: &[&str]) -> bool {
    let Ok(domain) = domain.parse::<Name>() else { return false };
    ends.iter().filter_map(|end| end.parse().ok()).any(|end: Name| domain.is_within(&end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_is_the_administrators_or_a_home_s_and_not_the_provider_s() {
        let of = |hosts, resolv| domain("pi", hosts, resolv);

        assert_eq!(
            of("127.0.1.1 pi.example.org pi\n", "search lan\n").as_deref(),
            Some("example.org")
        );
        assert_eq!(of("127.0.1.1 pi\n", "search Home.Lan. b\n").as_deref(), Some("home.lan"));
        assert_eq!(of("", "domain home.arpa\n").as_deref(), Some("home.arpa"));
        assert_eq!(
            of("10.0.0.9 other.example.org\n# 10.0.0.1 pi.example.org\n", "search lan"),
            Some("lan".to_owned())
        );
        for useless in
            ["search hsd1.example.net\n", "search local\n", "search .\n", "search -x.lan\n", ""]
        {
            assert_eq!(
                of("127.0.0.1 pi.localdomain localhost.localdomain\n", useless),
                None,
                "{useless}"
            );
        }
    }

    #[test]
    fn garbage_names_nobody() {
        let garbage =
            String::from_utf8_lossy(&[0xff, 0, b'\n', 0x1b, b'.', 0x80].repeat(500)).into_owned();

        assert_eq!(domain("pi", &garbage, &garbage), None);
        assert!(nameservers(&garbage).is_empty());
        assert_eq!(host(&garbage), None);
        assert_eq!(host("Pi.home.lan\n").as_deref(), Some("pi"));
        assert_eq!(nameservers("nameserver fe80::1%eth0\nnameserver 127.0.0.53\n").len(), 2);
    }
}
