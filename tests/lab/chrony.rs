//! chronyd, which never sets a clock here: it runs with `-x`.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::process::{Child, Command, Output, Stdio};

use firstlight::clock::Nanos;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Lab, YEAR, find};

/// The file in the lab of keys that it shares, and a line of it.
pub(crate) const KEYS: (&str, &str) =
    ("ntp.keys", "1 AES128 HEX:000102030405060708090A0B0C0D0E0F\n");

/// By the lab's time and by this machine's.
pub(crate) const VALID: (Nanos, Nanos) = (-YEAR, 10 * YEAR);

/// A chronyd that takes its clock for good, knows [`KEYS`], and gives others under NTS.
pub(crate) struct Server {
    host: u8,
    pub(crate) exchange: SocketAddr,
    process: Child,
}

impl Server {
    pub(crate) fn start(lab: &Lab, host: u8, name: &str) -> Self {
        Self::start_with(lab, host, name, VALID)
    }

    /// One whose certificate is valid in this span around the lab's time.
    pub(crate) fn start_with(lab: &Lab, host: u8, name: &str, valid: (Nanos, Nanos)) -> Self {
        // Another one may be reading it.
        if !lab.path(KEYS.0).exists() {
            lab.keep_secret(KEYS.0, KEYS.1);
        }
        let file = format!("server{host}");
        lab.authority.issue_files_for(lab, &file, &[name], valid);
        let exchange = lab.place(host, 4460);
        Self { host, exchange, process: Self::spawn(lab, host, 4460) }
    }

    fn spawn(lab: &Lab, host: u8, port: u16) -> Child {
        let folder = lab.path(&format!("chrony{host}"));
        let file = |ending: &str| lab.path(&format!("server{host}.{ending}"));
        let config = format!(
            "port 1123\nbindaddress {}\nallow 127.0.0.0/8\nlocal stratum 2\nntsport {port}\n\
             ntsserverkey {}\nntsservercert {}\nntsdumpdir {}\nkeyfile {}\n",
            lab.address(host),
            file("key").display(),
            file("pem").display(),
            folder.display(),
            lab.path(KEYS.0).display(),
        );
        chronyd(lab, &format!("chrony{host}"), &config)
    }

    /// Its NTP server goes on with the same keys; keys are exchanged where nobody looks.
    pub(crate) fn restart_without_exchange(&mut self, lab: &Lab) {
        self.stop();
        self.process = Self::spawn(lab, self.host, 4461);
    }

    fn stop(&mut self) {
        end(&mut self.process);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts chronyd on `config` in a folder of that name; its log is beside it.
pub(crate) fn chronyd(lab: &Lab, name: &str, config: &str) -> Child {
    let folder = lab.path(name);
    // It asks for more than the mode that a umask leaves.
    drop(fs::DirBuilder::new().mode(0o700).create(&folder));
    let file = folder.join("chrony.conf");
    let own = format!("pidfile {}/pid\ncmdport 0\nbindcmdaddress /\n", folder.display());
    fs::write(&file, config.to_owned() + &own).unwrap();
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(lab.path(&format!("{name}.log")))
        .unwrap();
    let mut command = Command::new(find("chronyd").unwrap());
    // `-x`: it may not set the clock.
    command.args(["-x", "-d", "-U", "-u", "root", "-L", "-1", "-f"]).arg(&file);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// `chronyd -Q` asks the daemon until it has a sample it accepts, prints the offset, and sets nothing;
/// for so many seconds at most.
pub(crate) fn ask(lab: &Lab, patience: u32) -> Output {
    let config = format!(
        "server {} port {} iburst maxsamples 1\nport 0\npidfile {}\ncmdport 0\nbindcmdaddress /\n",
        lab.ntp().ip(),
        lab.ntp().port(),
        lab.path("chronyd.pid").display(),
    );
    fs::write(lab.path("chrony.conf"), config).unwrap();
    let mut command = Command::new(find("chronyd").unwrap());
    // `-x`: it may not set the clock.
    command.args(["-x", "-Q", "-U", "-u", "root", "-t", &patience.to_string()]);
    command.arg("-f").arg(lab.path("chrony.conf")).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn end(child: &mut Child) {
    let _ = kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM);
    drop(child.wait());
}
