//! A lab on loopback around the real daemon: time sources, witnesses and resolvers that do as they
//! are told, a true time of its own, and clients.
//!
//! Nothing here needs the internet, a privileged port, or the right time; nothing sets a clock.
#![expect(dead_code, reason = "no test target needs all of the lab")]

pub(crate) mod chrony;
pub(crate) mod clients;
mod daemon;
pub(crate) mod distance;
pub(crate) mod faulty;
pub(crate) mod hook;
pub(crate) mod load;
pub(crate) mod namespace;
mod pki;
pub(crate) mod relay;
mod resolver;
pub(crate) mod signed;
mod source;
pub(crate) mod tree;
mod witness;

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use firstlight::clock::{Nanos, SavedFloor, UnixTime};
use firstlight::host::boot::build_epoch;
use firstlight::host::kernel::{KernelClock, OsClock};
use firstlight::host::state::StateDir;

pub(crate) use daemon::Daemon;
use pki::Authority;
pub(crate) use resolver::Resolver;
pub(crate) use source::{Says, TimeSource};
pub(crate) use witness::HttpsServer;

/// A local name of every configuration, and its address.
pub(crate) const LOCAL: (&str, Ipv4Addr) = ("pi.home.lan", Ipv4Addr::new(10, 77, 0, 2));

pub(crate) const HOUR: Nanos = 3600 * 1_000_000_000;
pub(crate) const DAY: Nanos = 24 * HOUR;
pub(crate) const YEAR: Nanos = 36_525 * DAY / 100;

/// When the lab's true time began to be counted, and what it was.
static BEGIN: OnceLock<(Instant, UnixTime)> = OnceLock::new();

/// The lab's true time: a month after the daemon's release, whatever the machine's clock shows.
pub(crate) fn truth() -> UnixTime {
    let (start, begin) = *BEGIN.get_or_init(|| (now(), build_epoch().offset(30 * DAY)));
    begin + now().saturating_duration_since(start)
}

/// The lab's true time is that of the machine, for programs that have no other. To be called before
/// anything else.
pub(crate) fn live_by_the_machine_s_clock() {
    BEGIN.set((now(), KernelClock.utc())).unwrap();
}

pub(crate) fn now() -> Instant {
    KernelClock.mono()
}

/// Waits until `done` gives something; `None` after `limit`.
pub(crate) fn eventually<T>(limit: Duration, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = now();
    loop {
        if let Some(found) = done() {
            return Some(found);
        }
        if now().saturating_duration_since(begin) > limit {
            return None;
        }
        sleep(Duration::from_millis(20));
    }
}

