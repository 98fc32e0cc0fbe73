//! `[[acme.ca]]`: certificate authorities, and what is known of public ones.

use std::path::PathBuf;

use super::{AcmeBinding, AcmeCa};
use crate::config::tree::{Table, Wrong, suggest};
use crate::config::value;

/// A public CA.
struct Known {
    name: &'static str,
    directory: &'static str,
    staging: Option<&'static str>,
    profile: Option<&'static str>,
    /// Where it gives out bindings, without which it opens no account.
    binding: Option<&'static str>,
    /// Where its terms of service are.
    terms: &'static str,
}

/// The first is asked if no other is given.
const KNOWN: &[Known] = &[
    Known {
        name: "letsencrypt",
        directory: "https://acme-v02.api.letsencrypt.org/directory",
        staging: Some("https://acme-staging-v02.api.letsencrypt.org/directory"),
        profile: Some("tlsserver"),
        binding: None,
        terms: "https://letsencrypt.org/repository/",
    },
    Known {
        name: "zerossl",
        directory: "https://acme.zerossl.com/v2/DV90",
        staging: None,
        profile: None,
        binding: Some("https://zerossl.com/documentation/acme/generate-eab-credentials"),
        terms: "https://zerossl.com/terms/",
    },
    Known {
        name: "google",
        directory: "https://dv.acme-v02.api.pki.goog/directory",
        // Its test directory takes bindings of its own alone.
        staging: None,
        profile: None,
        binding: Some("https://cloud.google.com/certificate-manager/docs/public-ca-tutorial"),
        terms: "https://pki.goog/GTS-SA.pdf",
    },
];

impl Known {
    /// The CA itself, without a binding.
    fn ca(&self) -> AcmeCa {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        AcmeCa {
            name: self.name.to_owned(),
            directory: self.directory.to_owned(),
            staging: owned(self.staging),
            profile: owned(self.profile),
            binding: None,
            ca: None,
        }
    }
}

/// Whether `ca` issues for names of the public DNS alone.
pub(super) fn is_public(ca: &AcmeCa) -> bool {
    KNOWN.iter().any(|known| [Some(known.directory), known.staging].contains(&Some(&ca.directory)))
}

/// Where the terms of service of `cas` are to be read.
pub(super) fn terms(cas: &[AcmeCa]) -> String {
    let at = |ca: &AcmeCa| {
        let known = KNOWN.iter().find(|known| known.directory == ca.directory);
        let named = || format!("`termsOfService` in the directory of `{}`", ca.name);
        known.map_or_else(named, |known| known.terms.to_owned())
    };
    if cas.is_empty() {
        return "`termsOfService` in its directory".to_owned();
    }
    cas.iter().map(at).collect::<Vec<_>>().join(", ")
}

/// Reads each `[[acme.ca]]` of `table`; the first known one stands in where there is none.
pub(super) fn read_cas(
    table: &mut Table<'_, '_>,
    file: impl Copy + Fn(&str) -> Result<PathBuf, Wrong>,
) -> Vec<AcmeCa> {
    let mut names: Vec<String> = Vec::new();
    let cas = table.tables("ca", |table| {
        let ca = read_ca(table, file)?;
        if names.contains(&ca.name) {
            let message = format!("two CAs are called `{}`", ca.name);
            table.error("name", message, "give each a `name` of its own");
        }
        names.push(ca.name.clone());
        Some(ca)
    });
    if table.holds("ca") { cas } else { KNOWN.iter().take(1).map(Known::ca).collect() }
}

fn read_ca(
    table: &mut Table<'_, '_>,
    file: impl Copy + Fn(&str) -> Result<PathBuf, Wrong>,
) -> Option<AcmeCa> {
    let name = table.required_text("name", "name = \"letsencrypt\"", ca_name);
    let directory = table.text("directory", value::https);
    let staging = table.text("staging", value::https);
    let profile = table.text("profile", profile);
    let kid = table.text("eab_kid", account_key_id);
    let key = table.text("eab_key_file", file);
    let ca = table.text("ca", file);
    for (one, other) in [("eab_kid", "eab_key_file"), ("eab_key_file", "eab_kid")] {
        if table.holds(one) && table.lacks(other) {
            let remedy = format!("add `{other} = ..`: the CA gives out both together");
            table.error(one, format!("`{one}` without `{other}`"), &remedy);
        }
    }
    let name = name?;
    // Another directory is another CA, whatever it is called.
    let known = KNOWN.iter().find(|known| {
        known.name == name && directory.as_ref().is_none_or(|given| given == known.directory)
    });
    if known.is_none() && table.lacks("directory") {
        let names: Vec<_> = KNOWN.iter().map(|known| known.name).collect();
        let known =
            format!("add directory = \"https://..\", or write one of: {}", names.join(", "));
        let remedy = suggest(&name, &names, &known);
        table.error("name", format!("the directory of `{name}` is not known"), &remedy);
    }
    if let Some(known) = known
        && let Some(page) = known.binding
        && table.lacks("eab_kid")
        && table.lacks("eab_key_file")
    {
        let message =
            format!("`{name}` opens accounts for customers alone (RFC 8555 section 7.3.4)");
        let remedy = format!("add `eab_kid` and `eab_key_file`, which it gives out at {page}");
        table.error("name", message, &remedy);
    }
    let usual = known.map(Known::ca);
    Some(AcmeCa {
        name,
        // Without one a mistake has been found.
        directory: directory
            .or_else(|| Some(usual.as_ref()?.directory.clone()))
            .unwrap_or_default(),
        staging: staging.or_else(|| usual.as_ref()?.staging.clone()),
        profile: match profile {
            Some(profile) => Some(profile).filter(|profile| !profile.is_empty()),
            None => usual.and_then(|usual| usual.profile),
        },
        binding: kid.zip(key).map(|(kid, key)| AcmeBinding { kid, key }),
        ca,
    })
}

/// What a CA is called in reports and state files.
fn ca_name(text: &str) -> Result<String, Wrong> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !(1..=32).contains(&text.len()) || !text.chars().all(fits) {
        let message = format!("`{text}` is no name of a CA");
        return Err(Wrong::new(message, "write up to 32 letters and digits, like \"letsencrypt\""));
    }
    Ok(text.to_ascii_lowercase())
}

/// A profile of certificates, as the directory lists it; "": the CA chooses.
fn profile(text: &str) -> Result<String, Wrong> {
    if text.len() > 64 || !text.chars().all(|c| c.is_ascii_graphic()) {
        let message = format!("`{text}` is no name of a profile");
        let remedy = "write it as the CA's directory has it, or \"\" to let the CA choose";
        return Err(Wrong::new(message, remedy));
    }
    Ok(text.to_owned())
}

/// The identifier of the key that binds an account.
fn account_key_id(text: &str) -> Result<String, Wrong> {
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err(Wrong::new("this identifies no key", "write it as the CA gives it out"));
    }
    Ok(text.trim().to_owned())
}
