//! Answers the control socket from what the steward knows; about the cache, without him.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::unistd::geteuid;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::boot::Boot;
use super::services::Services;
use super::steward::{Message, Steward};
use super::supervise::panics;
use crate::admin::{self, Control, Policy, Reason, Request, Response, report};
use crate::clock::{CertDates, UnixTime, Verdict};
use crate::config::{self, ClockMode, Plaintext, RefClockKind};
use crate::dns::Protocol;
use crate::net::{Families, KeepOpen};
use crate::node::Input;
use crate::node::ports::{Clock, Steer};

/// A socket that cannot be opened is tried again after this pause.
const RETRY: Duration = Duration::from_secs(2);

/// Takes requests to the steward.
#[derive(Debug)]
pub(super) struct Desk {
    services: Arc<Services>,
    steward: mpsc::Sender<Message>,
}

impl Desk {
    pub(super) const fn new(services: Arc<Services>, steward: mpsc::Sender<Message>) -> Self {
        Self { services, steward }
    }

    /// What takes a walk through the whole cache keeps nobody waiting but who asked for it.
    async fn walk(&self, walk: impl FnOnce(&Services) -> Response + Send + 'static) -> Response {
        let services = Arc::clone(&self.services);
        let walked = spawn_blocking(move || walk(&services)).await;
        walked.unwrap_or_else(|fault| Response::refused(Reason::Failed, fault.to_string()))
    }
}

impl Control for Desk {
    fn handle(&self, request: Request, _: bool) -> admin::BoxFuture<'_, Response> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let message = match request {
                Request::Cache { name } => {
                    return self.walk(move |services| services.show_cache(name.as_deref())).await;
                }
                Request::Flush { name, subtree } => {
                    let flush = move |services: &Services| services.flush(name.as_deref(), subtree);
                    return self.walk(flush).await;
                }
                Request::Reload => Message::Reload(Some(reply)),
                Request::Health { .. }
                | Request::Certs
                | Request::Clients
                | Request::Devices
                | Request::Figures
                | Request::Rehearse
                | Request::Renew
                | Request::SetFloor { .. }
                | Request::Sources
                | Request::Tracking
                | Request::Status
                | Request::Upstreams => Message::Ask(request, reply),
            };
            let gone = || {
                Response::refused(
                    Reason::Failed,
                    "the daemon is stopping, or restarting a part of itself",
                )
            };
            if self.steward.send(message).await.is_err() {
                return gone();
            }
            answer.await.unwrap_or_else(|_| gone())
        })
    }
}