/// A folder, 254 loopback addresses that no other test uses, and a certificate authority.
#[derive(Debug)]
pub(crate) struct Lab {
    folder: PathBuf,
    network: [u8; 2],
    pub(crate) authority: Authority,
    _claim: UdpSocket,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let process = std::process::id().to_be_bytes();
        let (network, claim) = (0..=u8::MAX)
            .flat_map(|second| [[16 + process[3] % 200, second], [16 + process[2] % 200, second]])
            .find_map(|network| Some((network, claim(network)?)))
            .expect("every loopback network is taken");
        let [first, second] = network;
        let folder = std::env::temp_dir().join(format!("firstlight-lab-{first}-{second}"));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(folder.join("run")).unwrap();
        let authority = Authority::new(&folder);
        Self { folder, network, authority, _claim: claim }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The address of the lab's machine `host`; the daemon is number 1.
    pub(crate) fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.network[0], self.network[1], host)
    }

    pub(crate) fn dns(&self) -> SocketAddr {
        self.place(1, 5300)
    }

    pub(crate) fn dot(&self) -> SocketAddr {
        self.place(1, 8853)
    }

    pub(crate) fn doh(&self) -> SocketAddr {
        self.place(1, 8443)
    }

    pub(crate) fn ntp(&self) -> SocketAddr {
        self.place(1, 1123)
    }

    pub(crate) fn nts(&self) -> SocketAddr {
        self.place(1, 4460)
    }

    pub(crate) fn metrics(&self) -> SocketAddr {
        self.place(1, 9853)
    }

    pub(crate) fn place(&self, host: u8, port: u16) -> SocketAddr {
        (IpAddr::from(self.address(host)), port).into()
    }

    /// Writes a file that nobody else may read.
    pub(crate) fn keep_secret(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// The state directory. Opening it removes what interrupted writes left behind.
    pub(crate) fn state(&self) -> StateDir {
        StateDir::open(self.path("state")).0
    }

    /// Lets the floor on disk be `floor`, as an earlier, verified run would have left it.
    pub(crate) fn keep_floor(&self, floor: UnixTime) {
        let kept = SavedFloor { seconds: floor.secs(), overrides_build: false };
        self.state().write_json("floor", &kept).unwrap();
    }

    /// The floor on disk.
    pub(crate) fn kept_floor(&self) -> Option<i64> {
        self.state().read_json::<SavedFloor>("floor").unwrap().map(|kept| kept.seconds)
    }

    /// Names in a folder of the lab, sorted.
    pub(crate) fn names_in(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A configuration of this lab, without upstreams, sources and witnesses.
    pub(crate) fn configure(&self) -> Setup<'_> {
        let (name, address) = LOCAL;
        let text = format!(
            "[state]\ndirectory = \"state\"\n\
             [dns]\nlisten = [\"{}\"]\n\
             [dot]\nlisten = [\"{}\"]\n\
             [doh]\nlisten = [\"{}\"]\n\
             [doq]\nlisten = [\"{}\"]\n\
             [ntp]\nlisten = [\"{}\"]\n\
             [nts]\nlisten = [\"{}\"]\n\
             [metrics]\nlisten = [\"{}\"]\n\
             [control]\nsocket = \"run/control.sock\"\n\
             [[name]]\nname = \"{name}\"\naddresses = [\"{address}\"]\n",
            self.dns(),
            self.dot(),
            self.doh(),
            self.dot(),
            self.ntp(),
            self.nts(),
            self.metrics(),
        );
        let clock = "[clock]\nmode = \"observe\"\n".to_owned();
        let tls = "[tls]\nname = \"dns.home.lan\"\n".to_owned();
        Setup { lab: self, text, clock, tls }
    }

    /// Three honest time sources of three operators and two witnesses of two, on hosts 10 to 21;
    /// and the setup that names them.
    pub(crate) fn honest(&self) -> (Setup<'_>, Wan) {
        let sources = [10, 11, 12].map(|host| TimeSource::start(self, host, Says::Off(0)));
        let witnesses = [20, 21].map(|host| HttpsServer::start(self, host));
        let mut setup = self.configure();
        for (source, operator) in sources.iter().zip(["nist", "ptb", "netnod"]) {
            setup = setup.source(source, operator, "");
        }
        for (witness, operator) in witnesses.iter().zip(["google", "quad9"]) {
            setup = setup.witness(witness, operator);
        }
        (setup, Wan { sources: sources.into(), witnesses: witnesses.into() })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            drop(fs::remove_dir_all(&self.folder));
        }
    }
}

/// Who knows the time outside.
#[derive(Debug)]
pub(crate) struct Wan {
    pub(crate) sources: Vec<TimeSource>,
    pub(crate) witnesses: Vec<HttpsServer>,
}

impl Wan {
    /// Every source says nothing, and no witness can be reached.
    pub(crate) fn down(&self) {
        self.set(Says::Silent, false);
    }

    /// Everybody tells the truth.
    pub(crate) fn up(&self) {
        self.set(Says::Off(0), true);
    }

    /// What the sources say, and whether witnesses can be reached.
    pub(crate) fn set(&self, says: Says, witnesses: bool) {
        for source in &self.sources {
            source.says(says);
        }
        for witness in &self.witnesses {
            witness.set_up(witnesses);
        }
    }
}

/// A configuration in the making.
#[derive(Clone, Debug)]
pub(crate) struct Setup<'l> {
    lab: &'l Lab,
    text: String,
    clock: String,
    tls: String,
}

