//! What the administrator decides about answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::cache::Bounds;
use crate::config::{ClientNetwork, Config, Plaintext};
use crate::dns::listen::Limits;
use crate::filter::Filter;
use crate::names::Names;
use crate::net::Clients;
use crate::net::rate::{Limiter, Rate};

/// How long a client waits for an upstream before it is given a stale answer (RFC 8767 section 5,
/// client response timer).
const PATIENCE: Duration = Duration::from_millis(1800);

/// What the administrator decides about answers; replaced whole at a reload.
#[derive(Debug)]
pub struct AnswerSettings {
    /// The names that are answered from here.
    pub names: Names,
    /// Whose questions are answered.
    pub clients: Vec<ClientNetwork>,
    /// Questions a second that one address may ask over UDP without a cookie of ours; 0: any
    /// number. This machine's own programs are not counted.
    pub rate: u32,
    /// What clients without encryption are given.
    pub plaintext: Plaintext,
    /// Shortest and longest time a fresh answer is kept.
    pub ttls: Bounds,
    /// How long past its time to live an answer may stand in for a dead upstream.
    pub stale: Duration,
    /// Questions a second that are asked after upstreams were down, while others wait.
    pub pace: u32,
    /// How long an upstream may take before a stale answer stands in.
    pub patience: Duration,
    /// How long the listeners keep an idle connection, for clients who ask.
    pub idle: Duration,
}

impl From<&Config> for AnswerSettings {
    fn from(config: &Config) -> Self {
        Self {
            names: Names::new(&config.names, config.dns.canary),
            clients: config.dns.clients.clone(),
            rate: config.dns.rate,
            plaintext: config.dns.plaintext,
            ttls: Bounds { min: config.dns.min_ttl, max: config.dns.max_ttl },
            stale: Duration::from_secs(config.dns.stale.into()),
            pace: config.dns.pace,
            patience: PATIENCE,
            idle: Limits::default().idle,
        }
    }
}

/// The settings, and what follows from them and from the machine's networks.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    pub(super) settings: Arc<AnswerSettings>,
    clients: Arc<Clients>,
    on_link: Arc<[IpNet]>,
    limiter: Option<Arc<Limiter>>,
    pub(super) filter: Option<Arc<dyn Filter>>,
}

impl InForce {
    pub(super) fn new(settings: AnswerSettings, now: Instant) -> Self {
        let on_link = Arc::from([]);
        let clients = Arc::new(Clients::new(&settings.clients, &on_link));
        let limiter = limiter(settings.rate, now);
        Self { settings: Arc::new(settings), clients, on_link, limiter, filter: None }
    }

    /// The same machine under other settings.
    pub(super) fn with_settings(&self, settings: &Arc<AnswerSettings>, now: Instant) -> Self {
        let clients = Arc::new(Clients::new(&settings.clients, &self.on_link));
        let limiter = if settings.rate == self.settings.rate {
            self.limiter.clone()
        } else {
            limiter(settings.rate, now)
        };
        Self { settings: Arc::clone(settings), clients, limiter, ..self.clone() }
    }

    /// The same settings on a machine that is part of other networks.
    pub(super) fn with_networks(&self, on_link: &Arc<[IpNet]>) -> Self {
        let clients = Arc::new(Clients::new(&self.settings.clients, on_link));
        Self { clients, on_link: Arc::clone(on_link), ..self.clone() }
    }

    /// The same under another filter.
    pub(super) fn with_filter(&self, filter: Option<Arc<dyn Filter>>) -> Self {
        Self { filter, ..self.clone() }
    }

    /// Whether questions of a client at `address` are answered at all.
    pub(super) fn serves(&self, address: IpAddr) -> bool {
        self.clients.contain(address)
    }

    /// Whether `address` may ask one more question at `now`.
    pub(super) fn within_rate(&self, address: IpAddr, now: Instant) -> bool {
        let limiter = self.limiter.as_ref().filter(|_| !address.is_loopback());
        limiter.is_none_or(|limiter| limiter.take(address, now))
    }
}

fn limiter(rate: u32, now: Instant) -> Option<Arc<Limiter>> {
    let rate = Rate { per_second: rate, burst: rate.saturating_mul(2) };
    (rate.per_second > 0).then(|| Arc::new(Limiter::new(rate, now)))
}