/// Serves the control socket for ever.
pub(super) async fn listen(boot: Arc<Boot>, desk: Arc<Desk>) {
    let path = admin::path_to_serve(&boot.config);
    let mut told = false;
    loop {
        match admin::bind(&path).await {
            Ok(listener) => {
                info!(socket = %path.display(), "control");
                let policy = Policy::new(geteuid().as_raw(), boot.config.control.group.clone());
                admin::serve(listener, desk, policy).await;
            }
            Err(error) => {
                if !told {
                    told = true;
                    warn!(%error, "commands cannot reach this daemon; it is tried again");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

impl Steward {
    /// Answers a request.
    pub(super) fn answer(&mut self, request: &Request) -> Response {
        match request {
            Request::Health { kind } => json(&self.health(*kind)),
            Request::Cache { .. } | Request::Flush { .. } | Request::Reload => {
                Response::refused(Reason::Failed, "this is not answered here")
            }
            Request::SetFloor { seconds } => {
                self.feed(Input::SetFloor(UnixTime::from_secs(*seconds)));
                json(&self.status())
            }
            Request::Certs => json(&self.certs()),
            Request::Clients => json(&self.clients()),
            Request::Devices => json(&self.devices()),
            Request::Figures => json(&self.figures()),
            Request::Rehearse => self.rehearse(),
            Request::Renew => self.renew(),
            Request::Sources => json(&self.sources()),
            Request::Tracking => json(&self.time()),
            Request::Status => json(&self.status()),
            Request::Upstreams => json(&self.upstreams()),
        }
    }

    pub(super) fn status(&self) -> report::Status {
        let now = self.boot.now();
        let seconds = |at| now.mono.saturating_duration_since(at).as_secs();
        report::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: seconds(self.boot.started),
            configuration: self.boot.origin.clone(),
            time: self.time(),
            dns: self.dns(),
            listeners: self.services.sockets(),
            certificate: self.certificate(),
            uplink: self.uplink.report(self.config.metered.budget_bytes),
            conditions: self.conditions(|_| true),
        }
    }

    /// The conditions that hold, of those whose names are wanted.
    pub(super) fn conditions(&self, wanted: impl Fn(&str) -> bool) -> Vec<report::Condition> {
        let now = self.boot.clock.mono();
        let conditions = self.node.health().conditions().into_iter();
        let report = conditions.filter(|it| wanted(it.name)).map(|condition| report::Condition {
            name: condition.name.to_owned(),
            severity: word(&condition.severity),
            text: condition.text.clone(),
            seconds: now.saturating_duration_since(condition.since).as_secs(),
        });
        report.collect()
    }

    fn time(&self) -> report::Time {
        let now = self.boot.now();
        let trust = self.node.trust().trust(now.mono);
        let (floor, origin) = self.node.trust().floor(now.mono);
        let ntp = self.node.trust().ntp_status(now);
        let counts = self.services.ntp_server.counts();
        let agreeing =
            self.node.trust().sources(now).filter(|it| it.verdict == Verdict::Truechimer);
        let best = agreeing
            .filter_map(|source| Some((source.interval, source.last?)))
            .min_by_key(|(_, last)| last.error);
        let malformed = [&counts.short, &counts.wrong_mode, &counts.wrong_version];
        report::Time {
            utc: now.utc.to_string(),
            level: word(&trust.level),
            verified: trust.verified,
            mode: match (self.mode(), self.boot.clock.mode()) {
                (ClockMode::Steer, ClockMode::Steer) => "steer",
                (ClockMode::Observe, _) | (ClockMode::Steer, ClockMode::Observe) => "observe",
            }
            .to_owned(),
            steering_refused: self.boot.clock.refusal().map(|refusal| refusal.to_string()),
            floor: report::Origin { time: floor.to_string(), origin: origin.to_string() },
            guess: report::Origin {
                time: self.boot.guess.time.to_string(),
                origin: self.boot.guess.origin.clone(),
            },
            certificate_dates: match trust.dates {
                CertDates::RuleR { .. } => "rule-r",
                CertDates::Strict => "strict",
                CertDates::StrictElseRuleR { .. } => "strict-else-rule-r",
            }
            .to_owned(),
            generation: trust.generation,
            ntp: report::Ntp {
                synchronized: ntp.synchronized,
                stratum: if ntp.synchronized { ntp.stratum } else { 16 },
                reference_id: if ntp.synchronized {
                    reference_id(ntp.reference_id, ntp.stratum)
                } else {
                    String::new()
                },
                leap: ntp.leap,
                reference_time: ntp.reference_time.to_string(),
                last_offset: best.map(|(_, last)| seconds(last.offset)),
                interval: best.map(|(interval, _)| interval.as_secs_f64()),
                root_delay: ntp.root_delay.as_secs_f64(),
                root_dispersion: ntp.root_dispersion_at(now.mono).as_secs_f64(),
                answered: counts.answered.load(Ordering::Relaxed),
                denied: counts.denied.load(Ordering::Relaxed),
                malformed: malformed.iter().map(|count| count.load(Ordering::Relaxed)).sum(),
                counters: self.services.ntp_counts().collect(),
            },
            frequency_ppm: self.boot.clock.frequency(),
            engine_panics: self.filter.panics(),
            task_panics: panics(),
        }
    }

    fn dns(&self) -> report::Dns {
        let counts = serde_json::to_value(self.services.answerer.counts()).unwrap_or_default();
        let mut counters: BTreeMap<String, u64> =
            serde_json::from_value(counts).unwrap_or_default();
        counters.extend(self.services.listener_counts());
        counters.extend(self.services.recursion.counts());
        report::Dns {
            plaintext: match self.config.dns.plaintext {
                Plaintext::LocalOnly => "local-only",
                Plaintext::Refuse => "refuse",
                Plaintext::Serve => "serve",
            }
            .to_owned(),
            local_names: self.config.names.len(),
            counters,
            snapshot: self.services.snapshots.report(),
            plaintext_exceptions: [self.services.recursion.plaintext(), self.certs.plaintext()]
                .into_iter()
                .flatten()
                .collect(),
        }
    }

    pub(super) fn certificate(&self) -> Option<report::Certificate> {
        let served = self.services.identity.store().served()?;
        let validity = served.validity?;
        let utc = self.boot.clock.utc();
        Some(report::Certificate {
            source: self.source().to_owned(),
            not_before: validity.not_before.to_string(),
            not_after: validity.not_after.to_string(),
            valid: validity.not_before <= utc && utc <= validity.not_after,
        })
    }

    fn clients(&self) -> Vec<report::Client> {
        let now = self.boot.clock.mono();
        let clients = self.services.ntp_server.clients().into_iter();
        let report = clients.map(|client| report::Client {
            address: client.address.to_string(),
            asked: client.asked,
            dropped: client.dropped,
            last: now.saturating_duration_since(client.last).as_secs_f64(),
            interval: client.interval.map(|interval| interval.as_secs_f64()),
            how: word(&client.how),
        });
        report.collect()
    }

    pub(super) fn sources(&self) -> report::Sources {
        let now = self.boot.now();
        let members = self.pools.members().filter_map(|(number, address)| {
            let pool = self.config.clock.pools.get(number)?;
            Some(member(pool, address))
        });
        let configured = configured(&self.config.clock).into_iter().chain(members);
        let reports = self.node.trust().sources(now);
        let sources = configured.zip(reports).zip(&self.source_failures);
        let testimonies = self.node.trust().testimonies();
        let targets = self
            .targets
            .iter()
            .map(|target| (target.name.clone(), target.address, target.operator.clone()));
        let protected = self.config.clock.sources.iter().filter(|source| source.nts.is_some());
        let protected = protected.map(|source| {
            let name = source.name.as_ref().map_or_else(String::new, ToString::to_string);
            (name, source.address, source.operator.clone())
        });
        let witnesses = targets.chain(protected).zip(testimonies).zip(&self.witness_failures);
        report::Sources {
            sources: sources
                .enumerate()
                .filter(|(_, ((_, seen), _))| seen.present)
                .map(|(index, ((source, seen), failure))| report::Source {
                    nts_cookies: self.nts.get(index).map(|source| source.cookies()),
                    verdict: word(&seen.verdict),
                    stratum: seen.last.map_or(0, |last| last.stratum),
                    poll: seen.interval.as_secs_f64(),
                    reach: seen.reach,
                    age: seen.last.map(|last| last.age.as_secs_f64()),
                    offset: seen.last.map(|last| seconds(last.offset)),
                    error: seen.last.map(|last| last.error.as_secs_f64()),
                    failure: failure.clone(),
                    ..source
                })
                .collect(),
            witnesses: witnesses
                .map(|(((name, address, operator), said), failure)| {
                    let age = said.map(|said| now.mono.saturating_duration_since(said.at));
                    report::Witness {
                        name,
                        address: address.to_string(),
                        operator,
                        age: age.map(|age| age.as_secs_f64()),
                        offset: said
                            .zip(age)
                            .map(|(said, age)| seconds((said.utc + age).since(now.utc))),
                        counts: said.is_some_and(|said| said.passes_rule_r && said.valid_as_stated),
                        failure: failure.clone(),
                    }
                })
                .collect(),
        }
    }

    pub(super) fn upstreams(&self) -> Vec<report::Upstream> {
        let millis = |span: Duration| span.as_secs_f64() * 1e3;
        let health = self.node.pool().health();
        health
            .map(|seen| report::Upstream {
                name: seen.endpoint.name.clone(),
                operator: seen.endpoint.operator.clone(),
                address: seen.endpoint.address.to_string(),
                state: format!("{:?}", seen.state).to_lowercase(),
                place: seen.place + 1,
                reason: seen.reason.word().to_owned(),
                share: f64::from(seen.share) / 10.0,
                latency_ms: seen.latency.map(millis),
                p95_ms: seen.p95.map(millis),
                hedge_after_ms: millis(seen.hedge_after),
                loss: f64::from(seen.loss) / 10.0,
                failures: seen.failures,
                relaxed_only: seen.relaxed_only,
            })
            .collect()
    }
}

impl Services {
    /// The addresses that cannot be bound, with reason and remedy.
    pub(super) fn refused(&self) -> Vec<String> {
        let refused = self
            .listeners
            .refused()
            .into_iter()
            .chain(self.ntp.refused())
            .chain(self.nts.refused())
            .chain(self.monitoring.get().map(KeepOpen::refused).unwrap_or_default());
        refused.map(|refused| refused.to_string()).collect()
    }

    /// What the time service and its key exchange met, by name.
    fn ntp_counts(&self) -> impl Iterator<Item = (String, u64)> {
        let (met, keys) = (self.ntp_server.counts(), self.nts.listen().0.counts());
        [
            ("authenticated", &met.authenticated),
            ("interleaved", &met.interleaved),
            ("kissed", &met.kissed),
            ("limited", &met.limited),
            ("nts", &met.nts),
            ("nts_exchanges_failed", &keys.failed),
            ("nts_exchanges_refused", &keys.refused),
            ("nts_keys_exchanged", &keys.exchanged),
            ("nts_naks", &met.nts_naks),
            ("unauthenticated", &met.unauthenticated),
            ("unsynchronized", &met.unsynchronized),
        ]
        .map(|(name, count)| (name.to_owned(), count.load(Ordering::Relaxed)))
        .into_iter()
    }

    /// What the listeners met, by name.
    fn listener_counts(&self) -> impl Iterator<Item = (String, u64)> {
        let met = self.listeners.counters();
        let udp = self.listeners.udp_tally();
        let queries = self.queries().map(|(protocol, queries)| {
            let name = match protocol {
                Protocol::Udp => "udp_received",
                Protocol::Tcp => "queries_tcp",
                Protocol::Dot => "queries_dot",
                Protocol::Doh => "queries_doh",
                Protocol::Doq => "queries_doq",
            };
            (name.to_owned(), queries.sum())
        });
        [
            ("accept_errors", &met.accept_errors),
            ("connections_accepted", &met.connections),
            ("connections_cut", &met.cut),
            ("connections_displaced", &met.displaced),
            ("connections_refused", &met.refused),
            ("handshakes_failed", &met.handshake_failures),
            ("panics", &met.panics),
            ("queries_dropped", &met.dropped),
            ("queries_late", &met.late),
            ("queries_shed", &met.shed),
            ("queries_shed_stale", &met.shed_stale),
            ("retries_demanded", &met.retries),
            ("udp_panics", &udp.panics),
            ("udp_sends_failed", &udp.send_failed),
            ("udp_sent", &udp.sent),
        ]
        .map(|(name, count)| (name.to_owned(), count.load(Ordering::Relaxed)))
        .into_iter()
        .chain(queries)
    }

    /// Questions by the way they came.
    pub(super) fn queries(&self) -> [(Protocol, &Families); 5] {
        let met = self.listeners.counters();
        [
            (Protocol::Udp, &self.listeners.udp_tally().received),
            (Protocol::Tcp, &met.tcp),
            (Protocol::Dot, &met.dot),
            (Protocol::Doh, &met.doh),
            (Protocol::Doq, &met.doq),
        ]
    }

    fn sockets(&self) -> report::Listeners {
        let places = self.listeners.places();
        let (ntp, nts) = (self.ntp.open(), self.nts.open());
        let metrics = self.monitoring.get().map(KeepOpen::open).unwrap_or_default();
        let named = |service: &'static str, addresses: &[SocketAddr]| {
            addresses.iter().map(|address| format!("{service} {address}")).collect::<Vec<_>>()
        };
        report::Listeners {
            open: [
                named("dns", &places.dns),
                named("dot", &places.dot),
                named("doh", &places.doh),
                named("doq", &places.doq),
                named("ntp", &ntp),
                named("nts", &nts),
                named("metrics", &metrics),
            ]
            .concat(),
            refused: self.refused(),
        }
    }
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> Response {
    match serde_json::to_value(value) {
        Ok(value) => Response::Ok(value),
        Err(error) => Response::refused(Reason::Failed, error.to_string()),
    }
}

/// The word that stands for a value in JSON.
pub(super) fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        Ok(_) | Err(_) => String::new(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown to people")]
fn seconds(nanos: crate::clock::Nanos) -> f64 {
    nanos as f64 / 1e9
}

/// What is configured of the sources, reference clocks last, as a report on them begins.
fn configured(clock: &config::Clock) -> Vec<report::Source> {
    let begun = begun();
    let servers = clock.sources.iter().map(|source| report::Source {
        address: source.address.to_string(),
        operator: source.operator.clone(),
        prefer: source.prefer,
        trust: source.trust,
        noselect: source.noselect,
        key: source.key,
        ..begun.clone()
    });
    let refclocks = clock.refclocks.iter().map(|refclock| report::Source {
        address: refclock.name.clone(),
        kind: match refclock.kind {
            RefClockKind::Nmea => "nmea",
            RefClockKind::Pps => "pps",
            RefClockKind::Sock => "sock",
        }
        .to_owned(),
        path: Some(refclock.path.display().to_string()),
        operator: refclock.operator.clone(),
        prefer: refclock.prefer,
        trust: refclock.trust,
        ..begun.clone()
    });
    servers.chain(refclocks).collect()
}

/// One of a pool, as a report on it begins.
fn member(pool: &config::Pool, address: Option<SocketAddr>) -> report::Source {
    report::Source {
        address: address.map_or_else(String::new, |address| address.to_string()),
        pool: Some(pool.name.to_string()),
        operator: pool.operator.clone(),
        noselect: pool.noselect,
        ..begun()
    }
}

/// A server of whom nothing is known.
fn begun() -> report::Source {
    report::Source {
        address: String::new(),
        kind: "server".to_owned(),
        path: None,
        pool: None,
        operator: String::new(),
        verdict: String::new(),
        prefer: false,
        trust: false,
        noselect: false,
        key: None,
        nts_cookies: None,
        stratum: 0,
        poll: 0.0,
        reach: 0,
        age: None,
        offset: None,
        error: None,
        failure: None,
    }
}

/// Four characters at stratum 1, an IPv4 address or what stands for another one above.
fn reference_id(id: [u8; 4], stratum: u8) -> String {
    if stratum > 1 {
        return Ipv4Addr::from(id).to_string();
    }
    id.iter().take_while(|octet| octet.is_ascii_graphic()).map(|octet| char::from(*octet)).collect()
}
