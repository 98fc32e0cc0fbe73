//! Looks at the machine: reads files, within bounds, and changes nothing.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::ifaddrs::getifaddrs;
use nix::libc;

use super::facts::{Address, Earlier, Facts, Owner, Process, Rtc, TimeFile};
use super::text::MARK;
use super::{identity, sockets, time_files};
use crate::clock::UnixTime;
use crate::config::{ClockMode, Config, Parsed};
use crate::host::boot::build_epoch;

/// How much of a file is read. What people write by hand is shorter.
const FILE_LIMIT: u64 = 256 * 1024;
/// How much of a table of the kernel's is read: some 40,000 sockets.
const TABLE_LIMIT: u64 = 8 * 1024 * 1024;
/// How many files of one folder are read.
const FOLDER_LIMIT: usize = 64;
/// What the daemon's process is called.
const OURS: &str = "firstlight";
/// `CAP_SYS_TIME` (linux/capability.h).
const SYS_TIME: u64 = 1 << 25;

/// Where other time services are configured.
const TIME_FILES: &[(time_files::Format, &str)] = &[
    (time_files::Format::Directives, "etc/chrony/chrony.conf"),
    (time_files::Format::Directives, "etc/chrony.conf"),
    (time_files::Format::Directives, "etc/chrony/conf.d/*.conf"),
    (time_files::Format::Directives, "etc/chrony/sources.d/*.sources"),
    (time_files::Format::Directives, "etc/ntp.conf"),
    (time_files::Format::Directives, "etc/ntpsec/ntp.conf"),
    (time_files::Format::Directives, "etc/openntpd/ntpd.conf"),
    (time_files::Format::Timesyncd, "etc/systemd/timesyncd.conf"),
    (time_files::Format::Timesyncd, "etc/systemd/timesyncd.conf.d/*.conf"),
    (time_files::Format::Toml, "etc/ntpd-rs/ntp.toml"),
];
/// What tells that a program for DNS is configured here.
const RESOLVERS: &[(&str, &str)] = &[
    ("Pi-hole", "etc/pihole"),
    ("AdGuard Home", "opt/AdGuardHome/AdGuardHome.yaml"),
    ("AdGuard Home", "var/lib/AdGuardHome/AdGuardHome.yaml"),
    ("AdGuard Home", "etc/AdGuardHome.yaml"),
    ("unbound", "etc/unbound/unbound.conf"),
    ("dnsmasq", "etc/dnsmasq.conf"),
    ("systemd-resolved", "run/systemd/resolve/stub-resolv.conf"),
];
/// What is found below `root` on a machine with these addresses, and in the configuration that is there.
pub(super) fn gather(root: &Path, addresses: &[Address], config: &Path) -> Facts {
    let root = Root { path: root, unseen: Vec::new() };
    root.gather(addresses, config)
}

struct Root<'a> {
    path: &'a Path,
    unseen: Vec<String>,
}

