//! TLS towards upstreams and witnesses.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;

use super::{OurTime, Roots, Verifier, provider};
use crate::clock::{CertDates, Level, TimeTrust, UnixTime};
use crate::metered::Meter;
use crate::node::ports::Clock;

/// Makes client configurations, in each of which one [`Verifier`] decides; has the meter of what
/// goes over their connections.
#[derive(Clone, Debug)]
pub struct Client {
    clock: Arc<dyn Clock>,
    template: ClientConfig,
    meter: Arc<Meter>,
}

impl Client {
    /// Tells rustls and the verifiers the time of `clock`.
    ///
    /// # Errors
    ///
    /// If the provider supports no TLS version.
    pub fn new(clock: Arc<dyn Clock>) -> Result<Self, rustls::Error> {
        let nobody = TimeTrust {
            level: Level::Cold,
            verified: false,
            generation: 0,
            floor: UnixTime::EPOCH,
            dates: CertDates::Strict,
        };
        let verifier =
            Verifier::new(rustls::RootCertStore::empty().into(), nobody, Arc::clone(&clock));
        let time = Arc::new(OurTime(Arc::clone(&clock)));
        let template = ClientConfig::builder_with_details(provider(), time)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Self { clock, template, meter: Arc::default() })
    }

    /// Verifies against `roots` by the rule of `trust`.
    #[must_use]
    pub fn verifier(&self, roots: Roots, trust: TimeTrust) -> Arc<Verifier> {
        Arc::new(Verifier::new(roots, trust, Arc::clone(&self.clock)))
    }

    /// A configuration in which `verifier` decides, offering `alpn` (RFC 7301).
    ///
    /// Resumption skips certificate verification (RFC 8446 section 2.2), so it
    /// is off unless dates are judged strictly, and every call makes a session
    /// store of its own: nothing accepted under one trust generation enters another.
    #[must_use]
    pub fn config(&self, verifier: &Arc<Verifier>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = self.template.clone();
        config.dangerous().set_certificate_verifier(Arc::<Verifier>::clone(verifier));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = match verifier.trust().dates {
            CertDates::Strict => Resumption::in_memory_sessions(SESSIONS),
            CertDates::RuleR { .. } | CertDates::StrictElseRuleR { .. } => Resumption::disabled(),
        };
        Arc::new(config)
    }

    /// The clock that decides over dates.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// What counts the octets.
    #[must_use]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }
}

/// Sessions remembered per configuration; each configuration speaks to one server.
const SESSIONS: usize = 4;
