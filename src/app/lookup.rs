//! Questions of our own, past local names, filters and cache.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{join, join_all};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name as HickoryName, RData, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::services::Upstreams;
use crate::acme::{Propagation, TxtRecord};
use crate::dns::{BoxFuture, Forward, Forwarder};
use crate::fetch::Network;
use crate::upstream::EndpointId;

/// Addresses of a name at most.
const MOST: usize = 8;
/// How long the upstreams that are asked for a record may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A question for `name` with recursion desired; `None` if it is no name.
pub(super) fn question(name: &HickoryName, kind: RecordType) -> Option<Vec<u8>> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind));
    question.to_vec().ok()
}

/// The addresses in `message`.
pub(super) fn addresses(message: &[u8]) -> Vec<IpAddr> {
    let Ok(message) = Message::from_vec(message) else { return Vec::new() };
    let found = message.answers.iter().filter_map(|record| {
        if let RData::A(a) = &record.data {
            Some(IpAddr::V4(a.0))
        } else if let RData::AAAA(aaaa) = &record.data {
            Some(IpAddr::V6(aaaa.0))
        } else {
            None
        }
    });
    found.filter(|ip| !ip.is_unspecified() && !ip.is_multicast()).collect()
}

/// Finds certificate authorities: by the upstreams, validated where that is configured.
#[derive(Debug)]
pub(super) struct Names {
    origin: Arc<dyn Forward>,
}

impl Names {
    /// `origin` answers from neither local names nor a cache.
    pub(super) fn new(origin: Arc<dyn Forward>) -> Self {
        Self { origin }
    }

    async fn ask(&self, name: &HickoryName, kind: RecordType) -> Result<Vec<IpAddr>, String> {
        let query = question(name, kind).ok_or("not a name")?;
        let answer = self.origin.forward(query).await.map_err(|error| error.to_string())?;
        if answer.relaxed.is_some() || answer.undated {
            return Err("it was found while certificates and signatures were not judged".into());
        }
        Ok(addresses(&answer.message))
    }
}

impl Network for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let name = HickoryName::from_ascii(format!("{}.", name.trim_end_matches('.')))
                .map_err(io::Error::other)?;
            let (v4, v6) =
                join(self.ask(&name, RecordType::A), self.ask(&name, RecordType::AAAA)).await;
            match (v4, v6) {
                (Err(error), Err(_)) => Err(io::Error::other(error)),
                (v4, v6) => {
                    let mut found: Vec<_> = [v4, v6].into_iter().flatten().flatten().collect();
                    found.truncate(MOST);
                    Ok(found)
                }
            }
        })
    }
}

/// Looks for published records: at upstreams of two operators, and at the zone's own servers where
/// that is allowed, for it goes in plaintext.
pub(super) struct Lookout {
    upstreams: Arc<Upstreams>,
    /// Asks whoever is responsible, without upstreams.
    origin: Arc<dyn Forward>,
    /// Counts questions to the zone's servers, if they may be asked.
    authoritative: Option<Arc<AtomicU64>>,
}

impl Lookout {
    pub(super) fn new(
        upstreams: Arc<Upstreams>,
        origin: Arc<dyn Forward>,
        authoritative: Option<Arc<AtomicU64>>,
    ) -> Self {
        Self { upstreams, origin, authoritative }
    }

    async fn look(&self, record: &TxtRecord) -> bool {
        let Ok(name) = HickoryName::from_ascii(&record.name) else { return false };
        if let Some(count) = &self.authoritative
            && !self.at_the_zone(&name, &record.value, count).await
        {
            return false;
        }
        let Some(query) = question(&name, RecordType::TXT) else { return false };
        let forwarder = self.upstreams.present();
        let places = forwarder.as_ref().map_or_else(Vec::new, |it| of_two_operators(it));
        let Some(forwarder) = forwarder.filter(|_| !places.is_empty()) else {
            let answer = self.origin.forward(query).await;
            return answer.is_ok_and(|answer| holds(&answer.message, &record.value));
        };
        let asked = places.into_iter().map(|place| {
            let (query, forwarder) = (query.clone(), &forwarder);
            async move {
                let answer = forwarder.ask(place, query).await;
                answer.is_ok_and(|answer| holds(&answer, &record.value))
            }
        });
        join_all(asked).await.into_iter().all(|seen| seen)
    }

