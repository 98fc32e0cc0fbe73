//! `firstlight certs`: the certificate that clients are shown, and what lies ahead of it.

use std::fmt::Write;
use std::time::Duration;

use crate::admin::Request;
use crate::admin::report::Certs;
use crate::cli::daemon::Look;
use crate::cli::exit::Failure;
use crate::cli::table;

/// Prints it.
pub(super) fn run(look: &Look) -> Result<u8, Failure> {
    look.show(&Request::Certs, |certs: &Option<Certs>| match certs {
        Some(certs) => view(certs),
        None => "There is no certificate: DoT, DoH and DoQ are not served.\n".to_owned(),
    })
}

fn view(certs: &Certs) -> String {
    let source = match (certs.source.as_str(), &certs.certificate, &certs.key) {
        ("files", Some(certificate), Some(key)) => format!("{certificate}, key {key}"),
        _ => "the local authority, which clients must be told to trust".to_owned(),
    };
    let names = if certs.names.is_empty() { "none".to_owned() } else { certs.names.join(", ") };
    let survives = match (certs.survives, certs.verified) {
        (Some(0), _) => "nothing: it has expired".to_owned(),
        (Some(seconds), _) => {
            format!("{} without a renewal, from now", table::span(Duration::from_secs(seconds)))
        }
        (None, true) => "any outage: it is renewed here".to_owned(),
        (None, false) => format!("not judged: {} by our clock is not verified", certs.utc),
    };
    let renewal = certs.renewal.as_ref().map_or_else(String::new, |at| format!("about {at}, "));
    let rows = [
        ("Certificate", source),
        ("Names", names),
        ("Issuer", certs.issuer.clone()),
        ("Serial", certs.serial.clone()),
        ("Valid", format!("{} to {}", certs.not_before, certs.not_after)),
        ("Survives", survives),
        ("Renewal", format!("{renewal}{}", certs.why)),
    ];
    let rows: Vec<_> = rows.into_iter().map(|(title, text)| [title.to_owned(), text]).collect();
    let mut text = table::aligned(&rows);
    for held in &certs.conditions {
        let _ = write!(text, "\n{}: {} ({})\n", held.severity, held.text, held.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::report::Condition;

    #[test]
    fn it_is_told_in_words() {
        assert_eq!(
            view(&certs()),
            "Certificate  /etc/tls/fullchain.pem, key /etc/tls/privkey.pem\n\
             Names        dns.example.org, *.pi.example.org\n\
             Issuer       C=US, O=Let's Encrypt, CN=E8\n\
             Serial       04c7\n\
             Valid        2026-03-01T00:00:00Z to 2026-05-30T00:00:00Z\n\
             Survives     12 d without a renewal, from now\n\
             Renewal      about 2026-04-30T00:00:00Z, by custom; whoever brings the files renews it\n\
             \n\
             warning: it has not been replaced (certificate-overdue)\n"
        );
    }

    #[test]
    fn nothing_is_said_about_dates_by_a_clock_that_is_not_verified() {
        let text = view(&Certs { verified: false, survives: None, ..certs() });

        assert!(text.contains("not judged: 1970-01-01T00:00:07Z by our clock is not verified"));
    }

    #[test]
    fn the_local_authority_s_is_renewed_here() {
        let why = "here, at each start".to_owned();
        let source = "fallback".to_owned();
        let text = view(&Certs { source, survives: None, renewal: None, why, ..certs() });

        assert!(text.contains("the local authority") && text.contains("any outage"), "{text}");
        assert!(text.contains("Renewal      here, at each start\n"), "{text}");
    }

    fn certs() -> Certs {
        Certs {
            utc: "1970-01-01T00:00:07Z".to_owned(),
            verified: true,
            source: "files".to_owned(),
            certificate: Some("/etc/tls/fullchain.pem".to_owned()),
            key: Some("/etc/tls/privkey.pem".to_owned()),
            name: "dns.example.org".to_owned(),
            names: vec!["dns.example.org".to_owned(), "*.pi.example.org".to_owned()],
            issuer: "C=US, O=Let's Encrypt, CN=E8".to_owned(),
            serial: "04c7".to_owned(),
            not_before: "2026-03-01T00:00:00Z".to_owned(),
            not_after: "2026-05-30T00:00:00Z".to_owned(),
            survives: Some(12 * 86_400),
            renewal: Some("2026-04-30T00:00:00Z".to_owned()),
            why: "by custom; whoever brings the files renews it".to_owned(),
            conditions: vec![Condition {
                name: "certificate-overdue".to_owned(),
                severity: "warning".to_owned(),
                text: "it has not been replaced".to_owned(),
                seconds: 60,
            }],
        }
    }
}
