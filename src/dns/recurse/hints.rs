//! Where the root is: the built-in addresses of its servers, or those of a file.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hickory_proto::rr::{Name, RecordSet};
use hickory_proto::serialize::txt::Parser;
use thiserror::Error;

/// The addresses of the root's servers, <https://www.iana.org/domains/root/servers>, in the order
/// of their letters. They change about once in a decade; priming finds the others.
const ROOT: [&str; 26] = [
    "198.41.0.4",
    "2001:503:ba3e::2:30",
    "170.247.170.2",
    "2801:1b8:10::b",
    "192.33.4.12",
    "2001:500:2::c",
    "199.7.91.13",
    "2001:500:2d::d",
    "192.203.230.10",
    "2001:500:a8::e",
    "192.5.5.241",
    "2001:500:2f::f",
    "192.112.36.4",
    "2001:500:12::d0d",
    "198.97.190.53",
    "2001:500:1::53",
    "192.36.148.17",
    "2001:7fe::53",
    "192.58.128.30",
    "2001:503:c27::2:30",
    "193.0.14.129",
    "2001:7fd::1",
    "199.7.83.42",
    "2001:500:9f::42",
    "202.12.27.33",
    "2001:dc3::35",
];

/// Addresses read from a file at most.
const ADDRESSES_MAX: usize = 64;
/// Octets of a file of hints at most; that of the root has 3 KiB.
const FILE_MAX: u64 = 64 * 1024;

/// Addresses of servers of the root zone, at least one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hints(Vec<IpAddr>);

impl Hints {
    /// Those of the Internet's root.
    #[must_use]
    pub fn built_in() -> Self {
        Self(ROOT.iter().filter_map(|text| text.parse().ok()).collect())
    }

    /// Those of a file in the format of zone files, as <https://www.internic.net/domain/named.root>.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is no zone file, or holds no address.
    pub fn from_file(path: &Path) -> Result<Self, HintsError> {
        let error = |what| HintsError { path: path.to_owned(), what };
        let unreadable = |why: std::io::Error| error(Fault::Unreadable(why.to_string()));
        let length = fs::metadata(path).map_err(unreadable)?.len();
        if length > FILE_MAX {
            return Err(error(Fault::Long(length)));
        }
        Self::parse(&fs::read_to_string(path).map_err(unreadable)?).map_err(error)
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let (_, zone) = Parser::new(text, None, Some(Name::root()))
            .parse()
            .map_err(|why| Fault::Malformed(why.to_string()))?;
        let records = zone.values().flat_map(RecordSet::records_without_rrsigs);
        let addresses: Vec<_> =
            records.filter_map(|record| record.data.ip_addr()).take(ADDRESSES_MAX).collect();
        if addresses.is_empty() { Err(Fault::Empty) } else { Ok(Self(addresses)) }
    }

    /// The addresses.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.0
    }
}

/// Why a file gives no hints.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("root hints {}: {what}", path.display())]
pub struct HintsError {
    path: PathBuf,
    what: Fault,
}

#[derive(Clone, Debug, Eq, Error, PartialEq)]
enum Fault {
    #[error("it holds no A or AAAA record of a root server")]
    Empty,
    #[error("{0} octets; root hints have some 3,000")]
    Long(u64),
    #[error("not a zone file: {0}")]
    Malformed(String),
    #[error("{0}")]
    Unreadable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirteen_servers_of_two_families_are_built_in() {
        let hints = Hints::built_in();

        assert_eq!(hints.addresses().len(), ROOT.len());
        assert_eq!(hints.addresses().iter().filter(|address| address.is_ipv4()).count(), 13);
    }

    #[test]
    fn hints_are_read_as_the_internic_writes_them() {
        let text = "; comment\n.                        3600000      NS    A.ROOT-SERVERS.NET.\n\
                    A.ROOT-SERVERS.NET.      3600000      A     198.41.0.4\n\
                    A.ROOT-SERVERS.NET.      3600000      AAAA  2001:503:ba3e::2:30\n";

        let mut addresses = Hints::parse(text).unwrap().0;

        addresses.sort_unstable();
        assert_eq!(
            addresses,
            ["198.41.0.4", "2001:503:ba3e::2:30"].map(|it| it.parse::<IpAddr>().unwrap())
        );
    }

    #[test]
    fn hints_without_addresses_are_refused() {
        assert_eq!(Hints::parse(""), Err(Fault::Empty));
        assert_eq!(Hints::parse(". 60 NS A.\n"), Err(Fault::Empty));
        assert!(matches!(Hints::parse("a b c d e f"), Err(Fault::Malformed(_))));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Hints::from_file(Path::new("/nonexistent/named.root")).unwrap_err();

        assert!(error.to_string().starts_with("root hints /nonexistent/named.root: No such file"));
    }
}
