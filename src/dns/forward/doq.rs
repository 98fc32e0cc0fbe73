//! Questions over QUIC (RFC 9250): a stream for each.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, IdleTimeout, ReadToEndError, TransportConfig, UdpStats, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::message::{Outgoing, Reply};
use super::session::{ConnectError, End, ExchangeError, Line, MAX_WAITING, Target, locked};
use crate::metered::{Meter, Purpose};
use crate::tls::{CertError, Verifier, refusal};

/// A connection with nothing under way is closed after this long, should the peer not do so.
const IDLE: Duration = Duration::from_secs(60);
/// What a server may send ahead on one stream: the longest answer and its length.
const WINDOW: u32 = 2 + 65_535;
/// The same on the whole connection.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// `DOQ_NO_ERROR` (RFC 9250 section 4.3).
const NO_ERROR: VarInt = VarInt::from_u32(0);
/// `DOQ_PROTOCOL_ERROR` (RFC 9250 section 4.3).
const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);

/// DNS over QUIC.
#[derive(Debug)]
pub(super) struct Doq {
    connection: Connection,
    places: Semaphore,
    traffic: Arc<Traffic>,
}

impl Doq {
    /// Connects and shakes hands. Also gives the peer's certificates, leaf first, and the
    /// connection's task.
    pub(super) async fn open(
        target: &Target,
        tls: &ClientConfig,
        verifier: &Arc<Verifier>,
        meter: &Arc<Meter>,
        line: &Arc<Line>,
    ) -> Result<(Self, Vec<CertificateDer<'static>>, AbortHandle), ConnectError> {
        let witness =
            Arc::new(Recorder { verifier: Arc::clone(verifier), refused: Mutex::default() });
        let mut tls = tls.clone();
        tls.dangerous().set_certificate_verifier(Arc::<Recorder>::clone(&witness));
        let failed = |what: &dyn std::fmt::Display| match locked(&witness.refused).take() {
            Some(reason) => ConnectError::Certificate(reason),
            None => ConnectError::Quic(what.to_string()),
        };
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| failed(&error))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport()));
        let any: SocketAddr = match target.endpoint.address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = Endpoint::client(any).map_err(|error| failed(&error))?;
        let connection = endpoint
            .connect_with(config, target.endpoint.address, &target.server_name.to_str())
            .map_err(|error| failed(&error))?
            .await
            .map_err(|error| failed(&error))?;
        let chain = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
        let chain = chain.map(|chain| *chain).unwrap_or_default();

        let traffic = Arc::new(Traffic { meter: Arc::clone(meter), counted: Default::default() });
        let open = Open {
            connection: connection.clone(),
            traffic: Arc::clone(&traffic),
            _end: End { line: Arc::clone(line), waiting: None },
        };
        let line = Arc::clone(line);
        let driver = tokio::spawn(async move {
            tokio::select! {
                _ = open.connection.closed() => {}
                () = line.idle() => {}
            }
        });
        let places = Semaphore::new(MAX_WAITING);
        Ok((Self { connection, places, traffic }, chain, driver.abort_handle()))
    }

    pub(super) async fn exchange(
        &self,
        outgoing: &Outgoing,
        line: &Line,
    ) -> Result<Vec<u8>, ExchangeError> {
        let _place = self.places.try_acquire().map_err(|_| ExchangeError::Full)?;
        let closed = |_| ExchangeError::Closed;
        let (mut send, mut receive) = self.connection.open_bi().await.map_err(closed)?;
        // The id is 0 (RFC 9250 section 4.2.1).
        let asked = send.write_all(&outgoing.framed(0)).await;
        asked.map_err(|error| self.failure(&error))?;
        // It fails where the stream was stopped, of which reading tells as well.
        let _ = send.finish();
        let answer = receive.read_to_end(WINDOW as usize).await;
        self.traffic.count(&self.connection);
        let answer = answer.map_err(|error| match error {
            ReadToEndError::TooLong => ExchangeError::Useless,
            ReadToEndError::Read(error) => self.failure(&error),
        })?;
        line.hear();
        let (len, message) = answer.split_first_chunk().ok_or(ExchangeError::Useless)?;
        if usize::from(u16::from_be_bytes(*len)) != message.len() {
            return Err(ExchangeError::Useless);
        }
        if !message.starts_with(&[0, 0]) {
            // Fatal to the connection, whatever else it says (RFC 9250 section 4.3.3).
            self.connection.close(PROTOCOL_ERROR, b"the message id is not 0");
            return Err(ExchangeError::Foreign);
        }
        match outgoing.judge(message) {
            Reply::Answer => Ok(message.to_vec()),
            Reply::Useless => Err(ExchangeError::Useless),
            Reply::Foreign => Err(ExchangeError::Foreign),
        }
    }

    fn failure(&self, error: &dyn std::fmt::Display) -> ExchangeError {
        match self.connection.close_reason() {
            Some(_) => ExchangeError::Closed,
            None => ExchangeError::Quic(error.to_string()),
        }
    }
}

/// Lives as long as a connection's task.
struct Open {
    connection: Connection,
    traffic: Arc<Traffic>,
    _end: End,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.traffic.count(&self.connection);
        self.connection.close(NO_ERROR, b"");
    }
}

/// What of a connection's octets has been counted.
#[derive(Debug)]
struct Traffic {
    meter: Arc<Meter>,
    /// Sent and received.
    counted: [AtomicU64; 2],
}

impl Traffic {
    fn count(&self, connection: &Connection) {
        let stats = connection.stats();
        let [sent, received] = &self.counted;
        self.meter.sent(Purpose::Names, fresh(sent, &stats.udp_tx));
        self.meter.received(Purpose::Names, fresh(received, &stats.udp_rx));
    }
}

/// The octets of a direction that were not counted before, with the headers of UDP and IPv4.
fn fresh(counted: &AtomicU64, stats: &UdpStats) -> usize {
    let octets = stats.bytes + 28 * stats.datagrams;
    let before = counted.fetch_max(octets, Ordering::Relaxed);
    usize::try_from(octets.saturating_sub(before)).unwrap_or(usize::MAX)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        // A server has nothing to ask.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW));
    transport
}

/// Keeps the verifier's reason: QUIC passes on an alert, and words.
#[derive(Debug)]
struct Recorder {
    verifier: Arc<Verifier>,
    refused: Mutex<Option<CertError>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        if let Err(error) = &verified {
            *locked(&self.refused) = refusal(error).cloned();
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
