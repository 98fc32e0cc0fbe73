//! The form in which the cache outlives a power cut (pure).
//!
//! ```text
//! page    "fl-cache" version(1) 0(1) used(2) checksum(4) written(8) left(8), entries, zeros
//! entry   flags(1) validation(1) view(2) message length(2) options length(2) age(4)
//!         message, options
//! ```
//!
//! Numbers are big-endian. Every page stands for itself: it has a fixed length, a CRC-32 over
//! the whole of it, and the moment of writing. So damage costs the pages it touches.
//!
//! What is read back is stale at once, and gives way to whatever came in since the start.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::entry::{Entry, Terms, seconds};
use super::shard::Shard;
use super::standing::{Provenance, Standing, Validation};
use super::{Answer, Cache, Key, PAGE, View, lock, low, millis};

/// The length of a page, in octets. An answer that does not fit into one is not written.
pub const PAGE_LEN: usize = 16 * 1024;

const MAGIC: &[u8; 8] = b"fl-cache";
const VERSION: u8 = 1;
const HEAD_LEN: usize = 32;
const ENTRY_LEN: usize = 12;
/// Where the checksum stands.
const CHECKSUM: std::ops::Range<usize> = 12..16;

/// Bits of an entry's flags; the lower two are those of the key.
const KEY: u8 = 3;
const USED: u8 = 4;

/// What every page says of the snapshot it is part of.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Written {
    /// UTC at the moment of writing, in seconds since 1970; `None`: it was not known for certain.
    pub at: Option<i64>,
    /// How many octets more the disk might have been given then.
    pub left: u64,
}

/// What went into a snapshot.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Saved {
    /// Answers.
    pub entries: usize,
    /// Octets.
    pub bytes: u64,
}

/// What came out of a page.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Restored {
    /// Answers that are in the cache again.
    pub taken: usize,
    /// Answers that were there already, do not pass, are too old, or cannot be read.
    pub left_out: usize,
}

/// Why a page cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// It is not as it was written.
    #[error("it is damaged")]
    Damaged,
    /// Another version of the program wrote it.
    #[error("it has format {0}; this program reads format {VERSION}")]
    Version(u8),
}

impl Written {
    /// Reads what a page says of its snapshot.
    ///
    /// # Errors
    ///
    /// If it is damaged, or of another version.
    pub fn read(page: &[u8]) -> Result<Self, PageError> {
        open(page).map(|(written, _)| written)
    }
}

