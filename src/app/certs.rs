//! Drives the certificate machine: what it wants is carried out, what it finds is served, and people
//! are told what is wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tracing::{info, warn};

use super::issuing::{Archive, Ended, Issuing};
use super::services::Services;
use super::steward::{Message, Steward};
use crate::acme::kept;
use crate::admin::report;
use crate::cert::{
    self, Alarm, CONDITIONS, CaId, Ending, Event, Failure, Held, Lifecycle, Order, OrderId, Policy,
    Saved, Window,
};
use crate::clock::Now;
use crate::config::Config;
use crate::health::Severity;
use crate::node::Input;
use crate::tls::{PairError, held};

/// The condition of files that cannot be served.
const UNFIT: &str = "certificate-files";
/// The condition of CAs at which there is no account.
pub(super) const UNREGISTERED: &str = "certificate-account";

/// What could not be written is tried again so often.
const RETRY_EACH: Duration = Duration::from_secs(60);
/// Accounts are looked for after the first certificate, and so often.
const REGISTER_EACH: Duration = Duration::from_secs(86_400);
/// The same where that failed.
const REGISTER_AGAIN: Duration = Duration::from_secs(3600);

/// What tasks report of certificate authorities.
#[derive(Debug)]
pub(super) enum Told {
    /// An order ended.
    Ended(Ended),
    /// At which CAs there is no account, and why.
    Registered(Vec<(String, Failure)>),
    /// A CA gave the renewal window of a certificate, and when it wants to be asked again.
    Window(String, Window, Option<Duration>),
}

/// What is known of the certificate.
#[derive(Debug)]
pub(super) struct Certs {
    pub(super) lifecycle: Lifecycle,
    /// `None`: certificates come from elsewhere.
    orders: Option<Orders>,
    /// The pair that the machine was told of.
    seen: Option<Arc<CertifiedKey>>,
    told: Vec<Alarm>,
    upstreams_down: bool,
    ended: report::Endings,
}

/// The part of it that orders.
#[derive(Debug)]
struct Orders {
    archive: Arc<Archive>,
    issuing: Arc<Issuing>,
    seed: u64,
    /// The certificates that the machine holds.
    keys: Vec<(String, Arc<CertifiedKey>)>,
    /// The order under way; it ends with this.
    running: Option<(OrderId, JoinSet<()>)>,
    saver: watch::Sender<Option<Saved>>,
    next_retry: Instant,
    next_register: Option<Instant>,
    /// Accounts being looked for; that ends with this.
    registering: Option<JoinSet<()>>,
    /// At which CAs there is no account.
    unregistered: Vec<(String, Failure)>,
}

impl Certs {
    /// With what is kept. Reads files.
    pub(super) fn new(config: &Config, services: &Services, now: Now) -> Self {
        let mut orders = config.acme.as_ref().map(|acme| {
            let archive = Arc::clone(services.identity.archive());
            Orders {
                issuing: Arc::new(Issuing::new(acme, services)),
                seed: archive.kept.seed(),
                keys: Vec::new(),
                running: None,
                saver: save(&archive),
                archive,
                next_retry: now.mono + RETRY_EACH,
                next_register: None,
                registering: None,
                unregistered: Vec::new(),
            }
        });
        let seed = orders.as_ref().map_or(0, |orders| orders.seed);
        let policy = policy(config, seed);
        let (mut certificates, mut saved) = (Vec::new(), None);
        if let Some(orders) = &mut orders {
            certificates = orders.archive.kept.certificates();
            let keys = certificates.iter().map(|it| (it.held.serial.clone(), Arc::clone(&it.key)));
            orders.keys = keys.collect();
            saved = orders.archive.kept.saved();
        }
        let held = certificates.into_iter().map(|certificate| certificate.held).collect();
        let lifecycle = Lifecycle::new(policy, held, saved, now);
        Self {
            lifecycle,
            orders,
            seen: None,
            told: Vec::new(),
            upstreams_down: false,
            ended: report::Endings::default(),
        }
    }

    /// How orders ended since the daemon started; `None` if none are made.
    pub(super) fn ended(&self) -> Option<report::Endings> {
        self.orders.is_some().then_some(self.ended)
    }

    /// What leaves in plaintext for certificates, for people.
    pub(super) fn plaintext(&self) -> Option<String> {
        self.orders.as_ref()?.issuing.plaintext()
    }

    /// Whether no upstream answers. Once one does again, so may a certificate authority.
    pub(super) fn upstreams_are_down(&mut self, down: bool, now: Now) {
        if std::mem::replace(&mut self.upstreams_down, down) && !down {
            self.lifecycle.handle_path_change(now);
        }
    }
}

