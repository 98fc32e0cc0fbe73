//! Where the two boxes of a pair get in each other's way.

use std::collections::BTreeSet;

use super::Machine;
use crate::config::{Acme, Parsed};

impl Machine {
    /// Compares with the configuration of the other box (`docs/pair.md`).
    pub(super) fn pair(&mut self, other: &Parsed) {
        let file = other.warnings.file().display().to_string();
        let pair = self.parsed.config.acme.clone().zip(other.config.acme.as_ref());
        let Some((ours, theirs)) = pair else { return };
        self.names_differ(&ours, theirs, &file);
        self.clients_may_change_over(&ours, theirs, other, &file);
        if ours.percent == theirs.percent {
            self.warn(
                "acme.life_percent",
                format!("{file} renews after {} % of the life, too: both at once", ours.percent),
                "write life_percent = 55 in one of the two: what keeps the one from renewing is \
                 then known before the other has to",
            );
        }
    }

    /// CAs bound how often they issue for exactly the same names (Let's Encrypt: 5 in a week).
    fn names_differ(&mut self, ours: &Acme, theirs: &Acme, file: &str) {
        let set = |acme: &Acme| acme.names.iter().cloned().collect::<BTreeSet<_>>();
        let asks = |directory: &str| theirs.cas.iter().any(|ca| ca.directory == directory);
        let both = ours.cas.iter().find(|ca| asks(&ca.directory));
        if let Some(ca) = both.filter(|_| set(ours) == set(theirs)) {
            self.warn(
                "acme.names",
                format!(
                    "{file} orders for exactly these names of `{}`, too: its limit for one set of \
                     names (Let's Encrypt: 5 in a week) is shared, and one box can lock out the other",
                    ca.name
                ),
                "give each box a name of its own beside the shared one",
            );
        }
    }

    /// Clients of one box that the other stands in for check the name that they know.
    fn clients_may_change_over(&mut self, ours: &Acme, theirs: &Acme, other: &Parsed, file: &str) {
        let name = self.parsed.config.tls.name.to_string();
        let other_name = other.config.tls.name.to_string();
        let message = match (theirs.covers(&name), ours.covers(&other_name)) {
            (true, true) => return,
            (false, true) => format!("the certificate of {file} would not have `{name}`"),
            (true, false) => format!("this certificate would not have `{other_name}` of {file}"),
            (false, false) => format!(
                "neither certificate would have the other's name, `{name}` here and \
                 `{other_name}` in {file}"
            ),
        };
        self.warn(
            "acme.names",
            format!("{message}: clients that one box sends to the other refuse it"),
            "let both share one tls.name, and each have it in its certificate",
        );
    }
}
