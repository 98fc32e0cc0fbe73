//! What went wrong, in the classes of [`cert::Kind`](Kind).

use std::time::Duration;

use hyper::StatusCode;
use instant_acme::{Error, Problem};

use crate::cert::{Failure, Kind};
use crate::fetch::{Http, HttpError};

/// Characters of what others say that are repeated.
const WORDS: usize = 400;

/// A failure of `kind`; what others have said in `detail` is made fit for a log.
pub(super) fn failure(kind: Kind, detail: &str) -> Failure {
    Failure { kind, detail: words(detail) }
}

/// `text` without what could forge a line of a log or a terminal's state, and not too long.
pub(super) fn words(text: &str) -> String {
    let mut found = String::new();
    for (count, letter) in text.trim().chars().enumerate() {
        if count == WORDS {
            found.push_str("..");
            break;
        }
        if letter.is_control() || is_invisible(letter) {
            found.extend(letter.escape_default());
        } else {
            found.push(letter);
        }
    }
    found
}

/// Whether `letter` changes how those around it are shown: line ends and directions of writing.
const fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
}

/// The failure behind an error of the protocol.
pub(super) fn of_error(error: &Error, http: &Http) -> Failure {
    if let Error::Api(problem) = error {
        return of_problem(problem, http.retry_after());
    }
    if let Error::Other(other) = error
        && let Some(error) = other.downcast_ref::<HttpError>()
    {
        return of_http(error, http.retry_after());
    }
    failure(Kind::Garbage, &error.to_string())
}

/// The failure behind an answer that did not come, or is no ACME.
pub(super) fn of_http(error: &HttpError, retry_after: Option<Duration>) -> Failure {
    let kind = match error {
        HttpError::Cut { .. }
        | HttpError::Connect { .. }
        | HttpError::Late { .. }
        | HttpError::Resolve { .. } => Kind::Unreachable,
        HttpError::Status { status, .. } if *status == StatusCode::TOO_MANY_REQUESTS => {
            Kind::RateLimited { retry_after }
        }
        HttpError::Status { status, .. } if status.is_server_error() => Kind::Server,
        HttpError::Garbage { .. }
        | HttpError::Long { .. }
        | HttpError::Status { .. }
        | HttpError::Url { .. } => Kind::Garbage,
    };
    failure(kind, &error.to_string())
}

/// The failure that a request's problem document tells of.
pub(super) fn of_problem(problem: &Problem, retry_after: Option<Duration>) -> Failure {
    let kind = match problem_type(problem) {
        "accountDoesNotExist" => Kind::AccountUnknown,
        "alreadyReplaced" => Kind::AlreadyReplaced,
        "badNonce" => Kind::BadNonce,
        "invalidProfile" => Kind::InvalidProfile,
        "rateLimited" => Kind::RateLimited { retry_after },
        "serverInternal" => Kind::Server,
        "badPublicKey"
        | "badSignatureAlgorithm"
        | "caa"
        | "externalAccountRequired"
        | "rejectedIdentifier"
        | "unauthorized"
        | "unsupportedIdentifier"
        | "userActionRequired" => Kind::Refused,
        "connection" | "dns" | "incorrectResponse" | "tls" => Kind::Validation,
        _ if problem.status.is_some_and(|status| status >= 500) => Kind::Server,
        _ => Kind::Garbage,
    };
    failure(kind, &said(problem))
}

/// The failure of an order or authorization that became invalid for `problem`.
pub(super) fn of_verdict(problem: &Problem) -> Failure {
    let kind = match problem_type(problem) {
        "caa" | "rejectedIdentifier" | "unsupportedIdentifier" => Kind::Refused,
        "rateLimited" => Kind::RateLimited { retry_after: None },
        "serverInternal" => Kind::Server,
        _ => Kind::Validation,
    };
    failure(kind, &said(problem))
}

/// The last part of the problem's type, where it is one of RFC 8555 section 6.7.
pub(super) fn problem_type(problem: &Problem) -> &str {
    let name = problem.r#type.as_deref().unwrap_or_default();
    name.strip_prefix("urn:ietf:params:acme:error:").unwrap_or_default()
}

/// What the CA says itself.
fn said(problem: &Problem) -> String {
    let mut text = problem.detail.clone().unwrap_or_default();
    if text.is_empty() {
        problem.r#type.as_deref().unwrap_or("no reason given").clone_into(&mut text);
    }
    for part in &problem.subproblems {
        text.push_str("; ");
        text.push_str(&part.to_string());
    }
    text
}
