//! The client's side of the key exchange (RFC 8915 section 4).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ProtocolVersion;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::client::Session;
use super::records::Message;
use super::{AEAD, ALPN, KeyPair, NTPV4};
use crate::clock::{TimeTrust, UnixTime};
use crate::metered::Purpose;
use crate::net::Counted;
use crate::tls::{CertError, Client, Roots, Verdict, cert_error, judge};

/// Whom keys are exchanged with.
#[derive(Clone, Debug)]
pub struct Partner {
    /// The name its certificate must carry.
    pub name: ServerName<'static>,
    /// Who may have signed it.
    pub roots: Roots,
}

/// What a key exchange gives.
#[derive(Debug)]
pub struct Exchanged {
    /// Keys and cookies.
    pub session: Session,
    /// Whether the chain passed at our clock's time, and not by rule R alone.
    pub strictly: bool,
    /// The chain, to be judged again when the time is known.
    pub chain: Vec<CertificateDer<'static>>,
}

impl Partner {
    /// Exchanges keys with the server at `address`, within five seconds. Its chain is judged by the
    /// rule of `trust`. Without a word on where the NTP server is, it is at the same address.
    ///
    /// # Errors
    ///
    /// Why there are no keys.
    pub async fn exchange(
        &self,
        address: SocketAddr,
        client: &Client,
        trust: TimeTrust,
    ) -> Result<Exchanged, ExchangeError> {
        let exchange = self.converse(address, client, trust);
        timeout(DEADLINE, exchange).await.unwrap_or(Err(ExchangeError::Timeout))
    }

    async fn converse(
        &self,
        address: SocketAddr,
        client: &Client,
        trust: TimeTrust,
    ) -> Result<Exchanged, ExchangeError> {
        let verifier = client.verifier(self.roots.clone(), trust);
        let config = client.config_of_tls13(&verifier, &[ALPN]);
        let tcp = TcpStream::connect(address).await.map_err(ExchangeError::Tcp)?;
        let tcp = Counted::new(tcp, Arc::clone(client.meter()), Purpose::Time);
        let connecting = TlsConnector::from(config).connect(self.name.clone(), tcp).await;
        let mut stream = connecting.map_err(|error| match cert_error(&error) {
            Some(refused) => ExchangeError::Certificate(refused.clone()),
            None => ExchangeError::Tls(error),
        })?;
        let (_, tls) = stream.get_ref();
        if tls.alpn_protocol() != Some(ALPN) || tls.protocol_version() != Some(TLS13) {
            return Err(ExchangeError::NotNts);
        }
        let keys =
            KeyPair::export(tls).map_err(|error| ExchangeError::Tls(io::Error::other(error)))?;
        let chain: Vec<_> = tls.peer_certificates().unwrap_or_default().to_vec();
        let verdict = verifier.admit(&chain, &self.name).map_err(ExchangeError::Certificate)?;

        stream.write_all(&Message::request()).await.map_err(ExchangeError::Tls)?;
        stream.flush().await.map_err(ExchangeError::Tls)?;
        let said = Message::read(&mut stream).await;
        let said = said.map_err(|error| ExchangeError::Message(error.to_string()))?;
        let _ = stream.shutdown().await;

        let session = session(said, address.ip(), keys)?;
        Ok(Exchanged { session, strictly: verdict == Verdict::Strict, chain })
    }

    /// Whether `chain` passes at the instant `at`.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub fn judge(&self, chain: &[CertificateDer<'_>], at: UnixTime) -> Result<(), CertError> {
        judge(chain, &self.name, &self.roots, at)
    }
}

fn session(said: Message, own: IpAddr, keys: KeyPair) -> Result<Session, ExchangeError> {
    if let Some(code) = said.error {
        return Err(ExchangeError::Refused(code));
    }
    if said.protocols.as_deref() != Some(&[NTPV4]) || said.algorithms.as_deref() != Some(&[AEAD]) {
        return Err(ExchangeError::NothingInCommon);
    }
    // Nobody looks up a name to learn the time.
    let host = match said.server {
        Some(server) => server.parse().map_err(|_| ExchangeError::Named(server))?,
        None => own,
    };
    let session = Session::new((host, said.port.unwrap_or(123)).into(), keys, said.cookies);
    if session.cookies() == 0 { Err(ExchangeError::NoCookies) } else { Ok(session) }
}

/// Why a key exchange gave no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// Its chain was refused.
    #[error("NTS key exchange: {0}")]
    Certificate(CertError),
    /// Not a message of the protocol.
    #[error("NTS key exchange: not an answer of RFC 8915: {0}")]
    Message(String),
    /// Its NTP server has a name, and no address.
    #[error(
        "NTS key exchange: it names {0} as its NTP server, which would have to be looked up to learn the time; take a server that gives an address, or none"
    )]
    Named(String),
    /// Keys without cookies are of no use.
    #[error("NTS key exchange: the server gave no cookies")]
    NoCookies,
    /// It speaks NTS for other protocols or by other algorithms only.
    #[error("NTS key exchange: the server speaks neither NTPv4 nor AES-SIV-CMAC-256")]
    NothingInCommon,
    /// TLS, and something else behind it.
    #[error("NTS key exchange: the server does not speak NTS on this port")]
    NotNts,
    /// An error record (RFC 8915 section 4.1.3).
    #[error("NTS key exchange: the server refused with error {0}")]
    Refused(u16),
    /// No TCP connection.
    #[error("NTS key exchange: no TCP connection: {0}")]
    Tcp(io::Error),
    /// Not done in time.
    #[error("NTS key exchange: not done within {} s", DEADLINE.as_secs())]
    Timeout,
    /// The handshake or what followed failed.
    #[error("NTS key exchange: TLS: {0}")]
    Tls(io::Error),
}

/// For connection, handshake and answer together.
const DEADLINE: Duration = Duration::from_secs(5);

const TLS13: ProtocolVersion = ProtocolVersion::TLSv1_3;
