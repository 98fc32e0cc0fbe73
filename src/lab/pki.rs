//! The authority that signs for everybody in the world.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use super::WorldError;
use crate::clock::{UnixTime, magnitude};
use crate::tls::{Validity, provider};

/// A certificate authority that lives from 1970 to 2099.
#[derive(Debug)]
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Result<Self, WorldError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = date_time_ymd(1970, 1, 1);
        params.not_after = date_time_ymd(2099, 1, 1);
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// The authority's certificate, for those who are to trust it.
    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server certificate for `name` and its key.
    pub(super) fn issue(&self, name: &str, validity: Validity) -> Result<CertifiedKey, WorldError> {
        let at = |time: UnixTime| {
            date_time_ymd(1970, 1, 1) + magnitude(time.max(UnixTime::EPOCH).since(UnixTime::EPOCH))
        };
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.not_before = at(validity.not_before);
        params.not_after = at(validity.not_after);
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let secret = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok(CertifiedKey::from_der(vec![leaf.der().clone()], secret, &provider())?)
    }
}
