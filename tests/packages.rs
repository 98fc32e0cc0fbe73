//! The Debian package, the manual pages and the completions, made and looked at.
//!
//! Nothing is installed here: `packaging/debian/try-nspawn.sh` and `try-vm.sh` do that, on machines of their own.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;
#[path = "../packaging/manual/mod.rs"]
mod manual;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use firstlight::cli;
use firstlight::config::Config;
use lab::needing;
use libtest_mimic::{Arguments, Trial};

const TOP: &str = env!("CARGO_MANIFEST_DIR");
const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/debian/build.sh");
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
/// What Debian's shell must be able to run.
const OF_SH: [&str; 6] = [
    "packaging/debian/build.sh",
    "packaging/debian/postinst",
    "packaging/debian/postrm",
    "packaging/debian/prerm",
    "packaging/debian/try-nspawn.sh",
    "packaging/debian/try-vm.sh",
];
const OF_BASH: [&str; 5] =
    [".ci/run", "benches/chrony-traces", "benches/compare", "benches/footprint", "tests/run"];

fn main() {
    let certain = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let trials = vec![
        certain("every_command_has_a_page_and_every_exit_code_a_line", pages_of_commands),
        certain("the_page_of_the_configuration_has_every_key_that_is_read", page_of_settings),
        certain("explanations_stay_with_their_settings_and_come_once", page_of_a_file),
        certain("completions_know_every_command", completions),
        certain("scripts_are_shell", || scripts("sh", &["-n"], &OF_SH)),
        needing("groff", "groff_finds_no_fault_in_a_page", || {
            pages("groff", &["-man", "-Tutf8", "-ww", "-z"]);
        }),
        needing("mandoc", "mandoc_finds_no_fault_in_a_page", || {
            pages("mandoc", &["-Tlint", "-Wwarning"]);
        }),
        needing("bash", "bash_reads_its_completions", || accepts("bash", "firstlight.bash")),
        needing("zsh", "zsh_reads_its_completions", || accepts("zsh", "_firstlight")),
        needing("fish", "fish_reads_its_completions", || accepts("fish", "firstlight.fish")),
        needing("shellcheck", "shellcheck_finds_no_fault_in_a_script", || {
            scripts("shellcheck", &[], &OF_SH);
            scripts("shellcheck", &[], &OF_BASH);
        }),
        needing("dpkg-deb", "the_package_holds_what_it_should_with_the_right_modes", contents),
        needing("dpkg-deb", "the_package_says_what_it_is_and_needs", control),
        needing("dpkg-deb", "the_same_source_makes_the_same_package", reproducible),
        needing("dpkg-deb", "what_makes_no_package_is_refused_with_the_reason", refused),
        needing("dpkg-deb", "an_installation_explains_who_has_the_ports", explained),
        needing("dpkg-deb", "beside_another_keeper_of_the_clock_nothing_is_started", withheld),
        needing("dpkg-deb", "a_purge_leaves_what_the_administrator_wrote", purged),
    ];
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    // A few hundred megabytes, of a debug build.
    drop(fs::remove_dir_all(folder("")));
    conclusion.exit();
}

fn pages_of_commands() {
    let command = cli::command();
    let mut found = 0;
    for inner in command.get_subcommands() {
        let page = read(&generated().join(format!("firstlight-{}.8", inner.get_name())));
        assert!(page.contains(".SH SYNOPSIS"), "{}", inner.get_name());
        for argument in inner.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let Some(long) = argument.get_long() else { continue };
            let long = format!("\\-\\-{}", long.replace('-', "\\-"));
            assert!(page.contains(&long), "{long} of {}", inner.get_name());
            found += 1;
        }
    }
    assert!(found > 10);
    assert!(generated().join("firstlight-certs-renew.8").exists());
    let overview = read(&generated().join("firstlight.8"));
    for code in 0..=4 {
        assert!(overview.contains(&format!("\n\\fB{code}\\fR\n")), "exit code {code}");
    }
    assert!(!overview.contains("\\fB5\\fR"));
}