impl Orders {
    fn leaf(&self, serial: &str) -> Option<CertificateDer<'static>> {
        let (_, key) = self.keys.iter().find(|(of, _)| of == serial)?;
        key.cert.first().cloned()
    }

    fn alarms(&self) -> Vec<Alarm> {
        let mut alarms: Vec<_> = self.archive.kept.alarm().into_iter().collect();
        if !self.unregistered.is_empty() {
            let failing = self.unregistered.iter().map(|(ca, failure)| format!("{ca}: {failure}"));
            let text = format!(
                "there is no account at a certificate authority that may be needed: {}; it is \
                 tried again; see [[acme.ca]]",
                failing.collect::<Vec<_>>().join("; ")
            );
            alarms.push(Alarm { name: UNREGISTERED, severity: Severity::Warning, text });
        }
        alarms
    }
}

/// What `config` decides about certificates; `seed` as it is kept.
pub(super) fn policy(config: &Config, seed: u64) -> Policy {
    let Some(acme) = &config.acme else {
        // They come from elsewhere.
        return Policy { names: vec![config.tls.name.to_string()], ..Policy::default() };
    };
    let cas = acme.cas.iter();
    Policy {
        names: acme.names.clone(),
        cas: cas
            .map(|ca| cert::Ca { name: ca.name.clone(), staging: ca.staging.is_some() })
            .collect(),
        survive: acme.survive,
        percent: acme.percent,
        limits: acme.limits,
        seed,
        ..Policy::default()
    }
}

/// Writes what it is given, the latest last, off every path that answers.
fn save(archive: &Archive) -> watch::Sender<Option<Saved>> {
    let (saver, mut latest) = watch::channel(None);
    let kept = Arc::clone(&archive.kept);
    tokio::spawn(async move {
        while latest.changed().await.is_ok() {
            let state: Option<Saved> = latest.borrow_and_update().clone();
            let kept = Arc::clone(&kept);
            let written = spawn_blocking(move || state.iter().for_each(|state| kept.save(state)));
            let _ = written.await;
        }
    });
    saver
}

impl Steward {
    /// Looks which certificate is served, does what is due, and tells people what is wrong.
    pub(super) fn look_at_certificate(&mut self) {
        let now = self.boot.now();
        if self.config.acme.is_some() != self.certs.orders.is_some() {
            let made = Certs::new(&self.config, &self.services, now);
            let Certs { told, upstreams_down, ended, .. } =
                std::mem::replace(&mut self.certs, made);
            // What people were told has to be taken back.
            (self.certs.told, self.certs.upstreams_down) = (told, upstreams_down);
            self.certs.ended = ended;
        }
        let seed = self.certs.orders.as_ref().map_or(0, |orders| orders.seed);
        let policy = policy(&self.config, seed);
        if self.certs.lifecycle.policy() != &policy {
            self.certs.lifecycle.handle_policy(policy, now);
        }
        if self.certs.orders.is_none() {
            self.look_at_files(now);
        }
        let trust = self.node.trust().trust(now.mono);
        self.certs.lifecycle.handle_trust(trust, now);
        self.carry_out_certs(now);
        self.look_after_store(now);
        self.report_certs(now);
    }

    /// Another configuration is in force: an order by the one before is given up, and what failed by
    /// it is tried again.
    pub(super) fn reconfigure_certs(&mut self, before: &Config) {
        let (Some(acme), Some(orders)) = (&self.config.acme, &mut self.certs.orders) else {
            return;
        };
        if before.acme.as_ref() != Some(acme) {
            let now = self.boot.now();
            orders.issuing = Arc::new(Issuing::new(acme, &self.services));
            orders.next_register = Some(now.mono);
            (orders.running, orders.registering) = (None, None);
            self.certs.lifecycle.handle_policy(policy(&self.config, orders.seed), now);
        }
    }

    /// What a task of ours reports.
    pub(super) fn hear_of_certs(&mut self, told: Told) {
        let now = self.boot.now();
        let Some(orders) = &mut self.certs.orders else { return };
        match told {
            Told::Ended(Ended { id, staging, accepted, ending, key }) => {
                let counts = &mut self.certs.ended;
                *match ending {
                    Ending::Issued(_) => &mut counts.issued,
                    Ending::Passed => &mut counts.rehearsed,
                    Ending::Failed(_) if staging => &mut counts.rehearsals_failed,
                    Ending::Failed(_) => &mut counts.failed,
                } += 1;
                // One by a configuration before may have ended just then.
                orders.running.take_if(|(of, _)| *of == id);
                if let (Ending::Issued(held), Some(key)) = (&ending, key) {
                    info!(
                        serial = held.serial,
                        authority = held.ca,
                        not_after = %held.not_after,
                        "a certificate is issued"
                    );
                    orders.keys.push((held.serial.clone(), key));
                    orders.next_register.get_or_insert(now.mono);
                } else if let Ending::Failed(failure) = &ending {
                    warn!(%failure, "an order failed; what is served is served on");
                }
                self.certs.lifecycle.handle_ending(id, accepted, ending, now);
            }
            Told::Registered(unregistered) => {
                let again = if unregistered.is_empty() { REGISTER_EACH } else { REGISTER_AGAIN };
                orders.next_register = Some(now.mono + again);
                orders.unregistered = unregistered;
            }
            Told::Window(serial, window, again) => {
                self.certs.lifecycle.handle_window(&serial, window, again, now);
            }
        }
        self.carry_out_certs(now);
        self.report_certs(now);
    }