impl Setup<'_> {
    /// `more`: further keys of the source.
    pub(crate) fn source(mut self, source: &TimeSource, operator: &str, more: &str) -> Self {
        let (ip, port) = (source.address.ip(), source.address.port());
        let keys = format!("address = \"{ip}\"\nport = {port}\noperator = \"{operator}\"\n{more}");
        writeln!(self.clock, "[[clock.source]]\n{keys}").unwrap();
        self
    }

    /// A source, by its keys.
    pub(crate) fn source_by(mut self, keys: &str) -> Self {
        writeln!(self.clock, "[[clock.source]]\n{keys}").unwrap();
        self
    }

    /// A pool, by its keys.
    pub(crate) fn pool(mut self, keys: &str) -> Self {
        writeln!(self.clock, "[[clock.pool]]\n{keys}").unwrap();
        self
    }

    /// A reference clock, by its keys.
    pub(crate) fn refclock(mut self, keys: &str) -> Self {
        writeln!(self.clock, "[[clock.refclock]]\n{keys}").unwrap();
        self
    }

    /// A key of `[clock]`.
    pub(crate) fn clock(mut self, key: &str) -> Self {
        self.clock.insert_str("[clock]\n".len(), &format!("{key}\n"));
        self
    }

    pub(crate) fn witness(mut self, witness: &HttpsServer, operator: &str) -> Self {
        let (ip, port) = (witness.address.ip(), witness.address.port());
        writeln!(
            self.clock,
            "[[clock.witness]]\nname = \"{}\"\noperator = \"{operator}\"\naddress = \"{ip}\"\n\
             port = {port}\nca = \"ca.pem\"",
            witness.name
        )
        .unwrap();
        self
    }

    pub(crate) fn upstream(self, resolver: &Resolver, operator: &str) -> Self {
        self.upstream_at(&resolver.name, operator, resolver.address, "")
    }

    /// `more`: further keys of the upstream.
    pub(crate) fn upstream_at(
        mut self,
        name: &str,
        operator: &str,
        address: SocketAddr,
        more: &str,
    ) -> Self {
        let (ip, port) = (address.ip(), address.port());
        writeln!(
            self.text,
            "[[upstream]]\nname = \"{name}\"\noperator = \"{operator}\"\naddresses = [\"{ip}\"]\n\
             port = {port}\nca = \"ca.pem\"\n{more}",
        )
        .unwrap();
        self
    }

    /// Certificate and key from these files of the lab.
    pub(crate) fn certificate(mut self, certificate: &str, key: &str) -> Self {
        writeln!(self.tls, "certificate = \"{certificate}\"\nkey = \"{key}\"").unwrap();
        self
    }

    /// Another local name.
    pub(crate) fn name(self, name: &str, address: Ipv4Addr) -> Self {
        self.name_of_many(name, &[address])
    }

    /// Another local name, and all its addresses.
    pub(crate) fn name_of_many(mut self, name: &str, addresses: &[Ipv4Addr]) -> Self {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        writeln!(self.text, "[[name]]\nname = \"{name}\"\naddresses = {addresses:?}").unwrap();
        self
    }

    /// A client may ask as often as it likes.
    pub(crate) fn without_rate(self) -> Self {
        self.replacing("[dns]\n", "[dns]\nrate = 0\n")
    }

    /// Changes the text made so far.
    pub(crate) fn replacing(mut self, from: &str, to: &str) -> Self {
        assert!(self.text.contains(from), "{from} is not in {}", self.text);
        self.text = self.text.replace(from, to);
        self
    }

    /// Writes `firstlight.toml`.
    pub(crate) fn write(&self) -> PathBuf {
        let file = self.lab.path("firstlight.toml");
        fs::write(&file, self.whole()).unwrap();
        file
    }

    /// Writes it, and starts the daemon on it with the clock in 1970.
    pub(crate) fn boot(&self) -> Daemon {
        self.write();
        Daemon::start(self.lab, &["--start", "@0"])
    }

    fn whole(&self) -> String {
        format!("{}{}{}", self.text, self.tls, self.clock)
    }
}

/// Holds a network against other tests, in this process or another; `None` if one has it.
fn claim([first, second]: [u8; 2]) -> Option<UdpSocket> {
    let address = |host| Ipv4Addr::new(127, first, second, host);
    // What a test that was cut off left running may still have the daemon's port.
    UdpSocket::bind((address(1), 5300)).ok()?;
    UdpSocket::bind((address(254), 5300)).ok()
}

/// Where a program of the machine is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A trial that is ignored, with the reason, where `program` is not installed.
pub(crate) fn needing(
    program: &'static str,
    name: &str,
    test: impl FnOnce() + Send + 'static,
) -> libtest_mimic::Trial {
    let missing = find(program).is_none();
    let reason = if missing { format!("{program} is not installed") } else { String::new() };
    libtest_mimic::Trial::test(name, move || {
        test();
        Ok(())
    })
    .with_kind(reason)
    .with_ignored_flag(missing)
}

fn write_new(path: &Path, text: &str) {
    // As whoever replaces a file with care does it.
    let aside = path.with_extension("new");
    fs::write(&aside, text).unwrap();
    fs::rename(aside, path).unwrap();
}
