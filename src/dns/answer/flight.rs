//! Questions on their way to an upstream, each at most once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::counters::{Counters, count};
use super::turns::Turns;
use crate::cache::{Answer, Bounds, Cache, ChainId, Key, Provenance, Standing, Validation, View};
use crate::dns::task::Task;
use crate::dns::{Forward, ForwardError, Forwarded};
use crate::node::ports::Clock;
use crate::upstream::Purpose;
use crate::wire::{Ede, Header, Type, UDP_PAYLOAD, flags};

/// Questions under way at once, and those who wait for one of them.
const FLIGHTS_MAX: usize = 1_000;
const WAITERS_MAX: usize = 1_000;

/// A question that has been under way for so long gives way to others when there is no room: its
/// upstream most likely does not answer. To let go of younger ones would waste what upstreams are
/// about to answer, until under load nobody is answered.
const PATIENCE: Duration = Duration::from_millis(500);

/// The longest that a question may be under way.
const FLIGHT_MAX: Duration = Duration::from_secs(8);

/// The same while no upstream answers: somebody may be back at any moment, and clients are told
/// that nobody is before they give up.
const DOWN_MAX: Duration = Duration::from_millis(2300);

/// How long it is remembered that no upstream could be asked, in seconds: the least that
/// RFC 9520 section 3.2 asks for, since the uplink may be back at any moment.
const FAILURE_TTL: u32 = 1;

/// How long it is remembered that data does not validate, in seconds: asking again is likely to
/// give the same, until its owner mends it.
const BOGUS_TTL: u32 = 5;

/// Where a question's answer arrives.
pub(super) type Arrival = watch::Receiver<Option<Answer>>;

/// A [`Question`], shared by all who know of it.
type Octets = Arc<[u8]>;

/// Where it is put.
type Landings = Arc<watch::Sender<Option<Answer>>>;

/// Asks upstreams, and lets everybody with the same question wait for the one answer.
#[derive(Debug)]
pub(super) struct Flights {
    pub(super) cache: Arc<Cache>,
    pub(super) forward: Arc<dyn Forward>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) counters: Counters,
    pub(super) turns: Arc<Turns>,
    runtime: Handle,
    under_way: Mutex<UnderWay>,
}

impl Flights {
    pub(super) fn new(
        cache: Arc<Cache>,
        forward: Arc<dyn Forward>,
        clock: Arc<dyn Clock>,
        runtime: Handle,
        pace: u32,
    ) -> Self {
        let counters = Counters::default();
        let turns = Turns::new(pace, Arc::clone(&clock), runtime.clone());
        Self { cache, forward, clock, counters, turns, runtime, under_way: Mutex::default() }
    }

