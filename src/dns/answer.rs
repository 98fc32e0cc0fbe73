//! From a question to its answer.
//!
//! ```text
//! packet ─▶ sanity ─▶ client policy ─▶ local names ─▶ cache ─▶ filter ─▶ single flight ─▶ upstream
//!           └────────────── quick: no waiting ───────────────────────┘ └────── answer: slow ──────┘
//! ```
//!
//! [`Answerer::quick`] is for the thread that received the packet; what it
//! cannot answer goes to [`Answerer::answer`], which gives the same answer to
//! the same question, octet for octet. What the cache or local names know is
//! answered without an allocation.

mod cookie;
mod counters;
mod flight;
mod settings;
mod turns;

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::runtime::Handle;

pub use counters::{Counters, Counts};
pub use settings::AnswerSettings;

use super::listen::{self, Quick};
use super::{BoxFuture, Client, Forward, Origin, Protocol};
use crate::cache::{Answer, Cache, Key, Lookup, Near, Policy, Provenance, Standing, Ttl};
use crate::config::Plaintext;
use crate::filter::{Filter, Verdict};
use crate::names::Started;
use crate::node::ports::Clock;
use crate::upstream::Purpose;
use crate::wire::{
    Class, Ede, Header, Hop, MAX_NAME, Malformed, Message, Name, Note, Query, Rcode, Reply,
    Section, Type, UDP_PAYLOAD, bad_cookie, malformed, truncated,
};
use cookie::Cookies;
use counters::count;
use flight::{Flights, failure, landed};
use settings::InForce;

/// Time to live of a stale answer, in seconds (RFC 8767 section 4).
const STALE_TTL: u32 = 30;

/// Time to live of a blocked name, in seconds: whoever unblocks one waits so long.
const BLOCKED_TTL: u32 = 60;

/// The one record that answers ANY over UDP, and its time to live (RFC 8482 section 4.2).
const MINIMAL_ANY: (&[u8], u32) = (b"\x07RFC8482\0", 3600);

