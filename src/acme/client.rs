//! Our HTTPS, as instant-acme wants it.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient, Problem};

use crate::fetch::{Http, HttpError};

/// Makes the requests of an account.
#[derive(Clone, Debug)]
pub(super) struct AcmeHttp(pub(super) Http);

impl HttpClient for AcmeHttp {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let http = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let host = parts.uri.host().unwrap_or_default().to_owned();
            let signed = parts.method == Method::POST;
            let Ok(body) = body.collect().await;
            let request = Request::from_parts(parts, Full::new(body.to_bytes()));
            let (parts, body) = http.send(request).await.map_err(other)?;
            let failed = parts.status.is_client_error() || parts.status.is_server_error();
            if failed {
                // Those to signed requests are read by who signs.
                match problem(&body) {
                    Some(_) if signed => {}
                    Some(problem) => return Err(problem.into()),
                    None => return Err(other(HttpError::Status { host, status: parts.status })),
                }
            }
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

fn other(error: HttpError) -> instant_acme::Error {
    instant_acme::Error::Other(Box::new(error))
}

/// `body` as a problem document that names its type (RFC 9457, RFC 8555 section 6.7).
fn problem(body: &[u8]) -> Option<Problem> {
    serde_json::from_slice::<Problem>(body).ok().filter(|problem| problem.r#type.is_some())
}
