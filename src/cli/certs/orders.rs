//! `firstlight certs renew` and `firstlight certs check`: an order because a person wants it, and its
//! rehearsal.

use std::thread;
use std::time::Duration;

use clap::Args;

use crate::admin::Request;
use crate::admin::report::{Certs, Orders};
use crate::cli::daemon::Daemon;
use crate::cli::exit::{self, Failure};
use crate::cli::{ConfigFile, output, table};
use crate::host::kernel::{KernelClock, OsClock};

/// Whether to wait.
#[derive(Args, Debug)]
pub(super) struct Renew {
    /// Wait until the certificate is in service or the order has failed, half an hour at most.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    file: ConfigFile,
}

/// Whether to wait.
#[derive(Args, Debug)]
pub(super) struct Check {
    /// Return at once; `firstlight certs` shows what came of it. Else the result is waited for, 15
    /// minutes at most.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    file: ConfigFile,
}

/// An order takes 15 minutes at most, and may be rehearsed before.
const RENEWAL: Duration = Duration::from_secs(1800);
const REHEARSAL: Duration = Duration::from_secs(900);
const PERIOD: Duration = Duration::from_millis(500);

/// Has a certificate ordered, and prints what came of it if that was wished for.
pub(super) fn renew(renew: &Renew) -> Result<u8, Failure> {
    let daemon = Daemon::find(&renew.file)?;
    let before = orders(&daemon)?;
    daemon.ask::<serde_json::Value>(&Request::Renew)?;
    let Some(before) = before.filter(|_| renew.wait) else {
        output::print("a certificate is being ordered; `firstlight certs` shows what comes of it")?;
        return Ok(exit::OK);
    };
    wait(&daemon, RENEWAL, |present| renewed(&before, present))
}

/// Has orders rehearsed, and prints what came of it.
pub(super) fn check(check: &Check) -> Result<u8, Failure> {
    let daemon = Daemon::find(&check.file)?;
    daemon.ask::<serde_json::Value>(&Request::Rehearse)?;
    if check.no_wait {
        output::print("orders are being rehearsed; `firstlight certs` shows what comes of it")?;
        return Ok(exit::OK);
    }
    wait(&daemon, REHEARSAL, rehearsed)
}

fn orders(daemon: &Daemon) -> Result<Option<Orders>, Failure> {
    let certs: Option<Certs> = daemon.ask(&Request::Certs)?;
    Ok(certs.and_then(|certs| certs.orders))
}

/// Waits until `ended` gives an end, good or not, and prints it.
fn wait(
    daemon: &Daemon,
    limit: Duration,
    ended: impl Fn(&Orders) -> Option<End>,
) -> Result<u8, Failure> {
    let begin = KernelClock.mono();
    loop {
        let Some(present) = orders(daemon)? else {
            let text = "the configuration in force has no certificates ordered; see [acme]";
            return Err(Failure::Wanting(text.to_owned()));
        };
        if let Some(End { well, text }) = ended(&present) {
            output::print(text)?;
            return Ok(if well { exit::OK } else { exit::FAILED });
        }
        if KernelClock.mono().saturating_duration_since(begin) >= limit {
            output::note(format_args!(
                "given up after {}, and the daemon goes on; `firstlight certs` shows what comes of it",
                table::span(limit)
            ));
            return Ok(exit::FAILED);
        }
        thread::sleep(PERIOD);
    }
}

/// What came of it.
#[derive(Debug, Eq, PartialEq)]
struct End {
    well: bool,
    text: String,
}

