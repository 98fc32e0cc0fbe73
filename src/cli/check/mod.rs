//! `firstlight check`: the mistakes in a configuration, and what does not fit this machine.

mod acme;
mod pair;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, Group, access};
use socket2::{Domain, Protocol, Socket, Type};

use crate::app;
use crate::cli::exit::{self, Failure};
use crate::cli::{ConfigFile, output};
use crate::config::{Parsed, RefClockKind, Report};
use crate::dns::{Anchors, Hints};
use crate::host::config_file::{LoadError, load};
use crate::ntp::keys::Keys;
use crate::tls::{CertStore, PairError, Roots, StoreEvent};

/// Which configuration is checked, and beside which.
#[derive(Args, Debug)]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigFile,
    /// The configuration of the other box of a pair: says where the two get in each other's way.
    #[arg(long, value_name = "OTHER")]
    pair: Option<PathBuf>,
}

/// Checks the configuration, or what [`load`] finds without one. The report goes to standard error,
/// one line with its sum to standard output.
pub(super) fn run(what: &Check) -> Result<u8, Failure> {
    let other = what.pair.as_deref().map(|file| load(Some(file))).transpose()?;
    let (report, code) = match load(what.file.config.as_deref()) {
        Ok(parsed) => (examine(parsed, other.as_ref()), exit::OK),
        Err(LoadError::Unusable(report)) => (report, exit::CONFIG),
        Err(error @ LoadError::Unreadable { .. }) => return Err(error.into()),
    };
    let (errors, warnings) = (report.errors(), report.warnings());
    output::note(&report);
    let file = report.file().display();
    output::print(format_args!("{file}: {errors} errors, {warnings} warnings"))?;
    Ok(code)
}

/// The warnings about a configuration, with those that only this machine can give, and those about
/// the two boxes of a pair.
fn examine(parsed: Parsed, other: Option<&Parsed>) -> Report {
    let mut machine = Machine { warnings: parsed.warnings.clone(), parsed };
    machine.certificate();
    machine.acme();
    machine.roots();
    machine.dnssec();
    machine.root_hints();
    machine.keys();
    machine.state();
    machine.group();
    machine.refclocks();
    machine.leap_file();
    machine.listeners();
    if let Some(other) = other {
        machine.pair(other);
    }
    machine.warnings
}

struct Machine {
    parsed: Parsed,
    warnings: Report,
}

impl Machine {
    fn warn(&mut self, path: &str, message: impl Into<String>, remedy: &str) {
        self.warnings.warn(self.parsed.places.at(path), message, remedy);
    }

    fn certificate(&mut self) {
        let tls = &self.parsed.config.tls;
        let Some(files) = &tls.files else { return };
        // Its dates do not count: this machine's clock may be the wrong one.
        let mut remedy = "until it is mended, a fallback certificate serves";
        let (path, message) = match CertStore::of(tls).poll() {
            Some(StoreEvent::Loaded(served)) if !served.carries(&tls.name) => {
                let certificate = files.certificate.display();
                let name = &tls.name;
                remedy =
                    "it is served for want of a better one; clients that check the name refuse it";
                ("tls.certificate", format!("{certificate} does not carry the name `{name}`"))
            }
            Some(StoreEvent::Unfit(error)) => {
                let of_key = match &*error {
                    PairError::Key { .. } | PairError::Mismatch { .. } => true,
                    PairError::Certificate { .. } | PairError::Name { .. } => false,
                    PairError::Read { file, .. } => *file == files.key,
                };
                (if of_key { "tls.key" } else { "tls.certificate" }, error.to_string())
            }
            Some(StoreEvent::Loaded(_)) | None => return,
        };
        self.warn(path, message, remedy);
    }

    fn roots(&mut self) {
        let config = &self.parsed.config;
        let upstreams = config.upstreams.iter().enumerate();
        let witnesses = config.clock.witnesses.iter().enumerate();
        let sources = config.clock.sources.iter().enumerate().filter_map(|(index, source)| {
            Some((format!("clock.source[{index}].ca"), &source.nts.as_ref()?.ca))
        });
        let unfit: Vec<_> = upstreams
            .map(|(index, upstream)| (format!("upstream[{index}].ca"), &upstream.ca))
            .chain(witnesses.map(|(index, it)| (format!("clock.witness[{index}].ca"), &it.ca)))
            .chain(sources)
            .filter_map(|(path, file)| {
                Some((path, Roots::with_file(file.as_ref()?).err()?.to_string()))
            })
            .collect();
        for (path, message) in unfit {
            self.warn(&path, message, "until it is mended, the usual roots count alone");
        }
    }

    fn dnssec(&mut self) {
        let file = self.parsed.config.dns.validation.anchors.as_deref();
        if let Some(Err(error)) = file.map(Anchors::from_file) {
            let remedy = "until it is mended, the built-in anchors of the root count";
            self.warn("dns.trust_anchors", error.to_string(), remedy);
        }
    }

