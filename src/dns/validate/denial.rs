//! Proofs that something does not exist: NSEC (RFC 4035 section 5.4) and NSEC3 (RFC 5155 section 8).
//!
//! What is given here has valid signatures of one zone.

use std::borrow::Cow;

use data_encoding::BASE32_DNSSEC;
use hickory_proto::dnssec::rdata::{NSEC, NSEC3};
use hickory_proto::rr::{Name, RecordType, RecordTypeSet};

/// Iterations beyond which no hash is made: the zone then counts as unsigned, as RFC 9276
/// section 3.2 allows.
const MAX_ITERATIONS: u16 = 150;
/// Names hashed for one proof at most.
const MAX_HASHED: usize = 40;

/// What the records of a zone prove.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Proof {
    /// It is so.
    Secure,
    /// It is so, or there is an unsigned delegation of that name (opt-out, RFC 5155 section 6).
    OptOut,
    /// The zone asks for more hashing than is done.
    Costly,
}

/// Records of a zone that deny.
#[derive(Debug)]
pub(super) struct Denial<'m> {
    zone: &'m Name,
    named: Vec<(Cow<'m, Name>, &'m NSEC)>,
    hashed: Vec<(Vec<u8>, &'m NSEC3)>,
}

impl<'m> Denial<'m> {
    pub(super) fn new(
        zone: &'m Name,
        named: Vec<(Cow<'m, Name>, &'m NSEC)>,
        hashed: Vec<(&'m Name, &'m NSEC3)>,
    ) -> Self {
        // One chain at a time: records of others are left out (RFC 5155 section 8.2).
        let chain = hashed.first().map(|(_, nsec3)| (nsec3.salt(), nsec3.iterations()));
        let hashed = hashed
            .into_iter()
            .filter(|(owner, nsec3)| {
                Some((nsec3.salt(), nsec3.iterations())) == chain && owner.base_name() == *zone
            })
            .filter_map(|(owner, nsec3)| {
                Some((BASE32_DNSSEC.decode(owner.iter().next()?).ok()?, nsec3))
            })
            .collect();
        Self { zone, named, hashed }
    }

    /// Whether `name` is proven not to exist, nor to be made from a wildcard.
    pub(super) fn no_name(&self, name: &Name) -> Option<Proof> {
        if let Some(encloser) = self.encloser_by_nsec(name) {
            // A name above others that exist does itself.
            let gone = encloser != *name && self.covering_nsec(&wildcard(&encloser)?).is_some();
            return gone.then_some(Proof::Secure);
        }
        self.by_nsec3(|chain| {
            let (encloser, next) = chain.encloser(name)?;
            let next = chain.covering(&next?)?;
            chain.covering(&wildcard(&encloser)?)?;
            Some(if next.opt_out() { Proof::OptOut } else { Proof::Secure })
        })
    }

    /// Whether `name` is proven to have no records of `rtype`.
    pub(super) fn no_data(&self, name: &Name, rtype: RecordType) -> Option<Proof> {
        if let Some((_, nsec)) = self.named.iter().find(|(owner, _)| **owner == *name) {
            return lacks(nsec.type_set(), name, rtype).then_some(Proof::Secure);
        }
        if let Some((_, nsec)) = self.covering_nsec(name) {
            // A name that exists only for what lies below it.
            if name.zone_of(nsec.next_domain_name()) {
                return Some(Proof::Secure);
            }
            let wildcard = wildcard(&self.encloser_by_nsec(name)?)?;
            let (_, nsec) = self.named.iter().find(|(owner, _)| **owner == wildcard)?;
            return lacks(nsec.type_set(), &wildcard, rtype).then_some(Proof::Secure);
        }
        self.by_nsec3(|chain| {
            if let Some(nsec3) = chain.matching(name).ok()? {
                return lacks(nsec3.type_set(), name, rtype).then_some(Proof::Secure);
            }
            let (encloser, next) = chain.encloser(name)?;
            let next = chain.covering(&next?)?;
            let wildcard = wildcard(&encloser)?;
            if let Some(nsec3) = chain.matching(&wildcard).ok()? {
                return lacks(nsec3.type_set(), &wildcard, rtype).then_some(Proof::Secure);
            }
            next.opt_out().then_some(Proof::OptOut)
        })
    }

    /// Whether it is proven that only the wildcard at `labels` labels could answer for `name`.
    pub(super) fn only_wildcard(&self, name: &Name, labels: u8) -> Option<Proof> {
        let labels = usize::from(labels);
        if let Some(encloser) = self.encloser_by_nsec(name) {
            return (encloser.iter().count() == labels).then_some(Proof::Secure);
        }
        let next = name.trim_to(labels + 1);
        self.by_nsec3(|chain| {
            let next = chain.covering(&next)?;
            Some(if next.opt_out() { Proof::OptOut } else { Proof::Secure })
        })
    }

    /// Whether `name` is proven to be a delegation without a key (RFC 4035 section 5.2).
    pub(super) fn unsigned_delegation(&self, name: &Name) -> bool {
        let delegates = |types: &RecordTypeSet| {
            types.contains(RecordType::NS)
                && !types.contains(RecordType::SOA)
                && !types.contains(RecordType::DS)
        };
        if let Some((_, nsec)) = self.named.iter().find(|(owner, _)| **owner == *name) {
            return delegates(nsec.type_set());
        }
        let by_nsec3 = self.by_nsec3(|chain| {
            if let Some(nsec3) = chain.matching(name).ok()? {
                return delegates(nsec3.type_set()).then_some(Proof::Secure);
            }
            let (_, next) = chain.encloser(name)?;
            chain.covering(&next?)?.opt_out().then_some(Proof::OptOut)
        });
        by_nsec3.is_some()
    }

