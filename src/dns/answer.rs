//! From a question to its answer.
//!
//! ```text
//! packet ─▶ sanity ─▶ plaintext policy ─▶ local names ─▶ cache ─▶ single flight ─▶ upstream
//!           └──────────── quick: no waiting, no allocation ─────┘ └────── answer: slow ──────┘
//! ```
//!
//! [`Answerer::quick`] is for the thread that received the packet; what it
//! cannot answer goes to [`Answerer::answer`], which gives the same answer to
//! the same question, octet for octet.

mod counters;
mod flight;
mod settings;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

pub use counters::{Counters, Counts};
pub use settings::AnswerSettings;

use super::listen::{self, Quick};
use super::{BoxFuture, Client, Forward, Protocol};
use crate::cache::{Answer, Cache, Key, Lookup, Ttl};
use crate::config::Plaintext;
use crate::names::Started;
use crate::node::ports::Clock;
use crate::wire::{
    Class, Ede, Header, MAX_NAME, Message, Name, Note, Query, Rcode, Reply, Section, Type,
    UDP_PAYLOAD, malformed,
};
use counters::count;
use flight::{Flights, failure, landed};

/// Time to live of a stale answer, in seconds (RFC 8767 section 4).
const STALE_TTL: u32 = 30;

/// The one record that answers ANY over UDP, and its time to live (RFC 8482 section 4.2).
const MINIMAL_ANY: (&[u8], u32) = (b"\x07RFC8482\0", 3600);

/// Answers questions. One serves all listeners.
#[derive(Debug)]
pub struct Answerer {
    settings: ArcSwap<AnswerSettings>,
    flights: Arc<Flights>,
}

impl Answerer {
    /// An answerer whose questions to upstreams run as tasks on `runtime`.
    #[must_use]
    pub fn new(
        settings: AnswerSettings,
        cache: Arc<Cache>,
        forward: Arc<dyn Forward>,
        clock: Arc<dyn Clock>,
        runtime: Handle,
    ) -> Self {
        cache.set_stale(settings.stale);
        Self {
            settings: ArcSwap::from_pointee(settings),
            flights: Arc::new(Flights::new(cache, forward, clock, runtime)),
        }
    }

    /// Puts other settings in force. Answers are kept, under the times to live they came with.
    pub fn reload(&self, settings: AnswerSettings) {
        self.flights.cache.set_stale(settings.stale);
        self.settings.store(Arc::new(settings));
    }

