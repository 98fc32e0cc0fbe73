//! Counts by address family.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count for each address family.
#[derive(Debug, Default)]
pub struct Families {
    v4: AtomicU64,
    v6: AtomicU64,
}

impl Families {
    /// The count for the family of `address`.
    #[must_use]
    pub const fn of(&self, address: IpAddr) -> &AtomicU64 {
        match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        }
    }

    /// What was counted for IPv4, and for IPv6.
    #[must_use]
    pub fn read(&self) -> [u64; 2] {
        [&self.v4, &self.v6].map(|count| count.load(Ordering::Relaxed))
    }

    /// What was counted for either.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.read().iter().sum()
    }
}
