//! An upstream's answer in the form it is kept in.

use std::fmt;

use triomphe::ThinArc;

use super::Key;
use super::entry::Entry;
use crate::wire::{
    Class, Ede, Header, Hop, Message, Note, Opcode, ParseError, Query, Rcode, Record, Section,
    Type, finish, flags, option, push_ede, split_option,
};

/// The longest that a failure is remembered, in seconds. RFC 9520 section 3.2 allows up to five
/// minutes; an upstream that has come back should not wait that long.
const FAILURE_TTL: u32 = 5;

/// The longest lifetime of an answer whose chain's dates were accepted under rule R alone, in
/// seconds.
const RELAXED_TTL: u32 = 60;

/// A whole answer: header, question and records as they came, the OPT record taken out.
///
/// Times to live are clamped once, here, so that sending is copying and subtracting.
/// A clone is the same answer once more.
#[derive(Clone)]
pub struct Answer(
    /// The message, then the upstream's EDE options, then where each time to live stands
    /// (16 bits each): one allocation for an entry that a cache holds by the hundred thousand.
    ThinArc<Head, u8>,
);

/// What stands in front of the octets.
#[derive(Debug)]
struct Head {
    entry: Entry,
    lifetime: u32,
    message_len: u16,
    options_len: u16,
    question_len: u16,
}

/// Within what bounds times to live are kept, in seconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Shorter ones are made this long.
    pub min: u32,
    /// Longer ones are cut to this; it goes before `min`.
    pub max: u32,
}

/// How times to live are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ttl {
    /// As they were so many seconds ago, less that.
    Aged(u32),
    /// All alike (RFC 8767 section 4 recommends 30 s for stale answers).
    Fixed(u32),
}

impl Ttl {
    /// What is left of a time to live.
    #[must_use]
    pub const fn of(self, ttl: u32) -> u32 {
        match self {
            Self::Aged(age) => ttl.saturating_sub(age),
            Self::Fixed(secs) => secs,
        }
    }
}

/// Why an upstream's message is no answer to a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Longer than a message can be.
    #[error("the answer has {0} octets")]
    Long(usize),
    /// It cannot be read.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// A query, or an operation other than one.
    #[error("the message is not a response to a query")]
    NotAResponse,
    /// It answers something else.
    #[error("the answer is to another question")]
    OtherQuestion,
    /// A code that only the one who asked the upstream can make sense of.
    #[error("the upstream answered {0}")]
    Extended(Rcode),
}

impl Answer {
    /// Takes an upstream's answer to `question`, which is in canonical form.
    ///
    /// Times to live are kept within `ttls`; with `relaxed` they are cut to 60 s, and the answer
    /// no longer claims to be validated. Of records behind the OPT record in the additional
    /// section, which no resolver sends, nothing is kept.
    ///
    /// # Errors
    ///
    /// If the message is not a response to this question.
    pub fn new(
        message: &[u8],
        question: &[u8],
        ttls: Bounds,
        relaxed: bool,
    ) -> Result<Self, AnswerError> {
        Self::taken(message, question, &[], ttls, relaxed)
    }

    /// An answer as it was kept before: its [`Self::message`] and [`Self::options`].
    ///
    /// # Errors
    ///
    /// As [`Self::new`]: the octets are believed no more than an upstream's.
    pub(super) fn again(message: &[u8], options: &[u8]) -> Result<Self, AnswerError> {
        let question = Message::parse(message)?.question();
        Self::taken(message, question, options, Bounds { min: 0, max: u32::MAX }, false)
    }

