//! The server's side of NTP messages under NTS (RFC 8915 section 5.7): it keeps nothing of its
//! clients, whose keys come back in cookies that it alone can open.

use serde::{Deserialize, Serialize};

use super::fields::{self, AUTHENTICATOR, COOKIE, PLACEHOLDER, UNIQUE_ID};
use super::{COOKIES, KEY_LEN, Key, KeyPair, NONCE_LEN, TAG_LEN};
use crate::clock::{Nanos, UnixTime};
use crate::ntp::wire::HEADER_LEN;

/// Octets of a cookie: number of its key, nonce, both keys of its client.
const COOKIE_LEN: usize = 4 + NONCE_LEN + TAG_LEN + 2 * KEY_LEN;
/// Keys that still open cookies, the one that makes them included.
const KEPT: usize = 3;
/// A key makes cookies for so long (RFC 8915 section 6: rotate daily or so).
const LIFE: Nanos = 86_400 * 1_000_000_000;
/// An identifier is echoed, so it is bounded.
const UNIQUE_ID_MAX: usize = 256;

/// The keys of cookies, the newest first.
///
/// They are worth keeping over restarts: else every client has to exchange keys again.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CookieKeys {
    keys: Vec<(u32, Key)>,
    /// When the newest was made, in seconds of our UTC.
    made: i64,
}

impl CookieKeys {
    /// One key, as of `now`.
    #[must_use]
    pub fn new(now: UnixTime) -> Self {
        Self { keys: vec![(rand::random(), Key::random())], made: seconds(now) }
    }

    /// The keys that follow these, if a day has passed at `now`. A clock that was wrong when the
    /// newest was made does not keep it in use.
    #[must_use]
    pub fn rotated(&self, now: UnixTime) -> Option<Self> {
        let age = now.since(UnixTime::from_secs(self.made));
        if age.abs() < LIFE && !self.keys.is_empty() {
            return None;
        }
        let next = self.keys.first().map_or_else(rand::random, |(id, _)| id.wrapping_add(1));
        let keys = std::iter::once((next, Key::random())).chain(self.keys.iter().cloned());
        Some(Self { keys: keys.take(KEPT).collect(), made: seconds(now) })
    }

    /// A cookie for a client with these keys.
    pub(super) fn make(&self, pair: &KeyPair) -> Option<Vec<u8>> {
        let (id, key) = self.keys.first()?;
        let (id, nonce) = (id.to_be_bytes(), rand::random::<[u8; NONCE_LEN]>());
        let sealed = key.seal(&id, &nonce, &[pair.client.0, pair.server.0].concat());
        Some([&id[..], &nonce[..], &sealed].concat())
    }

    fn open(&self, cookie: &[u8]) -> Option<KeyPair> {
        let (id, rest) = cookie.get(..COOKIE_LEN)?.split_first_chunk::<4>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (_, key) = self.keys.iter().find(|(known, _)| known.to_be_bytes() == *id)?;
        let plain = key.open(id, nonce, sealed)?;
        let (client, server) = plain.split_first_chunk::<KEY_LEN>()?;
        Some(KeyPair { client: Key(*client), server: Key(server.try_into().ok()?) })
    }

    /// What `question`, a whole NTP message, proves of its sender.
    pub(crate) fn check<'q>(&self, question: &'q [u8]) -> Protection<'q> {
        let Some(extension) = question.get(HEADER_LEN..) else { return Protection::None };
        let (mut unique_id, mut cookie, mut wanted) = (None, None, 1);
        for field in fields::of_message(extension) {
            match field.kind {
                UNIQUE_ID if unique_id.is_none() => unique_id = Some(field.body),
                COOKIE if cookie.is_none() => cookie = Some(field.body),
                // Room counts only if one of our cookies fits in (RFC 8915 section 5.5).
                PLACEHOLDER if field.body.len() >= COOKIE_LEN => wanted += 1,
                AUTHENTICATOR => {
                    let Some((unique_id, cookie)) = unique_id.zip(cookie) else { break };
                    if unique_id.len() > UNIQUE_ID_MAX {
                        break;
                    }
                    let before = question.get(..HEADER_LEN + field.at).unwrap_or_default();
                    let keys = self.open(cookie);
                    let opened = keys
                        .filter(|keys| fields::open(&keys.client, before, field.body).is_some());
                    return match opened {
                        Some(keys) => Protection::Right(Protected {
                            unique_id,
                            key: keys.server.clone(),
                            cookies: std::iter::repeat_with(|| self.make(&keys))
                                .take(wanted.min(COOKIES))
                                .flatten()
                                .collect(),
                            longest: question.len(),
                        }),
                        None => Protection::Wrong { unique_id },
                    };
                }
                _ => {}
            }
        }
        Protection::None
    }
}

