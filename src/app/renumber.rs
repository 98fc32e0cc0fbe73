//! Names given beside addresses: looked up once the time is verified, and the addresses kept, so
//! that a box survives the renumbering of its upstreams and time sources.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name as HickoryName, RData, RecordType};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::dns::answer::Answerer;
use crate::dns::{Client, Protocol};
use crate::wire::Name;

/// Addresses kept for one name at most.
const MOST: usize = 8;

/// Addresses by the name they were found under.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Addresses(BTreeMap<String, Vec<IpAddr>>);

impl Addresses {
    /// Looks up every name that `config` gives beside addresses. What cannot be found keeps what
    /// is known of it.
    pub(super) async fn look_up(mut self, config: &Config, answerer: &Answerer) -> Self {
        let upstreams = config.upstreams.iter().map(|upstream| &upstream.name);
        let sources = config.clock.sources.iter().filter_map(|source| source.name.as_ref());
        let names: Vec<&Name> = upstreams.chain(sources).collect();
        self.0.retain(|name, _| names.iter().any(|wanted| wanted.to_string() == *name));
        for name in names {
            let mut found = ask(name, RecordType::A, answerer).await;
            found.extend(ask(name, RecordType::AAAA, answerer).await);
            found.sort_unstable();
            found.dedup();
            found.truncate(MOST);
            if !found.is_empty() {
                self.0.insert(name.to_string(), found);
            }
        }
        self
    }

    /// `config` with the kept addresses of its upstreams behind the configured ones.
    pub(super) fn extend(&self, mut config: Config) -> Config {
        for upstream in &mut config.upstreams {
            let known = self.of(&upstream.name).filter(|ip| !upstream.addresses.contains(ip));
            let known: Vec<_> = known.collect();
            upstream.addresses.extend(known);
        }
        config
    }

    /// Where the source at `index` may be found: as configured, then as kept.
    pub(super) fn of_source(&self, config: &Config, index: usize) -> Vec<SocketAddr> {
        let Some(source) = config.clock.sources.get(index) else { return Vec::new() };
        let kept = source.name.iter().flat_map(|name| self.of(name));
        let kept = kept.map(|ip| SocketAddr::new(ip, source.address.port()));
        let kept = kept.filter(|address| *address != source.address);
        std::iter::once(source.address).chain(kept).collect()
    }

    fn of(&self, name: &Name) -> impl Iterator<Item = IpAddr> {
        self.0.get(&name.to_string()).into_iter().flatten().copied()
    }
}

/// The addresses of `name`, by our own answer path.
async fn ask(name: &Name, kind: RecordType, answerer: &Answerer) -> Vec<IpAddr> {
    let Ok(owner) = HickoryName::from_labels(name.labels()) else { return Vec::new() };
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(owner, kind));
    let Ok(packet) = question.to_vec() else { return Vec::new() };
    let client = Client { address: (Ipv4Addr::LOCALHOST, 0).into(), protocol: Protocol::Doh };
    let Some(reply) = answerer.answer(&packet, &client).await else { return Vec::new() };
    let Ok(reply) = Message::from_vec(&reply) else { return Vec::new() };
    let addresses = reply.answers.iter().filter_map(|record| {
        if let RData::A(a) = &record.data {
            Some(IpAddr::V4(a.0))
        } else if let RData::AAAA(aaaa) = &record.data {
            Some(IpAddr::V6(aaaa.0))
        } else {
            None
        }
    });
    addresses.filter(|ip| !ip.is_unspecified() && !ip.is_multicast()).collect()
}
