//! Certificates for the eyes of certificate authorities (RFC 8737).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_acme::is_tls_alpn_challenge;

use super::{OurTime, provider};
use crate::node::ports::Clock;

/// The ALPN protocol by which a certificate authority looks for a challenge (RFC 8737 section 6.2).
pub const ALPN_CHALLENGE: &[u8] = rustls_acme::acme::ACME_TLS_ALPN_NAME;

/// Names that are shown to be ours at the same time; Let's Encrypt takes as many in one order.
const MOST: usize = 100;

/// The challenges that are being answered: by server name, what a certificate authority is shown.
///
/// Each has a TLS configuration of its own, so that nothing of it, neither certificate nor protocol
/// nor session, is in the one for clients.
#[derive(Debug)]
pub struct Challenges {
    clock: Arc<dyn Clock>,
    presented: Mutex<BTreeMap<String, Arc<ServerConfig>>>,
}

impl Challenges {
    /// None so far.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, presented: Mutex::default() })
    }

    /// Shows `certificate` to whoever looks for the challenge of `name`, until what this returns is
    /// dropped. It takes the place of one for the same name.
    ///
    /// # Errors
    ///
    /// There are too many, or the provider supports no TLS version.
    pub fn present(
        self: &Arc<Self>,
        name: &str,
        certificate: CertifiedKey,
    ) -> Result<Presented, ChallengeError> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let config = config(certificate, Arc::clone(&self.clock))?;
        let mut presented = self.presented();
        if presented.len() >= MOST && !presented.contains_key(&name) {
            return Err(ChallengeError::TooMany);
        }
        presented.insert(name.clone(), Arc::clone(&config));
        drop(presented);
        Ok(Presented { challenges: Arc::clone(self), name, config })
    }

    /// What the sender of `hello` is to be served with, if it looks for a challenge that there is:
    /// it offers [`ALPN_CHALLENGE`] and nothing beside it (RFC 8737 section 3).
    #[must_use]
    pub fn sought_by(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        if !is_tls_alpn_challenge(hello) {
            return None;
        }
        self.presented().get(hello.server_name()?).map(Arc::clone)
    }

    /// The names whose challenges are being answered.
    #[cfg(test)]
    pub(crate) fn names(&self) -> Vec<String> {
        self.presented().keys().cloned().collect()
    }

    fn presented(&self) -> MutexGuard<'_, BTreeMap<String, Arc<ServerConfig>>> {
        self.presented.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A challenge that is being answered. Withdrawn when this is dropped.
#[derive(Debug)]
#[must_use = "it is withdrawn when this is dropped"]
pub struct Presented {
    challenges: Arc<Challenges>,
    name: String,
    config: Arc<ServerConfig>,
}

impl Drop for Presented {
    fn drop(&mut self) {
        let mut presented = self.challenges.presented();
        // Not the one that has taken its place.
        if presented.get(&self.name).is_some_and(|config| Arc::ptr_eq(config, &self.config)) {
            presented.remove(&self.name);
        }
    }
}

/// Why a challenge is not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChallengeError {
    /// No TLS can be served with the certificate.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// There are too many.
    #[error("{MOST} names are being shown already; order certificates for fewer names at a time")]
    TooMany,
}

