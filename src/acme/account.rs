//! Accounts (RFC 8555 section 7.1.2).

use std::fmt;

use instant_acme::{AccountCredentials, ExternalAccountKey, Key, NewAccount};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Deserialize;

use super::fault::{failure, of_error};
use super::http::Http;
use super::order::Issuer;
use super::{Ca, Failure};
use crate::cert::Kind;

/// An account at a CA with its key, as it is kept: JSON. It is secret.
#[derive(Clone, Eq, PartialEq)]
pub struct Account(String);

impl Account {
    /// What was kept, if it is an account at `directory`.
    #[must_use]
    pub fn read(text: &str, directory: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Of {
            directory: Option<String>,
        }
        let of: Of = serde_json::from_str(text).ok()?;
        let account = Self(text.to_owned());
        // Parsed to see that it can be, with a key that is one.
        Key::from_pkcs8_der(account.key()?).ok()?;
        (of.directory.as_deref() == Some(directory)).then_some(account)
    }

    /// What is to be kept.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    pub(super) fn credentials(&self) -> Option<AccountCredentials> {
        serde_json::from_str(&self.0).ok()
    }

    /// Its key.
    pub(super) fn key(&self) -> Option<PrivatePkcs8KeyDer<'static>> {
        Some(self.credentials()?.private_key().clone_key())
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").finish_non_exhaustive()
    }
}

impl Issuer {
    /// Registers an account at `ca`, agreeing to its terms of service. With the key of `known` if
    /// there is one: a CA that still knows it gives the same account back.
    ///
    /// A CA that asks for a binding gets a fresh key instead, as instant-acme binds no other.
    ///
    /// # Errors
    ///
    /// There is no answer, it makes no sense, or the CA refuses.
    pub async fn register(&self, ca: &Ca, known: Option<&Account>) -> Result<Account, Failure> {
        let http = Http::new(self.transport().clone(), ca.roots.clone());
        self.registered(ca, known, &http).await.map(|(account, _)| account)
    }

    pub(super) async fn registered(
        &self,
        ca: &Ca,
        known: Option<&Account>,
        http: &Http,
    ) -> Result<(Account, instant_acme::Account), Failure> {
        let builder = instant_acme::Account::builder_with_http(Box::new(http.clone()));
        let known = known.and_then(Account::key);
        let directory = ca.directory.clone();
        let made = match (&ca.binding, known) {
            (None, Some(pkcs8)) => match Key::from_pkcs8_der(pkcs8.clone_key()) {
                Ok(key) => {
                    builder.create_from_key((key, PrivateKeyDer::Pkcs8(pkcs8)), directory).await
                }
                Err(error) => Err(error),
            },
            (binding, _) => {
                let account = NewAccount {
                    contact: &[],
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                let binding = binding
                    .as_ref()
                    .map(|binding| ExternalAccountKey::new(binding.kid.clone(), &binding.key));
                builder.create(&account, directory, binding.as_ref()).await
            }
        };
        let (account, credentials) = made.map_err(|error| of_error(&error, http))?;
        let text = serde_json::to_string(&credentials)
            .map_err(|error| failure(Kind::Garbage, &error.to_string()))?;
        Ok((Account(text), account))
    }
}
