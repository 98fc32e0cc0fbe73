//! Snapshots written and read back, whole and in ruins.

use std::collections::BTreeSet;

use hickory_proto::op::ResponseCode;
use proptest::prelude::*;

use super::*;
use crate::cache::tests::{DAY, Lab, key, negative, plain, positive, seen};
use crate::cache::{ChainId, Good, Lookup, Policy};

#[test]
fn what_was_saved_comes_back_stale_and_complete() {
    let mut before = Lab::new(1 << 20, DAY);
    before.keep(&positive("www.example.", &[300, 70]));
    before.keep(&negative("gone.example.", ResponseCode::NXDomain, Some((90, 90)), false));
    let children = View(7);
    let secure = Standing { validation: Validation::Secure, ..Standing::from(Provenance::Strict) };
    before.keep_under(&positive("www.example.", &[40]), children, secure, false);
    before.pass(Duration::from_secs(20));
    let pages = before.save(Written { at: Some(1_800_000_000), left: 5 });
    assert_eq!(pages.len(), 1);
    assert_eq!(Written::read(&pages[0]), Ok(Written { at: Some(1_800_000_000), left: 5 }));

    let mut after = Lab::new(1 << 20, DAY);
    after.pass(Duration::from_secs(3));
    let restored = after.cache.restore(&pages[0], after.now, |_, _| true).unwrap();

    assert_eq!(restored, Restored { taken: 3, left_out: 0 });
    for name in ["www.example.", "gone.example."] {
        let Lookup::Fresh { answer, .. } = before.get(name) else { panic!("{name}") };
        let Lookup::Stale { answer: again, held: true, refresh: true } = after.get(name) else {
            panic!("{name}")
        };
        assert_eq!(again.message(), answer.message());
        assert_eq!(again.lifetime(), answer.lifetime());
        assert!(matches!(after.get(name), Lookup::Stale { held: true, refresh: false, .. }));
    }
    let held = after.cache.under(&"www.example".parse().unwrap(), after.now);
    let theirs = held.iter().find(|seen| seen.view == children).unwrap();
    assert_eq!((theirs.standing, theirs.age, theirs.restored), (secure, 20, true));
}

#[test]
fn for_half_a_minute_nobody_waits_for_better_and_then_as_ever() {
    let mut lab = Lab::new(1 << 20, DAY);
    lab.restore(&saved("www.example.", 300, 0));

    lab.pass(Duration::from_secs(28));
    assert!(matches!(lab.get("www.example."), Lookup::Stale { held: true, .. }));
    lab.pass(Duration::from_secs(2));
    assert!(matches!(lab.get("www.example."), Lookup::Stale { held: false, .. }));
    lab.keep(&positive("www.example.", &[300]));
    assert!(matches!(lab.get("www.example."), Lookup::Fresh { .. }));
}

#[test]
fn what_came_since_the_start_stays_but_for_failures() {
    let lab = Lab::new(1 << 20, DAY);
    lab.keep(&positive("www.example.", &[40]));
    let failure = negative("dark.example.", ResponseCode::ServFail, None, false);
    lab.keep(&failure);

    lab.restore(&saved("www.example.", 300, 0));
    lab.restore(&saved("dark.example.", 300, 0));

    assert!(matches!(lab.get("www.example."), Lookup::Fresh { .. }));
    assert!(matches!(lab.get("dark.example."), Lookup::Stale { .. }));
    lab.keep(&failure);
    assert!(matches!(lab.get("dark.example."), Lookup::Stale { .. }));
    lab.cache.flush_all();
    assert_eq!(lab.cache.stats().bytes, 0);
}

#[test]
fn what_other_filter_lists_forbid_does_not_come_back() {
    let lab = Lab::new(1 << 20, DAY);
    let page = saved("game.example.", 300, 0).remove(0);

    let restored = lab.cache.restore(&page, lab.now, |name, _| !name.starts_with(b"\x04game"));

    assert_eq!(restored, Ok(Restored { taken: 0, left_out: 1 }));
    assert!(matches!(lab.get("game.example."), Lookup::Miss));
}

#[test]
fn while_the_time_is_unknown_its_window_runs_from_the_reading() {
    let mut lab = Lab::new(1 << 20, DAY);
    lab.restore(&saved("fresh.example.", 300, 100));
    lab.restore(&saved("stale.example.", 300, 400));
    let stale = |lab: &Lab, name| matches!(lab.get(name), Lookup::Stale { .. });

    lab.pass(DAY.saturating_sub(Duration::from_secs(101)));
    assert!(stale(&lab, "fresh.example.") && stale(&lab, "stale.example."));
    lab.pass(Duration::from_secs(1));
    assert!(stale(&lab, "fresh.example.") && !stale(&lab, "stale.example."));
    lab.pass(Duration::from_secs(99));
    assert!(stale(&lab, "fresh.example."));
    lab.pass(Duration::from_secs(1));
    assert!(!stale(&lab, "fresh.example."));
}

