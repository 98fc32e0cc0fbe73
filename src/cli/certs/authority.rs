//! `firstlight certs ca`: the local authority's certificate.

use std::fmt::Write;

use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use crate::admin::Request;
use crate::admin::report::{Authority, Devices, FALLBACK};
use crate::cli::daemon::Daemon;
use crate::cli::exit::{self, Failure};
use crate::cli::{ConfigFile, output};

/// In which form it is given out.
#[derive(Args, Debug)]
pub(super) struct Ca {
    /// Give out the certificate as DER: octets, not text.
    #[arg(long, conflicts_with = "json")]
    der: bool,
    /// Print certificate, fingerprint, names and networks as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: ConfigFile,
}

/// Gives out the certificate, and tells what it is beside it.
pub(super) fn run(ca: &Ca) -> Result<u8, Failure> {
    let devices: Devices = Daemon::find(&ca.file)?.ask(&Request::Devices)?;
    let authority = of(&devices)?;
    if ca.json {
        output::print(format_args!("{:#}", json!(authority)))?;
        return Ok(exit::OK);
    }
    output::note(describe(authority, devices.source.as_deref()));
    if ca.der {
        output::octets(&der(authority)?)?;
    } else {
        output::print(&authority.certificate)?;
    }
    Ok(exit::OK)
}

/// The authority.
///
/// # Errors
///
/// If the daemon has none.
pub(super) fn of(devices: &Devices) -> Result<&Authority, Failure> {
    let wanting = "the daemon could not make a local authority; its log says why";
    devices.authority.as_ref().ok_or_else(|| Failure::Wanting(wanting.to_owned()))
}

/// Its certificate as DER.
///
/// # Errors
///
/// If what the daemon gave is no certificate.
pub(super) fn der(authority: &Authority) -> Result<CertificateDer<'static>, Failure> {
    CertificateDer::from_pem_slice(authority.certificate.as_bytes()).map_err(|error| {
        Failure::Wanting(format!("the daemon's word for its authority is no PEM: {error:?}"))
    })
}

fn describe(authority: &Authority, source: Option<&str>) -> String {
    let mut text = format!(
        "SHA-256 fingerprint  {}\n\
         Signs for names      {}, and what is below; for no other\n\
         and for addresses    {}\n",
        authority.fingerprint,
        authority.names.join(", "),
        authority.networks.join(", "),
    );
    let last = match source {
        Some(FALLBACK) => {
            "Install it where a device keeps its certificate authorities; `firstlight certs \
             instructions` says how. Compare the fingerprint there."
        }
        Some(_) => {
            "Devices do not need it at present: a certificate of another authority is served. It is \
             of use to those alone that are to trust this machine without that one as well."
        }
        None => {
            "Devices do not need it at present: no certificate is served; see `firstlight certs`."
        }
    };
    let _ = writeln!(text, "{last}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_devices_need_it_is_told() {
        let authority = Authority {
            certificate: "rubbish".to_owned(),
            fingerprint: "AB:CD".to_owned(),
            names: vec!["dns.home.lan".to_owned(), "home.lan".to_owned()],
            networks: vec!["10.0.0.0/8".to_owned()],
        };

        let needed = describe(&authority, Some("fallback"));
        let idle = describe(&authority, Some("acme"));

        assert!(needed.starts_with("SHA-256 fingerprint  AB:CD\n"), "{needed}");
        assert!(needed.contains("dns.home.lan, home.lan, and what is below"), "{needed}");
        assert!(needed.contains("certs instructions"), "{needed}");
        assert!(idle.contains("do not need it at present"), "{idle}");
        assert!(der(&authority).is_err());
    }
}
