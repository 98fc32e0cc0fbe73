//! A certificate authority and a clock for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::{OurTime, Roots, Verifier, provider};
use crate::clock::{CertDates, Level, TimeTrust, UnixTime};
use crate::node::ports::Clock;

/// When the tests take place: 2026-03-14T06:11:40Z.
pub(crate) const TODAY: UnixTime = UnixTime::from_secs(1_773_468_700);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// A certificate authority that lives from 1970 to 2099.
pub(crate) struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = date_time_ymd(1970, 1, 1);
        params.not_after = date_time_ymd(2099, 1, 1);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    pub(crate) fn roots(&self) -> Roots {
        let mut store = RootCertStore::empty();
        store.add(self.issuer.der().clone()).unwrap();
        store.into()
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn leaf(&self, name: &str, not_before: UnixTime, not_after: UnixTime) -> Leaf {
        let at = |time: UnixTime| {
            let secs = u64::try_from(time.secs()).unwrap();
            date_time_ymd(1970, 1, 1) + Duration::from_secs(secs)
        };
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = at(not_before);
        params.not_after = at(not_after);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { certificate, key }
    }

    pub(crate) fn verifier(&self, trust: TimeTrust, clock: UnixTime) -> Verifier {
        Verifier::new(self.roots(), trust, FakeClock::at(clock))
    }
}

/// A server's certificate and key.
pub(crate) struct Leaf {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Leaf {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.der().clone()]
    }

    pub(crate) fn certified(&self) -> CertifiedKey {
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        CertifiedKey::from_der(self.chain(), key, &provider()).unwrap()
    }

    pub(crate) fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// A TLS server with this certificate that hands out session tickets.
    pub(crate) fn server(&self, alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
        let time = Arc::new(OurTime(FakeClock::at(TODAY)));
        let mut config = rustls::ServerConfig::builder_with_details(provider(), time)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(self.certified())));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

/// A trust that judges by `dates`, its floor being theirs, or two years before [`TODAY`].
pub(crate) fn trust(dates: CertDates) -> TimeTrust {
    let (level, floor) = match dates {
        CertDates::RuleR { floor } => (Level::Cold, floor),
        CertDates::StrictElseRuleR { floor } => (Level::Coarse, floor),
        CertDates::Strict => (Level::Disciplined, TODAY - DAY * 730),
    };
    TimeTrust { level, verified: level == Level::Disciplined, generation: 1, floor, dates }
}

/// A clock whose UTC stands where it was set.
#[derive(Debug)]
pub(crate) struct FakeClock(AtomicI64);

impl FakeClock {
    pub(crate) fn at(utc: UnixTime) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(utc.secs())))
    }

    pub(crate) fn set(&self, utc: UnixTime) {
        self.0.store(utc.secs(), Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    #[expect(clippy::disallowed_methods, reason = "test code")]
    fn mono(&self) -> Instant {
        Instant::now()
    }

    fn utc_at(&self, _at: Instant) -> UnixTime {
        UnixTime::from_secs(self.0.load(Ordering::SeqCst))
    }
}
