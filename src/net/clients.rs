//! Whose questions are answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::ClientNetwork;

/// The networks whose clients are answered.
#[derive(Clone, Debug)]
pub struct Clients {
    any: bool,
    networks: Box<[IpNet]>,
}

impl Clients {
    /// Those that `configured` names; `on_link` are the networks that this machine is part of.
    #[must_use]
    pub fn new(configured: &[ClientNetwork], on_link: &[IpNet]) -> Self {
        let networks = configured.iter().flat_map(|network| match network {
            ClientNetwork::Any => Vec::new(),
            ClientNetwork::Local => {
                private().into_iter().chain(on_link.iter().map(|network| home(*network))).collect()
            }
            ClientNetwork::Network(network) => vec![*network],
        });
        Self { any: configured.contains(&ClientNetwork::Any), networks: networks.collect() }
    }

    /// Whether a client at `address` is answered.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.any || self.networks.iter().any(|network| network.contains(&address))
    }
}

/// Networks that no packet from outside comes from: loopback, private use (RFC 1918, RFC 4193),
/// link-local, and carrier-grade NAT (RFC 6598), which overlay networks use too.
fn private() -> [IpNet; 9] {
    let v4 = |a, b, c, d, len| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len));
    let v6 = |first, last, len| {
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last), len))
    };
    [
        v4(127, 0, 0, 0, 8),
        v4(192, 168, 0, 0, 16),
        v4(10, 0, 0, 0, 8),
        v6(0xfe80, 0, 10),
        v6(0xfc00, 0, 7),
        v4(172, 16, 0, 0, 12),
        v6(0, 1, 128),
        v4(169, 254, 0, 0, 16),
        v4(100, 64, 0, 0, 10),
    ]
}

/// The network of a home of which `network` is a part: in IPv6 what a provider delegates to one
/// home, of which other parts lie behind the router (RFC 6177 section 2).
fn home(network: IpNet) -> IpNet {
    const DELEGATED: u8 = 56;
    match network {
        IpNet::V6(v6) if v6.prefix_len() > DELEGATED => {
            Ipv6Net::new(v6.addr(), DELEGATED).map_or(network, |wide| wide.trunc().into())
        }
        IpNet::V4(_) | IpNet::V6(_) => network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_clients_are_those_of_private_networks_and_of_the_machine_s_own() {
        let on_link = ["203.0.113.0/28".parse().unwrap(), "2001:db8:1:101::/64".parse().unwrap()];
        let clients = Clients::new(&[ClientNetwork::Local], &on_link);
        let answered = |address: &str| clients.contain(address.parse().unwrap());

        for address in [
            "127.0.0.9",
            "::1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.178.20",
            "169.254.3.4",
            "100.100.1.1",
            "fd00::1",
            "fe80::1",
            "203.0.113.14",
            "2001:db8:1:101::7",
            "2001:db8:1:1ff::7",
            "::ffff:192.168.1.1",
        ] {
            assert!(answered(address), "{address}");
        }
        for address in ["203.0.113.16", "8.8.8.8", "2001:db8:1:200::1", "172.32.0.1", "::2"] {
            assert!(!answered(address), "{address}");
        }
    }

    #[test]
    fn networks_can_be_named_and_everybody_can_be_answered() {
        let network = ClientNetwork::Network("192.0.2.0/24".parse().unwrap());
        let some = Clients::new(&[network], &[]);
        let all = Clients::new(&[ClientNetwork::Any], &[]);

        assert!(some.contain([192, 0, 2, 1].into()) && !some.contain([127, 0, 0, 1].into()));
        assert!(all.contain([8, 8, 8, 8].into()));
    }
}