    fn keys(&mut self) {
        let config = &self.parsed.config;
        let Some(file) = &config.ntp.keys else { return };
        let (keys, doubts) = match Keys::from_file(file) {
            Ok(read) => read,
            Err(error) => {
                let remedy = "until it is mended, nobody is authenticated, and sources with a key are not asked";
                return self.warn("ntp.keys", error.to_string(), remedy);
            }
        };
        let sources = config.clock.sources.iter().enumerate();
        let unknown: Vec<_> = sources
            .filter_map(|(index, source)| {
                let key = source.key.filter(|key| keys.get(*key).is_none())?;
                Some((index, format!("{} holds no key {key}", file.display())))
            })
            .collect();
        for doubt in doubts {
            self.warn("ntp.keys", doubt, "the other keys are used all the same");
        }
        for (index, message) in unknown {
            let remedy = "add it to the file; until then the source is not asked";
            self.warn(&format!("clock.source[{index}].key"), message, remedy);
        }
    }

    fn root_hints(&mut self) {
        let settings = self.parsed.config.dns.recursion.as_ref();
        let file = settings.and_then(|settings| settings.hints.as_deref());
        if let Some(Err(error)) = file.map(Hints::from_file) {
            let remedy = "until it is mended, the built-in addresses of the root serve";
            self.warn("dns.root_hints", error.to_string(), remedy);
        }
    }

    fn state(&mut self) {
        let directory = self.parsed.config.state.directory.clone();
        // A directory that is not there yet is made in the nearest one that is.
        let existing = directory.ancestors().find(|path| path.exists());
        let existing = existing.unwrap_or(Path::new("."));
        let failure = if existing.is_dir() {
            access(existing, AccessFlags::W_OK | AccessFlags::X_OK).err().map(Errno::desc)
        } else {
            Some("it is not a directory")
        };
        let Some(failure) = failure else { return };
        let user = nix::unistd::getuid();
        self.warn(
            "state.directory",
            format!("user {user} cannot write to {}: {failure}", existing.display()),
            "let the daemon's user own it: without it nothing outlives a restart",
        );
    }

    fn group(&mut self) {
        if let Some(group) = self.parsed.config.control.group.clone()
            && matches!(Group::from_name(&group), Ok(None))
        {
            let message = format!("there is no group `{group}` on this machine");
            self.warn("control.group", message, &format!("run: groupadd --system {group}"));
        }
    }

    fn refclocks(&mut self) {
        for (index, refclock) in self.parsed.config.clock.refclocks.clone().iter().enumerate() {
            let (needed, how) = match refclock.kind {
                RefClockKind::Nmea => (refclock.path.as_path(), AccessFlags::R_OK),
                // The kernel shows its stamps to everybody.
                RefClockKind::Pps => (refclock.path.as_path(), AccessFlags::F_OK),
                RefClockKind::Sock => {
                    let folder = refclock.path.parent().unwrap_or(Path::new("."));
                    (folder, AccessFlags::W_OK | AccessFlags::X_OK)
                }
            };
            if let Err(error) = access(needed, how) {
                let user = nix::unistd::getuid();
                let message =
                    format!("user {user} cannot use {}: {}", needed.display(), error.desc());
                let remedy = "the daemon tries again until its user can; time is kept without it";
                self.warn(&format!("clock.refclock[{index}].path"), message, remedy);
            }
        }
    }

    fn leap_file(&mut self) {
        let Some(path) = self.parsed.config.clock.leap_file.clone() else { return };
        if let Err(unfit) = app::read_leap_file(&path) {
            let message = format!("{} {unfit}", path.display());
            let remedy = "until it is mended, the majority of the sources announces leap seconds";
            self.warn("clock.leap_file", message, remedy);
        }
    }

    fn listeners(&mut self) {
        let config = &self.parsed.config;
        let services = [
            ("dns", &config.dns.listen, Type::DGRAM),
            ("dns", &config.dns.listen, Type::STREAM),
            ("dot", &config.dot.listen, Type::STREAM),
            ("doh", &config.doh.listen, Type::STREAM),
            ("doq", &config.doq.listen, Type::DGRAM),
            ("ntp", &config.ntp.listen, Type::DGRAM),
            ("nts", &config.nts.listen, Type::STREAM),
            ("metrics", &config.metrics.listen, Type::STREAM),
        ];
        let mut refused = Vec::new();
        for (service, listen, kind) in services {
            for (index, address) in listen.iter().enumerate() {
                if let Err(error) = bind(*address, kind) {
                    refused.push((format!("{service}.listen[{index}]"), *address, kind, error));
                }
            }
        }
        for (path, address, kind, error) in refused {
            let protocol = if kind == Type::DGRAM { "UDP" } else { "TCP" };
            let (reason, remedy) = BIND_FAILURES
                .iter()
                .find(|(kind, ..)| *kind == error.kind())
                .map_or((error.to_string(), "the daemon tries again until it can"), |known| {
                    (known.1.to_owned(), known.2)
                });
            self.warn(&path, format!("cannot listen on {protocol} {address}: {reason}"), remedy);
        }
    }
}

/// Why a port cannot be opened, and what to do.
const BIND_FAILURES: &[(io::ErrorKind, &str, &str)] = &[
    (
        io::ErrorKind::AddrInUse,
        "it is in use",
        "all is well if firstlight itself is running; else `ss -lntup` names the program",
    ),
    (
        io::ErrorKind::PermissionDenied,
        "this user may not",
        "run as root, or grant CAP_NET_BIND_SERVICE as the systemd unit does",
    ),
    (
        io::ErrorKind::AddrNotAvailable,
        "no interface has this address",
        "all is well if it comes later: the daemon tries again until it can",
    ),
];

/// Opens a listener as the daemon would, and closes it.
fn bind(address: SocketAddr, kind: Type) -> io::Result<()> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM { socket.listen(1) } else { Ok(()) }
}
