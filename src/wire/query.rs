//! Reads a client's question.

use super::{
    Class, Header, MAX_LABEL, MAX_NAME, Message, Opcode, Rcode, Record, Type, flags, option,
};

/// A client's question, ready to be looked up.
#[derive(Clone, Copy, Debug)]
pub struct Query<'p> {
    /// The header as it came.
    pub header: Header,
    /// The question's name, type and class as they came, for the reply to repeat.
    pub question: &'p [u8],
    /// What is asked for.
    pub qtype: Type,
    /// In which class.
    pub class: Class,
    /// The OPT record, if there is one.
    pub edns: Option<Edns<'p>>,
    key: [u8; MAX_NAME + 4],
    key_len: usize,
}

/// What a client says in its OPT record (RFC 6891 section 6.1).
#[derive(Clone, Copy, Debug)]
pub struct Edns<'p> {
    /// The largest UDP payload the client takes.
    pub udp_size: u16,
    /// DNSSEC records are wanted (RFC 3225).
    pub dnssec_ok: bool,
    /// The content of its cookie option: 8 octets of its own, and 8 to 32 of a server's
    /// behind them if it has any (RFC 7873 section 4).
    pub cookie: Option<&'p [u8]>,
    /// It asks for how long an idle connection is kept (RFC 7828).
    pub keepalive: bool,
    /// Its question is padded (RFC 7830).
    pub padded: bool,
}

/// Why a packet is no question that could be answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed<'p> {
    /// Shorter than a header, or itself a response: no reply may be sent (it could make a loop).
    Drop,
    /// The reply is this error; [`super::malformed`] writes it.
    Reply {
        /// The error.
        rcode: Rcode,
        /// The question to repeat; empty if it could not be read.
        question: &'p [u8],
    },
}

impl<'p> Query<'p> {
    /// Reads a packet. Octets behind the message are ignored.
    ///
    /// # Errors
    ///
    /// Whatever is not a standard query with one question; says what to do about it.
    pub fn parse(packet: &'p [u8]) -> Result<Self, Malformed<'p>> {
        let header = Header::read(packet).ok_or(Malformed::Drop)?;
        if header.has(flags::QR) {
            return Err(Malformed::Drop);
        }
        if header.opcode() != Opcode::QUERY {
            return Err(Malformed::Reply { rcode: Rcode::NOTIMP, question: &[] });
        }
        let unread = Malformed::Reply { rcode: Rcode::FORMERR, question: &[] };
        // IXFR carries an SOA record in the authority section (RFC 1995 section 3).
        if !matches!(header.counts, [1, 0, 0..=1, 0..=2]) {
            return Err(unread);
        }
        let mut key = [0; MAX_NAME + 4];
        let key_len = canonical_question(packet, &mut key).ok_or(unread)?;
        let [.., t0, t1, c0, c1] = key[..key_len] else { return Err(unread) };
        let message = Message::behind(packet, header, Header::LEN + key_len);
        let question = message.question();

        let error = |rcode| Malformed::Reply { rcode, question };
        let mut edns = None;
        for record in message.records() {
            let record = record.map_err(|_| error(Rcode::FORMERR))?;
            if record.rtype != Type::OPT {
                continue;
            }
            // More than one OPT is an error (RFC 6891 section 6.1.1).
            if edns.is_some() {
                return Err(error(Rcode::FORMERR));
            }
            edns = Some(Edns::read(packet, &record).map_err(error)?);
        }
        Ok(Self {
            header,
            question,
            qtype: Type(u16::from_be_bytes([t0, t1])),
            class: Class(u16::from_be_bytes([c0, c1])),
            edns,
            key,
            key_len,
        })
    }

    /// The question in canonical form: the name lower-cased, then type and class.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key[..self.key_len]
    }

    /// The name in canonical form (RFC 4034 section 6.2).
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.key[..self.key_len - 4]
    }

    /// Whether DNSSEC records are wanted (RFC 3225).
    #[must_use]
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Whether the client validates for itself and wants even what fails (RFC 4035 section 3.2.2).
    #[must_use]
    pub const fn checking_disabled(&self) -> bool {
        self.header.has(flags::CD)
    }

    /// Whether the client understands the AD bit (RFC 6840 section 5.7).
    #[must_use]
    pub fn wants_authentic_data(&self) -> bool {
        self.header.has(flags::AD) || self.dnssec_ok()
    }
}

impl<'p> Edns<'p> {
    fn read(packet: &[u8], record: &Record<'p>) -> Result<Self, Rcode> {
        if packet.get(record.owner_at) != Some(&0) {
            return Err(Rcode::FORMERR);
        }
        let [_, version, high, _] = record.ttl.to_be_bytes();
        if version != 0 {
            return Err(Rcode::BADVERS);
        }
        let mut edns = Self {
            udp_size: record.class.0,
            dnssec_ok: high & 0x80 != 0,
            cookie: None,
            keepalive: false,
            padded: false,
        };
        let mut rest = record.rdata;
        while let Some((code, content, tail)) = split_option(rest) {
            match code {
                // Of several, the first counts (RFC 7873 section 5.2).
                option::COOKIE if edns.cookie.is_none() => {
                    if !matches!(content.len(), 8 | 16..=40) {
                        return Err(Rcode::FORMERR);
                    }
                    edns.cookie = Some(content);
                }
                option::TCP_KEEPALIVE => edns.keepalive = true,
                option::PADDING => edns.padded = true,
                _ => {}
            }
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(Rcode::FORMERR);
        }
        Ok(edns)
    }
}

