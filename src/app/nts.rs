//! Sources that are asked under NTS: their keys and cookies, and what of these outlives a restart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use tracing::{info, warn};

use super::steward::Steward;
use crate::clock::{Level, Reading, TimeTrust, UnixTime};
use crate::config::{Config, Source};
use crate::node::ports::Clock;
use crate::ntp::client::{AskError, Proof, ask};
use crate::ntp::nts::client::{Question, Session};
use crate::ntp::nts::exchange::{Exchanged, Partner};
use crate::tls::{self, Roots, server_name};

/// Waited after a key exchange that failed; twice as long each time, up to the second.
const FIRST_PAUSE: Duration = Duration::from_secs(4);
const LONGEST_PAUSE: Duration = Duration::from_secs(256);

/// How often keys and cookies are kept, and how long after the time is verified first.
pub(super) const KEEP_EACH: Duration = Duration::from_secs(3600);
const SETTLES: Duration = Duration::from_secs(16);

/// Sessions by the name and address of their server.
pub(super) type Kept = BTreeMap<String, Session>;

/// The sources under NTS, by their place among all.
#[derive(Debug, Default)]
pub(super) struct NtsSources(BTreeMap<usize, Arc<NtsSource>>);

impl NtsSources {
    /// Those of `config`, with what is kept of them. What those of `before` hold goes on.
    pub(super) fn new(config: &Config, kept: &Kept, before: &Self) -> Self {
        let known = |label: &str| before.0.values().find(|source| source.label == label);
        let sources = config.clock.sources.iter().enumerate().filter_map(|(index, source)| {
            let made = NtsSource::new(source)?;
            let taken = known(&made.label).map(|before| before.lock().take());
            *made.lock() = match taken {
                Some(held) => held,
                // Nothing unproven was ever kept.
                None => kept.get(&made.label).cloned().map(Held::proven),
            };
            Some((index, Arc::new(made)))
        });
        Self(sources.collect())
    }

    /// The source at `index` among all.
    pub(super) fn get(&self, index: usize) -> Option<&Arc<NtsSource>> {
        self.0.get(&index)
    }

    /// The place among all sources of the one at `nth` place here.
    pub(super) fn nth(&self, nth: usize) -> Option<usize> {
        self.0.keys().nth(nth).copied()
    }

    /// The place here of the source at `index` among all.
    pub(super) fn place_of(&self, index: usize) -> Option<usize> {
        self.0.keys().position(|key| *key == index)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Judges chains again that have not passed at a verified time, by what is known of it at present.
    pub(super) fn rise(&self, trust: TimeTrust, utc: UnixTime) {
        for source in self.0.values() {
            source.rise(trust, utc);
        }
    }

    /// What may be kept: keys that were got from a chain which was valid at a verified time.
    pub(super) fn to_keep(&self) -> Kept {
        let sources = self.0.values().filter_map(|source| {
            let held = source.lock();
            let held = held.as_ref().filter(|held| held.chain.is_none())?;
            Some((source.label.clone(), held.session.clone()))
        });
        sources.collect()
    }
}

/// One source under NTS.
#[derive(Debug)]
pub(super) struct NtsSource {
    /// Under which it is kept.
    label: String,
    partner: Partner,
    port: u16,
    held: Mutex<Option<Held>>,
    exchange: tokio::sync::Mutex<Pause>,
}

#[derive(Debug)]
struct Held {
    session: Session,
    /// Whether the chain has passed at our clock's time.
    strictly: bool,
    /// Until it has passed at a verified time.
    chain: Option<Vec<CertificateDer<'static>>>,
}

impl Held {
    fn proven(session: Session) -> Self {
        Self { session, strictly: true, chain: None }
    }
}

/// When keys may be exchanged again.
#[derive(Debug)]
struct Pause {
    until: Option<Instant>,
    next: Duration,
    /// What came of the last exchange.
    why: String,
}

impl Pause {
    fn none() -> Self {
        Self { until: None, next: FIRST_PAUSE, why: String::new() }
    }
}

/// What a question needs of the world.
#[derive(Debug)]
pub(super) struct World {
    pub(super) client: tls::Client,
    pub(super) trust: TimeTrust,
    /// Time before which no answer is taken to be.
    pub(super) pivot: UnixTime,
    pub(super) patience: Duration,
    /// What a server names as its source that has its time from this machine.
    pub(super) own: Arc<Vec<[u8; 4]>>,
}

/// What came of a question.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) reading: Reading,
    /// Whether it is authenticated time: the keys were not got while dates were relaxed.
    pub(super) strictly: bool,
}

