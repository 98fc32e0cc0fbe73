//! Dynamic updates (RFC 2136), signed by TSIG (RFC 8945).

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_proto::op::{Message, ResponseCode, update_message};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::{Name, RData, Record, RecordSet, TSigVerifier, TSigner};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{PublishError, Publisher, TxtRecord};
use crate::clock::UnixTime;
use crate::node::ports::Clock;

/// Seconds for which a published record may be kept: none is asked for twice.
const TTL: u32 = 60;
/// Seconds by which the server's clock may differ (RFC 8945 section 10).
const FUDGE: u16 = 300;
/// For the connection, and for the answer over it.
const TCP: Duration = Duration::from_secs(10);
/// For each of the answers over UDP.
const UDP: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// By what keyed hash updates are signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TsigHash {
    /// `hmac-sha256`.
    Sha256,
    /// `hmac-sha384`.
    Sha384,
    /// `hmac-sha512`.
    Sha512,
}

/// Updates a zone at its primary server.
pub struct DnsUpdate {
    server: SocketAddr,
    zone: Name,
    signer: TSigner,
    clock: Arc<dyn Clock>,
}

impl DnsUpdate {
    /// Updates `zone` at `server` with the key `key` that is called `key_name` there.
    ///
    /// # Errors
    ///
    /// One of the names is none.
    pub fn new(
        server: SocketAddr,
        zone: &str,
        (key_name, hash, key): (&str, TsigHash, &[u8]),
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PublishError> {
        let name = |text: &str| {
            let name = Name::from_ascii(format!("{}.", text.trim_end_matches('.')));
            name.map_err(|error| PublishError::Configured(format!("{text}: {error}")))
        };
        let hash = match hash {
            TsigHash::Sha256 => TsigAlgorithm::HmacSha256,
            TsigHash::Sha384 => TsigAlgorithm::HmacSha384,
            TsigHash::Sha512 => TsigAlgorithm::HmacSha512,
        };
        let signer = TSigner::new(key.to_vec(), hash, name(key_name)?, FUDGE)
            .map_err(|error| PublishError::Configured(error.to_string()))?;
        Ok(Self { server, zone: name(zone)?, signer, clock })
    }

    async fn change(&self, record: &TxtRecord, add: bool) -> Result<(), PublishError> {
        let configured = |error: &dyn fmt::Display| PublishError::Configured(error.to_string());
        let name = Name::from_ascii(&record.name).map_err(|error| configured(&error))?;
        if !self.zone.zone_of(&name) {
            return Err(configured(&format!("{name} is not in the zone {}", self.zone)));
        }
        let data = RData::TXT(TXT::new(vec![record.value.clone()]));
        let set = RecordSet::from(Record::from_rdata(name, TTL, data));
        let mut message = if add {
            update_message::append(set, self.zone.clone(), false, false)
        } else {
            update_message::delete_by_rdata(set, self.zone.clone(), false)
        };
        message.metadata.id = rand::random();
        let now = self.clock.utc().since(UnixTime::EPOCH) / 1_000_000_000;
        let now = u64::try_from(now).unwrap_or_default();
        let verifier = message.finalize(&self.signer, now).map_err(|error| configured(&error))?;
        let mut verifier = verifier.ok_or_else(|| configured(&"the update is not signed"))?;
        let octets = message.to_vec().map_err(|error| configured(&error))?;

        let unreachable = |error: &dyn fmt::Display| {
            PublishError::Unreachable(format!("no answer from {}: {error}", self.server))
        };
        // Updates go over TCP, where it can be had (RFC 2136 section 6.2).
        let answer = match timeout(TCP, self.over_tcp(&octets)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(tcp)) => self
                .over_udp(&octets)
                .await
                .map_err(|udp| unreachable(&format!("TCP: {tcp}; UDP: {udp}")))?,
            Err(_) => self.over_udp(&octets).await.map_err(|error| unreachable(&error))?,
        };
        self.judge(&answer, message.metadata.id, &mut verifier)
    }

    async fn over_tcp(&self, octets: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.server).await?;
        let length = u16::try_from(octets.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), octets].concat()).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    async fn over_udp(&self, octets: &[u8]) -> io::Result<Vec<u8>> {
        let any = match self.server.ip() {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(self.server).await?;
        let mut answer = vec![0; 4096];
        for wait in UDP {
            socket.send(octets).await?;
            if let Ok(length) = timeout(wait, socket.recv(&mut answer)).await {
                answer.truncate(length?);
                return Ok(answer);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn judge(
        &self,
        answer: &[u8],
        id: u16,
        verifier: &mut TSigVerifier,
    ) -> Result<(), PublishError> {
        let refused =
            |reason: &dyn fmt::Display| PublishError::Refused(format!("{} {reason}", self.server));
        let message =
            Message::from_vec(answer).map_err(|_| refused(&"answers with what is no DNS"))?;
        if message.metadata.id != id {
            return Err(refused(&"answers something else"));
        }
        let code = message.metadata.response_code;
        if code == ResponseCode::NoError {
            return verifier.verify(answer).map(drop).map_err(|_| {
                refused(&"answers with a signature that is wrong: is the key the same there?")
            });
        }
        let key = self.signer.signer_name();
        // Unsigned, or signed by a time that is not ours (RFC 8945 section 5.2).
        if code == ResponseCode::NotAuth {
            let zone = &self.zone;
            return Err(refused(&format_args!(
                "does not take the key `{key}` (or has another time, or not the zone {zone})"
            )));
        }
        if code == ResponseCode::Refused {
            return Err(refused(&format_args!("does not let the key `{key}` change this name")));
        }
        Err(refused(&format_args!("refuses the update: {code}")))
    }
}

impl fmt::Debug for DnsUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, zone, .. } = self;
        f.debug_struct("DnsUpdate")
            .field("server", server)
            .field("zone", zone)
            .finish_non_exhaustive()
    }
}

impl Publisher for DnsUpdate {
    fn present<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(self.change(record, true))
    }

    fn withdraw<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(self.change(record, false))
    }
}
