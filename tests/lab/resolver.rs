//! A resolver somewhere in the world: unbound or dnsdist, over TLS.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use firstlight::clock::Nanos;

use super::{Lab, eventually, find};

/// Answers every name below `lab.example.com` with an address of its own.
#[derive(Debug)]
pub(crate) struct Resolver {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// What it answers.
    pub(crate) answer: Ipv4Addr,
    child: Option<Child>,
    program: &'static str,
    config: std::path::PathBuf,
}

impl Resolver {
    /// Its certificate is valid in `valid`, counted from the lab's true time. It does not run yet.
    pub(crate) fn new(lab: &Lab, host: u8, valid: (Nanos, Nanos)) -> Self {
        Self::knowing(lab, host, valid, "")
    }

    /// The same, with more in unbound's `server` clause, and other clauses behind.
    pub(crate) fn knowing(lab: &Lab, host: u8, valid: (Nanos, Nanos), more: &str) -> Self {
        let name = format!("dns{host}.example.net");
        lab.authority.issue_files(lab, &name, valid);
        let (address, answer) = (lab.place(host, 8853), Ipv4Addr::new(192, 0, 2, host));
        let config = lab.path(&format!("{name}.conf"));
        let text = format!(
            "server:\n\
             interface: {ip}@{port}\n\
             tls-port: {port}\n\
             tls-service-pem: \"{pem}\"\n\
             tls-service-key: \"{key}\"\n\
             access-control: 127.0.0.0/8 allow\n\
             module-config: \"iterator\"\n\
             username: \"\"\n\
             chroot: \"\"\n\
             directory: \"\"\n\
             pidfile: \"\"\n\
             use-syslog: no\n\
             logfile: \"\"\n\
             do-ip6: no\n\
             num-threads: 1\n\
             local-zone: \".\" static\n\
             local-data: \". 3600 NS a.example.com.\"\n\
             local-data: \". 3600 SOA a.example.com. h.example.com. 1 3600 600 86400 60\"\n\
             local-zone: \"lab.example.com.\" redirect\n\
             local-data: \"lab.example.com. 300 A {answer}\"\n\
             {more}\
             remote-control:\n\
             control-enable: no\n",
            ip = address.ip(),
            port = address.port(),
            pem = lab.path(&format!("{name}.pem")).display(),
            key = lab.path(&format!("{name}.key")).display(),
        );
        fs::write(&config, text).unwrap();
        Self { name, address, answer, child: None, program: "unbound", config }
    }

    /// The same by dnsdist, which answers every name.
    pub(crate) fn dnsdist(lab: &Lab, host: u8, valid: (Nanos, Nanos)) -> Self {
        let mut resolver = Self::new(lab, host, valid);
        resolver.program = "dnsdist";
        let Self { name, address, answer, .. } = &resolver;
        let text = format!(
            "setLocal(\"{}:5353\")\n\
             addTLSLocal(\"{address}\", \"{pem}\", \"{key}\")\n\
             setACL(\"127.0.0.0/8\")\n\
             addAction(AllRule(), SpoofAction({{\"{answer}\"}}, {{ttl=300}}))\n",
            address.ip(),
            pem = lab.path(&format!("{name}.pem")).display(),
            key = lab.path(&format!("{name}.key")).display(),
        );
        fs::write(&resolver.config, text).unwrap();
        resolver
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn start(&mut self) {
        let log = fs::File::create(self.config.with_extension("log")).unwrap();
        let mut command = Command::new(find(self.program).unwrap());
        command.args(match self.program {
            "dnsdist" => &["--supervised", "--disable-syslog", "-C"][..],
            _ => &["-d", "-p", "-c"],
        });
        command.arg(&self.config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        eventually(Duration::from_secs(5), || TcpStream::connect(self.address).ok())
            .unwrap_or_else(|| panic!("{} does not listen", self.program));
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop();
    }
}
