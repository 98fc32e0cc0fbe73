//! Writes replies into a buffer that the caller keeps.

use super::{
    Class, Ede, Header, MAX_NAME, Malformed, Query, Rcode, Record, Section, Type, flags, option,
    read_name, skip_name,
};

/// The largest UDP payload sent, and what our OPT record advertises: no fragments on any
/// path that matters (<https://www.dnsflagday.net/2020/>).
pub const UDP_PAYLOAD: u16 = 1232;

/// Replies are padded to multiples of this (RFC 8467 section 4.1).
const PADDED_BLOCK: usize = 468;

/// A compression pointer to the question's name (RFC 1035 section 4.1.4).
const QUESTION_POINTER: u16 = 0xc00c;

/// What the OPT record of a reply says beside flags and sizes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Note<'n> {
    /// Whole options, as they came from an upstream.
    pub options: &'n [u8],
    /// Our own Extended DNS Error, with a text for people.
    pub ede: Option<(Ede, &'n str)>,
}

/// What holds for whatever reply goes to one client: how long it may be, and the options that
/// are for this hop alone. Options are left out if the client sent no OPT record.
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// Octets of the whole reply at most.
    pub limit: usize,
    /// Client cookie and server cookie (RFC 7873 section 4).
    pub cookie: Option<[u8; 24]>,
    /// For how long the connection may be idle, in units of 100 ms (RFC 7828 section 3.1).
    pub keepalive: Option<u16>,
    /// Whether the reply's length is hidden among others (RFC 8467 section 4.1).
    pub padded: bool,
}

impl Hop {
    /// A length and no options.
    #[must_use]
    pub const fn of(limit: usize) -> Self {
        Self { limit, cookie: None, keepalive: None, padded: false }
    }
}

impl<'n> Note<'n> {
    /// An Extended DNS Error and nothing else.
    #[must_use]
    pub const fn ede(code: Ede, text: &'n str) -> Self {
        Self { options: &[], ede: Some((code, text)) }
    }
}

/// A reply that is written record by record; [`Self::finish`] completes it.
#[derive(Debug)]
pub struct Reply<'o> {
    out: &'o mut Vec<u8>,
    header: Header,
}

impl<'o> Reply<'o> {
    /// Begins the reply to `query`; what `out` held is replaced.
    pub fn new(query: &Query<'_>, rcode: Rcode, out: &'o mut Vec<u8>) -> Self {
        let kept = query.header.flags & (flags::RD | flags::CD);
        let header = Header {
            id: query.header.id,
            flags: flags::QR | flags::RA | kept | (rcode.0 & 0xf),
            counts: [1, 0, 0, 0],
        };
        out.clear();
        out.extend_from_slice(&header.to_octets());
        out.extend_from_slice(query.question);
        Self { out, header }
    }

    /// Marks the reply as given by an authority for the name.
    #[must_use]
    pub const fn authoritative(mut self) -> Self {
        self.header = self.header.with(flags::AA, true);
        self
    }

    /// Changes the response code.
    pub const fn set_rcode(&mut self, rcode: Rcode) {
        self.header.flags = self.header.flags & !0xf | (rcode.0 & 0xf);
    }

    /// Appends a record of class `IN`, and returns where its data begins.
    ///
    /// `owner_at` is where the owner's name stands in the message, 12 being the question's.
    /// Sections must be written in order. Data of more than 65535 octets is left out.
    pub fn record(
        &mut self,
        section: Section,
        owner_at: usize,
        rtype: Type,
        ttl: u32,
        rdata: &[u8],
    ) -> usize {
        let owner = u16::try_from(owner_at).map_or(QUESTION_POINTER, |at| 0xc000 | at & 0x3fff);
        if let Ok(len) = u16::try_from(rdata.len()) {
            for word in [owner, rtype.0, Class::IN.0] {
                self.out.extend_from_slice(&word.to_be_bytes());
            }
            self.out.extend_from_slice(&ttl.to_be_bytes());
            self.out.extend_from_slice(&len.to_be_bytes());
            self.out.extend_from_slice(rdata);
            let count = &mut self.header.counts[1 + section as usize];
            *count = count.saturating_add(1);
        }
        self.out.len() - rdata.len()
    }

