//! A thread's own part of the cache: hits in it touch nothing that another core writes.

use std::fmt;

use super::{Answer, Key};

/// Places; a power of two.
const PLACES: usize = 1024;

/// Longer answers are not kept here: they are few, and cost more to copy than to look up.
const LONGEST: usize = 1536;

/// The answers that one thread gave last, each at the place of its hash.
///
/// They are shared with the cache, which marks those that leave it: they are not given out again.
pub struct Near {
    places: Box<[Option<Answer>]>,
    /// One that is too long to stay.
    guest: Option<Answer>,
}

impl Near {
    /// Empty, for one thread.
    #[must_use]
    pub fn new() -> Self {
        Self { places: vec![None; PLACES].into(), guest: None }
    }

    /// The place for `key`, with the answer that is in the cache for it, if one is; else with
    /// what `find` finds there.
    pub(super) fn place(
        &mut self,
        hash: u32,
        key: &Key<'_>,
        find: impl FnOnce() -> Option<Answer>,
    ) -> Option<&Answer> {
        self.guest = None;
        let place = &mut self.places[hash as usize % PLACES];
        if let Some(known) = place
            && known.is_for(hash, key)
            && !known.entry().is_gone()
        {
            return place.as_ref();
        }
        let Some(found) = find() else {
            // What nobody is given any longer shall not take memory.
            place.take_if(|known| known.entry().is_gone());
            return None;
        };
        let place = if found.size() > LONGEST { &mut self.guest } else { place };
        Some(place.insert(found))
    }
}

impl Default for Near {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.places.iter().flatten().count();
        f.debug_struct("Near").field("held", &held).finish_non_exhaustive()
    }
}
