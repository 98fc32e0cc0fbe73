//! `firstlight status`: how things are, for a tired person.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::admin::report::{Condition, Dns, Listeners, Origin, Status, Time, Uplink};
use crate::admin::{Request, words};
use crate::cli::cache;
use crate::cli::daemon::Look;
use crate::cli::exit::Failure;
use crate::cli::table;

/// Prints everything at a glance, what is wrong last: there the eye is.
pub(super) fn run(look: &Look) -> Result<u8, Failure> {
    look.show(&Request::Status, view)
}

fn view(status: &Status) -> String {
    let mut lines = Vec::new();
    time(&status.time, &mut lines);
    lines.push(("NTP", words::ntp(&status.time.ntp)));
    bounds(&status.time.floor, &status.time.guess, &mut lines);
    let certificate = words::certificate(status.certificate.as_ref(), &status.time.utc);
    lines.push(("Certificate", certificate));
    dns(&status.dns, &mut lines);
    uplink(&status.uplink, &mut lines);
    listeners(&status.listeners, &mut lines);
    let lines: Vec<_> = lines.into_iter().map(|(label, text)| [label.to_owned(), text]).collect();
    format!(
        "firstlight {}, up {}, configured by {}\n\n{}\n{}",
        status.version,
        table::span(Duration::from_secs(status.uptime)),
        status.configuration,
        table::aligned(&lines),
        conditions(&status.conditions)
    )
}

