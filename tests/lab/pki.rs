//! A certificate authority of the lab.

use std::fmt;
use std::fs;
use std::path::Path;

use firstlight::clock::{Nanos, UnixTime, magnitude};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

use super::{DAY, Lab, truth, write_new};

/// Signs certificates for any name and any time. Its own is in `ca.pem`.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    pub(super) fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2099, 1, 1);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer }
    }

    /// Certificate and key as PEM, valid in a span around the lab's true time.
    pub(crate) fn issue(&self, name: &str, valid: (Nanos, Nanos)) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        let date = |off| {
            let since = truth().offset(off).since(UnixTime::EPOCH);
            date_time_ymd(1970, 1, 1) + magnitude(since - since % 1_000_000_000)
        };
        (params.not_before, params.not_after) = (date(valid.0), date(valid.1));
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (leaf.pem(), key.serialize_pem())
    }

    /// Writes `NAME.pem` and `NAME.key`, each in one step.
    pub(crate) fn issue_files(&self, lab: &Lab, name: &str, valid: (Nanos, Nanos)) {
        let (certificate, key) = self.issue(name, valid);
        write_new(&lab.path(&format!("{name}.pem")), &certificate);
        write_new(&lab.path(&format!("{name}.key")), &key);
    }
}

/// From yesterday, for three months.
pub(crate) const USUAL: (Nanos, Nanos) = (-DAY, 89 * DAY);