    /// Appends a record of another message, its names written out, `ttl` seconds left to live.
    ///
    /// A record whose names cannot be read is left out.
    pub fn copy(&mut self, message: &[u8], record: &Record<'_>, ttl: u32) {
        let start = self.out.len();
        if self.try_copy(message, record, ttl).is_some() {
            let count = &mut self.header.counts[1 + record.section as usize];
            *count = count.saturating_add(1);
        } else {
            self.out.truncate(start);
        }
    }

    fn try_copy(&mut self, message: &[u8], record: &Record<'_>, ttl: u32) -> Option<()> {
        self.push_name(message, record.owner_at)?;
        for word in [record.rtype.0, record.class.0] {
            self.out.extend_from_slice(&word.to_be_bytes());
        }
        self.out.extend_from_slice(&ttl.to_be_bytes());
        let len_at = self.out.len();
        self.out.extend_from_slice(&[0; 2]);
        // Octets in front of the names that may be compressed, and how many there are
        // (RFC 3597 section 4); data of all other types holds none.
        let (prefix, names) = match record.rtype {
            Type::CNAME | Type::NS | Type::PTR => (0, 1),
            Type::MX => (2, 1),
            Type::SOA => (0, 2),
            Type::SRV => (6, 1),
            _ => (0, 0),
        };
        self.out.extend_from_slice(record.rdata.get(..prefix)?);
        let mut at = record.rdata_at + prefix;
        for _ in 0..names {
            at = self.push_name(message, at)?;
        }
        let end = record.rdata_at + record.rdata.len();
        self.out.extend_from_slice(message.get(at..end)?);
        let len = u16::try_from(self.out.len() - len_at - 2).ok()?;
        self.out.get_mut(len_at..len_at + 2)?.copy_from_slice(&len.to_be_bytes());
        Some(())
    }

    /// Appends the name at `at` of another message written out; returns where it ends there.
    fn push_name(&mut self, message: &[u8], at: usize) -> Option<usize> {
        let mut name = [0; MAX_NAME];
        let len = read_name(message, at, &mut name)?;
        self.out.extend_from_slice(&name[..len]);
        skip_name(message, at)
    }

    /// Completes the reply, cut to what `hop` allows.
    pub fn finish(self, query: &Query<'_>, note: Note<'_>, hop: &Hop) {
        self.header.patch(self.out);
        finish(self.out, query, note, hop);
    }
}

/// Completes a message that ends behind its last record: appends the OPT record that answers
/// the client's, and cuts the whole to what `hop` allows.
///
/// What does not fit is left out as a whole: the reply keeps the question and the OPT record
/// and has TC set, so that the client asks over TCP (RFC 2181 section 9).
pub fn finish(out: &mut Vec<u8>, query: &Query<'_>, note: Note<'_>, hop: &Hop) {
    let Some(header) = Header::read(out) else { return };
    let whole = out.len();
    if append_opt(out, query, note, hop) <= hop.limit {
        return;
    }
    out.truncate(whole.min(Header::LEN + query.question.len()));
    Header { counts: [1, 0, 0, 0], ..header }.with(flags::TC, true).patch(out);
    let question_end = out.len();
    if append_opt(out, query, note, hop) > hop.limit {
        out.truncate(question_end);
        Header { counts: [1, 0, 0, 0], ..header }.with(flags::TC, true).patch(out);
        append_opt(out, query, Note::default(), hop);
    }
}

/// Writes the reply that has only the client's question and TC set: it asks again over TCP.
pub fn truncated(query: &Query<'_>, hop: &Hop, out: &mut Vec<u8>) {
    let mut reply = Reply::new(query, Rcode::NOERROR, out);
    reply.header = reply.header.with(flags::TC, true);
    reply.finish(query, Note::default(), hop);
}

/// Writes the reply that tells a client to ask again with the cookie in it
/// (RFC 7873 section 5.2.3).
pub fn bad_cookie(query: &Query<'_>, hop: &Hop, out: &mut Vec<u8>) {
    let reply = Reply::new(query, Rcode::BADCOOKIE, out);
    reply.header.patch(reply.out);
    push_opt(out, Rcode::BADCOOKIE, query.dnssec_ok(), Note::default(), hop);
}

