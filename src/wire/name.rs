//! Domain names in the one form used for comparing and hashing.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// The longest name on the wire, in octets, root label included (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 255;
/// The longest label, in octets (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;

/// A domain name: uncompressed wire format, lower-cased (RFC 4034 section 6.2).
///
/// Equal names have equal octets, whatever case they were asked in.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name(Box<[u8]>);

impl Name {
    /// The root.
    #[must_use]
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// Takes octets that are already an uncompressed wire name; any letter case.
    ///
    /// # Errors
    ///
    /// If the labels do not add up to exactly these octets.
    pub fn from_wire(octets: &[u8]) -> Result<Self, NameError> {
        if octets.len() > MAX_NAME {
            return Err(NameError::Long);
        }
        let mut rest = octets;
        loop {
            let (&len, tail) = rest.split_first().ok_or(NameError::Form)?;
            match usize::from(len) {
                0 if tail.is_empty() => break,
                len @ 1..=MAX_LABEL if len < tail.len() => rest = &tail[len..],
                _ => return Err(NameError::Form),
            }
        }
        Ok(Self(octets.to_ascii_lowercase().into()))
    }

    /// The octets: lower-cased labels, each behind its length, ending in the root's zero.
    #[must_use]
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels, leftmost first, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (&len, tail) = rest.split_first().filter(|(len, _)| **len > 0)?;
            let (label, next) = tail.split_at(usize::from(len));
            rest = next;
            Some(label)
        })
    }

    /// The name one label up; `None` at the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let len = usize::from(*self.0.first()?);
        (len > 0).then(|| Self(self.0[len + 1..].into()))
    }

    /// Whether this name is `zone` or lies below it.
    #[must_use]
    pub fn is_within(&self, zone: &Self) -> bool {
        let mut rest = &*self.0;
        loop {
            if rest.len() <= zone.0.len() {
                return rest == &*zone.0;
            }
            rest = &rest[usize::from(rest[0]) + 1..];
        }
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Presentation format (RFC 1035 section 5.1) without the final dot; the root is `.`.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == 1 {
            return f.write_str(".");
        }
        for (index, label) in self.labels().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            for &octet in label {
                match octet {
                    b'.' | b'\\' => write!(f, "\\{}", octet as char)?,
                    0x21..=0x7e => write!(f, "{}", octet as char)?,
                    _ => write!(f, "\\{octet:03}")?,
                }
            }
        }
        Ok(())
    }
}

/// Reads presentation format, with or without the final dot; escapes are not accepted.
impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "." {
            return Ok(Self::root());
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut octets = Vec::with_capacity(text.len() + 2);
        for label in text.split('.') {
            let len = u8::try_from(label.len()).unwrap_or(u8::MAX);
            match usize::from(len) {
                0 => return Err(NameError::EmptyLabel),
                1..=MAX_LABEL => {}
                _ => return Err(NameError::LongLabel(label.to_owned())),
            }
            let fits = |octet: u8| octet.is_ascii_graphic() && octet != b'\\';
            if let Some(odd) = label.chars().find(|c| !u8::try_from(*c).is_ok_and(fits)) {
                return Err(NameError::Character(odd));
            }
            octets.push(len);
            octets.extend(label.bytes().map(|octet| octet.to_ascii_lowercase()));
        }
        octets.push(0);
        if octets.len() > MAX_NAME {
            return Err(NameError::Long);
        }
        Ok(Self(octets.into()))
    }
}

/// Why a text or octets are no domain name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// A character that no host name holds.
    #[error("`{0}` cannot stand in a name (write international names in their xn-- form)")]
    Character(char),
    /// Two dots in a row, or nothing at all.
    #[error("a label is empty")]
    EmptyLabel,
    /// Labels that do not add up.
    #[error("the labels do not add up to the length")]
    Form,
    /// More than 255 octets.
    #[error("the name is longer than 255 octets")]
    Long,
    /// More than 63 octets between two dots.
    #[error("the label `{0}` is longer than 63 octets")]
    LongLabel(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn names_compare_without_regard_to_case() {
        assert_eq!(name("Pi.Home.LAN."), name("pi.home.lan"));
        assert_eq!(name("pi.home.lan").to_string(), "pi.home.lan");
        assert_eq!(Name::from_wire(b"\x02PI\0").unwrap(), name("pi"));
    }

    #[test]
    fn containment_respects_label_boundaries() {
        assert!(name("a.home.lan").is_within(&name("home.lan")));
        assert!(name("home.lan").is_within(&name("home.lan")));
        assert!(!name("xhome.lan").is_within(&name("home.lan")));
        assert!(name("home.lan").is_within(&Name::root()));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert_eq!("a..b".parse::<Name>(), Err(NameError::EmptyLabel));
        assert!("x".repeat(64).parse::<Name>().is_err());
        assert!(Name::from_wire(b"\x02a\0").is_err());
        assert!(Name::from_wire(b"\x01a").is_err());
        assert!(Name::from_wire(b"").is_err());
    }
}