/// Splits the first option off an OPT record's data: code, content, the rest.
pub(crate) fn split_option(options: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (&[c0, c1, l0, l1], rest) = options.split_first_chunk::<4>()?;
    let (content, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
    Some((u16::from_be_bytes([c0, c1]), content, rest))
}

/// Copies the question behind the header in canonical form; returns its length.
fn canonical_question(packet: &[u8], key: &mut [u8; MAX_NAME + 4]) -> Option<usize> {
    let octets = packet.get(Header::LEN..)?;
    let mut end = 0;
    loop {
        let len = usize::from(*octets.get(end)?);
        end += 1 + len;
        // A question's name has nothing before it that it could point to.
        match len {
            0 => break,
            1..=MAX_LABEL if end < MAX_NAME => {}
            _ => return None,
        }
    }
    key[..end].copy_from_slice(octets.get(..end)?);
    key[..end].make_ascii_lowercase();
    key[end..end + 4].copy_from_slice(octets.get(end..end + 4)?);
    Some(end + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Pi.Lan A IN`, RD and CD set, then `additional` records.
    fn packet(additional: &[&[u8]]) -> Vec<u8> {
        let header = Header {
            id: 0x1234,
            flags: flags::RD | flags::CD,
            counts: [1, 0, 0, u16::try_from(additional.len()).unwrap()],
        };
        let mut octets = header.to_octets().to_vec();
        octets.extend(b"\x02Pi\x03Lan\0\0\x01\0\x01");
        octets.extend(additional.concat());
        octets
    }

    fn error(packet: &[u8]) -> Malformed<'_> {
        Query::parse(packet).unwrap_err()
    }

    const OPT: &[u8] = b"\0\0\x29\x10\0\0\0\x80\0\0\x0c\0\x0a\0\x08cookie!!";

    #[test]
    fn a_question_is_read_with_its_flags_and_options() {
        let packet = packet(&[OPT]);

        let query = Query::parse(&packet).unwrap();

        assert_eq!(query.header.id, 0x1234);
        assert_eq!(query.question, b"\x02Pi\x03Lan\0\0\x01\0\x01");
        assert_eq!(query.key(), b"\x02pi\x03lan\0\0\x01\0\x01");
        assert_eq!(query.name(), b"\x02pi\x03lan\0");
        assert_eq!((query.qtype, query.class), (Type::A, Class::IN));
        assert!(query.dnssec_ok() && query.checking_disabled());
        let edns = query.edns.unwrap();
        assert_eq!((edns.udp_size, edns.cookie), (4096, Some(&b"cookie!!"[..])));
    }

    #[test]
    fn responses_and_runts_are_dropped() {
        let mut response = packet(&[]);
        response[2] |= 0x80;

        assert_eq!(error(&response), Malformed::Drop);
        assert_eq!(error(&packet(&[])[..11]), Malformed::Drop);
    }

    #[test]
    fn what_cannot_be_answered_names_its_error() {
        let rcode = |packet: &[u8]| match error(packet) {
            Malformed::Reply { rcode, .. } => rcode,
            Malformed::Drop => panic!("dropped"),
        };
        let whole = packet(&[OPT]);

        let mut notify = whole.clone();
        notify[2] |= 4 << 3;
        assert_eq!(rcode(&notify), Rcode::NOTIMP);
        let mut two_questions = whole.clone();
        two_questions[5] = 2;
        assert_eq!(rcode(&two_questions), Rcode::FORMERR);
        assert_eq!(rcode(&whole[..20]), Rcode::FORMERR);
        assert_eq!(rcode(&whole[..whole.len() - 1]), Rcode::FORMERR);
        assert_eq!(rcode(&packet(&[OPT, OPT])), Rcode::FORMERR);
        assert_eq!(rcode(&packet(&[b"\x01x\0\0\x29\x10\0\0\0\0\0\0\0"])), Rcode::FORMERR);
        assert_eq!(rcode(&packet(&[b"\0\0\x29\x10\0\0\x01\0\0\0\0"])), Rcode::BADVERS);
        assert_eq!(rcode(&packet(&[b"\0\0\x29\x10\0\0\0\0\0\0\x03\0\x0a\0"])), Rcode::FORMERR);
    }

    #[test]
    fn a_compressed_question_is_refused() {
        let mut octets = packet(&[]);
        octets.splice(12..20, *b"\xc0\x0c");

        assert_eq!(error(&octets), Malformed::Reply { rcode: Rcode::FORMERR, question: &[] });
    }
}
