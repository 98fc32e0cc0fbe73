//! `firstlight setup`, as a person runs it, on machines that are folders.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

#[test]
fn a_fresh_machine_gets_a_file_without_a_question_that_check_has_nothing_against() {
    let pi = Machine::raspberry_pi();

    let (code, said, err) = pi.setup(&["--yes"], "");

    assert_eq!((code, err.as_str()), (0, ""));
    assert!(!said.contains("1. "), "{said}");
    assert!(said.contains(&format!("{} was written\n", pi.file().display())), "{said}");
    for found in [
        "Debian GNU/Linux 12 (bookworm), pi.home.lan; 192.168.7.2 (eth0)",
        "Clock: none runs while the power is off",
        "resolv.conf asks 127.0.0.53",
        "systemd-timesyn (process 300); /etc/systemd/timesyncd.conf (ntp.lan)",
        "Ports: UDP 53, TCP 53 of systemd-resolve (process 301) at 127.0.0.53",
        "systemctl enable --now firstlight\n",
        "192.168.7.2 as DNS server",
    ] {
        assert!(said.contains(found), "{found}: {said}");
    }
    let undo = said.split_once("To undo:\n").unwrap().1;
    assert_eq!(
        undo,
        format!("  systemctl disable --now firstlight\n  rm {}\n", pi.file().display())
    );
    assert!(said.lines().count() <= 24, "{said}");
    let mode = fs::metadata(pi.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
    let text = fs::read_to_string(pi.file()).unwrap();
    assert!(text.contains("name = \"pi.home.lan\""), "{text}");
    assert!(!text.contains("observe") && !text.contains("listen ="), "{text}");
    assert_eq!(pi.faults(), "");
}

#[test]
fn a_second_run_changes_nothing_and_says_so() {
    for machine in [Machine::raspberry_pi(), Machine::pi_hole(), Machine::chrony()] {
        machine.setup(&["--yes"], "");
        let written = fs::metadata(machine.file()).unwrap().modified().unwrap();
        let names = machine.names();

        let (code, said, _) = machine.setup(&["--yes"], "");

        assert_eq!(code, 0);
        assert!(said.contains("nothing was changed"), "{said}");
        assert_eq!(fs::metadata(machine.file()).unwrap().modified().unwrap(), written);
        assert_eq!(machine.names(), names);
    }
}

#[test]
fn what_was_answered_once_is_the_default_of_the_next_run() {
    let machine = Machine::chrony();
    let answers = "lo\nquad9, google\nDNS.example.org\nobserve import\n";
    machine.setup(&["--ask"], answers);
    let first = fs::read_to_string(machine.file()).unwrap();

    let (_, said, _) = machine.setup(&["--yes"], "");

    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(fs::read_to_string(machine.file()).unwrap(), first);
    for line in [
        "listen = [\"127.0.0.1:53\"]",
        "name = \"dns.example.org\"",
        "mode = \"observe\"",
        "address = \"192.168.7.1\"",
        "[ntp]\nlisten = []",
    ] {
        assert!(first.contains(line), "{line}: {first}");
    }
    assert!(!first.contains("1.1.1.1\","), "Cloudflare is a witness at most: {first}");
    assert_eq!(machine.faults(), "");
}

#[test]
fn what_was_not_asked_for_is_not_taken_over_by_a_further_run() {
    let machine = Machine::chrony();
    let built_in = "server 162.159.200.1\nserver 192.168.7.1\n";
    machine.write("etc/chrony/chrony.conf", built_in);
    machine.setup(&["--yes"], "");
    let first = fs::read_to_string(machine.file()).unwrap();

    // An earlier answer does not count where it cannot be carried out.
    fs::write(machine.file(), first.replace("mode = \"observe\"", "mode = \"steer\"")).unwrap();
    machine.write("proc/self/uid_map", "0 100000 65536\n");
    machine.setup(&["--yes"], "");

    assert_eq!(fs::read_to_string(machine.file()).unwrap(), first);
    assert!(!first.contains("192.168.7.1\""), "{first}");
}

#[test]
fn an_earlier_file_is_kept_and_so_is_the_one_kept_before() {
    let pi = Machine::raspberry_pi();
    pi.write("etc/firstlight/firstlight.toml", "# mine\n");
    fs::set_permissions(pi.file(), fs::Permissions::from_mode(0o600)).unwrap();

    let (_, said, _) = pi.setup(&["--yes"], "");
    let kept = pi.file().with_file_name("firstlight.toml.before-setup");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "# mine\n");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(said.contains(&format!("what it held is in {}\n", kept.display())), "{said}");
    let undo = format!("mv {} {}\n", kept.display(), pi.file().display());
    assert!(said.ends_with(&undo), "{said}");

    fs::write(pi.file(), b"\xff\xfe no text").unwrap();
    pi.setup(&["--yes"], "");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "# mine\n");
    let second = kept.with_extension("before-setup.2");
    assert_eq!(fs::read(second).unwrap(), b"\xff\xfe no text");

    // A daemon that runs goes on running, with the file that it had.
    fs::write(pi.file(), "# mine again\n").unwrap();
    pi.process(500, "firstlight", "firstlight.service", &[("udp", "0.0.0.0", 53)]);
    let (_, said, _) = pi.setup(&["--yes"], "");
    let undo = said.split_once("To undo:\n").unwrap().1;
    assert!(undo.starts_with("  mv ") && undo.ends_with("\n  firstlight reload\n"), "{undo}");
    assert!(!said.contains("UDP 53 of firstlight"), "{said}");
}

