//! Names that are never asked of an upstream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Entry;
use crate::wire::Name;

/// What is known of a zone whose names stay here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Zone {
    /// Not even the zone's own name exists.
    Absent,
    /// The zone exists and holds nothing but what is configured (RFC 6303 section 3).
    Empty,
    /// Every name in it is this machine (RFC 6761 section 6.3).
    Localhost,
}

/// Time to live of special names and of their absence (RFC 6303 section 3), in seconds.
pub(super) const TTL: u32 = 10_800;

/// Names that do not exist in the DNS, and must not be sought there.
const ABSENT: &[&str] = &[
    "invalid", // RFC 6761 section 6.4
    "local",   // RFC 6762 section 22.1: multicast DNS
    "onion",   // RFC 7686 section 2
];

/// The name that browsers ask for to learn whether to bypass this resolver
/// (<https://support.mozilla.org/kb/canary-domain-use-application-dnsnet>).
const CANARY: &str = "use-application-dns.net";

/// Zones of which the world's servers know nothing, or nothing right.
const EMPTY: &[&str] = &[
    "home.arpa",     // RFC 8375
    "ipv4only.arpa", // RFC 8880
    "resolver.arpa", // RFC 9462 section 6.4: never forwarded
    // RFC 6303 section 4: private, loopback, link-local and documentation addresses.
    "10.in-addr.arpa",
    "168.192.in-addr.arpa",
    "0.in-addr.arpa",
    "127.in-addr.arpa",
    "254.169.in-addr.arpa",
    "2.0.192.in-addr.arpa",
    "100.51.198.in-addr.arpa",
    "113.0.203.in-addr.arpa",
    "255.255.255.255.in-addr.arpa",
    "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
    "d.f.ip6.arpa",
    "8.e.f.ip6.arpa",
    "9.e.f.ip6.arpa",
    "a.e.f.ip6.arpa",
    "b.e.f.ip6.arpa",
    "8.b.d.0.1.0.0.2.ip6.arpa",
];

/// All special zones.
pub(super) fn zones(canary: bool) -> impl Iterator<Item = (Name, Zone)> {
    let named = |zone| move |text: &&str| Some((text.parse().ok()?, zone));
    let private = (16..32).map(|octet| format!("{octet}.172.in-addr.arpa"));
    // RFC 7793: addresses shared behind carriers' translators.
    let shared = (64..128).map(|octet| format!("{octet}.100.in-addr.arpa"));
    ["localhost"]
        .iter()
        .filter_map(named(Zone::Localhost))
        .chain(ABSENT.iter().filter_map(named(Zone::Absent)))
        .chain([CANARY].iter().filter(move |_| canary).filter_map(named(Zone::Absent)))
        .chain(EMPTY.iter().filter_map(named(Zone::Empty)))
        .chain(private.chain(shared).filter_map(|text| Some((text.parse().ok()?, Zone::Empty))))
}

/// Records that special names own.
pub(super) fn entries() -> Vec<Entry> {
    let entry = |name: &str, addresses: Vec<IpAddr>| {
        Some(Entry {
            name: name.parse().ok()?,
            wildcard: false,
            addresses,
            cname: None,
            txt: Vec::new(),
            ttl: TTL,
        })
    };
    let localhost = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    // How a client finds out whether there is a NAT64 (RFC 7050, RFC 8880 section 7.1). There is
    // none here: the name has its two IPv4 addresses alone.
    let nat64 = vec![Ipv4Addr::new(192, 0, 0, 170).into(), Ipv4Addr::new(192, 0, 0, 171).into()];
    // Where clients ask how this resolver can be spoken to (RFC 9462 section 4). The name exists.
    let designated = entry("_dns.resolver.arpa", Vec::new());
    [entry("localhost", localhost), entry("ipv4only.arpa", nat64), designated]
        .into_iter()
        .flatten()
        .collect()
}
