//! A certificate of our own making, for when there is no better one.
//!
//! A client that wants DoT is never sent away for lack of a certificate. The
//! authority behind it can sign for nothing but this network: critical name
//! constraints see to that wherever it is installed (RFC 5280 section 4.2.1.10).

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
    SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::provider;
use crate::clock::{UnixTime, magnitude};
use crate::wire::Name;

/// Where the authority's key and certificate outlive a restart.
pub trait KeyVault {
    /// What was stored last; `None` if nothing was.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn load(&self) -> io::Result<Option<Vec<u8>>>;

    /// Replaces what is stored. It is secret.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    fn store(&self, octets: &[u8]) -> io::Result<()>;
}

/// The local authority. Its certificate lives from 1970 to 2099: a clock in 1970 is no reason to refuse it.
pub struct FallbackCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
    certificate_pem: String,
    permitted: Vec<Name>,
}

impl FallbackCa {
    /// Takes the authority from `vault`, or makes one if there is none there,
    /// if it is damaged, or if it does not permit exactly `permitted`: names,
    /// each with all below it. Private addresses are always permitted.
    ///
    /// A vault that fails costs the clients' trust at the next start, which is
    /// logged; it never costs the certificate.
    ///
    /// # Errors
    ///
    /// If no key can be made at all.
    pub fn open(vault: &dyn KeyVault, permitted: &[Name]) -> Result<Self, FallbackError> {
        let (key, kept) = match recall(vault) {
            Some(kept) => kept,
            None => (KeyPair::generate()?, None),
        };
        let secret = key.serialize_pem();
        let issuer = CertifiedIssuer::self_signed(authority(&key, permitted), key)?;

        // Signatures are random. While all that is signed stays the same, so
        // does the certificate that clients have installed.
        let same = |pem: &String| {
            CertificateDer::from_pem_slice(pem.as_bytes())
                .is_ok_and(|der| signed_part(&der) == signed_part(issuer.der()))
        };
        let certificate_pem = kept.filter(same).unwrap_or_else(|| {
            let pem = issuer.pem();
            if let Err(error) = vault.store(format!("{secret}{pem}").as_bytes()) {
                tracing::warn!(
                    %error,
                    "the fallback authority cannot be kept; clients will see another one after a restart"
                );
            }
            pem
        });
        Ok(Self { issuer, certificate_pem, permitted: permitted.to_vec() })
    }

    /// The authority's certificate, for clients that wish to install it.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The SHA-256 of that certificate.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        let der = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes());
        // What was kept has been read before, and is else our own.
        let der = der.as_ref().unwrap_or_else(|_| self.issuer.der());
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        let mut octets = [0; 32];
        octets.copy_from_slice(digest.as_ref());
        octets
    }

    /// The names it may sign for, each with all below it.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.permitted
    }

    /// The networks it may sign for addresses in, each with its prefix length.
    #[must_use]
    pub const fn networks() -> &'static [(IpAddr, u8)] {
        PRIVATE
    }

    /// A server certificate for `name` and for those of `addresses` that are
    /// private, valid for [`LIFE`] from a day before `guess`.
    ///
    /// # Errors
    ///
    /// If `name` is not permitted, or signing fails.
    pub fn issue(
        &self,
        name: &Name,
        addresses: &[IpAddr],
        guess: UnixTime,
    ) -> Result<CertifiedKey, FallbackError> {
        if !self.permitted.iter().any(|zone| name.is_within(zone)) {
            return Err(FallbackError::NotPermitted(name.clone()));
        }
        let dns_name = SanType::DnsName(name.to_string().try_into()?);
        let private = addresses.iter().copied().filter(|address| is_private(*address));
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            std::iter::once(dns_name).chain(private.map(SanType::IpAddress)).collect();
        params.distinguished_name = common_name("firstlight");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;

        let begin = (guess - DAY).clamp(UnixTime::EPOCH, LAST_BEGIN);
        params.not_before = date_time_ymd(1970, 1, 1) + magnitude(begin.since(UnixTime::EPOCH));
        params.not_after = params.not_before + LIFE;

        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let chain = vec![leaf.der().clone(), self.issuer.der().clone()];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok(CertifiedKey::from_der(chain, key, &provider())?)
    }
}