impl Root<'_> {
    fn gather(mut self, addresses: &[Address], config: &Path) -> Facts {
        let release = self.read("etc/os-release");
        let resolv = self.read("etc/resolv.conf");
        let processes = self.processes();
        let host = identity::host(&self.read("etc/hostname"))
            .or_else(|| identity::host(&self.read("proc/sys/kernel/hostname")))
            .unwrap_or_else(|| "firstlight".to_owned());
        // This very process is called so, too.
        let ours = |it: &Process| it.name == OURS && it.pid != std::process::id();
        let mut facts = Facts {
            system: field(&release, "PRETTY_NAME").chars().take(64).collect(),
            nixos: field(&release, "ID") == "nixos" || self.exists("etc/NIXOS"),
            systemd: self.exists("run/systemd/system"),
            running: processes.values().any(ours),
            domain: identity::domain(&host, &self.read("etc/hosts"), &resolv),
            host,
            addresses: addresses.to_vec(),
            owners: self.owners(&processes),
            nameservers: identity::nameservers(&resolv),
            resolvers: self.resolvers(),
            time_services: processes.values().filter(|it| it.keeps_a_clock()).cloned().collect(),
            time_files: self.time_files(),
            rtc: self.rtc(),
            clock_withheld: self.clock_withheld(),
            earlier: earlier(config),
            unseen: Vec::new(),
        };
        facts.unseen = self.unseen;
        facts
    }

    /// The beginning of a file, whatever is in it; empty without it.
    fn read(&mut self, file: &str) -> String {
        self.read_to(file, FILE_LIMIT)
    }

    fn read_to(&mut self, file: &str, limit: u64) -> String {
        match beginning(&self.path.join(file), limit) {
            Beginning::All(text) => text,
            Beginning::Cut(text) => {
                self.unseen
                    .push(format!("of /{file} only the first {} KiB were read", limit / 1024));
                text
            }
            Beginning::Nothing => String::new(),
        }
    }

    fn exists(&self, file: &str) -> bool {
        self.path.join(file).exists()
    }

    /// Names in a folder, in order.
    fn list(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path.join(folder)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    fn resolvers(&self) -> Vec<(&'static str, String)> {
        let mut found: Vec<(&'static str, String)> = Vec::new();
        for (name, file) in RESOLVERS {
            if self.exists(file) && found.iter().all(|(known, _)| known != name) {
                found.push((name, format!("/{file}")));
            }
        }
        found
    }

    fn time_files(&mut self) -> Vec<TimeFile> {
        let mut found = Vec::new();
        for (format, file) in TIME_FILES {
            let files = match file.split_once("/*") {
                None => vec![(*file).to_owned()],
                Some((folder, end)) => {
                    let names = self.list(folder).into_iter().filter(|name| name.ends_with(end));
                    names.take(FOLDER_LIMIT).map(|name| format!("{folder}/{name}")).collect()
                }
            };
            for file in files {
                let servers = time_files::servers(*format, &self.read(&file));
                if !servers.is_empty() {
                    found.push(TimeFile { file: format!("/{file}"), servers });
                }
            }
        }
        found
    }

    fn rtc(&mut self) -> Rtc {
        let Some(device) = self.list("sys/class/rtc").into_iter().next() else { return Rtc::None };
        let folder = format!("sys/class/rtc/{device}");
        let name = self.read(&format!("{folder}/name"));
        let name: String = name.trim().chars().take(64).collect();
        let name = if name.is_empty() { device } else { name };
        let number = |text: String| text.trim().parse::<i64>().ok();
        let shows = number(self.read(&format!("{folder}/since_epoch"))).map(UnixTime::from_secs);
        // In microvolts, of the clock on a Raspberry Pi 5.
        let voltage = number(self.read(&format!("{folder}/battery_voltage")));
        let dead = voltage.is_some_and(|microvolts| microvolts < 1_000_000);
        if dead || shows.is_none_or(|time| time < build_epoch()) {
            Rtc::Unbacked(name)
        } else {
            Rtc::Backed(name)
        }
    }

    fn clock_withheld(&mut self) -> Option<&'static str> {
        let status = self.read("proc/self/status");
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        let bounding = bounding.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        let map = self.read("proc/self/uid_map");
        let map: Vec<_> = map.split_ascii_whitespace().collect();
        if bounding.is_some_and(|mask| mask & SYS_TIME == 0) {
            Some("this container lacks CAP_SYS_TIME")
        } else if !map.is_empty() && map != ["0", "0", "4294967295"] {
            Some("root of this container is not root of the machine")
        } else {
            None
        }
    }

    /// Every process that may be seen, by its id.
    fn processes(&mut self) -> BTreeMap<u32, Process> {
        let mut found = BTreeMap::new();
        for pid in self.list("proc").into_iter().filter_map(|name| name.parse::<u32>().ok()) {
            let name: String =
                self.read(&format!("proc/{pid}/comm")).trim().chars().take(15).collect();
            if !name.is_empty() {
                let unit = unit(&self.read(&format!("proc/{pid}/cgroup")));
                found.insert(pid, Process { pid, name, unit });
            }
        }
        found
    }

    /// Who has our ports. Our own daemon is nobody to be asked about.
    fn owners(&mut self, processes: &BTreeMap<u32, Process>) -> Vec<Owner> {
        let mut open = BTreeMap::new();
        for (table, tcp) in [("tcp", true), ("tcp6", true), ("udp", false), ("udp6", false)] {
            let text = self.read_to(&format!("proc/net/{table}"), TABLE_LIMIT);
            for (socket, inode) in sockets::at_our_ports(&text, tcp) {
                open.insert(inode, socket);
            }
        }
        let mut owners: Vec<Owner> = Vec::new();
        if open.is_empty() {
            return owners;
        }
        for process in processes.values() {
            let mut sockets = Vec::new();
            let folder = self.path.join(format!("proc/{}/fd", process.pid));
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let target = fs::read_link(entry.path()).unwrap_or_default();
                let inode = target.to_str().and_then(|it| it.strip_prefix("socket:["));
                let inode = inode.and_then(|it| it.strip_suffix(']')?.parse::<u64>().ok());
                sockets.extend(inode.and_then(|inode| open.remove(&inode)));
            }
            if !sockets.is_empty() && process.name != OURS {
                sockets.sort_unstable();
                owners.push(Owner { process: Some(process.clone()), sockets });
            }
        }
        if !open.is_empty() {
            let mut sockets: Vec<_> = open.into_values().collect();
            sockets.sort_unstable();
            owners.push(Owner { process: None, sockets });
            self.unseen.push("who has some of the ports: root sees it".to_owned());
        }
        owners
    }
}

