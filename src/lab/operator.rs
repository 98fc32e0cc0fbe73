//! An operator of encrypted DNS, and the zone it knows.

use std::future::pending;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::sign::CertifiedKey;
use tokio::runtime::Handle;

use super::WorldError;
use crate::cache::Near;
use crate::config::Transport;
use crate::dns::listen::{
    ALPN_DOH, ALPN_DOQ, ALPN_DOT, Answer, Limits, Listeners, Places, Quick, Tls,
};
use crate::dns::{BoxFuture, Client, Origin};
use crate::names::{Entry, Names};
use crate::node::ports::Clock;
use crate::tls::{CertStore, Challenges, server_config};
use crate::wire::{Header, Hop, Note, Query, Rcode, Reply, Section, Type, malformed};

/// A resolver that speaks one encrypted transport.
#[derive(Debug)]
pub(super) struct Operator {
    pub(super) zone: Arc<Zone>,
    pub(super) certificate: Arc<CertStore>,
    pub(super) address: SocketAddr,
    _listeners: Listeners,
}

impl Operator {
    /// Serves `transport` on `address`, port 0 being any.
    pub(super) fn start(
        transport: Transport,
        address: SocketAddr,
        key: CertifiedKey,
        truth: &Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Self, WorldError> {
        let certificate = CertStore::fixed(key);
        let present = |alpn| {
            let config = server_config(Arc::clone(&certificate), Arc::clone(truth), alpn)?;
            Ok::<_, WorldError>(Arc::new(move || Arc::clone(&config)))
        };
        let (dot, doh, doq) = (present(ALPN_DOT)?, present(ALPN_DOH)?, present(ALPN_DOQ)?);
        let challenges = Challenges::new(Arc::clone(truth));
        let tls = Tls { dot, doh, doq, challenges };
        let mut places = Places { path: PATH.to_owned(), ..Places::default() };
        match transport {
            Transport::Doh => places.doh.push(address),
            Transport::Doq => places.doq.push(address),
            Transport::Dot => places.dot.push(address),
        }
        let zone = Arc::<Zone>::default();
        let answer: Arc<dyn Answer> = Arc::<Zone>::clone(&zone);
        let listeners =
            Listeners::open(&places, answer, tls, Limits::default(), Arc::clone(truth), runtime);
        if let Some(refused) = listeners.refused().pop() {
            return Err(WorldError::Listen { address, error: refused.error });
        }
        let open = listeners.places();
        let open = open.dot.first().or(open.doh.first()).or(open.doq.first());
        let address = open.copied().unwrap_or(address);
        Ok(Self { zone, certificate, address, _listeners: listeners })
    }
}

/// Where the DoH operator answers: the default of `[[upstream]]`.
const PATH: &str = "/dns-query";

/// All that the world's resolvers know: `example.com` and whatever is below it. No other name exists.
#[derive(Debug)]
pub struct Zone {
    names: Names,
    silent: AtomicBool,
}

impl Zone {
    /// The IPv4 address of every name in it.
    pub const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
    /// The IPv6 address of every name in it.
    pub const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80);

    /// Leaves every question without an answer, or stops doing so.
    pub fn silence(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    fn write(&self, query: &Query<'_>, reply: &mut Vec<u8>) {
        if let Some(known) = self.names.answer(query, reply) {
            return known.reply.finish(query, Note::default(), &Hop::of(WHOLE));
        }
        let mut missing = Reply::new(query, Rcode::NXDOMAIN, reply).authoritative();
        // The root's own name is where the question's name ends. Without an SOA record
        // nobody could remember that the name does not exist (RFC 2308 section 5).
        let root_at = Header::LEN + query.name().len() - 1;
        missing.record(Section::Authority, root_at, Type::SOA, TTL, &ROOT_SOA);
        missing.finish(query, Note::default(), &Hop::of(WHOLE));
    }
}

impl Default for Zone {
    fn default() -> Self {
        let entry = |wildcard| {
            Some(Entry {
                name: "example.com".parse().ok()?,
                wildcard,
                addresses: vec![Self::V4.into(), Self::V6.into()],
                cname: None,
                txt: vec!["from the small world of firstlight".to_owned()],
                ttl: TTL,
            })
        };
        let entries: Vec<_> = [false, true].into_iter().filter_map(entry).collect();
        Self { names: Names::new(&entries, false), silent: AtomicBool::new(false) }
    }
}

impl Answer for Zone {
    fn quick(&self, packet: &[u8], _: &Client, _: Option<&mut Near>, reply: &mut Vec<u8>) -> Quick {
        if self.silent.load(Ordering::Relaxed) {
            return Quick::Slow;
        }
        match Query::parse(packet) {
            Ok(query) => self.write(&query, reply),
            Err(why) if malformed(packet, why, reply) => {}
            Err(_) => return Quick::Drop,
        }
        Quick::Reply(Origin::Local)
    }

    /// What was asked of a silent operator is never answered.
    fn answer(&self, _: Vec<u8>, _: Client) -> BoxFuture<'_, Option<(Vec<u8>, Origin)>> {
        Box::pin(pending())
    }
}

/// Of every record, in seconds.
const TTL: u32 = 300;
/// The longest DNS message: streams cut nothing.
const WHOLE: usize = 65_535;

/// MNAME and RNAME are the root; serial 1, refresh, retry and expire zero, negative TTL a minute
/// (RFC 1035 section 3.3.13).
const ROOT_SOA: [u8; 22] = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60];