/// Writes the reply to a packet that is no question; false if there must be none.
pub fn malformed(packet: &[u8], why: Malformed<'_>, out: &mut Vec<u8>) -> bool {
    let (Malformed::Reply { rcode, question }, Some(asked)) = (why, Header::read(packet)) else {
        return false;
    };
    let opcode_and_rd = asked.flags & (0xf << 11 | flags::RD);
    let header = Header {
        id: asked.id,
        flags: flags::QR | opcode_and_rd | (rcode.0 & 0xf),
        counts: [u16::from(!question.is_empty()), 0, 0, 0],
    };
    out.clear();
    out.extend_from_slice(&header.to_octets());
    out.extend_from_slice(question);
    // Codes above 15 do not fit the header: the OPT record holds their upper bits.
    if rcode.0 > 0xf {
        push_opt(out, rcode, false, Note::default(), &Hop::of(usize::MAX));
    }
    true
}

/// Appends the OPT record if the client sent one; returns the message's length.
fn append_opt(out: &mut Vec<u8>, query: &Query<'_>, note: Note<'_>, hop: &Hop) -> usize {
    if let Some(edns) = query.edns {
        push_opt(out, Rcode::NOERROR, edns.dnssec_ok, note, hop);
    }
    out.len()
}

fn push_opt(out: &mut Vec<u8>, rcode: Rcode, dnssec_ok: bool, note: Note<'_>, hop: &Hop) {
    let [_, extended] = (rcode.0 >> 4).to_be_bytes();
    let [_, t1] = Type::OPT.0.to_be_bytes();
    let [s0, s1] = UDP_PAYLOAD.to_be_bytes();
    let high = u8::from(dnssec_ok) << 7;
    out.extend_from_slice(&[0, 0, t1, s0, s1, extended, 0, high, 0, 0, 0]);
    let options_at = out.len();
    out.extend_from_slice(note.options);
    if let Some((code, text)) = note.ede {
        push_ede(out, code, text);
    }
    if let Some(cookie) = hop.cookie {
        push_option(out, option::COOKIE, &cookie);
    }
    if let Some(keepalive) = hop.keepalive {
        push_option(out, option::TCP_KEEPALIVE, &keepalive.to_be_bytes());
    }
    if hop.padded {
        push_padding(out, hop.limit);
    }
    let len = u16::try_from(out.len() - options_at).unwrap_or_else(|_| {
        out.truncate(options_at);
        0
    });
    out[options_at - 2..options_at].copy_from_slice(&len.to_be_bytes());
    if let Some(header) = Header::read(out) {
        let [questions, answers, authorities, additionals] = header.counts;
        let counts = [questions, answers, authorities, additionals.saturating_add(1)];
        Header { counts, ..header }.patch(out);
    }
}

/// Fills the message up to a whole number of blocks, or to `limit` (RFC 7830 section 3).
fn push_padding(out: &mut Vec<u8>, limit: usize) {
    const ZEROS: [u8; PADDED_BLOCK] = [0; PADDED_BLOCK];
    let unpadded = out.len() + 4;
    if let Some(room) = limit.checked_sub(unpadded) {
        let fill = unpadded.next_multiple_of(PADDED_BLOCK) - unpadded;
        push_option(out, option::PADDING, &ZEROS[..fill.min(room)]);
    }
}

fn push_option(out: &mut Vec<u8>, code: u16, content: &[u8]) {
    let len = u16::try_from(content.len()).unwrap_or_default();
    for word in [code, len] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(&content[..usize::from(len)]);
}

/// Appends an Extended DNS Error option (RFC 8914 section 2).
pub(crate) fn push_ede(out: &mut Vec<u8>, code: Ede, text: &str) {
    const TEXT_MAX: u16 = 256;
    let mut end = text.len().min(usize::from(TEXT_MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text.as_bytes()[..end];
    let len = u16::try_from(text.len()).unwrap_or(TEXT_MAX) + 2;
    for word in [option::EDE, len, code.code()] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(text);
}
