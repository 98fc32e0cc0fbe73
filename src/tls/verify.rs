//! Verifies the certificate chains of upstreams, whatever our clock is worth.
//!
//! Chain, signatures and name are always verified. Only the instant at which
//! that is done depends on how far the clock is trusted (rule R).

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, OtherError};

use super::{PinError, Roots, algorithms, pki_time};
use crate::clock::{CertDates, TimeTrust, UnixTime};
use crate::node::ports::Clock;

/// Decides over the chains of one server within one trust generation.
///
/// The instant follows from the generation's rule and our clock.
#[derive(Debug)]
pub struct Verifier {
    roots: Roots,
    trust: TimeTrust,
    clock: Arc<dyn Clock>,
}

impl Verifier {
    /// Verifies against `roots` by the rule of `trust`.
    #[must_use]
    pub fn new(roots: Roots, trust: TimeTrust, clock: Arc<dyn Clock>) -> Self {
        Self { roots, trust, clock }
    }

    /// Verifies `chain`, leaf first, for `name` and says by which rule it passed.
    ///
    /// # Errors
    ///
    /// If it passes by no rule that is in force.
    pub fn admit(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> Result<Verdict, CertError> {
        match self.trust.dates {
            CertDates::RuleR { floor } => {
                judge_by_rule_r(chain, name, &self.roots, floor)?;
                Ok(Verdict::Relaxed(None))
            }
            CertDates::Strict => self.strictly(chain, name).map(|()| Verdict::Strict),
            CertDates::StrictElseRuleR { .. } => match self.strictly(chain, name) {
                Ok(()) => Ok(Verdict::Strict),
                Err(CertError::Dates(facts)) if facts.passes_rule_r => {
                    Ok(Verdict::Relaxed(Some(facts)))
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Verifies `chain` at the clock's time, whatever the rule in force.
    ///
    /// # Errors
    ///
    /// If it does not pass; a failure by dates says whether rule R would pass it.
    pub fn strictly(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> Result<(), CertError> {
        judge(chain, name, &self.roots, self.clock.utc()).map_err(|error| match error {
            CertError::Dates(mut facts) => {
                facts.passes_rule_r =
                    judge_by_rule_r(chain, name, &self.roots, self.trust.floor).is_ok();
                CertError::Dates(facts)
            }
            CertError::Refused { .. } | CertError::Unpinned { .. } => error,
        })
    }

    /// The trust whose rule is in force.
    #[must_use]
    pub fn trust(&self) -> &TimeTrust {
        &self.trust
    }
}

/// By which rule a chain passed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// By rule R alone; with the clock's objection, where the clock was asked first.
    Relaxed(Option<Box<DateFacts>>),
    /// At the clock's time.
    Strict,
}

/// Verifies `chain`, leaf first, for `name` against `roots` at the instant `at`.
///
/// # Errors
///
/// [`CertError::Dates`] if the dates alone speak against it, as far as is
/// known: a name is compared only after the dates, so a wrong one may hide behind them.
pub fn judge(
    chain: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    roots: &Roots,
    at: UnixTime,
) -> Result<(), CertError> {
    verify_at(chain, name, roots, at).map_err(|reason| {
        let dates = by_dates(&reason).then(|| validity(chain)).flatten();
        let name = name.to_str().into_owned();
        match dates {
            Some(validity) => {
                CertError::Dates(Box::new(DateFacts { name, validity, at, passes_rule_r: false }))
            }
            None => CertError::Refused { name, reason },
        }
    })?;
    roots
        .check_pin(chain)
        .map_err(|reason| CertError::Unpinned { name: name.to_str().into_owned(), reason })
}

/// Rule R: verifies exactly once, at the later of `floor` and the greatest notBefore in `chain`.
///
/// # Errors
///
/// As [`judge`].
pub fn judge_by_rule_r(
    chain: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    roots: &Roots,
    floor: UnixTime,
) -> Result<(), CertError> {
    let begin = validity(chain).map_or(floor, |validity| validity.not_before);
    judge(chain, name, roots, floor.max(begin))
}

/// The span in which all of `chain` is valid; `None` if it is empty or its leaf is not X.509.
#[must_use]
pub fn validity(chain: &[CertificateDer<'_>]) -> Option<Validity> {
    let span = |der: &CertificateDer<'_>| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let validity = certificate.validity();
        Some(Validity {
            not_before: UnixTime::from_secs(validity.not_before.timestamp()),
            not_after: UnixTime::from_secs(validity.not_after.timestamp()),
        })
    };
    let (leaf, issuers) = chain.split_first()?;
    // An issuer that cannot be read is of no use to path building either.
    Some(issuers.iter().filter_map(span).fold(span(leaf)?, |all, one| Validity {
        not_before: all.not_before.max(one.not_before),
        not_after: all.not_after.min(one.not_after),
    }))
}

/// The span in which a whole chain is valid (RFC 5280 section 4.1.2.5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    /// The greatest notBefore.
    pub not_before: UnixTime,
    /// The least notAfter.
    pub not_after: UnixTime,
}

/// Why a chain was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CertError {
    /// The time it was judged at lies outside its validity.
    #[error(transparent)]
    Dates(Box<DateFacts>),
    /// Chain, signature, purpose or name.
    #[error("the certificate presented for {name} was refused: {reason}")]
    Refused {
        /// The name that was sought.
        name: String,
        /// What is wrong with it.
        reason: rustls::Error,
    },
    /// The chain is in order, and its leaf has none of the pinned keys.
    #[error("the certificate presented for {name} was refused: {reason}")]
    Unpinned {
        /// The name that was sought.
        name: String,
        /// The key that was presented.
        reason: PinError,
    },
}

/// A chain and a time that do not fit each other.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct DateFacts {
    /// The name that was sought.
    pub name: String,
    /// When the chain is valid.
    pub validity: Validity,
    /// The time it was judged at.
    pub at: UnixTime,
    /// Whether rule R would pass it: then either the clock is wrong, or the certificate is not in order.
    pub passes_rule_r: bool,
}

impl fmt::Display for DateFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, validity: Validity { not_before, not_after }, at, .. } = self;
        let state = if at < not_before { "not yet valid" } else { "expired" };
        write!(
            f,
            "the certificate presented for {name} is {state}: \
             valid from {not_before} to {not_after}, judged at {at}"
        )
    }
}

