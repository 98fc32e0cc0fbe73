//! Asks authoritative servers from the root down, for who wants no operator at all.
//!
//! The one place where a client's question leaves in plaintext (docs/architecture.md,
//! invariant 7): authoritative servers that do not speak TLS are asked over UDP and TCP. RFC 9539
//! is followed with those that do, which is private towards the network between, and proves
//! nothing: only validation (`dns.validate`) tells true answers from forged ones.

mod hints;
mod network;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::dnssec::rdata::RRSIG;
use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, NS, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordData, RecordType};
use hickory_resolver::config::{OpportunisticEncryption, OpportunisticEncryptionConfig};
use hickory_resolver::recursor::{
    AuthorityData, DnssecPolicy, Recursor as Library, RecursorError, RecursorOptions,
};
use tokio::sync::Semaphore;

use super::{BoxFuture, Forward, ForwardError, Forwarded};
use crate::metered::Meter;
use crate::node::ports::Clock;
use crate::wire::UDP_PAYLOAD;

pub use hints::{Hints, HintsError};
pub use network::Asked;
use network::Network;

/// Questions under way at most; each may ask 200 of its own.
const IN_FLIGHT: usize = 500;
/// A chain of aliases is followed so far.
const CHAIN_MAX: usize = 16;
/// Answers and servers that the library remembers between questions; what clients get is kept in
/// the cache before it.
const ANSWERS: u64 = 8192;
const SERVERS: usize = 2048;
/// The addresses of the root are asked for again after this time at most.
const PRIMED_MAX: Duration = Duration::from_secs(86_400);

/// Answers questions by asking authoritative servers. Must be used within a tokio runtime.
pub struct Recursor {
    library: ArcSwap<Library<Network>>,
    network: Network,
    roots: ArcSwap<Vec<IpAddr>>,
    hints: Hints,
    clock: Arc<dyn Clock>,
    places: Semaphore,
}

impl fmt::Debug for Recursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recursor").field("roots", &self.roots).finish_non_exhaustive()
    }
}

impl Recursor {
    /// A recursor that begins at `hints`.
    #[must_use]
    pub fn new(hints: Hints, clock: Arc<dyn Clock>, meter: Arc<Meter>) -> Self {
        let roots = hints.addresses().to_vec();
        let network = Network::new(Arc::clone(&clock), meter);
        let library = library(&roots, &hints, network.clone());
        Self {
            library: ArcSwap::from_pointee(library),
            network,
            roots: ArcSwap::from_pointee(roots),
            hints,
            clock,
            places: Semaphore::new(IN_FLIGHT),
        }
    }

    /// Questions asked of authoritative servers so far.
    #[must_use]
    pub fn asked(&self) -> &Asked {
        self.network.asked()
    }

    /// The addresses of the root's servers in use.
    #[must_use]
    pub fn roots(&self) -> Arc<Vec<IpAddr>> {
        self.roots.load_full()
    }

    /// Forgets every answer, server and connection: a path changed, or somebody wants them gone.
    pub fn renew(&self) {
        self.network.pardon();
        let library = library(&self.roots.load(), &self.hints, self.network.clone());
        self.library.store(Arc::new(library));
    }

    /// Asks the root for its servers (RFC 8109), and asks those from here on. Gives the time for
    /// which that holds.
    ///
    /// # Errors
    ///
    /// Why nothing was learnt; whoever was asked before still is.
    pub async fn prime(&self) -> Result<Duration, ForwardError> {
        let question = Query::query(Name::root(), RecordType::NS);
        let answer = self.resolve(question, true).await?;
        let names: BTreeSet<_> = answer
            .answers
            .iter()
            .filter_map(|record| Some(&NS::try_borrow(&record.data)?.0))
            .collect();
        let private = is_private(self.hints.addresses());
        let mut roots: Vec<IpAddr> = answer
            .additionals
            .iter()
            .filter(|record| names.contains(&record.name))
            .filter_map(|record| record.data.ip_addr())
            .filter(|address| private || !is_private(std::slice::from_ref(address)))
            .collect();
        roots.sort_unstable();
        roots.dedup();
        let lifetime = answer.answers.iter().map(|record| record.ttl).min().unwrap_or_default();
        let lifetime = Duration::from_secs(lifetime.into()).min(PRIMED_MAX);
        if roots.is_empty() {
            let text = "the root named no address of its servers".to_owned();
            return Err(ForwardError::Unreachable(text));
        }
        if **self.roots.load() != roots {
            self.roots.store(Arc::new(roots));
            self.renew();
        }
        Ok(lifetime)
    }

