//! Which zone a name belongs to, and with what keys: the chain of trust (RFC 4035 section 5).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS};
use hickory_proto::dnssec::{DigestType, PublicKey};
use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::sync::OnceCell;

use super::anchors::{Anchor, Anchors};
use super::denial::{Denial, wildcard};
use super::reason::Reason;
use super::rrset::{Keys, RrSet, Verified, sets, verify};
use super::{Fault, Lookups};
use crate::dns::BoxFuture;
use crate::wire::Ede;

/// Names of which it is remembered what they are.
const MAX_NAMES: usize = 4096;
/// How long it is remembered at most, and at least.
const LONGEST: u32 = 86_400;
const SHORTEST: u32 = 5;
/// How long it is remembered of a name that it lies below an unsigned delegation.
const BELOW: u32 = 300;
/// How long it is remembered that a zone does not validate.
const BOGUS: u32 = 5;

/// What a name is to the chain of trust.
#[derive(Clone, Debug)]
pub(super) enum Cut {
    /// A zone begins there, whose keys are known.
    Secure(Arc<Keys>),
    /// No chain of trust leads there: a zone begins there, or farther up, that has no usable key.
    Insecure,
    /// No zone begins there.
    Inside,
    /// A zone that should validate, and does not.
    Bogus(Reason),
}

/// The zone that a name lies in.
#[derive(Clone, Debug)]
pub(super) enum Zone {
    Secure(Arc<Keys>),
    Insecure,
}

/// What was found out of zones.
#[derive(Debug)]
pub(super) struct Zones {
    anchors: Anchors,
    known: Mutex<HashMap<Name, Arc<Known>>>,
}

#[derive(Debug, Default)]
struct Known(OnceCell<(Cut, Instant)>);

impl Zones {
    pub(super) fn new(anchors: Anchors) -> Self {
        Self { anchors, known: Mutex::default() }
    }

    /// Forgets everything.
    pub(super) fn forget(&self) {
        self.locked().clear();
    }