    fn taken(
        message: &[u8],
        question: &[u8],
        options: &[u8],
        ttls: Bounds,
        relaxed: bool,
    ) -> Result<Self, AnswerError> {
        if message.len() > usize::from(u16::MAX) {
            return Err(AnswerError::Long(message.len()));
        }
        let parsed = Message::parse(message)?;
        let header = parsed.header();
        if !header.has(flags::QR) || header.opcode() != Opcode::QUERY {
            return Err(AnswerError::NotAResponse);
        }
        if !parsed.question().eq_ignore_ascii_case(question) {
            return Err(AnswerError::OtherQuestion);
        }
        let max = if relaxed { ttls.max.min(RELAXED_TTL) } else { ttls.max };
        let ttls = Bounds { min: ttls.min.min(max), max };
        let mut kept = Kept::new(message, question);
        kept.take_errors(options);
        let mut counts = [1, 0, 0, 0];
        let mut end = Header::LEN + question.len();
        for record in parsed.records() {
            let record = record?;
            if record.rtype == Type::OPT {
                kept.take_options(&record, header)?;
                break;
            }
            kept.take_ttl(&record, ttls);
            counts[1 + record.section as usize] += 1;
            end = record.rdata_at + record.rdata.len();
        }
        let header = Header { counts, ..header }
            .with(flags::Z, false)
            .with(flags::AD, header.has(flags::AD) && !relaxed)
            // Whoever is asked here is no authority for it (RFC 1035 section 4.1.1).
            .with(flags::AA, false);
        Ok(kept.pack(header, end, ttls))
    }

    /// The failure to find an answer to `question`, to be remembered for `lifetime` seconds
    /// (RFC 9520).
    #[must_use]
    pub fn failure(question: &[u8], code: Ede, text: &str, lifetime: u32) -> Self {
        let header = Header {
            id: 0,
            flags: flags::QR | flags::RA | Rcode::SERVFAIL.0,
            counts: [1, 0, 0, 0],
        };
        let message = [&header.to_octets(), question].concat();
        let mut kept = Kept::new(&message, question);
        push_ede(&mut kept.options, code, text);
        kept.pack(header, message.len(), Bounds { min: 0, max: lifetime })
    }

    /// The answer that the name of `question` does not exist, because this server's operator says
    /// so; `text` tells clients why (RFC 8914 section 4.16). It holds for `lifetime` seconds.
    #[must_use]
    pub fn blocked(question: &[u8], text: &str, lifetime: u32) -> Self {
        let header = Header {
            id: 0,
            flags: flags::QR | flags::RA | Rcode::NXDOMAIN.0,
            counts: [1, 0, 1, 0],
        };
        let mut message = [&header.to_octets(), question].concat();
        // An SOA record at the name itself, so that clients keep the denial no longer
        // (RFC 2308 section 5); both its names are the root.
        for word in [0xc00c, Type::SOA.0, Class::IN.0] {
            message.extend_from_slice(&word.to_be_bytes());
        }
        message.extend_from_slice(&lifetime.to_be_bytes());
        message.extend_from_slice(&[0, 22, 0, 0]);
        for number in [1, 3600, 600, 86_400, lifetime] {
            message.extend_from_slice(&number.to_be_bytes());
        }
        let mut kept = Kept::new(&message, question);
        let bounds = Bounds { min: 0, max: lifetime };
        for record in Message::parse(&message).into_iter().flat_map(|it| it.records()).flatten() {
            kept.take_ttl(&record, bounds);
        }
        push_ede(&mut kept.options, Ede::Blocked, text);
        kept.pack(header, message.len(), bounds)
    }

    /// The same answer with other notes.
    pub(super) fn with(&self, entry: Entry) -> Self {
        let &Head { lifetime, message_len, options_len, question_len, .. } = self.head();
        let head = Head { entry, lifetime, message_len, options_len, question_len };
        Self(ThinArc::from_header_and_slice(head, self.octets()))
    }

    /// What the cache notes beside it.
    pub(super) fn entry(&self) -> &Entry {
        &self.head().entry
    }

    /// Whether it is kept as the answer to `key`.
    pub(super) fn is_for(&self, hash: u32, key: &Key<'_>) -> bool {
        self.entry().hash == hash && self.entry().is(key) && self.question() == key.question
    }

    /// The response code.
    #[must_use]
    pub fn rcode(&self) -> Rcode {
        Header::read(self.octets()).map_or(Rcode::SERVFAIL, |header| header.rcode())
    }

    /// For how many seconds it is fresh; 0: it may not be kept at all.
    #[must_use]
    pub fn lifetime(&self) -> u32 {
        self.head().lifetime
    }