    /// Keeps what the next process has to know.
    pub(super) fn keep_certs(&self) {
        if let Some(orders) = &self.certs.orders {
            orders.archive.kept.save(&self.certs.lifecycle.saved());
        }
    }

    /// Tells the machine of the pair in the files.
    fn look_at_files(&mut self, now: Now) {
        let own = self.services.identity.store().own();
        if own.as_ref().map(Arc::as_ptr) != self.certs.seen.as_ref().map(Arc::as_ptr) {
            let held: Option<Held> = own.as_ref().and_then(|key| held(&key.cert, now.utc, None));
            self.certs.lifecycle.handle_held(held.into_iter().collect(), now);
            self.certs.seen = own;
        }
    }

    fn carry_out_certs(&mut self, now: Now) {
        while let Some(event) = self.certs.lifecycle.poll_event() {
            // Without orders it asks for nothing, and the store serves what it finds.
            let Some(orders) = &mut self.certs.orders else { continue };
            match event {
                Event::AskWindow { ca, serial } => self.ask_window(ca, serial),
                Event::Order(order) => self.make_order(order, now),
                Event::Save => {
                    orders.saver.send_replace(Some(self.certs.lifecycle.saved()));
                }
                Event::Serve(serial) => {
                    let held = self.certs.lifecycle.held();
                    orders.keys.retain(|(of, _)| held.iter().any(|held| held.serial == *of));
                    if let Some((_, key)) = orders.keys.iter().find(|(of, _)| *of == serial) {
                        self.services.identity.store().set_issued(Arc::clone(key));
                        info!(serial, "a certificate that was ordered is served");
                    }
                }
            }
        }
    }

    fn make_order(&mut self, order: Order, now: Now) {
        let urgent = self.certs.lifecycle.is_urgent(now);
        let Some(orders) = &mut self.certs.orders else { return };
        let leaf = order.replaces.as_deref().and_then(|serial| orders.leaf(serial));
        let (issuing, sender) = (Arc::clone(&orders.issuing), self.sender.clone());
        let (id, mut running) = (order.id, JoinSet::new());
        running.spawn(async move {
            let ended = issuing.order(order, leaf, urgent).await;
            let _ = sender.send(Message::Certs(Told::Ended(ended))).await;
        });
        orders.running = Some((id, running));
    }

    fn ask_window(&self, ca: CaId, serial: String) {
        let Some(orders) = &self.certs.orders else { return };
        let Some(leaf) = orders.leaf(&serial) else { return };
        let (issuing, sender) = (Arc::clone(&orders.issuing), self.sender.clone());
        tokio::spawn(async move {
            if let Some((window, again)) = issuing.window(ca, &leaf).await {
                let _ = sender.send(Message::Certs(Told::Window(serial, window, again))).await;
            }
        });
    }

    /// Writes what could not be written, and sees to accounts.
    fn look_after_store(&mut self, now: Now) {
        let verified = self.trust.is_some_and(|trust| trust.verified);
        let Some(orders) = &mut self.certs.orders else { return };
        if now.mono >= orders.next_retry {
            orders.next_retry = now.mono + RETRY_EACH;
            if orders.archive.kept.alarm().is_some() {
                let kept = Arc::clone(&orders.archive.kept);
                spawn_blocking(move || kept.retry());
            }
        }
        // After the first certificate there is time.
        if orders.next_register.is_none() && self.certs.lifecycle.in_service().is_some() {
            orders.next_register = Some(now.mono);
        }
        let due = orders.next_register.is_some_and(|at| now.mono >= at);
        if verified && due && orders.running.is_none() {
            orders.next_register = Some(now.mono + REGISTER_EACH);
            let (issuing, sender) = (Arc::clone(&orders.issuing), self.sender.clone());
            let mut registering = JoinSet::new();
            registering.spawn(async move {
                let unregistered = issuing.register().await;
                let _ = sender.send(Message::Certs(Told::Registered(unregistered))).await;
            });
            orders.registering = Some(registering);
        }
    }

    fn report_certs(&mut self, now: Now) {
        let mut alarms = self.certs.lifecycle.alarms(now);
        alarms.extend(self.certs.orders.iter().flat_map(Orders::alarms));
        alarms.extend(self.unfit_files());
        if alarms == self.certs.told {
            return;
        }
        for name in CONDITIONS.iter().chain(&[UNFIT, UNREGISTERED, kept::CONDITION]) {
            let found = alarms.iter().find(|alarm| alarm.name == *name);
            let held = found.map(|alarm| (alarm.severity, alarm.text.clone()));
            self.feed(Input::Condition { name, held });
        }
        self.certs.told = alarms;
    }

    fn unfit_files(&self) -> Option<Alarm> {
        let store = self.services.identity.store();
        let (error, files) = (store.trouble()?, self.config.tls.files.as_ref()?);
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
        Some(Alarm { name: UNFIT, severity, text })
    }
}
