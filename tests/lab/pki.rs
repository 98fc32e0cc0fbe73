//! A certificate authority of the lab.

use std::fmt;
use std::fs;
use std::path::Path;

use firstlight::clock::{Nanos, UnixTime, magnitude};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

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
        // Unlike the leaves': OpenSSL takes a certificate for self-signed by its names.
        params.distinguished_name.push(DnType::CommonName, "Lab");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer }
    }

    /// Certificate and key as PEM, valid in a span around the lab's true time.
    pub(crate) fn issue(&self, name: &str, valid: (Nanos, Nanos)) -> (String, String) {
        self.issue_for(&[name], valid)
    }

    /// The same, for several names and addresses.
    fn issue_for(&self, names: &[&str], valid: (Nanos, Nanos)) -> (String, String) {
        self.sign(names, valid, &KeyPair::generate().unwrap())
    }

    /// Another certificate for the key in `pem`.
    pub(crate) fn issue_again(&self, name: &str, valid: (Nanos, Nanos), pem: &str) -> String {
        self.sign(&[name], valid, &KeyPair::from_pem(pem).unwrap()).0
    }

    fn sign(&self, names: &[&str], valid: (Nanos, Nanos), key: &KeyPair) -> (String, String) {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let date = |off| {
            let since = truth().offset(off).since(UnixTime::EPOCH);
            date_time_ymd(1970, 1, 1) + magnitude(since - since % 1_000_000_000)
        };
        (params.not_before, params.not_after) = (date(valid.0), date(valid.1));
        let leaf = params.signed_by(key, &self.issuer).unwrap();
        (leaf.pem(), key.serialize_pem())
    }

    /// Writes `NAME.pem` and `NAME.key`, each in one step.
    pub(crate) fn issue_files(&self, lab: &Lab, name: &str, valid: (Nanos, Nanos)) {
        self.issue_files_for(lab, name, &[name], valid);
    }

    /// The same, as `FILE.pem` and `FILE.key`, for several names and addresses.
    pub(crate) fn issue_files_for(
        &self,
        lab: &Lab,
        file: &str,
        names: &[&str],
        valid: (Nanos, Nanos),
    ) {
        let (certificate, key) = self.issue_for(names, valid);
        write_new(&lab.path(&format!("{file}.pem")), &certificate);
        write_new(&lab.path(&format!("{file}.key")), &key);
    }
}

/// From yesterday, for three months.
pub(crate) const USUAL: (Nanos, Nanos) = (-DAY, 89 * DAY);