    /// The canonical question it answers: name, type, class.
    #[must_use]
    pub fn question(&self) -> &[u8] {
        let end = Header::LEN + usize::from(self.head().question_len);
        self.octets().get(Header::LEN..end).unwrap_or_default()
    }

    /// The canonical name it is about.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.question().split_last_chunk::<4>().map_or(&[], |(name, _)| name)
    }

    /// The message, its times to live as they were at the start.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        self.octets().get(..usize::from(self.head().message_len)).unwrap_or_default()
    }

    /// Its octets, beside what every answer takes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.octets().len()
    }

    /// Writes the answer for the client who asked `query`, cut to what `hop` allows, with `ede`
    /// beside what the upstream said; what `out` held is replaced.
    pub fn write(
        &self,
        query: &Query<'_>,
        ttl: Ttl,
        ede: Option<(Ede, &str)>,
        hop: &Hop,
        out: &mut Vec<u8>,
    ) {
        out.clear();
        out.extend_from_slice(self.message());
        for at in self.ttls() {
            let Some(field) = out.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<4>) else {
                continue;
            };
            *field = ttl.of(u32::from_be_bytes(*field)).to_be_bytes();
        }
        if let Some(header) = Header::read(out) {
            // A stale answer's signatures may have run out: it is not passed on as validated.
            let authentic = query.wants_authentic_data() && matches!(ttl, Ttl::Aged(_));
            Header { id: query.header.id, ..header }
                .with(flags::RA, true)
                .with(flags::RD, query.header.has(flags::RD))
                .with(flags::CD, query.checking_disabled())
                .with(flags::AD, header.has(flags::AD) && authentic)
                .patch(out);
        }
        // In the letter case of this client (draft-vixie-dnsext-dns0x20).
        let asked = Header::LEN..Header::LEN + query.question.len();
        if let Some(question) = out.get_mut(asked) {
            question.copy_from_slice(query.question);
        }
        finish(out, query, Note { options: self.options(), ede }, hop);
    }

    /// What the upstream said beside the answer: EDE options, whole (RFC 8914).
    #[must_use]
    pub fn options(&self) -> &[u8] {
        let &Head { message_len, options_len, .. } = self.head();
        let start = usize::from(message_len);
        self.octets().get(start..start + usize::from(options_len)).unwrap_or_default()
    }

    /// Whether it says that the data does not validate (RFC 8914 sections 4.7 to 4.13).
    #[must_use]
    pub fn is_bogus(&self) -> bool {
        let mut options = self.options();
        while let Some((code, content, rest)) = split_option(options) {
            if code == option::EDE && matches!(content, [0, 6..=12, ..]) {
                return !self.rcode().is_answer();
            }
            options = rest;
        }
        false
    }

    fn ttls(&self) -> impl Iterator<Item = usize> {
        let &Head { message_len, options_len, .. } = self.head();
        let start = usize::from(message_len) + usize::from(options_len);
        let places = self.octets().get(start..).unwrap_or_default();
        places.chunks_exact(2).map(|at| usize::from(u16::from_be_bytes([at[0], at[1]])))
    }

    fn head(&self) -> &Head {
        &self.0.header.header
    }

    fn octets(&self) -> &[u8] {
        &self.0.slice
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("head", self.head()).finish_non_exhaustive()
    }
}

/// Bytes that an answer of so many octets takes: two words of its own, the head, and what the
/// system's allocator adds.
pub(super) const fn allocated(octets: usize) -> usize {
    (size_of::<Head>() + octets + 24).next_multiple_of(16)
}

/// What is gathered of a message on the way through.
struct Kept<'m> {
    message: Vec<u8>,
    question: &'m [u8],
    options: Vec<u8>,
    ttls: Vec<u16>,
    least: Option<u32>,
    /// The answer section holds a record of the type asked for.
    positive: bool,
    /// What SOA records of the authority section allow for a negative answer.
    negative: Option<u32>,
}