/// Answers questions. One serves all listeners.
#[derive(Debug)]
pub struct Answerer {
    in_force: ArcSwap<InForce>,
    cookies: Cookies,
    flights: Arc<Flights>,
    metered: AtomicBool,
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
        let pace = settings.pace;
        Self {
            in_force: ArcSwap::from_pointee(InForce::new(settings, clock.mono())),
            cookies: Cookies::new(),
            flights: Arc::new(Flights::new(cache, forward, clock, runtime, pace)),
            metered: AtomicBool::new(false),
        }
    }

    /// Puts other settings in force. Answers are kept, under the times to live they came with.
    pub fn reload(&self, settings: AnswerSettings) {
        self.flights.cache.set_stale(settings.stale);
        self.flights.turns.set_rate(settings.pace);
        let (settings, now) = (Arc::new(settings), self.flights.clock.mono());
        self.in_force.rcu(|before| before.with_settings(&settings, now));
    }

    /// Puts a filter in force, or none. What is in the cache is judged by it.
    pub fn set_filter(&self, filter: Option<&Arc<dyn Filter>>) {
        self.in_force.rcu(|before| before.with_filter(filter.cloned()));
        let passes = |name: &[u8]| match filter {
            Some(filter) => filter.judge(name) == Verdict::Pass,
            None => true,
        };
        self.flights.cache.rejudge(|name, _| passes(name));
    }

    /// Whether the filter in force lets a name pass.
    #[must_use]
    pub fn passes(&self, name: &[u8]) -> bool {
        let in_force = self.in_force.load();
        in_force.filter.as_ref().is_none_or(|filter| filter.judge(name) == Verdict::Pass)
    }

    /// Tells of which networks this machine is part: their clients count as local ones.
    pub fn set_networks(&self, on_link: Vec<IpNet>) {
        let on_link = Arc::from(on_link);
        self.in_force.rcu(|before| before.with_networks(&on_link));
    }

    /// Tells whether the uplink is metered: answers are then not refreshed ahead of their end.
    pub fn set_metered(&self, metered: bool) {
        self.metered.store(metered, Ordering::Relaxed);
    }

    /// Tells whether no upstream answers. What is outdated is then given out at once, other
    /// questions take turns, and do so after the upstreams' return until nobody waits.
    pub fn set_upstreams_down(&self, down: bool) {
        self.flights.turns.set_down(down);
    }

    /// What became of the questions so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.flights.counters.snapshot()
    }

    /// How many answers had which origin and which response code so far; codes that are not counted
    /// apart are `other`. Every pair is there, also of those that never occur.
    pub fn answers(&self) -> impl Iterator<Item = (Origin, &'static str, u64)> {
        self.flights.counters.answers()
    }

    /// The moment by its clock, at which a question of this machine itself arrives.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.flights.clock.mono()
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.flights.cache
    }

    /// Answers a packet without waiting, if that is possible, as of when it arrived. The reply
    /// replaces what `out` held; a buffer that is kept is not allocated again.
    ///
    /// Whoever asks more than the rate allows over UDP is told to prove its address: by a cookie
    /// (RFC 7873) if it speaks of them, else by asking over TCP.
    pub fn quick(
        &self,
        packet: &[u8],
        client: &Client,
        near: Option<&mut Near>,
        out: &mut Vec<u8>,
    ) -> Quick {
        let query = match self.parse(packet, out) {
            Ok(query) => query,
            Err(done) => return done,
        };
        let in_force = self.in_force.load();
        let (hop, proven) = self.hop(&in_force.settings, &query, client);
        let address = client.address.ip();
        if client.protocol == Protocol::Udp
            && !proven
            && !in_force.within_rate(address, client.arrived)
        {
            let (ask_again, rcode): (fn(&_, &_, &mut _), _) = if hop.cookie.is_some() {
                (bad_cookie, Rcode::BADCOOKIE)
            } else {
                (truncated, Rcode::NOERROR)
            };
            ask_again(&query, &hop, out);
            self.flights.counters.answered(Origin::Limited, rcode);
            return Quick::Reply(Origin::Limited);
        }
        match self.decide(&in_force, &query, client, &hop, near, out) {
            Step::Ask(_) | Step::Chase(_) => Quick::Slow,
            Step::Done(origin) => {
                self.count(origin, out);
                Quick::Reply(origin)
            }
        }
    }

    /// Answers a packet, asking an upstream if need be, and says what stands behind the answer;
    /// `None` if there is no reply to it.
    ///
    /// Takes at most about 8 s.
    pub async fn answer(&self, packet: &[u8], client: &Client) -> Option<(Vec<u8>, Origin)> {
        let mut out = Vec::new();
        let query = match self.parse(packet, &mut out) {
            Ok(query) => query,
            Err(Quick::Reply(origin)) => return Some((out, origin)),
            Err(Quick::Drop | Quick::Slow) => return None,
        };
        let in_force = self.in_force.load_full();
        let settings = &in_force.settings;
        let (hop, _) = self.hop(settings, &query, client);
        let origin = match self.decide(&in_force, &query, client, &hop, None, &mut out) {
            Step::Done(origin) => origin,
            Step::Ask(stale) => {
                let found = self.ask(settings, &Key::of(&query), stale).await;
                found.write(&query, &hop, &mut out)
            }
            Step::Chase(target) => {
                // Boxed: every question would have room for it otherwise.
                Box::pin(self.chase(&in_force, &query, target, &hop, &mut out)).await
            }
        };
        self.count(origin, &out);
        Some((out, origin))
    }

    /// Answers a packet from the cache, however old what it holds is, if it may be given out at
    /// all: for when there is no room to wait for anything better. False if there is nothing.
    pub fn stale(&self, packet: &[u8], client: &Client, out: &mut Vec<u8>) -> bool {
        let Ok(query) = Query::parse(packet) else { return false };
        let in_force = self.in_force.load();
        let (hop, _) = self.hop(&in_force.settings, &query, client);
        let Step::Ask(Some(stale)) = self.decide(&in_force, &query, client, &hop, None, out) else {
            return false;
        };
        let origin = Found::stale(stale).write(&query, &hop, out);
        self.count(origin, out);
        true
    }

    /// Counts an answer by its origin and the response code in its header.
    fn count(&self, origin: Origin, reply: &[u8]) {
        let rcode = Rcode(reply.get(3).map_or(0, |octet| u16::from(octet & 0xf)));
        self.flights.counters.answered(origin, rcode);
    }

    /// What holds for the reply whatever it says, and whether a cookie proves that the client is
    /// where it says it is.
    fn hop(&self, settings: &AnswerSettings, query: &Query<'_>, client: &Client) -> (Hop, bool) {
        let mut hop = Hop::of(reply_limit(query, client));
        let Some(edns) = query.edns else { return (hop, false) };
        let mut proven = false;
        if let Some(cookie) = edns.cookie {
            // Serial numbers wrap (RFC 1982), and so may the seconds.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "see above"
            )]
            let now = self.flights.clock.utc().secs() as u32;
            let checked = self.cookies.check(cookie, client.address.ip(), now);
            proven = checked.is_some_and(|checked| checked.valid);
            hop.cookie = checked.map(|checked| checked.reply);
        }
        if edns.keepalive && matches!(client.protocol, Protocol::Dot | Protocol::Tcp) {
            let tenths = settings.idle.as_millis() / 100;
            hop.keepalive = Some(u16::try_from(tenths).unwrap_or(u16::MAX));
        }
        hop.padded = edns.padded && !client.protocol.is_plaintext();
        (hop, proven)
    }

    fn parse<'p>(&self, packet: &'p [u8], out: &mut Vec<u8>) -> Result<Query<'p>, Quick> {
        Query::parse(packet).map_err(|why| {
            if let Malformed::Reply { rcode, .. } = why
                && malformed(packet, why, out)
            {
                self.flights.counters.answered(Origin::Malformed, rcode);
                Quick::Reply(Origin::Malformed)
            } else {
                count(&self.flights.counters.dropped);
                Quick::Drop
            }
        })
    }

    /// Everything that needs no waiting.
    fn decide<'s>(
        &self,
        in_force: &'s InForce,
        query: &Query<'_>,
        client: &Client,
        hop: &Hop,
        near: Option<&mut Near>,
        out: &mut Vec<u8>,
    ) -> Step<'s> {
        let settings = &*in_force.settings;
        if !in_force.serves(client.address.ip()) {
            let note = Note::ede(Ede::Prohibited, "clients of this network are not answered");
            Reply::new(query, Rcode::REFUSED, out).finish(query, note, hop);
            return Step::Done(Origin::Denied);
        }
        let plaintext =
            if client.protocol.is_plaintext() { settings.plaintext } else { Plaintext::Serve };
        if let Some((rcode, note)) = refusal(query, plaintext) {
            Reply::new(query, rcode, out).finish(query, note, hop);
            return Step::Done(Origin::Refused);
        }
        if query.qtype == Type::ANY && client.protocol == Protocol::Udp {
            let (rdata, ttl) = MINIMAL_ANY;
            let mut reply = Reply::new(query, Rcode::NOERROR, out);
            reply.record(Section::Answer, Header::LEN, Type::HINFO, ttl, rdata);
            reply.finish(query, Note::default(), hop);
            return Step::Done(Origin::Local);
        }
        if let Some(Started { reply, chain_to }) = settings.names.answer(query, out) {
            // A chain into the world is itself local: that much everybody may know.
            if let Some(target) = chain_to.filter(|_| plaintext == Plaintext::Serve) {
                return Step::Chase(target);
            }
            reply.finish(query, Note::default(), hop);
            return Step::Done(Origin::Local);
        }
        if plaintext == Plaintext::LocalOnly {
            let note = Note::ede(Ede::Prohibited, "unencrypted, only local names are answered");
            Reply::new(query, Rcode::REFUSED, out).finish(query, note, hop);
            return Step::Done(Origin::Refused);
        }
        let (key, now) = (Key::of(query), client.arrived);
        let stale = if let Some(near) = near {
            match self.weigh(settings, &key, self.flights.cache.get_near(near, &key, now)) {
                Ok(found) => return Step::Done(found.write(query, hop, out)),
                Err(stale) => stale.cloned(),
            }
        } else {
            match self.weigh(settings, &key, self.flights.cache.get(&key, now)) {
                Ok(found) => return Step::Done(found.write(query, hop, out)),
                Err(stale) => stale,
            }
        };
        match self.blocked(in_force, &key, now) {
            Some(answer) => Step::Done(Found::new(answer, Origin::Blocked).write(query, hop, out)),
            None => Step::Ask(stale),
        }
    }

    /// The answer that stands in for the truth, if the filter says so; it is kept.
    fn blocked(&self, in_force: &InForce, key: &Key<'_>, now: Instant) -> Option<Answer> {
        let filter = in_force.filter.as_ref()?;
        let era = self.flights.cache.era();
        let Verdict::Block(reason) = filter.judge(key.name()) else { return None };
        let answer = Answer::blocked(key.question, reason, BLOCKED_TTL);
        let standing = Standing { policy: Policy::Rewritten, ..Provenance::Strict.into() };
        self.flights.cache.insert(key, &answer, standing, era, now);
        Some(answer)
    }

    /// What is to be said at once of what the cache knows; else what there is if no upstream
    /// answers.
    fn weigh<A: Borrow<Answer>>(
        &self,
        settings: &AnswerSettings,
        key: &Key<'_>,
        known: Lookup<A>,
    ) -> Result<Found<A>, Option<A>> {
        match known {
            Lookup::Fresh { answer, age, refresh } => {
                self.refresh_if(refresh && !self.metered.load(Ordering::Relaxed), key, settings);
                Ok(Found { answer, ttl: Ttl::Aged(age), ede: None, origin: Origin::Cache })
            }
            Lookup::Stale { answer, held: true, refresh } => {
                self.refresh_if(refresh, key, settings);
                Ok(Found::stale(answer))
            }
            Lookup::Stale { answer, held: false, .. } => Err(Some(answer)),
            Lookup::Miss => Err(None),
        }
    }

    /// Asks an upstream behind an answer that is given out meanwhile.
    fn refresh_if(&self, due: bool, key: &Key<'_>, settings: &AnswerSettings) {
        if due && self.flights.join(key, settings.ttls, Purpose::Background).is_ok() {
            count(&self.flights.counters.refreshed);
        }
    }

    /// Asks an upstream. `stale` stands in if that fails, or takes longer than a client waits.
    async fn ask(&self, settings: &AnswerSettings, key: &Key<'_>, stale: Option<Answer>) -> Found {
        let down = self.flights.turns.is_down();
        let purpose = if down && stale.is_some() { Purpose::Background } else { Purpose::Client };
        let arrival = match self.flights.join(key, settings.ttls, purpose) {
            Ok(arrival) => arrival,
            Err(error) => {
                count(&self.flights.counters.shed);
                return conclude(failure(key.question, &error), stale);
            }
        };
        let landed = landed(arrival, key.question);
        let Some(stale) = stale else { return conclude(landed.await, None) };
        if !down && let Ok(answer) = tokio::time::timeout(settings.patience, landed).await {
            return conclude(answer, Some(stale));
        }
        self.flights.cache.hold(key, self.flights.clock.mono());
        Found::stale(stale)
    }

    /// Completes the answer to a local CNAME record with what its target in the world stands for.
    async fn chase(
        &self,
        in_force: &InForce,
        query: &Query<'_>,
        target: &Name,
        hop: &Hop,
        out: &mut Vec<u8>,
    ) -> Origin {
        let settings = &in_force.settings;
        let mut question = Vec::with_capacity(MAX_NAME + 4);
        question.extend_from_slice(target.as_wire());
        question.extend_from_slice(&query.qtype.0.to_be_bytes());
        question.extend_from_slice(&query.class.0.to_be_bytes());
        let key = Key { question: &question, ..Key::of(query) };
        let now = self.flights.clock.mono();
        let found = match self.weigh(settings, &key, self.flights.cache.get(&key, now)) {
            Ok(found) => found,
            Err(stale) => match self.blocked(in_force, &key, now) {
                Some(answer) => Found::new(answer, Origin::Blocked),
                None => self.ask(settings, &key, stale).await,
            },
        };
        let Some(Started { mut reply, .. }) = settings.names.answer(query, out) else {
            return found.origin;
        };
        reply.set_rcode(found.answer.rcode());
        let message = found.answer.message();
        let records = Message::parse(message).map(|message| message.records());
        for record in records.into_iter().flatten().flatten() {
            if record.section != Section::Additional {
                reply.copy(message, &record, found.ttl.of(record.ttl));
            }
        }
        reply.finish(query, Note { options: found.answer.options(), ede: found.ede }, hop);
        found.origin
    }
}