    /// What became of the questions so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.flights.counters.snapshot()
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.flights.cache
    }

    /// Answers a packet without waiting, if that is possible. The reply replaces what `out`
    /// held; a buffer that is kept is not allocated again.
    pub fn quick(&self, packet: &[u8], client: &Client, out: &mut Vec<u8>) -> Quick {
        let query = match self.parse(packet, out) {
            Ok(query) => query,
            Err(done) => return done,
        };
        match self.decide(&self.settings.load(), &query, client, out) {
            Step::Ask(_) | Step::Chase(_) => Quick::Slow,
            Step::Done => Quick::Reply,
        }
    }

    /// Answers a packet, asking an upstream if need be; `None` if there is no reply to it.
    ///
    /// Takes at most about 8 s.
    pub async fn answer(&self, packet: &[u8], client: &Client) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let query = match self.parse(packet, &mut out) {
            Ok(query) => query,
            Err(done) => return (done == Quick::Reply).then_some(out),
        };
        let settings = self.settings.load_full();
        let limit = reply_limit(&query, client);
        match self.decide(&settings, &query, client, &mut out) {
            Step::Done => {}
            Step::Ask(stale) => {
                let found = self.ask(&settings, &Key::of(&query), stale).await;
                found.answer.write(&query, found.ttl, found.ede, limit, &mut out);
            }
            Step::Chase(target) => {
                self.chase(&settings, &query, target, limit, &mut out).await;
            }
        }
        Some(out)
    }

    fn parse<'p>(&self, packet: &'p [u8], out: &mut Vec<u8>) -> Result<Query<'p>, Quick> {
        Query::parse(packet).map_err(|why| {
            if malformed(packet, why, out) {
                count(&self.flights.counters.malformed);
                Quick::Reply
            } else {
                count(&self.flights.counters.dropped);
                Quick::Drop
            }
        })
    }

    /// Everything that needs no waiting.
    fn decide<'s>(
        &self,
        settings: &'s AnswerSettings,
        query: &Query<'_>,
        client: &Client,
        out: &mut Vec<u8>,
    ) -> Step<'s> {
        let counters = &self.flights.counters;
        let limit = reply_limit(query, client);
        let plaintext =
            if client.protocol.is_plaintext() { settings.plaintext } else { Plaintext::Serve };
        if let Some((rcode, note)) = refusal(query, plaintext) {
            Reply::new(query, rcode, out).finish(query, note, limit);
            count(&counters.refused);
            return Step::Done;
        }
        if query.qtype == Type::ANY && client.protocol == Protocol::Udp {
            let (rdata, ttl) = MINIMAL_ANY;
            let mut reply = Reply::new(query, Rcode::NOERROR, out);
            reply.record(Section::Answer, Header::LEN, Type::HINFO, ttl, rdata);
            reply.finish(query, Note::default(), limit);
            count(&counters.local);
            return Step::Done;
        }
        if let Some(Started { reply, chain_to }) = settings.names.answer(query, out) {
            // A chain into the world is itself local: that much everybody may know.
            if let Some(target) = chain_to.filter(|_| plaintext == Plaintext::Serve) {
                return Step::Chase(target);
            }
            reply.finish(query, Note::default(), limit);
            count(&counters.local);
            return Step::Done;
        }
        if plaintext == Plaintext::LocalOnly {
            let note = Note::ede(Ede::Prohibited, "unencrypted, only local names are answered");
            Reply::new(query, Rcode::REFUSED, out).finish(query, note, limit);
            count(&counters.refused);
            return Step::Done;
        }
        match self.cached(settings, &Key::of(query)) {
            Ok(found) => {
                found.answer.write(query, found.ttl, found.ede, limit, out);
                Step::Done
            }
            Err(stale) => Step::Ask(stale),
        }
    }

    /// What the cache has to say at once; else what there is if no upstream answers.
    fn cached(&self, settings: &AnswerSettings, key: &Key<'_>) -> Result<Found, Option<Answer>> {
        let counters = &self.flights.counters;
        match self.flights.cache.get(key, self.flights.clock.mono()) {
            Lookup::Fresh { answer, age, refresh } => {
                count(&counters.cached);
                self.refresh_if(refresh, key, settings);
                Ok(Found { answer, ttl: Ttl::Aged(age), ede: None })
            }
            Lookup::Stale { answer, held: true, refresh } => {
                count(&counters.stale);
                self.refresh_if(refresh, key, settings);
                Ok(Found::stale(answer))
            }
            Lookup::Stale { answer, held: false, .. } => Err(Some(answer)),
            Lookup::Miss => Err(None),
        }
    }

    /// Asks an upstream behind an answer that is given out meanwhile.
    fn refresh_if(&self, due: bool, key: &Key<'_>, settings: &AnswerSettings) {
        if due && self.flights.join(key, settings.ttls).is_ok() {
            count(&self.flights.counters.refreshed);
        }
    }

    /// Asks an upstream. `stale` stands in if that fails, or takes longer than a client waits.
    async fn ask(&self, settings: &AnswerSettings, key: &Key<'_>, stale: Option<Answer>) -> Found {
        let arrival = match self.flights.join(key, settings.ttls) {
            Ok(arrival) => arrival,
            Err(error) => {
                count(&self.flights.counters.shed);
                return self.conclude(failure(key.question, &error), stale);
            }
        };
        let landed = landed(arrival, key.question);
        let Some(stale) = stale else { return self.conclude(landed.await, None) };
        if let Ok(answer) = tokio::time::timeout(settings.patience, landed).await {
            return self.conclude(answer, Some(stale));
        }
        self.flights.cache.hold(key, self.flights.clock.mono());
        count(&self.flights.counters.stale);
        Found::stale(stale)
    }

    /// Chooses between what an upstream said and what there was before.
    fn conclude(&self, answer: Answer, stale: Option<Answer>) -> Found {
        let counters = &self.flights.counters;
        match stale {
            _ if answer.rcode().is_answer() => {
                count(&counters.forwarded);
                Found::fresh(answer)
            }
            Some(stale) => {
                count(&counters.stale);
                Found::stale(stale)
            }
            None => {
                count(&counters.failed);
                Found::fresh(answer)
            }
        }
    }

    /// Completes the answer to a local CNAME record with what its target in the world stands for.
    async fn chase(
        &self,
        settings: &AnswerSettings,
        query: &Query<'_>,
        target: &Name,
        limit: usize,
        out: &mut Vec<u8>,
    ) {
        let mut question = Vec::with_capacity(MAX_NAME + 4);
        question.extend_from_slice(target.as_wire());
        question.extend_from_slice(&query.qtype.0.to_be_bytes());
        question.extend_from_slice(&query.class.0.to_be_bytes());
        let key = Key { question: &question, ..Key::of(query) };
        let found = match self.cached(settings, &key) {
            Ok(found) => found,
            Err(stale) => self.ask(settings, &key, stale).await,
        };
        let Some(Started { mut reply, .. }) = settings.names.answer(query, out) else { return };
        reply.set_rcode(found.answer.rcode());
        let message = found.answer.message();
        let records = Message::parse(message).map(|message| message.records());
        for record in records.into_iter().flatten().flatten() {
            if record.section != Section::Additional {
                reply.copy(message, &record, found.ttl.of(record.ttl));
            }
        }
        reply.finish(query, Note { options: found.answer.options(), ede: found.ede }, limit);
    }
}