/// The addresses of this machine's interfaces, but for link-local ones.
pub(super) fn interfaces() -> Vec<Address> {
    let found = getifaddrs().into_iter().flatten().filter_map(|found| {
        let address = found.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let ip = v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
        let local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        (!local).then_some(Address { interface: found.interface_name, ip })
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by(|a, b| (&a.interface, a.ip).cmp(&(&b.interface, b.ip)));
    found
}

/// What a run before this one wrote, whatever was changed in it since.
fn earlier(config: &Path) -> Option<Earlier> {
    let (Beginning::All(text) | Beginning::Cut(text)) = beginning(config, FILE_LIMIT) else {
        return None;
    };
    let Parsed { config, .. } =
        text.starts_with(MARK).then(|| Config::parse(&text, config).ok()).flatten()?;
    let built_in = Config::embedded().ok()?.config.clock.sources;
    let imported = config.clock.sources.iter().map(|source| source.address.ip());
    let listen = config.dns.listen.iter().map(SocketAddr::ip);
    let elsewhere = |listen: &[SocketAddr], port| listen.iter().any(|at| at.port() != port);
    let observes = config.clock.mode == ClockMode::Observe;
    Some(Earlier {
        listen: listen.filter(|ip| !ip.is_unspecified()).collect(),
        operators: config.upstreams.iter().map(|upstream| upstream.operator.clone()).collect(),
        name: config.tls.name.to_string().trim_end_matches('.').to_owned(),
        observes,
        imported: imported.filter(|ip| built_in.iter().all(|it| it.address.ip() != *ip)).collect(),
        // With a clock that is another program's, the port for time may be that program's, too.
        beside: elsewhere(&config.dns.listen, 53)
            || elsewhere(&config.dot.listen, 853)
            || elsewhere(&config.doh.listen, 443)
            || (config.ntp.listen.is_empty() && !observes),
    })
}

enum Beginning {
    All(String),
    Cut(String),
    Nothing,
}

/// The beginning of a regular file as text, with replacements for what is none.
fn beginning(path: &Path, limit: u64) -> Beginning {
    // A pipe would be waited for, were it opened otherwise.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let Ok(file) = opened.and_then(|file| Ok(file.metadata()?.is_file().then_some(file))) else {
        return Beginning::Nothing;
    };
    let Some(file) = file else { return Beginning::Nothing };
    let mut octets = Vec::new();
    // What was read before an error counts.
    drop(file.take(limit + 1).read_to_end(&mut octets));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let cut = octets.len() > limit;
    octets.truncate(limit);
    let text = String::from_utf8_lossy(&octets).into_owned();
    if cut { Beginning::Cut(text) } else { Beginning::All(text) }
}

/// The unit in `0::/system.slice/dnsmasq.service`.
fn unit(cgroup: &str) -> Option<String> {
    let units = cgroup.lines().filter_map(|line| line.rsplit('/').next());
    let sound = |c: char| c.is_ascii_alphanumeric() || "-_.@:".contains(c);
    let mut units = units.filter(|unit| unit.ends_with(".service") && unit.chars().all(sound));
    units.find(|unit| !unit.starts_with('-')).map(str::to_owned)
}

/// A value of os-release, without quotes.
fn field(release: &str, key: &str) -> String {
    let mut lines = release.lines().filter_map(|line| line.split_once('='));
    let value = lines.find(|(name, _)| *name == key).map_or("", |(_, value)| value);
    value.trim_matches(['"', '\'']).to_owned()
}

/// Where a file of the machine below `root` lies.
pub(super) fn below(root: &Path, file: &Path) -> PathBuf {
    root.join(file.strip_prefix("/").unwrap_or(file))
}