/// What came of a renewal that was asked for at `before`; `None` while it is under way.
fn renewed(before: &Orders, present: &Orders) -> Option<End> {
    if let Some(serial) = present.serial.as_ref().filter(|_| present.serial != before.serial) {
        let text = format!("a certificate is in service, serial {serial}");
        return Some(End { well: true, text });
    }
    // What failed and is tried again at once has not ended.
    if present.running.is_some() {
        return None;
    }
    let next = |text: String| match &present.hold {
        Some(hold) => format!("{text}; {hold}"),
        None => text,
    };
    let failed = |text| Some(End { well: false, text });
    if present.failures > before.failures {
        let what = present.last_failure.as_deref().unwrap_or("for an unknown reason");
        return failed(next(format!("the order failed: {what}")));
    }
    let earlier = |authority: &str| {
        let same = before.authorities.iter().find(|before| before.authority == authority);
        same.map_or(0, |before| before.failures)
    };
    let rehearsals = present.authorities.iter();
    let mut worse = rehearsals.filter(|present| present.failures > earlier(&present.authority));
    if let Some((failure, authority)) =
        worse.find_map(|present| Some((present.failure.as_ref()?, &present.authority)))
    {
        let text = format!("the rehearsal before the order at {authority} failed: {failure}");
        return failed(next(text));
    }
    let hold = present.hold.as_ref()?;
    failed(format!("no certificate is in service that was not before: {hold}"))
}

/// What came of the rehearsals that were asked for; `None` while one is under way.
fn rehearsed(present: &Orders) -> Option<End> {
    let all = &present.authorities;
    if all.iter().any(|it| it.running) {
        return None;
    }
    let lines = all.iter().map(|it| {
        let outcome = match (it.staging, it.passed, &it.failure) {
            (false, ..) => "not rehearsed: it has no staging directory".to_owned(),
            (true, _, Some(failure)) => format!("NOT WELL: {failure}"),
            (true, true, None) => "well: an order would succeed".to_owned(),
            (true, false, None) => "NOT WELL: the rehearsal was not finished".to_owned(),
        };
        format!("{}: {outcome}\n", it.authority)
    });
    let text = lines.collect();
    Some(End { well: all.iter().all(|it| !it.staging || it.passed), text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::report::RunningOrder;
    use crate::cli::certs::show::tests::orders;

    #[test]
    fn a_renewal_ends_with_another_certificate_or_with_a_failure_after_which_nothing_runs() {
        let before = Orders { failures: 2, hold: None, ..orders() };
        let running = Some(RunningOrder { authority: "le".to_owned(), staging: false });

        assert_eq!(renewed(&before, &Orders { running: running.clone(), ..before.clone() }), None);
        assert_eq!(renewed(&before, &before), None, "it has not begun");
        let failed = Orders {
            failures: 3,
            last_failure: Some("le: no answer".to_owned()),
            hold: Some("the next is at noon".to_owned()),
            ..before.clone()
        };
        assert_eq!(renewed(&before, &Orders { running, ..failed.clone() }), None);
        let text = "the order failed: le: no answer; the next is at noon".to_owned();
        assert_eq!(renewed(&before, &failed), Some(End { well: false, text }));

        let mut rehearsal = before.clone();
        rehearsal.authorities[0].failures = 1;
        rehearsal.authorities[0].failure = Some("no TXT record".to_owned());
        let end = renewed(&before, &rehearsal).unwrap();
        assert!(!end.well && end.text.contains("at le failed: no TXT record"), "{end:?}");

        let hold = Some("a fresh certificate is out of date".to_owned());
        assert!(!renewed(&before, &Orders { hold, ..before.clone() }).unwrap().well);
        let issued = Orders { serial: Some("05".to_owned()), failures: 0, ..before.clone() };
        let text = "a certificate is in service, serial 05".to_owned();
        assert_eq!(renewed(&before, &issued), Some(End { well: true, text }));
    }

    #[test]
    fn rehearsals_have_ended_when_each_has() {
        let mut present = orders();
        present.authorities[0].running = true;
        assert_eq!(rehearsed(&present), None);

        present.authorities[0].running = false;
        present.authorities[0].passed = true;
        let text = "le: well: an order would succeed\n\
                    other: not rehearsed: it has no staging directory\n";
        assert_eq!(rehearsed(&present), Some(End { well: true, text: text.to_owned() }));

        present.authorities[0].passed = false;
        assert!(!rehearsed(&present).unwrap().well);
        present.authorities[0].failure = Some("no TXT record".to_owned());
        let end = rehearsed(&present).unwrap();
        assert!(!end.well && end.text.starts_with("le: NOT WELL: no TXT record\n"), "{end:?}");
    }
}
