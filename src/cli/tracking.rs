//! `firstlight tracking`: what is known of time, in the words of `chronyc tracking`.

use crate::admin::Request;
use crate::admin::report::Time;
use crate::cli::daemon::Look;
use crate::cli::exit::Failure;

/// Prints what is known of time.
pub(super) fn run(look: &Look) -> Result<u8, Failure> {
    look.show(&Request::Tracking, view)
}

fn view(time: &Time) -> String {
    let ntp = &time.ntp;
    let none = || "-".to_owned();
    let seconds = |value: f64| format!("{value:.9} seconds");
    let rows = [
        ("Reference ID", Some(ntp.reference_id.clone()).filter(|id| !id.is_empty())),
        ("Stratum", Some(ntp.stratum.to_string())),
        ("Ref time (UTC)", Some(ntp.reference_time.clone()).filter(|_| ntp.synchronized)),
        ("System time", Some(time.utc.clone())),
        ("Last offset", ntp.last_offset.map(|offset| format!("{offset:+.9} seconds"))),
        ("Frequency", Some(frequency(time.frequency_ppm))),
        ("Root delay", Some(seconds(ntp.root_delay))),
        ("Root dispersion", Some(seconds(ntp.root_dispersion))),
        ("Update interval", ntp.interval.map(|interval| format!("{interval:.1} seconds"))),
        ("Leap status", Some(leap(ntp.synchronized, ntp.leap).to_owned())),
        ("Trust", Some(trust(time))),
        ("Floor", Some(format!("{} ({})", time.floor.time, time.floor.origin))),
    ];
    let lines = rows.map(|(name, value)| format!("{name:<16}: {}\n", value.unwrap_or_else(none)));
    lines.concat()
}

/// As chronyc has it: how the clock goes by itself, which is corrected the other way.
fn frequency(correction_ppm: f64) -> String {
    let word = if correction_ppm > 0.0 { "slow" } else { "fast" };
    format!("{:.3} ppm {word}", correction_ppm.abs())
}

const fn leap(synchronized: bool, leap: u8) -> &'static str {
    match (synchronized, leap) {
        (false, _) => "Not synchronised",
        (true, 1) => "Insert second",
        (true, 2) => "Delete second",
        (true, _) => "Normal",
    }
}

fn trust(time: &Time) -> String {
    let verified = if time.verified { "verified by witnesses" } else { "not verified" };
    format!("{}, {verified}", time.level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::report::{Ntp, Origin};

    #[test]
    fn a_chronyc_user_finds_the_words_he_knows() {
        let shown = view(&time(true));

        assert_eq!(
            shown,
            "\
Reference ID    : 192.0.2.1
Stratum         : 3
Ref time (UTC)  : 2026-03-14T06:11:24Z
System time     : 2026-03-14T06:11:40Z
Last offset     : -0.000012000 seconds
Frequency       : 1.250 ppm fast
Root delay      : 0.020000000 seconds
Root dispersion : 0.004500000 seconds
Update interval : 16.0 seconds
Leap status     : Normal
Trust           : disciplined, verified by witnesses
Floor           : 2026-03-14T02:00:00Z (authenticated time kept on disk)
"
        );
    }

    #[test]
    fn before_there_is_time_it_says_so() {
        let shown = view(&time(false));

        assert!(shown.contains("Ref time (UTC)  : -\n"), "{shown}");
        assert!(shown.contains("Leap status     : Not synchronised\n"), "{shown}");
    }

    fn time(synchronized: bool) -> Time {
        let origin =
            |time: &str, origin: &str| Origin { time: time.to_owned(), origin: origin.to_owned() };
        Time {
            utc: "2026-03-14T06:11:40Z".to_owned(),
            level: if synchronized { "disciplined" } else { "cold" }.to_owned(),
            verified: synchronized,
            mode: "steer".to_owned(),
            steering_refused: None,
            floor: origin("2026-03-14T02:00:00Z", "authenticated time kept on disk"),
            guess: origin("2026-03-14T03:00:00Z", "the machine's clock"),
            certificate_dates: "strict".to_owned(),
            generation: 3,
            ntp: Ntp {
                synchronized,
                stratum: if synchronized { 3 } else { 16 },
                reference_id: if synchronized { "192.0.2.1" } else { "" }.to_owned(),
                leap: 0,
                reference_time: "2026-03-14T06:11:24Z".to_owned(),
                last_offset: synchronized.then_some(-0.000_012),
                interval: synchronized.then_some(16.0),
                root_delay: 0.020,
                root_dispersion: 0.0045,
                answered: 7,
                denied: 0,
                malformed: 0,
                counters: std::collections::BTreeMap::default(),
            },
            frequency_ppm: -1.25,
            engine_panics: 0,
            task_panics: 0,
        }
    }
}
