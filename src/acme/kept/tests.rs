//! Power cuts, full disks and damaged files.

use super::*;
use crate::acme::TxtRecord;
use crate::clock::UnixTime;
use crate::tls::pki::{DAY, Pki, TODAY};

#[test]
fn whenever_the_power_goes_each_key_is_beside_its_own_chain() {
    let pki = Pki::new();
    let [first, second] = [0, 1].map(|days| issued(&pki, TODAY + DAY * days));
    for writes in 0..=9 {
        let disk = Disk::with([&first]);
        disk.allow(writes);
        let ended = renew(&Kept::new(disk.clone()), &second);
        let recalled = Kept::new(disk.after_power_cut());

        let certificates = recalled.certificates();

        let chains: Vec<_> = certificates.iter().map(|it| it.held.not_before).collect();
        assert!(chains.contains(&TODAY), "{writes}: {chains:?}");
        assert!(chains.len() == 2 || recalled.order_at("ca").is_some() || writes < 5, "{writes}");
        assert!(certificates.iter().all(|it| it.key.keys_match().is_ok()), "{writes}");
        // What was begun is taken up where it stood, and what has ended is not.
        if let Some(order) = recalled.order_at("ca") {
            assert_eq!(order.key, second.key);
            assert_eq!(order.url.is_some(), writes >= 6, "{writes}");
            renew(&recalled, &second).unwrap_or_else(|error| panic!("{writes}: {error}"));
            assert_eq!(recalled.certificates().len(), 2);
        }
        assert_eq!(ended.is_ok(), writes >= 6, "{writes}");
        assert!(recalled.order_at("ca").is_none() && recalled.alarm().is_none(), "{writes}");
    }
}

#[test]
fn without_space_nothing_is_lost_and_all_is_written_once_there_is_some() {
    let pki = Pki::new();
    let [first, second, third] = [0, 1, 2].map(|days| issued(&pki, TODAY + DAY * days));
    let disk = Disk::with([&first]);
    let kept = Kept::new(disk.clone());
    // There is no space when an order is to be made: it is not made.
    disk.allow(0);
    assert!(kept.keep_order(&pending(&second, None)).is_err());
    let alarm = kept.alarm().unwrap();
    assert!(alarm.text.contains("order-ca: no storage space; it is in memory alone"), "{alarm:?}");

    // Space goes while one is under way.
    disk.allow(2);
    kept.keep_order(&pending(&second, None)).unwrap();
    kept.keep_order(&pending(&second, Some("https://ca.test/order/1"))).unwrap();
    assert!(kept.alarm().is_none());
    let fresh = kept.keep_certificate(&second).unwrap();

    assert_eq!(fresh.held.not_before, TODAY + DAY);
    assert_eq!(kept.certificates().len(), 2);
    assert!(kept.alarm().unwrap().text.contains("certificate-2"));
    let other = Kept::new(disk.after_power_cut());
    assert_eq!(other.certificates().len(), 1);
    assert_eq!(other.order_at("ca").unwrap().url.unwrap(), "https://ca.test/order/1");
    kept.retry();
    assert!(kept.alarm().is_some());

    disk.allow(99);
    kept.retry();

    assert!(kept.alarm().is_none());
    assert!(kept.order_at("ca").is_none());
    let other = Kept::new(disk.after_power_cut());
    assert_eq!((other.certificates().len(), other.order_at("ca")), (2, None));
    other.keep_certificate(&third).unwrap();
    assert_eq!(other.certificates().len(), 3);
}

#[test]
fn the_last_three_are_kept_and_the_same_one_once() {
    let pki = Pki::new();
    let all = [0, 1, 2, 3, 4].map(|days| issued(&pki, TODAY + DAY * days));
    let kept = Kept::new(Disk::with([]));

    for issued in &all {
        kept.keep_certificate(issued).unwrap();
        kept.keep_certificate(issued).unwrap();
    }

    let mut begins: Vec<_> =
        kept.certificates().iter().map(|certificate| certificate.held.not_before).collect();
    begins.sort_unstable();
    assert_eq!(begins, [2, 3, 4].map(|days| TODAY + DAY * days));
}

