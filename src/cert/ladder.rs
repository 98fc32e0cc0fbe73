//! How a failed order is tried again, by the class of its failure.

use std::fmt;
use std::time::{Duration, Instant};

use super::draw::draw;
use super::{DAY, HOUR, MINUTE};

/// How an order failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Its class, which decides when to try again.
    pub kind: Kind,
    /// What happened, for people: the CA's own words, the address, the deadline.
    pub detail: String,
}

/// The classes of failure. Problem types are those of RFC 8555 section 6.7.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `accountDoesNotExist`: the CA has forgotten us. At once, registering the same key again.
    AccountUnknown,
    /// `alreadyReplaced`, or another refusal of `replaces` (RFC 9773 section 5). At once, without.
    AlreadyReplaced,
    /// `badNonce`, after the client's own tries (RFC 8555 section 6.5). At once, five times.
    BadNonce,
    /// Something that is no ACME, or a certificate that is not what was ordered. Like no answer.
    Garbage,
    /// `invalidProfile`: at once, without a profile.
    InvalidProfile,
    /// `rateLimited`: not before the CA says so, and the next CA in the meantime.
    RateLimited {
        /// `Retry-After`, from the moment of the answer.
        retry_after: Option<Duration>,
    },
    /// `caa`, `rejectedIdentifier`, `unsupportedIdentifier`: only a person can help. After a day.
    Refused,
    /// What an order needs on this machine is not there: a key file, space on a disk. Like no
    /// answer, and when time begins to run out.
    Local,
    /// A 5xx status, or `serverInternal`. After 1, 2, 4 min, up to an hour.
    Server,
    /// No connection, no name, no answer in time. As a 5xx status.
    Unreachable,
    /// The order or an authorization became invalid, or the challenge could not be published.
    /// After 15 min, 30 min, 1 h, 2 h, 6 h, rehearsed where there is a staging directory.
    Validation,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::AccountUnknown => "the CA does not know the account",
            Kind::AlreadyReplaced => "the CA takes the certificate for replaced",
            Kind::BadNonce => "the CA takes no nonce",
            Kind::Garbage => "the CA's answer makes no sense",
            Kind::InvalidProfile => "the CA does not know the profile",
            Kind::RateLimited { .. } => "the CA limits our rate",
            Kind::Local => "no order can be made from here",
            Kind::Refused => "the CA refuses to certify a name",
            Kind::Server => "the CA has trouble of its own",
            Kind::Unreachable => "the CA cannot be reached",
            Kind::Validation => "the CA could not validate a name",
        };
        f.write_str(what)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}

/// Within so long after the path or the clock became good, everything is tried again.
pub(super) const SETTLE: Duration = Duration::from_secs(300);
/// A nonce is refused so often before that counts as trouble.
const NONCES: u32 = 5;
/// What a CA that limits our rate without saying for how long is given.
const LIMITED: Duration = HOUR;
/// And the longest it is given whatever it says.
pub(super) const LIMITED_MAX: Duration = Duration::from_secs(7 * 86_400);
/// The longest ladder step, jitter included.
pub(super) const STEP_MAX: Duration = Duration::from_secs(86_400 * 6 / 5);
/// The minutes between tries after failed validations.
const VALIDATION: [u32; 5] = [15, 30, 60, 120, 360];

/// Where we stand with one CA.
#[derive(Clone, Debug, Default)]
pub(super) struct Ladder {
    /// Failures in a row of the class that failed last.
    pub(super) steps: u32,
    /// Which class that is.
    pub(super) class: Option<Class>,
    /// Not before.
    pub(super) next: Option<Instant>,
    /// The CA wants nothing before.
    pub(super) limited: Option<Instant>,
    /// Since when nothing has succeeded.
    pub(super) failing_since: Option<Instant>,
    pub(super) nonces: u32,
    /// The account has to be registered again.
    pub(super) register: bool,
    /// The CA does not know the profile.
    pub(super) plain: bool,
    /// The CA takes no `replaces` for the certificate in service.
    pub(super) irreplaceable: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Class {
    Network,
    Refused,
    Validation,
}

impl Ladder {
    /// An order failed at `now`; `salt` differs from try to try.
    pub(super) fn handle_failure(&mut self, kind: Kind, seed: u64, salt: u64, now: Instant) {
        self.failing_since.get_or_insert(now);
        let again = match kind {
            Kind::AccountUnknown => !std::mem::replace(&mut self.register, true),
            Kind::AlreadyReplaced => !std::mem::replace(&mut self.irreplaceable, true),
            Kind::InvalidProfile => !std::mem::replace(&mut self.plain, true),
            Kind::BadNonce => {
                self.nonces = self.nonces.saturating_add(1);
                self.nonces <= NONCES
            }
            Kind::RateLimited { retry_after } => {
                let wait = retry_after.unwrap_or(LIMITED).clamp(MINUTE, LIMITED_MAX);
                self.limited = Some(now + wait + draw(seed, salt, SETTLE));
                true
            }
            Kind::Garbage
            | Kind::Local
            | Kind::Refused
            | Kind::Server
            | Kind::Unreachable
            | Kind::Validation => false,
        };
        if again {
            self.next = None;
            return;
        }
        let class = match kind {
            Kind::Validation => Class::Validation,
            Kind::Refused => Class::Refused,
            Kind::AccountUnknown
            | Kind::AlreadyReplaced
            | Kind::BadNonce
            | Kind::Garbage
            | Kind::InvalidProfile
            | Kind::Local
            | Kind::RateLimited { .. }
            | Kind::Server
            | Kind::Unreachable => Class::Network,
        };
        if self.class.replace(class).is_some_and(|before| before != class) {
            self.steps = 0;
        }
        self.next = Some(now + class.step(self.steps, seed, salt));
        self.steps = self.steps.saturating_add(1);
    }

    /// The path or the clock has changed: what failed before says little. What the CA has said
    /// about our rate stands.
    pub(super) fn reset(&mut self, by: Instant) {
        self.steps = 0;
        self.nonces = 0;
        self.try_by(by);
    }

    /// The wait that a failure caused ends then, if it would not before.
    pub(super) fn try_by(&mut self, by: Instant) {
        self.next = self.next.map(|next| next.min(by));
    }

    /// When the next try may be made; `None` at once.
    pub(super) fn ready(&self) -> Option<Instant> {
        self.next.max(self.limited)
    }

    /// Whether the CA wants to hear nothing at `now`.
    pub(super) fn is_limited(&self, now: Instant) -> bool {
        self.limited.is_some_and(|until| now < until)
    }
}

impl Class {
    /// The wait after so many earlier failures. Where a CA counts tries, jitter only adds.
    fn step(self, earlier: u32, seed: u64, salt: u64) -> Duration {
        let wait = match self {
            Self::Network => (MINUTE * (1 << earlier.min(6))).min(HOUR),
            Self::Refused => DAY,
            Self::Validation => MINUTE * VALIDATION[(earlier as usize).min(VALIDATION.len() - 1)],
        };
        match self {
            Self::Network => wait * 4 / 5 + draw(seed, salt, wait * 2 / 5),
            Self::Refused | Self::Validation => wait + draw(seed, salt, wait / 5),
        }
    }
}
