//! `firstlight cache` and `firstlight flush`: the answers that are kept.

use std::time::Duration;

use clap::Args;

use crate::admin::Request;
use crate::admin::report::{Cache, Held, Snapshot};
use crate::cli::daemon::{Daemon, Look};
use crate::cli::exit::Failure;
use crate::cli::{ConfigFile, table};
use crate::wire::Name;

/// What to show.
#[derive(Args, Debug)]
pub(super) struct Show {
    /// A name, to see what is held under it.
    name: Option<Name>,
    #[command(flatten)]
    look: Look,
}

/// Whose answers to forget.
#[derive(Args, Debug)]
pub(super) struct Flush {
    /// Those of this name; all without it.
    name: Option<Name>,
    /// Those of every name below it as well.
    #[arg(long, requires = "name")]
    subtree: bool,
    #[command(flatten)]
    file: ConfigFile,
}

/// Prints what the cache holds.
pub(super) fn show(show: &Show) -> Result<u8, Failure> {
    let name = show.name.as_ref().map(ToString::to_string);
    let title = name.clone();
    show.look.show(&Request::Cache { name }, |cache| view(cache, title.as_deref()))
}

/// Has answers forgotten, and prints how it went.
pub(super) fn flush(flush: &Flush) -> Result<u8, Failure> {
    let name = flush.name.as_ref().map(ToString::to_string);
    Daemon::find(&flush.file)?.order(&Request::Flush { name, subtree: flush.subtree })
}

fn view(cache: &Cache, name: Option<&str>) -> String {
    match (&cache.held, name) {
        (Some(held), Some(name)) if held.is_empty() => format!("Nothing is held under {name}.\n"),
        (Some(held), _) => held.iter().map(entry).collect::<Vec<_>>().join("\n"),
        (None, _) => table::aligned(&totals(cache)),
    }
}

fn totals(cache: &Cache) -> Vec<[String; 2]> {
    let relaxed = match cache.relaxed {
        0 => String::new(),
        relaxed => format!(", {relaxed} of them through chains whose dates are not certain yet"),
    };
    let ratio = cache
        .hit_ratio
        .map_or_else(|| "no questions yet".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0));
    let row = |label: &str, text: String| [label.to_owned(), text];
    vec![
        row("Held", format!("{} answers{relaxed}", cache.entries)),
        row("Memory", format!("{} of {}", bytes(cache.bytes), bytes(cache.limit))),
        row(
            "Hits",
            format!(
                "{ratio}: {} fresh, {} stale; {} needed an upstream",
                cache.fresh, cache.stale, cache.missed
            ),
        ),
        row("Since start", format!("{} taken in, {} made room", cache.inserted, cache.evicted)),
        row("On disk", in_words(&cache.snapshot)),
    ]
}

/// The snapshot in a line.
pub(super) fn in_words(snapshot: &Snapshot) -> String {
    if !snapshot.enabled {
        return "nothing, as configured".to_owned();
    }
    let mut words = Vec::new();
    if let Some(read) = &snapshot.read {
        let skipped = match read.skipped_pages {
            0 => String::new(),
            pages => format!(", but for {pages} damaged pages"),
        };
        let age = snapshot.offline.map(|offline| format!(", {} old by then", span(offline)));
        words.push(format!(
            "{} answers read at the start in {} ms{}{skipped}",
            read.entries,
            read.milliseconds,
            age.unwrap_or_default()
        ));
    }
    if let Some(ago) = snapshot.written_ago {
        let size = usize::try_from(snapshot.written_bytes).unwrap_or(usize::MAX);
        words.push(format!(
            "{} answers written {} ago, {}",
            snapshot.written_entries,
            span(ago),
            bytes(size)
        ));
    }
    words.extend(snapshot.trouble.clone());
    if words.is_empty() { "nothing yet".to_owned() } else { words.join("; ") }
}

fn entry(held: &Held) -> String {
    let mut asked = vec![held.rtype.clone()];
    asked.extend(held.dnssec_ok.then(|| "DO".to_owned()));
    asked.extend(held.checking_disabled.then(|| "CD".to_owned()));
    asked.extend((held.view > 0).then(|| format!("view {}", held.view)));
    let left = held.left.map(|left| format!(", {} left", span(left.into()))).unwrap_or_default();
    let mut text = format!(
        "{}: {}, {}, {} old{left}, {} octets\n  {}\n  {}, {}\n",
        asked.join(" "),
        held.rcode,
        held.state,
        span(held.age.into()),
        held.bytes,
        held.why,
        held.validation,
        held.policy,
    );
    for record in &held.records {
        text.push_str("  | ");
        text.push_str(record);
        text.push('\n');
    }
    text
}

fn span(seconds: u64) -> String {
    table::span(Duration::from_secs(seconds))
}

fn bytes(bytes: usize) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::report::SnapshotRead;

    use super::*;

    #[test]
    fn the_cache_is_told_at_a_glance() {
        let read = SnapshotRead {
            milliseconds: 40,
            entries: 900,
            left_out: 7,
            bytes: 98_304,
            skipped_pages: 1,
        };
        let snapshot = Snapshot {
            enabled: true,
            read: Some(read),
            offline: Some(7200),
            written_ago: Some(60),
            written_entries: 1200,
            written_bytes: 131_072,
            ..Snapshot::default()
        };
        let cache = Cache {
            entries: 1200,
            relaxed: 3,
            bytes: 204_800,
            limit: 33_554_432,
            fresh: 90,
            stale: 3,
            missed: 7,
            hit_ratio: Some(0.93),
            inserted: 1210,
            evicted: 0,
            snapshot,
            held: None,
        };

        assert_eq!(
            view(&cache, None),
            "Held         1200 answers, 3 of them through chains whose dates are not certain yet\n\
             Memory       200 KiB of 32 MiB\n\
             Hits         93.0 %: 90 fresh, 3 stale; 7 needed an upstream\n\
             Since start  1210 taken in, 0 made room\n\
             On disk      900 answers read at the start in 40 ms, 2 h 0 min old by then, but for 1 damaged pages; \
             1200 answers written 60 s ago, 128 KiB\n"
        );
    }

    #[test]
    fn every_answer_under_a_name_says_what_becomes_of_it() {
        let held = Held {
            rtype: "A".to_owned(),
            dnssec_ok: true,
            checking_disabled: false,
            view: 2,
            rcode: "NOERROR".to_owned(),
            records: vec!["www.example. 60 IN A 192.0.2.1".to_owned()],
            age: 240,
            state: "fresh".to_owned(),
            left: Some(60),
            why: "within its time to live".to_owned(),
            validation: "unchecked".to_owned(),
            policy: "as-came".to_owned(),
            chain: None,
            restored: false,
            bytes: 64,
        };

        assert_eq!(
            entry(&held),
            "A DO view 2: NOERROR, fresh, 4 min old, 60 s left, 64 octets\n  \
             within its time to live\n  unchecked, as-came\n  | www.example. 60 IN A 192.0.2.1\n"
        );
    }
}
