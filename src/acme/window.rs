//! When a CA wants a certificate renewed (RFC 9773).

use std::time::Duration;

use instant_acme::CertificateIdentifier;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;

use super::fault::{failure, of_http};
use super::order::Issuer;
use super::{Ca, Failure};
use crate::cert::{Kind, Window};
use crate::clock::UnixTime;
use crate::fetch::Http;

impl Issuer {
    /// Asks `ca` for the renewal window of the certificate `leaf`, and when it wants to be asked
    /// again. `None` if it gives no such information. It takes no account.
    ///
    /// # Errors
    ///
    /// There is no answer, or it makes no sense.
    pub async fn window(
        &self,
        ca: &Ca,
        leaf: &CertificateDer<'_>,
    ) -> Result<Option<(Window, Option<Duration>)>, Failure> {
        let http = Http::new(self.transport().clone(), ca.roots.clone());
        let get = async |url: &str| {
            http.get(url).await.map_err(|error| of_http(&error, http.retry_after()))
        };
        let garbage = |error: &dyn std::fmt::Display| failure(Kind::Garbage, &error.to_string());

        let directory = get(&ca.directory).await?;
        let directory: Directory =
            serde_json::from_slice(&directory).map_err(|error| garbage(&error))?;
        let Some(base) = directory.renewal_info else { return Ok(None) };
        let id = CertificateIdentifier::try_from(leaf).map_err(|error| garbage(&error))?;
        let info = get(&format!("{}/{id}", base.trim_end_matches('/'))).await?;
        let info: RenewalInfo = serde_json::from_slice(&info).map_err(|error| garbage(&error))?;
        let SuggestedWindow { start, end } = info.suggested_window;
        let moment = |date: Timestamp| UnixTime::from_secs(date.as_second());
        let window = Window {
            start: moment(start.parse().map_err(|error: jiff::Error| garbage(&error))?),
            end: moment(end.parse().map_err(|error: jiff::Error| garbage(&error))?),
            explanation: info.explanation_url,
        };
        Ok(Some((window, http.retry_after())))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    renewal_info: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RenewalInfo {
    suggested_window: SuggestedWindow,
    #[serde(rename = "explanationURL")]
    explanation_url: Option<String>,
}

/// RFC 9773 section 4.2; times as in RFC 3339.
#[derive(Deserialize)]
struct SuggestedWindow {
    start: String,
    end: String,
}
