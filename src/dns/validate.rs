//! Validates what upstreams say (RFC 4035), whatever our clock is worth.
//!
//! Upstreams are asked with CD, so that what is wrong reaches us, and with DO. A signed set is
//! verified with its signer's keys; what is unsigned has to lie below a delegation that is proven
//! to be unsigned. Until the clock is known signatures are checked without their dates, and
//! nothing counts as authentic.

mod anchors;
mod denial;
mod judge;
mod reason;
mod rrset;
mod zones;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hickory_proto::dnssec::rdata::DNSSECRData;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

pub use anchors::{Anchors, AnchorsError};

use super::{BoxFuture, Forward, ForwardError, Forwarded};
use crate::cache::Validation;
use crate::clock::{CertDates, TimeTrust, UnixTime};
use crate::node::ports::Clock;
use crate::wire::UDP_PAYLOAD;
use judge::Judgement;
use reason::{Budget, Reason};
use zones::Zones;

/// Validates the answers of another forwarder.
#[derive(Debug)]
pub struct Validator {
    inner: Arc<dyn Forward>,
    clock: Arc<dyn Clock>,
    zones: Zones,
    /// Names below which nothing is validated (RFC 7646).
    negative: Vec<Name>,
    /// Whether the clock is good enough for the dates of signatures.
    dated: AtomicBool,
}

impl Validator {
    /// Validates what `inner` says from `anchors` on, but nothing at or below the names in
    /// `negative`. Dates count from the first [`Self::rise`] on that says so.
    #[must_use]
    pub fn new(
        inner: Arc<dyn Forward>,
        clock: Arc<dyn Clock>,
        anchors: Anchors,
        negative: &[crate::wire::Name],
    ) -> Self {
        let negative = negative.iter().filter_map(|name| Name::from_ascii(name.to_string()).ok());
        Self {
            inner,
            clock,
            zones: Zones::new(anchors),
            negative: negative.collect(),
            dated: AtomicBool::new(false),
        }
    }

    /// Begins a trust generation: from here on dates count, or do not. What was found out of
    /// zones is found out anew.
    pub fn rise(&self, trust: TimeTrust) {
        let dated = trust.dates == CertDates::Strict;
        self.dated.store(dated, Ordering::Relaxed);
        self.zones.forget();
    }

    async fn validate(&self, query: Vec<u8>) -> Result<Forwarded, ForwardError> {
        let unfit = |what: &str| ForwardError::Unreachable(format!("{what} cannot be validated"));
        let asked = Message::from_vec(&query).map_err(|_| unfit("this question"))?;
        let [question] = asked.queries.as_slice() else { return Err(unfit("this question")) };
        let dnssec_ok = asked.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        if asked.metadata.checking_disabled {
            // Whoever asks so validates by itself: the data as it is, and no word of ours on it.
            let mut forwarded = self.inner.forward(query).await?;
            disclaim(&mut forwarded.message);
            return Ok(forwarded);
        }
        if self.negative.iter().any(|name| name.zone_of(question.name())) {
            let mut forwarded = self.inner.forward(query).await?;
            forwarded.validation = Validation::Insecure;
            disclaim(&mut forwarded.message);
            return Ok(forwarded);
        }
        let ours = question_for(question.name(), question.query_type());
        let mut forwarded = self.inner.forward(ours).await?;
        let mut answer =
            Message::from_vec(&forwarded.message).map_err(|_| unfit("an upstream's answer"))?;
        let now = self.now();
        let mut lookups = Lookups { validator: self, now, budget: Budget::new() };
        let judgement = judge::judge(&mut answer, question, &mut lookups).await?;
        let secure = judgement == Judgement::Secure && now.is_some();
        answer.metadata.id = asked.metadata.id;
        answer.metadata.authentic_data = secure;
        answer.metadata.checking_disabled = false;
        let answer = answer.maybe_strip_dnssec_records(dnssec_ok);
        forwarded.message = answer.to_vec().map_err(|_| unfit("an upstream's answer"))?;
        forwarded.validation = match judgement {
            Judgement::Secure => Validation::Secure,
            Judgement::Insecure => Validation::Insecure,
            Judgement::Unjudged => Validation::Unchecked,
        };
        forwarded.undated = now.is_none() && judgement != Judgement::Unjudged;
        Ok(forwarded)
    }

    /// The time for the dates of signatures, in seconds since 1970 as they wrap (RFC 4034
    /// section 3.1.5); `None` while it is not known.
    fn now(&self) -> Option<u32> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "serial numbers wrap"
        )]
        let now = self.clock.utc().secs() as u32;
        self.dated.load(Ordering::Relaxed).then_some(now)
    }
}