    /// Sends a question on its way, or joins it. It goes on when nobody waits any longer.
    ///
    /// When as many are under way as may, the oldest gives way and fails, if it has been for
    /// [`PATIENCE`].
    ///
    /// # Errors
    ///
    /// If as many are under way as may and none gives way, or as many wait for this question as may.
    pub(super) fn join(
        self: &Arc<Self>,
        key: &Key<'_>,
        ttls: Bounds,
        purpose: Purpose,
    ) -> Result<Arrival, ForwardError> {
        let question = Question::from(key);
        let mut under_way = self.under_way();
        if let Some(flight) = under_way.flights.get(&question.octets) {
            let waiting = flight.sender.receiver_count();
            if waiting >= WAITERS_MAX {
                return Err(ForwardError::Busy(waiting));
            }
            count(&self.counters.shared);
            let arrival = flight.sender.subscribe();
            if purpose == Purpose::Client {
                drop(under_way);
                self.turns.ask_again(&question.octets);
            }
            return Ok(arrival);
        }
        let now = self.clock.mono();
        let given_way = under_way.make_room(now)?;
        let (sender, arrival) = watch::channel(None);
        let sender = Arc::new(sender);
        let number = under_way.next;
        under_way.next += 1;
        under_way.order.insert(number, Arc::clone(&question.octets));
        let octets = Arc::clone(&question.octets);
        let landing =
            Landing { flights: Arc::clone(self), question, number, sender: Arc::clone(&sender) };
        let task = Task::new(&self.runtime, landing.fly(ttls, purpose));
        let flight = Flight { number, begun: now, sender, task: Arc::clone(&task) };
        under_way.flights.insert(octets, flight);
        drop(under_way);
        count(&self.counters.flights);
        task.begin();
        if let Some((octets, flight)) = given_way {
            count(&self.counters.shed);
            let error = ForwardError::Busy(FLIGHTS_MAX);
            let question = Question { octets };
            let answer = failure(question.key().question, &error);
            flight.sender.send_replace(Some(answer));
            flight.task.abort();
        }
        Ok(arrival)
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The questions that are under way.
#[derive(Debug, Default)]
struct UnderWay {
    /// By the octets of [`Question`].
    flights: HashMap<Octets, Flight>,
    /// By age, oldest first.
    order: BTreeMap<u64, Octets>,
    next: u64,
}

#[derive(Debug)]
struct Flight {
    number: u64,
    begun: Instant,
    sender: Landings,
    task: Arc<Task>,
}

impl UnderWay {
    /// Sees to it that there is room for one more; gives the one that had to go for it.
    fn make_room(&mut self, now: Instant) -> Result<Option<(Octets, Flight)>, ForwardError> {
        if self.flights.len() < FLIGHTS_MAX {
            return Ok(None);
        }
        let oldest = self.order.first_entry().filter(|oldest| {
            let flight = self.flights.get(oldest.get());
            flight.is_none_or(|flight| now.saturating_duration_since(flight.begun) >= PATIENCE)
        });
        let octets = oldest.ok_or(ForwardError::Busy(FLIGHTS_MAX))?.remove();
        Ok(self.flights.remove_entry(&octets))
    }

    /// Takes out the flight of this number, and no other to the same question.
    fn land(&mut self, octets: &[u8], number: u64) {
        self.order.remove(&number);
        if self.flights.get(octets).is_some_and(|flight| flight.number == number) {
            self.flights.remove(octets);
        }
    }
}

/// Waits for the answer to `question`.
pub(super) async fn landed(mut arrival: Arrival, question: &[u8]) -> Answer {
    let landed = arrival.wait_for(Option::is_some).await;
    landed.ok().and_then(|answer| answer.clone()).unwrap_or_else(|| {
        let error = ForwardError::Unreachable("the question was lost on its way".to_owned());
        failure(question, &error)
    })
}

/// A failure to ask, as an answer that says why.
pub(super) fn failure(question: &[u8], error: &ForwardError) -> Answer {
    let code = match error {
        ForwardError::Bogus { code, .. } => *code,
        ForwardError::Busy(_) => Ede::Other,
        ForwardError::Cooling | ForwardError::NoUpstream | ForwardError::Unreachable(_) => {
            Ede::NoReachableAuthority
        }
    };
    let lifetime =
        if matches!(error, ForwardError::Bogus { .. }) { BOGUS_TTL } else { FAILURE_TTL };
    Answer::failure(question, code, &error.to_string(), lifetime)
}

/// What a failure is to the cache.
fn standing(error: &ForwardError) -> Standing {
    let mut standing = Standing::from(Provenance::Strict);
    if matches!(error, ForwardError::Bogus { .. }) {
        standing.validation = Validation::Bogus;
    }
    standing
}

/// What tells questions apart: [`Key`], with a place of its own.
#[derive(Debug)]
struct Question {
    /// Canonical name, type and class, then view and flags of the key.
    octets: Octets,
}

impl Question {
    fn key(&self) -> Key<'_> {
        let (question, &[v0, v1, flags]) =
            self.octets.split_last_chunk::<3>().unwrap_or((&[], &[0; 3]));
        Key {
            question,
            dnssec_ok: flags & 1 != 0,
            checking_disabled: flags & 2 != 0,
            view: View(u16::from_be_bytes([v0, v1])),
        }
    }

    /// The question as it is sent: with recursion, EDNS, and AD set, which asks for the
    /// validation state without DNSSEC records (RFC 6840 section 5.7).
    fn to_message(&self) -> Vec<u8> {
        let key = self.key();
        let header = Header { id: 0, flags: flags::RD | flags::AD, counts: [1, 0, 0, 1] }
            .with(flags::CD, key.checking_disabled);
        let [_, opt] = Type::OPT.0.to_be_bytes();
        let [s0, s1] = UDP_PAYLOAD.to_be_bytes();
        let dnssec_ok = u8::from(key.dnssec_ok) << 7;
        let opt = [0, 0, opt, s0, s1, 0, 0, dnssec_ok, 0, 0, 0];
        [&header.to_octets(), key.question, &opt].concat()
    }
}

impl From<&Key<'_>> for Question {
    fn from(key: &Key<'_>) -> Self {
        let flags = u8::from(key.dnssec_ok) | u8::from(key.checking_disabled) << 1;
        let [v0, v1] = key.view.0.to_be_bytes();
        Self { octets: [key.question, &[v0, v1, flags]].concat().into() }
    }
}