/// What follows the header of a question.
#[derive(Debug)]
pub(crate) enum Protection<'q> {
    /// Nothing of NTS.
    None,
    /// A client whose cookie we made.
    Right(Protected<'q>),
    /// A cookie of a key that is gone, or a message that was changed.
    Wrong {
        /// What the NTS NAK has to repeat.
        unique_id: &'q [u8],
    },
}

/// How an answer is protected.
#[derive(Debug)]
pub(crate) struct Protected<'q> {
    unique_id: &'q [u8],
    key: Key,
    cookies: Vec<Vec<u8>>,
    longest: usize,
}

impl Protected<'_> {
    /// Appends to `answer`, a header, what authenticates it, and cookies for the next questions. It
    /// gets no longer than the question.
    pub(crate) fn seal(&self, answer: &mut Vec<u8>) {
        fields::write(UNIQUE_ID, self.unique_id, answer);
        let mut plain = Vec::with_capacity(COOKIES * (fields::HEAD + COOKIE_LEN));
        for cookie in &self.cookies {
            let one = fields::HEAD + cookie.len();
            if answer.len() + fields::authenticator_len(plain.len() + one) > self.longest {
                break;
            }
            fields::write(COOKIE, cookie, &mut plain);
        }
        fields::authenticate(&self.key, &plain, answer);
    }
}

/// Appends to `answer`, a kiss code, what makes it an answer to its question.
pub(crate) fn nak(unique_id: &[u8], answer: &mut Vec<u8>) {
    fields::write(UNIQUE_ID, unique_id, answer);
}

fn seconds(time: UnixTime) -> i64 {
    let seconds = time.since(UnixTime::EPOCH).div_euclid(1_000_000_000);
    i64::try_from(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn a_cookie_opens_as_long_as_its_key_is_kept() {
        let pair = KeyPair { client: Key::random(), server: Key::random() };
        let first = CookieKeys::new(UnixTime::from_secs(0));
        let cookie = first.make(&pair).unwrap();
        let mut keys = first.clone();
        for day in 1..=3 {
            assert_eq!(keys.open(&cookie), Some(pair.clone()), "day {day}");
            assert_eq!(keys.rotated(UnixTime::from_secs(day * DAY - 1)), None);
            keys = keys.rotated(UnixTime::from_secs(day * DAY)).unwrap();
        }
        assert_eq!(keys.open(&cookie), None);
        let kept: CookieKeys =
            serde_json::from_str(&serde_json::to_string(&first).unwrap()).unwrap();
        assert_eq!(kept.open(&cookie), Some(pair));
    }

    #[test]
    fn a_key_made_in_2100_is_followed_by_another_when_the_clock_is_right() {
        let keys = CookieKeys::new(UnixTime::from_secs(130 * 365 * DAY));

        assert!(keys.rotated(UnixTime::from_secs(56 * 365 * DAY)).is_some());
    }

    #[test]
    fn a_cookie_that_was_changed_does_not_open() {
        let pair = KeyPair { client: Key::random(), server: Key::random() };
        let keys = CookieKeys::new(UnixTime::EPOCH);
        let cookie = keys.make(&pair).unwrap();
        assert_eq!(cookie.len(), COOKIE_LEN);
        for at in 0..cookie.len() {
            let mut other = cookie.clone();
            other[at] ^= 1;
            assert_eq!(keys.open(&other), None, "octet {at}");
        }
        assert_eq!(keys.open(&cookie[..99]), None);
    }
}
