//! Carries out what the certificate machine wants: orders, questions for renewal windows, and
//! accounts ahead of the first order.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use tokio::task::block_in_place;
use tracing::{info, warn};

use super::lookup::{Lookout, Names};
use super::services::Services;
use crate::acme::kept::{Issued, Kept};
use crate::acme::{
    self, Account, AcmeDns, Ca, Deadlines, DnsUpdate, Hook, Issuer, Job, Journal, Pending,
    PublishError, Publisher, Solver, TsigHash, TxtRecord, secrets,
};
use crate::cert::{CaId, Ending, Failure, Kind, Order, OrderId, Window};
use crate::clock::UnixTime;
use crate::config::{Acme, AcmeCa, AcmeChallenge, AcmeHash};
use crate::dns::{BoxFuture, Forward};
use crate::fetch::{self, Transport};
use crate::host::state::StateDir;
use crate::metered::Purpose;
use crate::node::ports::Clock;
use crate::tls::{Challenges, Roots};

/// A hook is killed before the order that waits for it gives it up.
const AFTER_HOOK: Duration = Duration::from_secs(5);

/// What is kept of certificate authorities: of their directories, and of their staging directories.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) kept: Arc<Kept>,
    pub(super) staging: Arc<Kept>,
}

impl Archive {
    /// In the folders `acme` and `acme-staging` of the state directory.
    pub(super) fn open(state: &StateDir) -> Self {
        let open = |name: &str| {
            let (folder, failure) = StateDir::open(state.path().join(name));
            if let Some(failure) = failure {
                warn!(%failure, "state");
            }
            Arc::new(Kept::new(Arc::new(folder)))
        };
        Self { kept: open("acme"), staging: open("acme-staging") }
    }

    /// When the newest certificate begins: a clock below that is wrong.
    pub(super) fn newest(&self) -> Option<UnixTime> {
        self.kept.certificates().into_iter().map(|certificate| certificate.held.not_before).max()
    }
}

/// Makes orders by one configuration.
#[derive(Debug)]
pub(super) struct Issuing {
    acme: Acme,
    archive: Arc<Archive>,
    transport: Transport,
    deadlines: Deadlines,
    lookout: Arc<Lookout>,
    challenges: Arc<Challenges>,
    clock: Arc<dyn Clock>,
    /// Messages that left in plaintext.
    plaintext: Arc<AtomicU64>,
}

/// What came of an order.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) id: OrderId,
    /// It was a rehearsal.
    pub(super) staging: bool,
    /// The CA took it, so that it counts there.
    pub(super) accepted: bool,
    pub(super) ending: Ending,
    /// Chain and key, if there is a certificate to serve.
    pub(super) key: Option<Arc<CertifiedKey>>,
}

impl Issuing {
    pub(super) fn new(acme: &Acme, services: &Services) -> Self {
        let mut deadlines = Deadlines::default();
        if let AcmeChallenge::Hook { limit, .. } = acme.challenge {
            deadlines.publish = deadlines.publish.max(limit + AFTER_HOOK);
        }
        let origin = Arc::clone(&services.validation) as Arc<dyn Forward>;
        let names = Names::new(Arc::clone(&origin));
        let upstreams = Arc::clone(&services.forwarder);
        let plaintext = Arc::new(AtomicU64::new(0));
        Self {
            archive: Arc::clone(services.identity.archive()),
            transport: Transport {
                client: services.client.clone(),
                network: Arc::new(names),
                deadlines: fetch::Deadlines::default(),
                purpose: Purpose::Certificates,
            },
            deadlines,
            lookout: Arc::new(Lookout::new(
                upstreams,
                origin,
                acme.authoritative.then(|| Arc::clone(&plaintext)),
            )),
            challenges: Arc::clone(&services.identity.challenges),
            clock: Arc::clone(&services.clock),
            acme: acme.clone(),
            plaintext,
        }
    }

    /// What leaves in plaintext for certificates, for people.
    pub(super) fn plaintext(&self) -> Option<String> {
        let count = self.plaintext.load(Ordering::Relaxed);
        let updated = match &self.acme.challenge {
            AcmeChallenge::Update { server, .. } => Some(format!("updates to {server}")),
            AcmeChallenge::AcmeDns { .. } | AcmeChallenge::Hook { .. } | AcmeChallenge::TlsAlpn => {
                None
            }
        };
        let looked = self.acme.authoritative.then(|| "questions to the zone's servers".to_owned());
        let ways: Vec<_> = updated.into_iter().chain(looked).collect();
        (!ways.is_empty()).then(|| {
            format!(
                "{} about records for certificates, {count} so far ([acme])",
                ways.join(" and ")
            )
        })
    }