/// Labels and texts; an empty label goes on with the one above.
type Lines = Vec<(&'static str, String)>;

fn time(time: &Time, lines: &mut Lines) {
    lines.push(("Time", format!("{} by our clock, {}", time.utc, time.level)));
    lines.push(("", words::level(&time.level).to_owned()));
    lines.push(("", words::confirmed(time.verified).to_owned()));
    lines.push(("", words::steering(time)));
    lines.push(("", words::dates(time)));
    lines.extend(words::restarts(time).map(|text| ("", text)));
}

fn bounds(floor: &Origin, guess: &Origin, lines: &mut Lines) {
    lines.push(("Floor", format!("{} ({})", floor.time, floor.origin)));
    lines.push(("Started at", format!("{} ({})", guess.time, guess.origin)));
}

fn dns(dns: &Dns, lines: &mut Lines) {
    let plaintext = words::plaintext(&dns.plaintext);
    let names = dns.local_names;
    lines.push(("DNS", format!("{plaintext}; {names} local names configured")));
    let counts: Vec<_> = dns
        .counters
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{} {count}", name.replace('_', " ")))
        .collect();
    let none = counts.is_empty();
    lines.push(("", if none { "no questions yet".to_owned() } else { counts.join(", ") }));
    if dns.snapshot.enabled {
        lines.push(("", format!("cache on disk: {}", cache::in_words(&dns.snapshot))));
    }
    let exceptions = dns.plaintext_exceptions.iter();
    lines.extend(exceptions.map(|exception| ("", format!("LEAVES UNENCRYPTED: {exception}"))));
}

fn uplink(uplink: &Uplink, lines: &mut Lines) {
    let kib = |octets: u64| format!("{} KiB", octets.div_ceil(1024));
    let by_purpose = |octets: &BTreeMap<String, u64>| {
        let parts = octets.iter().filter(|(_, octets)| **octets > 0);
        let parts: Vec<_> =
            parts.map(|(name, octets)| format!("{name} {}", kib(*octets))).collect();
        if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
    };
    lines.push(("Uplink", format!("within a day: {}", by_purpose(&uplink.day))));
    if let Some(reason) = &uplink.metered {
        let budget = match uplink.budget {
            0 => String::new(),
            budget => format!(" of {}", kib(budget)),
        };
        let octets = by_purpose(&uplink.day_metered);
        lines.push(("", format!("METERED, {reason}: {octets}{budget}")));
    }
}

fn listeners(listeners: &Listeners, lines: &mut Lines) {
    let open = &listeners.open;
    let open = if open.is_empty() { "NONE".to_owned() } else { open.join(", ") };
    lines.push(("Listening", open));
    lines.extend(listeners.refused.iter().map(|refused| ("NOT OPEN", refused.clone())));
}

fn conditions(conditions: &[Condition]) -> String {
    if conditions.is_empty() {
        return "Nothing is wrong.\n".to_owned();
    }
    let lines = conditions.iter().map(|Condition { name, severity, text, seconds }| {
        let since = table::span(Duration::from_secs(*seconds));
        format!("{} {name} (for {since})\n  {text}\n", severity.to_uppercase())
    });
    lines.collect::<Vec<_>>().concat()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::admin::report::{Certificate, Ntp, Snapshot};

    #[test]
    fn a_healthy_box_is_told_at_a_glance() {
        assert_eq!(
            view(&status()),
            "\
firstlight 0.1.0, up 3 h 12 min, configured by /etc/firstlight/firstlight.toml

Time         2026-03-14T06:11:40Z by our clock, disciplined
             a quorum of time sources keeps finding the clock right
             confirmed by the witnesses of two operators
             the machine's clock is steered, by -1.250 ppm
             dates of upstream certificates are checked strictly
NTP          clients are served: stratum 2 (192.0.2.1), off by 14 ms at most; 7 answered
Floor        2026-03-14T02:00:00Z (authenticated time kept on disk)
Started at   2026-03-14T03:00:00Z (the machine's clock)
Certificate  from the files, valid until 2026-05-14T06:11:40Z (61 d left)
DNS          clients without encryption are served; 3 local names configured
             cached 40, forwarded 2
Uplink       within a day: names 4 KiB, time 1 KiB
Listening    udp 0.0.0.0:53, tcp 0.0.0.0:53

Nothing is wrong.
"
        );
    }

    #[test]
    fn a_box_in_trouble_names_each_thing_with_its_remedy() {
        let mut status = status();
        status.time.level = "cold".to_owned();
        status.time.verified = false;
        status.time.steering_refused = Some("CAP_SYS_TIME is missing".to_owned());
        status.time.certificate_dates = "rule-r".to_owned();
        status.time.engine_panics = 2;
        status.time.ntp.synchronized = false;
        status.certificate = status.certificate.map(|it| Certificate { valid: false, ..it });
        status.dns.counters.clear();
        status.dns.plaintext_exceptions = vec!["corp.example to 10.0.0.1".to_owned()];
        status.uplink.metered = Some("the way out is wwan0".to_owned());
        status.uplink.day_metered = [("names".to_owned(), 2000)].into();
        status.uplink.budget = 1 << 20;
        status.listeners = Listeners {
            open: Vec::new(),
            refused: vec!["tcp 0.0.0.0:443: in use; `ss -lntup` names the program".to_owned()],
        };
        status.conditions = vec![Condition {
            name: "time-unknown".to_owned(),
            severity: "error".to_owned(),
            text: "2 of 4 time sources answer, 3 must agree".to_owned(),
            seconds: 200,
        }];

        let text = view(&status);

        for words in [
            "the time is not known yet; names are served all the same\n",
            "not confirmed by witnesses\n",
            "though it should be steered: CAP_SYS_TIME is missing\n",
            "checked against the floor, until the time is known\n",
            "failed and was started again, 2 times\n",
            "NTP          clients are told to wait (leap indicator 3); 7 answered\n",
            "NOT VALID by our clock: from 2026-02-14T06:11:40Z to 2026-05-14T06:11:40Z\n",
            "no questions yet\n",
            "METERED, the way out is wwan0: names 2 KiB of 1024 KiB\n",
            "LEAVES UNENCRYPTED: corp.example to 10.0.0.1\n",
            "Listening    NONE\n",
            "NOT OPEN     tcp 0.0.0.0:443: in use; `ss -lntup` names the program\n",
            "ERROR time-unknown (for 3 min)\n  2 of 4 time sources answer, 3 must agree\n",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        status.certificate = None;
        assert!(view(&status).contains("Certificate  NONE: DoT, DoH and DoQ are not served\n"));
    }

    /// A box that is well.
    pub(in crate::cli) fn status() -> Status {
        let origin =
            |time: &str, origin: &str| Origin { time: time.to_owned(), origin: origin.to_owned() };
        Status {
            version: "0.1.0".to_owned(),
            uptime: 11_525,
            configuration: "/etc/firstlight/firstlight.toml".to_owned(),
            time: Time {
                utc: "2026-03-14T06:11:40Z".to_owned(),
                level: "disciplined".to_owned(),
                verified: true,
                mode: "steer".to_owned(),
                steering_refused: None,
                floor: origin("2026-03-14T02:00:00Z", "authenticated time kept on disk"),
                guess: origin("2026-03-14T03:00:00Z", "the machine's clock"),
                certificate_dates: "strict".to_owned(),
                generation: 3,
                ntp: Ntp {
                    counters: BTreeMap::default(),
                    synchronized: true,
                    stratum: 2,
                    reference_id: "192.0.2.1".to_owned(),
                    leap: 0,
                    reference_time: "2026-03-14T06:11:24Z".to_owned(),
                    last_offset: Some(0.000_012),
                    interval: Some(16.0),
                    root_delay: 0.020,
                    root_dispersion: 0.0045,
                    answered: 7,
                    denied: 0,
                    malformed: 0,
                },
                frequency_ppm: -1.25,
                engine_panics: 0,
                task_panics: 0,
            },
            dns: Dns {
                plaintext: "serve".to_owned(),
                local_names: 3,
                counters: [("cached", 40), ("failed", 0), ("forwarded", 2)]
                    .map(|(name, count)| (name.to_owned(), count))
                    .into(),
                snapshot: Snapshot::default(),
                plaintext_exceptions: Vec::new(),
            },
            listeners: Listeners {
                open: vec!["udp 0.0.0.0:53".to_owned(), "tcp 0.0.0.0:53".to_owned()],
                refused: Vec::new(),
            },
            certificate: Some(Certificate {
                source: "files".to_owned(),
                not_before: "2026-02-14T06:11:40Z".to_owned(),
                not_after: "2026-05-14T06:11:40Z".to_owned(),
                valid: true,
            }),
            uplink: Uplink {
                metered: None,
                day: [("names", 4000), ("time", 760), ("witnesses", 0)]
                    .map(|(name, octets)| (name.to_owned(), octets))
                    .into(),
                day_metered: BTreeMap::new(),
                budget: 0,
            },
            conditions: Vec::new(),
        }
    }
}
