//! Asks encrypted upstreams, whatever our clock is worth.
//!
//! Every endpoint has one warm connection that all questions share. The plan
//! says in which order endpoints are tried; one that is slow is raced against
//! the next. What passed rule R alone is tagged until the clock is known.

mod chains;
mod doq;
mod message;
mod session;
mod slot;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use crate::cache::ChainId;
use crate::clock::{CertDates, TimeTrust};
use crate::config;
use crate::dns::{BoxFuture, Forward, ForwardError, Forwarded};
use crate::tls::{CertError, Client, DateFacts, Roots, server_name};
use crate::upstream::{Budget, Endpoint, EndpointId, Outcome, Plan};

use chains::Chains;
use message::Outgoing;
use session::{ExchangeError, Target};
use slot::{Slot, SlotTls};
use tally::Tally;

/// Forwards questions to upstreams. Must be used within a tokio runtime.
#[derive(Clone, Debug)]
pub struct Forwarder {
    shared: Arc<Shared>,
}

impl Forwarder {
    /// A forwarder to every address of `upstreams`, and what it reports.
    ///
    /// [`Self::endpoints`] tells the endpoints in the order that
    /// [`EndpointId`] counts. It asks nobody before [`Self::set_plan`].
    #[must_use]
    pub fn new(
        upstreams: &[config::Upstream],
        client: Client,
        trust: TimeTrust,
    ) -> (Self, mpsc::Receiver<ForwardEvent>) {
        let slots: Vec<_> = upstreams
            .iter()
            .flat_map(targets)
            .enumerate()
            .map(|(index, (target, roots))| Arc::new(Slot::new(EndpointId(index), target, roots)))
            .collect();
        let (events, receiver) = mpsc::channel(EVENTS);
        let shared = Shared {
            generation: ArcSwap::from_pointee(Generation::new(&slots, &client, trust)),
            chains: Mutex::default(),
            plan: ArcSwap::default(),
            turn: AtomicU64::default(),
            budget: Mutex::default(),
            places: Semaphore::new(IN_FLIGHT),
            slots,
            client,
            events,
        };
        (Self { shared: Arc::new(shared) }, receiver)
    }

    /// Every endpoint, for the pool that is to plan over them.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.shared.slots.iter().map(|slot| slot.target.endpoint.clone()).collect()
    }

    /// From here on endpoints are tried in this order.
    pub fn set_plan(&self, plan: Plan) {
        self.shared.plan.store(Arc::new(plan));
    }

    /// Begins a trust generation.
    ///
    /// Connections made from here on are judged by the rule of `trust`, and
    /// resume none of an earlier one's. Unless that is rule R alone, every
    /// chain on which something rests is judged at the clock's time: a session
    /// whose chain fails is closed, and logged with its dates. Under rule R
    /// all stays as it is.
    #[must_use = "answers of chains that did not pass are to be dropped"]
    pub fn rise(&self, trust: TimeTrust) -> Settled {
        let shared = &self.shared;
        let generation = Arc::new(Generation::new(&shared.slots, &shared.client, trust));
        shared.generation.store(Arc::clone(&generation));
        if matches!(trust.dates, CertDates::RuleR { .. }) {
            return Settled::default();
        }

        let mut failed = Vec::new();
        for (slot, tls) in shared.slots.iter().zip(&generation.slots) {
            if let Err(error) = slot.rejudge(&tls.verifier) {
                log_closed(&slot.target.endpoint, &error);
                if let CertError::Dates(facts) = &error {
                    shared.contradict(slot.id, facts);
                }
                shared.failed(slot, shared.client.clock().mono());
                failed.push(Refused { endpoint: slot.id, error });
            }
        }
        let (passed, old) = shared.chains().settle(|endpoint, chain| {
            match (shared.slots.get(endpoint.0), generation.slots.get(endpoint.0)) {
                (Some(slot), Some(tls)) => tls.verifier.strictly(chain, &slot.target.server_name),
                _ => Ok(()),
            }
        });
        for (endpoint, error) in old {
            // Its session may have been closed and reported above.
            if !failed.iter().any(|refused| refused.endpoint == endpoint) {
                failed.push(Refused { endpoint, error });
            }
        }
        Settled { passed, failed }
    }

    /// Drops every connection, and what is known of it: a link, address or route changed, and
    /// they may lie on a dead path.
    pub fn path_changed(&self) {
        for slot in &self.shared.slots {
            slot.disconnect();
            *slot.tally() = Tally::default();
        }
    }

    /// Asks `endpoint` for the root's name servers; what comes of it is
    /// reported like any outcome. Also warms its connection.
    pub async fn probe(&self, endpoint: EndpointId) {
        if let Some(outgoing) = Outgoing::new(message::root_query()) {
            let _ = Arc::clone(&self.shared).attempt(endpoint, Arc::new(outgoing), DOUBT).await;
        }
    }
}