#[test]
fn once_the_time_is_known_what_is_too_old_goes() {
    let mut lab = Lab::new(1 << 20, DAY);
    lab.restore(&saved("short.example.", 100, 50));
    lab.restore(&saved("long.example.", 300, 50));
    lab.pass(Duration::from_secs(5));
    lab.keep(&positive("other.example.", &[10]));
    lab.pass(Duration::from_secs(11));

    // It came 50 s before it was written, a day and four minutes before it is read.
    let offline = DAY + Duration::from_secs(134);
    assert_eq!(lab.cache.set_offline(offline, lab.now), 1);

    assert!(matches!(lab.get("short.example."), Lookup::Miss));
    assert!(matches!(lab.get("other.example."), Lookup::Stale { .. }));
    let held = lab.cache.under(&"long.example".parse().unwrap(), lab.now);
    assert_eq!((held[0].age, held[0].good), (86_600, Good::Stale { since: 86_300, left: 100 }));
    lab.pass(Duration::from_secs(100));
    assert!(matches!(lab.get("long.example."), Lookup::Miss));
}

#[test]
fn a_short_absence_makes_nothing_fresh_and_a_wrong_date_is_no_way_in() {
    let lab = Lab::new(1 << 20, DAY);
    lab.restore(&saved("www.example.", 300, 0));
    assert_eq!(lab.cache.set_offline(Duration::from_secs(1), lab.now), 0);
    assert!(matches!(lab.get("www.example."), Lookup::Stale { .. }));

    lab.keep(&positive("other.example.", &[300]));
    assert_eq!(lab.cache.drop_restored(), 1);
    assert!(matches!(lab.get("www.example."), Lookup::Miss));
    assert!(matches!(lab.get("other.example."), Lookup::Fresh { .. }));
}

#[test]
fn nothing_relaxed_bogus_rewritten_or_failed_is_written() {
    let lab = Lab::new(1 << 20, DAY);
    let strict = Standing::from(Provenance::Strict);
    let bogus = Standing { validation: Validation::Bogus, ..strict };
    let rewritten = Standing { policy: Policy::Rewritten, ..strict };
    let everybody = View::default();
    lab.keep_under(&positive("bogus.example.", &[300]), everybody, bogus, false);
    lab.keep_under(&positive("rewritten.example.", &[300]), everybody, rewritten, false);
    lab.keep(&negative("failed.example.", ResponseCode::ServFail, None, false));
    for (name, chain) in [("passed.example.", 1), ("open.example.", 2)] {
        lab.keep_as(&positive(name, &[300]), Provenance::Relaxed(ChainId(chain)), true);
    }
    assert_eq!(lab.save(Written::default()), [[0; 0]; 0]);

    lab.cache.settle(&BTreeSet::from([ChainId(1)]));

    let pages = lab.save(Written::default());
    let after = Lab::new(1 << 20, DAY);
    after.restore(&pages);
    assert_eq!(after.cache.stats().entries, 1);
    assert!(matches!(after.get("passed.example."), Lookup::Stale { .. }));
}

#[test]
fn with_little_room_what_is_used_most_is_written() {
    let lab = Lab::new(1 << 20, DAY);
    let names: Vec<_> = (0..1_000).map(|n| format!("n{n}.example.")).collect();
    for name in &names {
        lab.keep(&positive(name, &[300]));
    }
    let used: Vec<_> = names.iter().step_by(5).collect();
    for name in &used {
        lab.get(name);
    }

    let mut pages = Vec::new();
    let most = 2 * PAGE_LEN as u64 + 5;
    let saved = lab.cache.save::<Infallible>(Written::default(), most, lab.now, |page| {
        pages.push(page.to_vec());
        Ok(())
    });

    let Ok(saved) = saved;
    assert_eq!((saved.bytes, pages.len()), (2 * PAGE_LEN as u64, 2));
    assert_eq!(lab.cache.measure(u64::MAX, lab.now).entries, 1_000);
    let after = Lab::new(1 << 20, DAY);
    after.restore(&pages);
    assert_eq!(after.cache.stats().entries, saved.entries);
    assert!(used.iter().all(|name| matches!(after.get(name), Lookup::Stale { .. })));
}

