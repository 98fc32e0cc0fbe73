//! How a report is told to a person, the same in every place.

use std::time::Duration;

use super::report::{Certificate, Ntp, Time};
use crate::clock::{UnixTime, describe, nanos};

/// A span: `0 s`, `12 ms`, `3 h 12 min`.
#[must_use]
pub fn span(span: Duration) -> String {
    if span.is_zero() {
        return "0 s".to_owned();
    }
    describe(nanos(span)).trim_start_matches('+').to_owned()
}

/// A span in seconds, however small; `?` if it is none.
#[must_use]
pub fn seconds(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map_or_else(|_| "?".to_owned(), span)
}

/// What a level of trust means.
#[must_use]
pub fn level(level: &str) -> &'static str {
    match level {
        "cold" => "the time is not known yet; names are served all the same",
        "suspect" => "authenticated time contradicts the clock; names are served all the same",
        "coarse" => "the clock was set, and is yet to be confirmed by time sources",
        "holdover" => "no time source answers; the clock runs on by itself",
        "disciplined" => "a quorum of time sources keeps finding the clock right",
        _ => "a level this version of the program does not know",
    }
}

/// Whether witnesses confirm the time.
#[must_use]
pub const fn confirmed(verified: bool) -> &'static str {
    if verified {
        "confirmed by the witnesses of two operators"
    } else {
        "not confirmed by witnesses"
    }
}

/// What is done to the machine's clock.
#[must_use]
pub fn steering(time: &Time) -> String {
    let frequency = format!("{:+.3} ppm", time.frequency_ppm);
    match (time.mode.as_str(), &time.steering_refused) {
        (_, Some(reason)) => {
            format!("the machine's clock is left alone, though it should be steered: {reason}")
        }
        ("steer", None) => format!("the machine's clock is steered, by {frequency}"),
        (_, None) => format!("the machine's clock is left alone; ours is steered, by {frequency}"),
    }
}

/// How dates of upstream certificates are judged.
#[must_use]
pub fn dates(time: &Time) -> String {
    let dates = match time.certificate_dates.as_str() {
        "strict" => "checked strictly",
        "strict-else-rule-r" => "checked strictly, or against the floor where no upstream passes",
        "rule-r" => "checked against the floor, until the time is known",
        other => other,
    };
    format!("dates of upstream certificates are {dates}")
}

/// Which parts failed and run again.
pub fn restarts(time: &Time) -> impl Iterator<Item = String> {
    let parts = [("the time engine", time.engine_panics), ("a part", time.task_panics)];
    parts
        .into_iter()
        .filter(|(_, times)| *times > 0)
        .map(|(part, times)| format!("{part} failed and was started again, {times} times"))
}

/// What NTP clients are told.
#[must_use]
pub fn ntp(ntp: &Ntp) -> String {
    let answered = ntp.answered;
    if !ntp.synchronized {
        return format!("clients are told to wait (leap indicator 3); {answered} answered");
    }
    let error = seconds(ntp.root_dispersion + ntp.root_delay / 2.0);
    let Ntp { stratum, reference_id, .. } = ntp;
    let leap = match ntp.leap {
        0 => "",
        1 => "; a LEAP SECOND is inserted at the end of the UTC day",
        _ => "; a LEAP SECOND is left out at the end of the UTC day",
    };
    format!(
        "clients are served: stratum {stratum} ({reference_id}), off by {error} at most; {answered} \
         answered{leap}"
    )
}

/// Where the certificate comes from, and until when it lasts from `utc` on, RFC 3339.
#[must_use]
pub fn certificate(certificate: Option<&Certificate>, utc: &str) -> String {
    let Some(Certificate { source, not_before, not_after, valid }) = certificate else {
        return "NONE: DoT, DoH and DoQ are not served".to_owned();
    };
    let origin = match source.as_str() {
        "files" => "from the files",
        "fallback" => "by the fallback authority",
        other => other,
    };
    if !valid {
        return format!("{origin}, NOT VALID by our clock: from {not_before} to {not_after}");
    }
    let moment = |text: &str| text.parse::<UnixTime>().ok();
    let left = moment(not_after).zip(moment(utc)).map(|(end, now)| end.since(now));
    let left = left.map(|left| describe(left).trim_start_matches('+').to_owned());
    format!("{origin}, valid until {not_after} ({} left)", left.as_deref().unwrap_or("?"))
}

/// Who is answered without encryption: the words for `dns.plaintext`.
#[must_use]
pub fn plaintext(policy: &str) -> &str {
    match policy {
        "serve" => "clients without encryption are served",
        "local-only" => "clients without encryption are given local names only",
        "refuse" => "clients without encryption are refused",
        other => other,
    }
}
