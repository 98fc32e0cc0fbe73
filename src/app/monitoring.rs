//! What monitoring is shown: figures and health.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::boot::Boot;
use super::control::{Desk, word};
use super::services::{Services, asked};
use super::steward::{Steward, UNUSABLE};
use crate::admin::{Health, MonitoringListen, report};
use crate::dns::ForwardEvent;
use crate::dns::listen::STEPS;
use crate::host::state;
use crate::metered::Purpose;
use crate::net::KeepOpen;
use crate::node::ports::Clock;
use crate::upstream::Outcome;

impl Services {
    /// Opens the listener for monitoring, where `boot` says, on what `desk` answers.
    pub(super) fn show(&self, desk: &Arc<Desk>, boot: &Boot) {
        let runtime = Handle::current();
        let listen = MonitoringListen::new(Arc::clone(desk) as _, runtime.clone());
        let wanted = &boot.in_force.load().metrics.listen;
        self.monitoring.get_or_init(|| KeepOpen::start(listen, wanted, &runtime));
    }

    /// Shows it at these addresses and no others.
    pub(super) fn show_at(&self, addresses: &[SocketAddr]) {
        if let Some(monitoring) = self.monitoring.get() {
            monitoring.set(addresses);
        }
    }

    fn answers(&self) -> Vec<report::Answers> {
        let counted = self.answerer.answers().map(|(origin, rcode, count)| report::Answers {
            origin: origin.name().to_owned(),
            rcode: rcode.to_owned(),
            count,
        });
        counted.collect()
    }

    fn spans(&self) -> Vec<report::Spans> {
        let bounds = || STEPS.iter().map(|most| Some(most.as_secs_f64())).chain([None]);
        let spans = self.listeners.latencies().read().map(|(origin, spans)| report::Spans {
            origin: origin.name().to_owned(),
            steps: bounds()
                .zip(spans.steps)
                .map(|(most, count)| report::Step { most, count })
                .collect(),
            sum: spans.sum.as_secs_f64(),
        });
        spans.collect()
    }
}

impl Steward {
    /// Counts what the forwarder reports of requests to an operator.
    pub(super) fn count_outcome(&mut self, event: &ForwardEvent) {
        let ForwardEvent::Outcome { endpoint, outcome } = event else { return };
        let Some(seen) = self.node.pool().health().nth(endpoint.0) else { return };
        let requests = self.requests.entry(seen.endpoint.operator.clone()).or_default();
        match outcome {
            Outcome::Answered { latencies } => requests.answered += latencies.len() as u64,
            Outcome::Failed { .. } => requests.failed += 1,
            Outcome::Outdone => requests.outdone += 1,
            // How they end is told later.
            Outcome::Overtaken => {}
        }
    }

    /// Everything that monitoring is shown.
    pub(super) fn figures(&self) -> report::Figures {
        report::Figures {
            status: self.status(),
            sources: self.sources(),
            upstreams: self.upstreams(),
            certs: self.certs(),
            cache: Some(self.services.cached()),
            totals: self.totals(),
        }
    }

    fn totals(&self) -> report::Totals {
        let (state_files, state_octets) = state::written();
        let [sent, received] = self.uplink.meter().directions();
        let octets = sent.into_iter().zip(received).map(|(sent, received)| [sent, received]);
        let purposes = Purpose::ALL.iter().map(|purpose| purpose.name().to_owned());
        let now = self.boot.now();
        report::Totals {
            started: (now.utc - now.mono.saturating_duration_since(self.boot.started)).to_string(),
            connections: self.services.listeners.connections(),
            steps: self.steps,
            requests: self.requests.clone(),
            raised: self.changes.raised,
            cleared: self.changes.cleared,
            uplink: purposes.zip(octets).collect(),
            state_files,
            state_octets,
            configuration_loaded: !self.node.health().holds(UNUSABLE),
            queries: self
                .services
                .queries()
                .map(|(protocol, queries)| (protocol.name().to_owned(), queries.read()))
                .into(),
            answers: self.services.answers(),
            spans: self.services.spans(),
            orders: self.certs.ended(),
        }
    }

    /// How a part is, and the conditions about it.
    pub(super) fn health(&self, kind: Health) -> report::HealthReport {
        let trust = self.node.trust().trust(self.boot.clock.mono());
        let (healthy, reason) = match kind {
            Health::Live => (true, "the daemon answers".to_owned()),
            Health::Clock => {
                let ntp = self.node.trust().ntp_status(self.boot.now());
                (ntp.synchronized, format!("the clock is {}", word(&trust.level)))
            }
            Health::Dns => {
                let open = self.services.listeners.places();
                let serving = [&open.dns, &open.dot, &open.doh, &open.doq];
                let serving = serving.iter().any(|addresses| !addresses.is_empty());
                let up = asked(&self.config).is_empty() || !self.node.pool().all_down();
                match (serving, up) {
                    (false, _) => (false, "no DNS socket is open".to_owned()),
                    (true, false) => (
                        false,
                        "no upstream answers; local names and stale answers are served".to_owned(),
                    ),
                    (true, true) => (true, "questions are answered".to_owned()),
                }
            }
            Health::Cert => match self.certificate() {
                None => (false, "there is no certificate".to_owned()),
                Some(cert) => {
                    // By a clock that is not verified no date is judged.
                    let (dates, unjudged) = if trust.verified {
                        (cert.valid, "")
                    } else {
                        (true, ", which is not judged: the clock is not verified")
                    };
                    let from = &cert.source;
                    let (begin, end) = (&cert.not_before, &cert.not_after);
                    (
                        dates && (from != report::FALLBACK || !self.wants_better()),
                        format!("from {from}, valid {begin} to {end}{unjudged}"),
                    )
                }
            },
        };
        let conditions = self.conditions(|name| Health::of_condition(name) == kind);
        report::HealthReport { healthy, reason, conditions }
    }
}
