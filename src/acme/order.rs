//! One order, from the account to the certificate.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, ChallengeStatus, Error, Identifier, NewOrder,
    Order, OrderStatus,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::account::Account;
use super::certificate::{self, Chain, KeyPem};
use super::fault::{failure, of_error, of_verdict, problem_type};
use super::publish::{self, Propagation, Publisher, Solver, TxtRecord};
use super::{Ca, Deadlines, Failure};
use crate::cert::Kind;
use crate::fetch::{Http, Transport};
use crate::tls::{Challenges, Presented};

/// The first wait for a verdict; each later one is half as long again ...
const FIRST: Duration = Duration::from_secs(1);
/// ... up to this.
const LONGEST: Duration = Duration::from_secs(15);
/// A CA that wants more time between two polls gets so much at most.
const ASKED: Duration = Duration::from_secs(60);

/// Makes orders.
#[derive(Clone, Debug)]
pub struct Issuer {
    transport: Transport,
    deadlines: Deadlines,
}

/// An order to be made.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// At which CA.
    pub ca: &'a Ca,
    /// By which account; one without a URL is registered first.
    pub account: &'a Account,
    /// Whether its key has to be registered first: the CA has forgotten it.
    pub register: bool,
    /// By this profile, if the CA offers it.
    pub profile: Option<&'a str>,
    /// The certificate it replaces (RFC 9773 section 5).
    pub replaces: Option<&'a CertificateDer<'a>>,
    /// For which names, with which key, and what an earlier try has left behind. It is on disk
    /// already: what is issued for the key can be got after a power cut.
    pub pending: &'a Pending,
    /// How the CA is shown that the names are ours.
    pub solver: &'a Solver,
}

/// Keeps on disk, before it returns, what must survive a power cut in the middle of an order.
pub trait Journal: Send + Sync {
    /// An account was registered.
    fn account(&self, account: &Account);

    /// How far an order has come. With its certificate at hand it is over once that is kept.
    fn pending(&self, pending: &Pending);
}

/// An order that has not ended (RFC 8555 section 7.4).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pending {
    /// The CA's name in the configuration.
    pub ca: String,
    /// For which names, wildcards as they stand.
    pub names: Vec<String>,
    /// The key the certificate will have.
    pub key: KeyPem,
    /// Its URL; `None` if the CA has not accepted it, or nothing can come of it.
    pub url: Option<String>,
    /// What may have been published for it.
    pub published: Vec<TxtRecord>,
}

impl Pending {
    /// One that has not been placed.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn fresh(ca: &str, names: &[String]) -> Result<Self, rcgen::Error> {
        let (ca, key) = (ca.to_owned(), KeyPem::generate()?);
        Ok(Self { ca, names: names.to_vec(), key, url: None, published: Vec::new() })
    }
}

/// How an order ended.
#[derive(Debug)]
pub struct Outcome {
    /// Whether the CA accepted it anew, so that it counts there.
    pub accepted: bool,
    /// The certificate; the caller stores it before it tells [`crate::cert::Lifecycle`].
    pub result: Result<Chain, Failure>,
}

impl Issuer {
    /// An issuer that reaches CAs by `transport`.
    #[must_use]
    pub fn new(transport: Transport, deadlines: Deadlines) -> Self {
        Self { transport, deadlines }
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Makes the order `job`, or goes on with the one that is pending. It ends within
    /// [`super::Deadlines::order`], or at most [`super::Deadlines::publish`] later.
    ///
    /// What was published in DNS is withdrawn, unless the order can be gone on with: the CA may be
    /// looking. It then is in the [`Pending`] of the journal, as it is if this is dropped half-way.
    /// A certificate for the CA is shown for as long as this takes.
    pub async fn carry_out(&self, job: &Job<'_>, journal: &dyn Journal) -> Outcome {
        let mut run = Run {
            issuer: self,
            job,
            journal,
            http: Http::new(self.transport.clone(), job.ca.roots.clone()),
            pending: job.pending.clone(),
            presented: Vec::new(),
            accepted: false,
        };
        let limit = self.deadlines.order;
        let result = timeout(limit, run.order()).await.unwrap_or_else(|_| {
            let detail = format!("the order did not end within {} s", limit.as_secs());
            Err(failure(Kind::Server, &detail))
        });
        let over = match &result {
            Ok(_) => true,
            Err(failure) => matches!(
                failure.kind,
                Kind::AccountUnknown | Kind::Garbage | Kind::Refused | Kind::Validation
            ),
        };
        if over && result.is_err() {
            run.pending.url = None;
        }
        if over || run.pending.url.is_none() {
            run.withdraw().await;
        }
        journal.pending(&run.pending);
        Outcome { accepted: run.accepted, result }
    }
}

/// An order on its way.
struct Run<'a> {
    issuer: &'a Issuer,
    job: &'a Job<'a>,
    journal: &'a dyn Journal,
    http: Http,
    pending: Pending,
    presented: Vec<Presented>,
    accepted: bool,
}