    /// Whether every server of the zone of `name` has it, or of the zone that it is an alias into.
    async fn at_the_zone(&self, name: &HickoryName, value: &str, count: &AtomicU64) -> bool {
        let mut zone = name.clone();
        let servers = loop {
            let servers = self.servers(&zone).await;
            if !servers.is_empty() || zone.num_labels() < 2 {
                break servers;
            }
            zone = zone.base_name();
        };
        let asked = servers.into_iter().map(|server| {
            count.fetch_add(1, Ordering::Relaxed);
            in_plaintext(server, name)
        });
        let answers = join_all(asked).await;
        // One of them being down keeps no CA from its verdict.
        let heard: Vec<_> = answers.into_iter().flatten().collect();
        !heard.is_empty() && heard.iter().all(|answer| holds(answer, value) || aliased(answer))
    }

    async fn servers(&self, zone: &HickoryName) -> Vec<SocketAddr> {
        let ask = async |name: &HickoryName, kind| {
            let answer = self.origin.forward(question(name, kind)?).await.ok()?;
            Some(answer.message)
        };
        let Some(answer) = ask(zone, RecordType::NS).await else { return Vec::new() };
        let Ok(answer) = Message::from_vec(&answer) else { return Vec::new() };
        let mut found = Vec::new();
        for record in answer.answers.iter().filter(|record| record.name == *zone).take(MOST) {
            let RData::NS(server) = &record.data else { continue };
            let address = ask(&server.0, RecordType::A).await.unwrap_or_default();
            found.extend(addresses(&address).first().map(|ip| SocketAddr::new(*ip, 53)));
        }
        found
    }
}

impl fmt::Debug for Lookout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookout").finish_non_exhaustive()
    }
}

impl Propagation for Lookout {
    fn sees<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, bool> {
        Box::pin(async move { timeout(PATIENCE, self.look(record)).await.unwrap_or(false) })
    }
}

/// What `server` says about `name`, over TCP.
async fn in_plaintext(server: SocketAddr, name: &HickoryName) -> Option<Vec<u8>> {
    let query = question(name, RecordType::TXT)?;
    let length = u16::try_from(query.len()).ok()?;
    let mut stream = TcpStream::connect(server).await.ok()?;
    stream.write_all(&[&length.to_be_bytes(), query.as_slice()].concat()).await.ok()?;
    let mut answer = vec![0; usize::from(stream.read_u16().await.ok()?)];
    stream.read_exact(&mut answer).await.ok()?;
    Some(answer)
}

/// The first endpoints in the order of the plan that two operators have.
fn of_two_operators(forwarder: &Forwarder) -> Vec<EndpointId> {
    let endpoints = forwarder.endpoints();
    let mut found: Vec<EndpointId> = Vec::new();
    for id in forwarder.order() {
        let operator = |id: EndpointId| endpoints.get(id.0).map(|endpoint| &endpoint.operator);
        if found.len() < 2 && found.iter().all(|other| operator(*other) != operator(id)) {
            found.push(id);
        }
    }
    found
}

/// Whether a TXT record in `message` says `value`.
fn holds(message: &[u8], value: &str) -> bool {
    Message::from_vec(message).is_ok_and(|message| {
        message.answers.iter().any(|record| {
            matches!(&record.data, RData::TXT(text) if text.txt_data.concat() == value.as_bytes())
        })
    })
}

/// Whether `message` says no more than what the name is an alias of.
fn aliased(message: &[u8]) -> bool {
    Message::from_vec(message).is_ok_and(|message| {
        message.metadata.response_code == ResponseCode::NoError
            && !message.answers.is_empty()
            && message.answers.iter().all(|record| record.record_type() == RecordType::CNAME)
    })
}
