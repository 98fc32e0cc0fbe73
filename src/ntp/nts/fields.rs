//! Extension fields of NTP messages that NTS makes use of (RFC 7822, RFC 8915 section 5).

use super::{Key, NONCE_LEN, TAG_LEN};
use crate::ntp::wire::SHORTEST_FIELD;

/// A number that the answer repeats.
pub(super) const UNIQUE_ID: u16 = 0x0104;
/// What the server needs to know of its client.
pub(super) const COOKIE: u16 = 0x0204;
/// Room for one more cookie in the answer.
pub(super) const PLACEHOLDER: u16 = 0x0304;
/// Authenticates all before it, and holds what is encrypted.
pub(super) const AUTHENTICATOR: u16 = 0x0404;

/// Octets of type and length.
pub(super) const HEAD: usize = 4;

/// Octets of a unique identifier as we make it (RFC 8915 section 5.3: at least 32).
pub(super) const UNIQUE_ID_LEN: usize = 32;

/// A field as it stands in a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Field<'m> {
    pub(super) kind: u16,
    pub(super) body: &'m [u8],
    /// Where it begins in what was read.
    pub(super) at: usize,
}

/// The fields in `octets`, up to the first that is none.
pub(super) fn read(octets: &[u8], shortest: usize) -> impl Iterator<Item = Field<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = octets.get(at..)?;
        let &[kind_high, kind_low, len_high, len_low] = rest.first_chunk::<HEAD>()?;
        let len = usize::from(u16::from_be_bytes([len_high, len_low]));
        if len < shortest.max(HEAD) || len % 4 != 0 {
            return None;
        }
        let kind = u16::from_be_bytes([kind_high, kind_low]);
        let field = Field { kind, body: rest.get(HEAD..len)?, at };
        at += len;
        Some(field)
    })
}

/// The fields behind the header of a message.
pub(super) fn of_message(octets: &[u8]) -> impl Iterator<Item = Field<'_>> {
    read(octets, SHORTEST_FIELD)
}

/// The fields that were encrypted; they may be short (RFC 8915 section 5.6).
pub(super) fn of_plaintext(octets: &[u8]) -> impl Iterator<Item = Field<'_>> {
    read(octets, HEAD)
}

/// Appends a field; its body is padded with zeros.
pub(super) fn write(kind: u16, body: &[u8], message: &mut Vec<u8>) {
    let padded = body.len().next_multiple_of(4);
    let Ok(len) = u16::try_from(HEAD + padded) else { return };
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&len.to_be_bytes());
    message.extend_from_slice(body);
    message.resize(message.len() + padded - body.len(), 0);
}

/// Octets of the authenticator over `plain` octets.
pub(super) const fn authenticator_len(plain: usize) -> usize {
    HEAD + 4 + NONCE_LEN + TAG_LEN + plain
}

/// Appends the field that authenticates `message` and encrypts `plain`.
pub(super) fn authenticate(key: &Key, plain: &[u8], message: &mut Vec<u8>) {
    let nonce: [u8; NONCE_LEN] = rand::random();
    let sealed = key.seal(message, &nonce, plain);
    let len = |octets: &[u8]| u16::try_from(octets.len()).unwrap_or(0).to_be_bytes();
    let body = [&len(&nonce)[..], &len(&sealed)[..], &nonce[..], &sealed].concat();
    write(AUTHENTICATOR, &body, message);
}

/// What the body of an authenticator encrypts, if `before` is what it authenticates.
pub(super) fn open(key: &Key, before: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    let (&[a, b, c, d], rest) = body.split_first_chunk::<4>()?;
    let nonce = usize::from(u16::from_be_bytes([a, b]));
    let sealed = usize::from(u16::from_be_bytes([c, d]));
    let start = nonce.next_multiple_of(4);
    let (nonce, sealed) = (rest.get(..nonce)?, rest.get(start..start + sealed)?);
    if nonce.is_empty() {
        return None;
    }
    key.open(before, nonce, sealed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut message = vec![7; 48];
        write(UNIQUE_ID, &[1; 32], &mut message);
        write(COOKIE, &[2; 13], &mut message);
        let before = message.len();
        let key = Key::random();
        authenticate(&key, b"secret", &mut message);

        let fields: Vec<_> = of_message(&message[48..]).collect();

        assert_eq!(fields.len(), 3);
        assert_eq!((fields[0].kind, fields[0].body), (UNIQUE_ID, &[1; 32][..]));
        assert_eq!((fields[1].body.len(), fields[1].at), (16, 36));
        assert_eq!(48 + fields[2].at, before);
        assert_eq!(open(&key, &message[..before], fields[2].body), Some(b"secret".to_vec()));
        message[0] ^= 1;
        let (before, rest) = message.split_at(before);
        assert_eq!(open(&key, before, &rest[HEAD..]), None);
    }

    proptest! {
        #[test]
        fn no_octets_make_reading_panic(octets: Vec<u8>) {
            for field in of_message(&octets).chain(of_plaintext(&octets)) {
                let _ = open(&Key([0; 32]), &octets, field.body);
            }
            let _ = open(&Key([0; 32]), &octets, &octets);
        }
    }
}