#[test]
fn damage_costs_the_pages_it_touches() {
    let lab = Lab::new(1 << 20, DAY);
    for n in 0..600 {
        lab.keep(&positive(&format!("n{n}.example."), &[300]));
    }
    let pages = lab.save(Written { at: Some(1), left: 2 });
    assert!(pages.len() >= 3, "{} pages", pages.len());
    let whole: Vec<_> = pages.iter().map(|page| count(page).unwrap()).collect();
    assert_eq!(whole.iter().sum::<usize>(), 600);

    for length in 0..PAGE_LEN {
        assert_eq!(Written::read(&pages[1][..length]), Err(PageError::Damaged), "{length} octets");
    }
    for at in 0..PAGE_LEN {
        let mut damaged = pages[1].clone();
        damaged[at] ^= 1 << (at % 8);
        let expected = if at == 8 { PageError::Version(0) } else { PageError::Damaged };
        assert_eq!(Written::read(&damaged), Err(expected), "octet {at}");
    }
    let mut file = pages.concat();
    file[PAGE_LEN + 5_000] ^= 4;
    file.truncate(file.len() - 1);
    let counts: Vec<_> = file.chunks(PAGE_LEN).map(count).collect();
    assert_eq!(counts[0], Ok(whole[0]));
    assert_eq!(counts[1], Err(PageError::Damaged));
    assert_eq!(counts.last(), Some(&Err(PageError::Damaged)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever can write the file can write a checksum, too.
    #[test]
    fn no_octets_make_reading_panic(
        junk in prop::collection::vec(any::<u8>(), 0..600),
        places in prop::collection::vec((0..2_000_usize, any::<u8>()), 0..40),
        used in any::<u16>(),
    ) {
        let mut page = saved("www.example.", 300, 7).remove(0);
        let end = usize::from(u16::from_be_bytes([page[10], page[11]]));
        page[end..end + junk.len()].copy_from_slice(&junk);
        page[10..12].copy_from_slice(&used.to_be_bytes());
        for (at, octet) in places {
            page[HEAD_LEN + at] = octet;
        }
        page[CHECKSUM].fill(0);
        let checksum = crc32fast::hash(&page);
        page[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());

        let lab = Lab::new(1 << 20, DAY);
        let restored = lab.cache.restore(&page, lab.now, |_, _| true);
        let _ = seen(&lab.get("www.example."), "www.example.");
        prop_assert!(lab.cache.stats().entries <= restored.map_or(0, |restored| restored.taken));
        lab.cache.flush_all();
        prop_assert_eq!(lab.cache.stats().bytes, 0);
    }

    /// Saved and read back, it is what it was, but for its freshness.
    #[test]
    fn nothing_is_lost_on_the_way(
        names in prop::collection::btree_map(0..500_u16, (1..90_000_u32, any::<bool>()), 1..300),
    ) {
        let lab = Lab::new(4 << 20, DAY);
        for (name, (ttl, positively)) in &names {
            let name = format!("n{name}.example.");
            lab.keep(&if *positively {
                positive(&name, &[*ttl, 90_000])
            } else {
                negative(&name, ResponseCode::NXDomain, Some((*ttl, 90_000)), true)
            });
        }
        let after = Lab::new(4 << 20, DAY);
        after.restore(&lab.save(Written::default()));
        prop_assert_eq!(after.cache.stats().entries, names.len());
        for name in names.keys() {
            let question = key(&format!("n{name}.example."));
            let (there, here) = (&lab.cache, &after.cache);
            let Lookup::Fresh { answer, .. } = there.get(&plain(&question), lab.now) else {
                panic!("not fresh")
            };
            let Lookup::Stale { answer: again, .. } = here.get(&plain(&question), after.now) else {
                panic!("not stale")
            };
            prop_assert_eq!(again.message(), answer.message());
            prop_assert_eq!(again.options(), answer.options());
        }
    }
}

/// The answers in a page.
fn count(page: &[u8]) -> Result<usize, PageError> {
    let lab = Lab::new(1 << 20, DAY);
    lab.cache.restore(page, lab.now, |_, _| true).map(|restored| restored.taken)
}

/// A snapshot with one answer, which was so many seconds old.
fn saved(name: &str, ttl: u32, age: u64) -> Vec<Vec<u8>> {
    let mut lab = Lab::new(1 << 20, DAY);
    lab.keep(&positive(name, &[ttl]));
    lab.pass(Duration::from_secs(age));
    lab.save(Written::default())
}

impl Lab {
    fn save(&self, written: Written) -> Vec<Vec<u8>> {
        let mut pages = Vec::new();
        let saved = self.cache.save::<Infallible>(written, u64::MAX, self.now, |page| {
            pages.push(page.to_vec());
            Ok(())
        });
        let Ok(Saved { bytes, .. }) = saved;
        assert_eq!(bytes, pages.iter().map(|page| page.len() as u64).sum::<u64>());
        pages
    }

    fn restore(&self, pages: &[Vec<u8>]) {
        for page in pages {
            self.cache.restore(page, self.now, |_, _| true).unwrap();
        }
    }
}