/// The parser tells the keys that it reads, when it meets another one.
fn page_of_settings() {
    let page = read(&generated().join("firstlight.toml.5"));
    let sections: BTreeMap<_, _> =
        page.split("\n.SH ").filter_map(|section| section.split_once('\n')).collect();
    let mut headers = vec![String::new()];
    let mut keys = 0;
    while let Some(table) = headers.pop() {
        let report = Config::parse(&format!("{table}\nqqqqqqqqqqqq = 1\n"), Path::new("c.toml"));
        let report = report.unwrap_err().to_string();
        let (_, known) =
            report.split_once("the keys here are: ").unwrap_or_else(|| panic!("{report}"));
        let path = table.trim_matches(['[', ']']);
        for key in known.lines().next().unwrap().split(", ") {
            let inner = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            let headed = [format!("[{inner}]"), format!("[[{inner}]]")];
            let headed = headed.into_iter().find(|header| sections.contains_key(header.as_str()));
            if let Some(header) = headed {
                headers.push(header);
                continue;
            }
            let section = sections.get(&*table).unwrap_or_else(|| panic!("no section {inner}"));
            assert!(section.contains(&format!("\\fB{key}\\fR = ")), "no `{key}` in {table}");
            keys += 1;
        }
    }
    assert!(keys > 70, "{keys}");
}

fn page_of_a_file() {
    let file = r#"# Every key.
#
#     try this

# Who is asked.
[[upstream]]
# Its name.
name = "a.example"
#port = 853
# How:
#   "dot"  by TLS,
#          as phones do;
#   "doh"  by HTTPS.
#how = "dot"

[[upstream]]
name = "b.example"

# One with a key.
#[[upstream]]
#name = "c.example"
#key = "k"
"#;

    let page = manual::settings::page(file, "2026-11-01");

    let (_, description) = page.split_once("an example stands.\n").unwrap();
    assert_eq!(
        description,
        r#".PP
Every key.
.PP
.RS 4
.EX
\fBtry this\fR
.EE
.RE
.SH [[upstream]]
Who is asked.
.TP
\fBname\fR = "a.example"
.TQ
\fBport\fR = 853
Its name.
.TP
\fBhow\fR = "dot"
How:
.RS
.TP
\fB"dot"\fR
by TLS, as phones do;
.RE
.RS
.TP
\fB"doh"\fR
by HTTPS.
.RE
.TP
\fBkey\fR = "k"
One with a key.
.SH "SEE ALSO"
\fBfirstlight\fR(8), \fBfirstlight\-check\fR(8)
"#
    );
}

fn completions() {
    for file in ["firstlight.bash", "_firstlight", "firstlight.fish"] {
        let text = read(&generated().join(file));
        for command in cli::command().get_subcommands() {
            assert!(text.contains(command.get_name()), "{} in {file}", command.get_name());
        }
    }
}

fn pages(program: &str, options: &[&str]) {
    let mut pages = 0;
    for entry in fs::read_dir(generated()).unwrap() {
        let page = entry.unwrap().path();
        if page.extension().is_some_and(|end| end == "5" || end == "8") {
            let output = Command::new(program).args(options).arg(&page).output().unwrap();
            assert!(output.status.success() && words(&output).is_empty(), "{}", words(&output));
            pages += 1;
        }
    }
    assert!(pages > 20);
}

fn accepts(shell: &str, file: &str) {
    let output = Command::new(shell).arg("-n").arg(generated().join(file)).output().unwrap();
    assert!(output.status.success() && words(&output).is_empty(), "{}", words(&output));
}

/// As they are in the package, and those that make and try it.
fn scripts(program: &str, options: &[&str], scripts: &[&str]) {
    for script in scripts {
        let file = Path::new(TOP).join(script);
        let output = Command::new(program).args(options).arg(file).output().unwrap();
        assert!(output.status.success(), "{script}: {}", words(&output));
    }
}

