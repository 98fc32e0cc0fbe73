//! TLS towards upstreams and witnesses.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig};

use super::{OurTime, Roots, Verifier, deciding, provider};
use crate::clock::{CertDates, TimeTrust};
use crate::metered::Meter;
use crate::node::ports::Clock;

/// Makes client configurations, in each of which one [`Verifier`] decides; has the meter of what
/// goes over their connections.
#[derive(Clone, Debug)]
pub struct Client {
    clock: Arc<dyn Clock>,
    template: ClientConfig,
    /// The same without TLS 1.2.
    tls13: ClientConfig,
    meter: Arc<Meter>,
}

impl Client {
    /// Tells rustls and the verifiers the time of `clock`.
    ///
    /// # Errors
    ///
    /// If the provider supports no TLS version.
    pub fn new(clock: Arc<dyn Clock>) -> Result<Self, rustls::Error> {
        let nobody = deciding(|_, _| Err(CertificateError::UnknownIssuer.into()));
        let time = Arc::new(OurTime(Arc::clone(&clock)));
        let template = |versions| -> Result<_, rustls::Error> {
            let time: Arc<OurTime> = Arc::clone(&time);
            let config = ClientConfig::builder_with_details(provider(), time)
                .with_protocol_versions(versions)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&nobody))
                .with_no_client_auth();
            Ok(config)
        };
        let (template, tls13) = (template(rustls::DEFAULT_VERSIONS)?, template(&[&TLS13])?);
        Ok(Self { clock, template, tls13, meter: Arc::default() })
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
        configured(self.template.clone(), verifier, alpn)
    }

    /// As [`Self::config`], for protocols that no TLS before 1.3 may carry.
    #[must_use]
    pub fn config_of_tls13(&self, verifier: &Arc<Verifier>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        configured(self.tls13.clone(), verifier, alpn)
    }

    /// What every configuration begins as: its verifier is yet to be set.
    pub(super) fn template(&self) -> ClientConfig {
        self.template.clone()
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

fn configured(
    mut config: ClientConfig,
    verifier: &Arc<Verifier>,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let judge = Arc::clone(verifier);
    config.dangerous().set_certificate_verifier(deciding(move |chain, name| {
        judge.admit(chain, name)?;
        Ok(())
    }));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = match verifier.trust().dates {
        CertDates::Strict => Resumption::in_memory_sessions(SESSIONS),
        CertDates::RuleR { .. } | CertDates::StrictElseRuleR { .. } => Resumption::disabled(),
    };
    Arc::new(config)
}

/// Sessions remembered per configuration; each configuration speaks to one server.
const SESSIONS: usize = 4;