    /// What is known of `name`; whoever is first finds it out, others wait for that.
    fn known(&self, name: &Name, now: Instant) -> Arc<Known> {
        let past = |known: &Known| known.0.get().is_some_and(|(_, until)| *until <= now);
        let mut all = self.locked();
        if let Some(known) = all.get(name).filter(|known| !past(known)) {
            return Arc::clone(known);
        }
        if all.len() >= MAX_NAMES {
            all.retain(|_, known| !past(known));
            if all.len() >= MAX_NAMES {
                all.clear();
            }
        }
        let known = Arc::<Known>::default();
        all.insert(name.to_lowercase(), Arc::clone(&known));
        known
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Name, Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lookups<'_> {
    /// The zone of records that `signer` has signed, if one begins there.
    pub(super) async fn signed_by(&mut self, signer: &Name) -> Result<Zone, Fault> {
        match self.cut(signer).await? {
            Cut::Secure(keys) => Ok(Zone::Secure(keys)),
            Cut::Insecure => Ok(Zone::Insecure),
            Cut::Bogus(reason) => Err(reason.into()),
            Cut::Inside => {
                let text = format!("{signer} has signed, and is no zone");
                Err(Reason::bogus(text).into())
            }
        }
    }

    /// The zone that `name` lies in, found from the top: for what no zone has signed.
    pub(super) async fn enclosing(&mut self, name: &Name) -> Result<Zone, Fault> {
        let Some(anchor) = self.validator.zones.anchors.above(name).cloned() else {
            return Ok(Zone::Insecure);
        };
        let mut zone = Zone::Insecure;
        for labels in anchor.iter().count()..=name.iter().count() {
            match self.cut(&name.trim_to(labels)).await? {
                Cut::Secure(keys) => zone = Zone::Secure(keys),
                Cut::Insecure => return Ok(Zone::Insecure),
                Cut::Inside => {}
                Cut::Bogus(reason) => return Err(reason.into()),
            }
        }
        Ok(zone)
    }

    /// What `name` is to the chain of trust. Boxed, for it leads up to the anchor.
    fn cut<'l>(&'l mut self, name: &'l Name) -> BoxFuture<'l, Result<Cut, Fault>> {
        Box::pin(async move {
            let clock = &self.validator.clock;
            let known = self.validator.zones.known(name, clock.mono());
            let found = known.0.get_or_try_init(|| async {
                let (cut, ttl) = match self.find_out(name).await {
                    Ok(found) => found,
                    Err(Fault::Bogus(reason)) => (Cut::Bogus(reason), BOGUS),
                    Err(fault @ Fault::Unreachable(_)) => return Err(fault),
                };
                let ttl = ttl.clamp(SHORTEST, LONGEST);
                Ok((cut, clock.mono() + Duration::from_secs(ttl.into())))
            });
            found.await.map(|(cut, _)| cut.clone())
        })
    }

    async fn find_out(&mut self, name: &Name) -> Result<(Cut, u32), Fault> {
        if let Some(anchor) = self.validator.zones.anchors.of(name).cloned() {
            return self.keys(name, &anchor, LONGEST).await;
        }
        if name.is_root() {
            return Ok((Cut::Insecure, LONGEST));
        }
        let answer = self.ask(name, RecordType::DS).await?;
        let answers = sets(&answer.answers)?;
        let held = answers.iter().find(|set| set.rtype == RecordType::DS && set.name == name);
        match held {
            Some(set) => self.delegated(name, set).await,
            None => self.not_delegated(name, &answer).await,
        }
    }

    /// There are DS records.
    async fn delegated(&mut self, name: &Name, set: &RrSet<'_>) -> Result<(Cut, u32), Fault> {
        let parent = match set.signer().cloned() {
            Some(signer) if above(&signer, name) => self.signed_by(&signer).await?,
            Some(_) => {
                let text = format!("{name} DS: not signed from above");
                return Err(Reason::bogus(text).into());
            }
            None => self.enclosing(&name.base_name()).await?,
        };
        let Zone::Secure(parent) = parent else { return Ok((Cut::Insecure, BELOW)) };
        let Verified { ttl, .. } = verify(set, &parent, self.now, &mut self.budget)?;
        let ds: Vec<_> = set.records.iter().filter_map(|record| ds_of(&record.data)).collect();
        let mut ds: Vec<DS> = ds.into_iter().filter(|ds| usable(ds)).cloned().collect();
        if ds.is_empty() {
            // RFC 4035 section 5.2: keys that nobody here can use are no keys.
            return Ok((Cut::Insecure, ttl));
        }
        // RFC 4509 section 3: SHA-1 does not count beside better digests.
        if ds.iter().any(|ds| ds.digest_type() != DigestType::SHA1) {
            ds.retain(|ds| ds.digest_type() != DigestType::SHA1);
        }
        self.keys(name, &Anchor { ds, keys: Vec::new() }, ttl).await
    }

    /// There are no DS records, or it is said so.
    async fn not_delegated(&mut self, name: &Name, answer: &Message) -> Result<(Cut, u32), Fault> {
        let authority = sets(&answer.authorities)?;
        let denies = |set: &&RrSet<'_>| matches!(set.rtype, RecordType::NSEC | RecordType::NSEC3);
        let signer = authority.iter().find(denies).and_then(RrSet::signer).cloned();
        let parent = match signer {
            Some(signer) if above(&signer, name) => self.signed_by(&signer).await?,
            // Not proven: what lies below has to be signed by a zone above. That is no way down.
            Some(_) | None => match self.enclosing(&name.base_name()).await? {
                Zone::Insecure => Zone::Insecure,
                Zone::Secure(_) => return Ok((Cut::Inside, SHORTEST)),
            },
        };
        let Zone::Secure(parent) = parent else { return Ok((Cut::Insecure, BELOW)) };
        let (denial, ttl) = self.denial(&authority, &parent)?;
        let unsigned = denial.unsigned_delegation(name);
        Ok((if unsigned { Cut::Insecure } else { Cut::Inside }, ttl))
    }

    /// The keys of `zone`, that `anchor` vouches for.
    async fn keys(&mut self, zone: &Name, anchor: &Anchor, ttl: u32) -> Result<(Cut, u32), Fault> {
        let missing = |text: String| Fault::from(Reason::new(Ede::DnskeyMissing, text));
        let answer = self.ask(zone, RecordType::DNSKEY).await?;
        let answers = sets(&answer.answers)?;
        let set = answers
            .iter()
            .find(|set| set.rtype == RecordType::DNSKEY && set.name == zone)
            .ok_or_else(|| missing(format!("{zone} has no DNSKEY records")))?;
        let keys: Vec<_> = set.records.iter().filter_map(|record| key_of(&record.data)).collect();
        let vouched: Vec<_> =
            keys.iter().copied().filter(|key| anchor.vouches_for(zone, key)).collect();
        if vouched.is_empty() {
            let text = format!("none of the keys of {zone} is the one its parent vouches for");
            return Err(missing(text));
        }
        let vouched = Keys::new(zone.clone(), vouched);
        let verified = verify(set, &vouched, self.now, &mut self.budget)?;
        let keys = Arc::new(Keys::new(zone.clone(), keys));
        Ok((Cut::Secure(keys), ttl.min(verified.ttl)))
    }

    /// The denying records of a section, verified, and for how long they hold.
    pub(super) fn denial<'m>(
        &mut self,
        sets: &[RrSet<'m>],
        zone: &'m Keys,
    ) -> Result<(Denial<'m>, u32), Reason> {
        let (mut named, mut hashed, mut ttl) = (Vec::new(), Vec::new(), LONGEST);
        for set in sets {
            if !matches!(set.rtype, RecordType::NSEC | RecordType::NSEC3) {
                continue;
            }
            let verified = verify(set, zone, self.now, &mut self.budget)?;
            let owner = match verified.wildcard {
                None => Cow::Borrowed(set.name),
                // Some servers give the wildcard's own record under the name that was asked for; the
                // signature tells whose it is (RFC 4035 section 5.3.2).
                Some(labels) => match wildcard(&set.name.trim_to(labels.into())) {
                    Some(owner) if set.rtype == RecordType::NSEC => Cow::Owned(owner),
                    Some(_) | None => continue,
                },
            };
            ttl = ttl.min(verified.ttl);
            for record in &set.records {
                if let RData::DNSSEC(DNSSECRData::NSEC(nsec)) = &record.data {
                    named.push((owner.clone(), nsec));
                } else if let RData::DNSSEC(DNSSECRData::NSEC3(hash)) = &record.data {
                    hashed.push((set.name, hash));
                }
            }
        }
        Ok((Denial::new(&zone.zone, named, hashed), ttl))
    }
}

impl Anchor {
    fn vouches_for(&self, zone: &Name, key: &DNSKEY) -> bool {
        let by_ds = self.ds.iter().any(|ds| {
            key.calculate_key_tag().is_ok_and(|tag| tag == ds.key_tag())
                && ds.algorithm() == key.public_key().algorithm()
                && ds.covers(zone, key).unwrap_or(false)
        });
        by_ds || self.keys.contains(key)
    }
}

/// Whether `parent` lies above `name`.
fn above(parent: &Name, name: &Name) -> bool {
    parent != name && parent.zone_of(name)
}

fn usable(ds: &DS) -> bool {
    ds.algorithm().is_supported() && ds.digest_type().is_supported()
}

fn ds_of(data: &RData) -> Option<&DS> {
    if let RData::DNSSEC(DNSSECRData::DS(ds)) = data { Some(ds) } else { None }
}

fn key_of(data: &RData) -> Option<&DNSKEY> {
    if let RData::DNSSEC(DNSSECRData::DNSKEY(key)) = data { Some(key) } else { None }
}
