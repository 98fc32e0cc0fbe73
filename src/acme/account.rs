//! Accounts (RFC 8555 section 7.1.2).

use instant_acme::{ExternalAccountKey, Key, NewAccount};
use rustls::pki_types::PrivateKeyDer;
use serde::{Deserialize, Serialize};

use super::certificate::KeyPem;
use super::client::AcmeHttp;
use super::fault::{failure, of_error};
use super::order::Issuer;
use super::{Binding, Ca, Failure};
use crate::cert::Kind;
use crate::fetch::Http;

/// An account at a CA, as it is kept.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Account {
    /// The CA's name in the configuration.
    pub ca: String,
    /// Its directory (RFC 8555 section 7.1.1).
    pub directory: String,
    /// The account's URL; `None` until the CA has given one.
    pub url: Option<String>,
    /// Its key.
    pub key: KeyPem,
}

impl Account {
    /// One with a key of its own, of which `ca` has not heard yet.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn fresh(ca: &Ca) -> Result<Self, rcgen::Error> {
        let (ca, directory) = (ca.name.clone(), ca.directory.clone());
        Ok(Self { ca, directory, url: None, key: KeyPem::generate()? })
    }
}

impl Issuer {
    /// Registers `account` at `ca`, agreeing to its terms of service. A CA that knows its key already
    /// gives the same account back.
    ///
    /// A CA that asks for a binding gets another key, as instant-acme binds none that it has not made.
    ///
    /// # Errors
    ///
    /// There is no answer, it makes no sense, or the CA refuses.
    pub async fn register(&self, ca: &Ca, account: &Account) -> Result<Account, Failure> {
        let http = Http::new(self.transport().clone(), ca.roots.clone());
        self.registered(ca, account, &http).await.map(|(account, _)| account)
    }

    pub(super) async fn registered(
        &self,
        ca: &Ca,
        account: &Account,
        http: &Http,
    ) -> Result<(Account, instant_acme::Account), Failure> {
        let builder = instant_acme::Account::builder_with_http(Box::new(AcmeHttp(http.clone())));
        let directory = ca.directory.clone();
        let made = if let Some(Binding { kid, key }) = &ca.binding {
            let wanted = NewAccount {
                contact: &[],
                terms_of_service_agreed: true,
                only_return_existing: false,
            };
            let binding = ExternalAccountKey::new(kid.clone(), key);
            builder.create(&wanted, directory, Some(&binding)).await
        } else {
            let pkcs8 = account.key.pkcs8().map_err(|error| failure(Kind::Garbage, &error))?;
            match Key::from_pkcs8_der(pkcs8.clone_key()) {
                Ok(key) => {
                    builder.create_from_key((key, PrivateKeyDer::Pkcs8(pkcs8)), directory).await
                }
                Err(error) => Err(error),
            }
        };
        let (opened, credentials) = made.map_err(|error| of_error(&error, http))?;
        let account = Account {
            url: Some(opened.id().to_owned()),
            key: KeyPem::of(credentials.private_key()),
            ..account.clone()
        };
        Ok((account, opened))
    }

    /// Speaks to `ca` by an `account` that has been registered.
    pub(super) async fn opened(
        &self,
        ca: &Ca,
        account: &Account,
        url: String,
        http: &Http,
    ) -> Result<instant_acme::Account, Failure> {
        let builder = instant_acme::Account::builder_with_http(Box::new(AcmeHttp(http.clone())));
        let key = account.key.pkcs8().map_err(|error| failure(Kind::Garbage, &error))?;
        let opened = builder.from_parts(url, key, ca.directory.clone()).await;
        opened.map_err(|error| of_error(&error, http))
    }
}
