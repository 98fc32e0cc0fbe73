//! What the control socket is told of certificates, and what a person may have done about them.

use std::net::{IpAddr, SocketAddr};

use super::control::json;
use super::identity::own_addresses;
use super::steward::Steward;
use crate::admin::report::{self, FALLBACK};
use crate::admin::{Reason, Response};
use crate::cert::{CaId, Hold, Policy};
use crate::clock::magnitude;
use crate::tls::{FallbackCa, Origin, held, issuer};

impl Steward {
    /// The certificate that clients are shown, and what lies ahead of it.
    pub(super) fn certs(&self) -> Option<report::Certs> {
        let now = self.boot.now();
        let served = self.services.identity.store().served()?;
        let shown = held(&served.chain, now.utc, None)?;
        let source = self.source();
        let files = self.config.tls.files.as_ref();
        let lifecycle = &self.certs.lifecycle;
        let next = lifecycle.next(now);
        let verified = self.node.trust().trust(now.mono).verified;
        let left = magnitude(shown.not_after.since(now.utc).max(0));
        let survives = (verified && source != FALLBACK).then_some(left);
        let (renewal, why) = match (source, &next) {
            (FALLBACK, _) => {
                (None, "here, at each start and whenever the time becomes known".to_owned())
            }
            (_, Some(next)) => (Some(next.due), next.why.to_string()),
            _ => (
                Some(Policy::renewed_by_others(&shown)),
                "by custom; whoever brings the files renews it".to_owned(),
            ),
        };
        Some(report::Certs {
            utc: now.utc.to_string(),
            verified,
            source: source.to_owned(),
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
            why,
            orders: self.orders(),
            conditions: self.conditions(|name| name.starts_with("certificate-")),
        })
    }

    /// Where the orders stand; `None` if none are made.
    fn orders(&self) -> Option<report::Orders> {
        let now = self.boot.now();
        let lifecycle = &self.certs.lifecycle;
        let next = lifecycle.next(now)?;
        let endurance = lifecycle.endurance(now);
        let (failures, last_failure) = lifecycle.failures();
        Some(report::Orders {
            serial: lifecycle.in_service().map(|held| held.serial.clone()),
            survives: endurance.map(|endurance| endurance.at_present.as_secs()),
            survives_at_worst: endurance.map(|endurance| endurance.at_worst.as_secs()),
            due: next.due.to_string(),
            why: next.why.to_string(),
            hold: next.hold.map(|hold| self.hold_in_words(&hold)),
            rehearsal: next.rehearsal.map(|at| at.to_string()),
            running: lifecycle.running().map(|order| report::RunningOrder {
                authority: self.called(order.ca),
                staging: order.staging,
            }),
            failures,
            last_failure: last_failure.map(str::to_owned),
            authorities: lifecycle
                .rehearsals()
                .map(|rehearsed| report::Rehearsal {
                    authority: rehearsed.ca.to_owned(),
                    staging: rehearsed.staging,
                    running: rehearsed.running,
                    passed: rehearsed.passed,
                    failure: rehearsed.failure.map(ToString::to_string),
                    failures: rehearsed.failures,
                })
                .collect(),
        })
    }

