//! Symmetric keys: who shares one with a client or server can tell its messages from forged ones
//! (RFC 5905 section 7.3 and appendix A.2, RFC 8573).
//!
//! The file has the format of chrony's, so that the two can share one.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aes::Aes128;
use cmac::{Cmac, Mac as _};
use data_encoding::HEXUPPER_PERMISSIVE;
use ring::digest;
use subtle::ConstantTimeEq;

use crate::ntp::wire;

/// Octets of a key's number in a message.
const ID_LEN: usize = 4;
/// Octets of the longest code.
const CODE_MAX: usize = 20;
/// Octets of a key file at most, and of one key.
const FILE_MAX: u64 = 1 << 20;
const SECRET_MAX: usize = 512;

/// Shared keys by their numbers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Keys(BTreeMap<u32, Key>);

/// One shared key.
#[derive(Clone, Eq, PartialEq)]
pub enum Key {
    /// AES-128-CMAC (RFC 8573).
    Aes128([u8; 16]),
    /// SHA-1 of the key and the message: for servers that have nothing better.
    Sha1(Vec<u8>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes128(_) => "Aes128(..)",
            Self::Sha1(_) => "Sha1(..)",
        })
    }
}

impl Keys {
    /// Reads a file of keys, `NUMBER TYPE KEY` on each line (chrony.keys(5)). Also gives what is
    /// wrong or doubtful in it, with the line, which costs that key alone.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn from_file(file: &Path) -> Result<(Self, Vec<String>), KeysError> {
        let unreadable = |source| KeysError { file: file.to_owned(), source };
        let metadata = fs::metadata(file).map_err(unreadable)?;
        if metadata.len() > FILE_MAX {
            let error = io::Error::other(format!("{} octets are no file of keys", metadata.len()));
            return Err(unreadable(error));
        }
        let text = fs::read_to_string(file).map_err(unreadable)?;
        let (keys, mut doubts) = Self::parse(&text);
        if metadata.mode() & 0o077 != 0 {
            let mode = metadata.mode() & 0o7777;
            doubts.push(format!("others can read it (mode {mode:04o}); run: chmod 600"));
        }
        let named = doubts.into_iter().map(|doubt| format!("{}: {doubt}", file.display()));
        Ok((keys, named.collect()))
    }

    fn parse(text: &str) -> (Self, Vec<String>) {
        let (mut keys, mut doubts) = (BTreeMap::new(), Vec::new());
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', '!', ';', '%']) {
                continue;
            }
            match parse_line(line) {
                Ok((id, _)) if keys.contains_key(&id) => {
                    doubts
                        .push(format!("line {number}: key {id} is given twice; the first counts"));
                }
                Ok((id, key)) => {
                    keys.insert(id, key);
                }
                Err(reason) => doubts.push(format!("line {number}: {reason}")),
            }
        }
        (Self(keys), doubts)
    }

    /// The key of this number.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&Key> {
        self.0.get(&id)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What `packet`, a header and what follows it, proves of its sender.
    #[must_use]
    pub fn check(&self, packet: &[u8]) -> Seal {
        let Some((message, seal)) = wire::before_code(packet) else { return Seal::None };
        let Some((id, code)) = seal.split_first_chunk::<ID_LEN>() else { return Seal::None };
        let id = u32::from_be_bytes(*id);
        match (code.len(), self.get(id)) {
            (0, _) if id == 0 => Seal::Nak,
            (16 | CODE_MAX, Some(key)) if key.fits(message, code) => Seal::Right(id),
            (16 | CODE_MAX, _) => Seal::Wrong(id),
            _ => Seal::None,
        }
    }
}

/// What follows the header and extension fields of a message (RFC 5905 sections 7.3 and 7.5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seal {
    /// A crypto-NAK: the sender could not check what we sent.
    Nak,
    /// No code.
    None,
    /// The code of this key, and right.
    Right(u32),
    /// A code that does not fit, or of a key that is not known.
    Wrong(u32),
}

fn parse_line(line: &str) -> Result<(u32, Key), String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (id, kind, secret) = match words[..] {
        [id, secret] => (id, "MD5", secret),
        [id, kind, secret] => (id, kind, secret),
        _ => return Err("it is not NUMBER TYPE KEY".to_owned()),
    };
    let id: u32 = id
        .parse()
        .ok()
        .filter(|id| *id > 0)
        .ok_or_else(|| format!("`{id}` is no number of a key, 1 to 4294967295"))?;
    Ok((id, Key::new(kind, secret).map_err(|reason| format!("key {id}: {reason}"))?))
}