    async fn recurse(&self, query: &[u8]) -> Result<Forwarded, ForwardError> {
        let _place = self.places.try_acquire().map_err(|_| ForwardError::Busy(IN_FLIGHT))?;
        let unfit = || ForwardError::Unreachable("none; the message is no query".to_owned());
        let asked = Message::from_vec(query).map_err(|_| unfit())?;
        let [question] = asked.queries.as_slice() else { return Err(unfit()) };
        let dnssec_ok = asked.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let mut answer = self.resolve(question.clone(), dnssec_ok).await?;
        answer.additionals.clear();
        let records = answer.answers.iter_mut().chain(&mut answer.authorities);
        records.for_each(restore_case);
        if !dnssec_ok {
            answer.authorities.retain(|record| record.record_type() == RecordType::SOA);
        }
        let mut answer = answer.maybe_strip_dnssec_records(dnssec_ok);
        answer.metadata.id = asked.metadata.id;
        answer.metadata.recursion_available = true;
        answer.metadata.checking_disabled = asked.metadata.checking_disabled;
        answer.queries.clone_from(&asked.queries);
        if asked.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_dnssec_ok(dnssec_ok).set_max_payload(UDP_PAYLOAD);
            answer.set_edns(edns);
        }
        let message = answer.to_vec().map_err(|error| {
            ForwardError::Unreachable(format!("the answer cannot be written: {error}"))
        })?;
        Ok(Forwarded::unchecked(message, None))
    }

    /// The answer to `question` with what proves it, the addresses beside it left in.
    async fn resolve(&self, question: Query, dnssec_ok: bool) -> Result<Message, ForwardError> {
        let library = self.library.load_full();
        let now = self.clock.mono();
        let mut answer = Message::response(0, OpCode::Query);
        match library.resolve(question.clone(), now, dnssec_ok).await {
            Ok(found) => {
                answer.metadata.response_code = found.metadata.response_code;
                answer.authorities = proofs(&found.authorities);
                if dnssec_ok {
                    self.prove_aliases(&library, &question, &found, &mut answer).await;
                }
                answer.answers = found.answers;
                answer.additionals = found.additionals;
            }
            Err(RecursorError::Negative(negative)) => {
                let nothing = negative.soa.is_none();
                if negative.is_nx_domain() && nothing {
                    // Whoever says so is not the zone that the name would be in.
                    return Err(ForwardError::Unreachable(format!(
                        "{}: said not to exist, and no zone stands behind it",
                        negative.query.name()
                    )));
                }
                if negative.is_nx_domain() {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                answer.answers = self.aliases(&library, &question, &negative, dnssec_ok).await?;
                answer.authorities = proofs(negative.authorities.as_deref().unwrap_or_default());
            }
            Err(error) => {
                // Whoever was passed over may be back: it is asked for the next question.
                self.network.pardon();
                return Err(ForwardError::Unreachable(error.to_string()));
            }
        }
        Ok(answer)
    }

    /// The aliases that lead from `question` to the name which `negative` is about: the library
    /// gives them only together with what they lead to.
    async fn aliases(
        &self,
        library: &Library<Network>,
        question: &Query,
        negative: &AuthorityData,
        dnssec_ok: bool,
    ) -> Result<Vec<Record>, ForwardError> {
        let (end, nonexistent) = (negative.query.name(), negative.is_nx_domain());
        let mut name = question.name().clone();
        let mut aliases = Vec::new();
        for _ in 0..CHAIN_MAX {
            // Below a name that does not exist there is none (RFC 8020).
            if name == *end || nonexistent && end.zone_of(&name) {
                return Ok(aliases);
            }
            let alias = Query::query(name.clone(), RecordType::CNAME);
            let found = library.resolve(alias, self.clock.mono(), dnssec_ok).await;
            let found = found.map_err(|error| ForwardError::Unreachable(error.to_string()))?;
            let target = found
                .answers
                .iter()
                .filter(|record| record.name == name)
                .find_map(|record| Some(CNAME::try_borrow(&record.data)?.0.clone()));
            let Some(target) = target else { break };
            aliases.extend(found.answers.into_iter().filter(|record| record.name == name));
            name = target;
        }
        let why = format!("{}: its aliases lead nowhere", question.name());
        Err(ForwardError::Unreachable(why))
    }

    /// Adds what proves the later links of a chain of aliases, if any is made from a wildcard: the
    /// library gives what came with the first link alone.
    async fn prove_aliases(
        &self,
        library: &Library<Network>,
        question: &Query,
        found: &Message,
        answer: &mut Message,
    ) {
        let targets = found
            .answers
            .iter()
            .filter_map(|record| Some(CNAME::try_borrow(&record.data)?.0.clone()));
        for target in targets.take(CHAIN_MAX) {
            let link = Query::query(target, question.query_type());
            if let Ok(link) = library.resolve(link, self.clock.mono(), true).await {
                for proof in proofs(&link.authorities) {
                    if !answer.authorities.contains(&proof) {
                        answer.authorities.push(proof);
                    }
                }
            }
        }
    }
}

