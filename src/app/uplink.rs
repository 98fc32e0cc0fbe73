//! Whether the uplink is paid for by the octet, and what goes over it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::steward::Steward;
use crate::admin::report;
use crate::config::Metered;
use crate::health::Severity;
use crate::host::link::{WayOut, ways_out};
use crate::metered::{Ledger, Meter, Octets, Purpose};
use crate::node::Input;

/// What is known of the uplink.
#[derive(Debug)]
pub(super) struct Uplink {
    meter: Arc<Meter>,
    ledger: Ledger,
    /// Why it counts as metered.
    metered: Option<String>,
}

impl Uplink {
    pub(super) fn new(meter: Arc<Meter>, now: Instant) -> Self {
        Self { meter, ledger: Ledger::new(now), metered: None }
    }

    pub(super) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    pub(super) fn report(&self, budget: u64) -> report::Uplink {
        let day = self.ledger.day();
        let named = |octets: Octets| {
            let names = Purpose::ALL.iter().map(|purpose| purpose.name().to_owned());
            names.zip(octets).collect()
        };
        report::Uplink {
            metered: self.metered.clone(),
            day: named(day.all),
            day_metered: named(day.metered),
            budget,
        }
    }
}

impl Steward {
    /// Enters what went over the uplink, and finds out whether it is metered. Each second, and at
    /// every change of the ways to the network.
    pub(super) fn look_at_uplink(&mut self, now: Instant) {
        let settings = &self.config.metered;
        let uplink = &mut self.uplink;
        uplink.ledger.enter(uplink.meter.read(), uplink.metered.is_some(), now);
        let metered = reason(settings, ways_out, Path::exists);
        if metered != uplink.metered {
            if metered.is_none() {
                info!("the uplink is not metered");
            }
            self.services.answerer.set_metered(metered.is_some());
            uplink.metered.clone_from(&metered);
            self.feed(Input::Metered(metered.is_some()));
        }
        let (uplink, settings) = (&self.uplink, &self.config.metered);
        let text = metered.map(|reason| {
            format!(
                "the uplink is metered: {reason}; names, time and certificates that are due go on; \
                 answers are not refreshed ahead, and one upstream at a time is probed"
            )
        });
        let (used, budget) = (uplink.ledger.day().metered_in_all(), settings.budget_bytes);
        let over = (budget > 0 && used > budget).then(|| {
            let parts = uplink.ledger.day().metered;
            let parts = Purpose::ALL.iter().zip(parts).map(|(purpose, octets)| {
                format!("{} {}", purpose.name(), in_kib(octets))
            });
            format!(
                "{} went over metered links within a day, {} are meant to be enough \
                 (metered.budget_bytes): {}; nothing is stopped; see `firstlight status` for who asks",
                in_kib(used),
                in_kib(budget),
                parts.collect::<Vec<_>>().join(", ")
            )
        });
        let condition = |name, severity, text: Option<String>| Input::Condition {
            name,
            held: text.map(|text| (severity, text)),
        };
        self.feed(condition("metered", Severity::Notice, text));
        self.feed(condition("metered-budget", Severity::Warning, over));
    }
}

/// Why the uplink counts as metered, if it does.
fn reason(
    settings: &Metered,
    ways_out: impl FnOnce() -> Vec<WayOut>,
    exists: impl FnOnce(&Path) -> bool,
) -> Option<String> {
    if let Some(file) = settings.flag_file.as_deref()
        && exists(file)
    {
        return Some(format!("{} exists", file.display()));
    }
    if settings.interfaces.is_empty() && settings.gateways.is_empty() {
        return None;
    }
    ways_out().into_iter().find_map(|way| {
        if settings.interfaces.contains(&way.interface) {
            Some(format!("the way out is {}", way.interface))
        } else if settings.gateways.contains(&way.gateway) {
            Some(format!("the way out is {} by {}", way.gateway, way.interface))
        } else {
            None
        }
    })
}

fn in_kib(octets: u64) -> String {
    format!("{} KiB", octets.div_ceil(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_a_router_or_a_file_makes_the_uplink_a_metered_one() {
        let way = |interface: &str, gateway: &str| WayOut {
            interface: interface.to_owned(),
            gateway: gateway.parse().unwrap(),
        };
        let settings = Metered {
            interfaces: vec!["wwan0".to_owned()],
            gateways: vec!["192.0.2.9".parse().unwrap()],
            flag_file: Some("/run/metered".into()),
            budget_bytes: 0,
        };
        let with = |ways: &[WayOut], file: bool| reason(&settings, || ways.to_vec(), |_| file);

        let home = way("eth0", "192.0.2.1");
        assert_eq!(with(std::slice::from_ref(&home), false), None);
        assert_eq!(with(&[], false), None);
        let told = [
            with(&[home.clone(), way("wwan0", "192.0.2.1")], false),
            with(&[way("eth0", "192.0.2.9")], false),
            with(&[home], true),
        ];
        assert_eq!(
            told.map(Option::unwrap_or_default),
            ["the way out is wwan0", "the way out is 192.0.2.9 by eth0", "/run/metered exists"]
        );
    }
}