    /// Makes `order`; it replaces `leaf`. Without a place on disk for what it needs it is made only
    /// if the matter is `urgent`. Whoever drops this gives the order up.
    pub(super) async fn order(
        &self,
        order: Order,
        leaf: Option<CertificateDer<'static>>,
        urgent: bool,
    ) -> Ended {
        let carried_out = self.carry_out(&order, leaf.as_ref(), urgent);
        // A panic is an order that failed: the next one has its time.
        let ended = AssertUnwindSafe(carried_out).catch_unwind().await;
        ended.unwrap_or_else(|_| Ended::failed(&order, local(&"a part of it panicked")))
    }

    async fn carry_out(
        &self,
        order: &Order,
        leaf: Option<&CertificateDer<'_>>,
        urgent: bool,
    ) -> Ended {
        let kept = if order.staging { &self.archive.staging } else { &self.archive.kept };
        let begun = block_in_place(|| {
            let (place, ca) = self.ca(order.ca, order.staging)?;
            let solver = self.solver()?;
            let begun = kept.begin(&ca, &self.acme.names).map_err(|error| local(&error))?;
            match &begun.unkept {
                Some(error) if !urgent => Err(local(&format_args!(
                    "keys cannot be kept: {error}; make space in the state directory"
                ))),
                _ => Ok((place, ca, solver, begun)),
            }
        });
        let (place, ca, solver, begun) = match begun {
            Ok(begun) => begun,
            Err(failure) => return Ended::failed(order, failure),
        };
        info!(
            authority = ca.name,
            staging = order.staging,
            why = %order.why,
            names = self.acme.names.join(","),
            "a certificate is ordered"
        );
        let job = Job {
            ca: &ca,
            account: &begun.account,
            register: order.register,
            profile: place.profile.as_deref().filter(|_| order.profile),
            replaces: leaf,
            pending: &begun.pending,
            solver: &solver,
        };
        let desk = Desk(kept);
        let outcome =
            Issuer::new(self.transport.clone(), self.deadlines).carry_out(&job, &desk).await;
        let accepted = outcome.accepted;
        let chain = match outcome.result {
            Ok(chain) => chain,
            Err(failure) => return Ended { accepted, ..Ended::failed(order, failure) },
        };
        if order.staging {
            block_in_place(|| kept.end_order(&ca.name));
            let (id, ending) = (order.id, Ending::Passed);
            return Ended { id, staging: true, accepted, ending, key: None };
        }
        let issued = Issued {
            ca: ca.name.clone(),
            got: self.clock.utc().secs(),
            chain: chain.pem,
            key: begun.pending.key,
        };
        match block_in_place(|| kept.keep_certificate(&issued)) {
            Ok(certificate) => Ended {
                id: order.id,
                staging: false,
                accepted,
                ending: Ending::Issued(certificate.held),
                key: Some(certificate.key),
            },
            Err(misfit) => {
                let detail = format!("the certificate it issued is of no use: {misfit}");
                let failure = Failure { kind: Kind::Garbage, detail };
                Ended { accepted, ..Ended::failed(order, failure) }
            }
        }
    }

    /// When the CA wants the certificate `leaf` renewed, and when it wants to be asked again; `None`
    /// if it says nothing about it.
    pub(super) async fn window(
        &self,
        ca: CaId,
        leaf: &CertificateDer<'_>,
    ) -> Option<(Window, Option<Duration>)> {
        let (_, ca) = block_in_place(|| self.ca(ca, false)).ok()?;
        let asked = Issuer::new(self.transport.clone(), self.deadlines).window(&ca, leaf).await;
        // It can only make a renewal earlier, and is asked for again.
        asked
            .inspect_err(|failure| info!(authority = ca.name, %failure, "no renewal window"))
            .ok()?
    }

    /// Registers accounts where there are none: at the time when another CA is needed there may be
    /// much else that does not work. Tells what fails, by CA.
    pub(super) async fn register(&self) -> Vec<(String, Failure)> {
        let mut failures = Vec::new();
        let issuer = Issuer::new(self.transport.clone(), self.deadlines);
        for place in 0..self.acme.cas.len() {
            if let Err((name, failure)) = self.register_at(&issuer, place).await {
                failures.push((name, failure));
            }
        }
        failures
    }