/// A question under way. However it ends, it makes room; those who wait for one that ends
/// without an answer are told by the closed channel.
struct Landing {
    flights: Arc<Flights>,
    question: Question,
    number: u64,
    sender: Landings,
}

impl Landing {
    async fn fly(self, ttls: Bounds, purpose: Purpose) {
        let flights = &self.flights;
        let key = self.question.key();
        let era = flights.cache.era();
        let limit = if flights.turns.is_down() { DOWN_MAX } else { FLIGHT_MAX };
        let asked = async {
            flights.turns.come(&self.question.octets, purpose).await?;
            let answer = flights.forward.forward(self.question.to_message()).await;
            let answered = matches!(answer, Ok(_) | Err(ForwardError::Bogus { .. }));
            flights.turns.asked(&self.question.octets, answered);
            answer
        };
        let (answer, standing) = match tokio::time::timeout(limit, asked).await {
            Ok(Ok(forwarded)) => self.take(&forwarded, ttls),
            Ok(Err(error)) => (failure(key.question, &error), standing(&error)),
            Err(_) => {
                let text = format!("no upstream answered within {} ms", limit.as_millis());
                let answer =
                    Answer::failure(key.question, Ede::NoReachableAuthority, &text, FAILURE_TTL);
                (answer, Provenance::Strict.into())
            }
        };
        let now = flights.clock.mono();
        flights.cache.insert(&key, &answer, standing, era, now);
        self.sender.send_replace(Some(answer));
    }

    fn take(&self, forwarded: &Forwarded, ttls: Bounds) -> (Answer, Standing) {
        let question = self.question.key().question;
        // What has no dates has to be fetched anew, whatever becomes of the chain.
        let chain = if forwarded.undated { Some(ChainId::UNDATED) } else { forwarded.relaxed };
        let provenance = chain.map_or(Provenance::Strict, Provenance::Relaxed);
        let relaxed = chain.is_some();
        let answer = Answer::new(&forwarded.message, question, ttls, relaxed);
        let answer = answer.unwrap_or_else(|error| {
            count(&self.flights.counters.unfit);
            tracing::debug!(%error, "an upstream's answer cannot be used");
            let text = format!("an upstream's answer cannot be used: {error}");
            Answer::failure(question, Ede::NetworkError, &text, FAILURE_TTL)
        });
        let validation = forwarded.validation;
        (answer, Standing { validation, ..provenance.into() })
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.turns.gone(&self.question.octets);
        self.flights.under_way().land(&self.question.octets, self.number);
    }
}
