//! The sockets and what stands behind them: DNS listeners, the answer path, upstreams, NTP, TLS.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::boot::Boot;
use super::identity::{Identity, own_addresses};
use super::recursion::Recursion;
use super::snapshot::Snapshots;
use super::steward::Message;
use super::supervise::keep;
use super::validation::Validation;
use crate::admin::MonitoringListen;
use crate::cache::Cache;
use crate::clock::{CertDates, NtpStatus, TimeTrust};
use crate::config::{Config, Upstream};
use crate::dns::answer::{AnswerSettings, Answerer};
use crate::dns::listen::{Limits, Listeners, Places};
use crate::dns::{
    BoxFuture, Forward, ForwardError, ForwardEvent, Forwarded, Forwarder, Refused, Settled,
};
use crate::net::bind::local_networks;
use crate::net::{Clients, DatagramListen, KeepOpen};
use crate::node::Input;
use crate::node::ports::Clock;
use crate::ntp::keys::Keys;
use crate::ntp::nts::cookies::CookieKeys;
use crate::ntp::nts::serve::{KeyExchange, KeyExchangeListen};
use crate::ntp::server::{TimeServer, rate};
use crate::ntp::wire::reference_id;
use crate::tls;
use crate::upstream::Pool;

/// Everything that answers.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) answerer: Arc<Answerer>,
    pub(super) cache: Arc<Cache>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) forwarder: Arc<Upstreams>,
    pub(super) recursion: Arc<Recursion>,
    pub(super) validation: Arc<Validation>,
    pub(super) listeners: Listeners,
    pub(super) ntp: KeepOpen<DatagramListen<TimeServer>>,
    pub(super) ntp_server: Arc<TimeServer>,
    pub(super) ntp_status: Arc<ArcSwap<NtpStatus>>,
    /// What servers name as their source that have their time from this machine.
    own_ids: ArcSwap<Vec<[u8; 4]>>,
    /// What is wrong with the keys that are shared with NTP clients and sources.
    keys_trouble: Mutex<Option<String>>,
    pub(super) nts: KeepOpen<KeyExchangeListen>,
    /// Opened when there is somebody who answers.
    pub(super) monitoring: OnceLock<KeepOpen<MonitoringListen>>,
    pub(super) client: tls::Client,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) identity: Arc<Identity>,
    /// The task that passes on what the forwarder reports.
    passing: Mutex<Option<AbortHandle>>,
}

impl Services {
    /// Opens every socket that can be opened; the rest is tried for ever. Also gives what the
    /// forwarder reports.
    pub(super) fn open(boot: &Arc<Boot>) -> (Self, mpsc::Receiver<ForwardEvent>) {
        let config = &boot.addresses.extend(boot.config.clone());
        let clock: Arc<dyn Clock> = Arc::clone(&boot.clock) as Arc<dyn Clock>;
        let runtime = Handle::current();
        let trust = boot.trust(config);
        let now = boot.now();

        let client = match tls::Client::new(Arc::clone(&clock)) {
            Ok(client) => client,
            Err(error) => unreachable!("ring supports TLS 1.2 and 1.3: {error}"),
        };
        let forwarder = Arc::new(Upstreams::default());
        let settings = AnswerSettings::from(config);
        let cache = Arc::new(Cache::new(config.dns.cache_bytes, settings.stale));
        let recursion =
            Recursion::new(config.dns.recursion.as_ref(), &forwarder, &clock, client.meter());
        let origin = Arc::clone(&recursion) as Arc<dyn Forward>;
        let validation = Validation::new(config, origin, &clock, trust.trust(now.mono));
        let answerer = Arc::new(Answerer::new(
            settings,
            Arc::clone(&cache),
            Arc::clone(&validation) as Arc<dyn Forward>,
            Arc::clone(&clock),
            runtime.clone(),
        ));

        let identity = Arc::new(Identity::new(config, boot));
        // Local names first: what takes keys, roots and a disk comes once sockets answer.
        let listeners = Listeners::open(
            &Places::from(config),
            Arc::clone(&answerer) as _,
            identity.present(),
            Limits::default(),
            Arc::clone(&clock),
            &runtime,
        );
        let ntp_status = Arc::new(ArcSwap::from_pointee(trust.ntp_status(now)));
        let ntp_server = Arc::new(TimeServer::new(
            Arc::clone(&clock),
            Arc::clone(&ntp_status),
            rate(config.ntp.rate),
        ));
        let keys_trouble = Mutex::new(set_keys(&ntp_server, config));
        ntp_server.set_remember(config.ntp.remember);
        let listen = DatagramListen::new("NTP", "ntp", Arc::clone(&ntp_server));
        let ntp = KeepOpen::start(listen, &config.ntp.listen, &runtime);
        ntp_server.set_cookie_keys(Arc::new(cookie_keys(boot)));
        let (shown, cookies) = (Arc::clone(&identity), Arc::clone(&ntp_server));
        let exchange = KeyExchange::new(
            Arc::new(move || shown.nts()),
            move || cookies.cookie_keys(),
            runtime.clone(),
        );
        set_ntp_port(&exchange, config);
        let nts = KeepOpen::start(KeyExchangeListen(exchange), &config.nts.listen, &runtime);
        identity.make();
        let (upstreams, reports) =
            Forwarder::new(asked(config), client.clone(), trust.trust(now.mono));
        forwarder.replace(upstreams);
        let watched = Arc::clone(&identity);
        keep("certificates", move || Arc::clone(&watched).watch());

        let services = Self {
            snapshots: Arc::new(Snapshots::new(boot, &answerer)),
            answerer,
            cache,
            forwarder,
            recursion,
            validation,
            listeners,
            ntp,
            ntp_server,
            ntp_status,
            own_ids: ArcSwap::default(),
            keys_trouble,
            nts,
            monitoring: OnceLock::new(),
            client,
            clock,
            identity,
            passing: Mutex::default(),
        };
        services.look_at_networks(config);
        (services, reports)
    }