fn contents() {
    let listing = run("dpkg-deb", &["--contents".as_ref(), package()]);
    let files: BTreeMap<_, _> = listing
        .lines()
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            Some((words.last()?.trim_start_matches('.'), (words[0], words[1])))
        })
        .collect();
    for (file, (mode, owner)) in &files {
        assert_eq!(*owner, "root/root", "{file}");
        let expected = match *file {
            "/usr/bin/firstlight" => "-rwxr-xr-x",
            folder if folder.ends_with('/') => "drwxr-xr-x",
            _ => "-rw-r--r--",
        };
        assert_eq!(*mode, expected, "{file}");
    }
    for file in [
        "/usr/bin/firstlight",
        "/usr/lib/systemd/system/firstlight.service",
        "/usr/lib/systemd/ntp-units.d/50-firstlight.list",
        "/usr/share/bash-completion/completions/firstlight",
        "/usr/share/doc/firstlight/changelog.gz",
        "/usr/share/doc/firstlight/copyright",
        "/usr/share/doc/firstlight/docs/install.md",
        "/usr/share/doc/firstlight/examples/firstlight.toml",
        "/usr/share/fish/vendor_completions.d/firstlight.fish",
        "/usr/share/man/man5/firstlight.toml.5.gz",
        "/usr/share/man/man8/firstlight.8.gz",
        "/usr/share/man/man8/firstlight-status.8.gz",
        "/usr/share/zsh/vendor-completions/_firstlight",
    ] {
        assert!(files.contains_key(file), "no {file}");
    }
    assert!(!files.keys().any(|file| file.starts_with("/etc")), "{files:?}");

    let root = folder("unpacked");
    run("dpkg-deb", &["--raw-extract".as_ref(), package(), &root]);
    let program = Command::new(root.join("usr/bin/firstlight")).arg("--version").output().unwrap();
    assert_eq!(words(&program).trim(), concat!("firstlight ", env!("CARGO_PKG_VERSION")));
    let sums = Command::new("md5sum")
        .args(["--check", "--strict", "--quiet", "DEBIAN/md5sums"])
        .current_dir(&root)
        .output()
        .unwrap();
    assert!(sums.status.success(), "{}", words(&sums));
    let summed = read(&root.join("DEBIAN/md5sums")).lines().count();
    assert_eq!(summed, files.keys().filter(|file| !file.ends_with('/')).count());
    let copyright = read(&root.join("usr/share/doc/firstlight/copyright"));
    for line in ["License: Expat or Apache-2.0", "THE SOFTWARE IS PROVIDED", "  rustls v"] {
        assert!(copyright.contains(line), "no `{line}` in {copyright}");
    }
    for script in SCRIPTS {
        let script = root.join("DEBIAN").join(script);
        assert_eq!(fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o755);
        let text = read(&script);
        assert!(
            !text.contains("@UNITS@") && !text.contains("@ENABLED@") && !text.contains("@USERS@")
        );
        let checked = Command::new("sh").arg("-n").arg(&script).output().unwrap();
        assert!(checked.status.success(), "{}", words(&checked));
    }
}

fn control() {
    let field = |name: &str| {
        let value = run("dpkg-deb", &["--field".as_ref(), package(), name.as_ref()]);
        value.trim().to_owned()
    };
    assert_eq!(field("Package"), "firstlight");
    assert_eq!(field("Version"), concat!(env!("CARGO_PKG_VERSION"), "-1"));
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "armhf",
        other => panic!("no Debian package is made for {other}"),
    };
    assert_eq!(field("Architecture"), machine);
    assert!(field("Depends").contains("libc6 (>= 2."), "{}", field("Depends"));
    assert_eq!(field("Suggests"), "keepalived");
    assert_eq!(field("Conflicts"), "");
    assert!(field("Installed-Size").parse::<u32>().unwrap() > 1_000);
}

fn reproducible() {
    let again = folder("again");
    let made = Command::new("sh")
        .args(["-c", "umask 077; exec \"$0\" \"$@\"", BUILD])
        .args(options(&again))
        .envs(surroundings())
        .env("TZ", "Pacific/Auckland")
        .env("LANG", "de_DE.UTF-8")
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", words(&made));

    let again = PathBuf::from(String::from_utf8(made.stdout).unwrap().trim());
    assert!(fs::read(again).unwrap() == fs::read(package()).unwrap(), "the packages differ");
}

