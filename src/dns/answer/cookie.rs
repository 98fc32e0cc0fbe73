//! Server cookies (RFC 7873, in the form of RFC 9018): who sends one back has our answers, and so
//! does not ask under a forged address.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

/// What a cookie may be older than us by, in seconds (RFC 9018 section 4.3).
const AGE_MAX: u32 = 3600;
/// A cookie older than this is replaced.
const AGE_RENEW: u32 = 1800;
/// How far ahead of us a cookie may be.
const AHEAD_MAX: u32 = 300;

/// Version 1, and three reserved octets (RFC 9018 section 4.2).
const VERSION: [u8; 4] = [1, 0, 0, 0];

/// Makes and knows our cookies.
pub(super) struct Cookies {
    secret: [u8; 16],
}

/// What a client's cookie option comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Checked {
    /// It holds a server cookie that is ours, for this address, and not too old.
    pub(super) valid: bool,
    /// The content of the option in the reply.
    pub(super) reply: [u8; 24],
}

impl Cookies {
    /// Cookies of a random secret, which those of an earlier process are not.
    pub(super) fn new() -> Self {
        Self { secret: rand::random() }
    }

    /// Judges the option of a client at `address`; `now` is in seconds, in the arithmetic of
    /// serial numbers (RFC 1982). `None` if it is too short for a client cookie.
    pub(super) fn check(&self, option: &[u8], address: IpAddr, now: u32) -> Option<Checked> {
        let (client, server) = option.split_first_chunk::<8>()?;
        let made = server.first_chunk::<16>().and_then(|server| {
            let [_, _, _, _, t0, t1, t2, t3, ..] = *server;
            let at = u32::from_be_bytes([t0, t1, t2, t3]);
            let ours = self.server_cookie(*client, address, at) == *server && option.len() == 24;
            ours.then_some(at)
        });
        let age = made.map(|at| now.wrapping_sub(at));
        let valid = age.is_some_and(|age| age <= AGE_MAX || age >= AHEAD_MAX.wrapping_neg());
        let at = made.filter(|_| valid && age.is_some_and(|age| age <= AGE_RENEW)).unwrap_or(now);
        let mut reply = [0; 24];
        reply[..8].copy_from_slice(client);
        reply[8..].copy_from_slice(&self.server_cookie(*client, address, at));
        Some(Checked { valid, reply })
    }

    fn server_cookie(&self, client: [u8; 8], address: IpAddr, at: u32) -> [u8; 16] {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        let mut cookie = [0; 16];
        cookie[..4].copy_from_slice(&VERSION);
        cookie[4..8].copy_from_slice(&at.to_be_bytes());
        hasher.write(&client);
        hasher.write(&cookie[..8]);
        match address {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        cookie[8..].copy_from_slice(&hasher.finish().to_le_bytes());
        cookie
    }
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9018 appendix A.1 and A.2.
    const CLIENT: [u8; 8] = [0x24, 0x64, 0xc4, 0xab, 0xcf, 0x10, 0xc9, 0x57];
    const SERVER: [u8; 16] =
        [0x01, 0, 0, 0, 0x5c, 0xf7, 0x9f, 0x11, 0x1f, 0x81, 0x30, 0xc3, 0xee, 0xe2, 0x94, 0x80];
    const MADE: u32 = 1_559_731_985;

    #[test]
    fn a_cookie_is_the_one_that_the_standard_shows() {
        let reply = check(&CLIENT, MADE);

        assert!(!reply.valid);
        assert_eq!(reply.reply, [&CLIENT[..], &SERVER].concat()[..]);
    }

    #[test]
    fn a_cookie_is_valid_for_an_hour_and_renewed_after_half() {
        let whole = [&CLIENT[..], &SERVER].concat();
        let later = |seconds: u32| check(&whole, MADE.wrapping_add(seconds));

        assert!(later(1800).valid && later(1800).reply[..] == whole);
        assert!(later(1801).valid && later(1801).reply[..] != whole);
        assert!(later(3600).valid && !later(3601).valid);
        // The clock went back: a little is forgiven.
        assert!(later(300_u32.wrapping_neg()).valid && !later(301_u32.wrapping_neg()).valid);
    }

    #[test]
    fn a_cookie_for_another_address_or_of_another_length_is_not_valid() {
        let whole = [&CLIENT[..], &SERVER].concat();
        let other = cookies().check(&whole, "198.51.100.101".parse().unwrap(), MADE).unwrap();

        assert!(check(&whole, MADE).valid && !other.valid);
        assert!(!check(&[&whole[..], &[0]].concat(), MADE).valid);
        assert!(!check(&whole[..20], MADE).valid);
        assert_eq!(cookies().check(&whole[..7], "::1".parse().unwrap(), MADE), None);
    }

    fn check(option: &[u8], now: u32) -> Checked {
        cookies().check(option, "198.51.100.100".parse().unwrap(), now).unwrap()
    }

    fn cookies() -> Cookies {
        Cookies {
            secret: [
                0xe5, 0xe9, 0x73, 0xe5, 0xa6, 0xb2, 0xa4, 0x3f, 0x48, 0xe7, 0xdc, 0x84, 0x9e, 0x37,
                0xbf, 0xcf,
            ],
        }
    }
}