/// Why nothing came of one.
#[derive(Debug)]
pub(super) enum Unsaid {
    /// The NTP server did not give the time.
    Asked(AskError),
    /// There are no keys to ask with.
    NoKeys(String),
}

impl NtsSource {
    fn new(source: &Source) -> Option<Self> {
        let nts = source.nts.as_ref()?;
        let name = source.name.as_ref()?;
        let server = server_name(name)
            .inspect_err(|error| warn!(source = %name, %error, "left out: not a name for TLS"))
            .ok()?;
        let roots = Roots::or_builtin(nts.ca.as_deref());
        Some(Self {
            label: format!("{name} {} {}", source.address, nts.port),
            partner: Partner { name: server, roots },
            port: nts.port,
            held: Mutex::default(),
            exchange: tokio::sync::Mutex::new(Pause::none()),
        })
    }

    /// Asks for the time; exchanges keys with the server at `address` first if there are none.
    pub(super) async fn ask(&self, address: SocketAddr, world: &World) -> Result<Said, Unsaid> {
        let clock = world.client.clock();
        if self.cookies() == 0 {
            self.exchange_keys(address, world).await.map_err(Unsaid::NoKeys)?;
        }
        let none = || Unsaid::NoKeys("no NTS cookie is left".to_owned());
        let (mut question, server, strictly) = self.question().ok_or_else(none)?;
        let proof = Proof::Nts(&mut question);
        let said = ask(server, &**clock, world.pivot, world.patience, proof, &world.own).await;
        if let Err(AskError::NtsNak) = said {
            // It has forgotten its keys; so have we. If it does so for ever, the pauses grow.
            *self.lock() = None;
        } else if said.is_ok()
            && let Some(held) = &mut *self.lock()
        {
            held.session.restock(question.into_cookies());
        }
        said.map(|reading| Said { reading, strictly }).map_err(Unsaid::Asked)
    }

    /// How many cookies are left.
    pub(super) fn cookies(&self) -> usize {
        self.lock().as_ref().map_or(0, |held| held.session.cookies())
    }

    fn question(&self) -> Option<(Question, SocketAddr, bool)> {
        let mut held = self.lock();
        let held = held.as_mut()?;
        let question = held.session.next_question()?;
        Some((question, held.session.server(), held.strictly))
    }

    async fn exchange_keys(&self, address: SocketAddr, world: &World) -> Result<(), String> {
        let Ok(mut pause) = self.exchange.try_lock() else {
            return Err("NTS keys are being exchanged".to_owned());
        };
        let now = world.client.clock().mono();
        if pause.until.is_some_and(|until| now < until) {
            return Err(pause.why.clone());
        }
        pause.until = Some(now + pause.next);
        pause.next = (pause.next * 2).min(LONGEST_PAUSE);
        "the NTS keys that were exchanged last do not serve".clone_into(&mut pause.why);
        let place = SocketAddr::new(address.ip(), self.port);
        let exchanged = self.partner.exchange(place, &world.client, world.trust).await;
        let Exchanged { session, strictly, chain } = match exchanged {
            Ok(exchanged) => exchanged,
            Err(error) => {
                pause.why = error.to_string();
                return Err(pause.why.clone());
            }
        };
        info!(source = self.label, cookies = session.cookies(), strictly, "NTS keys exchanged");
        let chain = Some(chain).filter(|_| !(strictly && world.trust.verified));
        *self.lock() = Some(Held { session, strictly, chain });
        Ok(())
    }

    /// The keys serve: the next exchange need not wait.
    pub(super) fn served(&self) {
        if let Ok(mut pause) = self.exchange.try_lock() {
            *pause = Pause::none();
        }
    }

