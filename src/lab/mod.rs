//! The small world of `firstlight try`: all that firstlight needs of the Internet, on loopback.
//!
//! Four operators, each with an address of its own. All serve time; two serve
//! encrypted DNS, and two are web servers that witness the time:
//!
//! | operator | address    | serves beside time       | its time        |
//! |----------|------------|--------------------------|-----------------|
//! | alder    | 127.0.0.11 | DNS over TLS             | true            |
//! | birch    | 127.0.0.12 | DNS over HTTPS, no Date  | true            |
//! | cedar    | 127.0.0.13 | HTTPS with a Date        | true            |
//! | damson   | 127.0.0.14 | HTTPS with a Date        | five years off  |
//!
//! Every port is one the kernel chose. What can go wrong in it, goes wrong on
//! demand: [`World::silence_source`] and the methods beside it.

mod household;
mod narrate;
mod operator;
mod pki;
mod source;
mod witness;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use self::operator::Operator;
use self::pki::Authority;
use self::source::Source;
use self::witness::Witness;
use crate::clock::{Nanos, nanos};
use crate::config::Transport;
use crate::node::ports::Clock;
use crate::tls::Validity;

pub use household::household;
pub use narrate::{Files, Step, commands, narrate};
pub use operator::Zone;

/// The small world. Dropped, it ends.
#[derive(Debug)]
pub struct World {
    truth: Arc<dyn Clock>,
    authority: Authority,
    dot: Operator,
    doh: Operator,
    witnesses: [Witness; 2],
    sources: [Source; 4],
}

impl World {
    /// Starts everything; it answers when this returns. `truth` reads the true time,
    /// and connections are served on `runtime`.
    ///
    /// # Errors
    ///
    /// If a certificate cannot be made or a port not be had.
    pub fn start(truth: Arc<dyn Clock>, runtime: &Handle) -> Result<Self, WorldError> {
        let authority = Authority::new()?;
        let validity = usual_validity(&*truth);
        let key = |name: &str| authority.issue(name, validity);
        let [alder, birch, cedar, damson] = [0, 1, 2, 3].map(address);
        let operator = |transport, address| {
            Operator::start(transport, address, key(name_of(transport))?, &truth, runtime)
        };
        let dot = operator(Transport::Dot, alder)?;
        let doh = operator(Transport::Doh, birch)?;
        let [cedar_name, damson_name] = WITNESS_NAMES;
        let witnesses = [
            Witness::start(cedar, key(cedar_name)?, &truth, runtime)?,
            Witness::start(damson, key(damson_name)?, &truth, runtime)?,
        ];
        let sources = [
            Source::start(alder, &truth, 0)?,
            Source::start(birch, &truth, 0)?,
            Source::start(cedar, &truth, 0)?,
            Source::start(damson, &truth, nanos(LIE))?,
        ];
        Ok(Self { truth, authority, dot, doh, witnesses, sources })
    }

    /// Where everything is.
    #[must_use]
    pub fn endpoints(&self) -> Endpoints {
        Endpoints {
            dot: self.dot.address,
            doh: self.doh.address,
            witnesses: self.witnesses.each_ref().map(|witness| witness.address),
            sources: self.sources.each_ref().map(|source| source.address),
        }
    }

    /// Lets a source answer nobody: 0 to 3, in order of the operators.
    ///
    /// # Panics
    ///
    /// If there is no such source.
    pub fn silence_source(&self, index: usize) {
        self.sources[index].silence(true);
    }

    /// Lets a source tell a time that is `ahead` of the truth.
    ///
    /// # Panics
    ///
    /// If there is no such source.
    pub fn lie(&self, index: usize, ahead: Nanos) {
        self.sources[index].lie(ahead);
    }

    /// Lets the operator of `transport` answer no question; its port stays open.
    pub fn silence_operator(&self, transport: Transport) {
        self.operator(transport).zone.silence(true);
    }

    /// Lets everybody fall silent, as if the uplink were cut.
    pub fn silence(&self) {
        self.silence_all(true);
    }

