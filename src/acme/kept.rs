//! What is got of certificate authorities, kept so that no power cut, full disk or damaged file
//! loses more than it must.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use rustls::sign::CertifiedKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::certificate::KeyPem;
use super::order::{Journal, Pending};
use super::{Account, Ca};
use crate::cert::{Alarm, Held, Saved};
use crate::clock::UnixTime;
use crate::health::Severity;
use crate::node::ports::Shelf;
use crate::tls::{Misfit, certified, held, provider};

/// A certificate as a CA gave it. Chain and key are one value: no power cut parts them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Issued {
    /// The CA's name in the configuration.
    pub ca: String,
    /// When it was got, in seconds since 1970.
    pub got: i64,
    /// The chain as PEM, leaf first.
    pub chain: String,
    /// The leaf's key.
    pub key: KeyPem,
}

/// A certificate that can be served.
#[derive(Debug)]
pub struct Certificate {
    /// What renewals are planned by.
    pub held: Held,
    /// Chain and key.
    pub key: Arc<CertifiedKey>,
}

/// Accounts, the order under way, the last three certificates, and what `cert` keeps.
///
/// Nothing that is damaged ends anything: it is set aside, [`Self::alarm`] tells, and what can be
/// made again is. What cannot be written is at hand in memory until [`Self::retry`] has written it.
/// Reads and writes files: call it off the paths that answer.
///
/// Whoever makes an order begins it with [`Self::begin`], has it written down as a [`Journal`], and
/// ends it with [`Self::keep_certificate`].
#[derive(Debug)]
pub struct Kept {
    shelf: Arc<dyn Shelf>,
    /// What is wrong with which value. Held while anything is read or written.
    troubles: Mutex<BTreeMap<String, Trouble>>,
    alarm: ArcSwapOption<Alarm>,
}

/// What is wrong with a value.
#[derive(Debug)]
enum Trouble {
    /// It could not be read, and was set aside if it is damaged.
    Unread(String),
    /// It could not be read, and was written again from its copy.
    Mended(String),
    /// It could not be read, nor could its copy, and another took its place.
    Replaced(String),
    /// It is in memory alone.
    Unwritten(String),
}

/// The condition that [`Kept::alarm`] gives.
pub const CONDITION: &str = "certificate-store";

const SAVED: &str = "lifecycle";
const SEED: &str = "seed";
const CERTIFICATES: [&str; 3] = ["certificate-1", "certificate-2", "certificate-3"];

impl Kept {
    /// What is kept on `shelf`.
    #[must_use]
    pub const fn new(shelf: Arc<dyn Shelf>) -> Self {
        Self { shelf, troubles: Mutex::new(BTreeMap::new()), alarm: ArcSwapOption::const_empty() }
    }

    /// The account at the CA of this name, or else the copy of it.
    #[must_use]
    pub fn account_at(&self, ca: &str) -> Option<Account> {
        self.desk().account(ca)
    }

    /// Keeps an account, and a copy of it.
    ///
    /// # Errors
    ///
    /// If it is not on disk twice.
    pub fn keep_account(&self, account: &Account) -> io::Result<()> {
        self.desk().keep_account(account)
    }

    /// The order at the CA of this name that was begun and has not ended.
    #[must_use]
    pub fn order_at(&self, ca: &str) -> Option<Pending> {
        let mut desk = self.desk();
        let order = desk.order(ca)?;
        (!desk.ended(&order)).then_some(order)
    }

    /// Keeps an order that is about to be placed, or how far it has come.
    ///
    /// # Errors
    ///
    /// If it is not on disk.
    pub fn keep_order(&self, order: &Pending) -> io::Result<()> {
        self.desk().keep_order(order)
    }

    /// Ends the order at the CA of this name, of whose certificate no use is made.
    pub fn end_order(&self, ca: &str) {
        self.desk().end_order(ca);
    }