    /// The record whose span holds `name`, and not only names of a zone below it.
    fn covering_nsec(&self, name: &Name) -> Option<&(Cow<'m, Name>, &'m NSEC)> {
        self.named.iter().find(|(owner, nsec)| {
            let next = nsec.next_domain_name();
            let within = if **owner < *next {
                **owner < *name && name < next
            } else {
                // The last of the zone leads back to the first.
                **owner < *name && next == self.zone
            };
            within && self.zone.zone_of(name) && !ends_at(owner, nsec.type_set(), name)
        })
    }

    /// The closest name above `name` that exists, if an NSEC record proves that it does not itself.
    fn encloser_by_nsec(&self, name: &Name) -> Option<Name> {
        let (owner, nsec) = self.covering_nsec(name)?;
        let next = nsec.next_domain_name();
        let shared = common(name, owner).max(common(name, next));
        Some(name.trim_to(shared))
    }

    fn by_nsec3(&self, prove: impl FnOnce(&mut Chain<'_, 'm>) -> Option<Proof>) -> Option<Proof> {
        let (_, first) = self.hashed.first()?;
        if first.iterations() > MAX_ITERATIONS {
            return Some(Proof::Costly);
        }
        prove(&mut Chain { denial: self, parameters: first, work: 0 })
    }
}

/// More names would have to be hashed than is done.
#[derive(Debug)]
struct Spent;

/// An NSEC3 chain, and the work done on it.
struct Chain<'d, 'm> {
    denial: &'d Denial<'m>,
    parameters: &'m NSEC3,
    work: usize,
}

impl<'m> Chain<'_, 'm> {
    /// `None` if there was enough hashing.
    fn hash(&mut self, name: &Name) -> Option<Vec<u8>> {
        self.work += 1;
        if self.work > MAX_HASHED {
            return None;
        }
        let (salt, iterations) = (self.parameters.salt(), self.parameters.iterations());
        let hash = self.parameters.hash_algorithm().hash(salt, name, iterations).ok()?;
        Some(hash.as_ref().to_vec())
    }

    /// The record of `name` itself, if there is one.
    fn matching(&mut self, name: &Name) -> Result<Option<&'m NSEC3>, Spent> {
        let hash = self.hash(name).ok_or(Spent)?;
        let found = self.denial.hashed.iter().find(|(owner, _)| *owner == hash);
        Ok(found.map(|(_, nsec3)| *nsec3))
    }

    /// The record whose span holds the hash of `name`.
    fn covering(&mut self, name: &Name) -> Option<&'m NSEC3> {
        let hash = self.hash(name)?;
        let covers = |(owner, nsec3): &&(Vec<u8>, &NSEC3)| {
            let next = nsec3.next_hashed_owner_name();
            if owner.as_slice() < next {
                owner.as_slice() < hash.as_slice() && hash.as_slice() < next
            } else {
                owner.as_slice() < hash.as_slice() || hash.as_slice() < next
            }
        };
        self.denial.hashed.iter().find(covers).map(|(_, nsec3)| *nsec3)
    }

    /// The closest name above `name` that has a record, and the name one label longer, which has
    /// none; `None` in its place if `name` itself has one (RFC 5155 section 8.3).
    fn encloser(&mut self, name: &Name) -> Option<(Name, Option<Name>)> {
        let mut candidate = name.clone();
        let mut next = None;
        while self.denial.zone.zone_of(&candidate) {
            if let Some(nsec3) = self.matching(&candidate).ok()? {
                let above = next.is_some();
                let ends = above && ends_at(&candidate, nsec3.type_set(), name);
                return (!ends).then_some((candidate, next));
            }
            if candidate.is_root() {
                return None;
            }
            let above = candidate.base_name();
            next = Some(candidate);
            candidate = above;
        }
        None
    }
}

/// Whether a name with these types is one at which its zone ends, so that it says nothing of
/// `name` below it: a delegation, or an alias of all that lies below.
fn ends_at(owner: &Name, types: &RecordTypeSet, name: &Name) -> bool {
    let delegated = types.contains(RecordType::NS) && !types.contains(RecordType::SOA);
    let below = owner != name && owner.zone_of(name);
    below && (delegated || types.contains(RecordType::DNAME))
}

/// Whether a name with these types has no records of `rtype`, said by the zone that would know.
fn lacks(types: &RecordTypeSet, name: &Name, rtype: RecordType) -> bool {
    let by_whom_it_concerns = if rtype == RecordType::DS {
        !types.contains(RecordType::SOA) || name.is_root()
    } else {
        !types.contains(RecordType::NS) || types.contains(RecordType::SOA)
    };
    by_whom_it_concerns && !types.contains(rtype) && !types.contains(RecordType::CNAME)
}

pub(super) fn wildcard(encloser: &Name) -> Option<Name> {
    encloser.prepend_label("*").ok()
}

/// How many labels two names share, from the root.
fn common(one: &Name, other: &Name) -> usize {
    let (one, other) = (one.to_lowercase(), other.to_lowercase());
    let (one, other): (Vec<_>, Vec<_>) = (one.iter().collect(), other.iter().collect());
    one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count()
}
