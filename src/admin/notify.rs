//! Tells people elsewhere of conditions: by ntfy, Gotify or a webhook; and that this machine lives.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Method, Request, StatusCode, header};
use serde::Serialize;
use serde_json::json;

use crate::fetch::{Http, secret};
use crate::health::Severity;

/// A message, put into words and dates.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Message {
    /// The name of this machine.
    pub host: String,
    /// The condition's name.
    pub condition: &'static str,
    /// How bad it is or was.
    pub severity: Severity,
    /// Whether it is the case; else it was.
    pub holds: bool,
    /// The condition's words.
    pub text: String,
    /// Since when, by our clock (RFC 3339).
    pub since: String,
    /// For how many seconds it was the case, if it is over.
    pub lasted: Option<u64>,
}

/// Who is told, and in which form.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// A Gotify server; the URL is its base.
    Gotify,
    /// A topic of an ntfy server.
    Ntfy,
    /// Whoever takes JSON: a [`Message`] with its title.
    Webhook,
}

impl Message {
    /// Its first line.
    #[must_use]
    pub fn title(&self) -> String {
        let Self { host, condition, holds, severity, .. } = self;
        let severity = match severity {
            Severity::Notice => "notice",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        if *holds {
            format!("{host}: {severity}: {condition}")
        } else {
            format!("{host}: over: {condition}")
        }
    }

    /// The rest.
    #[must_use]
    pub fn body(&self) -> String {
        let Self { text, since, .. } = self;
        match self.lasted {
            None => format!("{text}\n(since {since})"),
            Some(lasted) => {
                format!("This is over, after {}: {text}\n(since {since})", span(lasted))
            }
        }
    }

    /// The request that tells it to the server at `url`, which knows us by `token`.
    fn request(
        &self,
        form: Form,
        url: &str,
        token: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let priority = match (self.holds, self.severity) {
            (false, _) | (true, Severity::Notice) => 3,
            (true, Severity::Warning) => 4,
            (true, Severity::Error) => 5,
        };
        let bearer = |token: &str| format!("Bearer {token}");
        let request = Request::builder().method(Method::POST);
        let (request, body) = match form {
            Form::Ntfy => {
                let request = request
                    .uri(url)
                    .header("Title", self.title())
                    .header("Priority", priority)
                    .header("Tags", if self.holds { "warning" } else { "white_check_mark" });
                (with(request, header::AUTHORIZATION, token.map(bearer)), self.body())
            }
            Form::Gotify => {
                let request = request
                    .uri(format!("{}/message", url.trim_end_matches('/')))
                    .header(header::CONTENT_TYPE, "application/json");
                let message = json!({ "title": self.title(), "message": self.body(), "priority": priority * 2 });
                let key = header::HeaderName::from_static("x-gotify-key");
                (with(request, key, token.map(str::to_owned)), message.to_string())
            }
            Form::Webhook => {
                let request = request.uri(url).header(header::CONTENT_TYPE, "application/json");
                let mut message = json!(self);
                message["title"] = self.title().into();
                (with(request, header::AUTHORIZATION, token.map(bearer)), message.to_string())
            }
        };
        request.body(Full::from(body))
    }
}

/// Tells `message` to the server at `url`, which knows us by what is in the file `token`.
///
/// # Errors
///
/// Why it was not taken, for a person.
pub async fn tell(
    http: &Http,
    form: Form,
    url: &str,
    token: Option<&std::path::Path>,
    message: &Message,
) -> Result<(), String> {
    let token = read_token(token)?;
    let request =
        message.request(form, url, token.as_deref()).map_err(|error| error.to_string())?;
    send(http, request).await
}

/// Says to the server at `url` that this machine lives.
///
/// # Errors
///
/// Why it was not taken, for a person.
pub async fn ping(http: &Http, url: &str, token: Option<&std::path::Path>) -> Result<(), String> {
    let token = read_token(token)?.map(|token| format!("Bearer {token}"));
    let request = with(Request::get(url), header::AUTHORIZATION, token).body(Full::default());
    send(http, request.map_err(|error| error.to_string())?).await
}

async fn send(http: &Http, request: Request<Full<Bytes>>) -> Result<(), String> {
    let (parts, _) = http.send(request).await.map_err(|error| error.to_string())?;
    if parts.status.is_success() { Ok(()) } else { Err(refusal(parts.status, &parts.headers)) }
}

fn refusal(status: StatusCode, headers: &HeaderMap) -> String {
    let moved = headers.get(header::LOCATION).and_then(|place| place.to_str().ok());
    match moved {
        Some(place) => format!("it answered with {status}, to {}", place.escape_default()),
        None => format!("it answered with {status}"),
    }
}

fn read_token(file: Option<&std::path::Path>) -> Result<Option<String>, String> {
    let Some(file) = file else { return Ok(None) };
    let text = secret(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(Some(text.trim().to_owned()))
}

fn with(
    request: hyper::http::request::Builder,
    name: header::HeaderName,
    value: Option<String>,
) -> hyper::http::request::Builder {
    match value {
        Some(value) => request.header(name, value),
        None => request,
    }
}

/// Days, hours, minutes and seconds, the largest two.
fn span(seconds: u64) -> String {
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "min")];
    let parts = parts.into_iter().chain([(seconds % 60, "s")]).skip_while(|(count, _)| *count == 0);
    let words: Vec<_> = parts.take(2).map(|(count, unit)| format!("{count} {unit}")).collect();
    if words.is_empty() { "no time".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn each_server_gets_the_same_words_in_its_form() {
        let (head, body) = sent(&holds(), Form::Ntfy).await;
        assert_eq!(head.uri, "https://push.test/home");
        assert_eq!(head.headers["title"], "pi: error: clock-unverified");
        assert_eq!(head.headers["priority"], "5");
        assert_eq!(head.headers["authorization"], "Bearer secret");
        assert_eq!(body, "nobody vouches for the clock\n(since 2026-03-01T00:00:00Z)");

        let (head, body) = sent(&holds(), Form::Gotify).await;
        assert_eq!(head.uri, "https://push.test/home/message");
        assert_eq!(head.headers["x-gotify-key"], "secret");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["title"], "pi: error: clock-unverified");
        assert_eq!(body["priority"], 10);

        let (_, body) = sent(&over(), Form::Webhook).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["condition"], "clock-unverified");
        assert_eq!((&body["holds"], &body["lasted"]), (&Value::from(false), &Value::from(11_040)));
    }

    #[test]
    fn what_is_over_says_how_long_it_was() {
        assert_eq!(over().title(), "pi: over: clock-unverified");
        assert!(over().body().starts_with("This is over, after 3 h 4 min: nobody vouches"));
        assert_eq!([0, 59, 61, 90_000].map(span), ["no time", "59 s", "1 min 1 s", "1 d 1 h"]);
    }

    async fn sent(message: &Message, form: Form) -> (hyper::http::request::Parts, String) {
        let request = message.request(form, "https://push.test/home", Some("secret")).unwrap();
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head, String::from_utf8(body.to_vec()).unwrap())
    }

    fn holds() -> Message {
        Message {
            host: "pi".to_owned(),
            condition: "clock-unverified",
            severity: Severity::Error,
            holds: true,
            text: "nobody vouches for the clock".to_owned(),
            since: "2026-03-01T00:00:00Z".to_owned(),
            lasted: None,
        }
    }

    fn over() -> Message {
        Message { holds: false, lasted: Some(11_040), ..holds() }
    }
}