/// A time that is past for certain: the root zone's SOA record, as `inner` has it and `anchors` validate
/// it, was not signed before. It is read as the one next to `near`, for it is given modulo 2^32 s
/// (RFC 4034 section 3.1.5). Dates do not count for it, so it may be as old as who says it likes.
///
/// The root's DNSKEY set would not do: it is signed months ahead.
///
/// # Errors
///
/// Nobody could be asked, or the answer is not validated.
pub async fn root_inception(
    inner: Arc<dyn Forward>,
    clock: Arc<dyn Clock>,
    anchors: Anchors,
    near: UnixTime,
) -> Result<UnixTime, ForwardError> {
    let mut question = Message::query();
    question.add_query(Query::query(Name::root(), RecordType::SOA));
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true).set_max_payload(UDP_PAYLOAD);
    question.set_edns(edns);
    let unfit = |what: &str| ForwardError::Unreachable(format!("the root's SOA record: {what}"));
    let question = question.to_vec().map_err(|_| unfit("no question"))?;

    let validator = Validator::new(inner, clock, anchors, &[]);
    let forwarded = validator.forward(question).await?;
    let answer = Message::from_vec(&forwarded.message).map_err(|_| unfit("not readable"))?;
    // One signature was found right, which one is not said: none of them is younger than the oldest.
    let inceptions = answer.answers.iter().filter_map(|record| {
        let RData::DNSSEC(DNSSECRData::RRSIG(signature)) = &record.data else { return None };
        let input = signature.input();
        let covers = input.type_covered == RecordType::SOA && record.name.is_root();
        covers.then(|| nearest(input.sig_inception.get(), near))
    });
    let oldest = inceptions.min().filter(|_| forwarded.validation == Validation::Secure);
    oldest.ok_or_else(|| unfit("not signed with a key that is known"))
}

/// The time with these last 32 bits of seconds that is next to `near`.
fn nearest(seconds: u32, near: UnixTime) -> UnixTime {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "serial numbers wrap"
    )]
    let last = near.secs() as u32;
    let ahead = seconds.wrapping_sub(last).cast_signed();
    UnixTime::from_secs(near.secs().saturating_add(i64::from(ahead)))
}

/// A question for signed data, whatever the upstream thinks of it.
fn question_for(name: &Name, rtype: RecordType) -> Vec<u8> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = true;
    message.add_query(Query::query(name.clone(), rtype));
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true).set_max_payload(UDP_PAYLOAD);
    message.set_edns(edns);
    message.to_vec().unwrap_or_default()
}

impl Forward for Validator {
    fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
        Box::pin(self.validate(query))
    }
}

/// Questions that one validation gives rise to.
struct Lookups<'v> {
    validator: &'v Validator,
    now: Option<u32>,
    budget: Budget,
}

/// Why there is no judgement.
#[derive(Clone, Debug)]
enum Fault {
    /// The data is not what its owner says.
    Bogus(Reason),
    /// Nobody could be asked.
    Unreachable(ForwardError),
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self::Bogus(reason)
    }
}

impl From<Fault> for ForwardError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Bogus(Reason { code, text }) => Self::Bogus { code, text },
            Fault::Unreachable(error) => error,
        }
    }
}

impl Lookups<'_> {
    /// Asks for records of our own need.
    async fn ask(&mut self, name: &Name, rtype: RecordType) -> Result<Message, Fault> {
        self.budget.ask()?;
        let question = question_for(name, rtype);
        let forwarded = self.validator.inner.forward(question).await.map_err(Fault::Unreachable)?;
        let unfit = |what: String| Fault::Unreachable(ForwardError::Unreachable(what));
        let message = Message::from_vec(&forwarded.message)
            .map_err(|error| unfit(format!("{name} {rtype}: not readable: {error}")))?;
        let code = message.metadata.response_code;
        if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return Err(unfit(format!("{name} {rtype}, wanted for validation: {code}")));
        }
        Ok(message)
    }
}

/// Takes back an upstream's word that its answer is authentic.
fn disclaim(message: &mut [u8]) {
    const AD: u8 = 0x20;
    if let Some(flags) = message.get_mut(3) {
        *flags &= !AD;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_upstream_s_word_counts_for_nothing_where_nothing_is_validated() {
        let clock = crate::tls::pki::FakeClock::at(crate::tls::pki::TODAY);
        let negative = ["corp.example".parse().unwrap()];
        let validator = Validator::new(Arc::new(Vouching), clock, Anchors::root(), &negative);

        for (name, checking_disabled) in [("www.example.", true), ("www.corp.example.", false)] {
            let mut query = Message::query();
            query.metadata.checking_disabled = checking_disabled;
            query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
            let forwarded = validator.forward(query.to_vec().unwrap()).await.unwrap();

            let answer = Message::from_vec(&forwarded.message).unwrap();
            assert!(!answer.metadata.authentic_data, "{name}");
        }
    }

    #[test]
    fn what_wraps_is_read_next_to_the_floor() {
        let near = |secs: i64| UnixTime::from_secs(secs);
        assert_eq!(nearest(1_000, near(900)), near(1_000));
        assert_eq!(nearest(800, near(900)), near(800));
        assert_eq!(nearest(5, near((1 << 32) - 5)), near((1 << 32) + 5));
        assert_eq!(nearest(u32::MAX, near((1 << 32) + 5)), near((1 << 32) - 1));
    }

    #[tokio::test]
    async fn an_upstream_that_only_vouches_for_the_root_gives_no_bound() {
        let clock = crate::tls::pki::FakeClock::at(crate::tls::pki::TODAY);
        let bound = root_inception(Arc::new(Vouching), clock, Anchors::root(), UnixTime::EPOCH);

        assert!(bound.await.is_err());
    }

    /// Says of everything that it is authentic.
    #[derive(Debug)]
    struct Vouching;

    impl Forward for Vouching {
        fn forward(&self, mut query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
            query[2] |= 0x80;
            query[3] |= 0x20;
            Box::pin(async { Ok(Forwarded::unchecked(query, None)) })
        }
    }
}