    fn rise(&self, trust: TimeTrust, utc: UnixTime) {
        let mut slot = self.lock();
        let Some(held) = &mut *slot else { return };
        let Some(chain) = &held.chain else { return };
        let judged = self.partner.judge(chain, utc);
        held.strictly = judged.is_ok();
        if trust.verified {
            match judged {
                Ok(()) => held.chain = None,
                Err(error) => {
                    warn!(source = self.label, %error, "NTS keys are dropped: they were got while the time was not known, by a certificate that does not pass at the known time");
                    *slot = None;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Steward {
    /// Judges the chains again by which NTS keys were got: at a rise of trust, and later, for an exchange
    /// may have begun before it and ended after.
    pub(super) fn judge_nts(&self) {
        if let Some(trust) = self.trust.filter(|trust| trust.level >= Level::Coarse) {
            self.nts.rise(trust, self.boot.clock.utc());
        }
    }

    /// Keeps keys and cookies of NTS for the next start, and changes the key of our cookies.
    pub(super) fn keep_nts(&self) {
        self.judge_nts();
        let sessions = self.nts.to_keep();
        if sessions != self.boot.nts_sessions() {
            self.boot.keep_nts_sessions(&sessions);
        }
        let rotated = self.services.ntp_server.cookie_keys().and_then(|keys| {
            let known = self.trust.is_some_and(|trust| trust.level >= Level::Coarse);
            keys.rotated(self.boot.clock.utc()).filter(|_| known)
        });
        if let Some(keys) = rotated {
            self.boot.keep_nts_cookies(&keys);
            self.services.ntp_server.set_cookie_keys(Arc::new(keys));
        }
    }

    /// Keeps them once this is due again.
    pub(super) fn keep_nts_if_due(&mut self, now: Instant) {
        if now >= self.next_keep_nts {
            self.next_keep_nts = now + KEEP_EACH;
            self.keep_nts();
        }
    }

    /// The time is verified: once everybody has been asked by it, what they gave is worth keeping.
    pub(super) fn keep_nts_soon(&mut self, now: Instant) {
        self.next_keep_nts = now + SETTLES;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::{CertDates, Level};
    use crate::tls::pki::{DAY, Pki, TODAY, trust};

    #[test]
    fn keys_of_an_exchange_that_began_before_the_time_was_known_are_judged_after_it() {
        let pki = Pki::new();
        let good = pki.leaf("time.test", TODAY - DAY, TODAY + DAY).chain();
        let expired = pki.leaf("time.test", TODAY - DAY * 9, TODAY - DAY).chain();
        let sources = sources(&pki, [good, expired]);
        let verified = TimeTrust { verified: true, ..trust(CertDates::Strict) };
        let coarse =
            TimeTrust { level: Level::Coarse, verified: false, ..trust(CertDates::Strict) };

        sources.rise(coarse, TODAY);
        let strictly = |at| sources.get(at).map(|source| source.question().unwrap().2);
        assert_eq!((strictly(0), strictly(1)), (Some(true), Some(false)));
        assert!(sources.to_keep().is_empty(), "the clock is not verified");

        sources.rise(verified, TODAY);
        assert_eq!(sources.to_keep().len(), 1);
        assert_eq!(sources.get(1).unwrap().cookies(), 0, "they are dropped");
    }

    /// Sources whose keys were got while the time was not known, by these chains.
    fn sources(pki: &Pki, chains: [Vec<CertificateDer<'static>>; 2]) -> NtsSources {
        let session = json!({
            "server": "192.0.2.1:123",
            "keys": { "client": vec![1; 32], "server": vec![2; 32] },
            "cookies": [[1], [2], [3], [4]],
        });
        let sources = chains.into_iter().enumerate().map(|(index, chain)| {
            let session: Session = serde_json::from_value(session.clone()).unwrap();
            let held = Held { session, strictly: false, chain: Some(chain) };
            let source = NtsSource {
                label: index.to_string(),
                partner: Partner { name: "time.test".try_into().unwrap(), roots: pki.roots() },
                port: 4460,
                held: Mutex::new(Some(held)),
                exchange: tokio::sync::Mutex::new(Pause::none()),
            };
            (index, Arc::new(source))
        });
        NtsSources(sources.collect())
    }
}
