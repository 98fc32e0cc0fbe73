//! What lies outside the house: who knows the time, and resolvers of two operators.

use std::net::SocketAddr;
use std::process::{Command, Output};

use crate::lab::{DAY, Daemon, Lab, Resolver, Wan};
use crate::rig::NAME;

/// Where nobody listens, by the name of `dead.test`.
pub(crate) const DEAD: u8 = 47;

/// All that knows the time or names.
pub(crate) struct Outside {
    /// A configuration with these, in which nothing is ordered.
    pub(crate) text: String,
    _wan: Wan,
    _resolvers: [Resolver; 2],
}

impl Outside {
    /// `zone` knows what is below `home.test`, and below `acme-dns.test`. The CA has three names;
    /// at `dead.test` there is none.
    pub(crate) fn start(lab: &Lab, zone: SocketAddr) -> Self {
        let hosts =
            [("pebble", 40), ("second", 40), ("staging", 40), ("dead", DEAD), ("acme-dns", 43)];
        let hosts = hosts.map(|(name, host)| {
            format!("local-data: \"{name}.test. 60 A {}\"\n", lab.address(host))
        });
        let zones = ["home", "acme-dns"].map(|name| {
            let (ip, port) = (zone.ip(), zone.port());
            format!("stub-zone:\nname: \"{name}.test.\"\nstub-addr: \"{ip}@{port}\"\n")
        });
        let more = format!(
            "do-not-query-localhost: no\ncache-max-negative-ttl: 0\ncache-max-ttl: 0\n\
             local-zone: \"home.test.\" transparent\nlocal-zone: \"acme-dns.test.\" transparent\n\
             {}{}",
            hosts.concat(),
            zones.concat()
        );
        let resolvers = [30, 31].map(|host| {
            let mut resolver = Resolver::knowing(lab, host, (-DAY, DAY), &more);
            resolver.start();
            resolver
        });
        let (setup, wan) = lab.honest();
        let setup = setup.upstream(&resolvers[0], "quad9").upstream(&resolvers[1], "cloudflare");
        let text = std::fs::read_to_string(setup.write()).unwrap().replace("dns.home.lan", NAME);
        Self { text, _wan: wan, _resolvers: resolvers }
    }

    /// Writes the configuration, with `orders` as the section `[acme]` and those below it.
    pub(crate) fn configure(&self, lab: &Lab, orders: &str) {
        std::fs::write(lab.path("firstlight.toml"), format!("{}{orders}", self.text)).unwrap();
    }

    /// A daemon by that, whose clock starts in 1970.
    pub(crate) fn boot(&self, lab: &Lab, orders: &str) -> Daemon {
        self.boot_under(lab, &[], orders)
    }

    /// The same, run by another program.
    pub(crate) fn boot_under(&self, lab: &Lab, wrapper: &[&str], orders: &str) -> Daemon {
        self.configure(lab, orders);
        let mut daemon = Daemon::start_under(lab, wrapper, &["--start", "@0"]);
        daemon.serves(lab).unwrap();
        daemon
    }
}

/// `firstlight` with these arguments and the lab's configuration: its exit code, and what it says on
/// standard output and standard error.
pub(crate) fn firstlight(lab: &Lab, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstlight"));
    command.args(arguments).arg("--config").arg(lab.path("firstlight.toml"));
    told(&command.output().unwrap())
}

/// The same of a command that has run.
pub(crate) fn told(output: &Output) -> (i32, String, String) {
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}