    /// A pool over the upstreams there are; `spread` as in the configuration.
    pub(super) fn pool(&self, spread: bool) -> Pool {
        let endpoints = self.forwarder.present().map_or_else(Vec::new, |it| it.endpoints());
        let mut pool = Pool::new(endpoints);
        pool.set_spread(spread);
        pool
    }

    /// Goes over to `config` without dropping a query or a connection that still fits.
    /// Returns what a forwarder to other upstreams reports, if they have changed.
    pub(super) fn reconfigure(
        &self,
        before: &Config,
        config: &Config,
        trust: TimeTrust,
    ) -> Option<mpsc::Receiver<ForwardEvent>> {
        self.answerer.reload(AnswerSettings::from(config));
        if before.tls != config.tls || before.acme != config.acme {
            self.identity.replace(config);
        }
        self.identity.look_at_files();
        self.listeners.reconfigure(&Places::from(config));
        self.ntp.set(&config.ntp.listen);
        set_ntp_port(&self.nts.listen().0, config);
        self.nts.set(&config.nts.listen);
        self.show_at(&config.metrics.listen);
        *self.keys_trouble.lock().unwrap_or_else(PoisonError::into_inner) =
            set_keys(&self.ntp_server, config);
        self.ntp_server.set_remember(config.ntp.remember);
        if before.ntp.rate != config.ntp.rate {
            self.ntp_server.set_rate(rate(config.ntp.rate));
        }
        self.look_at_networks(config);
        if before.dns.validation != config.dns.validation {
            self.validation.replace(&config.dns.validation, trust);
            // Judged by other rules, or by none.
            self.cache.flush_all();
        }
        if before.dns.recursion != config.dns.recursion {
            self.recursion.replace(config.dns.recursion.as_ref());
        }
        if asked(before) == asked(config) {
            return None;
        }
        let (forwarder, reports) = Forwarder::new(asked(config), self.client.clone(), trust);
        self.forwarder.replace(forwarder);
        Some(reports)
    }

