//! Watches over the certificate from the files, and tells people when nobody renews it.

use std::sync::Arc;

use rustls::sign::CertifiedKey;

use super::steward::Steward;
use crate::cert::{Alarm, CONDITIONS, Held, Lifecycle, Policy};
use crate::clock::Now;
use crate::config::{Config, Tls};
use crate::health::Severity;
use crate::node::Input;
use crate::tls::{PairError, held};

/// The condition of files that cannot be served.
pub(super) const UNFIT: &str = "certificate-files";

/// What is known of the certificate from the files.
#[derive(Debug)]
pub(super) struct Certs {
    pub(super) lifecycle: Lifecycle,
    /// The pair that the machine was told of.
    seen: Option<Arc<CertifiedKey>>,
    told: Vec<Alarm>,
}

impl Certs {
    pub(super) fn new(config: &Config, now: Now) -> Self {
        let lifecycle = Lifecycle::new(policy(&config.tls), Vec::new(), None, now);
        Self { lifecycle, seen: None, told: Vec::new() }
    }
}

/// Certificates come from elsewhere.
fn policy(tls: &Tls) -> Policy {
    Policy { names: vec![tls.name.to_string()], ..Policy::default() }
}

impl Steward {
    /// Looks which certificate is served, and tells people what is wrong with it.
    pub(super) fn look_at_certificate(&mut self) {
        let now = self.boot.now();
        let store = self.services.identity.store();
        let policy = policy(&self.config.tls);
        if self.certs.lifecycle.policy() != &policy {
            self.certs.lifecycle.handle_policy(policy, now);
        }
        let own = store.own();
        if own.as_ref().map(Arc::as_ptr) != self.certs.seen.as_ref().map(Arc::as_ptr) {
            let held: Option<Held> = own.as_ref().and_then(|key| held(&key.cert, now.utc, None));
            self.certs.lifecycle.handle_held(held.into_iter().collect(), now);
            self.certs.seen = own;
        }
        let trust = self.node.trust().trust(now.mono);
        self.certs.lifecycle.handle_trust(trust, now);
        while self.certs.lifecycle.poll_event().is_some() {
            // It asks for no order, and the store serves what it finds.
        }

        let mut alarms = self.certs.lifecycle.alarms(now);
        if let (Some(error), Some(files)) = (store.trouble(), &self.config.tls.files) {
            let named = store.served().is_some_and(|served| served.carries(&self.config.tls.name));
            let (severity, served) = match (&self.certs.seen, &*error) {
                (Some(_), PairError::Name { .. }) if !named => {
                    (Severity::Warning, "it is served for want of a better one")
                }
                (Some(_), _) => (Severity::Warning, "the pair read before is served on"),
                (None, _) => (
                    Severity::Error,
                    "one of the local authority is served, which clients refuse that check names",
                ),
            };
            let text = format!(
                "the certificate {} with the key {} is not as it should be: {error}; {served}",
                files.certificate.display(),
                files.key.display()
            );
            alarms.push(Alarm { name: UNFIT, severity, text });
        }
        if alarms == self.certs.told {
            return;
        }
        for name in CONDITIONS.iter().chain(&[UNFIT]) {
            let found = alarms.iter().find(|alarm| alarm.name == *name);
            let held = found.map(|alarm| (alarm.severity, alarm.text.clone()));
            self.feed(Input::Condition { name, held });
        }
        self.certs.told = alarms;
    }
}