impl<'m> Kept<'m> {
    fn new(message: &[u8], question: &'m [u8]) -> Self {
        let mut message = message.to_vec();
        if let Some(place) = message.get_mut(Header::LEN..Header::LEN + question.len()) {
            place.copy_from_slice(question);
        }
        Self {
            message,
            question,
            options: Vec::new(),
            ttls: Vec::new(),
            least: None,
            positive: false,
            negative: None,
        }
    }

    fn take_ttl(&mut self, record: &Record<'_>, ttls: Bounds) {
        // The uppermost bit set means zero (RFC 2181 section 8).
        let ttl = if record.ttl >> 31 == 1 { 0 } else { record.ttl };
        let ttl = ttl.clamp(ttls.min, ttls.max);
        self.set_ttl(record.ttl_at, ttl);
        self.ttls.extend(u16::try_from(record.ttl_at));
        self.least = Some(self.least.map_or(ttl, |least| least.min(ttl)));
        match record.section {
            Section::Answer => {
                let [.., t0, t1, _, _] = *self.question else { return };
                let qtype = Type(u16::from_be_bytes([t0, t1]));
                self.positive |= record.rtype == qtype || qtype == Type::ANY;
            }
            Section::Authority => {
                if let Some(minimum) = record.soa_minimum() {
                    let ttl = ttl.min(minimum.max(ttls.min));
                    self.negative = Some(self.negative.map_or(ttl, |least| least.min(ttl)));
                }
            }
            Section::Additional => {}
        }
    }

    fn take_options(&mut self, opt: &Record<'_>, header: Header) -> Result<(), AnswerError> {
        let [extended, ..] = opt.ttl.to_be_bytes();
        if extended > 0 {
            let rcode = u16::from(extended) << 4 | header.rcode().0;
            return Err(AnswerError::Extended(Rcode(rcode)));
        }
        self.take_errors(opt.rdata);
        Ok(())
    }

    /// Of EDNS options, what is said about the answer.
    fn take_errors(&mut self, options: &[u8]) {
        let mut rest = options;
        while let Some((code, _, tail)) = split_option(rest) {
            if code == option::EDE {
                self.options.extend_from_slice(&rest[..rest.len() - tail.len()]);
            }
            rest = tail;
        }
    }

    fn set_ttl(&mut self, at: usize, ttl: u32) {
        if let Some(field) = self.message.get_mut(at..at + 4) {
            field.copy_from_slice(&ttl.to_be_bytes());
        }
    }

    fn pack(mut self, header: Header, end: usize, ttls: Bounds) -> Answer {
        let rcode = header.rcode();
        let negative = rcode == Rcode::NXDOMAIN || !self.positive;
        let lifetime = if header.has(flags::TC) {
            0
        } else if !rcode.is_answer() {
            FAILURE_TTL.min(ttls.max)
        } else if negative {
            // Without an SOA record it may not be kept (RFC 2308 section 5).
            self.negative.map_or(0, |ttl| ttl.min(self.least.unwrap_or(0)))
        } else {
            self.least.unwrap_or(0)
        };
        if negative && rcode.is_answer() {
            // What the client keeps must end with the negative answer (RFC 2308 section 5).
            for at in self.ttls.clone() {
                let at = usize::from(at);
                let ttl = self.message.get(at..).and_then(<[u8]>::first_chunk::<4>).copied();
                if let (Some(ttl), Some(_)) = (ttl, self.negative) {
                    self.set_ttl(at, u32::from_be_bytes(ttl).min(lifetime));
                }
            }
        }
        header.patch(&mut self.message);
        self.message.truncate(end);
        let message_len = u16::try_from(self.message.len()).unwrap_or(0);
        let options_len = u16::try_from(self.options.len()).unwrap_or(0);
        let question_len = u16::try_from(self.question.len()).unwrap_or(0);
        let mut octets = self.message;
        octets.extend_from_slice(&self.options);
        octets.extend(self.ttls.iter().flat_map(|at| at.to_be_bytes()));
        let head =
            Head { entry: Entry::default(), lifetime, message_len, options_len, question_len };
        Answer(ThinArc::from_header_and_slice(head, &octets))
    }
}
