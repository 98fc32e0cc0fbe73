//! The DNS message format, as octets: names, questions, records, options (RFC 1035, RFC 6891).
//!
//! The answer path reads and writes messages here without allocating. Whatever
//! comes in is hostile: reading is bounded by the message, and a name's
//! compression pointers only ever lead backwards.

mod header;
mod message;
mod name;
mod query;
mod registry;
mod reply;

pub use header::{Header, flags};
pub use message::{Message, ParseError, Record, Records, read_name, skip_name};
pub use name::{MAX_LABEL, MAX_NAME, Name, NameError};
pub(crate) use query::split_option;
pub use query::{Edns, Malformed, Query};
pub use registry::{Class, Ede, Opcode, Rcode, Section, Type, option};
pub(crate) use reply::push_ede;
pub use reply::{Hop, Note, Reply, UDP_PAYLOAD, bad_cookie, finish, malformed, truncated};

#[cfg(test)]
mod tests;
