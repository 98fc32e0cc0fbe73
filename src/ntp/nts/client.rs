//! The client's side of NTP messages under NTS (RFC 8915 section 5.7).

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::fields::{self, AUTHENTICATOR, COOKIE, HEAD, PLACEHOLDER, UNIQUE_ID, UNIQUE_ID_LEN};
use super::{COOKIES, Key, KeyPair};
use crate::ntp::wire::HEADER_LEN;

/// Octets of a cookie at most.
pub(super) const COOKIE_MAX: usize = 512;
/// Octets of a question at most: it has to pass every path in one piece.
const QUESTION_MAX: usize = 1200;

/// Keys and cookies for one server.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct Session {
    server: SocketAddr,
    keys: KeyPair,
    cookies: VecDeque<Vec<u8>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({}, {} cookies)", self.server, self.cookies.len())
    }
}

impl Session {
    pub(super) fn new(server: SocketAddr, keys: KeyPair, cookies: Vec<Vec<u8>>) -> Self {
        let mut session = Self { server, keys, cookies: VecDeque::new() };
        session.restock(cookies);
        session
    }

    /// Where the NTP server is.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// How many questions can be asked without an answer.
    #[must_use]
    pub fn cookies(&self) -> usize {
        self.cookies.len()
    }

    /// What protects the next question; `None` without a cookie left. None is used twice
    /// (RFC 8915 section 5.7): it would tell that both come from one client.
    pub fn next_question(&mut self) -> Option<Question> {
        let cookie = self.cookies.pop_front()?;
        Some(Question {
            keys: self.keys.clone(),
            unique_id: rand::random(),
            wanted: COOKIES - self.cookies.len(),
            cookie,
            fresh: Vec::new(),
        })
    }

    /// Takes the cookies of an answer.
    pub fn restock(&mut self, cookies: Vec<Vec<u8>>) {
        let fit = cookies.into_iter().filter(|it| (1..=COOKIE_MAX).contains(&it.len()));
        self.cookies.extend(fit);
        while self.cookies.len() > COOKIES {
            self.cookies.pop_front();
        }
    }
}

/// What protects one question and its answer.
#[derive(Debug)]
pub struct Question {
    keys: KeyPair,
    unique_id: [u8; UNIQUE_ID_LEN],
    cookie: Vec<u8>,
    /// Cookies the answer should hold.
    wanted: usize,
    fresh: Vec<Vec<u8>>,
}

impl Question {
    /// Appends to `message`, a header, what protects it.
    pub(crate) fn protect(&self, message: &mut Vec<u8>) {
        fields::write(UNIQUE_ID, &self.unique_id, message);
        fields::write(COOKIE, &self.cookie, message);
        let room = vec![0; self.cookie.len()];
        for _ in 1..self.wanted {
            let next = message.len() + HEAD + room.len().next_multiple_of(4);
            if next + fields::authenticator_len(0) > QUESTION_MAX {
                break;
            }
            fields::write(PLACEHOLDER, &room, message);
        }
        fields::authenticate(&self.keys.client, &[], message);
    }

    /// What `answer`, a whole message, proves of its sender.
    pub(crate) fn check(&mut self, answer: &[u8]) -> Answer {
        let extension = answer.get(HEADER_LEN..).unwrap_or_default();
        let mut ours = false;
        for field in fields::of_message(extension) {
            match field.kind {
                UNIQUE_ID if field.body == self.unique_id => ours = true,
                UNIQUE_ID => return Answer::Wrong,
                AUTHENTICATOR => {
                    let before = answer.get(..HEADER_LEN + field.at).unwrap_or_default();
                    let Some(plain) = fields::open(&self.keys.server, before, field.body) else {
                        return Answer::Wrong;
                    };
                    if !ours {
                        return Answer::Wrong;
                    }
                    let cookies = fields::of_plaintext(&plain).filter(|it| it.kind == COOKIE);
                    self.fresh = cookies.take(COOKIES).map(|it| it.body.to_vec()).collect();
                    return Answer::Right;
                }
                _ => {}
            }
        }
        if ours { Answer::Unprotected } else { Answer::Wrong }
    }