#[test]
fn at_most_five_questions_are_asked_each_with_its_default() {
    let machine = Machine::pi_hole();

    let (code, said, err) = machine.setup(&["--ask"], "\n\n\n\n\n");

    assert_eq!((code, err.as_str()), (0, ""));
    let asked = said.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    assert_eq!(asked.count(), 5, "{said}");
    for default in ["[all]", "[quad9, cloudflare, google]", "[pi.home.lan]", "[steer]", "[leave]"] {
        assert!(said.contains(default), "{default}: {said}");
    }
    // The same as with --yes.
    let other = Machine::pi_hole();
    other.setup(&["--yes"], "");
    let text = |machine: &Machine| fs::read_to_string(machine.file()).unwrap();
    assert_eq!(text(&machine), text(&other));

    // Nobody has a port: four.
    let (_, said, _) = Machine::raspberry_pi().setup(&["--ask"], "\n\n\n\n");
    assert!(said.contains("4. ") && !said.contains("5. "), "{said}");
}

#[test]
fn an_answer_that_fits_nothing_is_asked_for_again_and_three_decide_nothing() {
    let pi = Machine::raspberry_pi();

    let (code, said, err) = pi.setup(&["--ask"], "eth9\n192.168.7.9\nall\n\n\n\n");
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(said.contains("`eth9` is no address or interface of this machine."), "{said}");

    let pi = Machine::raspberry_pi();
    let (code, _, err) = pi.setup(&["--ask"], "x\nx\nx\n\n\n\n\n");
    assert_eq!(code, 1);
    assert!(err.contains("nothing was changed"), "{err}");
    assert!(!pi.file().exists());
}

#[test]
fn without_anybody_to_answer_nothing_is_decided() {
    let pi = Machine::raspberry_pi();

    for (arguments, input) in
        [(&[][..], "\n\n\n\n"), (&["--dry-run"], ""), (&["--ask"], "\nquad9, goo")]
    {
        let (code, _, err) = pi.setup(arguments, input);

        assert_eq!(code, 2, "{arguments:?}");
        assert!(err.contains("--yes") && err.contains("nothing was changed"), "{err}");
    }
    assert!(!pi.file().exists());
    assert_eq!(pi.setup(&["--ask", "--yes"], "").0, 2);
}

#[test]
fn a_dry_run_shows_the_file_and_writes_nothing() {
    let machine = Machine::pi_hole();

    let (code, said, _) = machine.setup(&["--dry-run", "--ask"], "\n\n\n\nstop\n");

    assert_eq!(code, 0);
    assert!(said.contains("Would run:\n  systemctl disable --now pihole-FTL\n"), "{said}");
    let shown = said.split_once("Would write ").unwrap().1;
    assert!(!machine.file().exists());
    machine.setup(&["--yes"], "");
    let text = fs::read_to_string(machine.file()).unwrap();
    assert_eq!(shown, format!("{}:\n\n{text}", machine.file().display()));
}

#[test]
fn nobody_is_stopped_on_another_machine() {
    let machine = Machine::pi_hole();

    let (code, said, _) = machine.setup(&["--ask"], "\n\n\n\nstop\n");

    assert_eq!(code, 1);
    assert!(said.contains("pihole-FTL was NOT stopped: it is not on this machine"), "{said}");
}