/// What our verifier said, if `error` of a handshake came from it.
#[must_use]
pub fn cert_error(error: &io::Error) -> Option<&CertError> {
    let error = error.get_ref()?.downcast_ref()?;
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error
    else {
        return None;
    };
    inner.downcast_ref()
}

impl From<CertError> for rustls::Error {
    fn from(error: CertError) -> Self {
        CertificateError::Other(OtherError(Arc::new(error))).into()
    }
}

fn verify_at(
    chain: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    roots: &Roots,
    at: UnixTime,
) -> Result<(), rustls::Error> {
    let (leaf, intermediates) =
        chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    let leaf = ParsedCertificate::try_from(leaf)?;
    verify_server_cert_signed_by_trust_anchor(
        &leaf,
        roots.store(),
        intermediates,
        pki_time(at),
        algorithms().all,
    )?;
    verify_server_name(&leaf, name)
}

fn by_dates(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pin;
    use crate::tls::pki::{DAY, FakeClock, Pki, TODAY, trust};

    #[test]
    fn in_1970_a_chain_not_yet_valid_passes_by_rule_r() {
        let pki = Pki::new();
        let chain = pki.leaf("dns.test", TODAY - DAY, TODAY + DAY * 90).chain();
        let floor = TODAY - DAY * 700;
        let verifier = pki.verifier(trust(CertDates::RuleR { floor }), UnixTime::EPOCH);

        let verdict = verifier.admit(&chain, &"dns.test".try_into().unwrap());

        assert_eq!(verdict, Ok(Verdict::Relaxed(None)));
    }

    #[test]
    fn a_chain_that_expired_before_the_floor_never_passes() {
        let pki = Pki::new();
        let chain = pki.leaf("dns.test", TODAY - DAY * 90, TODAY - DAY).chain();
        let verifier = pki.verifier(trust(CertDates::RuleR { floor: TODAY }), UnixTime::EPOCH);

        let error = verifier.admit(&chain, &"dns.test".try_into().unwrap()).unwrap_err();

        let CertError::Dates(facts) = error else { panic!("{error}") };
        assert_eq!(facts.at, TODAY);
        assert_eq!(facts.validity.not_after, TODAY - DAY);
    }

    #[test]
    fn relaxed_dates_relax_neither_name_nor_issuer() {
        let (pki, stranger) = (Pki::new(), Pki::new());
        let rule = CertDates::RuleR { floor: TODAY - DAY };
        let verifier = pki.verifier(trust(rule), UnixTime::EPOCH);
        let good = pki.leaf("dns.test", TODAY - DAY, TODAY + DAY).chain();
        let forged = stranger.leaf("dns.test", TODAY - DAY, TODAY + DAY).chain();

        let wrong_name = verifier.admit(&good, &"other.test".try_into().unwrap());
        let wrong_issuer = verifier.admit(&forged, &"dns.test".try_into().unwrap());

        assert!(matches!(wrong_name, Err(CertError::Refused { .. })), "{wrong_name:?}");
        assert!(matches!(wrong_issuer, Err(CertError::Refused { .. })), "{wrong_issuer:?}");
    }

    #[test]
    fn a_coarse_clock_is_asked_first_and_its_objection_is_kept() {
        let pki = Pki::new();
        let floor = TODAY - DAY * 100;
        let verifier = pki.verifier(trust(CertDates::StrictElseRuleR { floor }), TODAY);
        let name = "dns.test".try_into().unwrap();

        let valid = verifier.admit(&pki.leaf("dns.test", TODAY - DAY, TODAY + DAY).chain(), &name);
        let expired =
            verifier.admit(&pki.leaf("dns.test", TODAY - DAY * 90, TODAY - DAY).chain(), &name);

        assert_eq!(valid, Ok(Verdict::Strict));
        let Ok(Verdict::Relaxed(Some(facts))) = expired else { panic!("{expired:?}") };
        assert_eq!((facts.at, facts.passes_rule_r), (TODAY, true));
    }

    #[test]
    fn a_strict_failure_by_dates_says_what_rule_r_would_say() {
        let pki = Pki::new();
        let name = "dns.test".try_into().unwrap();
        let mut ahead = trust(CertDates::Strict);
        ahead.floor = TODAY - DAY;
        // The clock was forged ten years ahead.
        let verifier = pki.verifier(ahead, TODAY + DAY * 3650);

        let error = verifier
            .admit(&pki.leaf("dns.test", TODAY - DAY, TODAY + DAY).chain(), &name)
            .unwrap_err();

        let CertError::Dates(facts) = &error else { panic!("{error}") };
        assert!(facts.passes_rule_r);
        assert!(error.to_string().contains("expired"), "{error}");
        assert!(error.to_string().contains(&(TODAY + DAY).to_string()), "{error}");
    }

    #[test]
    fn an_issuer_without_a_leaf_of_its_own_narrows_the_validity() {
        let pki = Pki::new();
        let outer = pki.leaf("a.test", TODAY - DAY * 9, TODAY + DAY * 90).chain();
        let inner = pki.leaf("b.test", TODAY - DAY, TODAY + DAY * 9).chain();
        let both = [outer, inner].concat();

        let span = validity(&both).unwrap();

        assert_eq!(span.not_before, TODAY - DAY);
        assert_eq!(span.not_after, TODAY + DAY * 9);
        assert_eq!(validity(&[]), None);
        assert_eq!(validity(&[CertificateDer::from(vec![0x30, 0x80])]), None);
    }

    #[test]
    fn of_pinned_keys_one_is_wanted_whatever_signs_it() {
        let pki = Pki::new();
        let leaf = pki.leaf("dns.test", TODAY - DAY, TODAY + DAY);
        let (chain, name) = (leaf.chain(), ServerName::try_from("dns.test").unwrap());
        let spki = {
            let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
            ring::digest::digest(&ring::digest::SHA256, leaf.tbs_certificate.subject_pki.raw)
        };
        let own = Pin(spki.as_ref().try_into().unwrap());
        let other = Pin([7; 32]);
        let judged = |pins: &[Pin]| judge(&chain, &name, &pki.roots().pinned(pins), TODAY);

        assert_eq!(judged(&[]), Ok(()));
        assert_eq!(judged(&[other, own]), Ok(()));
        let refused = judged(&[other]).unwrap_err().to_string();
        let pin = data_encoding::BASE64.encode(&own.0);
        assert!(refused.contains(&format!("its key, {pin}, is none of the 1")), "{refused}");
    }

    #[test]
    fn a_clock_before_1970_is_taken_for_1970() {
        let clock = FakeClock::at(UnixTime::from_secs(-5));

        assert_eq!(pki_time(clock.utc()).as_secs(), 0);
    }
}
