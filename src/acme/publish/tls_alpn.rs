//! Certificates that show a name to be ours (RFC 8737), made by rustls-acme.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::CertifiedKey;
use rustls_acme::acme::{Account, AcmeError, Challenge, ChallengeType, Directory};

/// The certificate that shows `name` to be ours to the CA that gave out `token`, and its key;
/// `account` is the key of our account there, ECDSA on P-256.
///
/// # Errors
///
/// `account` is another key, or `name` no host name.
pub(in crate::acme) fn certificate(
    account: &PrivatePkcs8KeyDer<'_>,
    name: &str,
    token: &str,
) -> Result<CertifiedKey, AcmeError> {
    let key_pair = EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        account.secret_pkcs8_der(),
        &SystemRandom::new(),
    )?;
    // The rest of an account is for requests, of which it makes none.
    let directory = Directory {
        new_nonce: String::new(),
        new_account: String::new(),
        new_order: String::new(),
    };
    let account = Account { key_pair, directory, kid: String::new() };
    let challenge = Challenge {
        typ: ChallengeType::TlsAlpn01,
        url: String::new(),
        token: token.to_owned(),
        error: None,
    };
    Ok(account.tls_alpn_01(&[challenge], name.to_owned())?.1)
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use rcgen::{KeyPair, PublicKeyData as _};
    use ring::digest::{SHA256, digest};
    use x509_parser::prelude::*;

    use super::*;
    use crate::acme::KeyPem;

    #[test]
    fn the_certificate_carries_the_name_and_the_hash_of_token_and_account() {
        let key = KeyPem::generate().unwrap().pkcs8().unwrap();

        let certified = certificate(&key, "dns.home.test", "token").unwrap();

        let [der] = &certified.cert[..] else { panic!("{:?}", certified.cert) };
        let (_, leaf) = X509Certificate::from_der(der).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [GeneralName::DNSName("dns.home.test")]);
        // RFC 8737 section 3: critical, and an octet string with the hash in it.
        let of_acme =
            leaf.extensions().iter().find(|it| it.oid.to_string() == "1.3.6.1.5.5.7.1.31");
        let of_acme = of_acme.unwrap();
        assert!(of_acme.critical);
        let authorization = format!("token.{}", thumbprint(&key));
        let hash = digest(&SHA256, authorization.as_bytes());
        assert_eq!(of_acme.value, [&[4, 32], hash.as_ref()].concat());
    }

    #[test]
    fn what_is_no_key_or_no_name_makes_no_certificate() {
        let no_key = PrivatePkcs8KeyDer::from(vec![0; 64]);
        assert!(certificate(&no_key, "dns.home.test", "token").is_err());

        let key = KeyPem::generate().unwrap().pkcs8().unwrap();
        assert!(certificate(&key, "d\u{f6}s.home.test", "token").is_err());
    }

    /// Of the public half of `key` (RFC 7638).
    fn thumbprint(key: &PrivatePkcs8KeyDer<'_>) -> String {
        let pair = KeyPair::try_from(key).unwrap();
        let [x, y] = [1..33, 33..65].map(|at| BASE64URL_NOPAD.encode(&pair.der_bytes()[at]));
        let jwk = format!("{{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"{x}\",\"y\":\"{y}\"}}");
        BASE64URL_NOPAD.encode(digest(&SHA256, jwk.as_bytes()).as_ref())
    }
}