impl Cache {
    /// Hands out everything that may outlive its time to live, page by page, what is used most
    /// first, and no more than `most` octets. Holds one page, and a lock only for a copy of some
    /// hundred pointers.
    ///
    /// # Errors
    ///
    /// The first that `put` gives.
    pub fn save<E>(
        &self,
        written: Written,
        most: u64,
        now: Instant,
        mut put: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Saved, E> {
        let terms = self.terms(now);
        let mut saved = Saved::default();
        let mut page = Page::new(written);
        let mut answers = Vec::with_capacity(PAGE);
        // Ranks change meanwhile: an answer may be written twice, or not at all.
        for rank in (0..=Shard::HIGHEST).rev() {
            for shard in &self.shards {
                let mut from = 0;
                while lock(shard).ranked(from, PAGE, rank, &mut answers) {
                    from += PAGE;
                    for answer in answers.drain(..).filter(|answer| answer.can_be_saved(&terms)) {
                        if !page.has_room_for(&answer) {
                            put(page.seal())?;
                            saved.bytes += PAGE_LEN as u64;
                            page = Page::new(written);
                        }
                        if saved.bytes + PAGE_LEN as u64 > most {
                            return Ok(saved);
                        }
                        saved.entries += usize::from(page.take(&answer, &terms, rank > 0));
                    }
                }
            }
        }
        if page.octets.len() > HEAD_LEN {
            put(page.seal())?;
            saved.bytes += PAGE_LEN as u64;
        }
        Ok(saved)
    }

    /// What [`Self::save`] would hand out.
    #[must_use]
    pub fn measure(&self, most: u64, now: Instant) -> Saved {
        let Ok(saved) = self.save::<Infallible>(Written::default(), most, now, |_| Ok(()));
        saved
    }

    /// Takes back the answers of a page. They are stale at once, they are as old as they were at
    /// the moment of writing (see [`Self::set_offline`]), and replace nothing but failures. Those
    /// that do not pass the filter lists of this day are left out: `passes` is asked as by
    /// [`Self::rejudge`].
    ///
    /// # Errors
    ///
    /// If the page is damaged, or of another version.
    pub fn restore(
        &self,
        page: &[u8],
        now: Instant,
        mut passes: impl FnMut(&[u8], View) -> bool,
    ) -> Result<Restored, PageError> {
        let (_, entries) = open(page)?;
        let loaded = *self.loaded.get_or_init(|| self.moment(now));
        let terms = self.terms(now);
        let mut restored = Restored::default();
        for entry in Entries(entries) {
            let taken = entry.read().is_some_and(|(answer, standing, view)| {
                let key = Key {
                    question: answer.question(),
                    dnssec_ok: entry.flags & 1 != 0,
                    checking_disabled: entry.flags & 2 != 0,
                    view,
                };
                let hash = self.hash(&key);
                let stored = loaded.saturating_sub(u64::from(entry.age) * 1000);
                let notes = Entry::new(low(hash), &key, standing, 0, stored);
                let used = entry.flags & USED != 0;
                let kept = answer.with(notes.loaded(loaded, used));
                let mut shard = self.shard(hash);
                // Asked under the lock: who judges by other lists puts them in force, then locks.
                kept.is_stale(&terms)
                    && passes(answer.name(), view)
                    && shard.restore(&key, &kept, used)
            });
            restored.taken += usize::from(taken);
            restored.left_out += usize::from(!taken);
        }
        Ok(restored)
    }

    /// Says for how long the machine was off between the writing of the snapshot and its reading:
    /// by so much its answers are older. Drops those that are too old, and returns how many.
    pub fn set_offline(&self, offline: Duration, now: Instant) -> usize {
        self.offline.store(millis(offline), Ordering::Relaxed);
        let terms = self.terms(now);
        self.drop_where(|answer| answer.entry().is_loaded() && !answer.is_stale(&terms))
    }

    /// Drops what came from the snapshot and has not been refreshed since; returns how many.
    pub fn drop_restored(&self) -> usize {
        self.drop_where(|answer| answer.entry().is_loaded())
    }
}

impl Answer {
    fn can_be_saved(&self, terms: &Terms) -> bool {
        let lasts = self.entry().standing(&[]).lasts(self.rcode());
        let lives = terms.now < self.expiry(terms) || self.is_stale(terms);
        lasts && lives && HEAD_LEN + self.saved_len() <= PAGE_LEN
    }

    fn saved_len(&self) -> usize {
        ENTRY_LEN + self.message().len() + self.options().len()
    }
}

/// A page in the making.
struct Page {
    octets: Vec<u8>,
    written: Written,
}

impl Page {
    fn new(written: Written) -> Self {
        let mut octets = Vec::with_capacity(PAGE_LEN);
        octets.resize(HEAD_LEN, 0);
        Self { octets, written }
    }

    fn has_room_for(&self, answer: &Answer) -> bool {
        self.octets.len() + answer.saved_len() <= PAGE_LEN
    }

    /// Writes an answer; false if it cannot be.
    fn take(&mut self, answer: &Answer, terms: &Terms, used: bool) -> bool {
        let (message, options) = (answer.message(), answer.options());
        let lengths = (u16::try_from(message.len()), u16::try_from(options.len()));
        let (Ok(message_len), Ok(options_len)) = lengths else { return false };
        let entry = answer.entry();
        let age = seconds(terms.now.saturating_sub(entry.came(terms)));
        self.octets.push(entry.key_flags() | if used { USED } else { 0 });
        self.octets.push(code(entry.validation()));
        self.octets.extend(entry.view().0.to_be_bytes());
        self.octets.extend(message_len.to_be_bytes());
        self.octets.extend(options_len.to_be_bytes());
        self.octets.extend(age.to_be_bytes());
        self.octets.extend_from_slice(message);
        self.octets.extend_from_slice(options);
        true
    }

