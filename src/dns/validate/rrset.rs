//! Sets of records and their signatures (RFC 4035 section 5.3).

use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData, RRSIG};
use hickory_proto::dnssec::{Algorithm, PublicKey, Verifier};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, SerialNumber};

use super::reason::{Budget, Reason};
use crate::wire::Ede;

/// Sets of records looked at in a section at most.
const MAX_SETS: usize = 64;
/// Records in a set at most.
const MAX_RECORDS: usize = 512;
/// Signatures of one set that are looked at.
const MAX_SIGNATURES: usize = 8;
/// Keys of one tag and algorithm that are tried: tags may collide, but not by chance more often.
const MAX_TWINS: usize = 2;

/// Records of one name and type, and their signatures.
#[derive(Debug)]
pub(super) struct RrSet<'m> {
    pub(super) name: &'m Name,
    pub(super) rtype: RecordType,
    pub(super) records: Vec<&'m Record>,
    pub(super) signatures: Vec<&'m RRSIG>,
}

impl RrSet<'_> {
    /// Who signs it, as far as its signatures say.
    pub(super) fn signer(&self) -> Option<&Name> {
        self.signatures.first().map(|signature| &signature.input().signer_name)
    }
}

/// The sets of a section, in order of their first records. A signature of no set is left out.
pub(super) fn sets(section: &[Record]) -> Result<Vec<RrSet<'_>>, Reason> {
    let mut sets: Vec<RrSet<'_>> = Vec::new();
    for record in section {
        let rtype = record.record_type();
        if rtype == RecordType::RRSIG {
            continue;
        }
        let index = sets
            .iter()
            .position(|set| set.rtype == rtype && *set.name == record.name)
            .unwrap_or(sets.len());
        if index == sets.len() {
            let (records, signatures) = (Vec::new(), Vec::new());
            sets.push(RrSet { name: &record.name, rtype, records, signatures });
        }
        if sets.len() > MAX_SETS || sets[index].records.len() == MAX_RECORDS {
            return Err(Reason::bogus("the answer has too many records"));
        }
        sets[index].records.push(record);
    }
    for record in section {
        let RData::DNSSEC(DNSSECRData::RRSIG(signature)) = &record.data else { continue };
        let covered = signature.input().type_covered;
        let set = sets.iter_mut().find(|set| set.rtype == covered && *set.name == record.name);
        if let Some(set) = set.filter(|set| set.signatures.len() < MAX_SIGNATURES) {
            set.signatures.push(signature);
        }
    }
    Ok(sets)
}

/// The keys of a zone.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) zone: Name,
    keys: Vec<(u16, DNSKEY)>,
}

impl Keys {
    /// Those of `keys` that may sign the records of `zone` (RFC 4034 section 2.1.1, RFC 5011
    /// section 2.1).
    pub(super) fn new<'k>(zone: Name, keys: impl IntoIterator<Item = &'k DNSKEY>) -> Self {
        let keys = keys.into_iter().filter(|key| key.zone_key() && !key.revoke());
        let keys = keys.filter_map(|key| Some((key.calculate_key_tag().ok()?, key.clone())));
        Self { zone, keys: keys.collect() }
    }

    fn twins(&self, tag: u16, algorithm: Algorithm) -> impl Iterator<Item = &DNSKEY> {
        let fits = move |(of, key): &&(u16, DNSKEY)| {
            *of == tag && key.public_key().algorithm() == algorithm
        };
        self.keys.iter().filter(fits).map(|(_, key)| key).take(MAX_TWINS)
    }
}

/// A set with a right signature.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Verified {
    /// How many labels of the name the signature covers, if the set is a wildcard's.
    pub(super) wildcard: Option<u8>,
    /// How long it may be kept, in seconds (RFC 4035 section 5.3.3).
    pub(super) ttl: u32,
}

/// Verifies `set` with the keys of its zone. Without `now`, in seconds since 1970, dates are not
/// looked at.
pub(super) fn verify(
    set: &RrSet<'_>,
    keys: &Keys,
    now: Option<u32>,
    budget: &mut Budget,
) -> Result<Verified, Reason> {
    let what = || format!("{} {}", set.name, set.rtype);
    let mut worst = None;
    let mut unsupported = true;
    for signature in &set.signatures {
        let input = signature.input();
        let labels = set.name.num_labels();
        if input.signer_name != keys.zone || input.num_labels > labels {
            continue;
        }
        if !input.algorithm.is_supported() {
            continue;
        }
        unsupported = false;
        if let Some(reason) = now.and_then(|now| outdated(signature, now)) {
            worst = Some(Reason { text: format!("{}: {}", what(), reason.text), ..reason });
            continue;
        }
        let mut known = false;
        for key in keys.twins(input.key_tag, input.algorithm) {
            known = true;
            budget.check_signature()?;
            let records = set.records.iter().copied();
            if key.verify_rrsig(set.name, DNSClass::IN, signature, records).is_ok() {
                return Ok(Verified {
                    wildcard: (input.num_labels < labels).then_some(input.num_labels),
                    ttl: lifetime(set, signature, now),
                });
            }
        }
        let reason = if known {
            Reason::bogus(format!("{}: the signature is wrong", what()))
        } else {
            let text = format!("{}: {} has no key {}", what(), keys.zone, input.key_tag);
            Reason::new(Ede::DnskeyMissing, text)
        };
        worst.get_or_insert(reason);
    }
    Err(worst.unwrap_or_else(|| {
        if unsupported && !set.signatures.is_empty() {
            Reason::bogus(format!("{}: no signature of {} that can be checked", what(), keys.zone))
        } else {
            Reason::new(Ede::RrsigsMissing, format!("{}: there is no signature", what()))
        }
    }))
}

