//! `firstlight check`: the mistakes in a configuration, and what does not fit this machine.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Group, access};
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use socket2::{Domain, Protocol, Socket, Type};

use crate::cli::exit;
use crate::config::{CertificateFiles, Parsed, Report, Tls};
use crate::host::config_file::{LoadError, load};

/// Checks `file`, or what [`load`] finds without one. The report goes to standard error, one line
/// with its sum to standard output.
pub(super) fn run(file: Option<&Path>) -> ExitCode {
    let (report, code) = match load(file) {
        Ok(parsed) => (examine(parsed), exit::OK),
        Err(LoadError::Unusable(report)) => (report, exit::CONFIG),
        Err(error @ LoadError::Unreadable { .. }) => {
            tell(io::stderr(), format_args!("{error}\n"));
            return ExitCode::from(exit::CONFIG);
        }
    };
    let (errors, warnings) = (report.errors(), report.warnings());
    tell(io::stderr(), &report);
    let sum = format_args!("{}: {errors} errors, {warnings} warnings\n", report.file().display());
    tell(io::stdout(), sum);
    ExitCode::from(code)
}

/// Writes `text`; a reader who has gone away does not matter.
fn tell(mut to: impl Write, text: impl Display) {
    drop(write!(to, "{text}"));
}

/// The warnings about a configuration, with those that only this machine can give.
fn examine(parsed: Parsed) -> Report {
    let mut machine = Machine { warnings: parsed.warnings.clone(), parsed };
    machine.certificate();
    machine.roots();
    machine.state();
    machine.group();
    machine.listeners();
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
        if let Some(files) = &tls.files
            && let Err((path, message)) = fit(tls, files)
        {
            self.warn(path, message, "until it is mended, a fallback certificate serves");
        }
    }

    fn roots(&mut self) {
        let config = &self.parsed.config;
        let upstreams = config.upstreams.iter().enumerate();
        let witnesses = config.clock.witnesses.iter().enumerate();
        let unfit: Vec<_> = upstreams
            .map(|(index, upstream)| (format!("upstream[{index}].ca"), &upstream.ca))
            .chain(witnesses.map(|(index, it)| (format!("clock.witness[{index}].ca"), &it.ca)))
            .filter_map(|(path, file)| Some((path, root(file.as_ref()?).err()?)))
            .collect();
        for (path, message) in unfit {
            self.warn(&path, message, "until it is mended, the usual roots count alone");
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

    fn listeners(&mut self) {
        let config = &self.parsed.config;
        let services = [
            ("dns", &config.dns.listen, Type::DGRAM),
            ("dns", &config.dns.listen, Type::STREAM),
            ("dot", &config.dot.listen, Type::STREAM),
            ("doh", &config.doh.listen, Type::STREAM),
            ("ntp", &config.ntp.listen, Type::DGRAM),
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

/// Whether certificate and key can be read, belong together, and carry the name that clients check.
/// Their dates do not count: this machine's clock may be the wrong one.
fn fit(tls: &Tls, files: &CertificateFiles) -> Result<(), (&'static str, String)> {
    let (at_certificate, at_key) = ("tls.certificate", "tls.key");
    let certificate = files.certificate.display();
    let key = files.key.display();

    let chain = certificates(&files.certificate).map_err(|message| (at_certificate, message))?;
    let private = read(&files.key).map_err(|message| (at_key, message))?;
    let private = PrivateKeyDer::from_pem_slice(&private)
        .map_err(|error| (at_key, format!("{key} holds no private key: {error}")))?;
    let provider = rustls::crypto::ring::default_provider();
    let pair = CertifiedKey::from_der(chain.clone(), private, &provider);
    if let Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) = pair {
        return Err((at_key, format!("{key} is not the key of {certificate}")));
    }
    pair.map_err(|error| (at_key, format!("{key} cannot be used: {error}")))?;

    let name = tls.name.to_string();
    let carried = chain
        .first()
        .and_then(|leaf| ParsedCertificate::try_from(leaf).ok())
        .zip(ServerName::try_from(name.as_str()).ok())
        .is_some_and(|(leaf, name)| verify_server_name(&leaf, &name).is_ok());
    if !carried {
        return Err((at_certificate, format!("{certificate} does not carry the name `{name}`")));
    }
    Ok(())
}

/// Whether a file of further roots holds at least one, and none that is unfit.
fn root(file: &Path) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        let unfit = |error| format!("{} holds an unfit root: {error}", file.display());
        store.add(certificate).map_err(unfit)?;
    }
    Ok(())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(file)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("{} is damaged: {error}", file.display()))?;
    if chain.is_empty() {
        return Err(format!("{} holds no certificate", file.display()));
    }
    Ok(chain)
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}