impl listen::Answer for Answerer {
    fn quick(&self, query: &[u8], client: &Client, reply: &mut Vec<u8>) -> Quick {
        Self::quick(self, query, client, reply)
    }

    fn answer(&self, query: Vec<u8>, client: Client) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(async move { Self::answer(self, &query, &client).await })
    }
}

/// How a question goes on.
enum Step<'s> {
    /// To an upstream; there may be a stale answer to fall back on.
    Ask(Option<Answer>),
    /// To an upstream, for the name that a local CNAME record points to.
    Chase(&'s Name),
    /// The reply is written.
    Done,
}

/// An answer, and how to pass it on.
struct Found {
    answer: Answer,
    ttl: Ttl,
    ede: Option<(Ede, &'static str)>,
}

impl Found {
    const fn fresh(answer: Answer) -> Self {
        Self { answer, ttl: Ttl::Aged(0), ede: None }
    }

    fn stale(answer: Answer) -> Self {
        let code = if answer.rcode() == Rcode::NXDOMAIN {
            Ede::StaleNxdomainAnswer
        } else {
            Ede::StaleAnswer
        };
        let ede = Some((code, "no fresh answer could be had"));
        Self { answer, ttl: Ttl::Fixed(STALE_TTL), ede }
    }
}

/// Why a question is not answered at all, whatever its name.
fn refusal(query: &Query<'_>, plaintext: Plaintext) -> Option<(Rcode, Note<'static>)> {
    if plaintext == Plaintext::Refuse {
        let note = Note::ede(Ede::Prohibited, "only DNS over TLS or HTTPS is answered");
        return Some((Rcode::REFUSED, note));
    }
    if query.qtype == Type::OPT {
        return Some((Rcode::FORMERR, Note::default()));
    }
    if query.qtype.is_meta() {
        let note = Note::ede(Ede::NotSupported, "zone transfers and meta types are not served");
        return Some((Rcode::REFUSED, note));
    }
    if query.class != Class::IN {
        let note = Note::ede(Ede::NotSupported, "only class IN is served");
        return Some((Rcode::REFUSED, note));
    }
    None
}

/// How long a reply may be.
fn reply_limit(query: &Query<'_>, client: &Client) -> usize {
    if client.protocol != Protocol::Udp {
        return usize::from(u16::MAX);
    }
    // RFC 6891 section 6.2.5: less than 512 counts as 512.
    query.edns.map_or(512, |edns| usize::from(edns.udp_size.clamp(512, UDP_PAYLOAD)))
}

#[cfg(test)]
mod tests;
