//! The kernel's tables of sockets, /proc/net/{tcp,tcp6,udp,udp6} (pure).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::facts::Socket;

/// The ports that firstlight serves on: TCP and UDP.
const PORTS: [(bool, &[u16]); 2] = [(true, &[53, 443, 853]), (false, &[53, 123, 853])];
/// The state of a listener, and that of a UDP socket without a peer.
const LISTEN: &str = "0A";
const CLOSE: &str = "07";

/// The sockets of a table that take what strangers send to a port of ours, with their inodes.
pub(super) fn at_our_ports(table: &str, tcp: bool) -> Vec<(Socket, u64)> {
    table.lines().filter_map(|line| socket(line, tcp)).collect()
}

/// One line: `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode ..`.
fn socket(line: &str, tcp: bool) -> Option<(Socket, u64)> {
    let words: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
    let [_, local, remote, state, .., inode] = words[..] else { return None };
    let ports = PORTS.iter().find(|(kind, _)| *kind == tcp).map_or(&[][..], |(_, ports)| ports);
    let at = place(local)?;
    let open = state == if tcp { LISTEN } else { CLOSE } && place(remote)?.port() == 0;
    (open && ports.contains(&at.port())).then_some((Socket { tcp, at }, inode.parse().ok()?))
}

/// `0100007F:0035`: words of 32 bits in the machine's own order, in hexadecimal.
fn place(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if !address.is_ascii() || !matches!(address.len(), 8 | 32) {
        return None;
    }
    let mut octets = [0; 16];
    for (word, place) in octets.chunks_exact_mut(4).take(address.len() / 8).enumerate() {
        let digits = &address[word * 8..word * 8 + 8];
        place.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    }
    let [a, b, c, d, ..] = octets;
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::new(a, b, c, d).into(),
        _ => Ipv6Addr::from(octets).to_canonical(),
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 3500007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 4711 1 0
   1: 0100007F:0019 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0
   2: 0201A8C0:01BB 0901A8C0:C001 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0
   3: garbage
   4: \u{fffd}\u{fffd}\u{fffd}\u{fffd}:0035 00000000:0000 0A 0 0 0 0 0 4714
";

    #[test]
    #[cfg(target_endian = "little")]
    fn listeners_at_our_ports_are_found_and_nothing_else() {
        let stub = Socket { tcp: true, at: "127.0.0.53:53".parse().unwrap() };
        assert_eq!(at_our_ports(TCP, true), [(stub, 4711)]);

        // The same port number of the other protocol, and a socket with a peer.
        let udp = "0: 00000000:007B 00000000:0000 07 0:0 0:0 0 0 0 9 2\n\
                   1: 00000000:01BB 00000000:0000 07 0:0 0:0 0 0 0 10 2\n\
                   2: 0100007F:0035 0100007F:9999 01 0:0 0:0 0 0 0 11 2\n";
        let time = Socket { tcp: false, at: "0.0.0.0:123".parse().unwrap() };
        assert_eq!(at_our_ports(udp, false), [(time, 9)]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn ipv6_addresses_are_read_word_by_word() {
        let line =
            |address| format!("0: {address}:0035 {}:0000 07 0:0 0:0 0 0 0 9 2\n", "0".repeat(32));
        let read = |address| at_our_ports(&line(address), false)[0].0.at.ip().to_string();

        assert_eq!(read("B80D0120000000000000000001000000"), "2001:db8::1");
        assert_eq!(read("00000000000000000000000000000000"), "::");
        assert_eq!(read("0000000000000000FFFF00000201A8C0"), "192.168.1.2");
    }
}