    /// What an order at `ca` for `names` is made with: the account and the key, those that are kept
    /// if there are any. An order that has been placed is to be gone on with.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn begin(&self, ca: &Ca, names: &[String]) -> Result<Begun, rcgen::Error> {
        let mut desk = self.desk();
        let account = match desk.account(&ca.name) {
            Some(account) if account.directory == ca.directory => account,
            other => {
                if other.is_some() {
                    desk.put_away(&ca.name);
                }
                Account::fresh(ca)?
            }
        };
        let pending = match desk.order(&ca.name) {
            Some(pending) if pending.names == names && !desk.ended(&pending) => pending,
            other => {
                let published = other.map_or_else(Vec::new, |left| left.published);
                Pending { published, ..Pending::fresh(&ca.name, names)? }
            }
        };
        // What an earlier try left in memory alone is not on disk for having been read.
        let written = desk.keep_account(&account).and(desk.keep_order(&pending));
        Ok(Begun { account, pending, unkept: written.err() })
    }

    /// Keeps a certificate in the place of the oldest of three, and ends its order. It can be
    /// served even if there is no space for it: the order is on disk then, and the next process
    /// gets it again.
    ///
    /// # Errors
    ///
    /// If chain and key are no pair.
    pub fn keep_certificate(&self, issued: &Issued) -> Result<Certificate, Misfit> {
        let certificate = issued.check()?;
        let mut desk = self.desk();
        let slots = desk.slots();
        let kept = |place: usize| slots[place].as_ref().map(|(_, kept)| &kept.held);
        let same =
            |place: &usize| kept(*place).is_some_and(|it| it.serial == certificate.held.serial);
        let age = |place: &usize| kept(*place).map(|held| (held.not_before, held.got));
        let places = 0..CERTIFICATES.len();
        let place =
            places.clone().find(same).or_else(|| places.min_by_key(age)).unwrap_or_default();
        if desk.write(CERTIFICATES[place], issued).is_ok() {
            // What was damaged has been made up for.
            desk.troubles.retain(|_, trouble| matches!(trouble, Trouble::Unwritten(_)));
            desk.end_order(&issued.ca);
        }
        Ok(certificate)
    }

    /// The last certificates, at most three.
    #[must_use]
    pub fn certificates(&self) -> Vec<Certificate> {
        self.desk().slots().into_iter().flatten().map(|(_, certificate)| certificate).collect()
    }

    /// What [`crate::cert::Lifecycle::saved`] gave.
    #[must_use]
    pub fn saved(&self) -> Option<Saved> {
        self.desk().read(SAVED)
    }

    /// Keeps it.
    pub fn save(&self, saved: &Saved) {
        // What cannot be written is told as such.
        let _ = self.desk().write(SAVED, saved);
    }

    /// What [`crate::cert::Policy::seed`] is to be: drawn at the first start, and the same ever after.
    #[must_use]
    pub fn seed(&self) -> u64 {
        let mut desk = self.desk();
        if let Some(seed) = desk.read(SEED) {
            return seed;
        }
        let mut octets = [0; 8];
        // Without randomness all machines have the same jitter, which is no reason not to go on.
        let _ = provider().secure_random.fill(&mut octets);
        let seed = u64::from_ne_bytes(octets);
        let _ = desk.write(SEED, &seed);
        seed
    }

    /// Writes what could not be written before, as any other write that succeeds does. Call it now
    /// and then while there is an [`Self::alarm`].
    pub fn retry(&self) {
        self.desk().catch_up();
    }

    /// What a person should know of it. Waits for no disk.
    #[must_use]
    pub fn alarm(&self) -> Option<Alarm> {
        self.alarm.load().as_deref().cloned()
    }

    fn desk(&self) -> Desk<'_> {
        // A map is whole between any two of its operations.
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        Desk { shelf: &*self.shelf, troubles, alarm: &self.alarm }
    }
}

impl Issued {
    fn check(&self) -> Result<Certificate, Misfit> {
        let key = certified(&self.chain, &self.key.0)?;
        let held = held(&key.cert, UnixTime::from_secs(self.got), Some(self.ca.clone()));
        let held = held.ok_or_else(|| Misfit::Chain("no certificate in it".to_owned()))?;
        Ok(Certificate { held, key: Arc::new(key) })
    }
}

impl Journal for Kept {
    // What cannot be written is told by the alarm; the key has been kept before.
    fn account(&self, account: &Account) {
        let _ = self.keep_account(account);
    }