    /// The finished page.
    fn seal(&mut self) -> &[u8] {
        let used = u16::try_from(self.octets.len()).unwrap_or(0);
        self.octets.resize(PAGE_LEN, 0);
        let Written { at, left } = self.written;
        let [u0, u1] = used.to_be_bytes();
        let head = [
            &MAGIC[..],
            &[VERSION, 0, u0, u1],
            &[0; 4],
            &at.unwrap_or(i64::MIN).to_be_bytes(),
            &left.to_be_bytes(),
        ];
        self.octets[..HEAD_LEN].copy_from_slice(&head.concat());
        let checksum = crc32fast::hash(&self.octets);
        self.octets[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        &self.octets
    }
}

/// What a page says of its snapshot, and its entries.
fn open(page: &[u8]) -> Result<(Written, &[u8]), PageError> {
    let (head, body) = page.split_first_chunk::<HEAD_LEN>().ok_or(PageError::Damaged)?;
    if !head.starts_with(MAGIC) || page.len() != PAGE_LEN {
        return Err(PageError::Damaged);
    }
    if head[8] != VERSION {
        return Err(PageError::Version(head[8]));
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..CHECKSUM.start]);
    hasher.update(&[0; 4]);
    hasher.update(&page[CHECKSUM.end..]);
    if head[CHECKSUM] != hasher.finalize().to_be_bytes() {
        return Err(PageError::Damaged);
    }
    let used = usize::from(u16::from_be_bytes([head[10], head[11]]));
    let entries = used.checked_sub(HEAD_LEN).and_then(|len| body.get(..len));
    let number = |at: usize| {
        let octets = head.get(at..).and_then(<[u8]>::first_chunk::<8>);
        octets.map_or(0, |octets| u64::from_be_bytes(*octets))
    };
    let at = Some(number(16).cast_signed()).filter(|at| *at != i64::MIN);
    let written = Written { at, left: number(24) };
    entries.map(|entries| (written, entries)).ok_or(PageError::Damaged)
}

/// An entry as it stands in a page.
struct Raw<'p> {
    flags: u8,
    validation: u8,
    view: View,
    age: u32,
    message: &'p [u8],
    options: &'p [u8],
}

impl Raw<'_> {
    /// The answer, if it is one.
    fn read(&self) -> Option<(Answer, Standing, View)> {
        let validation =
            [Validation::Bogus, Validation::Insecure, Validation::Secure, Validation::Unchecked]
                .into_iter()
                .find(|validation| code(*validation) == self.validation)?;
        let standing = Standing { validation, ..Standing::from(Provenance::Strict) };
        let answer = Answer::again(self.message, self.options).ok()?;
        (answer.lifetime() > 0).then_some((answer, standing, self.view))
    }
}

/// Walks the entries of a page; ends where they do not add up.
struct Entries<'p>(&'p [u8]);

impl<'p> Iterator for Entries<'p> {
    type Item = Raw<'p>;

    fn next(&mut self) -> Option<Raw<'p>> {
        let (&[flags, validation, v0, v1, m0, m1, o0, o1, age @ ..], rest) =
            self.0.split_first_chunk::<ENTRY_LEN>()?;
        let (message, rest) = rest.split_at_checked(u16::from_be_bytes([m0, m1]).into())?;
        let (options, rest) = rest.split_at_checked(u16::from_be_bytes([o0, o1]).into())?;
        self.0 = rest;
        Some(Raw {
            flags: flags & (KEY | USED),
            validation,
            view: View(u16::from_be_bytes([v0, v1])),
            age: u32::from_be_bytes(age),
            message,
            options,
        })
    }
}

/// How a page writes what validation found.
const fn code(validation: Validation) -> u8 {
    match validation {
        Validation::Bogus => 0,
        Validation::Insecure => 1,
        Validation::Secure => 2,
        Validation::Unchecked => 3,
    }
}

#[cfg(test)]
mod tests;
