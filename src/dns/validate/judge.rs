//! What an answer is worth (RFC 4035 section 5).

use std::collections::BTreeSet;

use hickory_proto::dnssec::rdata::DNSSECRData;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::denial::Proof;
use super::reason::Reason;
use super::rrset::{RrSet, Verified, sets, verify};
use super::zones::Zone;
use super::{Fault, Lookups};
use crate::wire::Ede;

/// Aliases followed in one answer at most.
const MAX_ALIASES: usize = 16;

/// What was found of an answer that is not bogus.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Judgement {
    /// An error, or a type that has no signatures: it says nothing that could be verified.
    Unjudged,
    /// Part of it lies in a zone that is provably unsigned.
    Insecure,
    /// Everything was verified.
    Secure,
}

/// Judges `answer`, and leaves in its answer and authority sections only what was judged.
pub(super) async fn judge(
    answer: &mut Message,
    question: &Query,
    lookups: &mut Lookups<'_>,
) -> Result<Judgement, Fault> {
    let code = answer.metadata.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
        || question.query_type() == RecordType::RRSIG
    {
        return Ok(Judgement::Unjudged);
    }
    let mut judging = Judging {
        lookups,
        answers: sets(&answer.answers)?,
        authority: sets(&answer.authorities)?,
        found: Judgement::Secure,
        kept: BTreeSet::new(),
        ttl: u32::MAX,
    };
    let denied = judging.answers(question).await?;
    let denying = denied.is_some();
    if let Some(name) = denied {
        let nonexistent = code == ResponseCode::NXDomain;
        judging.denied(&name, question.query_type(), nonexistent).await?;
    }
    let Judging { found, kept, ttl, .. } = judging;
    let key = |record: &Record| {
        let covered = if let RData::DNSSEC(DNSSECRData::RRSIG(signature)) = &record.data {
            Some(signature.input().type_covered)
        } else {
            None
        };
        (record.name.to_lowercase(), covered.unwrap_or_else(|| record.record_type()))
    };
    answer.answers.retain(|record| kept.contains(&key(record)));
    let proves = |rtype| {
        matches!(rtype, RecordType::NSEC | RecordType::NSEC3)
            || (denying && rtype == RecordType::SOA)
    };
    answer.authorities.retain(|record| proves(key(record).1));
    for record in answer.answers.iter_mut().chain(&mut answer.authorities) {
        record.ttl = record.ttl.min(ttl);
    }
    Ok(found)
}

/// An answer as it is judged.
struct Judging<'j, 'v, 'm> {
    lookups: &'j mut Lookups<'v>,
    answers: Vec<RrSet<'m>>,
    authority: Vec<RrSet<'m>>,
    /// The worst found so far.
    found: Judgement,
    /// Sets of the answer section that belong to the answer.
    kept: BTreeSet<(Name, RecordType)>,
    /// How long the shortest of what was verified holds.
    ttl: u32,
}