impl listen::Answer for Answerer {
    fn quick(
        &self,
        query: &[u8],
        client: &Client,
        near: Option<&mut Near>,
        reply: &mut Vec<u8>,
    ) -> Quick {
        Self::quick(self, query, client, near, reply)
    }

    fn stale(&self, query: &[u8], client: &Client, reply: &mut Vec<u8>) -> bool {
        Self::stale(self, query, client, reply)
    }

    fn answer(&self, query: Vec<u8>, client: Client) -> BoxFuture<'_, Option<(Vec<u8>, Origin)>> {
        Box::pin(async move { Self::answer(self, &query, &client).await })
    }
}

/// How a question goes on.
enum Step<'s> {
    /// To an upstream; there may be a stale answer to fall back on.
    Ask(Option<Answer>),
    /// To an upstream, for the name that a local CNAME record points to.
    Chase(&'s Name),
    /// The reply is written; what stands behind it.
    Done(Origin),
}

/// An answer, and how to pass it on. `A` holds the answer, or borrows it.
struct Found<A = Answer> {
    answer: A,
    ttl: Ttl,
    ede: Option<(Ede, &'static str)>,
    origin: Origin,
}

impl<A: Borrow<Answer>> Found<A> {
    /// One that no time has passed for.
    const fn new(answer: A, origin: Origin) -> Self {
        Self { answer, ttl: Ttl::Aged(0), ede: None, origin }
    }

