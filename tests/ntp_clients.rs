//! Other people's NTP clients believe firstlight when its clock is disciplined, and refuse it
//! before; its own client reads other people's servers.
//!
//! None of them sets a clock here. A program that is not installed is a test ignored.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::env;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use firstlight::clock::{NtpStatus, magnitude};
use firstlight::config::ClockMode;
use firstlight::host::boot::build_epoch;
use firstlight::host::clock::MachineClock;
use firstlight::host::kernel::{KernelClock, OsClock};
use firstlight::net::{DatagramListen, Listen, Threads};
use firstlight::node::ports::Clock;
use firstlight::ntp::client::{AskError, Proof, ask};
use firstlight::ntp::keys::Keys;
use firstlight::ntp::server::TimeServer;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let trials = vec![
        trial("chronyd_believes_a_disciplined_clock", chronyd_missing(), || chronyd(true)),
        trial("chronyd_refuses_a_clock_before", chronyd_missing(), || chronyd(false)),
        trial(
            "chronyd_is_answered_with_the_code_of_a_shared_key",
            chronyd_missing(),
            keyed_chronyd,
        ),
        trial("chronyd_in_interleaved_mode_is_told_when_answers_left", chronyd_missing(), xleave),
        trial("our_client_reads_chronyds_answer", chronyd_missing(), read_chronyd),
        trial("ntpdig_believes_a_disciplined_clock", ntpdig_missing(), || ntpdig(true)),
        trial("ntpdig_refuses_a_clock_before", ntpdig_missing(), || ntpdig(false)),
        trial("ntpdig_is_answered_with_the_code_of_a_shared_key", ntpdig_missing(), keyed_ntpdig),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// `chronyd -Q` asks until it has a sample it accepts, prints the offset, and sets nothing.
fn chronyd(synchronized: bool) -> Result<(), Failed> {
    let served = Served::start(synchronized, "127.0.0.1:0");
    let port = served.address.port();
    let config = format!("server 127.0.0.1 port {port} iburst maxsamples 1\nport 0");
    let folder = Folder::new(if synchronized { "after" } else { "before" })?;

    let output = chronyd_command(&folder, &config)?
        .args(["-Q", "-t", if synchronized { "5" } else { "2" }])
        .output()?;

    served.was_asked(&output)?;
    expect(output.status.success() == synchronized, &output)?;
    let said = text(&output);
    // `System clock wrong by -0.000012 seconds (ignored)`
    let offset = said.split("clock wrong by ").nth(1).and_then(|rest| rest.split(' ').next());
    match (synchronized, offset) {
        (true, Some(offset)) => expect(offset.parse::<f64>()?.abs() < 0.1, &output),
        (true, None) => Err(said.into()),
        (false, _) => expect(offset.is_none(), &output),
    }
}

/// Keys of ours, in chrony's format. It knows another key 3, and no key 4 of ours.
const OURS: &str = "1 AES128 HEX:000102030405060708090A0B0C0D0E0F\n2 SHA1 ASCII:secret\n\
                    3 SHA1 ASCII:ours\n";
const THEIRS: &str = "1 AES128 HEX:000102030405060708090A0B0C0D0E0F\n2 SHA1 ASCII:secret\n\
                      3 SHA1 ASCII:theirs\n4 SHA1 ASCII:fourth\n";

/// It believes answers with the right code alone; once it sends an extension field before its own.
fn keyed_chronyd() -> Result<(), Failed> {
    let served = Served::start(true, "127.0.0.1:0");
    let folder = Folder::new("keyed")?;
    served.server.set_keys(folder.keys("ours", OURS)?);
    folder.keys("theirs", THEIRS)?;
    let cases = [("1", true), ("2", true), ("3", false), ("4", false), ("1 extfield F323", true)];
    for (key, believed) in cases {
        let config = format!(
            "server 127.0.0.1 port {} iburst maxsamples 1 key {key}\nport 0\nkeyfile {}/theirs",
            served.address.port(),
            folder.0.display()
        );
        let output = chronyd_command(&folder, &config)?
            .args(["-Q", "-t", if believed { "5" } else { "1" }])
            .output()?;
        expect(output.status.success() == believed, &output)?;
    }
    let counts = served.server.counts();
    let (right, wrong) = (&counts.authenticated, &counts.unauthenticated);
    let (right, wrong) = (right.load(Ordering::Relaxed), wrong.load(Ordering::Relaxed));
    if right >= 3 && wrong >= 2 { Ok(()) } else { Err(format!("{right}, {wrong}").into()) }
}

/// `xleave`: the answer to a question tells when the one before it left. It asks twice a second.
fn xleave() -> Result<(), Failed> {
    let served = Served::start(true, "127.0.0.1:0");
    let folder = Folder::new("xleave")?;
    let config = format!(
        "server 127.0.0.1 port {} iburst xleave minpoll -1 maxpoll -1\nport 0\n\
         logdir {}\nlog measurements",
        served.address.port(),
        folder.0.display()
    );
    let mut chronyd = chronyd_command(&folder, &config)?.arg("-d").stderr(Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_secs(5));
    chronyd.kill()?;
    chronyd.wait()?;

    let log = fs::read_to_string(folder.0.join("measurements.log")).unwrap_or_default();
    let count = served.server.counts().interleaved.load(Ordering::Relaxed);
    // The last but one column of its log: B for basic, I for interleaved.
    let taken = log.lines().filter(|line| line.contains(" 4I ") && line.contains("111")).count();
    if count >= 4 && taken >= 3 { Ok(()) } else { Err(format!("{count}, {taken}:\n{log}").into()) }
}

/// A chronyd that takes its own clock for good answers our client, with and without a key.
fn read_chronyd() -> Result<(), Failed> {
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let folder = Folder::new("server")?;
    let keys = folder.keys("ours", OURS)?;
    folder.keys("theirs", THEIRS)?;
    let config = format!(
        "port {port}\nbindaddress 127.0.0.1\nallow 127.0.0.1\nlocal stratum 8\nkeyfile {}/theirs",
        folder.0.display()
    );
    let mut chronyd = chronyd_command(&folder, &config)?.arg("-d").stderr(Stdio::null()).spawn()?;

    let clock = MachineClock::new(ClockMode::Observe, KernelClock.utc(), Arc::new(KernelClock));
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reading = runtime.block_on(async {
        // It takes a moment to start.
        for _ in 0..100 {
            match ask(target, &clock, build_epoch(), Duration::from_millis(500), Proof::None, &[])
                .await
            {
                Err(AskError::Refused) => tokio::time::sleep(Duration::from_millis(20)).await,
                outcome => return outcome,
            }
        }
        Err(AskError::Refused)
    });
    let with = |id| {
        let key = Proof::Key { keys: &keys, id };
        runtime.block_on(ask(target, &clock, build_epoch(), Duration::from_millis(500), key, &[]))
    };
    let (aes, sha, other) = (with(1), with(2), with(3));
    chronyd.kill()?;
    chronyd.wait()?;

    if aes.is_err() || sha.is_err() || other.is_ok() {
        return Err(format!("{aes:?} {sha:?} {other:?}").into());
    }
    let reading = reading?;
    let off = magnitude(reading.utc.since(clock.utc_at(reading.at)));
    if reading.stratum == 8 && off < Duration::from_millis(100) {
        return Ok(());
    }
    Err(format!("{off:?} off: {reading:?}").into())
}

/// `chronyd` with its files in `folder`. `-x` forbids it to set the clock.
fn chronyd_command(folder: &Folder, config: &str) -> Result<Command, Failed> {
    let file = folder.0.join("chrony.conf");
    let own = format!("pidfile {}/pid\ncmdport 0\nbindcmdaddress /\n", folder.0.display());
    fs::write(&file, format!("{config}\n{own}"))?;
    let mut command = Command::new(find("chronyd").ok_or("chronyd is gone")?);
    command.args(["-x", "-U", "-u", "root", "-f"]).arg(file);
    command.stdin(Stdio::null());
    Ok(command)
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self, Failed> {
        let name = format!("firstlight-chrony-{}-{name}", std::process::id());
        let folder = Self(env::temp_dir().join(name));
        fs::create_dir_all(&folder.0)?;
        Ok(folder)
    }

    /// Writes keys into it, and reads them.
    fn keys(&self, name: &str, text: &str) -> Result<Keys, Failed> {
        let file = self.0.join(name);
        fs::write(&file, text)?;
        Ok(Keys::from_file(&file)?.0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// `ntpdig` without `-S` and `-s` prints the offset and sets nothing.
fn ntpdig(synchronized: bool) -> Result<(), Failed> {
    let served = Served::start(synchronized, NTPDIG_ADDRESSES[usize::from(synchronized)]);

    let output = Command::new(find("ntpdig").ok_or("ntpdig is gone")?)
        .args(["-4", "-j", "-t", "1", &served.address.ip().to_string()])
        .stdin(Stdio::null())
        .output()?;

    served.was_asked(&output)?;
    let said = text(&output);
    let believed = said.contains("\"stratum\":2") && said.contains("\"leap\":\"no-leap\"");
    expect(believed == synchronized, &output)
}

/// It takes keys of its own form, and prints `auth` for what is wrong with an answer.
fn keyed_ntpdig() -> Result<(), Failed> {
    let served = Served::start(true, NTPDIG_ADDRESSES[2]);
    let folder = Folder::new("ntpdig")?;
    served.server.set_keys(folder.keys("ours", OURS)?);
    folder
        .keys("theirs", "1 AES 000102030405060708090A0B0C0D0E0F\n2 SHA1 secret\n3 SHA1 theirs\n")?;
    for (key, believed) in [("1", true), ("2", true), ("3", false)] {
        let output = Command::new(find("ntpdig").ok_or("ntpdig is gone")?)
            .args(["-4", "-j", "-t", "1", "-a", key, "-k"])
            .arg(folder.0.join("theirs"))
            .arg(served.address.ip().to_string())
            .stdin(Stdio::null())
            .output()?;
        expect(text(&output).contains("\"stratum\":2") == believed, &output)?;
    }
    let counts = served.server.counts();
    let (right, wrong) = (&counts.authenticated, &counts.unauthenticated);
    let (right, wrong) = (right.load(Ordering::Relaxed), wrong.load(Ordering::Relaxed));
    if (right, wrong) == (2, 1) { Ok(()) } else { Err(format!("{right}, {wrong}").into()) }
}

/// `ntpdig` asks port 123 only. These addresses are nobody else's.
const NTPDIG_ADDRESSES: [&str; 3] = ["127.7.31.12:123", "127.7.31.13:123", "127.7.31.14:123"];

/// firstlight's server on a loopback address. It observes: the machine's clock is only read.
struct Served {
    server: Arc<TimeServer>,
    address: SocketAddr,
    _threads: Threads,
}

impl Served {
    fn start(synchronized: bool, address: &str) -> Self {
        let clock = MachineClock::new(ClockMode::Observe, KernelClock.utc(), Arc::new(KernelClock));
        let status = NtpStatus {
            synchronized,
            stratum: 2,
            reference_id: [192, 0, 2, 1],
            root_delay: Duration::from_millis(20),
            root_dispersion: Duration::from_millis(1),
            since: clock.mono(),
            growth_ppm: 15,
            reference_time: clock.utc(),
            leap: 0,
        };
        let status = Arc::new(ArcSwap::from_pointee(status));
        let server = Arc::new(TimeServer::new(Arc::new(clock), status, None));
        let listen = DatagramListen::new("ntp", "ntp", server.clone());
        let (address, threads) = listen.listen(address.parse().unwrap()).unwrap();
        Self { server, address, _threads: threads }
    }

    /// A client that never asked has refused nothing.
    fn was_asked(&self, output: &Output) -> Result<(), Failed> {
        let counts = self.server.counts();
        let asked =
            counts.answered.load(Ordering::Relaxed) + counts.unsynchronized.load(Ordering::Relaxed);
        expect(asked > 0, output)
    }
}

fn chronyd_missing() -> Option<&'static str> {
    find("chronyd").is_none().then_some("chronyd is not installed")
}

fn ntpdig_missing() -> Option<&'static str> {
    if find("ntpdig").is_none() {
        return Some("ntpdig is not installed");
    }
    // Only root may, and nobody else must have it.
    UdpSocket::bind(NTPDIG_ADDRESSES[0]).is_err().then_some("port 123 is not to be had")
}

/// A test; one with a reason against it is ignored, and says why.
fn trial(
    name: &str,
    missing: Option<&str>,
    test: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    match missing {
        None => Trial::test(name, test),
        Some(reason) => {
            Trial::test(format!("{name} ({reason})"), || Ok(())).with_ignored_flag(true)
        }
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn expect(holds: bool, output: &Output) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(text(output).into()) }
}

fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    format!("{}: {out}{}", output.status, String::from_utf8_lossy(&output.stderr))
}