#[test]
fn nixos_gets_its_file_where_it_says_and_nowhere_else() {
    let machine = Machine::raspberry_pi();
    machine.write("etc/os-release", "ID=nixos\nPRETTY_NAME=\"NixOS 26.05\"\n");
    let beside = machine.path("etc/nixos/firstlight.toml");
    let named = ["--yes", "--config", beside.to_str().unwrap()];

    let (code, _, err) = machine.setup(&["--yes"], "");
    assert_eq!(code, 1);
    assert!(err.contains("firstlight setup --config /etc/nixos/firstlight.toml"), "{err}");

    let (code, said, _) = machine.setup(&named, "");
    assert_eq!(code, 0);
    assert!(!said.contains("systemctl enable"), "{said}");
    assert!(said.contains(&format!("lib.importTOML {}", beside.display())), "{said}");
    assert!(beside.exists() && !machine.file().exists());
}

#[test]
fn an_rtc_counts_as_kept_by_a_battery_if_its_time_is_possible() {
    let pi = Machine::raspberry_pi();
    let clock =
        |said: String| said.lines().find(|line| line.contains("Clock: ")).unwrap().to_owned();
    let look = || clock(pi.setup(&["--yes", "--dry-run"], "").1);

    pi.write("sys/class/rtc/rtc0/name", "rtc-ds1307 1-0068\n");
    pi.write("sys/class/rtc/rtc0/since_epoch", "946684800\n");
    assert!(look().contains("rtc-ds1307 1-0068, and it looks as if no battery kept it"));

    pi.write("sys/class/rtc/rtc0/since_epoch", "1900000000\n");
    assert!(look().contains("rtc-ds1307 1-0068, which looks as if a battery kept it"));

    pi.write("sys/class/rtc/rtc0/battery_voltage", "3800\n");
    assert!(look().contains("no battery"));
}

