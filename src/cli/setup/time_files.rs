//! The time servers that the configuration of another time service names (pure).

use std::net::{IpAddr, SocketAddr};

/// How many servers of one file are looked at, and how long each may be.
const SERVERS: usize = 64;
const LONGEST: usize = 253;

/// Whose configuration a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Format {
    /// chrony.conf, ntp.conf and openntpd's ntpd.conf: `server HOST ..` on a line.
    Directives,
    /// timesyncd.conf: `NTP=HOST HOST ..`.
    Timesyncd,
    /// ntpd-rs' ntp.toml: `address = "HOST"`.
    Toml,
}

/// The servers in `text`, names and addresses, each once, in the order of the file.
pub(super) fn servers(format: Format, text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim) {
        for server in of_line(format, line) {
            let server = bare(server);
            let sound = !server.is_empty() && server.len() <= LONGEST && is_host(&server);
            if sound && found.len() < SERVERS && !found.contains(&server) {
                found.push(server);
            }
        }
    }
    found
}

fn of_line(format: Format, line: &str) -> Vec<&str> {
    match format {
        Format::Directives => {
            let mut words = line.split_ascii_whitespace();
            let directive = words.next().unwrap_or_default().to_ascii_lowercase();
            if !["peer", "pool", "server", "servers"].contains(&directive.as_str()) {
                return Vec::new();
            }
            // `server -4 HOST` is ntp.conf's.
            words.find(|word| !word.starts_with('-')).into_iter().collect()
        }
        Format::Timesyncd => {
            let (key, value) = line.split_once('=').unwrap_or_default();
            let named = ["NTP", "FallbackNTP"].contains(&key.trim());
            if named { value.split_ascii_whitespace().collect() } else { Vec::new() }
        }
        Format::Toml => {
            let (key, value) = line.split_once('=').unwrap_or_default();
            let value = value.trim().strip_prefix('"').and_then(|rest| rest.split('"').next());
            value.filter(|_| key.trim() == "address").into_iter().collect()
        }
    }
}

/// Without a port: sources that we take over are asked at the usual one.
fn bare(server: &str) -> String {
    let place = server.parse::<SocketAddr>().ok().filter(|place| place.port() == 123);
    place.map_or_else(|| server.to_owned(), |place| place.ip().to_string())
}

/// An address, or what looks like a name. Anything else in such a place is no server.
fn is_host(server: &str) -> bool {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    server.parse::<IpAddr>().is_ok() || server.chars().all(sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_found_in_each_format() {
        let chrony = "# server 192.0.2.1\npool 2.debian.pool.ntp.org iburst\n  Server 192.0.2.7 nts\n\
                      server 192.0.2.7\nrefclock PPS /dev/pps0\nmakestep 1 3\n";
        assert_eq!(servers(Format::Directives, chrony), ["2.debian.pool.ntp.org", "192.0.2.7"]);

        let ntp = "restrict -4 default\nserver -6 2001:db8::1\nserver 127.127.20.0\npeer ntp.lan\n";
        assert_eq!(servers(Format::Directives, ntp), ["2001:db8::1", "127.127.20.0", "ntp.lan"]);

        let timesyncd =
            "[Time]\n#NTP=1.2.3.4\nNTP=192.0.2.9 a.lan\nFallbackNTP=b.lan\nRootDistanceMaxSec=5\n";
        assert_eq!(servers(Format::Timesyncd, timesyncd), ["192.0.2.9", "a.lan", "b.lan"]);

        let toml = "[[source]]\nmode = \"server\"\naddress = \"192.0.2.3:123\"\n[[source]]\naddress = \"t.lan\"\n";
        assert_eq!(servers(Format::Toml, toml), ["192.0.2.3", "t.lan"]);
    }

    #[test]
    fn garbage_is_no_server_and_many_are_cut() {
        let many: Vec<_> = (0..1000).map(|number| format!("server s{number}.lan")).collect();
        assert_eq!(servers(Format::Directives, &many.join("\n")).len(), SERVERS);

        let long = format!("server {}\n", "x".repeat(100_000));
        assert!(servers(Format::Directives, &long).is_empty());
        assert!(servers(Format::Directives, "server \u{1b}[2J\nserver\nserver \"\n").is_empty());
    }
}