impl Key {
    fn new(kind: &str, secret: &str) -> Result<Self, String> {
        let octets = match (secret.strip_prefix("HEX:"), secret.strip_prefix("ASCII:")) {
            (Some(digits), _) => HEXUPPER_PERMISSIVE
                .decode(digits.as_bytes())
                .map_err(|_| "what follows HEX: is not hexadecimal".to_owned())?,
            (None, Some(text)) => text.as_bytes().to_vec(),
            (None, None) => secret.as_bytes().to_vec(),
        };
        if octets.is_empty() || octets.len() > SECRET_MAX {
            return Err(format!("it has {} octets", octets.len()));
        }
        match kind {
            "AES128" => <[u8; 16]>::try_from(octets).map(Self::Aes128).map_err(|octets| {
                format!("an AES128 key has 16 octets, this one {}", octets.len())
            }),
            "SHA1" => Ok(Self::Sha1(octets)),
            _ => Err(format!(
                "type {kind} is not used; use AES128, or SHA1 where the other side has nothing better"
            )),
        }
    }

    /// Appends number and code for `message` to it.
    pub fn seal(&self, id: u32, message: &mut Vec<u8>) {
        let code = self.code(message);
        message.extend_from_slice(&id.to_be_bytes());
        message.extend_from_slice(code.as_slice());
    }

    fn fits(&self, message: &[u8], code: &[u8]) -> bool {
        bool::from(self.code(message).as_slice().ct_eq(code))
    }

    fn code(&self, message: &[u8]) -> Code {
        match self {
            Self::Aes128(key) => {
                let mut cmac = <Cmac<Aes128> as cmac::digest::KeyInit>::new(key.into());
                cmac.update(message);
                Code::Cmac(cmac.finalize().into_bytes().into())
            }
            Self::Sha1(key) => {
                let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
                context.update(key);
                context.update(message);
                Code::Digest(context.finish())
            }
        }
    }
}

enum Code {
    Cmac([u8; 16]),
    Digest(digest::Digest),
}

impl Code {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Cmac(octets) => octets,
            Self::Digest(digest) => digest.as_ref(),
        }
    }
}

/// Why there are no keys: the file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", file.display())]
pub struct KeysError {
    file: PathBuf,
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_are_those_of_rfc_4493() {
        let key = Key::new("AES128", "HEX:2b7e151628aed2a6abf7158809cf4f3c").unwrap();
        let message = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
                           30c81c46a35ce411");

        assert_eq!(key.code(&[]).as_slice(), hex("bb1d6929e95937287fa37d129b756746"));
        assert_eq!(key.code(&message).as_slice(), hex("dfa66747de9ae63030ca32611497c827"));
    }

    #[test]
    fn a_code_is_right_for_its_message_and_key_alone() {
        let (keys, _) = Keys::parse("1 AES128 ASCII:0123456789abcdef\n2 SHA1 secret");
        for id in [1, 2] {
            let mut packet = message(4, &[]);
            keys.get(id).unwrap().seal(id, &mut packet);
            assert_eq!(keys.check(&packet), Seal::Right(id));

            let mut other = packet.clone();
            other[3] ^= 1;
            assert_eq!(keys.check(&other), Seal::Wrong(id));
            let mut other = packet.clone();
            other[51] ^= 3;
            assert!(matches!(keys.check(&other), Seal::Wrong(_)));
            packet.pop();
            assert_eq!(keys.check(&packet), Seal::None);
        }
        assert_eq!(keys.check(&[0; 52]), Seal::Nak);
        assert_eq!(keys.check(&[0; 48]), Seal::None);
        assert_eq!(keys.check(&[0; 10]), Seal::None);
    }

    /// As chrony does it: what chrony sends is in `tests/ntp_clients.rs`.
    #[test]
    fn a_code_is_found_behind_extension_fields() {
        let (keys, _) = Keys::parse("1 AES128 ASCII:0123456789abcdef\n2 SHA1 secret");
        for (id, fields) in [(1, &[16][..]), (2, &[28]), (1, &[16, 24, 1024]), (2, &[20, 16])] {
            let mut packet = message(4, fields);
            keys.get(id).unwrap().seal(id, &mut packet);
            assert_eq!(keys.check(&packet), Seal::Right(id), "{fields:?}");

            // The fields are under the code.
            packet[56] ^= 1;
            assert_eq!(keys.check(&packet), Seal::Wrong(id), "{fields:?}");
        }
        assert_eq!(keys.check(&message(4, &[28])), Seal::None);
    }

