//! What the control socket is told of certificates.

use super::certs::UNFIT;
use super::steward::Steward;
use crate::admin::report;
use crate::cert::{CONDITIONS, Policy};
use crate::node::ports::Clock;
use crate::tls::{held, issuer};

impl Steward {
    /// The certificate that clients are shown, and what lies ahead of it.
    pub(super) fn certs(&self) -> Option<report::Certs> {
        let now = self.boot.now();
        let store = self.services.identity.store();
        let served = store.served()?;
        let shown = held(&served.chain, now.utc, None)?;
        let files = self.config.tls.files.as_ref();
        let from_files = store.own().is_some();
        let lifecycle = &self.certs.lifecycle;
        let survives = lifecycle.remaining(now).filter(|_| from_files);
        let (renewal, why) = if from_files {
            let due = Policy::renewed_by_others(&shown);
            (Some(due), "by custom; whoever brings the files renews it")
        } else {
            (None, "here, at each start and whenever the time becomes known")
        };
        Some(report::Certs {
            utc: now.utc.to_string(),
            verified: self.node.trust().trust(now.mono).verified,
            source: if from_files { "files" } else { "fallback" }.to_owned(),
            certificate: files.map(|files| files.certificate.display().to_string()),
            key: files.map(|files| files.key.display().to_string()),
            name: self.config.tls.name.to_string(),
            names: shown.names,
            issuer: issuer(&served.chain).unwrap_or_default(),
            serial: shown.serial,
            not_before: shown.not_before.to_string(),
            not_after: shown.not_after.to_string(),
            survives: survives.map(|span| span.as_secs()),
            renewal: renewal.map(|at| at.to_string()),
            why: why.to_owned(),
            conditions: self.conditions(|name| CONDITIONS.contains(&name) || name == UNFIT),
        })
    }
}
