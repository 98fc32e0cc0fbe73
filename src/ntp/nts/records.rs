//! The records of the key exchange (RFC 8915 section 4).

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{AEAD, NTPV4};

/// A message of either side at most, in octets: a dozen records.
const MESSAGE_MAX: usize = 16 << 10;

const CRITICAL: u16 = 0x8000;
const END: u16 = 0;
const NEXT_PROTOCOL: u16 = 1;
const ERROR: u16 = 2;
const WARNING: u16 = 3;
const ALGORITHM: u16 = 4;
const NEW_COOKIE: u16 = 5;
const SERVER: u16 = 6;
const SERVER_PORT: u16 = 7;

/// Error codes (RFC 8915 section 4.1.3).
pub(super) const UNRECOGNIZED_CRITICAL: u16 = 0;
pub(super) const BAD_REQUEST: u16 = 1;

/// What a message says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Message {
    /// What the keys are for; `None` if nothing is said of it.
    pub(super) protocols: Option<Vec<u16>>,
    pub(super) algorithms: Option<Vec<u16>>,
    pub(super) cookies: Vec<Vec<u8>>,
    pub(super) error: Option<u16>,
    pub(super) warning: Option<u16>,
    /// Where the NTP server is: an address or a name.
    pub(super) server: Option<String>,
    pub(super) port: Option<u16>,
}

/// Why a message is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum BadMessage {
    #[error("a record that has to be understood is not known")]
    UnknownCritical,
    #[error("its records are not those of RFC 8915")]
    Malformed,
    #[error("it is longer than {MESSAGE_MAX} octets, or ends early")]
    Length,
}

impl Message {
    /// The request of a client.
    pub(super) fn request() -> Vec<u8> {
        let message =
            Self { protocols: Some(vec![NTPV4]), algorithms: Some(vec![AEAD]), ..Self::default() };
        message.emit()
    }

    pub(super) fn failure(error: u16) -> Self {
        Self { error: Some(error), ..Self::default() }
    }

    pub(super) fn emit(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        let mut record = |kind: u16, body: &[u8]| {
            let Ok(len) = u16::try_from(body.len()) else { return };
            octets.extend_from_slice(&kind.to_be_bytes());
            octets.extend_from_slice(&len.to_be_bytes());
            octets.extend_from_slice(body);
        };
        let list = |numbers: &[u16]| -> Vec<u8> {
            numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
        };
        if let Some(error) = self.error {
            record(CRITICAL | ERROR, &error.to_be_bytes());
        }
        if let Some(protocols) = &self.protocols {
            record(CRITICAL | NEXT_PROTOCOL, &list(protocols));
        }
        if let Some(algorithms) = &self.algorithms {
            record(CRITICAL | ALGORITHM, &list(algorithms));
        }
        if let Some(server) = &self.server {
            record(CRITICAL | SERVER, server.as_bytes());
        }
        if let Some(port) = self.port {
            record(CRITICAL | SERVER_PORT, &port.to_be_bytes());
        }
        for cookie in &self.cookies {
            record(NEW_COOKIE, cookie);
        }
        record(CRITICAL | END, &[]);
        octets
    }

    /// Reads from `stream` up to the last record.
    pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, BadMessage> {
        let mut message = Self::default();
        let mut total = 0;
        loop {
            let mut head = [0; 4];
            stream.read_exact(&mut head).await.map_err(|_| BadMessage::Length)?;
            let [kind_high, kind_low, len_high, len_low] = head;
            let len = usize::from(u16::from_be_bytes([len_high, len_low]));
            total += head.len() + len;
            if total > MESSAGE_MAX {
                return Err(BadMessage::Length);
            }
            let mut body = vec![0; len];
            stream.read_exact(&mut body).await.map_err(|_| BadMessage::Length)?;
            if message.take(u16::from_be_bytes([kind_high, kind_low]), &body)? {
                return Ok(message);
            }
        }
    }

    /// Takes one record; true if it is the last.
    fn take(&mut self, kind: u16, body: &[u8]) -> Result<bool, BadMessage> {
        let one = || <[u8; 2]>::try_from(body).map(u16::from_be_bytes);
        let one = || one().map_err(|_| BadMessage::Malformed);
        match kind & !CRITICAL {
            END => return if body.is_empty() { Ok(true) } else { Err(BadMessage::Malformed) },
            NEXT_PROTOCOL => set(&mut self.protocols, numbers(body)?)?,
            ALGORITHM => set(&mut self.algorithms, numbers(body)?)?,
            ERROR => set(&mut self.error, one()?)?,
            WARNING => self.warning = Some(one()?),
            NEW_COOKIE => self.cookies.push(body.to_vec()),
            SERVER => {
                let text = std::str::from_utf8(body).map_err(|_| BadMessage::Malformed)?;
                set(&mut self.server, text.to_owned())?;
            }
            SERVER_PORT => set(&mut self.port, one()?)?,
            _ if kind & CRITICAL != 0 => return Err(BadMessage::UnknownCritical),
            _ => {}
        }
        Ok(false)
    }
}

fn numbers(body: &[u8]) -> Result<Vec<u16>, BadMessage> {
    let (pairs, rest) = body.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
    } else {
        Err(BadMessage::Malformed)
    }
}

/// These records come once.
fn set<T>(slot: &mut Option<T>, value: T) -> Result<(), BadMessage> {
    if slot.replace(value).is_some() { Err(BadMessage::Malformed) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read() {
        let message = Message {
            protocols: Some(vec![NTPV4, 7]),
            algorithms: Some(vec![AEAD]),
            cookies: vec![vec![1; 100], vec![2; 100]],
            error: Some(1),
            warning: None,
            server: Some("192.0.2.1".to_owned()),
            port: Some(1123),
        };

        assert_eq!(Message::read(&mut &message.emit()[..]).await, Ok(message));
    }

    #[tokio::test]
    async fn what_is_not_known_is_passed_over_unless_it_is_critical() {
        let with = |kind: u16| [&kind.to_be_bytes()[..], &[0, 1, 7, 0x80, 0, 0, 0]].concat();

        assert_eq!(Message::read(&mut &with(99)[..]).await, Ok(Message::default()));
        let critical = Message::read(&mut &with(0x8063)[..]).await;
        assert_eq!(critical, Err(BadMessage::UnknownCritical));
    }

    #[tokio::test]
    async fn broken_messages_are_told_from_whole_ones() {
        let twice = [&Message::request()[..6], &Message::request()].concat();
        assert_eq!(Message::read(&mut &twice[..]).await, Err(BadMessage::Malformed));
        let request = Message::request();
        for len in 0..request.len() {
            assert_eq!(Message::read(&mut &request[..len]).await, Err(BadMessage::Length));
        }
        let endless = std::iter::repeat_n([0, 99, 0x0f, 0xfc], 1 << 14).flatten();
        let endless: Vec<u8> = endless.collect();
        assert_eq!(Message::read(&mut &endless[..]).await, Err(BadMessage::Length));
    }

    proptest! {
        #[test]
        fn no_octets_make_reading_panic(octets: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(Message::read(&mut &octets[..]));
        }
    }
}