#[test]
fn a_damaged_value_is_set_aside_and_told_and_costs_no_other() {
    let pki = Pki::new();
    let [first, second] = [0, 1].map(|days| issued(&pki, TODAY + DAY * days));
    let account = account();
    for damage in ["", "[", "7", "null", "\u{0}"] {
        let disk = Disk::with([&first]);
        let kept = Kept::new(disk.clone());
        kept.keep_certificate(&second).unwrap();
        kept.keep_account(&account).unwrap();
        let seed = kept.seed();
        assert_eq!(kept.seed(), seed);
        for name in ["account-ca", "certificate-2", "lifecycle", "order-ca", "seed"] {
            disk.put(name, damage);
        }

        let kept = Kept::new(disk.clone());
        assert_eq!(kept.account_at("ca").as_ref(), Some(&account), "{damage}");
        assert_eq!(kept.certificates().len(), 1);
        assert_eq!((kept.order_at("ca"), kept.saved()), (None, None));
        assert_eq!(kept.seed(), kept.seed());

        let alarm = kept.alarm().unwrap();
        assert_eq!(alarm.severity, Severity::Warning);
        let told = ["account-ca", "from its copy", "certificate-2", "set aside"];
        assert!(told.iter().all(|word| alarm.text.contains(word)), "{alarm:?}");
        // So with the copy.
        disk.put("copy-of-account-ca", damage);
        assert_eq!(Kept::new(disk.clone()).account_at("ca").as_ref(), Some(&account));
        disk.put("account-ca", damage);
        assert_eq!(Kept::new(disk.clone()).account_at("ca").as_ref(), Some(&account));
        // The next process finds it mended, and the next certificate mends the rest.
        assert_eq!(Kept::new(disk.clone()).account_at("ca").as_ref(), Some(&account));
        assert!(Kept::new(disk).alarm().is_none());
        kept.save(&Saved::default());
        kept.keep_order(&pending(&second, None)).unwrap();
        kept.keep_certificate(&second).unwrap();
        kept.keep_account(&account).unwrap();
        assert!(kept.alarm().is_none(), "{:?}", kept.alarm());
    }
}

#[test]
fn an_account_lost_with_its_copy_is_an_error_until_another_has_brought_a_certificate() {
    let disk = Disk::with([]);
    disk.put("account-ca", "rubbish");
    disk.put("copy-of-account-ca", "");
    let kept = Kept::new(disk);

    assert_eq!(kept.account_at("ca"), None);
    assert_eq!(kept.alarm().unwrap().severity, Severity::Error);
    assert_eq!(kept.account_at("ca"), None);

    for url in [None, account().url] {
        kept.keep_account(&Account { url, ..account() }).unwrap();
        let alarm = kept.alarm().unwrap();
        assert_eq!(alarm.severity, Severity::Error);
        assert!(alarm.text.contains("change the records in DNS"), "{alarm:?}");
    }
    assert_eq!((kept.account_at("ca"), kept.account_at("CA")), (Some(account()), None));
    kept.keep_certificate(&issued(&Pki::new(), TODAY)).unwrap();
    assert_eq!(kept.alarm(), None);
}

#[test]
fn an_order_that_was_begun_is_begun_with_the_same_key_and_account() {
    let disk = Disk::with([]);
    let ca = Ca {
        name: "ca".to_owned(),
        directory: "https://ca.test/directory".to_owned(),
        roots: crate::tls::Roots::builtin(),
        binding: None,
    };
    let names = ["dns.test".to_owned()];
    let begin = |names: &[String]| Kept::new(disk.clone()).begin(&ca, names).unwrap();
    let first = begin(&names);
    assert!(first.unkept.is_none());
    assert_eq!(first.account.directory, ca.directory);

    let again = begin(&names);
    assert_eq!((&again.account, &again.pending), (&first.account, &first.pending));

    // For other names another key, and what was published is not forgotten.
    let left = TxtRecord { name: "_acme-challenge.dns.test.".into(), value: "v".into() };
    let published = Pending { published: vec![left.clone()], ..again.pending };
    Kept::new(disk.clone()).keep_order(&published).unwrap();
    let other = begin(&["other.test".to_owned()]);
    assert_ne!(other.pending.key, first.pending.key);
    assert_eq!(other.pending.published, [left]);
    assert_eq!(other.account, first.account);

    // The CA has moved: that is another account, and the first can be found again.
    let moved = Ca { directory: "https://other.test/directory".to_owned(), ..ca.clone() };
    let kept = Kept::new(disk.clone());
    assert_ne!(kept.begin(&moved, &names).unwrap().account.key, first.account.key);
    assert_eq!(disk.put_aside(), 2);

    // Nothing is made of a disk that takes nothing but what is said, each time.
    disk.allow(0);
    let first = kept.begin(&ca, &names).unwrap();
    let again = kept.begin(&ca, &names).unwrap();
    assert!(first.unkept.is_some() && again.unkept.is_some());
    assert_eq!((first.account, first.pending), (again.account, again.pending));
    disk.allow(99);
    assert!(kept.begin(&ca, &names).unwrap().unkept.is_none());
    assert_eq!(kept.alarm(), None);
}