    /// Gives the operator of `transport` a certificate of other dates. Connections that
    /// are open, and sessions that are resumed, go on with the one they began with.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn replace_certificate(
        &self,
        transport: Transport,
        validity: Validity,
    ) -> Result<(), WorldError> {
        let key = self.authority.issue(name_of(transport), validity)?;
        self.operator(transport).certificate.set_fallback(key);
        Ok(())
    }

    /// Makes the world what it was at the start: nobody silent, one liar, certificates
    /// of the usual dates.
    ///
    /// # Errors
    ///
    /// If a certificate cannot be made; all else is restored nevertheless.
    pub fn restore(&self) -> Result<(), WorldError> {
        self.silence_all(false);
        for (source, ahead) in self.sources.iter().zip([0, 0, 0, nanos(LIE)]) {
            source.lie(ahead);
        }
        let validity = usual_validity(&*self.truth);
        self.replace_certificate(Transport::Dot, validity)?;
        self.replace_certificate(Transport::Doh, validity)
    }

    fn operator(&self, transport: Transport) -> &Operator {
        match transport {
            Transport::Doh => &self.doh,
            // Nobody in this world speaks QUIC.
            Transport::Doq | Transport::Dot => &self.dot,
        }
    }

    fn silence_all(&self, silent: bool) {
        self.dot.zone.silence(silent);
        self.doh.zone.silence(silent);
        self.witnesses.iter().for_each(|witness| witness.silence(silent));
        self.sources.iter().for_each(|source| source.silence(silent));
    }
}

/// Where everything in a [`World`] is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Endpoints {
    /// The operator of DNS over TLS.
    pub dot: SocketAddr,
    /// The operator of DNS over HTTPS.
    pub doh: SocketAddr,
    /// The HTTPS witnesses.
    pub witnesses: [SocketAddr; 2],
    /// The NTP servers; the last one lies.
    pub sources: [SocketAddr; 4],
}

/// A table for a person: who serves what where.
impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [cedar, damson] = self.witnesses;
        let services = [
            ("DNS over TLS", self.dot),
            ("DNS over HTTPS", self.doh),
            ("HTTPS with a Date", cedar),
            ("HTTPS with a Date", damson),
        ];
        let rows = OPERATORS.iter().zip(services).zip(self.sources).zip(TIMES);
        for (((operator, (service, address)), source), time) in rows {
            let both = format!("{address} {service}");
            writeln!(f, "  {operator:<7} {both:<35} {source} NTP, {time}")?;
        }
        Ok(())
    }
}

/// Why there is no world.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorldError {
    /// An address cannot be served.
    #[error("the small world cannot listen on {address}: {error}")]
    Listen {
        /// The address; port 0 is any.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// A certificate cannot be made.
    #[error("the small world's certificates cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// A certificate made does not serve.
    #[error("the small world's certificates cannot be served: {0}")]
    Serve(#[from] rustls::Error),
}

/// Who runs what, in order of their addresses.
const OPERATORS: [&str; 4] = ["alder", "birch", "cedar", "damson"];
/// What the operators' clocks are worth at the start.
const TIMES: [&str; 4] = ["true", "true", "true", "five years ahead"];
/// What the liar is ahead by at the start: five years.
const LIE: Duration = Duration::from_secs(5 * 31_557_600);
/// The names in the witnesses' certificates.
const WITNESS_NAMES: [&str; 2] = ["www.cedar.example", "www.damson.example"];

const DAY: Duration = Duration::from_secs(86_400);

/// The name in the certificate of the operator of `transport`.
const fn name_of(transport: Transport) -> &'static str {
    match transport {
        Transport::Doh => "dns.birch.example",
        Transport::Doq | Transport::Dot => "dns.alder.example",
    }
}

/// Any port of the operator's address.
fn address(operator: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 11 + operator], 0))
}

/// From yesterday on for 90 days.
fn usual_validity(truth: &dyn Clock) -> Validity {
    let not_before = truth.utc() - DAY;
    Validity { not_before, not_after: not_before + DAY * 90 }
}