    /// The cookies that the answer brought.
    #[must_use]
    pub fn into_cookies(self) -> Vec<Vec<u8>> {
        self.fresh
    }
}

/// What an answer proves of its sender.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    /// It has our key.
    Right,
    /// It has seen our question, and nothing more is known: so it is with a kiss code.
    Unprotected,
    /// It is no answer to this question, or was changed.
    Wrong,
}

impl Key {
    #[cfg(test)]
    pub(super) fn pair() -> KeyPair {
        KeyPair { client: Self::random(), server: Self::random() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;
    use crate::ntp::nts::cookies::{CookieKeys, Protection, nak};

    #[test]
    fn a_question_is_opened_and_its_answer_restocks_the_cookies() {
        let keys = CookieKeys::new(UnixTime::EPOCH);
        let mut session = session(&keys, 3);
        let mut question = session.next_question().unwrap();
        let packet = protected(&question);

        let Protection::Right(protected) = keys.check(&packet) else { panic!("not opened") };
        let mut answer = vec![4; 48];
        protected.seal(&mut answer);

        assert!(answer.len() <= packet.len(), "{} > {}", answer.len(), packet.len());
        assert_eq!(question.check(&answer), Answer::Right);
        session.restock(question.into_cookies());
        assert_eq!(session.cookies(), 8);
    }

    #[test]
    fn one_octet_changed_on_the_way_and_neither_side_believes_it() {
        let keys = CookieKeys::new(UnixTime::EPOCH);
        let mut question = session(&keys, 8).next_question().unwrap();
        let packet = protected(&question);
        let Protection::Right(protected) = keys.check(&packet) else { panic!("not opened") };
        let mut answer = vec![4; 48];
        protected.seal(&mut answer);

        for at in 0..packet.len() {
            let mut other = packet.clone();
            other[at] ^= 1;
            assert!(!matches!(keys.check(&other), Protection::Right(_)), "octet {at}");
        }
        for at in 0..answer.len() {
            let mut other = answer.clone();
            other[at] ^= 1;
            assert_ne!(question.check(&other), Answer::Right, "octet {at}");
        }
        for len in 0..answer.len() {
            assert_ne!(question.check(&answer[..len]), Answer::Right, "{len} octets");
        }
    }

    #[test]
    fn a_cookie_of_a_lost_key_is_answered_with_a_nak_that_repeats_the_identifier() {
        let (ours, lost) = (CookieKeys::new(UnixTime::EPOCH), CookieKeys::new(UnixTime::EPOCH));
        let mut question = session(&lost, 1).next_question().unwrap();

        let packet = protected(&question);
        let Protection::Wrong { unique_id } = ours.check(&packet) else { panic!("opened") };
        let mut answer = vec![0; 48];
        nak(unique_id, &mut answer);

        assert_eq!(question.check(&answer), Answer::Unprotected);
        assert_eq!(question.check(&[0; 48]), Answer::Wrong);
    }

    #[test]
    fn no_cookie_is_used_twice_and_none_that_is_too_long() {
        let keys = CookieKeys::new(UnixTime::EPOCH);
        let mut session = session(&keys, 2);
        let first = session.next_question().unwrap().cookie;
        let second = session.next_question().unwrap().cookie;

        assert_ne!(first, second);
        assert!(session.next_question().is_none());
        session.restock(vec![vec![], vec![0; COOKIE_MAX + 1], vec![0; COOKIE_MAX]]);
        assert_eq!(session.cookies(), 1);
        assert!(protected(&session.next_question().unwrap()).len() <= QUESTION_MAX);
    }

    fn session(keys: &CookieKeys, cookies: usize) -> Session {
        let pair = Key::pair();
        let cookies = (0..cookies).filter_map(|_| keys.make(&pair)).collect();
        Session::new(([192, 0, 2, 1], 123).into(), pair, cookies)
    }

    fn protected(question: &Question) -> Vec<u8> {
        let mut packet = vec![3; 48];
        question.protect(&mut packet);
        packet
    }
}
