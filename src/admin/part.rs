//! The parts of the daemon, and the conditions about each.

use super::Health;

/// The name of every condition, and the part that it is about. What is about none in particular is about
/// the process itself.
pub const CONDITIONS: &[(&str, Health)] = &[
    ("certificate-account", Health::Cert),
    ("certificate-clock", Health::Cert),
    ("certificate-expired", Health::Cert),
    ("certificate-expiring", Health::Cert),
    ("certificate-files", Health::Cert),
    ("certificate-held-back", Health::Cert),
    ("certificate-missing", Health::Cert),
    ("certificate-overdue", Health::Cert),
    ("certificate-profile", Health::Cert),
    ("certificate-rehearsal", Health::Cert),
    ("certificate-served", Health::Cert),
    ("certificate-store", Health::Cert),
    ("certificate-unjudged", Health::Cert),
    ("clock-not-steered", Health::Clock),
    ("clock-suspect", Health::Clock),
    ("clock-unknown", Health::Clock),
    ("clock-unverified", Health::Clock),
    ("configuration-unusable", Health::Live),
    ("dates-relaxed", Health::Clock),
    ("floor-ahead", Health::Clock),
    ("foreign-hands", Health::Clock),
    ("holdover", Health::Clock),
    ("leap-seconds", Health::Clock),
    ("listeners-refused", Health::Dns),
    ("metered", Health::Live),
    ("metered-budget", Health::Live),
    ("notifications-unsent", Health::Live),
    ("ntp-keys", Health::Clock),
    ("operator-down", Health::Dns),
    ("reference-clock", Health::Clock),
    ("sources-contradicted", Health::Clock),
    ("upstream-certificate", Health::Dns),
    ("wan-down", Health::Dns),
];

impl Health {
    /// Every part.
    pub const ALL: [Self; 4] = [Self::Live, Self::Dns, Self::Clock, Self::Cert];

    /// Its name on the command line and in URLs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cert => "cert",
            Self::Clock => "clock",
            Self::Dns => "dns",
            Self::Live => "live",
        }
    }

    /// The part that the condition of this name is about.
    #[must_use]
    pub fn of_condition(name: &str) -> Self {
        let known = CONDITIONS.iter().find(|(condition, _)| *condition == name);
        known.map_or(Self::Live, |(_, part)| *part)
    }
}
