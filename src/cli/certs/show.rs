//! `firstlight certs` by itself: the certificate, and what lies ahead of it.

use std::fmt::Write;
use std::time::Duration;

use crate::admin::Request;
use crate::admin::report::{Certs, FALLBACK, Orders, Rehearsal};
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
        ("acme", ..) => "ordered by ACME".to_owned(),
        ("files", Some(certificate), Some(key)) => format!("{certificate}, key {key}"),
        ("files", ..) => "files of a configuration before, until another is ordered".to_owned(),
        _ => "the local authority, which clients must be told to trust".to_owned(),
    };
    let names = if certs.names.is_empty() { "none".to_owned() } else { certs.names.join(", ") };
    let ordered = certs.orders.as_ref().filter(|_| certs.source == "acme");
    let ahead = ordered.and_then(|orders| orders.survives.zip(orders.survives_at_worst));
    let survives = match (certs.survives, certs.verified) {
        (Some(0), _) => "nothing: it has expired".to_owned(),
        (Some(left), _) => match ahead {
            Some((at_present, at_worst)) => format!(
                "an outage of {} from now, of {} from just before a renewal",
                seconds(at_present),
                seconds(at_worst)
            ),
            None => format!("{} without a renewal, from now", seconds(left)),
        },
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
    // The next order is told below.
    let told_below = certs.orders.is_some() && certs.source != FALLBACK;
    let rows = rows.into_iter().filter(|(title, _)| *title != "Renewal" || !told_below);
    let further = certs.orders.iter().flat_map(ahead_of_orders);
    let rows = rows.map(|(title, text)| [title.to_owned(), text]);
    let rows: Vec<_> = rows.chain(further).collect();
    let mut text = table::aligned(&rows);
    for held in &certs.conditions {
        let _ = write!(text, "\n{}: {} ({})\n", held.severity, held.text, held.name);
    }
    text
}

/// What is known of the orders, by row.
fn ahead_of_orders(orders: &Orders) -> Vec<[String; 2]> {
    let mut rows = vec![("Next order".to_owned(), format!("{}, {}", orders.due, orders.why))];
    let mut add = |title: &str, text: String| rows.push((title.to_owned(), text));
    if let Some(running) = &orders.running {
        let what = if running.staging { "a rehearsal" } else { "an order" };
        add("Under way", format!("{what} at {}", running.authority));
    } else if let Some(hold) = &orders.hold {
        add("Held back", hold.clone());
    }
    if let Some(failure) = &orders.last_failure {
        let times = match orders.failures {
            0 | 1 => String::new(),
            more => format!(", the last of {more} in a row"),
        };
        add("Last failure", format!("{failure}{times}"));
    }
    if let Some(rehearsal) = &orders.rehearsal {
        add("Rehearsal", format!("planned for {rehearsal}"));
    }
    for authority in &orders.authorities {
        add(&format!("At {}", authority.authority), rehearsed(authority));
    }
    rows.into_iter().map(Into::into).collect()
}

fn rehearsed(authority: &Rehearsal) -> String {
    match authority {
        Rehearsal { staging: false, .. } => "not rehearsed: it has no staging directory".to_owned(),
        Rehearsal { running: true, .. } => "a rehearsal is under way".to_owned(),
        Rehearsal { failure: Some(failure), failures, .. } => {
            let times = if *failures > 1 { format!(", {failures} times") } else { String::new() };
            format!("the rehearsal failed{times}: {failure}")
        }
        Rehearsal { passed: true, .. } => "rehearsed: the renewal would succeed".to_owned(),
        Rehearsal { .. } => "not rehearsed so far".to_owned(),
    }
}

fn seconds(seconds: u64) -> String {
    table::span(Duration::from_secs(seconds))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::admin::report::{Condition, RunningOrder};

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

    #[test]
    fn what_lies_ahead_of_an_ordered_one_is_told() {
        let source = "acme".to_owned();
        let certs = Certs { source, orders: Some(orders()), conditions: Vec::new(), ..certs() };

        let text = view(&certs);

        let (head, rows) = text.split_once("Survives").unwrap();
        assert!(head.starts_with("Certificate  ordered by ACME\n"), "{text}");
        assert_eq!(
            rows,
            "     an outage of 12 d from now, of 4 d from just before a renewal\n\
             Next order   2026-04-30T00:00:00Z, by the schedule\n\
             Held back    the clock is not verified\n\
             Rehearsal    planned for 2026-03-30T00:00:00Z\n\
             At le        not rehearsed so far\n\
             At other     not rehearsed: it has no staging directory\n"
        );
    }

    #[test]
    fn what_files_gave_before_is_told_from_what_the_local_authority_signed() {
        let before = Certs { certificate: None, key: None, orders: Some(orders()), ..certs() };
        let text = view(&before);

        assert!(text.starts_with("Certificate  files of a configuration before"), "{text}");
        assert!(
            text.contains("Survives     12 d without a renewal, from now\nNext order"),
            "{text}"
        );
    }

    #[test]
    fn what_failed_and_what_is_under_way_is_told() {
        let running = Some(RunningOrder { authority: "le".to_owned(), staging: true });
        let mut orders = Orders { running, failures: 3, ..orders() };
        orders.last_failure = Some("le: no answer".to_owned());
        orders.authorities[0].failure = Some("no TXT record".to_owned());
        orders.authorities[0].failures = 2;

        let text = view(&Certs { orders: Some(orders.clone()), ..certs() });

        for line in [
            "Under way     a rehearsal at le\n",
            "Last failure  le: no answer, the last of 3 in a row\n",
            "At le         the rehearsal failed, 2 times: no TXT record\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!text.contains("Held back"), "{text}");
        orders.authorities[0] =
            Rehearsal { passed: true, failure: None, ..orders.authorities[0].clone() };
        let text = view(&Certs { orders: Some(orders), ..certs() });
        assert!(text.contains("At le         rehearsed: the renewal would succeed\n"), "{text}");
    }

    pub(in crate::cli::certs) fn orders() -> Orders {
        let rehearsal = |authority: &str, staging| Rehearsal {
            authority: authority.to_owned(),
            staging,
            running: false,
            passed: false,
            failure: None,
            failures: 0,
        };
        Orders {
            serial: Some("04c7".to_owned()),
            survives: Some(12 * 86_400),
            survives_at_worst: Some(4 * 86_400),
            due: "2026-04-30T00:00:00Z".to_owned(),
            why: "by the schedule".to_owned(),
            hold: Some("the clock is not verified".to_owned()),
            rehearsal: Some("2026-03-30T00:00:00Z".to_owned()),
            running: None,
            failures: 0,
            last_failure: None,
            authorities: vec![rehearsal("le", true), rehearsal("other", false)],
        }
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
            orders: None,
            conditions: vec![Condition {
                name: "certificate-overdue".to_owned(),
                severity: "warning".to_owned(),
                text: "it has not been replaced".to_owned(),
                seconds: 60,
            }],
        }
    }
}