    /// What is wrong with the keys that are shared with NTP clients and sources.
    pub(super) fn keys_trouble(&self) -> Option<String> {
        self.keys_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What servers name as their source that have their time from this machine.
    pub(super) fn own_ids(&self) -> Arc<Vec<[u8; 4]>> {
        self.own_ids.load_full()
    }

    /// Learns its own addresses, and of which networks this machine is part: their clients are local ones.
    pub(super) fn look_at_networks(&self, config: &Config) {
        let listen = config.ntp.listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
        let own = own_addresses().into_iter().chain(listen);
        self.own_ids.store(Arc::new(own.map(reference_id).collect()));
        let networks = local_networks();
        let on_link = networks.as_deref().unwrap_or_default();
        self.ntp_server.set_clients(Clients::new(&config.ntp.clients, on_link));
        match networks {
            Ok(networks) => self.answerer.set_networks(networks),
            Err(error) => {
                warn!(%error, "the networks of this machine cannot be listed; clients with other than private addresses are refused");
            }
        }
    }

    /// Begins a trust generation: sessions and answers of the one before are judged again.
    /// Returns the endpoints whose chains are refused, and why.
    pub(super) fn rise(&self, trust: TimeTrust) -> Vec<Refused> {
        self.validation.rise(trust);
        let settled = self.forwarder.present().map_or_else(Settled::default, |it| it.rise(trust));
        if matches!(trust.dates, CertDates::RuleR { .. }) {
            return settled.failed;
        }
        let answers = self.cache.settle(&settled.passed);
        if !settled.failed.is_empty() || answers.dropped > 0 {
            info!(
                closed = settled.failed.len(),
                answers_kept = answers.kept,
                answers_dropped = answers.dropped,
                "what was accepted before the time was known has been judged again"
            );
        }
        settled.failed
    }

    /// Hands what a forwarder reports to the steward, and no more what the one before it does:
    /// its endpoints were others.
    pub(super) fn pass_on(
        &self,
        mut reports: mpsc::Receiver<ForwardEvent>,
        steward: mpsc::Sender<Message>,
    ) {
        let task = tokio::spawn(async move {
            while let Some(event) = reports.recv().await {
                if steward.send(Message::Forward(event)).await.is_err() {
                    return;
                }
            }
        });
        let mut passing = self.passing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = passing.replace(task.abort_handle()) {
            before.abort();
        }
    }

    /// Closes the listeners; false if answers were still under way after `grace`.
    pub(super) async fn drain(&self, grace: Duration) -> bool {
        self.ntp.close();
        self.nts.close();
        self.show_at(&[]);
        self.listeners.drain(grace).await
    }
}

/// The keys of cookies that were kept, else others: then clients exchange keys anew.
fn cookie_keys(boot: &Boot) -> CookieKeys {
    boot.nts_cookies().unwrap_or_else(|| {
        let made = CookieKeys::new(boot.clock.utc());
        boot.keep_nts_cookies(&made);
        made
    })
}

/// Clients that have exchanged keys are sent to where NTP is served.
fn set_ntp_port(exchange: &KeyExchange, config: &Config) {
    exchange.set_ntp_port(config.ntp.listen.first().map_or(123, SocketAddr::port));
}

/// Reads the keys that are shared with NTP clients and sources; without a usable file those known
/// before go on. Returns what is wrong.
fn set_keys(server: &TimeServer, config: &Config) -> Option<String> {
    let Some(file) = &config.ntp.keys else {
        server.set_keys(Keys::default());
        return None;
    };
    match Keys::from_file(file) {
        Ok((keys, doubts)) => {
            server.set_keys(keys);
            (!doubts.is_empty())
                .then(|| format!("NTP keys: {}; the others are in use", doubts.join("; ")))
        }
        Err(error) => Some(format!(
            "the NTP keys cannot be read: {error}; those read before go on, and sources whose key is missing \
             are not asked; mend the file and run `firstlight reload`"
        )),
    }
}

/// The upstreams that are asked for names.
pub(super) fn asked(config: &Config) -> &[Upstream] {
    if config.dns.recursion.is_some() { &[] } else { &config.upstreams }
}

/// The forwarder in force; a reload may replace it. Who asks before there is one waits for it.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    forwarder: ArcSwapOption<Forwarder>,
    arrival: Notify,
}

impl Upstreams {
    /// The forwarder, if there is one yet.
    pub(super) fn present(&self) -> Option<Arc<Forwarder>> {
        self.forwarder.load_full()
    }

    fn replace(&self, forwarder: Forwarder) {
        // Without a plan it would refuse the questions that wait already.
        forwarder.set_plan(Pool::new(forwarder.endpoints()).plan().clone());
        self.forwarder.store(Some(Arc::new(forwarder)));
        self.arrival.notify_waiters();
    }

    async fn await_one(&self) -> Arc<Forwarder> {
        loop {
            let arrival = self.arrival.notified();
            if let Some(forwarder) = self.present() {
                return forwarder;
            }
            arrival.await;
        }
    }
}

impl Forward for Upstreams {
    fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
        Box::pin(async move { self.await_one().await.forward(query).await })
    }
}

/// What an event of the forwarder means to the node.
pub(super) fn input(event: ForwardEvent, pool: &Pool) -> Input {
    match event {
        ForwardEvent::Contradiction { endpoint, .. } => {
            let operator = pool.health().nth(endpoint.0).map(|seen| seen.endpoint.operator.clone());
            Input::Refuted { operator: operator.unwrap_or_default() }
        }
        ForwardEvent::Outcome { endpoint, outcome } => Input::Upstream(endpoint, outcome),
        ForwardEvent::Verdict { endpoint, relaxed_only } => {
            Input::UpstreamVerdict(endpoint, relaxed_only)
        }
    }
}
