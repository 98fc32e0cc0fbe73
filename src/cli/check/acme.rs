//! The files and the program that `[acme]` names.

use std::path::Path;

use super::Machine;
use crate::acme::{Hook, secrets};
use crate::config::{Acme, AcmeChallenge};
use crate::tls::Roots;

impl Machine {
    /// What certificates are ordered with, as the daemon reads it.
    pub(super) fn acme(&mut self) {
        let Some(acme) = self.parsed.config.acme.clone() else { return };
        self.bindings(&acme);
        match &acme.challenge {
            AcmeChallenge::AcmeDns { accounts, ca, .. } => {
                self.accounts(&acme, accounts);
                self.further_roots("acme.acme_dns.ca", ca.as_deref());
            }
            AcmeChallenge::Hook { program, limit } => {
                if let Err(error) = Hook::new(program.clone(), *limit).check() {
                    self.warn("acme.hook.program", error.to_string(), NOTHING_ORDERED);
                }
            }
            AcmeChallenge::Update { key, .. } => {
                let path = "acme.update.key_file";
                if let Err(error) = secrets::tsig_key(key) {
                    self.warn(path, error.to_string(), NOTHING_ORDERED);
                }
                self.secret_is_kept(path, key);
            }
            AcmeChallenge::TlsAlpn => {}
        }
    }

    fn bindings(&mut self, acme: &Acme) {
        for (index, ca) in acme.cas.iter().enumerate() {
            if let Some(binding) = &ca.binding {
                let path = format!("acme.ca[{index}].eab_key_file");
                if let Err(error) = secrets::binding(binding) {
                    let remedy = "until it is mended, this CA is not asked";
                    self.warn(&path, error.to_string(), remedy);
                }
                self.secret_is_kept(&path, &binding.key);
            }
            self.further_roots(&format!("acme.ca[{index}].ca"), ca.ca.as_deref());
        }
    }

    fn accounts(&mut self, acme: &Acme, file: &Path) {
        let path = "acme.acme_dns.accounts";
        self.secret_is_kept(path, file);
        let accounts = match secrets::acme_dns_accounts(file) {
            Ok(accounts) => accounts,
            Err(error) => return self.warn(path, error.to_string(), NOTHING_ORDERED),
        };
        let has = |name: &str| accounts.iter().any(|account| account.domain == name);
        let bases = acme.names.iter().map(|name| name.strip_prefix("*.").unwrap_or(name));
        let mut missing: Vec<_> = bases.filter(|name| !has(name)).collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let message =
                format!("{} holds no account for `{}`", file.display(), missing.join("`, `"));
            let remedy = "register one at the acme-dns server, and add it under the name it is for";
            self.warn(path, message, remedy);
        }
    }

    fn further_roots(&mut self, path: &str, file: Option<&Path>) {
        if let Some(Err(error)) = file.map(Roots::with_file) {
            let remedy = "until it is mended, the usual roots count alone";
            self.warn(path, error.to_string(), remedy);
        }
    }

    /// Says so if others can read a secret.
    fn secret_is_kept(&mut self, path: &str, file: &Path) {
        if let Some(exposure) = secrets::exposure(file) {
            self.warn(path, exposure, "whoever has it can act in your name at its server");
        }
    }
}

const NOTHING_ORDERED: &str = "until it is mended, no certificate is ordered";
