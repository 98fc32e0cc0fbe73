//! A configuration comes into force while the daemon runs.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::nts::NtsSources;
use super::pools::Pools;
use super::steward::{Steward, UNUSABLE, sources};
use crate::admin::{Reason, Response};
use crate::config::Config;
use crate::health::Severity;
use crate::host::config_file;
use crate::host::notify;
use crate::node::Input;
use crate::witness;

impl Steward {
    /// Reads the configuration again. A bad file changes nothing.
    pub(super) fn reload(&mut self) -> Response {
        notify::reloading();
        let outcome = config_file::load(self.file.as_deref());
        let parsed = match outcome {
            Ok(parsed) => parsed,
            Err(refusal) => {
                let text = format!(
                    "the configuration cannot be used; the one before stays in force; mend it and \
                     reload: {refusal}"
                );
                // As a condition it is told once; whoever tries again is to hear of it again.
                if self.node.health().holds(UNUSABLE) {
                    error!("{text}");
                }
                let held = Some((Severity::Error, text));
                self.feed(Input::Condition { name: UNUSABLE, held });
                notify::ready();
                return Response::refused(Reason::Failed, refusal.to_string());
            }
        };
        if self.read.state != parsed.config.state
            || self.read.clock.mode != parsed.config.clock.mode
        {
            warn!("state.directory and clock.mode take effect at the next start");
        }
        self.apply(parsed.config);
        let (path, text) = (parsed.warnings.file(), parsed.warnings.text());
        self.boot.keep_config(path.to_owned(), text.to_owned());
        self.feed(Input::Condition { name: UNUSABLE, held: None });
        notify::ready();
        info!("the configuration is read again");
        Response::Ok(serde_json::json!({ "warnings": parsed.warnings.to_string() }))
    }

    /// Puts a configuration in force without dropping what still fits.
    pub(super) fn apply(&mut self, read: Config) {
        let config = self.addresses.extend(read.clone());
        let now = self.boot.now();
        let trust = self.node.trust().trust(now.mono);
        let reports = self.services.reconfigure(&self.config, &config, trust);
        if let Some(reports) = reports {
            self.services.pass_on(reports, self.sender.clone());
            self.refused.clear();
            self.report_refused();
            self.node.replace_pool(self.services.pool(read.dns.spread), now);
        } else {
            self.node.set_spread(read.dns.spread, now);
        }
        let asks_others = self.read.clock != read.clock || self.read.upstreams != read.upstreams;
        self.targets = witness::targets(&read.clock.witnesses, &read.upstreams);
        if asks_others {
            let trust = self.boot.succeed(self.node.trust(), &read);
            self.source_failures = vec![None; sources(&read)];
            self.pools = Pools::new(&read, now.mono);
            self.nts = NtsSources::new(&read, &self.boot.nts_sessions(), &self.nts);
            self.witness_failures = vec![None; self.targets.len() + self.nts.len()];
            self.filter.reset();
            // Its generations begin anew: whatever it publishes first is a change.
            self.trust = None;
            self.asked += 1;
            self.node.replace_trust(trust, now);
        }
        let before = std::mem::replace(&mut self.config, config);
        self.reconfigure_certs(&before);
        if asks_others {
            self.listen_to_refclocks();
            self.read_leap_file();
        }
        self.self_probe.soon(now.mono);
        self.boot.in_force.store(Arc::new(read.clone()));
        self.read = read;
    }
}
