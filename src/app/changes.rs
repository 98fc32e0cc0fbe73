//! What is told of conditions that come and go: every change passes here, once.

use tracing::{error, info, warn};

use crate::health::{Change, Severity};

/// Takes the changes of conditions, in the order in which they happen.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// How often a condition came to be the case, or became worse.
    pub(super) raised: u64,
    /// How often one ceased to be the case.
    pub(super) cleared: u64,
}

impl Changes {
    /// Tells whoever reads the log, and counts.
    pub(super) fn take(&mut self, change: &Change) {
        match change {
            Change::Raised(condition) => {
                self.raised += 1;
                match condition.severity {
                    Severity::Notice => info!(condition = condition.name, "{}", condition.text),
                    Severity::Warning => warn!(condition = condition.name, "{}", condition.text),
                    Severity::Error => error!(condition = condition.name, "{}", condition.text),
                }
            }
            Change::Cleared(condition) => {
                self.cleared += 1;
                info!(condition = condition.name, "cleared");
            }
        }
    }
}
