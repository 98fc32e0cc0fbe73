//! acme-dns: a DNS server for nothing but challenges, to which `_acme-challenge` names are aliases.
//!
//! What an account's password can do is change one record of no other use.

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::{Request, StatusCode, header};
use serde::Serialize;

use super::{PublishError, Publisher, TxtRecord};
use crate::acme::fault::words;
use crate::fetch::{Http, Transport};
use crate::tls::Roots;

/// An account as acme-dns gives it out when asked to register one.
#[derive(Clone)]
pub struct AcmeDnsAccount {
    /// The name it is for, without `*.`.
    pub domain: String,
    /// `subdomain`.
    pub subdomain: String,
    /// `username`.
    pub username: String,
    /// `password`.
    pub password: String,
}

impl fmt::Debug for AcmeDnsAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, subdomain, .. } = self;
        f.debug_struct("AcmeDnsAccount")
            .field("domain", domain)
            .field("subdomain", subdomain)
            .finish_non_exhaustive()
    }
}

/// Sets records at an acme-dns server. It keeps the last two of an account, and none is taken away.
#[derive(Debug)]
pub struct AcmeDns {
    transport: Transport,
    roots: Roots,
    url: String,
    accounts: Vec<AcmeDnsAccount>,
}

impl AcmeDns {
    /// Speaks to the server at `url`, verified against `roots`. Passwords go over HTTPS alone.
    #[must_use]
    pub fn new(
        transport: Transport,
        roots: Roots,
        url: &str,
        accounts: Vec<AcmeDnsAccount>,
    ) -> Self {
        let url = format!("{}/update", url.trim_end_matches('/'));
        Self { transport, roots, url, accounts }
    }

    async fn update(&self, record: &TxtRecord) -> Result<(), PublishError> {
        let of = |account: &&AcmeDnsAccount| {
            TxtRecord::new(&account.domain, "").name.eq_ignore_ascii_case(&record.name)
        };
        let account = self.accounts.iter().find(of).ok_or_else(|| {
            PublishError::Configured(format!("no acme-dns account for {}", record.name))
        })?;
        let configured = |error: &dyn fmt::Display| PublishError::Configured(error.to_string());
        let update = Update { subdomain: &account.subdomain, txt: &record.value };
        let body = serde_json::to_vec(&update).map_err(|error| configured(&error))?;
        let request = Request::post(&self.url)
            .header("X-Api-User", &account.username)
            .header("X-Api-Key", &account.password)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| configured(&error))?;
        let http = Http::new(self.transport.clone(), self.roots.clone());
        let answer = http.send(request).await;
        let (parts, body) = answer.map_err(|error| PublishError::Unreachable(error.to_string()))?;
        if parts.status == StatusCode::OK {
            return Ok(());
        }
        let said = words(&String::from_utf8_lossy(&body));
        Err(PublishError::Refused(format!("acme-dns answered with {}: {said}", parts.status)))
    }
}

impl Publisher for AcmeDns {
    fn present<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(self.update(record))
    }

    fn withdraw<'a>(&'a self, _record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[derive(Serialize)]
struct Update<'a> {
    subdomain: &'a str,
    txt: &'a str,
}
