//! Records in wire form, ready to be sent.

use std::net::IpAddr;

use super::Entry;
use crate::wire::{MAX_LABEL, Name, Type};

/// The records of one owner.
#[derive(Clone, Debug)]
pub(super) struct RecordSet {
    /// Time to live of all of them, in seconds; also of answers that one is missing.
    pub(super) ttl: u32,
    /// Excludes the other records (RFC 1034 section 3.6.2).
    pub(super) cname: Option<Name>,
    records: Vec<(Type, Box<[u8]>)>,
}

impl RecordSet {
    pub(super) const fn new(ttl: u32) -> Self {
        Self { ttl, cname: None, records: Vec::new() }
    }

    /// Adds what `entry` says, its addresses' PTR records excepted.
    pub(super) fn add(&mut self, entry: &Entry) {
        self.ttl = self.ttl.min(entry.ttl);
        self.cname = self.cname.take().or_else(|| entry.cname.clone());
        for &address in &entry.addresses {
            match address {
                IpAddr::V4(v4) => self.push(Type::A, v4.octets().into()),
                IpAddr::V6(v6) => self.push(Type::AAAA, v6.octets().into()),
            }
        }
        for text in &entry.txt {
            self.push(Type::TXT, character_strings(text));
        }
    }

    /// Adds a PTR record to `target`.
    pub(super) fn add_ptr(&mut self, target: &Name, ttl: u32) {
        self.ttl = self.ttl.min(ttl);
        self.push(Type::PTR, target.as_wire().into());
    }

    /// The data of all records of type `qtype`, of every type for ANY.
    pub(super) fn matching(&self, qtype: Type) -> impl Iterator<Item = (Type, &[u8])> {
        self.records
            .iter()
            .filter(move |(rtype, _)| *rtype == qtype || qtype == Type::ANY)
            .map(|(rtype, rdata)| (*rtype, &**rdata))
    }

    /// A set holds each record once (RFC 2181 section 5).
    fn push(&mut self, rtype: Type, rdata: Box<[u8]>) {
        if !self.records.iter().any(|known| known.0 == rtype && known.1 == rdata) {
            self.records.push((rtype, rdata));
        }
    }
}

/// The name under which an address is looked up (RFC 1035 section 3.5, RFC 3596 section 2.5).
#[must_use]
pub fn reverse_name(address: IpAddr) -> Name {
    let mut wire = Vec::with_capacity(MAX_LABEL + 11);
    match address {
        IpAddr::V4(v4) => {
            for octet in v4.octets().iter().rev() {
                push_label(&mut wire, octet.to_string().as_bytes());
            }
            push_label(&mut wire, b"in-addr");
        }
        IpAddr::V6(v6) => {
            for octet in v6.octets().iter().rev() {
                for nibble in [octet & 0xf, octet >> 4] {
                    push_label(&mut wire, &[b"0123456789abcdef"[usize::from(nibble)]]);
                }
            }
            push_label(&mut wire, b"ip6");
        }
    }
    push_label(&mut wire, b"arpa");
    wire.push(0);
    Name::from_wire(&wire).unwrap_or_else(|_| Name::root())
}

fn push_label(wire: &mut Vec<u8>, label: &[u8]) {
    wire.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
    wire.extend_from_slice(label);
}

/// A text as character strings of at most 255 octets each (RFC 1035 section 3.3.14).
fn character_strings(text: &str) -> Box<[u8]> {
    let mut rdata = Vec::with_capacity(text.len() + 1 + text.len() / 255);
    for piece in text.as_bytes().chunks(255) {
        push_label(&mut rdata, piece);
    }
    if rdata.is_empty() {
        rdata.push(0);
    }
    rdata.into()
}
