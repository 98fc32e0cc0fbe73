//! Trust anchors: what validation begins with (RFC 4033 section 4.4).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_proto::serialize::txt::Parser;

/// The keys of the root, as IANA publishes them: 20326 (2017) and 38696 (2024).
const ROOT: &str = "\
. 3600 IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D
. 3600 IN DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16
";

/// Zones whose keys are known from elsewhere.
#[derive(Clone, Debug)]
pub struct Anchors(BTreeMap<Name, Anchor>);

/// What is known of a zone's keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Anchor {
    pub(super) ds: Vec<DS>,
    pub(super) keys: Vec<DNSKEY>,
}

impl Anchors {
    /// The root's.
    ///
    /// # Panics
    ///
    /// Never: what is built in can be read.
    #[must_use]
    pub fn root() -> Self {
        Self::parse(ROOT).unwrap_or_else(|error| unreachable!("the built-in anchors: {error}"))
    }

    /// Those in a file of DS and DNSKEY records in presentation format.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or holds anything else, or nothing.
    pub fn from_file(file: &Path) -> Result<Self, AnchorsError> {
        let named = || file.to_owned();
        let text = fs::read_to_string(file)
            .map_err(|source| AnchorsError::Read { file: named(), source })?;
        Self::parse(&text).map_err(|reason| AnchorsError::Form { file: named(), reason })
    }

    fn parse(text: &str) -> Result<Self, String> {
        // How long they hold is nobody's business; the parser wants it said.
        let parser = Parser::new(format!("$TTL 3600\n{text}"), None, Some(Name::root()));
        let (_, sets) = parser.parse().map_err(|error| error.to_string())?;
        let mut anchors: BTreeMap<Name, Anchor> = BTreeMap::new();
        for record in sets.values().flat_map(|set| set.records_without_rrsigs()) {
            let anchor = anchors.entry(record.name.clone()).or_default();
            if let RData::DNSSEC(DNSSECRData::DS(ds)) = &record.data {
                anchor.ds.push(ds.clone());
            } else if let RData::DNSSEC(DNSSECRData::DNSKEY(key)) = &record.data {
                anchor.keys.push(key.clone());
            } else {
                return Err(other(&record.name, record.record_type()));
            }
        }
        if anchors.is_empty() {
            return Err("there is no DS or DNSKEY record in it".to_owned());
        }
        Ok(Self(anchors))
    }

    /// The anchor of `zone` itself.
    pub(super) fn of(&self, zone: &Name) -> Option<&Anchor> {
        self.0.get(zone)
    }

    /// The closest zone at or above `name` that has an anchor.
    pub(super) fn above(&self, name: &Name) -> Option<&Name> {
        self.0.keys().filter(|zone| zone.zone_of(name)).max_by_key(|zone| zone.num_labels())
    }
}

fn other(name: &Name, rtype: RecordType) -> String {
    format!("{name} {rtype}: only DS and DNSKEY records are anchors")
}

/// Why a file of trust anchors cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorsError {
    /// It is not what it should be.
    #[error(
        "{}: {reason}; write DS or DNSKEY records, as `dig . DNSKEY` prints them",
        file.display()
    )]
    Form {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}