impl Forwarder {
    /// The endpoints in the order in which they are tried.
    #[must_use]
    pub fn order(&self) -> Vec<EndpointId> {
        self.shared.plan.load().order.iter().map(|candidate| candidate.id).collect()
    }

    /// Sends `query` to `endpoint` and to nobody else.
    ///
    /// # Errors
    ///
    /// It does not answer, or `query` is none with one question.
    pub async fn ask(&self, endpoint: EndpointId, query: Vec<u8>) -> Result<Vec<u8>, ForwardError> {
        let outgoing = Outgoing::new(query).ok_or(ForwardError::NoUpstream)?;
        let found = Arc::clone(&self.shared).attempt(endpoint, Arc::new(outgoing), DOUBT).await;
        found.map(|found| found.forwarded.message).map_err(ForwardError::Unreachable)
    }
}

impl Forward for Forwarder {
    fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
        Box::pin(self.shared.forward(query))
    }
}

/// What the forwarder learns of endpoints. When nobody keeps up, the newest are lost.
#[derive(Clone, Debug, PartialEq)]
pub enum ForwardEvent {
    /// The clock's time lies outside the dates of a chain that passes rule R:
    /// evidence against the clock, or against the certificate.
    Contradiction {
        /// Whose.
        endpoint: EndpointId,
        /// The dates and the time.
        facts: Box<DateFacts>,
    },
    /// Exchanges ended. Answers of an endpoint that is known to answer are told of together.
    Outcome {
        /// With whom.
        endpoint: EndpointId,
        /// How.
        outcome: Outcome,
    },
    /// A connection was opened.
    Verdict {
        /// To whom.
        endpoint: EndpointId,
        /// Its chain passes rule R only, though the clock is set.
        relaxed_only: bool,
    },
}

/// What a rise of trust did to what was accepted before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settled {
    /// Chains whose dates are right at the known time. Answers tagged with any
    /// other are to be dropped.
    pub passed: BTreeSet<ChainId>,
    /// Endpoints whose chains are refused at the known time.
    pub failed: Vec<Refused>,
}

/// An endpoint whose chain is refused at the known time.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Which.
    pub endpoint: EndpointId,
    /// Why, with both times.
    pub error: CertError,
}

/// Questions waiting for upstreams at most.
const IN_FLIGHT: usize = 1000;
/// Reports waiting to be read at most.
const EVENTS: usize = 1024;
/// Endpoints asked the same question at the same time at most.
const RACERS: usize = 3;
/// An endpoint that has not answered for this long has failed.
const ANSWER: Duration = Duration::from_secs(2);
/// A connection that is silent for this long, and four times as long as is usual, may be dead.
const DOUBT: Duration = Duration::from_millis(700);
/// A better answer than the one at hand is awaited so long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Clients give up after 5 s, some after half of that.
const DEADLINE: Duration = Duration::from_millis(2400);
/// While no endpoint answers, a question is most likely in vain.
const DEADLINE_DOWN: Duration = Duration::from_secs(2);
/// A hedge for which the budget has nothing is thought of again after this time.
const HEDGE_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Shared {
    slots: Vec<Arc<Slot>>,
    generation: ArcSwap<Generation>,
    chains: Mutex<Chains>,
    plan: ArcSwap<Plan>,
    /// Counts the questions.
    turn: AtomicU64,
    budget: Mutex<Budget>,
    places: Semaphore,
    client: Client,
    events: mpsc::Sender<ForwardEvent>,
}