/// Why a signature does not hold at `now`, in serial numbers (RFC 4034 section 3.1.5).
fn outdated(signature: &RRSIG, now: u32) -> Option<Reason> {
    let (input, now) = (signature.input(), SerialNumber::new(now));
    if now > input.sig_expiration {
        let ago = now.get().wrapping_sub(input.sig_expiration.get());
        let text = format!("the signature expired {ago} s ago");
        return Some(Reason::new(Ede::SignatureExpired, text));
    }
    if now < input.sig_inception {
        let ahead = input.sig_inception.get().wrapping_sub(now.get());
        let text = format!("the signature is not yet valid for {ahead} s");
        return Some(Reason::new(Ede::SignatureNotYetValid, text));
    }
    None
}

fn lifetime(set: &RrSet<'_>, signature: &RRSIG, now: Option<u32>) -> u32 {
    let input = signature.input();
    let ttl = set.records.iter().map(|record| record.ttl).min().unwrap_or(0);
    let left = now.map_or(u32::MAX, |now| input.sig_expiration.get().wrapping_sub(now));
    ttl.min(input.original_ttl).min(left)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::dnssec::PublicKeyBuf;
    use hickory_proto::dnssec::rdata::SigInput;
    use hickory_proto::rr::rdata::A;

    use super::*;

    /// CVE-2023-50387, `KeyTrap`: every signature might be by any of the keys.
    #[test]
    fn keys_of_one_tag_and_signatures_by_the_hundred_cost_little() {
        let zone = Name::from_ascii("evil.test.").unwrap();
        let keys: Vec<_> = (0..32).map(key).collect();
        let tag = keys[0].calculate_key_tag().unwrap();
        let keys = Keys::new(zone.clone(), &keys);
        assert_eq!(keys.keys.iter().filter(|(of, _)| *of == tag).count(), 32);
        let signature = |number| RData::DNSSEC(DNSSECRData::RRSIG(signature(&zone, tag, number)));
        let mut section: Vec<_> = (0..200)
            .map(|number| Record::from_rdata(zone.clone(), 300, signature(number)))
            .collect();
        let address = RData::A(A(Ipv4Addr::new(192, 0, 2, 1)));
        section.push(Record::from_rdata(zone.clone(), 300, address));
        let sets = sets(&section).unwrap();
        let mut budget = Budget::new();

        let verdicts: Vec<_> =
            (0..7).map(|_| verify(&sets[0], &keys, None, &mut budget).unwrap_err().text).collect();

        // Sixteen checks each, which are 96 in all.
        assert!(verdicts[5].ends_with("the signature is wrong"), "{verdicts:?}");
        assert!(verdicts[6].starts_with("more signatures would have"), "{verdicts:?}");
    }

    #[test]
    fn a_section_of_more_sets_or_records_than_anybody_needs_is_refused() {
        let address = |name: String| {
            let name = Name::from_ascii(name).unwrap();
            Record::from_rdata(name, 300, RData::A(A(Ipv4Addr::LOCALHOST)))
        };
        let many: Vec<_> = (0..=MAX_SETS).map(|n| address(format!("n{n}.test."))).collect();
        let large: Vec<_> = (0..=MAX_RECORDS).map(|_| address("n.test.".to_owned())).collect();

        assert!(sets(&many[1..]).is_ok() && sets(&large[1..]).is_ok());
        assert!(sets(&many).is_err() && sets(&large).is_err());
    }

    /// Words of a key may change places without changing its tag (RFC 4034 appendix B).
    fn key(number: usize) -> DNSKEY {
        let mut octets: Vec<u8> =
            (0..64).map(|at: u8| at.wrapping_mul(37).wrapping_add(11)).collect();
        octets.swap(0, 2 * number);
        octets.swap(1, 2 * number + 1);
        DNSKEY::new(true, false, false, PublicKeyBuf::new(octets, Algorithm::ECDSAP256SHA256))
    }

    fn signature(zone: &Name, key_tag: u16, number: u8) -> RRSIG {
        let input = SigInput {
            type_covered: RecordType::A,
            algorithm: Algorithm::ECDSAP256SHA256,
            num_labels: 2,
            original_ttl: 300,
            sig_expiration: SerialNumber::new(u32::MAX),
            sig_inception: SerialNumber::new(0),
            key_tag,
            signer_name: zone.clone(),
        };
        RRSIG::from_sig(input, vec![number; 64])
    }
}
