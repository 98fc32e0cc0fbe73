//! What a server shows whoever shakes hands with it.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::{Client, deciding};

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
    config.dangerous().set_certificate_verifier(deciding(|_, _| Ok(())));
    // A resumed session shows no certificate (RFC 8446 section 2.2).
    config.resumption = Resumption::disabled();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
    // What was shown stands, however the server takes the farewell.
    let _ = stream.shutdown().await;
    Ok(chain)
}