#[test]
fn a_write_that_succeeds_is_followed_by_those_that_did_not() {
    let disk = Disk::with([]);
    let kept = Kept::new(disk.clone());
    disk.allow(0);
    kept.keep_account(&account()).unwrap_err();
    disk.allow(99);

    kept.save(&Saved::default());

    assert_eq!(kept.alarm(), None);
    assert_eq!(Kept::new(disk.after_power_cut()).account_at("ca"), Some(account()));
}

#[test]
fn a_key_beside_another_s_chain_is_refused_and_never_shown() {
    let pki = Pki::new();
    let [mut one, other] = [0, 1].map(|days| issued(&pki, TODAY + DAY * days));
    one.key = other.key;

    let refused = Kept::new(Disk::with([])).keep_certificate(&one).unwrap_err();

    assert_eq!(refused, Misfit::Mismatch);
    assert!(!format!("{one:?}").contains("PRIVATE"), "{one:?}");
    let disk = Disk::with([]);
    disk.put("certificate-1", std::str::from_utf8(&json(&one)).unwrap());
    assert!(Kept::new(disk).certificates().is_empty());
}

/// All that is written for a renewal; ends where something cannot be.
fn renew(kept: &Kept, issued: &Issued) -> io::Result<()> {
    if kept.account_at("ca").is_none_or(|account| account.url.is_none()) {
        kept.keep_account(&Account { url: None, ..account() })?;
        kept.keep_account(&account())?;
    }
    if kept.order_at("ca").is_none_or(|order| order.url.is_none()) {
        kept.keep_order(&pending(issued, None))?;
        kept.keep_order(&pending(issued, Some("https://ca.test/order/1")))?;
    }
    kept.keep_certificate(issued).map_err(io::Error::other)?;
    Ok(())
}

fn issued(pki: &Pki, not_before: UnixTime) -> Issued {
    let leaf = pki.leaf("dns.test", not_before, not_before + DAY * 90);
    let (chain, key) = (leaf.certificate_pem(), KeyPem(leaf.key_pem()));
    Issued { ca: "ca".to_owned(), got: not_before.secs(), chain, key }
}

fn pending(issued: &Issued, url: Option<&str>) -> Pending {
    Pending {
        ca: issued.ca.clone(),
        names: vec!["dns.test".to_owned()],
        key: issued.key.clone(),
        url: url.map(str::to_owned),
        published: Vec::new(),
    }
}

fn account() -> Account {
    Account {
        ca: "ca".to_owned(),
        directory: "https://ca.test/directory".to_owned(),
        url: Some("https://ca.test/account/7".to_owned()),
        key: KeyPem("a key".to_owned()),
    }
}

/// A disk that takes so many writes; the values on it, those in memory alone, and how many were
/// set aside.
#[derive(Debug, Default)]
struct Disk(Mutex<(usize, Values, Values, usize)>);

type Values = BTreeMap<String, Vec<u8>>;

impl Disk {
    fn with<'i>(certificates: impl IntoIterator<Item = &'i Issued>) -> Arc<Self> {
        let disk = Arc::new(Self::default());
        disk.allow(99);
        for issued in certificates {
            Kept::new(disk.clone()).keep_certificate(issued).unwrap();
        }
        disk
    }

    fn allow(&self, writes: usize) {
        self.0.lock().unwrap().0 = writes;
    }

    fn put(&self, name: &str, value: &str) {
        self.0.lock().unwrap().1.insert(name.to_owned(), value.into());
    }

    fn put_aside(&self) -> usize {
        self.0.lock().unwrap().3
    }

    fn after_power_cut(&self) -> Arc<Self> {
        let values = self.0.lock().unwrap().1.clone();
        Arc::new(Self(Mutex::new((99, values, BTreeMap::new(), 0))))
    }
}

impl Shelf for Disk {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let (_, disk, memory, _) = &*self.0.lock().unwrap();
        Ok(memory.get(name).or_else(|| disk.get(name)).cloned())
    }

    fn write(&self, name: &str, value: &[u8]) -> io::Result<()> {
        let (left, disk, memory, _) = &mut *self.0.lock().unwrap();
        let Some(fewer) = left.checked_sub(1) else {
            memory.insert(name.to_owned(), value.to_vec());
            return Err(io::ErrorKind::StorageFull.into());
        };
        *left = fewer;
        memory.remove(name);
        disk.insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    fn set_aside(&self, name: &str) -> io::Result<String> {
        let (_, disk, memory, aside) = &mut *self.0.lock().unwrap();
        *aside += 1;
        memory.remove(name);
        disk.remove(name).map(|_| "set aside".to_owned()).ok_or(io::ErrorKind::NotFound.into())
    }
}