    fn stale(answer: A) -> Self {
        let code = if answer.borrow().rcode() == Rcode::NXDOMAIN {
            Ede::StaleNxdomainAnswer
        } else {
            Ede::StaleAnswer
        };
        let ede = Some((code, "no fresh answer could be had"));
        Self { answer, ttl: Ttl::Fixed(STALE_TTL), ede, origin: Origin::Stale }
    }

    /// Writes it, and says what stands behind it.
    fn write(&self, query: &Query<'_>, hop: &Hop, out: &mut Vec<u8>) -> Origin {
        self.answer.borrow().write(query, self.ttl, self.ede, hop, out);
        self.origin
    }
}

/// Chooses between what an upstream said and what there was before.
fn conclude(answer: Answer, stale: Option<Answer>) -> Found {
    match stale {
        _ if answer.rcode().is_answer() => Found::new(answer, Origin::Upstream),
        Some(stale) if !answer.is_bogus() => Found::stale(stale),
        Some(_) | None => Found::new(answer, Origin::Failed),
    }
}

/// Why a question is not answered at all, whatever its name.
fn refusal(query: &Query<'_>, plaintext: Plaintext) -> Option<(Rcode, Note<'static>)> {
    if plaintext == Plaintext::Refuse {
        let note = Note::ede(Ede::Prohibited, "only DNS over TLS, HTTPS or QUIC is answered");
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