/// How every endpoint is verified while trust in the clock stays what it is.
#[derive(Debug)]
struct Generation {
    slots: Vec<SlotTls>,
    dates: CertDates,
}

impl Generation {
    fn new(slots: &[Arc<Slot>], client: &Client, trust: TimeTrust) -> Self {
        let slots = slots.iter().map(|slot| slot.tls(client, trust)).collect();
        Self { slots, dates: trust.dates }
    }
}

/// An answer, and whether a better one may be had elsewhere.
#[derive(Debug)]
struct Found {
    forwarded: Forwarded,
    better_elsewhere: bool,
    /// It is SERVFAIL or REFUSED.
    evasive: bool,
}

impl Shared {
    async fn forward(self: &Arc<Self>, query: Vec<u8>) -> Result<Forwarded, ForwardError> {
        let _place = self.places.try_acquire().map_err(|_| ForwardError::Busy(IN_FLIGHT))?;
        let outgoing = Outgoing::new(query).map(Arc::new).ok_or_else(|| {
            ForwardError::Unreachable(
                "none; the message is not a query with one question".to_owned(),
            )
        })?;
        let plan = self.plan.load_full();
        let mut candidates = plan.order_at(self.turn.fetch_add(1, Ordering::Relaxed)).peekable();
        self.budget().handle_question();
        let mut racers = Racers::default();
        let (mut spare, mut last, mut evasive) = (None, None, Vec::new());
        let within = if plan.all_down { DEADLINE_DOWN } else { DEADLINE };
        let (mut deadline, mut patience) = (pin!(sleep(within)), pin!(sleep(within)));
        let mut hedge = pin!(sleep(DEADLINE));

        let mut start_next = true;
        loop {
            if std::mem::take(&mut start_next) {
                if let Some(candidate) = candidates.next() {
                    let doubt = DOUBT.max(candidate.hedge_after * 4);
                    let attempt =
                        Arc::clone(self).attempt(candidate.id, Arc::clone(&outgoing), doubt);
                    racers.0.push((candidate.id, Box::pin(attempt)));
                    hedge.set(sleep(candidate.hedge_after));
                } else if racers.0.is_empty() {
                    break;
                }
            }
            let may_hedge = racers.0.len() < RACERS
                && candidates.peek().is_some_and(|candidate| candidate.hedges);
            tokio::select! {
                (place, endpoint, finished) = racers.first() => match finished {
                    Ok(Found { forwarded, better_elsewhere: false, .. }) => {
                        self.note_race(endpoint, racers.0.iter().take(place), &evasive);
                        return Ok(forwarded);
                    }
                    Ok(Found { forwarded, evasive: evades, .. }) => {
                        if evades {
                            evasive.push(endpoint);
                        }
                        if spare.is_none() {
                            spare = Some(forwarded);
                            patience.set(sleep(PATIENCE));
                        }
                        start_next = true;
                    }
                    Err(reason) => {
                        self.budget().handle_failure(self.client.clock().mono());
                        last = Some(reason);
                        start_next = true;
                    }
                },
                () = &mut hedge, if may_hedge => {
                    start_next = self.budget().take(self.client.clock().mono());
                    if !start_next {
                        hedge.set(sleep(HEDGE_AGAIN));
                    }
                }
                () = &mut patience, if spare.is_some() => break,
                () = &mut deadline => break,
            }
        }
        spare.ok_or_else(|| match last {
            Some(reason) => ForwardError::Unreachable(reason),
            None if plan.order.is_empty() => ForwardError::NoUpstream,
            None => ForwardError::Unreachable("silent".to_owned()),
        })
    }

