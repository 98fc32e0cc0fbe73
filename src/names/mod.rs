//! Local names and what they stand for (pure).
//!
//! A table of everything that is answered without an upstream: the configured
//! names, the addresses' way back (PTR), and the names that must never leave
//! the house (`special`).

mod lookup;
mod records;
mod special;

use std::collections::HashMap;
use std::net::IpAddr;

use crate::wire::Name;

pub use lookup::{LocalAnswer, Started};
use records::RecordSet;
pub use records::reverse_name;
use special::Zone;

/// A local name and what it stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The owner; with `wildcard`, everything below it but not itself.
    pub name: Name,
    /// Whether `name` stands for everything below it (RFC 4592).
    pub wildcard: bool,
    /// A and AAAA records; each gets its PTR record unless `wildcard`.
    pub addresses: Vec<IpAddr>,
    /// A CNAME record; excludes all else.
    pub cname: Option<Name>,
    /// TXT records, one string each; what is longer than 255 octets is sent in pieces.
    pub txt: Vec<String>,
    /// Time to live in seconds.
    pub ttl: u32,
}

/// The names that are answered from here.
///
/// A tree, walked from the top-level domain downwards: a name that is not
/// local costs one hash probe if nothing local shares its top-level domain,
/// and two if nothing local shares its second level.
#[derive(Debug)]
pub struct Names {
    root: Node,
    /// Every owner, zone apex and name between those and the root, by its canonical wire form.
    nodes: HashMap<Box<[u8]>, Node>,
}

/// A name that exists, if only because something below it does.
#[derive(Debug, Default)]
struct Node {
    records: Option<RecordSet>,
    /// What the names below that do not exist stand for.
    wildcard: Option<RecordSet>,
    /// What is known of all names below.
    zone: Option<Zone>,
}

impl Names {
    /// Builds the table. With `canary`, `use-application-dns.net` does not exist, which tells
    /// Firefox to keep to this resolver.
    ///
    /// Entries of the same name are joined; the first CNAME wins over everything else.
    #[must_use]
    pub fn new(entries: &[Entry], canary: bool) -> Self {
        let mut names = Self { root: Node::default(), nodes: HashMap::new() };
        for (apex, zone) in special::zones(canary) {
            names.node(&apex).zone = Some(zone);
        }
        for entry in special::entries().iter().chain(entries) {
            names.insert(entry);
        }
        names
    }

    fn insert(&mut self, entry: &Entry) {
        let node = self.node(&entry.name);
        let place = if entry.wildcard { &mut node.wildcard } else { &mut node.records };
        let set = place.get_or_insert_with(|| RecordSet::new(entry.ttl));
        set.add(entry);
        if entry.wildcard {
            return;
        }
        for &address in &entry.addresses {
            let node = self.node(&reverse_name(address));
            let set = node.records.get_or_insert_with(|| RecordSet::new(entry.ttl));
            set.add_ptr(&entry.name, entry.ttl);
        }
    }

    /// The node of `name`, made with all nodes above it if it is missing.
    fn node(&mut self, name: &Name) -> &mut Node {
        let Some(parent) = name.parent() else { return &mut self.root };
        if !self.nodes.contains_key(name.as_wire()) {
            self.node(&parent);
        }
        self.nodes.entry(name.as_wire().into()).or_default()
    }
}

#[cfg(test)]
mod tests;