impl Forward for Recursor {
    fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
        Box::pin(async move { self.recurse(&query).await })
    }
}

/// Takes back the random letter case that the question went out with: servers compress names into
/// those of the question.
#[expect(clippy::wildcard_enum_match_arm, reason = "thirty types need nothing")]
fn restore_case(record: &mut Record) {
    record.name = record.name.to_lowercase();
    match &mut record.data {
        RData::CNAME(CNAME(name)) | RData::NS(NS(name)) | RData::PTR(PTR(name)) => {
            *name = name.to_lowercase();
        }
        RData::MX(mx) => mx.exchange = mx.exchange.to_lowercase(),
        RData::SOA(soa) => {
            soa.mname = soa.mname.to_lowercase();
            soa.rname = soa.rname.to_lowercase();
        }
        // Names in the data of any other type are not compressed (RFC 3597 section 4).
        _ => {}
    }
}

/// Of an authority section what denies or bounds, signed, and no referral.
fn proofs(authorities: &[Record]) -> Vec<Record> {
    const KEPT: [RecordType; 3] = [RecordType::SOA, RecordType::NSEC, RecordType::NSEC3];
    let kept = |record: &&Record| {
        let about = RRSIG::try_borrow(&record.data).map(|signature| signature.input().type_covered);
        KEPT.contains(&about.unwrap_or(record.record_type()))
    };
    authorities.iter().filter(kept).cloned().collect()
}

/// A private root has private servers below it; the Internet's has none.
fn library(roots: &[IpAddr], hints: &Hints, network: Network) -> Library<Network> {
    let mut options = RecursorOptions {
        ns_cache_size: SERVERS,
        response_cache_size: ANSWERS,
        case_randomization: true,
        opportunistic_encryption: OpportunisticEncryption::Enabled {
            config: OpportunisticEncryptionConfig::default(),
        },
        edns_payload_len: UDP_PAYLOAD,
        ..RecursorOptions::default()
    };
    if is_private(hints.addresses()) {
        options.deny_server.clear();
    }
    match Library::new(roots, DnssecPolicy::ValidationDisabled, None, options, network) {
        Ok(library) => library,
        Err(error) => unreachable!("ring supports TLS, and these options are sound: {error}"),
    }
}

/// Whether all addresses lie where the Internet is not.
fn is_private(addresses: &[IpAddr]) -> bool {
    addresses.iter().all(|address| match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local(),
    })
}
