//! The life of the appliance's own certificate (pure): when to order it and of whom, how to go on
//! after a failure, and who must be told.
//!
//! [`Lifecycle`] decides; whoever speaks ACME (RFC 8555) carries one [`Order`] out at a time and
//! says how it [ended](Ending). `docs/certificates.md` shows what the schedule withstands.

mod alarm;
mod conclude;
mod draw;
mod guard;
mod ladder;
mod lifecycle;
mod outlook;
mod rehearsal;
mod saved;
mod schedule;

use std::time::Duration;

use crate::clock::{UnixTime, magnitude};

pub use alarm::{Alarm, CONDITIONS};
pub use guard::{Bound, Limits};
pub use ladder::{Failure, Kind};
pub use lifecycle::{Ending, Event, Lifecycle, Order, OrderId};
pub use outlook::{Endurance, Hold, Next, Rehearsed};
pub use saved::{Saved, SavedCa, SavedWindow};
pub use schedule::{Why, Window};

/// A certificate authority by its place in [`Policy::cas`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct CaId(pub usize);

/// A certificate authority that may be asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ca {
    /// What it is called in the configuration and in state files.
    pub name: String,
    /// Whether it has a staging directory, at which an order can be rehearsed.
    pub staging: bool,
}

/// What the administrator decided about certificates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// The names the certificate must have.
    pub names: Vec<String>,
    /// Whom to ask, the first first. Empty: certificates come from elsewhere, and are only watched.
    pub cas: Vec<Ca>,
    /// The outage that a certificate is to survive: so much of its life is left at its renewal,
    /// if its life allows it.
    pub survive: Duration,
    /// The share of its life, in percent, after which it is renewed at the latest.
    pub percent: u32,
    /// How often an order may be made, whatever happens.
    pub limits: Limits,
    /// How long the answer to a question for renewal information holds, whatever the CA says:
    /// at least, and at most (RFC 9773 section 4.3).
    pub renewal_info: (Duration, Duration),
    /// Random, and the same at every start of this machine: all jitter comes from it.
    pub seed: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            cas: Vec::new(),
            // Three days without an uplink, one for a person to come, and some hours to spare.
            survive: HOUR * 100,
            percent: 60,
            limits: Limits::default(),
            renewal_info: (HOUR, DAY),
            seed: 0,
        }
    }
}

/// A certificate that can be served: its key is at hand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Held {
    /// Its serial number in hexadecimal, which tells certificates apart.
    pub serial: String,
    /// The DNS names it has, wildcards as they stand.
    pub names: Vec<String>,
    /// Start of its validity period (RFC 5280 section 4.1.2.5).
    pub not_before: UnixTime,
    /// End of its validity period.
    pub not_after: UnixTime,
    /// When it was got, by the clock of that moment.
    pub got: UnixTime,
    /// The name of the CA in the configuration it was ordered of; `None` if it comes from elsewhere.
    pub ca: Option<String>,
}

impl Held {
    /// From the start of its validity period to the end; nothing if that lies before.
    #[must_use]
    pub fn life(&self) -> Duration {
        magnitude(self.not_after.since(self.not_before).max(0))
    }

    /// Whether it is good for `name`, as [`covers`] has it.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        covers(&self.names, name)
    }
}

/// Whether a certificate with the names `own` is good for `name`: a wildcard stands for one label
/// (RFC 9525 section 6.3).
#[must_use]
pub fn covers(own: &[String], name: &str) -> bool {
    let parent = name.split_once('.').map(|(_, parent)| parent);
    own.iter().any(|own| {
        let wild = own.strip_prefix("*.").zip(parent);
        own.eq_ignore_ascii_case(name)
            || wild.is_some_and(|(own, parent)| own.eq_ignore_ascii_case(parent))
    })
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests;