#[test]
fn hostile_files_are_read_within_bounds_and_drive_nothing() {
    let pi = Machine::raspberry_pi();
    let garbage: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    for file in [
        "etc/os-release",
        "etc/hosts",
        "etc/hostname",
        "etc/ntp.conf",
        "etc/firstlight/firstlight.toml",
        "proc/net/udp6",
        "proc/300/comm",
        "proc/self/status",
        "sys/class/rtc/rtc0/name",
    ] {
        pi.write(file, &garbage);
    }
    fs::remove_file(pi.path("etc/resolv.conf")).unwrap();
    pi.write("etc/resolv.conf", &garbage);
    pi.write("etc/chrony/chrony.conf", "server 192.0.2.1\n");
    // A hundred megabytes of nothing, one server per line before them.
    let chrony = File::options().append(true).open(pi.path("etc/chrony/chrony.conf")).unwrap();
    chrony.set_len(100 << 20).unwrap();
    // Waiting for a pipe, or reading a folder or a loop, would take for ever.
    nix::unistd::mkfifo(
        &pi.path("etc/systemd/timesyncd.conf.d/pipe.conf"),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .unwrap();
    fs::create_dir_all(pi.path("etc/ntpsec/ntp.conf")).unwrap();
    symlink("ntp.toml", pi.path("etc/ntpd-rs/ntp.toml")).unwrap();

    let (code, said, err) = pi.setup(&["--yes"], "");

    assert_eq!((code, err.as_str()), (0, ""));
    assert!(said.contains("of /etc/chrony/chrony.conf only the first 256 KiB were read"), "{said}");
    assert!(!said.contains('\u{1b}') && said.len() < 8192, "{said}");
    assert_eq!(pi.faults(), "");
    let kept = pi.file().with_file_name("firstlight.toml.before-setup");
    assert_eq!(fs::read(kept).unwrap(), garbage);
}

#[test]
fn where_nothing_can_be_written_nothing_is_changed() {
    let pi = Machine::raspberry_pi();
    pi.write("etc/firstlight", "a file where a folder should be");

    let (code, said, err) = pi.setup(&["--yes"], "");

    assert_eq!((code, said.as_str()), (1, ""));
    assert!(err.contains("nothing was changed") && err.contains("--config FILE"), "{err}");
}

/// A machine that is a folder, removed at the end.
struct Machine(PathBuf);

impl Machine {
    /// Debian with systemd-resolved and systemd-timesyncd, and no clock that runs while it is off.
    fn raspberry_pi() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("firstlight-setup-{}-{number}", std::process::id());
        let machine = Self(std::env::temp_dir().join(name));
        machine
            .write("etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n");
        machine.write("etc/hostname", "pi\n");
        machine.write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 pi\n");
        let stub = "run/systemd/resolve/stub-resolv.conf";
        machine.write(stub, "nameserver 127.0.0.53\nsearch home.lan\n");
        symlink(format!("../{stub}"), machine.path("etc/resolv.conf")).unwrap();
        machine.write("etc/systemd/timesyncd.conf", "[Time]\nNTP=ntp.lan\n");
        machine.write("run/systemd/system/a", "");
        machine.write("proc/self/status", "CapBnd:\t000001ffffffffff\n");
        machine.write("proc/self/uid_map", "         0          0 4294967295\n");
        for folder in ["etc/systemd/timesyncd.conf.d", "etc/ntpsec", "etc/ntpd-rs"] {
            fs::create_dir_all(machine.path(folder)).unwrap();
        }
        machine.process(300, "systemd-timesyn", "systemd-timesyncd.service", &[]);
        machine.process(
            301,
            "systemd-resolve",
            "systemd-resolved.service",
            &[("udp", "127.0.0.53", 53), ("tcp", "127.0.0.53", 53)],
        );
        machine
    }

    fn pi_hole() -> Self {
        let machine = Self::raspberry_pi();
        machine.write("etc/pihole/pihole.toml", "");
        let ports = [("udp", "0.0.0.0", 53), ("tcp", "0.0.0.0", 53), ("udp", "0.0.0.0", 123)];
        machine.process(400, "pihole-FTL", "pihole-FTL.service", &ports);
        machine
    }

    fn chrony() -> Self {
        let machine = Self::raspberry_pi();
        machine.write("etc/chrony/chrony.conf", "pool 2.debian.pool.ntp.org iburst\nallow\n");
        machine.write("etc/chrony/sources.d/router.sources", "server 192.168.7.1 iburst\n");
        machine.process(400, "chronyd", "chrony.service", &[("udp", "0.0.0.0", 123)]);
        machine
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    fn file(&self) -> PathBuf {
        self.path("etc/firstlight/firstlight.toml")
    }

    fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A process with sockets, as /proc shows it.
    fn process(&self, pid: u32, name: &str, unit: &str, sockets: &[(&str, &str, u16)]) {
        self.write(&format!("proc/{pid}/comm"), format!("{name}\n"));
        self.write(&format!("proc/{pid}/cgroup"), format!("0::/system.slice/{unit}\n"));
        fs::create_dir_all(self.path(&format!("proc/{pid}/fd"))).unwrap();
        fs::create_dir_all(self.path("proc/net")).unwrap();
        for (number, (table, ip, port)) in sockets.iter().enumerate() {
            let inode = u64::from(pid) * 100 + number as u64;
            symlink(format!("socket:[{inode}]"), self.path(&format!("proc/{pid}/fd/{number}")))
                .unwrap();
            let ip = u32::from_ne_bytes(ip.parse::<std::net::Ipv4Addr>().unwrap().octets());
            let state = if *table == "tcp" { "0A" } else { "07" };
            let mut table = File::options()
                .append(true)
                .create(true)
                .open(self.path(&format!("proc/net/{table}")))
                .unwrap();
            writeln!(
                table,
                " 0: {ip:08X}:{port:04X} 00000000:0000 {state} 0:0 00:0 0 0 0 {inode} 2"
            )
            .unwrap();
        }
    }

    /// Runs the command on this machine: exit code, standard output, standard error.
    fn setup(&self, arguments: &[&str], input: &str) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstlight"));
        command.arg("setup").arg("--root").arg(&self.0).args(arguments);
        command.args(["--address", "lo=127.0.0.1", "--address", "eth0=192.168.7.2"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may have gone before it has read everything.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        let text = |octets| String::from_utf8(octets).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// What `firstlight check` has against the file, but for what the machine of the test is to blame for.
    fn faults(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstlight"));
        let output = command.arg("check").arg("--config").arg(self.file()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let report = String::from_utf8(output.stderr).unwrap();
        let of_machine = ["cannot listen on", "cannot write to /"];
        let faults = report.lines().filter(|line| line.starts_with("warning: "));
        let faults = faults.filter(|line| of_machine.iter().all(|words| !line.contains(words)));
        faults.collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.file().parent().unwrap_or(Path::new("."))).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
