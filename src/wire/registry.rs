//! Code points of IANA's "Domain Name System (DNS) Parameters", as far as they are spoken here.

use std::fmt;

/// A record type or question type; every value passes, known or not (RFC 3597).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Type(pub u16);

impl Type {
    /// IPv4 address.
    pub const A: Self = Self(1);
    /// Name server.
    pub const NS: Self = Self(2);
    /// Canonical name of an alias.
    pub const CNAME: Self = Self(5);
    /// Start of a zone of authority.
    pub const SOA: Self = Self(6);
    /// Pointer from an address to a name.
    pub const PTR: Self = Self(12);
    /// Host information; also the minimal answer to ANY (RFC 8482).
    pub const HINFO: Self = Self(13);
    /// Mail exchange.
    pub const MX: Self = Self(15);
    /// Text strings.
    pub const TXT: Self = Self(16);
    /// IPv6 address.
    pub const AAAA: Self = Self(28);
    /// Service location.
    pub const SRV: Self = Self(33);
    /// Pseudo-record of EDNS (RFC 6891).
    pub const OPT: Self = Self(41);
    /// First of the question and meta types (RFC 6895 section 3.1).
    pub const FIRST_META: Self = Self(128);
    /// Incremental zone transfer.
    pub const IXFR: Self = Self(251);
    /// Zone transfer.
    pub const AXFR: Self = Self(252);
    /// All records the responder cares to give (RFC 8482).
    pub const ANY: Self = Self(255);

    /// Whether this is a question or meta type other than ANY: transfers, TSIG, TKEY and the like.
    #[must_use]
    pub fn is_meta(self) -> bool {
        self == Self::OPT || (Self::FIRST_META..Self::ANY).contains(&self)
    }
}

/// A class; only `IN` is in use.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Class(pub u16);

impl Class {
    /// The Internet.
    pub const IN: Self = Self(1);
}

/// What kind of operation a message is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opcode(pub u8);

impl Opcode {
    /// A standard query.
    pub const QUERY: Self = Self(0);
}

/// A response code, the upper eight bits of which travel in the OPT record (RFC 6891 section 6.1.3).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Rcode(pub u16);

impl Rcode {
    /// No error.
    pub const NOERROR: Self = Self(0);
    /// The server could not read the question.
    pub const FORMERR: Self = Self(1);
    /// The server could not find the answer.
    pub const SERVFAIL: Self = Self(2);
    /// The name does not exist.
    pub const NXDOMAIN: Self = Self(3);
    /// The server does not do this kind of query.
    pub const NOTIMP: Self = Self(4);
    /// The server will not do this for the asker.
    pub const REFUSED: Self = Self(5);
    /// The server does not speak this version of EDNS.
    pub const BADVERS: Self = Self(16);
    /// The client is to ask again, with the server cookie in the reply (RFC 7873).
    pub const BADCOOKIE: Self = Self(23);

    /// Whether this is an answer about the name, and not a failure to find one (RFC 8767 section 4).
    #[must_use]
    pub fn is_answer(self) -> bool {
        matches!(self, Self::NOERROR | Self::NXDOMAIN)
    }
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NOERROR => f.write_str("NOERROR"),
            Self::FORMERR => f.write_str("FORMERR"),
            Self::SERVFAIL => f.write_str("SERVFAIL"),
            Self::NXDOMAIN => f.write_str("NXDOMAIN"),
            Self::NOTIMP => f.write_str("NOTIMP"),
            Self::REFUSED => f.write_str("REFUSED"),
            Self::BADVERS => f.write_str("BADVERS"),
            Self::BADCOOKIE => f.write_str("BADCOOKIE"),
            Self(code) => write!(f, "RCODE{code}"),
        }
    }
}

/// Extended DNS Errors: why an answer is what it is (RFC 8914 section 5.2).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u16)]
pub enum Ede {
    /// 6: The data is not what its owner has signed.
    DnssecBogus = 6,
    /// 7: No signature is valid any longer.
    SignatureExpired = 7,
    /// 8: No signature is valid yet.
    SignatureNotYetValid = 8,
    /// 9: The zone has not the key that its parent names.
    DnskeyMissing = 9,
    /// 10: What should be signed is not.
    RrsigsMissing = 10,
    /// 12: It is not proven that something does not exist.
    NsecMissing = 12,
    /// 15: The name is on a list of this server's operator.
    Blocked = 15,
    /// 22: No server of those that might know could be reached.
    NoReachableAuthority = 22,
    /// 23: Speaking to another server failed.
    NetworkError = 23,
    /// 21: The operation or question type is not supported.
    NotSupported = 21,
    /// 0: None of the others; see the text.
    Other = 0,
    /// 18: The client is not entitled to this service.
    Prohibited = 18,
    /// 3: The answer is past its time to live, since no fresh one could be had (RFC 8767).
    StaleAnswer = 3,
    /// 19: The same for a name that did not exist.
    StaleNxdomainAnswer = 19,
}

impl Ede {
    /// The registered code.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }
}

/// Option codes of the OPT record (RFC 6891 section 9).
pub mod option {
    /// DNS cookie (RFC 7873).
    pub const COOKIE: u16 = 10;
    /// How long an idle connection is kept (RFC 7828).
    pub const TCP_KEEPALIVE: u16 = 11;
    /// Padding (RFC 7830).
    pub const PADDING: u16 = 12;
    /// Extended DNS Error (RFC 8914).
    pub const EDE: u16 = 15;
}

/// The sections that hold records (RFC 1035 section 4.1).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Section {
    /// What was asked for.
    Answer,
    /// Who says so.
    Authority,
    /// What may be useful beside it.
    Additional,
}