impl Run<'_> {
    async fn order(&mut self) -> Result<Chain, Failure> {
        let solver = self.job.solver;
        if let Some(name) = self.pending.names.iter().find(|name| !solver.can_show(name)) {
            let detail = format!(
                "{name} cannot be shown to be ours by TLS-ALPN-01; a wildcard needs DNS-01"
            );
            return Err(failure(Kind::Refused, &detail));
        }
        let (account, at_ca) = self.account().await?;
        let mut order = match self.resumed(&at_ca).await? {
            Some(order) => order,
            None => self.placed(&at_ca).await?,
        };
        let (mut proven, mut finalized) = (false, false);
        let mut patience = self.patience();
        loop {
            match order.state().status {
                OrderStatus::Pending if !proven => {
                    self.prove(&mut order, &account).await?;
                    (proven, patience) = (true, self.patience());
                    self.poll(&mut order, &mut patience, Kind::Validation).await?;
                }
                OrderStatus::Pending => {
                    self.poll(&mut order, &mut patience, Kind::Validation).await?;
                }
                OrderStatus::Ready if !finalized => {
                    let request = self.signing_request()?;
                    order.finalize_csr(&request).await.map_err(|error| self.fault(&error))?;
                    (finalized, patience) = (true, self.patience());
                }
                OrderStatus::Ready | OrderStatus::Processing => {
                    self.poll(&mut order, &mut patience, Kind::Server).await?;
                }
                OrderStatus::Valid => return self.download(&mut order).await,
                OrderStatus::Invalid => return Err(self.verdict(&mut order).await),
            }
        }
    }

    async fn account(&self) -> Result<(Account, instant_acme::Account), Failure> {
        let Job { ca, account, register, .. } = *self.job;
        if let Some(url) = account.url.clone().filter(|_| !register) {
            let opened = self.issuer.opened(ca, account, url, &self.http).await?;
            return Ok((account.clone(), opened));
        }
        let (account, opened) = self.issuer.registered(ca, account, &self.http).await?;
        self.journal.account(&account);
        Ok((account, opened))
    }

    /// The order that is pending; `None` if there is none, or nothing can come of it.
    async fn resumed(&mut self, account: &instant_acme::Account) -> Result<Option<Order>, Failure> {
        let Some(url) = self.pending.url.clone() else { return Ok(None) };
        let mut order = match account.order(url).await {
            Ok(order) => order,
            Err(error) => {
                let failure = self.fault(&error);
                return match failure.kind {
                    // Another order is no way out of these.
                    Kind::AccountUnknown
                    | Kind::BadNonce
                    | Kind::RateLimited { .. }
                    | Kind::Server
                    | Kind::Unreachable => Err(failure),
                    Kind::AlreadyReplaced
                    | Kind::Garbage
                    | Kind::InvalidProfile
                    | Kind::Local
                    | Kind::Refused
                    | Kind::Validation => Ok(None),
                };
            }
        };
        Ok((order.state().status != OrderStatus::Invalid).then_some(order))
    }

    async fn placed(&mut self, account: &instant_acme::Account) -> Result<Order, Failure> {
        let Job { profile, replaces, .. } = *self.job;
        let names = self.pending.names.iter().cloned();
        let identifiers: Vec<_> = names.map(Identifier::Dns).collect();
        if let Some(profile) = profile
            && !account.profiles().any(|offered| offered.name == profile)
        {
            // No other may be asked for (draft-ietf-acme-profiles section 4).
            let mut offered: Vec<_> = account.profiles().map(|offered| offered.name).collect();
            offered.sort_unstable();
            let detail = format!("it offers no `{profile}`, but: {}", offered.join(", "));
            return Err(failure(Kind::InvalidProfile, &detail));
        }
        let wanted = || {
            let plain = NewOrder::new(&identifiers);
            if let Some(profile) = profile { plain.profile(profile) } else { plain }
        };
        let replaced = replaces.and_then(|leaf| CertificateIdentifier::try_from(leaf).ok());
        let order = match replaced {
            None => account.new_order(&wanted()).await,
            Some(id) => match account.new_order(&wanted().replaces(id)).await {
                // It has no renewal information.
                Err(Error::Unsupported(_)) => account.new_order(&wanted()).await,
                Err(error) if objects_to_replacing(&error) => {
                    return Err(failure(Kind::AlreadyReplaced, &error.to_string()));
                }
                placed => placed,
            },
        };
        let order = order.map_err(|error| self.fault(&error))?;
        self.accepted = true;
        self.pending.url = Some(order.url().to_owned());
        self.journal.pending(&self.pending);
        Ok(order)
    }

    /// Shows the CA that each name is ours, and tells it to look.
    async fn prove(&mut self, order: &mut Order, account: &Account) -> Result<(), Failure> {
        let solver = self.job.solver;
        let wanted = self.wanted(order).await?;
        match solver {
            Solver::Dns01 { publisher, propagation } => {
                let unseen = wanted.iter().filter(|wanted| !wanted.processing);
                let records: Vec<_> =
                    unseen.map(|wanted| TxtRecord::new(&wanted.name, &wanted.value)).collect();
                self.publish(&records, &**publisher, &**propagation).await?;
            }
            Solver::TlsAlpn01 { challenges } => self.present(&wanted, challenges, account)?,
        }
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.fault(&error))?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            if let Some(mut challenge) = authorization.challenge(solver.challenge_type())
                && challenge.status == ChallengeStatus::Pending
            {
                challenge.set_ready().await.map_err(|error| self.objection(&error))?;
            }
        }
        Ok(())
    }

    /// What the CA wants to see.
    async fn wanted(&self, order: &mut Order) -> Result<Vec<Wanted>, Failure> {
        let solver = self.job.solver;
        let mut found = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.fault(&error))?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let Identifier::Dns(name) = authorization.identifier().identifier.clone() else {
                return Err(failure(Kind::Garbage, "it asks for what is no name"));
            };
            let challenge = authorization.challenge(solver.challenge_type()).ok_or_else(|| {
                let detail = format!("it takes no {} as proof for {name}", solver.proof());
                failure(Kind::Refused, &detail)
            })?;
            let processing = match challenge.status {
                ChallengeStatus::Pending => false,
                ChallengeStatus::Processing => true,
                ChallengeStatus::Invalid | ChallengeStatus::Valid => continue,
            };
            let value = challenge.key_authorization().dns_value();
            found.push(Wanted { name, token: challenge.token.clone(), value, processing });
        }
        Ok(found)
    }

    /// Shows certificates to the CA from here on.
    fn present(
        &mut self,
        wanted: &[Wanted],
        challenges: &Arc<Challenges>,
        account: &Account,
    ) -> Result<(), Failure> {
        let key = account.key.pkcs8().map_err(|error| failure(Kind::Garbage, &error))?;
        for Wanted { name, token, .. } in wanted {
            let unfit = |error: &dyn fmt::Display| {
                failure(Kind::Garbage, &format!("{name} has no certificate for its CA: {error}"))
            };
            let made = publish::certificate(&key, name, token).map_err(|error| unfit(&error))?;
            let shown = challenges.present(name, made).map_err(|error| unfit(&error))?;
            self.presented.push(shown);
        }
        Ok(())
    }

    /// Publishes `records`, and waits until they are seen.
    async fn publish(
        &mut self,
        records: &[TxtRecord],
        publisher: &dyn Publisher,
        propagation: &dyn Propagation,
    ) -> Result<(), Failure> {
        let deadlines = &self.issuer.deadlines;
        for record in records {
            if !self.pending.published.contains(record) {
                self.pending.published.push(record.clone());
            }
        }
        self.journal.pending(&self.pending);
        for record in records {
            let trouble = match timeout(deadlines.publish, publisher.present(record)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("not done within {} s", deadlines.publish.as_secs()),
            };
            let detail = format!("{} could not be published: {trouble}", record.name);
            return Err(failure(Kind::Validation, &detail));
        }
        let seen = async {
            for record in records {
                let mut pause = FIRST;
                while !propagation.sees(record).await {
                    sleep(pause).await;
                    pause = (pause * 3 / 2).min(LONGEST);
                }
            }
        };
        if timeout(deadlines.propagation, seen).await.is_err() {
            tracing::info!("not all records are seen where the CA will look; it is told to look");
        }
        Ok(())
    }

    /// Waits, and asks how the order stands.
    async fn poll(
        &self,
        order: &mut Order,
        patience: &mut Patience,
        overdue: Kind,
    ) -> Result<(), Failure> {
        let asked = self.http.retry_after().unwrap_or_default().min(ASKED);
        let wait = asked.max(patience.pause);
        patience.pause = (patience.pause * 3 / 2).min(LONGEST);
        let Some(left) = patience.left.checked_sub(wait) else {
            let limit = self.issuer.deadlines.verdict;
            let detail = format!("it came to no end within {} s", limit.as_secs());
            return Err(failure(overdue, &detail));
        };
        patience.left = left;
        sleep(wait).await;
        order.refresh().await.map_err(|error| self.fault(&error))?;
        Ok(())
    }

    async fn download(&self, order: &mut Order) -> Result<Chain, Failure> {
        let pem = order.certificate().await.map_err(|error| self.fault(&error))?;
        let pem = pem.ok_or_else(|| failure(Kind::Garbage, "it gives no certificate out"))?;
        let Pending { ca, names, .. } = &self.pending;
        certificate::chain(pem, names, &self.key()?, ca, self.issuer.transport.client.clock().utc())
    }

    fn signing_request(&self) -> Result<Vec<u8>, Failure> {
        let request = certificate::signing_request(&self.pending.names, &self.key()?);
        request.map_err(|error| failure(Kind::Garbage, &error.to_string()))
    }

    fn key(&self) -> Result<PrivatePkcs8KeyDer<'static>, Failure> {
        self.pending.key.pkcs8().map_err(|error| failure(Kind::Garbage, &error))
    }

    /// Why the order became invalid, in the CA's words.
    async fn verdict(&self, order: &mut Order) -> Failure {
        let mut found = order.state().error.as_ref().map(of_verdict);
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            if authorization.refresh().await.is_err() {
                break;
            }
            let mut of = authorization.challenges.iter().filter_map(|it| it.error.as_ref());
            if let Some(problem) = of.next() {
                let mut verdict = of_verdict(problem);
                verdict.detail = format!("{}: {}", authorization.identifier(), verdict.detail);
                found = Some(verdict);
                break;
            }
        }
        found.unwrap_or_else(|| failure(Kind::Validation, "the order became invalid"))
    }

    /// Takes back what was published. What cannot be taken back is tried again with the next order.
    async fn withdraw(&mut self) {
        // Another solver leaves what an order by DNS-01 has left to the next one of these.
        let Solver::Dns01 { publisher, .. } = self.job.solver else { return };
        if self.pending.published.is_empty() {
            return;
        }
        let limit = self.issuer.deadlines.publish;
        let mut left = self.pending.published.clone();
        let all = async {
            for record in &self.pending.published {
                match publisher.withdraw(record).await {
                    Ok(()) => left.retain(|other| other != record),
                    Err(error) => {
                        tracing::debug!(name = record.name, %error, "a record for the CA is left");
                    }
                }
            }
        };
        let ended = timeout(limit, all).await.is_ok();
        if !ended || !left.is_empty() {
            tracing::info!(left = left.len(), "records for the CA could not be taken back so far");
        }
        // So that a DNS server that never takes one back does not cost more with each order.
        left.truncate(LEFT);
        self.pending.published = left;
    }

    fn patience(&self) -> Patience {
        Patience { left: self.issuer.deadlines.verdict, pause: FIRST }
    }

    /// Why the CA does not look: that may be the verdict already.
    fn objection(&self, error: &Error) -> Failure {
        if let Error::Api(problem) = error
            && problem_type(problem) == "unauthorized"
        {
            return of_verdict(problem);
        }
        self.fault(error)
    }

    fn fault(&self, error: &Error) -> Failure {
        of_error(error, &self.http)
    }
}

/// What a CA wants to see of a name.
struct Wanted {
    name: String,
    token: String,
    /// The hash of the key authorization (RFC 8555 section 8.4).
    value: String,
    /// It is looking already.
    processing: bool,
}

/// Records that are remembered for being taken back later.
const LEFT: usize = 32;

/// How long a verdict may still take.
struct Patience {
    left: Duration,
    /// The next wait.
    pause: Duration,
}

/// Whether an order is refused for what it replaces.
fn objects_to_replacing(error: &Error) -> bool {
    if let Error::Api(problem) = error {
        return matches!(problem_type(problem), "alreadyReplaced" | "conflict" | "malformed");
    }
    // It took the order, without saying what for (RFC 9773 section 5).
    error.to_string().starts_with("replaces field mismatch")
}
