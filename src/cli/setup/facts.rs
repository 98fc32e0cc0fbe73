//! What was found on the machine (pure data, and the questions one may ask of it).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::host::hands::TIME_SERVICES;

/// Everything that decides what a configuration for this machine looks like.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Facts {
    /// What the system calls itself, like `Debian GNU/Linux 12 (bookworm)`; empty: unknown.
    pub(super) system: String,
    /// NixOS builds the files in /etc itself.
    pub(super) nixos: bool,
    /// systemd starts the services here.
    pub(super) systemd: bool,
    /// The daemon runs already.
    pub(super) running: bool,
    /// The machine's name, without a domain.
    pub(super) host: String,
    /// The domain of the local network, without a final dot.
    pub(super) domain: Option<String>,
    /// Every address of an interface, loopback among them.
    pub(super) addresses: Vec<Address>,
    /// Who has one of the ports that firstlight serves on.
    pub(super) owners: Vec<Owner>,
    /// Whom the machine itself asks for names, from resolv.conf.
    pub(super) nameservers: Vec<IpAddr>,
    /// Programs for DNS that are configured here, each with the file that says so.
    pub(super) resolvers: Vec<(&'static str, String)>,
    /// Time services that run.
    pub(super) time_services: Vec<Process>,
    /// Files that name time servers.
    pub(super) time_files: Vec<TimeFile>,
    /// The clock that runs while the machine is off.
    pub(super) rtc: Rtc,
    /// Why nobody in here may set the clock; `None`: root may.
    pub(super) clock_withheld: Option<&'static str>,
    /// The configuration that an earlier `firstlight setup` wrote.
    pub(super) earlier: Option<Earlier>,
    /// What could not be seen, in words.
    pub(super) unseen: Vec<String>,
}

/// An address and its interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Address {
    /// The interface, like `eth0`.
    pub(super) interface: String,
    /// Its address.
    pub(super) ip: IpAddr,
}

/// A process that has at least one port of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Owner {
    /// Who; `None`: it may not be seen, or is in another container.
    pub(super) process: Option<Process>,
    /// Its sockets at our ports.
    pub(super) sockets: Vec<Socket>,
}

/// A running program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Process {
    /// Its process id.
    pub(super) pid: u32,
    /// Its name, cut to 15 octets by the kernel.
    pub(super) name: String,
    /// The systemd unit it belongs to, like `dnsmasq.service`.
    pub(super) unit: Option<String>,
}

/// A socket that receives what strangers send.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Socket {
    /// Whether it is TCP; else UDP.
    pub(super) tcp: bool,
    /// Where it is bound.
    pub(super) at: SocketAddr,
}

/// A file that names time servers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct TimeFile {
    /// Which.
    pub(super) file: String,
    /// Its servers, as they stand there: names and addresses.
    pub(super) servers: Vec<String>,
}

/// The clock that runs while the machine is off.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Rtc {
    /// There is none.
    #[default]
    None,
    /// There is one, and it looks as if nothing keeps it running.
    Unbacked(String),
    /// There is one, and its time is possible.
    Backed(String),
}

/// What an earlier run wrote, and a person may have changed since.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Earlier {
    /// Addresses of `dns.listen`; empty: all.
    pub(super) listen: Vec<IpAddr>,
    /// Operators of its upstreams.
    pub(super) operators: Vec<String>,
    /// `tls.name`.
    pub(super) name: String,
    /// `clock.mode` is "observe".
    pub(super) observes: bool,
    /// Its time sources, but for the built-in ones.
    pub(super) imported: Vec<IpAddr>,
    /// It keeps off port 53, 853, 443 or 123.
    pub(super) beside: bool,
}

impl Facts {
    /// Addresses in networks that belong to nobody on the internet, and loopback: those of a LAN.
    pub(super) fn private(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(|address| is_private(address.ip))
    }

    /// The addresses by which devices in the LAN reach this machine, and which are likely to stay.
    pub(super) fn lan(&self) -> Vec<IpAddr> {
        let passing = |ip| matches!(ip, IpAddr::V4(v4) if v4.is_link_local());
        let lan = self.private().filter(|address| {
            let stays = !address.ip.is_loopback() && !passing(address.ip);
            stays && !of_containers(&address.interface)
        });
        lan.map(|address| address.ip).collect()
    }