fn config(
    certificate: CertifiedKey,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(OurTime(clock)))
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
    config.alpn_protocols = vec![ALPN_CHALLENGE.to_vec()];
    // The certificate is what is looked for, and a resumed handshake shows none.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use rustls::ClientConnection;
    use rustls::pki_types::CertificateDer;
    use rustls::server::{Accepted, Acceptor};

    use super::*;
    use crate::clock::CertDates;
    use crate::tls::Client;
    use crate::tls::pki::{DAY, FakeClock, Leaf, Pki, TODAY, trust};

    #[test]
    fn only_who_offers_that_protocol_alone_and_names_a_challenge_is_shown_one() {
        let lab = Lab::new();
        let leaf = lab.leaf("dns.test");
        let _presented = lab.challenges.present("DNS.test.", leaf.certified()).unwrap();

        assert!(lab.shows("dns.test", &[ALPN_CHALLENGE]));
        assert!(lab.shows("Dns.Test", &[ALPN_CHALLENGE]));
        for (name, alpn) in [
            ("dns.test", &[][..]),
            ("dns.test", &[&b"h2"[..]]),
            ("dns.test", &[b"h2", ALPN_CHALLENGE]),
            ("dns.test", &[ALPN_CHALLENGE, b"h2"]),
            ("dns.test", &[ALPN_CHALLENGE, ALPN_CHALLENGE]),
            ("dns.test", &[b"acme-tls/2"]),
            ("www.dns.test", &[ALPN_CHALLENGE]),
            ("test", &[ALPN_CHALLENGE]),
            // An address is no server name.
            ("192.0.2.1", &[ALPN_CHALLENGE]),
        ] {
            assert!(!lab.shows(name, alpn), "{name} {alpn:?}");
        }
    }

    #[test]
    fn a_challenge_is_shown_until_it_is_dropped_and_a_later_one_for_the_name_outlives_it() {
        let lab = Lab::new();
        let [first, second] = [(); 2].map(|()| lab.leaf("dns.test"));

        let before = lab.challenges.present("dns.test", first.certified()).unwrap();
        let after = lab.challenges.present("dns.test", second.certified()).unwrap();
        drop(before);
        assert!(lab.shows("dns.test", &[ALPN_CHALLENGE]));
        assert_eq!(lab.seen("dns.test"), second.chain());

        drop(after);
        assert!(!lab.shows("dns.test", &[ALPN_CHALLENGE]));
    }

    #[test]
    fn their_number_is_bounded_and_room_is_made_by_withdrawing() {
        let lab = Lab::new();
        let leaf = lab.leaf("dns.test");
        let present =
            |number: usize| lab.challenges.present(&format!("n{number}.test"), leaf.certified());
        let mut presented: Vec<_> = (0..MOST).map(|number| present(number).unwrap()).collect();

        assert!(matches!(present(MOST), Err(ChallengeError::TooMany)));
        // One that is there may be replaced.
        drop(present(0).unwrap());
        presented.pop();
        let _last = present(MOST).unwrap();
        assert!(matches!(present(0).map(std::mem::forget), Ok(())));
        assert!(matches!(present(MOST + 1), Err(ChallengeError::TooMany)));
    }

    #[test]
    fn no_session_of_a_challenge_is_resumed() {
        let lab = Lab::new();
        let leaf = lab.leaf("dns.test");
        let _presented = lab.challenges.present("dns.test", leaf.certified()).unwrap();
        let client = lab.client(&[ALPN_CHALLENGE]);

        for _ in 0..3 {
            let (connection, tickets) = lab.handshake(&client, "dns.test");
            assert_eq!(connection.handshake_kind(), Some(rustls::HandshakeKind::Full));
            assert_eq!(connection.alpn_protocol(), Some(ALPN_CHALLENGE));
            assert_eq!(tickets, 0);
        }
    }

    struct Lab {
        pki: Pki,
        challenges: Arc<Challenges>,
    }

    impl Lab {
        fn new() -> Self {
            Self { pki: Pki::new(), challenges: Challenges::new(FakeClock::at(TODAY)) }
        }

        fn leaf(&self, name: &str) -> Leaf {
            self.pki.leaf(name, TODAY - DAY, TODAY + DAY)
        }

        fn client(&self, alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
            let client = Client::new(FakeClock::at(TODAY)).unwrap();
            let verifier = client.verifier(self.pki.roots(), trust(CertDates::Strict));
            client.config(&verifier, alpn)
        }

        /// Whether a client that asks for `name` and offers `alpn` is shown a challenge.
        fn shows(&self, name: &str, alpn: &[&[u8]]) -> bool {
            let name = name.to_owned().try_into().unwrap();
            let mut client = ClientConnection::new(self.client(alpn), name).unwrap();
            self.challenges.sought_by(&accept(&mut client).client_hello()).is_some()
        }

        fn seen(&self, name: &str) -> Vec<CertificateDer<'static>> {
            let (client, _) = self.handshake(&self.client(&[ALPN_CHALLENGE]), name);
            client.peer_certificates().unwrap().to_vec()
        }

        /// A finished handshake, as the client has it, and the session tickets that it was sent.
        fn handshake(
            &self,
            client: &Arc<rustls::ClientConfig>,
            name: &str,
        ) -> (ClientConnection, u32) {
            let name = name.to_owned().try_into().unwrap();
            let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
            let accepted = accept(&mut client);
            let config = self.challenges.sought_by(&accepted.client_hello()).unwrap();
            let mut server = accepted.into_connection(config).map_err(|(error, _)| error).unwrap();
            while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
                let mut octets = Vec::new();
                while server.wants_write() {
                    server.write_tls(&mut octets).unwrap();
                }
                client.read_tls(&mut &octets[..]).unwrap();
                client.process_new_packets().unwrap();
                let mut octets = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut octets).unwrap();
                }
                server.read_tls(&mut &octets[..]).unwrap();
                server.process_new_packets().unwrap();
            }
            let tickets = client.tls13_tickets_received();
            (client, tickets)
        }
    }

    fn accept(client: &mut ClientConnection) -> Accepted {
        let mut octets = Vec::new();
        client.write_tls(&mut octets).unwrap();
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut &octets[..]).unwrap();
        acceptor.accept().map_err(|(error, _)| error).unwrap().unwrap()
    }
}
