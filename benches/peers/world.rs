//! The network of its own that servers are measured in: an upstream, certificates, the time.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};

use crate::Failure;

/// The name in everybody's certificate.
pub(crate) const NAME: &str = "dns.house.zz";
/// The DoH resource.
pub(crate) const PATH: &str = "/dns-query";
/// Every name below exists, those below `gone.` excepted.
pub(crate) const ZONE: &str = "house.zz";
/// Where the upstream answers, over UDP, TCP and TLS.
pub(crate) const UPSTREAM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
/// Two time sources, for whoever wants to know the time.
pub(crate) const SOURCES: [Ipv4Addr; 2] =
    [Ipv4Addr::new(127, 0, 1, 123), Ipv4Addr::new(127, 0, 2, 123)];

/// Set once the namespaces are entered.
const INSIDE: &str = "FIRSTLIGHT_BENCH_INSIDE";

/// Runs this program again in network, mount and process namespaces of its own, unless this is
/// that run: nothing leaves them, and when it ends the kernel ends everything it started.
pub(crate) fn enter() -> io::Result<Option<ExitStatus>> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(None);
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !nix::unistd::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    unshare.status().map(Some)
}

/// What all servers share.
pub(crate) struct World {
    pub(crate) folder: PathBuf,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) cores: Cores,
    upstream: Child,
}

/// Where things run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) load: usize,
}

impl World {
    /// Makes the world, and puts this thread on the core of the load.
    pub(crate) fn start(cores: Cores) -> Result<Self, Failure> {
        run("ip", &["link", "set", "lo", "up"])?;
        // Some servers leave Nagle's algorithm on towards their upstream. Without delayed
        // acknowledgements from there, that costs the forwarder under test no 40 ms.
        let local = format!("{UPSTREAM}");
        run(
            "ip",
            &["route", "replace", "local", &local, "dev", "lo", "table", "local", "quickack", "1"],
        )?;
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65000")?;

        // In memory, and in this namespace alone: no disk is measured.
        run("mount", &["-t", "tmpfs", "tmpfs", "/dev/shm"])?;
        let folder = PathBuf::from("/dev/shm/firstlight-bench");
        fs::create_dir_all(&folder)?;
        let tls = certificates(&folder)?;
        pin(cores.load)?;
        let upstream = upstream(&folder)?;
        for address in SOURCES {
            let socket = UdpSocket::bind((address, 123))?;
            thread::spawn(move || tell_time(&socket));
        }
        Ok(Self { folder, tls, cores, upstream })
    }

    /// Starts `command` on the core of the servers.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // A child begins where its parent is.
        pin(self.cores.server)?;
        let child = command.process_group(0).stdin(Stdio::null()).spawn();
        pin(self.cores.load)?;
        child
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.upstream.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let status = Command::new(program).args(arguments).status()?;
    if status.success() { Ok(()) } else { Err(format!("{program} {arguments:?}: {status}").into()) }
}

/// Puts this thread, and what it starts, on one core.
fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    Ok(())
}

/// Writes `ca.pem`, `cert.pem` and `key.pem`; returns what trusts them and resumes no session.
fn certificates(folder: &Path) -> Result<Arc<ClientConfig>, Failure> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let mut params = CertificateParams::new([NAME.to_owned()])?;
    // smartdns looks for the name nowhere else.
    params.distinguished_name.push(DnType::CommonName, NAME);
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2099, 1, 1));
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &issuer)?;
    fs::write(folder.join("ca.pem"), issuer.pem())?;
    fs::write(folder.join("cert.pem"), leaf.pem() + &issuer.pem())?;
    fs::write(folder.join("key.pem"), key.serialize_pem())?;

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(issuer.pem().as_bytes())?)?;
    let provider = rustls::crypto::ring::default_provider();
    let mut config = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// An unbound that knows every name by itself.
fn upstream(folder: &Path) -> Result<Child, Failure> {
    let folder = folder.join("upstream");
    fs::create_dir_all(&folder)?;
    let config = fill(include_str!("config/upstream.conf"), &folder, UPSTREAM);
    fs::write(folder.join("upstream.conf"), config)?;
    let log = fs::File::create(folder.join("log"))?;
    Command::new("unbound")
        .arg("-d")
        .arg("-c")
        .arg(folder.join("upstream.conf"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .map_err(|error| format!("unbound, the upstream of all servers: {error}").into())
}

/// Fills in what a configuration leaves open. Certificates lie in the folder above.
pub(crate) fn fill(template: &str, folder: &Path, address: Ipv4Addr) -> String {
    let text = |path: &Path| path.display().to_string();
    let shared = folder.parent().unwrap_or(folder);
    [
        ("{address}", address.to_string()),
        ("{folder}", text(folder)),
        ("{ca}", text(&shared.join("ca.pem"))),
        ("{cert}", text(&shared.join("cert.pem"))),
        ("{key}", text(&shared.join("key.pem"))),
        ("{name}", NAME.to_owned()),
        ("{path}", PATH.to_owned()),
        ("{zone}", ZONE.to_owned()),
        ("{upstream}", UPSTREAM.to_string()),
        ("{source0}", SOURCES[0].to_string()),
        ("{source1}", SOURCES[1].to_string()),
    ]
    .iter()
    .fold(template.to_owned(), |text, (open, value)| text.replace(open, value))
}

/// An NTP server of stratum 1 (RFC 5905 section 7.3).
fn tell_time(socket: &UdpSocket) {
    let mut packet = [0; 48];
    while let Ok((_, client)) = socket.recv_from(&mut packet) {
        let origin: [u8; 8] = packet[40..].try_into().unwrap_or_default();
        packet = [0; 48];
        // Version 4, server; stratum 1, poll 64 s, precision 1 µs, dispersion 1 ms.
        packet[..4].copy_from_slice(&[0x24, 1, 6, 0xec]);
        packet[11] = 66;
        packet[12..16].copy_from_slice(b"GPS\0");
        packet[24..32].copy_from_slice(&origin);
        for field in [16, 32, 40] {
            packet[field..field + 8].copy_from_slice(&timestamp());
        }
        // A client that is gone wants no answer.
        let _ = socket.send_to(&packet, client);
    }
}

/// The time in NTP's 32.32 format (RFC 5905 section 6).
fn timestamp() -> [u8; 8] {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() + 2_208_988_800;
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    (seconds << 32 | fraction).to_be_bytes()
}

/// How long servers may take to start.
pub(crate) const START: Duration = Duration::from_secs(20);

/// The address of the `number`th server.
pub(crate) fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 10, 1 + number as u8)
}

/// The port of a server.
pub(crate) fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    (address, port).into()
}