impl std::fmt::Debug for FallbackCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FallbackCa").field("permitted", &self.permitted).finish_non_exhaustive()
    }
}

/// The life of a server certificate. Apple's clients refuse more than 398 days.
pub const LIFE: Duration = Duration::from_secs(397 * 86_400);

/// Why there is no fallback certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FallbackError {
    /// The authority's constraints exclude the name.
    #[error("the fallback authority may not sign for {0}")]
    NotPermitted(Name),
    /// A key or certificate cannot be made.
    #[error("the fallback certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// The key made does not serve.
    #[error("the fallback certificate cannot be served: {0}")]
    Serve(#[from] rustls::Error),
}

const DAY: Duration = Duration::from_secs(86_400);
/// 2097-01-01: later begins would outlive the authority.
const LAST_BEGIN: UnixTime = UnixTime::from_secs(4_007_750_400);

/// The ranges that name no host outside this network, with their prefix
/// lengths (RFC 1918, RFC 6598, RFC 3927, RFC 4193, RFC 4291, loopback).
const PRIVATE: &[(IpAddr, u8)] = &[
    (IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 0)), 8),
    (IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 0, 0)), 12),
    (IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 0, 0)), 16),
    (IpAddr::V4(std::net::Ipv4Addr::new(100, 64, 0, 0)), 10),
    (IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V6(std::net::Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
    (IpAddr::V6(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    (IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 128),
];

/// The stored key, and the stored certificate's PEM if there is one.
fn recall(vault: &dyn KeyVault) -> Option<(KeyPair, Option<String>)> {
    let octets = vault.load().unwrap_or_else(|error| {
        tracing::warn!(%error, "the fallback authority's key cannot be read; a fresh one is made");
        None
    })?;
    let kept = std::str::from_utf8(&octets).ok().and_then(|pem| {
        let certificate = pem.find("-----BEGIN CERTIFICATE-----").and_then(|at| pem.get(at..));
        Some((KeyPair::from_pem(pem).ok()?, certificate.map(str::to_owned)))
    });
    if kept.is_none() {
        tracing::warn!("the fallback authority's stored key is damaged; a fresh one is made");
    }
    kept
}

/// All that decides these parameters is `key` and `permitted`.
fn authority(key: &KeyPair, permitted: &[Name]) -> CertificateParams {
    let names = permitted.iter().map(|name| GeneralSubtree::DnsName(name.to_string()));
    let ranges = PRIVATE.iter().map(|(address, prefix)| {
        GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(*address, *prefix))
    });
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("firstlight local authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: names.chain(ranges).collect(),
        excluded_subtrees: Vec::new(),
    });
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    // At most 20 octets, and positive (RFC 5280 section 4.1.2.2).
    let mut serial = params.key_identifier(key);
    serial.truncate(16);
    serial.insert(0, 1);
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn signed_part(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(certificate.tbs_certificate.as_ref().to_vec())
}

fn is_private(address: IpAddr) -> bool {
    PRIVATE.iter().any(|(range, prefix)| match (address, range) {
        (IpAddr::V4(address), IpAddr::V4(range)) => {
            (address.to_bits() ^ range.to_bits()).leading_zeros() >= u32::from(*prefix)
        }
        (IpAddr::V6(address), IpAddr::V6(range)) => {
            (address.to_bits() ^ range.to_bits()).leading_zeros() >= u32::from(*prefix)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rustls::RootCertStore;
    use rustls::pki_types::ServerName;

    use super::*;
    use crate::tls::pki::TODAY;
    use crate::tls::{Roots, judge, validity};

    #[test]
    fn a_client_with_the_authority_accepts_the_leaf_by_name_and_address() {
        let ca = open(&Vault::default());
        let lan: IpAddr = "10.77.0.2".parse().unwrap();
        let global: IpAddr = "2001:db8::2".parse().unwrap();

        let key = ca.issue(&name("dns.home.lan"), &[lan, global], TODAY).unwrap();

        let check = |name: &str| judge(&key.cert, &sought(name), &roots(&ca), TODAY);
        assert_eq!(check("dns.home.lan"), Ok(()));
        assert_eq!(check("10.77.0.2"), Ok(()));
        assert!(check("2001:db8::2").is_err());
        assert!(check("example.org").is_err());
        let span = validity(&key.cert).unwrap();
        assert_eq!(span.not_before, TODAY - DAY);
        assert_eq!(span.not_after, TODAY - DAY + LIFE);
    }

    #[test]
    fn the_authority_cannot_sign_for_the_rest_of_the_world() {
        let ca = open(&Vault::default());
        let mut params = CertificateParams::new(["www.example.org".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2098, 1, 1);
        let key = KeyPair::generate().unwrap();

        let misissued = params.signed_by(&key, &ca.issuer).unwrap();

        let chain = [misissued.der().clone()];
        assert!(judge(&chain, &sought("www.example.org"), &roots(&ca), TODAY).is_err());
        assert!(ca.issue(&name("www.example.org"), &[], TODAY).is_err());
    }

    #[test]
    fn a_restart_keeps_the_authority_to_the_last_octet() {
        let vault = Vault::default();

        let first = open(&vault).certificate_pem().to_owned();
        let second = open(&vault).certificate_pem().to_owned();

        assert_eq!(first, second);
        assert_eq!(*vault.writes.lock().unwrap(), 1);
    }

    #[test]
    fn a_damaged_or_unwritable_vault_is_no_dead_end() {
        let vault = Vault::default();
        for damage in [&b"garbage"[..], b"\xff\xfe", b"", b"-----BEGIN PRIVATE KEY-----\nAA"] {
            *vault.octets.lock().unwrap() = Some(damage.to_vec());

            let ca = open(&vault);

            assert!(ca.issue(&name("dns.home.lan"), &[], UnixTime::EPOCH).is_ok());
        }
        assert!(FallbackCa::open(&Broken, &[name("home.lan")]).is_ok());
    }

    #[test]
    fn a_changed_name_changes_the_constraints_but_not_the_key() {
        let vault = Vault::default();
        let old = open(&vault);

        let fresh = FallbackCa::open(&vault, &[name("lab.lan")]).unwrap();

        assert_ne!(fresh.certificate_pem(), old.certificate_pem());
        assert_eq!(fresh.issuer.key().public_key_raw(), old.issuer.key().public_key_raw());
        assert!(fresh.issue(&name("dns.lab.lan"), &[], TODAY).is_ok());
    }

    #[test]
    fn any_guess_gives_a_certificate_within_the_authority_s_life() {
        let ca = open(&Vault::default());
        for guess in [UnixTime::from_secs(-1), UnixTime::EPOCH, UnixTime::from_secs(i64::MAX)] {
            let key = ca.issue(&name("dns.home.lan"), &[], guess).unwrap();

            let span = validity(&key.cert).unwrap();

            assert!(span.not_after < UnixTime::from_secs(4_070_908_800), "{guess}: {span:?}");
        }
    }

    #[derive(Default)]
    struct Vault {
        octets: Mutex<Option<Vec<u8>>>,
        writes: Mutex<usize>,
    }

    impl KeyVault for Vault {
        fn load(&self) -> io::Result<Option<Vec<u8>>> {
            Ok(self.octets.lock().unwrap().clone())
        }

        fn store(&self, octets: &[u8]) -> io::Result<()> {
            *self.octets.lock().unwrap() = Some(octets.to_vec());
            *self.writes.lock().unwrap() += 1;
            Ok(())
        }
    }

    struct Broken;

    impl KeyVault for Broken {
        fn load(&self) -> io::Result<Option<Vec<u8>>> {
            Err(io::ErrorKind::PermissionDenied.into())
        }

        fn store(&self, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        }
    }

    fn open(vault: &Vault) -> FallbackCa {
        FallbackCa::open(vault, &[name("home.lan")]).unwrap()
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn sought(text: &str) -> ServerName<'static> {
        ServerName::try_from(text.to_owned()).unwrap()
    }

    fn roots(ca: &FallbackCa) -> Roots {
        let mut store = RootCertStore::empty();
        store
            .add(CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes()).unwrap())
            .unwrap();
        store.into()
    }
}
