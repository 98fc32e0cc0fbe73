//! The twelve octets in front of every message.

use super::{Opcode, Rcode};

/// Bits of the header's second word (RFC 1035 section 4.1.1, RFC 4035 section 3.1.6).
pub mod flags {
    /// The message is a response.
    pub const QR: u16 = 0x8000;
    /// The responder is an authority for the name.
    pub const AA: u16 = 0x0400;
    /// The message was cut to fit.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// Reserved, must be zero.
    pub const Z: u16 = 0x0040;
    /// Authentic data: the responder has validated the answer.
    pub const AD: u16 = 0x0020;
    /// Checking disabled: the asker validates for itself.
    pub const CD: u16 = 0x0010;
}

/// A message header (RFC 1035 section 4.1.1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Header {
    /// Joins a response to its question.
    pub id: u16,
    /// Opcode, response code and the bits of [`flags`].
    pub flags: u16,
    /// Entries in the question, answer, authority and additional section.
    pub counts: [u16; 4],
}

impl Header {
    /// Its length in octets.
    pub const LEN: usize = 12;

    /// Reads the header; `None` if the message is shorter than one.
    #[must_use]
    pub fn read(octets: &[u8]) -> Option<Self> {
        let head = octets.first_chunk::<{ Self::LEN }>()?;
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        Some(Self { id: word(0), flags: word(2), counts: [word(4), word(6), word(8), word(10)] })
    }

    /// The header as octets.
    #[must_use]
    pub fn to_octets(self) -> [u8; Self::LEN] {
        let [i0, i1] = self.id.to_be_bytes();
        let [f0, f1] = self.flags.to_be_bytes();
        let [[q0, q1], [n0, n1], [u0, u1], [d0, d1]] = self.counts.map(u16::to_be_bytes);
        [i0, i1, f0, f1, q0, q1, n0, n1, u0, u1, d0, d1]
    }

    /// Writes this header over the one that `message` begins with.
    pub fn patch(self, message: &mut [u8]) {
        if let Some(head) = message.first_chunk_mut::<{ Self::LEN }>() {
            *head = self.to_octets();
        }
    }

    /// Whether all bits of `mask` are set.
    #[must_use]
    pub const fn has(&self, mask: u16) -> bool {
        self.flags & mask == mask
    }

    /// The same header with the bits of `mask` set or cleared.
    #[must_use]
    pub const fn with(mut self, mask: u16, set: bool) -> Self {
        if set {
            self.flags |= mask;
        } else {
            self.flags &= !mask;
        }
        self
    }

    /// What kind of operation the message is about.
    #[must_use]
    pub const fn opcode(&self) -> Opcode {
        Opcode((self.flags >> 11 & 0xf) as u8)
    }

    /// The lower four bits of the response code; the rest is in the OPT record.
    #[must_use]
    pub const fn rcode(&self) -> Rcode {
        Rcode(self.flags & 0xf)
    }
}
