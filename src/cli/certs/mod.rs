//! `firstlight certs`: the certificate that clients are shown, what lies ahead of it, and what devices
//! need to trust it.

mod authority;
mod instructions;
mod orders;
mod plist;
mod profile;
mod show;

use clap::{Args, Subcommand};

use crate::cli::ConfigFile;
use crate::cli::daemon::Look;
use crate::cli::exit::Failure;

/// The certificate is shown, unless something else is asked for.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Certs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    look: Look,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Give out the certificate of the local authority, for devices to install.
    ///
    /// PEM on standard output; on standard error its fingerprint and what it can sign for. Devices
    /// need it only while no other certificate is served. Its key is never given out.
    Ca(authority::Ca),
    /// Make a configuration profile, by which Apple devices use this machine for all their names.
    ///
    /// While the local authority's certificate is served, the profile also has that authority installed.
    Profile(profile::Profile),
    /// Tell for each kind of device how it is made to use this machine, step by step.
    Instructions(ConfigFile),
    /// Order a certificate, whatever the dates of the one in service (needs privilege).
    Renew(orders::Renew),
    /// Rehearse an order at the staging directory of each certificate authority (needs privilege).
    ///
    /// Nothing of it is kept, and no limit of the authorities is touched. The exit code is 0 if an
    /// order would succeed everywhere.
    Check(orders::Check),
}

/// Does what is asked for.
pub(super) fn run(certs: &Certs) -> Result<u8, Failure> {
    match &certs.what {
        None => show::run(&certs.look),
        Some(What::Ca(ca)) => authority::run(ca),
        Some(What::Profile(profile)) => profile::run(profile),
        Some(What::Instructions(file)) => instructions::run(file),
        Some(What::Renew(renew)) => orders::renew(renew),
        Some(What::Check(check)) => orders::check(check),
    }
}