    /// Takes note of what a question that `winner` answered tells of others: of those that were
    /// asked before and are silent still, and of those that were evasive.
    fn note_race<'r>(
        &self,
        winner: EndpointId,
        silent: impl Iterator<Item = &'r (EndpointId, Attempt)>,
        evasive: &[EndpointId],
    ) {
        for (endpoint, _) in silent {
            if self.budget().handle_overtaken(*endpoint, self.client.clock().mono())
                && let Some(slot) = self.slots.get(endpoint.0)
            {
                let mut tally = slot.tally();
                self.tell(slot, tally.failed());
                self.tell(slot, Some(Outcome::Overtaken));
            }
        }
        let operator = |endpoint: EndpointId| {
            self.slots.get(endpoint.0).map(|slot| &slot.target.endpoint.operator)
        };
        for &endpoint in evasive {
            if operator(endpoint) != operator(winner) {
                self.report(ForwardEvent::Outcome { endpoint, outcome: Outcome::Outdone });
            }
        }
    }

    /// Asks one endpoint and reports how it went. A connection that has answered before and gives
    /// nothing for `doubt` is replaced, and asked again.
    async fn attempt(
        self: Arc<Self>,
        endpoint: EndpointId,
        outgoing: Arc<Outgoing>,
        doubt: Duration,
    ) -> Result<Found, String> {
        let slot = self.slots.get(endpoint.0).ok_or("an endpoint that does not exist")?;
        let clock = self.client.clock();
        let asked = clock.mono();
        let told = |reason: String| {
            let Endpoint { name, operator, address } = &slot.target.endpoint;
            format!("{name} at {address} ({operator}): {reason}")
        };
        let failed = |reason: String| {
            self.failed(slot, asked);
            told(reason)
        };
        let (mut fresh, mut left) = (false, ANSWER);
        loop {
            let (session, reused) =
                slot.session(&self).await.map_err(|error| failed(error.to_string()))?;
            let (begun, heard) = (clock.mono(), session.heard());
            let mut exchange = pin!(session.exchange(&outgoing));
            let mut ended = timeout(doubt.min(left), &mut exchange).await;
            if ended.is_err() && doubt < left {
                if !fresh && heard > 0 && session.heard() == heard {
                    // The path may have changed without a word: connections over it are dead.
                    session.close();
                    fresh = true;
                    left = left.saturating_sub(doubt);
                    continue;
                }
                ended = timeout(left.saturating_sub(doubt), exchange).await;
            }
            match ended {
                Ok(Ok(answer)) => {
                    let now = clock.mono();
                    let latency = now.saturating_duration_since(begun);
                    self.budget().handle_answer(endpoint);
                    self.tell(slot, slot.tally().answered(latency, now));
                    return Ok(self.found(&outgoing, answer, session.relaxed()));
                }
                // A connection may be closed at any time; that is no failure of who closed it.
                Ok(Err(ExchangeError::Closed)) if reused && !fresh => fresh = true,
                // Ours to answer for.
                Ok(Err(error @ ExchangeError::Full)) => return Err(told(error.to_string())),
                Ok(Err(error)) => return Err(failed(error.to_string())),
                Err(_) => {
                    if session.heard() == heard {
                        // Nothing at all came: the path may be dead.
                        session.close();
                    }
                    return Err(failed(format!("no answer within {} s", ANSWER.as_secs())));
                }
            }
        }
    }

    fn found(&self, outgoing: &Outgoing, answer: Vec<u8>, relaxed: Option<ChainId>) -> Found {
        let coarse = matches!(self.generation.load().dates, CertDates::StrictElseRuleR { .. });
        let evasive = message::is_evasive(&answer);
        let better_elsewhere = evasive || (coarse && relaxed.is_some());
        let message = outgoing.answered(answer);
        Found { forwarded: Forwarded::unchecked(message, relaxed), better_elsewhere, evasive }
    }

    fn tls(&self, endpoint: EndpointId) -> Option<SlotTls> {
        self.generation.load().slots.get(endpoint.0).cloned()
    }

    fn remember(&self, endpoint: EndpointId, chain: &[CertificateDer<'static>]) -> ChainId {
        self.chains().remember(endpoint, chain)
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chains(&self) -> MutexGuard<'_, Chains> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports that the clock and a chain contradict each other, unless the
    /// chain is out of order whatever the clock says.
    fn contradict(&self, endpoint: EndpointId, facts: &DateFacts) {
        if facts.passes_rule_r {
            let facts = Box::new(facts.clone());
            self.report(ForwardEvent::Contradiction { endpoint, facts });
        }
    }

    fn failed(&self, slot: &Slot, began: Instant) {
        // Kept until all is told: an answer that comes meanwhile is told of after the failure.
        let mut tally = slot.tally();
        self.tell(slot, tally.failed());
        self.tell(slot, Some(Outcome::Failed { began }));
    }

    fn tell(&self, slot: &Slot, outcome: Option<Outcome>) {
        if let Some(outcome) = outcome {
            self.report(ForwardEvent::Outcome { endpoint: slot.id, outcome });
        }
    }

    fn report(&self, event: ForwardEvent) {
        if self.events.try_send(event).is_err() {
            tracing::debug!("a report on an upstream is lost: nobody reads them");
        }
    }
}

type Attempt = Pin<Box<dyn Future<Output = Result<Found, String>> + Send>>;

/// Attempts at the same question, in the order in which they began.
#[derive(Default)]
struct Racers(Vec<(EndpointId, Attempt)>);

impl Racers {
    /// The first to finish, which then has left, and how many began before it and have not. Never,
    /// if there are none.
    async fn first(&mut self) -> (usize, EndpointId, Result<Found, String>) {
        poll_fn(|context| {
            for index in 0..self.0.len() {
                if let Poll::Ready(finished) = self.0[index].1.as_mut().poll(context) {
                    let (endpoint, _) = self.0.remove(index);
                    return Poll::Ready((index, endpoint, finished));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Whoever lost the race runs on, so that a silent endpoint is found out.
impl Drop for Racers {
    fn drop(&mut self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            for (_, racer) in self.0.drain(..) {
                runtime.spawn(racer);
            }
        }
    }
}

/// An endpoint per address. A name no certificate can carry is left out, and logged.
fn targets(upstream: &config::Upstream) -> Vec<(Target, Roots)> {
    let name = match server_name(&upstream.name) {
        Ok(name) => name,
        Err(error) => {
            tracing::warn!(upstream = %upstream.name, %error, "left out: not a name for TLS");
            return Vec::new();
        }
    };
    let roots = Roots::or_builtin(upstream.ca.as_deref()).pinned(&upstream.pins);
    let target = |address: &std::net::IpAddr| Target {
        endpoint: Endpoint {
            name: upstream.name.to_string(),
            operator: upstream.operator.clone(),
            address: (*address, upstream.port).into(),
        },
        server_name: name.clone(),
        transport: upstream.transport,
        path: upstream.path.clone(),
        method: upstream.method,
    };
    upstream.addresses.iter().map(|address| (target(address), roots.clone())).collect()
}

fn log_closed(endpoint: &Endpoint, error: &CertError) {
    if let CertError::Dates(facts) = error {
        tracing::warn!(
            upstream = endpoint.name,
            address = %endpoint.address,
            not_before = %facts.validity.not_before,
            not_after = %facts.validity.not_after,
            time = %facts.at,
            "connection closed: its certificate is not valid at the time that is now known"
        );
    } else {
        tracing::warn!(
            upstream = endpoint.name,
            address = %endpoint.address,
            %error,
            "connection closed: its certificate is refused"
        );
    }
}