fn refused() {
    let out = folder("refused");
    let refusal = |options: &[&str], units: &Path| {
        let made =
            Command::new(BUILD).args(options).arg(&out).env("FIRSTLIGHT_UNITS", units).output();
        let made = made.unwrap();
        assert!(!made.status.success());
        words(&made)
    };
    let units = units();
    assert!(refusal(&[], &out).contains("firstlight.service: a package without it starts nothing"));
    assert!(refusal(&["--binary", "/nowhere"], &units).contains("no program at /nowhere"));
    assert!(refusal(&["--frobnicate"], &units).contains("unknown option --frobnicate"));
    let other = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };
    let binary = env!("CARGO_BIN_EXE_firstlight");
    let wrong = refusal(&["--binary", binary, "--arch", other], &units);
    assert!(wrong.contains(&format!("not for {other}")), "{wrong}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

fn explained() {
    let machine = Machine::new(
        "explained",
        r#"udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:* users:(("systemd-resolve",pid=612,fd=13))
tcp LISTEN 0 4096 127.0.0.53%lo:53 0.0.0.0:* users:(("systemd-resolve",pid=612,fd=14))
udp UNCONN 0 0 0.0.0.0:53 0.0.0.0:* users:(("pihole-FTL",pid=99999999,fd=4))
udp UNCONN 0 0 10.0.3.1:53 0.0.0.0:* users:(("unheard-of",pid=99999999,fd=4))
udp UNCONN 0 0 10.0.4.1:53 0.0.0.0:*"#,
        "is-active systemd-timesyncd.service",
    );

    let (said, done) = machine.configures(&["configure", ""]);

    for words in [
        "127.0.0.53%lo:53 is held by systemd-resolved",
        "DNSStubListener=no",
        "rm /etc/systemd/resolved.conf.d/firstlight.conf",
        "0.0.0.0:53 is held by pihole-FTL.",
        "disable --now pihole-FTL.service      (undo: systemctl enable --now pihole-FTL.service)",
        "10.0.3.1:53 is held by unheard-of.",
        "10.0.4.1:53 is held by a program.",
        "systemctl disable --now systemd-timesyncd ",
        "`firstlight status`",
    ] {
        assert!(said.contains(words), "no `{words}` in\n{said}");
    }
    assert_eq!(said.matches("held by systemd-resolved").count(), 1, "{said}");
    // Nothing of this was done by itself.
    assert!(done.contains("deb-systemd-helper enable firstlight.service\n"), "{done}");
    assert!(done.contains("deb-systemd-invoke start firstlight.service\n"), "{done}");
    assert!(!done.contains("disable") && !done.contains("stop"), "{done}");

    let (said, done) = machine.configures(&["configure", "0.0.9-1"]);
    assert_eq!(said, "", "an upgrade explains nothing again");
    assert!(done.contains("deb-systemd-invoke restart firstlight.service\n"), "{done}");

    let silent = Machine::new("silent", "", "");
    fs::remove_file(silent.bin().join("ss")).unwrap();
    silent.configures(&["configure", ""]);
}

fn withheld() {
    for state in ["is-active chrony.service", "is-enabled chrony.service"] {
        let machine = Machine::new("withheld", "", state);

        let (said, done) = machine.configures(&["configure", ""]);

        for words in [
            "chrony keeps this machine's clock",
            "systemctl disable --now chrony      (undo: systemctl enable --now chrony)",
            "firstlight-observe.conf",
            "systemctl enable --now firstlight",
        ] {
            assert!(said.contains(words), "no `{words}` in\n{said}");
        }
        assert!(!done.contains("helper enable") && !done.contains("start"), "{done}");
        assert!(done.contains("deb-systemd-helper update-state firstlight.service\n"), "{done}");
    }
}

fn purged() {
    let machine = Machine::new("purged", "", "");
    let state = machine.root().join("var/lib/firstlight");
    let settings = machine.root().join("etc/firstlight");
    for folder in [&state, &settings] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(state.join("floor"), "x").unwrap();
    fs::write(settings.join("firstlight.toml"), "").unwrap();

    let (_, stopped) = machine.runs("prerm", &["remove"]);
    machine.runs("postrm", &["remove"]);
    assert!(state.join("floor").exists());
    let (_, done) = machine.runs("postrm", &["purge"]);

    assert!(!state.exists());
    assert!(settings.join("firstlight.toml").exists());
    assert!(stopped.contains("deb-systemd-invoke stop firstlight"), "{stopped}");
    assert!(done.contains("deb-systemd-helper purge firstlight"), "{done}");
    fs::remove_file(settings.join("firstlight.toml")).unwrap();
    machine.runs("postrm", &["purge"]);
    assert!(!settings.exists());
}

/// A folder that the package's scripts take for the machine's root, with programs that write down how
/// they are called in place of those that change something.
struct Machine(PathBuf);

impl Machine {
    /// On which `ss` prints `sockets`, and systemd says yes to `state` alone.
    fn new(name: &str, sockets: &str, state: &str) -> Self {
        let machine = Self(folder(name));
        fs::create_dir_all(machine.bin()).unwrap();
        fs::create_dir_all(machine.root().join("run/systemd/system")).unwrap();
        run("dpkg-deb", &["--control".as_ref(), package(), &machine.0.join("scripts")]);
        for tool in ["awk", "cat", "head", "rm", "rmdir", "sed", "sort"] {
            let tool_file = lab::find(tool).unwrap();
            std::os::unix::fs::symlink(tool_file, machine.bin().join(tool)).unwrap();
        }
        let log = format!("echo \"${{0##*/}} $*\" >>{}\n", machine.log().display());
        let socket_lines =
            format!("[ \"$2\" = \"sport = :53\" ] || exit 0\ncat <<'END'\n{sockets}\nEND");
        let socket_lines = if sockets.is_empty() { "exit 0".to_owned() } else { socket_lines };
        for (program, does) in [
            ("ss", socket_lines),
            ("systemctl", format!("[ \"$2\" != --quiet ] || [ \"$1 $3\" = \"{state}\" ]")),
            ("deb-systemd-helper", String::new()),
            ("deb-systemd-invoke", String::new()),
            ("systemd-sysusers", String::new()),
            ("getent", String::new()),
            ("userdel", String::new()),
        ] {
            let file = machine.bin().join(program);
            fs::write(&file, format!("#!/bin/sh\n{log}{does}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        machine
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn bin(&self) -> PathBuf {
        self.0.join("bin")
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    fn configures(&self, arguments: &[&str]) -> (String, String) {
        self.runs("postinst", arguments)
    }

    /// Runs a script, which must succeed; what it says, and which programs it ran.
    fn runs(&self, script: &str, arguments: &[&str]) -> (String, String) {
        drop(fs::remove_file(self.log()));
        let output = Command::new("/bin/sh")
            .arg(self.0.join("scripts").join(script))
            .args(arguments)
            .env_clear()
            .env("PATH", self.bin())
            .env("DPKG_ROOT", self.root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{script} {arguments:?}: {}", words(&output));
        (words(&output), fs::read_to_string(self.log()).unwrap_or_default())
    }
}

/// The pages and completions, written once.
fn generated() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = folder("generated");
        manual::write(&folder).unwrap();
        folder
    })
}

/// The package, made once.
fn package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let made = Command::new(BUILD)
            .args(options(&folder("package")))
            .envs(surroundings())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", words(&made));
        PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
    })
}

fn options(out: &Path) -> Vec<PathBuf> {
    let mut options = Vec::new();
    options.extend(["--binary".into(), env!("CARGO_BIN_EXE_firstlight").into()]);
    options.extend(["--generated".into(), generated().into(), out.into()]);
    options
}

/// A quick compressor: a debug build is large.
fn surroundings() -> Vec<(&'static str, PathBuf)> {
    vec![
        ("DPKG_DEB_COMPRESSOR_TYPE", "none".into()),
        ("FIRSTLIGHT_UNITS", units()),
        ("SOURCE_DATE_EPOCH", "1793491200".into()),
    ]
}

fn units() -> PathBuf {
    Path::new(TOP).join("packaging/systemd")
}

/// An empty folder of this name.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages").join(name);
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn run(program: &str, arguments: &[&Path]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", words(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// All that it said.
fn words(output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&said).into_owned()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
