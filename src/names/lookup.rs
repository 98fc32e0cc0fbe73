//! Finds a name, and writes its answer.

use super::special::{self, Zone};
use super::{Names, Node, RecordSet};
use crate::wire::{Header, Name, Query, Rcode, Reply, Section, Type};

/// The longest chain of local CNAME records that is followed.
const CHAIN_MAX: usize = 8;

/// What is known of a name.
#[derive(Clone, Copy, Debug)]
pub struct LocalAnswer<'t> {
    found: Found<'t>,
    /// Where in the name the zone that says so begins.
    apex: usize,
}

#[derive(Clone, Copy, Debug)]
enum Found<'t> {
    /// The name has these records.
    Records(&'t RecordSet),
    /// The name exists without records; to be remembered for so many seconds.
    Nothing(u32),
    /// The name does not exist; to be remembered for so many seconds.
    NoName(u32),
}

/// An answer as far as it is local. Made by [`Names::answer`].
#[derive(Debug)]
pub struct Started<'t, 'o> {
    /// The reply so far.
    pub reply: Reply<'o>,
    /// The name of the world that a chain of CNAME records ends in; what it stands for is
    /// missing from the reply.
    pub chain_to: Option<&'t Name>,
}

impl Names {
    /// Looks up a canonical wire name; `None` if its answer is to be had from an upstream.
    #[must_use]
    pub fn lookup(&self, name: &[u8]) -> Option<LocalAnswer<'_>> {
        // A name has at most 127 labels beside the root (RFC 1035 section 2.3.4).
        let mut starts = [0_u8; 128];
        let mut labels = 0;
        let mut at = 0;
        while let Some(&len @ 1..) = name.get(at) {
            *starts.get_mut(labels)? = u8::try_from(at).ok()?;
            labels += 1;
            at += 1 + usize::from(len);
        }

        // From the root down, as far as nodes exist.
        let mut node = &self.root;
        let mut node_at = at;
        // The lowest zone on the way, and the lowest node whose wildcard owns what is below.
        let mut zone: Option<(Zone, usize)> = None;
        let mut wild: Option<(u32, usize)> = None;
        let mut whole = true;
        for &start in starts.get(..labels)?.iter().rev() {
            if let Some(set) = &node.wildcard {
                wild = Some((set.ttl, node_at));
            }
            let start = usize::from(start);
            let Some(below) = self.nodes.get(name.get(start..)?) else {
                whole = false;
                break;
            };
            node = below;
            node_at = start;
            if let Some(kind) = node.zone {
                zone = Some((kind, start));
            }
        }
        // Of a zone and a wildcard, the lower one is in charge.
        let of_zone = zone.map(|(_, at)| (special::TTL, at));
        let owner = [of_zone, wild].into_iter().flatten().min_by_key(|(_, at)| *at);
        let ttl = owner.map(|(ttl, _)| ttl);
        let found = if whole {
            Self::existing(node, zone == Some((Zone::Absent, 0)), ttl)
        } else {
            self.missing(node, zone, ttl)
        }?;
        Some(LocalAnswer { found, apex: owner.map_or(0, |(_, at)| at) })
    }

    /// Writes the answer to `query` if its name is local; [`Reply::finish`] completes it.
    pub fn answer<'t, 'o>(
        &'t self,
        query: &Query<'_>,
        out: &'o mut Vec<u8>,
    ) -> Option<Started<'t, 'o>> {
        let mut answer = self.lookup(query.name())?;
        let mut reply = Reply::new(query, Rcode::NOERROR, out).authoritative();
        let mut owner_at = Header::LEN;
        let mut chain_to = None;
        for _ in 0..CHAIN_MAX {
            let Some((target, ttl)) = answer.alias(query.qtype) else { break };
            owner_at = reply.record(Section::Answer, owner_at, Type::CNAME, ttl, target.as_wire());
            chain_to = Some(target);
            let Some(next) = self.lookup(target.as_wire()) else { break };
            chain_to = None;
            answer = next;
        }
        if chain_to.is_none() {
            // The code speaks of the last name of the chain (RFC 6604 section 2.1).
            reply.set_rcode(answer.rcode());
            answer.write(&mut reply, query.qtype, owner_at);
        }
        Some(Started { reply, chain_to })
    }

    fn existing(node: &Node, absent: bool, owned: Option<u32>) -> Option<Found<'_>> {
        match &node.records {
            Some(set) => Some(Found::Records(set)),
            None if absent => owned.map(Found::NoName),
            // An empty non-terminal (RFC 4592 section 2.2.2); outside our zones the world may
            // know records of it.
            None => owned.map(Found::Nothing),
        }
    }

    fn missing<'t>(
        &'t self,
        encloser: &'t Node,
        zone: Option<(Zone, usize)>,
        owned: Option<u32>,
    ) -> Option<Found<'t>> {
        // Only the closest encloser's wildcard counts (RFC 4592 section 3.3.1).
        match (&encloser.wildcard, zone) {
            (Some(set), _) => Some(Found::Records(set)),
            (None, Some((Zone::Localhost, _))) => self.localhost().map(Found::Records),
            (None, _) => owned.map(Found::NoName),
        }
    }

    fn localhost(&self) -> Option<&RecordSet> {
        self.nodes.get(b"\x09localhost\0".as_slice())?.records.as_ref()
    }
}

impl<'t> LocalAnswer<'t> {
    /// The response code.
    #[must_use]
    pub const fn rcode(&self) -> Rcode {
        match self.found {
            Found::NoName(_) => Rcode::NXDOMAIN,
            Found::Nothing(_) | Found::Records(_) => Rcode::NOERROR,
        }
    }

    /// The CNAME target to follow for `qtype`, with the record's time to live.
    fn alias(&self, qtype: Type) -> Option<(&'t Name, u32)> {
        let Found::Records(set) = self.found else { return None };
        let target = set.cname.as_ref()?;
        (qtype != Type::CNAME && qtype != Type::ANY).then_some((target, set.ttl))
    }

    /// Writes the records of the name that stands at `owner_at`, or why there are none.
    fn write(&self, reply: &mut Reply<'_>, qtype: Type, owner_at: usize) {
        let ttl = match self.found {
            Found::NoName(ttl) | Found::Nothing(ttl) => ttl,
            Found::Records(set) => {
                if let Some(target) = &set.cname {
                    reply.record(Section::Answer, owner_at, Type::CNAME, set.ttl, target.as_wire());
                    return;
                }
                let mut any = false;
                for (rtype, rdata) in set.matching(qtype) {
                    reply.record(Section::Answer, owner_at, rtype, set.ttl, rdata);
                    any = true;
                }
                if any {
                    return;
                }
                set.ttl
            }
        };
        // The SOA record that lets the absence be remembered (RFC 2308 section 3), of the
        // contents RFC 6303 section 3 gives: the zone is its own primary.
        let apex_at = owner_at + self.apex;
        let [p0, p1] = u16::try_from(apex_at).map_or(0xc00c, |at| 0xc000 | at).to_be_bytes();
        let mut soa = [0; 38];
        soa[..2].copy_from_slice(&[p0, p1]);
        soa[2..18].copy_from_slice(b"\x06nobody\x07invalid\0");
        for (field, value) in soa[18..].chunks_exact_mut(4).zip([1, 3600, 1200, 604_800, ttl]) {
            field.copy_from_slice(&value.to_be_bytes());
        }
        let section =
            if qtype == Type::SOA && self.apex == 0 && !matches!(self.found, Found::NoName(_)) {
                Section::Answer
            } else {
                Section::Authority
            };
        reply.record(section, apex_at, Type::SOA, ttl, &soa);
    }
}
