//! What rustls asks of whoever verifies a server: one question is decided elsewhere, and the signatures
//! are checked here.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::algorithms;

/// A verifier that passes what `decide` passes: a chain, leaf first, for the name that was sought.
///
/// Whatever that is, the server has to prove that it has the leaf's key. The time that rustls hands
/// over is not consulted.
pub(crate) fn deciding<F>(decide: F) -> Arc<dyn ServerCertVerifier>
where
    F: Fn(&[CertificateDer<'_>], &ServerName<'_>) -> Result<(), Error> + Send + Sync + 'static,
{
    Arc::new(Deciding(decide))
}

struct Deciding<F>(F);

impl<F> fmt::Debug for Deciding<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deciding").finish_non_exhaustive()
    }
}

impl<F> ServerCertVerifier for Deciding<F>
where
    F: Fn(&[CertificateDer<'_>], &ServerName<'_>) -> Result<(), Error> + Send + Sync,
{
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .map(|der| der.as_ref().into())
            .collect();
        (self.0)(&chain, server_name).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
