//! Walks a message record by record.

use super::{Class, Header, MAX_NAME, Section, Type};

/// Why octets are no DNS message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The message ends within something.
    #[error("the message ends within its {0}")]
    Short(&'static str),
    /// A name that is too long, or whose compression pointer does not lead backwards.
    #[error("a name at octet {0} is malformed")]
    Name(usize),
    /// Other than one question.
    #[error("{0} questions in one message")]
    Questions(u16),
}

/// A message with one question, as it stands on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Message<'m> {
    octets: &'m [u8],
    header: Header,
    records_at: usize,
}

impl<'m> Message<'m> {
    /// Reads header and question; the records are read by [`Self::records`].
    ///
    /// # Errors
    ///
    /// If there is no header, other than one question, or the question is cut off.
    pub fn parse(octets: &'m [u8]) -> Result<Self, ParseError> {
        let header = Header::read(octets).ok_or(ParseError::Short("header"))?;
        if header.counts[0] != 1 {
            return Err(ParseError::Questions(header.counts[0]));
        }
        let name_end = skip_name(octets, Header::LEN).ok_or(ParseError::Name(Header::LEN))?;
        let records_at = name_end + 4;
        if records_at > octets.len() {
            return Err(ParseError::Short("question"));
        }
        Ok(Self { octets, header, records_at })
    }

    /// A message whose header and question, which ends at `records_at`, have been read.
    pub(super) const fn behind(octets: &'m [u8], header: Header, records_at: usize) -> Self {
        Self { octets, header, records_at }
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// The question: name, type and class as they stand.
    #[must_use]
    pub fn question(&self) -> &'m [u8] {
        self.octets.get(Header::LEN..self.records_at).unwrap_or_default()
    }

    /// The records of all sections, in order; ends after the first error.
    #[must_use]
    pub fn records(&self) -> Records<'m> {
        let [_, answers, authorities, additionals] = self.header.counts;
        Records {
            octets: self.octets,
            at: self.records_at,
            left: [answers, authorities, additionals],
        }
    }
}

/// The records of a message, in order. Made by [`Message::records`].
#[derive(Clone, Debug)]
pub struct Records<'m> {
    octets: &'m [u8],
    at: usize,
    left: [u16; 3],
}

impl<'m> Records<'m> {
    fn read(&mut self, section: Section) -> Result<Record<'m>, ParseError> {
        let owner_at = self.at;
        let fixed_at = skip_name(self.octets, owner_at).ok_or(ParseError::Name(owner_at))?;
        let fixed = self
            .octets
            .get(fixed_at..)
            .and_then(<[u8]>::first_chunk::<10>)
            .ok_or(ParseError::Short("record"))?;
        let &[t0, t1, c0, c1, ttl0, ttl1, ttl2, ttl3, len0, len1] = fixed;
        let rdata_at = fixed_at + fixed.len();
        let end = rdata_at + usize::from(u16::from_be_bytes([len0, len1]));
        let rdata = self.octets.get(rdata_at..end).ok_or(ParseError::Short("record data"))?;
        self.at = end;
        Ok(Record {
            section,
            owner_at,
            rtype: Type(u16::from_be_bytes([t0, t1])),
            class: Class(u16::from_be_bytes([c0, c1])),
            ttl: u32::from_be_bytes([ttl0, ttl1, ttl2, ttl3]),
            ttl_at: fixed_at + 4,
            rdata,
            rdata_at,
        })
    }
}

impl<'m> Iterator for Records<'m> {
    type Item = Result<Record<'m>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        const ORDER: [Section; 3] = [Section::Answer, Section::Authority, Section::Additional];
        let (left, section) = self.left.iter_mut().zip(ORDER).find(|(left, _)| **left > 0)?;
        *left -= 1;
        let record = self.read(section);
        if record.is_err() {
            self.left = [0; 3];
        }
        Some(record)
    }
}

/// A resource record, by its places in the message (RFC 1035 section 4.1.3).
#[derive(Clone, Copy, Debug)]
pub struct Record<'m> {
    /// The section it stands in.
    pub section: Section,
    /// Where its owner name begins, for [`read_name`].
    pub owner_at: usize,
    /// Its type.
    pub rtype: Type,
    /// Its class; the requestor's payload size in OPT.
    pub class: Class,
    /// Its time to live in seconds, as it stands; flags and version in OPT.
    pub ttl: u32,
    /// Where the time to live stands.
    pub ttl_at: usize,
    /// Its data; names in it may be compressed.
    pub rdata: &'m [u8],
    /// Where the data begins.
    pub rdata_at: usize,
}

