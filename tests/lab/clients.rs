//! Clients: DNS over UDP, TCP and TLS, and NTP.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use firstlight::clock::{Nanos, UnixTime, magnitude};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime as PkiTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};

use super::truth;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// From the start of NTP's era to that of Unix (RFC 5905 figure 4).
const NTP_TO_UNIX: i64 = 2_208_988_800;

/// An answer to a question for addresses.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) rcode: u16,
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// The least TTL of the answer section.
    pub(crate) ttl: u32,
}

pub(crate) fn ask_udp(server: SocketAddr, name: &str) -> Option<Answer> {
    let socket = udp(server)?;
    let (id, query) = question(name);
    socket.send(&query).ok()?;
    let mut reply = [0; 4096];
    loop {
        let length = socket.recv(&mut reply).ok()?;
        let message = Message::from_vec(&reply[..length]).ok()?;
        if message.metadata.id == id {
            return Some(read(&message));
        }
    }
}

pub(crate) fn ask_tcp(server: SocketAddr, name: &str) -> Option<Answer> {
    exchange(tcp(server)?, name)
}

/// Over TLS, without a look at the certificate; gives that as well, leaf first.
pub(crate) fn ask_tls(
    server: SocketAddr,
    name: &str,
) -> Option<(Answer, Vec<CertificateDer<'static>>)> {
    let identity = ServerName::try_from("dns.home.lan").unwrap();
    let connection = ClientConnection::new(trusting(&[]), identity).unwrap();
    let mut stream = StreamOwned::new(connection, tcp(server)?);
    let answer = exchange(&mut stream, name)?;
    let chain = stream.conn.peer_certificates()?.iter().map(|der| der.clone().into_owned());
    Some((answer, chain.collect()))
}

/// A TLS client that offers `alpn` and accepts any certificate.
pub(crate) fn trusting(alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(algorithms)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// A TLS client that trusts `roots`, checks names, and dates by the lab's time, and resumes no session.
pub(crate) fn checking(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(Truth))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Shakes hands with `server`, which is to be `name`; gives the leaf that it shows.
pub(crate) fn shake_hands(
    config: &Arc<ClientConfig>,
    name: &'static str,
    server: SocketAddr,
) -> Result<CertificateDer<'static>, String> {
    let name = ServerName::try_from(name).unwrap();
    let mut connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = TcpStream::connect(server).map_err(|error| error.to_string())?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|error| error.to_string())?;
    }
    Ok(connection.peer_certificates().unwrap()[0].clone().into_owned())
}

/// Sends octets that mean nothing, by datagram.
pub(crate) fn send_garbage(server: SocketAddr, octets: &[u8]) {
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(octets, server).unwrap();
}

/// What an NTP server says (RFC 5905 section 7.3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct NtpReply {
    pub(crate) leap: u8,
    pub(crate) stratum: u8,
    pub(crate) root_dispersion: f64,
    /// How far its time lies outside the span, in the lab's time, from question to answer.
    pub(crate) off: Nanos,
}

impl NtpReply {
    /// Whether a client may use it.
    pub(crate) fn is_synchronized(&self) -> bool {
        self.leap != 3 && self.stratum < 16
    }
}

/// From another address each time: who asks often is told to ask less.
pub(crate) fn ask_ntp(server: SocketAddr) -> Option<NtpReply> {
    let [a, b] = rand::random();
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 250, a, b), 0)).ok()?;
    socket.connect(server).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut request = [0; 48];
    // Version 4, client.
    request[0] = 0b00_100_011;
    request[40..].copy_from_slice(&rand::random::<[u8; 8]>());
    let asked = truth();
    socket.send(&request).ok()?;
    let mut reply = [0; 128];
    let length = socket.recv(&mut reply).ok()?;
    let answered = truth();
    assert_eq!((length, &reply[24..32]), (48, &request[40..48]), "an answer to another question");
    let word = |at: usize| u32::from_be_bytes(reply[at..at + 4].try_into().unwrap());
    // Within 68 years of the truth (RFC 5905 section 6).
    let seconds = i64::from(word(40)) - NTP_TO_UNIX;
    let era = (asked.secs() - seconds + (1 << 31)).div_euclid(1 << 32);
    let fraction = (Nanos::from(word(44)) * 1_000_000_000) >> 32;
    let told = UnixTime::from_secs(seconds + (era << 32)).offset(fraction);
    Some(NtpReply {
        leap: reply[0] >> 6,
        stratum: reply[1],
        root_dispersion: f64::from(word(8)) / 65536.0,
        off: told.since(told.clamp(asked, answered)),
    })
}

fn udp(server: SocketAddr) -> Option<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    socket.connect(server).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    Some(socket)
}

fn tcp(server: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect(server).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    Some(stream)
}

/// Over a connection of the test's own.
pub(crate) fn ask_on(stream: &mut TcpStream, name: &str) -> Option<Answer> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    exchange(stream, name)
}

fn exchange(mut stream: impl Read + Write, name: &str) -> Option<Answer> {
    let (_, query) = question(name);
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, query.as_slice()].concat()).ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply).ok()?;
    Some(read(&Message::from_vec(&reply).ok()?))
}

/// A question for addresses, and its id.
pub(crate) fn question(name: &str) -> (u16, Vec<u8>) {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    (message.metadata.id, message.to_vec().unwrap())
}

fn read(message: &Message) -> Answer {
    let addresses = message.answers.iter().filter_map(|record| {
        if let RData::A(address) = &record.data { Some(address.0) } else { None }
    });
    Answer {
        rcode: u16::from(message.metadata.response_code),
        addresses: addresses.collect(),
        ttl: message.answers.iter().map(|record| record.ttl).min().unwrap_or(0),
    }
}

/// The lab's true time.
#[derive(Debug)]
struct Truth;

impl TimeProvider for Truth {
    fn current_time(&self) -> Option<PkiTime> {
        Some(PkiTime::since_unix_epoch(magnitude(truth().since(UnixTime::EPOCH))))
    }
}

/// Accepts any certificate, like kdig without `+tls-ca`.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: PkiTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