    /// Where that which is served comes from: `acme`, `files` or [`FALLBACK`].
    pub(super) fn source(&self) -> &'static str {
        self.services.identity.store().origin().unwrap_or(Origin::Fallback).word()
    }

    /// Whether a certificate other than the local authority's is configured.
    pub(super) fn wants_better(&self) -> bool {
        self.config.tls.files.is_some() || self.config.acme.is_some()
    }

    /// What devices have to be told, and whom they have to trust.
    pub(super) fn devices(&self) -> report::Devices {
        let identity = &self.services.identity;
        let served = identity.store().served();
        let name = &self.config.tls.name;
        let own = own_addresses();
        let (dot, doh) = (&self.config.dot, &self.config.doh);
        let access = |listen: &[SocketAddr], path: Option<&String>| {
            let port = listen.first()?.port();
            Some(report::Access { addresses: reachable(listen, &own), port, path: path.cloned() })
        };
        report::Devices {
            name: name.to_string(),
            source: served.as_ref().map(|_| self.source().to_owned()),
            named: served.is_some_and(|served| served.carries(name)),
            dot: access(&dot.listen, None),
            doh: access(&doh.listen, Some(&doh.path)),
            authority: identity.authority().map(|authority| describe(&authority)),
        }
    }

    /// Orders a certificate because a person asked for it.
    pub(super) fn renew(&mut self) -> Response {
        match self.certs.lifecycle.handle_renew(self.boot.now()) {
            Ok(()) => json(&self.orders()),
            Err(hold) => self.held_back(&hold, "nothing is ordered"),
        }
    }

    /// Rehearses orders because a person asked for it.
    pub(super) fn rehearse(&mut self) -> Response {
        match self.certs.lifecycle.handle_rehearse(self.boot.now()) {
            Ok(()) => json(&self.orders()),
            Err(Hold::NoCa) if !self.certs.lifecycle.policy().cas.is_empty() => Response::refused(
                Reason::Failed,
                "nothing is rehearsed: no certificate authority in the configuration has a staging \
                 directory; `firstlight certs renew` makes a real order",
            ),
            Err(hold) => self.held_back(&hold, "nothing is rehearsed"),
        }
    }

    fn held_back(&self, hold: &Hold, what: &str) -> Response {
        Response::refused(Reason::Failed, format!("{what}: {}", self.hold_in_words(hold)))
    }

    /// What keeps an order from being made, with the authority's name.
    fn hold_in_words(&self, hold: &Hold) -> String {
        match hold {
            Hold::Limited { ca, .. } | Hold::Retry { ca, .. } => {
                format!("{} ({})", hold, self.called(*ca))
            }
            Hold::Unverified => format!("{hold}; see `firstlight sources`"),
            Hold::NoCa => format!("{hold}; see [acme]"),
            Hold::Contradicted | Hold::Guard { .. } | Hold::Running => hold.to_string(),
        }
    }

    fn called(&self, CaId(place): CaId) -> String {
        let ca = self.certs.lifecycle.policy().cas.get(place);
        ca.map(|ca| ca.name.clone()).unwrap_or_default()
    }
}

/// Where on the local network a service is reached that listens on `listen`, at the port of the
/// first; `own`: this machine's addresses. Those of this machine alone only if there are no others.
fn reachable(listen: &[SocketAddr], own: &[IpAddr]) -> Vec<IpAddr> {
    let at_port =
        listen.iter().filter(|at| Some(at.port()) == listen.first().map(SocketAddr::port));
    let mut found: Vec<IpAddr> = at_port
        .flat_map(|at| match at.ip() {
            wildcard if wildcard.is_unspecified() => {
                let family = own.iter().filter(|own| own.is_ipv4() == wildcard.is_ipv4());
                family.copied().collect()
            }
            ip => vec![ip],
        })
        .filter(|ip| !is_link_local(ip))
        .collect();
    if found.iter().any(|ip| !ip.is_loopback()) {
        found.retain(|ip| !ip.is_loopback());
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Such an address means nothing without the interface.
const fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn describe(authority: &FallbackCa) -> report::Authority {
    let octets = authority.fingerprint().map(|octet| format!("{octet:02X}"));
    let networks = FallbackCa::networks().iter();
    report::Authority {
        certificate: authority.certificate_pem().to_owned(),
        fingerprint: octets.join(":"),
        names: authority.names().iter().map(ToString::to_string).collect(),
        networks: networks.map(|(address, prefix)| format!("{address}/{prefix}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_given_the_addresses_that_they_can_reach() {
        let own: Vec<IpAddr> =
            ["127.0.0.1", "192.168.1.2", "169.254.3.4", "::1", "fe80::1", "fd00::2"]
                .map(|ip| ip.parse().unwrap())
                .into();
        let of = |listen: &[&str]| {
            let listen: Vec<_> = listen.iter().map(|at| at.parse().unwrap()).collect();
            let found = reachable(&listen, &own).into_iter().map(|ip| ip.to_string());
            found.collect::<Vec<_>>().join(" ")
        };

        assert_eq!(of(&["0.0.0.0:853", "[::]:853"]), "192.168.1.2 fd00::2");
        assert_eq!(of(&["0.0.0.0:853", "192.168.1.2:853"]), "192.168.1.2");
        assert_eq!(of(&["127.0.0.1:853", "10.0.0.1:853", "10.0.0.2:8853"]), "10.0.0.1");
        assert_eq!(of(&["127.0.0.1:853"]), "127.0.0.1");
        assert_eq!(of(&[]), "");
    }
}
