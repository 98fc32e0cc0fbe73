//! The configuration: TOML text in, a [`Config`] or a report of every mistake out (pure).

mod acme;
mod notify;
mod parse;
mod report;
mod rules;
mod tree;
mod value;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

pub use acme::{Acme, AcmeBinding, AcmeCa, AcmeChallenge, AcmeHash, HOME_DOMAINS};
pub use notify::{Notify, NotifyKind};
pub use report::{Problem, Report, Severity, Span};
pub use tree::Places;

use crate::clock::{Holdover, Polls};
use crate::names::Entry;
use crate::wire::Name;

/// A configuration that can be used, and what is to be said about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parsed {
    /// What runs.
    pub config: Config,
    /// What may be right elsewhere, or costs something. It holds no errors.
    pub warnings: Report,
    /// Where the values stand in the text, for whoever finds fault with them later.
    pub places: Places,
}

/// Everything the administrator decides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// `[state]`
    pub state: State,
    /// `[dns]`
    pub dns: Dns,
    /// `[dot]`
    pub dot: Dot,
    /// `[doh]`
    pub doh: Doh,
    /// `[doq]`
    pub doq: Doq,
    /// `[tls]`
    pub tls: Tls,
    /// `[acme]`; certificates come from elsewhere without it.
    pub acme: Option<Acme>,
    /// `[[upstream]]`, in order of the file.
    pub upstreams: Vec<Upstream>,
    /// `[ntp]`
    pub ntp: Ntp,
    /// `[nts]`.
    pub nts: NtsListen,
    /// `[clock]`
    pub clock: Clock,
    /// `[metered]`
    pub metered: Metered,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[[notify]]`, in order of the file.
    pub notify: Vec<Notify>,
    /// `[control]`
    pub control: Control,
    /// `[log]`
    pub log: Log,
    /// `[[name]]`, in order of the file.
    pub names: Vec<Entry>,
}

/// `[state]`: what outlives a power cut.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct State {
    /// Where state files live.
    pub directory: PathBuf,
}

/// `[dns]`: plain DNS over UDP and TCP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dns {
    /// Addresses for UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Whose questions are answered, over whatever transport.
    pub clients: Vec<ClientNetwork>,
    /// Questions a second that one address may ask over UDP; 0: any number.
    pub rate: u32,
    /// What clients without encryption are given.
    pub plaintext: Plaintext,
    /// Shortest time a fresh answer is kept, whatever its owner says, in seconds.
    pub min_ttl: u32,
    /// Longest time a fresh answer is kept, in seconds.
    pub max_ttl: u32,
    /// How long past its TTL an answer may stand in for a dead upstream, in seconds (RFC 8767); 0: never.
    pub stale: u32,
    /// Bytes the answer cache may hold.
    pub cache_bytes: usize,
    /// Questions a second that upstreams are asked when they return after an outage.
    pub pace: u32,
    /// Keep a snapshot of the cache over restarts and power cuts.
    pub snapshot: bool,
    /// Upstream operators hardly slower than the best take turns at being asked first.
    pub spread: bool,
    /// Whether and from where on answers are validated.
    pub validation: Validation,
    /// Ask authoritative servers, in plaintext where need be, and no upstream.
    pub recursion: Option<Recursion>,
    /// Answer `use-application-dns.net` with NXDOMAIN, so that Firefox keeps to this resolver.
    pub canary: bool,
}

/// `mode = "recurse"`: answers come from authoritative servers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Recursion {
    /// A zone file with addresses of root servers in place of the built-in ones.
    pub hints: Option<PathBuf>,
}

/// DNSSEC validation (RFC 4035).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Validation {
    /// Whether answers are validated here.
    pub validate: bool,
    /// A file of DS or DNSKEY records in place of the built-in ones of the root.
    pub anchors: Option<PathBuf>,
    /// Names at and below which nothing is validated (RFC 7646).
    pub negative: Vec<Name>,
}

/// Clients that are answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientNetwork {
    /// Everybody.
    Any,
    /// Private networks, and those that this machine is part of.
    Local,
    /// Those of one network.
    Network(IpNet),
}

/// What clients without encryption are given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Plaintext {
    /// Local names only; everything else is refused with EDE 18.
    LocalOnly,
    /// Nothing: every question is refused with EDE 18 (Prohibited, RFC 8914).
    Refuse,
    /// The same as everybody else.
    Serve,
}

/// `[dot]`: DNS over TLS (RFC 7858).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dot {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
}

/// `[doh]`: DNS over HTTPS (RFC 8484).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Doh {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Path of the query resource.
    pub path: String,
}

/// `[doq]`: DNS over QUIC (RFC 9250).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Doq {
    /// UDP addresses to listen on.
    pub listen: Vec<SocketAddr>,
}

/// `[tls]`: the appliance's own certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    /// The name that clients check.
    pub name: Name,
    /// Certificate chain and key as PEM files; a fallback certificate serves without them.
    pub files: Option<CertificateFiles>,
}

/// A certificate chain and its key, each a PEM file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key of the leaf.
    pub key: PathBuf,
}

/// `[[upstream]]`: a resolver of one operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upstream {
    /// The name its certificate must carry.
    pub name: Name,
    /// Who runs it; answers are never sought twice from one operator while another is left.
    pub operator: String,
    /// Where it is reached.
    pub addresses: Vec<IpAddr>,
    /// How it is spoken to.
    pub transport: Transport,
    /// TCP or UDP port.
    pub port: u16,
    /// Path of the query resource (DoH only).
    pub path: String,
    /// How questions are asked (DoH only).
    pub method: Method,
    /// A PEM file of further roots for this upstream.
    pub ca: Option<PathBuf>,
    /// Keys of which its certificate must hold one; none: any key will do.
    pub pins: Vec<Pin>,
}

/// How questions are asked over HTTPS (RFC 8484 section 4.1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Method {
    /// Equal questions are equal requests: caches on the upstream's side may answer.
    Get,
    /// Shorter; no cache between holds it.
    #[default]
    Post,
}

/// SHA-256 of a public key, as the `SubjectPublicKeyInfo` of a certificate (RFC 7858 section 4.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pin(pub [u8; 32]);

/// How an upstream is spoken to. There is no plaintext variant (invariant 7).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// DNS over HTTPS (RFC 8484).
    Doh,
    /// DNS over QUIC (RFC 9250).
    Doq,
    /// DNS over TLS (RFC 7858).
    Dot,
}

/// `[metered]`: which links to the Internet are paid for by the octet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Metered {
    /// Network interfaces, by name, through which all traffic is metered.
    pub interfaces: Vec<String>,
    /// Routers through which all traffic is metered.
    pub gateways: Vec<IpAddr>,
    /// A file that exists while the link in use is metered.
    pub flag_file: Option<PathBuf>,
    /// Octets a day over metered links, beyond which a condition says so; 0: any number.
    pub budget_bytes: u64,
}

/// `[ntp]`: the time service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ntp {
    /// UDP addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Who is told the time.
    pub clients: Vec<ClientNetwork>,
    /// Questions a second that one address may ask; 0: any number.
    pub rate: u32,
    /// Whether `firstlight clients` may show who asks.
    pub remember: bool,
    /// Keys that are shared with clients and sources, in chrony's format.
    pub keys: Option<PathBuf>,
}

/// `[clock]`: whom to believe about time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Clock {
    /// Whether the machine's clock is moved.
    pub mode: ClockMode,
    /// Fewest sources that must agree.
    pub quorum: usize,
    /// What the clock is worth while no source answers.
    pub holdover: Holdover,
    /// `[[clock.source]]`, in order of the file.
    pub sources: Vec<Source>,
    /// `[[clock.pool]]`, in order of the file.
    pub pools: Vec<Pool>,
    /// `[[clock.refclock]]`, in order of the file.
    pub refclocks: Vec<RefClock>,
    /// A `leap-seconds.list` of IERS or NIST.
    pub leap_file: Option<PathBuf>,
    /// `[[clock.witness]]`, in order of the file; DoH upstreams are witnesses beside these.
    pub witnesses: Vec<Witness>,
}

/// Whether the machine's clock is moved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClockMode {
    /// A software clock serves; the machine's stays untouched.
    Observe,
    /// The machine's clock is stepped and steered.
    Steer,
}

/// `[[clock.source]]`: an NTP server, by address. A name would need DNS, which needs TLS, which needs time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    /// Where it is reached.
    pub address: SocketAddr,
    /// Looked up once time is verified; the addresses are kept in state beside `address`.
    pub name: Option<Name>,
    /// Who runs it; by default the address's /16 (IPv6: /32).
    pub operator: String,
    /// Preferred while it agrees with the majority.
    pub prefer: bool,
    /// A clock of one's own, which may set the time alone when no quorum can be had.
    pub trust: bool,
    /// Asked and shown, and never counted.
    pub noselect: bool,
    /// How often it is asked.
    pub polls: Polls,
    /// The number of the key that is shared with it; it is believed only with its code.
    pub key: Option<u32>,
    /// Asked under NTS (RFC 8915) by the name in `name`.
    pub nts: Option<Nts>,
}

/// `[[clock.pool]]`: NTP servers found under a name, once names and time can be trusted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pool {
    /// Where its members are found.
    pub name: Name,
    /// Their port.
    pub port: u16,
    /// How many of them are asked.
    pub count: usize,
    /// Who decides which servers they are, for the quorum; by default the name's last three labels.
    pub operator: String,
    /// Asked and shown, and never counted.
    pub noselect: bool,
    /// How often they are asked.
    pub polls: Polls,
}

/// How keys are exchanged with a source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nts {
    /// The port at the source's address.
    pub port: u16,
    /// A PEM file with a root certificate that counts for it beside the usual ones.
    pub ca: Option<PathBuf>,
}

/// `[nts]`: the key exchange that protects the time service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NtsListen {
    /// TCP addresses to listen on.
    pub listen: Vec<SocketAddr>,
}

/// `[[clock.refclock]]`: a clock on this machine, like a GPS receiver.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RefClock {
    /// How it speaks.
    pub kind: RefClockKind,
    /// Its device, or the socket that it sends to.
    pub path: PathBuf,
    /// What it is called; up to four characters of it are the reference id that NTP clients see.
    pub name: String,
    /// Who runs it, for the quorum; by default the name.
    pub operator: String,
    /// What is added to its time, in milliseconds.
    pub offset: i32,
    /// The most it can be wrong, in milliseconds.
    pub error: u32,
    /// Its samples tell only where seconds begin.
    pub pulse: bool,
    /// Bits a second on the line (NMEA only).
    pub speed: u32,
    /// Preferred while it agrees with the majority.
    pub prefer: bool,
    /// May set the time alone when no quorum can be had.
    pub trust: bool,
}

/// How a reference clock speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefClockKind {
    /// NMEA 0183 sentences on a serial line.
    Nmea,
    /// Pulses that the kernel stamps (RFC 2783).
    Pps,
    /// Datagrams to a socket, as chrony takes them and gpsd sends them.
    Sock,
}

/// `[[clock.witness]]`: an HTTPS server whose `Date` is authenticated time (RFC 9110 section 6.6.1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Witness {
    /// The name its certificate must carry.
    pub name: Name,
    /// Who runs it.
    pub operator: String,
    /// Where it is reached.
    pub address: SocketAddr,
    /// What is asked for.
    pub path: String,
    /// A PEM file of further roots for this witness.
    pub ca: Option<PathBuf>,
}

/// `[metrics]`: figures and health for monitoring, by HTTP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Metrics {
    /// TCP addresses to listen on.
    pub listen: Vec<SocketAddr>,
}

/// `[control]`: how the commands find the daemon.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Control {
    /// Path of the socket; by default in /run/firstlight, else in the state directory.
    pub socket: Option<PathBuf>,
    /// A group whose members may change things, beside root and the daemon's user.
    pub group: Option<String>,
}

/// `[log]`
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Log {
    /// `text` or `json`.
    pub json: bool,
}
