//! Names given beside addresses: looked up once the time is verified, and the addresses kept, so
//! that a box survives the renumbering of its upstreams and time sources.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hickory_proto::rr::{Name as HickoryName, RecordType};
use serde::{Deserialize, Serialize};

use super::lookup::{addresses, question};
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
pub(super) async fn ask(name: &Name, kind: RecordType, answerer: &Answerer) -> Vec<IpAddr> {
    let Ok(owner) = HickoryName::from_labels(name.labels()) else { return Vec::new() };
    let Some(packet) = question(&owner, kind) else { return Vec::new() };
    let client = Client {
        address: (Ipv4Addr::LOCALHOST, 0).into(),
        protocol: Protocol::Doh,
        arrived: answerer.now(),
    };
    let reply = answerer.answer(&packet, &client).await;
    reply.map_or_else(Vec::new, |(reply, _)| addresses(&reply))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use hickory_proto::op::{Message, OpCode};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, Record};
    use tokio::runtime::Handle;

    use super::*;
    use crate::cache::Cache;
    use crate::clock::UnixTime;
    use crate::dns::answer::AnswerSettings;
    use crate::dns::{BoxFuture, Forward, ForwardError, Forwarded};
    use crate::node::ports::Clock;

    #[tokio::test]
    async fn a_renumbered_upstream_and_source_are_found_under_their_names() {
        let config = config();

        let found = Addresses::default().look_up(&config, &answerer(&config)).await;

        let extended = found.extend(config.clone());
        let expected: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "192.0.2.7".parse().unwrap()];
        assert_eq!(extended.upstreams[0].addresses, expected);
        let places = found.of_source(&config, 0);
        assert_eq!(places, ["10.0.0.9:123".parse().unwrap(), "192.0.2.7:123".parse().unwrap()]);
        assert_eq!(found.of_source(&config, 1), ["10.0.0.10:123".parse().unwrap()]);
    }

    #[tokio::test]
    async fn what_cannot_be_found_keeps_what_is_known_and_what_is_not_configured_is_forgotten() {
        let mut config = config();
        let known = Addresses::default().look_up(&config, &answerer(&config)).await;
        config.upstreams[0].name = "silent.example".parse().unwrap();

        let found = known.clone().look_up(&config, &answerer(&config)).await;

        assert!(found.of(&"dns.example".parse().unwrap()).next().is_none());
        assert!(found.of(&"ntp.example".parse().unwrap()).next().is_some());
        assert_eq!(found.extend(config.clone()).upstreams, config.upstreams);
    }

    fn config() -> Config {
        let text = r#"
            [[upstream]]
            name = "dns.example"
            addresses = ["10.0.0.1"]
            [[clock.source]]
            address = "10.0.0.9"
            name = "ntp.example"
            [[clock.source]]
            address = "10.0.0.10"
        "#;
        Config::parse(text, Path::new("test.toml")).unwrap().config
    }

    fn answerer(config: &Config) -> Answerer {
        let settings = AnswerSettings::from(config);
        let cache = Arc::new(Cache::new(1 << 16, Duration::ZERO));
        Answerer::new(settings, cache, Arc::new(Upstream), Arc::new(Stopped), Handle::current())
    }

    /// Knows one address for every name but `silent.example`.
    #[derive(Debug)]
    struct Upstream;

    impl Forward for Upstream {
        fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
            let question = Message::from_vec(&query).unwrap();
            let asked = question.queries[0].clone();
            if asked.name().to_ascii().starts_with("silent") {
                return Box::pin(async { Err(ForwardError::NoUpstream) });
            }
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.add_query(asked.clone());
            if asked.query_type() == RecordType::A {
                let address = RData::A(A(Ipv4Addr::new(192, 0, 2, 7)));
                answer.add_answer(Record::from_rdata(asked.name().clone(), 60, address));
            }
            let message = answer.to_vec().unwrap();
            Box::pin(async { Ok(Forwarded::unchecked(message, None)) })
        }
    }

    #[derive(Debug)]
    struct Stopped;

    impl Clock for Stopped {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant")]
        fn mono(&self) -> Instant {
            Instant::now()
        }

        fn utc_at(&self, _: Instant) -> UnixTime {
            UnixTime::EPOCH
        }
    }
}
