//! What a process uses, from `/proc`.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::unistd::{Pid, SysconfVar, sysconf};

/// The most memory it ever had in use, in bytes.
pub(crate) fn peak_memory(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kibibytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes * 1024
}

/// The CPU time it has used, over all threads.
pub(crate) fn cpu_time(pid: Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, in brackets, may hold anything. Fields 14 and 15 (proc(5)) are in clock ticks.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u32 =
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u32>().unwrap()).sum();
    let second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_secs(1) * ticks / u32::try_from(second).unwrap()
}

/// How many connections to a listener at `address` have not ended, accepted or not.
pub(crate) fn connections(address: SocketAddr) -> usize {
    let IpAddr::V4(ip) = address.ip() else { panic!("{address}") };
    // As proc_net_tcp(5) has it: the address as the machine's number, then the port and the peer.
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    // The state: ESTABLISHED, or CLOSE_WAIT: the client has closed its side.
    let open = |state: &str| matches!(state, "01" | "08");
    table
        .lines()
        .filter(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next() == Some(&local) && fields.nth(1).is_some_and(open)
        })
        .count()
}