    async fn register_at(&self, issuer: &Issuer, place: usize) -> Result<(), (String, Failure)> {
        let Some(at) = self.acme.cas.get(place) else { return Ok(()) };
        let told = |failure| (at.name.clone(), failure);
        let kept = &self.archive.kept;
        let known = block_in_place(|| kept.account_at(&at.name));
        let known = known.filter(|account| account.directory == at.directory);
        if known.as_ref().is_some_and(|account| account.url.is_some()) {
            return Ok(());
        }
        let begun = block_in_place(|| {
            let (_, ca) = self.ca(CaId(place), false)?;
            let begun = kept.begin(&ca, &self.acme.names).map_err(|error| local(&error))?;
            begun.unkept.as_ref().map_or(Ok(()), |error| Err(local(error)))?;
            Ok((ca, begun.account))
        });
        let (ca, account) = begun.map_err(told)?;
        let account = issuer.register(&ca, &account).await.map_err(told)?;
        Desk(kept).account(&account);
        info!(authority = ca.name, "an account is registered");
        Ok(())
    }

    /// The CA at a place, as configured and as it is reached. Reads files.
    fn ca(&self, CaId(place): CaId, staging: bool) -> Result<(&AcmeCa, Ca), Failure> {
        let place = self.acme.cas.get(place).ok_or_else(|| local(&"it is not configured"))?;
        let directory = if staging { place.staging.as_ref() } else { Some(&place.directory) };
        let directory = directory.ok_or_else(|| local(&"it has no staging directory"))?.clone();
        let binding = place.binding.as_ref().map(secrets::binding).transpose();
        let binding = binding.map_err(|error| local(&error))?;
        let roots = Roots::or_builtin(place.ca.as_deref());
        Ok((place, Ca { name: place.name.clone(), directory, roots, binding }))
    }

    /// How names are shown to be ours. Reads files, each time: what is mended is used at once.
    fn solver(&self) -> Result<Solver, Failure> {
        let publisher: Result<Arc<dyn Publisher>, PublishError> = match &self.acme.challenge {
            AcmeChallenge::TlsAlpn => {
                return Ok(Solver::TlsAlpn01 { challenges: Arc::clone(&self.challenges) });
            }
            AcmeChallenge::AcmeDns { url, accounts, ca } => {
                let accounts =
                    secrets::acme_dns_accounts(accounts).map_err(|error| local(&error))?;
                let roots = Roots::or_builtin(ca.as_deref());
                Ok(Arc::new(AcmeDns::new(self.transport.clone(), roots, url, accounts)))
            }
            AcmeChallenge::Hook { program, limit } => {
                Ok(Arc::new(Hook::new(program.clone(), *limit)))
            }
            AcmeChallenge::Update { server, zone, key_name, key, hash } => {
                let key = secrets::tsig_key(key).map_err(|error| local(&error))?;
                let hash = match hash {
                    AcmeHash::Sha256 => TsigHash::Sha256,
                    AcmeHash::Sha384 => TsigHash::Sha384,
                    AcmeHash::Sha512 => TsigHash::Sha512,
                };
                let clock = Arc::clone(&self.clock);
                DnsUpdate::new(*server, zone, (key_name, hash, &key), clock).map(|update| {
                    let counted = Counted { update, count: Arc::clone(&self.plaintext) };
                    Arc::new(counted) as Arc<dyn Publisher>
                })
            }
        };
        let publisher = publisher.map_err(|error| local(&error))?;
        let propagation = Arc::clone(&self.lookout) as Arc<dyn acme::Propagation>;
        Ok(Solver::Dns01 { publisher, propagation })
    }
}

impl Ended {
    fn failed(order: &Order, failure: Failure) -> Self {
        let &Order { id, staging, .. } = order;
        Self { id, staging, accepted: false, ending: Ending::Failed(failure), key: None }
    }
}

/// Writes down how far an order has come, out of the way of whoever answers.
struct Desk<'k>(&'k Kept);

impl Journal for Desk<'_> {
    fn account(&self, account: &Account) {
        block_in_place(|| self.0.account(account));
    }

    fn pending(&self, pending: &Pending) {
        block_in_place(|| self.0.pending(pending));
    }
}

/// Counts updates: they go in plaintext, though signed.
#[derive(Debug)]
struct Counted {
    update: DnsUpdate,
    count: Arc<AtomicU64>,
}

impl Publisher for Counted {
    fn present<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.update.present(record)
    }

    fn withdraw<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.update.withdraw(record)
    }
}

fn local(error: &dyn std::fmt::Display) -> Failure {
    Failure { kind: Kind::Local, detail: error.to_string() }
}
