//! What a server shows whoever shakes hands with it.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::Client;
use super::verify::algorithms;

/// Shakes hands over `stream` as a client that seeks `name`, and ends the connection. Gives the
/// chain it was shown, leaf first.
///
/// The server has proved that it has the leaf's key. Nothing else about the chain is verified, so
/// nothing must ever be sent over such a connection.
///
/// # Errors
///
/// If the handshake fails. There is no deadline.
pub async fn shown<S>(
    client: &Client,
    name: ServerName<'static>,
    stream: S,
) -> io::Result<Vec<CertificateDer<'static>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut config = client.template();
    config.dangerous().set_certificate_verifier(Arc::new(Onlooker));
    // A resumed session shows no certificate (RFC 8446 section 2.2).
    config.resumption = Resumption::disabled();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
    // What was shown stands, however the server takes the farewell.
    let _ = stream.shutdown().await;
    Ok(chain)
}

/// Accepts any chain whose key the server has.
#[derive(Debug)]
struct Onlooker;

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
