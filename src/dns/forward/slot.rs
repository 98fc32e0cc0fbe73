//! The one connection to an endpoint, shared by all who ask.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::session::{ConnectError, Session, Target};
use super::tally::Tally;
use super::{ForwardEvent, Shared};
use crate::clock::TimeTrust;
use crate::tls::{CertError, Client, Roots, Verdict, Verifier};
use crate::upstream::EndpointId;

/// An endpoint and its connection.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: EndpointId,
    pub(super) target: Target,
    roots: Roots,
    link: Mutex<Option<Link>>,
    tally: Mutex<Tally>,
}

/// How one endpoint is verified within one trust generation.
#[derive(Clone, Debug)]
pub(super) struct SlotTls {
    pub(super) verifier: Arc<Verifier>,
    config: Arc<ClientConfig>,
}

impl Slot {
    pub(super) fn new(id: EndpointId, target: Target, roots: Roots) -> Self {
        Self { id, target, roots, link: Mutex::new(None), tally: Mutex::default() }
    }

    pub(super) fn tls(&self, client: &Client, trust: TimeTrust) -> SlotTls {
        let verifier = client.verifier(self.roots.clone(), trust);
        let config = client.config(&verifier, self.target.alpn());
        SlotTls { verifier, config }
    }

    /// The open connection, or the one that is being made, or a fresh one.
    /// True if it was open before.
    pub(super) async fn session(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
    ) -> Result<(Arc<Session>, bool), Arc<ConnectError>> {
        loop {
            let mut phase = match self.current(shared) {
                Current::Open(session) => return Ok((session, true)),
                Current::Pending(phase) => phase,
            };
            // An error means that its task was ended for a change of path: another one is due.
            if let Ok(phase) = phase.wait_for(|phase| !matches!(phase, Phase::Connecting)).await {
                match &*phase {
                    Phase::Open(session) => return Ok((Arc::clone(session), false)),
                    Phase::Failed(error) => return Err(Arc::clone(error)),
                    Phase::Connecting => {}
                }
            }
        }
    }

    /// Drops the connection, and the attempt at one.
    pub(super) fn disconnect(&self) {
        if let Some(link) = self.locked().take() {
            link.task.abort();
            if let Phase::Open(session) = &*link.phase.borrow() {
                session.close();
            }
        }
    }

    /// Judges the open connection's chain at the clock's time: one that passes
    /// is no longer relaxed, one that fails is closed, and the reason returned.
    pub(super) fn rejudge(&self, verifier: &Verifier) -> Result<(), CertError> {
        let link = self.locked();
        let Some(phase) = link.as_ref().map(|link| link.phase.borrow()) else { return Ok(()) };
        let Phase::Open(session) = &*phase else { return Ok(()) };
        if session.is_closed() {
            return Ok(());
        }
        let judged = verifier.strictly(session.chain(), &self.target.server_name);
        match &judged {
            Ok(()) => session.set_relaxed(None),
            Err(_) => session.close(),
        }
        judged
    }

    fn current(self: &Arc<Self>, shared: &Arc<Shared>) -> Current {
        let mut link = self.locked();
        if let Some(Link { phase, .. }) = &*link {
            let alive = phase.has_changed().is_ok();
            match &*phase.borrow() {
                Phase::Open(session) if !session.is_closed() => {
                    return Current::Open(Arc::clone(session));
                }
                Phase::Connecting if alive => return Current::Pending(phase.clone()),
                Phase::Connecting | Phase::Open(_) | Phase::Failed(_) => {}
            }
        }
        let (sender, phase) = watch::channel(Phase::Connecting);
        let task = tokio::spawn(Arc::clone(self).connect(Arc::clone(shared), sender));
        *link = Some(Link { phase: phase.clone(), task: task.abort_handle() });
        Current::Pending(phase)
    }

    async fn connect(self: Arc<Self>, shared: Arc<Shared>, sender: watch::Sender<Phase>) {
        let tls = shared.tls(self.id);
        let opened = match tls {
            Some(tls) => {
                let open =
                    Session::open(&self.target, tls.config, &tls.verifier, shared.client.meter());
                tokio::time::timeout(CONNECT, open)
                    .await
                    .unwrap_or(Err(ConnectError::Timeout(CONNECT)))
            }
            None => Err(ConnectError::Timeout(CONNECT)),
        };
        // A change of trust locks each slot after it has published its
        // generation: either it finds this session, or this finds its rule.
        let link = self.locked();
        let ours = |link: &Link| link.phase.same_channel(&sender.subscribe());
        if !link.as_ref().is_some_and(ours) {
            return;
        }
        let phase = match opened.and_then(|session| self.admit(session, &shared)) {
            Ok(session) => Phase::Open(Arc::new(session)),
            Err(error) => {
                if let ConnectError::Certificate(CertError::Dates(facts)) = &error {
                    shared.contradict(self.id, facts);
                }
                tracing::debug!(
                    upstream = self.target.endpoint.name,
                    address = %self.target.endpoint.address,
                    %error,
                    "no connection"
                );
                Phase::Failed(Arc::new(error))
            }
        };
        sender.send_replace(phase);
    }

    /// Judges a fresh connection's chain by the rule in force when it is taken
    /// into use, a resumed one's like any other's.
    fn admit(&self, session: Session, shared: &Shared) -> Result<Session, ConnectError> {
        let Some(tls) = shared.tls(self.id) else { return Ok(session) };
        let verdict = tls
            .verifier
            .admit(session.chain(), &self.target.server_name)
            .map_err(ConnectError::Certificate)?;
        let mut relaxed_only = false;
        if let Verdict::Relaxed(objection) = verdict {
            session.set_relaxed(Some(shared.remember(self.id, session.chain())));
            relaxed_only = objection.is_some();
            if let Some(facts) = objection {
                shared.contradict(self.id, &facts);
            }
        }
        shared.report(ForwardEvent::Verdict { endpoint: self.id, relaxed_only });
        Ok(session)
    }

    /// Answers of which nobody has been told.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked(&self) -> MutexGuard<'_, Option<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(2);

enum Current {
    Open(Arc<Session>),
    Pending(watch::Receiver<Phase>),
}

#[derive(Debug)]
struct Link {
    phase: watch::Receiver<Phase>,
    task: AbortHandle,
}

#[derive(Clone, Debug)]
enum Phase {
    Connecting,
    Failed(Arc<ConnectError>),
    Open(Arc<Session>),
}