    #[test]
    fn behind_what_is_no_field_no_code_is_looked_for_and_version_3_has_no_fields() {
        let (keys, _) = Keys::parse("1 AES128 ASCII:0123456789abcdef\n2 SHA1 secret");
        let sealed = |mut packet: Vec<u8>| {
            keys.get(1).unwrap().seal(1, &mut packet);
            keys.check(&packet)
        };
        // Shorter than a field may be, not in words, and beyond the end.
        for len in [0, 3, 12, 17, 18, 40, 65_532] {
            let mut packet = message(4, &[28]);
            packet[50..52].copy_from_slice(&u16::to_be_bytes(len));
            assert_eq!(sealed(packet), Seal::None, "{len}");
        }
        assert_eq!(sealed(message(3, &[])), Seal::Right(1));
        assert_eq!(sealed(message(3, &[28])), Seal::None);
    }

    proptest! {
        #[test]
        fn a_code_is_right_behind_any_fields_and_nothing_else_is(
            words in prop::collection::vec(4usize..64, 0..6),
            rest in prop::collection::vec(any::<u8>(), 0..120),
            cut in 1usize..60,
            id in 1u32..3,
        ) {
            let (keys, _) = Keys::parse("1 AES128 ASCII:0123456789abcdef\n2 SHA1 secret");
            let lens: Vec<_> = words.iter().map(|words| words * 4).collect();
            let mut packet = message(4, &lens);
            let unsealed = packet.clone();
            keys.get(id).unwrap().seal(id, &mut packet);

            prop_assert_eq!(keys.check(&packet), Seal::Right(id));
            let cut = packet.len().saturating_sub(cut);
            prop_assert!(!matches!(keys.check(&packet[..cut]), Seal::Right(_)));
            let forged = [unsealed, rest].concat();
            prop_assert!(!matches!(keys.check(&forged), Seal::Right(_)));
        }
    }

    /// A header of this version, and extension fields of these lengths.
    fn message(version: u8, fields: &[usize]) -> Vec<u8> {
        let mut message = vec![7; 48];
        message[0] = version << 3 | 3;
        for len in fields {
            message.extend([0x20, 0x05]);
            message.extend(u16::try_from(*len).unwrap().to_be_bytes());
            message.resize(message.len() + len - 4, 9);
        }
        message
    }

    #[test]
    fn a_file_of_chrony_s_is_read_and_what_is_weak_in_it_said() {
        let (keys, doubts) = Keys::parse(
            "# comment\n! another\n\n1 MD5 ASCII:secret\n 7\tSHA1  HEX:00ff\n9 secret\n\
             20 AES256 HEX:11\n30 AES128 HEX:000102030405060708090A0B0C0D0E0F\n",
        );

        assert_eq!(keys.0.keys().copied().collect::<Vec<_>>(), [7, 30]);
        assert_eq!(keys.get(7), Some(&Key::Sha1(vec![0, 255])));
        assert_eq!(doubts.len(), 3, "{doubts:?}");
        assert!(doubts[0].starts_with("line 4: key 1: type MD5 is not used"), "{doubts:?}");
        assert!(!format!("{keys:?}").contains("255"), "{keys:?}");
    }

    #[test]
    fn a_line_that_is_wrong_costs_its_key_alone_and_is_named() {
        for (text, reason) in [
            ("1 AES128 HEX:00", "line 2: key 1: an AES128 key has 16 octets, this one 1"),
            ("\n1 SHA1 HEX:0g", "line 3: key 1: what follows HEX: is not hexadecimal"),
            ("0 SHA1 x", "line 2: `0` is no number of a key"),
            ("x SHA1 x", "line 2: `x` is no number of a key"),
            ("1", "line 2: it is not NUMBER TYPE KEY"),
            ("1 SHA1 HEX:", "line 2: key 1: it has 0 octets"),
            ("9 SHA1 other", "line 2: key 9 is given twice"),
        ] {
            let (keys, doubts) = Keys::parse(&format!("9 SHA1 good\n{text}\n10 SHA1 good"));
            assert_eq!(keys.0.keys().copied().collect::<Vec<_>>(), [9, 10], "{text}");
            assert_eq!(keys.get(9), Some(&Key::Sha1(b"good".to_vec())));
            assert!(doubts[0].starts_with(reason) && doubts.len() == 1, "{text}: {doubts:?}");
        }
    }

    fn hex(digits: &str) -> Vec<u8> {
        HEXUPPER_PERMISSIVE.decode(digits.as_bytes()).unwrap()
    }
}