impl Record<'_> {
    /// The last field of an SOA record, the ceiling of negative answers (RFC 2308 section 4).
    #[must_use]
    pub fn soa_minimum(&self) -> Option<u32> {
        // Two names of one octet at least, and five numbers.
        let minimum = self.rdata.last_chunk::<4>().filter(|_| self.rdata.len() >= 22)?;
        (self.rtype == Type::SOA).then(|| u32::from_be_bytes(*minimum))
    }
}

/// The octet behind the name at `at`; `None` if the name is malformed or leads forwards.
#[must_use]
pub fn skip_name(message: &[u8], at: usize) -> Option<usize> {
    let mut next = at;
    loop {
        let len = *message.get(next)?;
        match len {
            0 => return (next - at < MAX_NAME).then_some(next + 1),
            1..=0x3f => next += usize::from(len) + 1,
            0xc0.. => {
                let target = pointer(message, next)?;
                return (target < at && next - at < MAX_NAME).then_some(next + 2);
            }
            // Label types 01 and 10 never came into use (RFC 6891 section 5).
            _ => return None,
        }
    }
}

/// Reads the name at `at` uncompressed and lower-cased into `name`, and returns its length.
///
/// `None` if it is malformed: longer than 255 octets, cut off, or with a
/// pointer that does not lead backwards.
#[must_use]
pub fn read_name(message: &[u8], at: usize, name: &mut [u8; MAX_NAME]) -> Option<usize> {
    let (mut at, mut floor, mut filled) = (at, at, 0);
    loop {
        let len = *message.get(at)?;
        match len {
            0..=0x3f => {
                let end = at + usize::from(len) + 1;
                let label = message.get(at..end)?;
                let room = name.get_mut(filled..filled + label.len())?;
                room.copy_from_slice(label);
                room.make_ascii_lowercase();
                filled += label.len();
                if len == 0 {
                    return Some(filled);
                }
                at = end;
            }
            0xc0.. => {
                at = pointer(message, at)?;
                // Each jump leads before the last one, so there are fewer jumps than octets.
                if at >= floor {
                    return None;
                }
                floor = at;
            }
            _ => return None,
        }
    }
}

fn pointer(message: &[u8], at: usize) -> Option<usize> {
    let two = message.get(at..)?.first_chunk::<2>()?;
    Some(usize::from(u16::from_be_bytes(*two) & 0x3fff))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_read_through_pointers_that_lead_backwards() {
        let message = b"\x03Lan\0\x02Pi\xc0\x00";
        let mut name = [0; MAX_NAME];

        let len = read_name(message, 5, &mut name).unwrap();

        assert_eq!(&name[..len], b"\x02pi\x03lan\0");
        assert_eq!(skip_name(message, 5), Some(10));
    }

    #[test]
    fn loops_forward_pointers_and_overlong_names_are_refused() {
        let mut name = [0; MAX_NAME];
        assert_eq!(read_name(b"\xc0\x00", 0, &mut name), None);
        assert_eq!(read_name(b"\x01a\xc0\x00", 0, &mut name), None);
        assert_eq!(read_name(b"\xc0\x02\0", 0, &mut name), None);
        assert_eq!(skip_name(b"\xc0\x02\0", 0), None);
        assert_eq!(read_name(b"\x40", 0, &mut name), None);

        let long = [b"\x3f".as_slice(), &[b'x'; 63]].concat().repeat(4);
        let long = [&long, b"\0".as_slice()].concat();
        assert_eq!(read_name(&long, 0, &mut name), None);
        assert_eq!(skip_name(&long, 0), None);
    }

    proptest! {
        #[test]
        fn no_octets_make_the_walker_panic_or_run_away(
            octets in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let mut name = [0; MAX_NAME];
            if let Ok(message) = Message::parse(&octets) {
                for record in message.records().flatten() {
                    prop_assert!(record.rdata_at + record.rdata.len() <= octets.len());
                    prop_assert!(record.ttl_at + 10 <= record.rdata_at + 4);
                    let _ = read_name(&octets, record.owner_at, &mut name);
                }
            }
        }
    }
}