    fn pending(&self, pending: &Pending) {
        let _ = self.keep_order(pending);
    }
}

/// What an order is made with.
#[derive(Debug)]
pub struct Begun {
    /// By which account.
    pub account: Account,
    /// For which names, and with which key.
    pub pending: Pending,
    /// Why they are in memory alone: a power cut would lose what comes of them.
    pub unkept: Option<io::Error>,
}

/// The shelf, for one at a time.
struct Desk<'k> {
    shelf: &'k dyn Shelf,
    troubles: MutexGuard<'k, BTreeMap<String, Trouble>>,
    alarm: &'k ArcSwapOption<Alarm>,
}

impl Drop for Desk<'_> {
    fn drop(&mut self) {
        self.alarm.store(alarm(&self.troubles).map(Arc::new));
    }
}

impl Desk<'_> {
    /// The account at `ca`, or else the copy of it.
    fn account(&mut self, ca: &str) -> Option<Account> {
        let (name, copy) = account_names(ca);
        let (first, second) = (self.read::<Account>(&name), self.read::<Account>(&copy));
        let mended = if first.is_some() { &copy } else { &name };
        let account = first.clone().or_else(|| second.clone())?;
        if first != second {
            self.mend(mended, &account);
        }
        Some(account)
    }

    /// Keeps an account, and a copy of it.
    fn keep_account(&mut self, account: &Account) -> io::Result<()> {
        let (name, copy) = account_names(&account.ca);
        let told = [&name, &copy].iter().any(|name| self.troubles.contains_key(*name));
        // The same again would only wear the disk down.
        if !told && self.account(&account.ca).as_ref() == Some(account) {
            return Ok(());
        }
        let first = self.write(&name, account);
        first.and(self.write(&copy, account))
    }

    /// Makes room for an account at another directory of the same name.
    fn put_away(&mut self, ca: &str) {
        let (name, copy) = account_names(ca);
        match self.shelf.set_aside(&name) {
            Ok(place) => tracing::info!(ca, place, "its directory is another; the account is kept"),
            Err(error) => {
                tracing::warn!(ca, %error, "the account at another directory is replaced");
            }
        }
        let _ = self.shelf.set_aside(&copy);
    }

    /// The order at `ca` that was begun last, and what it may have published.
    fn order(&mut self, ca: &str) -> Option<Pending> {
        self.read::<Option<_>>(&order_name(ca))?
    }

    /// Nothing more comes of the order at `ca`, which may have published what is still to be taken back.
    fn end_order(&mut self, ca: &str) {
        let left = match self.order(ca) {
            None => return,
            Some(order) if order.published.is_empty() => None,
            Some(order) => Some(Pending { url: None, ..order }),
        };
        let _ = self.write(&order_name(ca), &left);
    }

    /// Whether the certificate of `order` is in place: the power may go before the end is noted.
    fn ended(&mut self, order: &Pending) -> bool {
        self.slots().into_iter().flatten().any(|(issued, _)| issued.key == order.key)
    }

    fn keep_order(&mut self, order: &Pending) -> io::Result<()> {
        let name = order_name(&order.ca);
        // The same again would only wear the disk down.
        if self.order(&order.ca).as_ref() == Some(order) && !self.troubles.contains_key(&name) {
            return Ok(());
        }
        self.write(&name, &Some(order))
    }

    fn read<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        match self.shelf.read(name) {
            Ok(value) => match serde_json::from_slice(&value?) {
                Ok(value) => Some(value),
                Err(error) => self.unfit(name, &error.to_string()),
            },
            Err(error) => {
                self.troubles.insert(name.to_owned(), Trouble::Unread(error.to_string()));
                None
            }
        }
    }

    fn write<T: Serialize>(&mut self, name: &str, value: &T) -> io::Result<()> {
        let written = self.shelf.write(name, &json(value));
        self.wrote(name, &written);
        if written.is_ok() {
            self.catch_up();
        }
        written
    }

    /// Writes what is in memory alone.
    fn catch_up(&mut self) {
        let unwritten = |(name, trouble): (&String, &Trouble)| {
            matches!(trouble, Trouble::Unwritten(_)).then(|| name.clone())
        };
        let names: Vec<_> = self.troubles.iter().filter_map(unwritten).collect();
        for name in names {
            let written = match self.shelf.read(&name) {
                Ok(Some(value)) => self.shelf.write(&name, &value),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            self.wrote(&name, &written);
        }
    }

    fn wrote(&mut self, name: &str, written: &io::Result<()>) {
        let before = self.troubles.remove(name);
        let trouble = match (written, before) {
            (Err(error), _) => Some(Trouble::Unwritten(error.to_string())),
            (Ok(()), Some(Trouble::Unread(why))) if name.starts_with(ACCOUNT) => {
                Some(Trouble::Replaced(why))
            }
            (Ok(()), Some(told @ (Trouble::Mended(_) | Trouble::Replaced(_)))) => Some(told),
            (Ok(()), Some(Trouble::Unread(_) | Trouble::Unwritten(_)) | None) => None,
        };
        if let Some(trouble) = trouble {
            self.troubles.insert(name.to_owned(), trouble);
        }
    }

    fn unfit<T>(&mut self, name: &str, why: &str) -> Option<T> {
        let aside = match self.shelf.set_aside(name) {
            Ok(aside) => format!("it is kept as {aside}"),
            Err(error) => error.to_string(),
        };
        let why = format!("it cannot be used: {why}; {aside}");
        self.troubles.insert(name.to_owned(), Trouble::Unread(why));
        None
    }

    /// Writes a value that could not be read from its copy.
    fn mend<T: Serialize>(&mut self, name: &str, value: &T) {
        let trouble = self.troubles.remove(name);
        if self.write(name, value).is_ok()
            && let Some(Trouble::Unread(why)) = trouble
        {
            self.troubles.insert(name.to_owned(), Trouble::Mended(why));
        }
    }

    fn slots(&mut self) -> [Option<(Issued, Certificate)>; 3] {
        CERTIFICATES.map(|name| {
            let issued: Issued = self.read(name)?;
            match issued.check() {
                Ok(certificate) => Some((issued, certificate)),
                Err(misfit) => self.unfit(name, &misfit.to_string()),
            }
        })
    }
}

