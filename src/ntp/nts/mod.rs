//! Network Time Security (RFC 8915): NTP that is authenticated by keys which TLS has agreed on.
//!
//! [`exchange`] and [`serve`] are the two sides of the key exchange, [`client`] and [`cookies`] those
//! of the NTP messages that follow. One algorithm is spoken, `AEAD_AES_SIV_CMAC_256`, which everybody
//! has to have (RFC 8915 section 5.1).

pub mod client;
pub mod cookies;
pub mod exchange;
mod fields;
mod records;
pub mod serve;

use std::fmt;

use aes_siv::KeyInit;
use aes_siv::siv::Aes128Siv;
use serde::{Deserialize, Serialize};

/// The protocol in the TLS handshake (RFC 8915 section 4).
pub const ALPN: &[u8] = b"ntske/1";

/// The port of the key exchange (RFC 8915 section 6).
pub const PORT: u16 = 4460;

/// Number of `AEAD_AES_SIV_CMAC_256` (RFC 8915 section 5.1).
const AEAD: u16 = 15;
/// Number of `NTPv4` among the protocols that keys can be for (RFC 8915 section 7.7).
const NTPV4: u16 = 0;
/// Octets of a key of `AEAD_AES_SIV_CMAC_256`.
const KEY_LEN: usize = 32;
/// Octets by which a message gets longer when it is sealed.
const TAG_LEN: usize = 16;
/// Octets of our nonces.
const NONCE_LEN: usize = 16;
/// Cookies that a client has at most (RFC 8915 section 4.1.6).
pub const COOKIES: usize = 8;

/// A key of `AEAD_AES_SIV_CMAC_256`.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
struct Key([u8; KEY_LEN]);

impl Key {
    fn random() -> Self {
        Self(rand::random())
    }

    /// Encrypts `plain` and authenticates it together with `associated`.
    fn seal(&self, associated: &[u8], nonce: &[u8], plain: &[u8]) -> Vec<u8> {
        match self.cipher().encrypt([associated, nonce], plain) {
            Ok(sealed) => sealed,
            Err(error) => unreachable!("two strings of associated data are allowed: {error}"),
        }
    }

    /// What was encrypted, if it and `associated` are as they were.
    fn open(&self, associated: &[u8], nonce: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.cipher().decrypt([associated, nonce], sealed).ok()
    }

    fn cipher(&self) -> Aes128Siv {
        Aes128Siv::new((&self.0).into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What both sides get out of one TLS session (RFC 8915 section 5.1).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct KeyPair {
    /// For what the client sends.
    client: Key,
    /// For what the server sends.
    server: Key,
}

impl KeyPair {
    /// The keys of a connection whose handshake is done.
    fn export<D>(tls: &rustls::ConnectionCommon<D>) -> Result<Self, rustls::Error> {
        const LABEL: &[u8] = b"EXPORTER-network-time-security";
        let export = |direction| {
            let [aead_high, aead_low] = AEAD.to_be_bytes();
            let [protocol_high, protocol_low] = NTPV4.to_be_bytes();
            let context = [protocol_high, protocol_low, aead_high, aead_low, direction];
            tls.export_keying_material([0; KEY_LEN], LABEL, Some(&context)).map(Key)
        };
        Ok(Self { client: export(0)?, server: export(1)? })
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// RFC 5297 appendix A.2.
    #[test]
    fn sealing_is_that_of_rfc_5297() {
        let hex = |digits: &str| HEXLOWER.decode(digits.as_bytes()).unwrap();
        let key = hex("7f7e7d7c7b7a79787776757473727170404142434445464748494a4b4c4d4e4f");
        let key = Key(key.try_into().unwrap());
        let first =
            hex("00112233445566778899aabbccddeeffdeaddadadeaddadaffeeddccbbaa99887766554433221100");
        let second = hex("102030405060708090a0");
        let nonce = hex("09f911029d74e35bd84156c5635688c0");
        let plain = b"this is some plaintext to encrypt using SIV-AES";

        let sealed = key.cipher().encrypt([&first, &second, &nonce], plain).unwrap();

        assert_eq!(
            HEXLOWER.encode(&sealed),
            "7bdb6e3b432667eb06f4d14bff2fbd0fcb900f2fddbe404326601965c889bf17dba77ceb094fa663b7a3f748ba8af829ea64ad544a272e9c485b62a3fd5c0d"
        );
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_nonce_and_data_alone() {
        let key = Key::random();
        let sealed = key.seal(b"header", b"nonce", b"plain");

        assert_eq!(key.open(b"header", b"nonce", &sealed), Some(b"plain".to_vec()));
        assert_eq!(key.open(b"Header", b"nonce", &sealed), None);
        assert_eq!(key.open(b"header", b"Nonce", &sealed), None);
        assert_eq!(Key::random().open(b"header", b"nonce", &sealed), None);
        assert_eq!(key.open(b"header", b"nonce", &sealed[..10]), None);
    }
}