    /// Whether the internet may reach an IPv4 address of this machine directly.
    pub(super) fn is_public(&self) -> bool {
        let mut ours = self.addresses.iter().map(|address| address.ip);
        ours.any(|ip| ip.is_ipv4() && !is_private(ip) && !is_shared(ip))
    }

    /// Addresses that the files of other time services name, each once, with the file.
    pub(super) fn literal_sources(&self) -> Vec<(IpAddr, &str)> {
        let mut found: Vec<(IpAddr, &str)> = Vec::new();
        for file in &self.time_files {
            for ip in file.servers.iter().filter_map(|server| server.parse::<IpAddr>().ok()) {
                let of_others = !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast();
                if of_others && found.iter().all(|(known, _)| *known != ip) {
                    found.push((ip, &file.file));
                }
            }
        }
        found
    }

    /// Names of time servers, which cannot become sources.
    pub(super) fn named_sources(&self) -> Vec<&str> {
        let servers = self.time_files.iter().flat_map(|file| &file.servers);
        servers.map(String::as_str).filter(|server| server.parse::<IpAddr>().is_err()).collect()
    }

    /// Time services that an administrator chose, and that firstlight should not take the clock from.
    /// systemd-timesyncd is there by default, asks one server by name, and gives way.
    pub(super) fn chosen_time_services(&self) -> impl Iterator<Item = &Process> {
        self.time_services.iter().filter(|process| !process.gives_way())
    }
}

impl Process {
    /// Whether it is the time service that systemd brings along.
    pub(super) fn gives_way(&self) -> bool {
        self.name.starts_with("systemd-timesyn")
    }

    /// Whether its work is to keep the machine's clock.
    pub(super) fn keeps_a_clock(&self) -> bool {
        TIME_SERVICES.contains(&self.name.as_str())
    }

    /// How a person would name it: `dnsmasq (process 7)`.
    pub(super) fn words(&self) -> String {
        format!("{} (process {})", self.name, self.pid)
    }
}

/// Loopback, private networks (RFC 1918) and unique local ones (RFC 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6 == Ipv6Addr::LOCALHOST,
    }
}

/// 100.64.0.0/10, behind a provider's address translation (RFC 6598).
fn is_shared(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 0x40,
        IpAddr::V6(_) => false,
    }
}

/// Whether an interface leads to containers and virtual machines on this machine alone.
pub(super) fn of_containers(interface: &str) -> bool {
    const BEGINNINGS: &[&str] =
        &["cali", "cni", "docker", "flannel", "lxcbr", "lxdbr", "podman", "veth", "virbr", "vnet"];
    let bridge = interface.strip_prefix("br-");
    BEGINNINGS.iter().any(|beginning| interface.starts_with(beginning))
        // Docker calls the bridges of its networks by twelve hexadecimal digits.
        || bridge.is_some_and(|id| id.len() == 12 && id.chars().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_the_internet_reaches_is_told_from_one_behind_a_router() {
        let with = |ip: &str| Facts {
            addresses: vec![Address { interface: "eth0".to_owned(), ip: ip.parse().unwrap() }],
            ..Facts::default()
        };

        for public in ["8.8.8.8", "203.0.113.7", "100.128.0.1"] {
            assert!(with(public).is_public(), "{public}");
        }
        for behind in
            ["127.0.0.1", "10.0.0.1", "192.168.1.2", "169.254.3.4", "100.64.0.1", "2001:db8::1"]
        {
            assert!(!with(behind).is_public(), "{behind}");
        }
    }

    #[test]
    fn bridges_of_containers_are_told_from_those_of_the_lan() {
        for containers in ["docker0", "virbr0", "br-0123456789ab", "veth12"] {
            assert!(of_containers(containers), "{containers}");
        }
        for lan in ["eth0", "br0", "br-lan", "wlan0", "enp3s0"] {
            assert!(!of_containers(lan), "{lan}");
        }
    }
}