/// What a person should know of `troubles`.
fn alarm(troubles: &BTreeMap<String, Trouble>) -> Option<Alarm> {
    let lost = |(name, trouble): (&String, &Trouble)| {
        name.starts_with(ACCOUNT) && matches!(trouble, Trouble::Unread(_) | Trouble::Replaced(_))
    };
    let severity = if troubles.iter().any(lost) { Severity::Error } else { Severity::Warning };
    let words = troubles.iter().map(|(name, trouble)| match trouble {
        Trouble::Mended(why) => format!("{name}: {why}; it is written again from its copy"),
        Trouble::Replaced(why) => format!(
            "{name}: {why}; another is in its place: change the records in DNS that name the old one"
        ),
        Trouble::Unread(why) => format!("{name}: {why}"),
        Trouble::Unwritten(why) => {
            format!("{name}: {why}; it is in memory alone, and tried again; make space")
        }
    });
    let words: Vec<_> = words.collect();
    (!words.is_empty()).then(|| Alarm {
        name: CONDITION,
        severity,
        text: format!(
            "what is kept of certificate authorities is not as it should be: {}",
            words.join("; ")
        ),
    })
}

const ACCOUNT: &str = "account-";

/// Where the account at `ca` is kept, and its copy. Different CAs have different places.
fn account_names(ca: &str) -> (String, String) {
    let ca = file_name(ca);
    (format!("{ACCOUNT}{ca}"), format!("copy-of-{ACCOUNT}{ca}"))
}

fn order_name(ca: &str) -> String {
    format!("order-{}", file_name(ca))
}

fn file_name(ca: &str) -> String {
    let plain = |octet: u8| match octet {
        b'a'..=b'z' | b'0'..=b'9' | b'-' => char::from(octet).to_string(),
        _ => format!("_{octet:02x}"),
    };
    ca.bytes().map(plain).collect()
}

/// Strings, numbers and lists of them always have a JSON form.
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