impl Judging<'_, '_, '_> {
    /// Follows the question through the answer section. Gives the name that remains without
    /// records of the type.
    async fn answers(&mut self, question: &Query) -> Result<Option<Name>, Fault> {
        let (mut name, rtype) = (question.name().clone(), question.query_type());
        for _ in 0..MAX_ALIASES {
            if rtype == RecordType::ANY {
                let held: Vec<_> = self.at(|set| *set.name == name);
                for &index in &held {
                    self.positive(index).await?;
                }
                return Ok(held.is_empty().then_some(name));
            }
            if let Some(index) = self.find(&name, rtype) {
                self.positive(index).await?;
                return Ok(None);
            }
            let alias = self.find(&name, RecordType::CNAME);
            let above = self.at(|set| {
                set.rtype == RecordType::DNAME && *set.name != name && set.name.zone_of(&name)
            });
            name = match (above.first(), alias) {
                (Some(&index), alias) => {
                    self.positive(index).await?;
                    let target = moved(&name, &self.answers[index]).ok_or_else(|| {
                        Reason::bogus(format!("{name}: its DNAME leads to no name"))
                    })?;
                    if let Some(alias) = alias {
                        // Made for those who do not know DNAME; it has no signature of its own.
                        if target_of(&self.answers[alias]) != Some(&target) {
                            let text = format!("{name} CNAME: not what its DNAME says");
                            return Err(Reason::bogus(text).into());
                        }
                        self.keep(alias);
                    }
                    target
                }
                (None, Some(index)) => {
                    self.positive(index).await?;
                    match target_of(&self.answers[index]) {
                        Some(target) => target.clone(),
                        None => return Ok(Some(name)),
                    }
                }
                (None, None) => return Ok(Some(name)),
            };
        }
        Err(Reason::bogus("the answer has too many aliases").into())
    }

    fn at(&self, fits: impl Fn(&RrSet<'_>) -> bool) -> Vec<usize> {
        (0..self.answers.len()).filter(|&index| fits(&self.answers[index])).collect()
    }

    fn find(&self, name: &Name, rtype: RecordType) -> Option<usize> {
        self.answers.iter().position(|set| set.rtype == rtype && set.name == name)
    }

    fn keep(&mut self, index: usize) {
        let set = &self.answers[index];
        self.kept.insert((set.name.to_lowercase(), set.rtype));
    }

    /// Judges a set of the answer section.
    async fn positive(&mut self, index: usize) -> Result<(), Fault> {
        self.keep(index);
        let set = &self.answers[index];
        let zone = match set.signer().cloned() {
            // A DS record is its parent's.
            Some(signer)
                if !signer.zone_of(set.name)
                    || (set.rtype == RecordType::DS && signer == *set.name) =>
            {
                let text =
                    format!("{} {}: {signer} has no business signing it", set.name, set.rtype);
                return Err(Reason::bogus(text).into());
            }
            Some(signer) => self.lookups.signed_by(&signer).await?,
            None if set.rtype == RecordType::DS => {
                self.lookups.enclosing(&set.name.base_name()).await?
            }
            None => self.lookups.enclosing(set.name).await?,
        };
        let Zone::Secure(keys) = zone else {
            self.found = self.found.min(Judgement::Insecure);
            return Ok(());
        };
        let Verified { wildcard, ttl } =
            verify(set, &keys, self.lookups.now, &mut self.lookups.budget)?;
        self.ttl = self.ttl.min(ttl);
        if let Some(labels) = wildcard {
            let (denial, _) = self.lookups.denial(&self.authority, &keys)?;
            let proof = denial.only_wildcard(set.name, labels);
            let what = format!("{} {}: made from a wildcard", set.name, set.rtype);
            self.weigh(proof, || format!("{what}, and it is not proven that it may be"))?;
        }
        Ok(())
    }

    /// Judges that there is no `name`, or none of its records are of `rtype`.
    async fn denied(
        &mut self,
        name: &Name,
        rtype: RecordType,
        nonexistent: bool,
    ) -> Result<(), Fault> {
        let denies = |set: &&RrSet<'_>| matches!(set.rtype, RecordType::NSEC | RecordType::NSEC3);
        let signer = self.authority.iter().find(denies).and_then(RrSet::signer).cloned();
        let zone = match signer {
            Some(signer) if signer.zone_of(name) => self.lookups.signed_by(&signer).await?,
            Some(signer) => {
                let text = format!("{name} {rtype}: {signer} has no business denying it");
                return Err(Reason::bogus(text).into());
            }
            None if rtype == RecordType::DS && !name.is_root() => {
                self.lookups.enclosing(&name.base_name()).await?
            }
            None => self.lookups.enclosing(name).await?,
        };
        let Zone::Secure(keys) = zone else {
            self.found = self.found.min(Judgement::Insecure);
            return Ok(());
        };
        let (denial, ttl) = self.lookups.denial(&self.authority, &keys)?;
        self.ttl = self.ttl.min(ttl);
        let proof = if nonexistent { denial.no_name(name) } else { denial.no_data(name, rtype) };
        self.weigh(proof, || format!("{name} {rtype}: it is not proven that there is none"))?;
        for set in self.authority.iter().filter(|set| set.rtype == RecordType::SOA) {
            verify(set, &keys, self.lookups.now, &mut self.lookups.budget)?;
        }
        Ok(())
    }

    fn weigh(&mut self, proof: Option<Proof>, text: impl FnOnce() -> String) -> Result<(), Reason> {
        match proof {
            Some(Proof::Secure) => {}
            Some(Proof::OptOut | Proof::Costly) => self.found = self.found.min(Judgement::Insecure),
            None => return Err(Reason::new(Ede::NsecMissing, text())),
        }
        Ok(())
    }
}

fn target_of<'m>(set: &RrSet<'m>) -> Option<&'m Name> {
    let RData::CNAME(target) = &set.records.first()?.data else { return None };
    Some(&target.0)
}

/// Where the DNAME record in `set` moves `name` (RFC 6672 section 2.2). To the library it is a
/// record of unknown content.
fn moved(name: &Name, set: &RrSet<'_>) -> Option<Name> {
    let RData::Unknown { rdata, .. } = &set.records.first()?.data else { return None };
    let target = Name::read(&mut BinDecoder::new(&rdata.anything)).ok()?;
    let prefix = name.iter().count().checked_sub(set.name.iter().count())?;
    Name::from_labels(name.iter().take(prefix).chain(target.iter())).ok()
}
