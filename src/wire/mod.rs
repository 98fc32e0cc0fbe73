//! The DNS message format, as octets: names, questions, records, options (RFC 1035, RFC 6891).

mod name;

pub use name::{MAX_LABEL, MAX_NAME, Name, NameError};
