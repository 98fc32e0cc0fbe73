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
use crate::dns::{BoxFuture, Forward, ForwardError, Forwarded, Forwarder};
use crate::fetch::Network;
use crate::upstream::{Endpoint, EndpointId};

/// Addresses of a name at most.
const MOST: usize = 8;
/// How long a look for a record may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a server of the zone may take.
const SERVER: Duration = Duration::from_secs(2);
/// Where the servers of zones answer.
const DNS: u16 = 53;

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
            let mut found: Vec<_> = [&v4, &v6].into_iter().flatten().flatten().copied().collect();
            found.truncate(MOST);
            // That there is none of one kind says nothing about the other.
            match v4.and(v6) {
                Err(error) if found.is_empty() => Err(io::Error::other(error)),
                Ok(_) | Err(_) => Ok(found),
            }
        })
    }
}

/// Looks for published records: at upstreams of two operators, and at the zone's own servers where
/// that is allowed, for it goes in plaintext. Who is down keeps no CA from its verdict.
pub(super) struct Lookout {
    /// Gives the upstreams that are to be asked.
    upstreams: Box<dyn Fn() -> Vec<Arc<dyn Forward>> + Send + Sync>,
    /// Asks whoever is responsible, without upstreams.
    origin: Arc<dyn Forward>,
    /// Counts questions to the zone's servers, if they may be asked.
    authoritative: Option<Arc<AtomicU64>>,
    /// Where the servers of zones answer.
    port: u16,
}

impl Lookout {
    pub(super) fn new(
        upstreams: Arc<Upstreams>,
        origin: Arc<dyn Forward>,
        authoritative: Option<Arc<AtomicU64>>,
    ) -> Self {
        let upstreams = Box::new(move || of_two_operators(&upstreams));
        Self { upstreams, origin, authoritative, port: DNS }
    }

    async fn look(&self, record: &TxtRecord) -> bool {
        let Ok(name) = HickoryName::from_ascii(&record.name) else { return false };
        if let Some(count) = &self.authoritative
            && !self.at_the_zone(&name, &record.value, count).await
        {
            return false;
        }
        let Some(query) = question(&name, RecordType::TXT) else { return false };
        let mut places = (self.upstreams)();
        if places.is_empty() {
            places.push(Arc::clone(&self.origin));
        }
        let asked = places.iter().map(|place| place.forward(query.clone()));
        let heard: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        !heard.is_empty() && heard.iter().all(|answer| holds(&answer.message, &record.value))
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
            timeout(SERVER, in_plaintext(server, name))
        });
        let answers = join_all(asked).await.into_iter().flatten();
        let heard: Vec<_> = answers.flatten().collect();
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
            found.extend(addresses(&address).first().map(|ip| SocketAddr::new(*ip, self.port)));
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

/// One upstream, and no other.
#[derive(Debug)]
struct Alone(Arc<Forwarder>, EndpointId);

impl Forward for Alone {
    fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
        Box::pin(async {
            let message = self.0.ask(self.1, query).await?;
            Ok(Forwarded::unchecked(message, None))
        })
    }
}

fn of_two_operators(upstreams: &Upstreams) -> Vec<Arc<dyn Forward>> {
    let Some(forwarder) = upstreams.present() else { return Vec::new() };
    let ids = first_of_two(&forwarder.endpoints(), &forwarder.order()).into_iter();
    ids.map(|id| Arc::new(Alone(Arc::clone(&forwarder), id)) as Arc<dyn Forward>).collect()
}

/// The first endpoints in `order` that two operators have.
fn first_of_two(endpoints: &[Endpoint], order: &[EndpointId]) -> Vec<EndpointId> {
    let operator = |id: EndpointId| endpoints.get(id.0).map(|endpoint| &endpoint.operator);
    let mut found: Vec<EndpointId> = Vec::new();
    for id in order {
        if found.len() < 2 && found.iter().all(|other| operator(*other) != operator(*id)) {
            found.push(*id);
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;

    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, CNAME, NS, TXT};
    use tokio::net::TcpListener;

    use super::*;
    use crate::cache::ChainId;

    const CA: &str = "acme.example.";
    const OWNER: &str = "_acme-challenge.dns.home.test.";
    const VALUE: &str = "a digest";

    #[tokio::test]
    async fn a_ca_is_found_behind_an_alias() {
        let alias = cname(CA, "ca.cdn.example.");
        let script =
            Script::new([(CA, RecordType::A, vec![alias, a("ca.cdn.example.", [192, 0, 2, 7])])]);

        let found = Names::new(script.clone()).resolve("acme.example").await.unwrap();

        assert_eq!(found, [IpAddr::from([192, 0, 2, 7])]);
        let asked = [(CA, RecordType::A), (CA, RecordType::AAAA)];
        assert_eq!(script.asked(), asked.map(|(name, kind)| (name.to_owned(), kind)));
    }

    #[tokio::test]
    async fn what_was_found_while_nothing_was_judged_is_no_address_of_a_ca() {
        let script = || Script::of([(CA, RecordType::A, vec![a(CA, [192, 0, 2, 7])])]);
        for doubtful in [Script { relaxed: true, ..script() }, Script { undated: true, ..script() }]
        {
            let error = Names::new(Arc::new(doubtful)).resolve("acme.example").await.unwrap_err();
            assert!(error.to_string().contains("were not judged"), "{error}");
        }
    }

    #[tokio::test]
    async fn that_there_is_none_of_one_kind_hides_no_failure_of_the_other() {
        let down = |kind| Script { silent: Some(kind), ..Script::of([]) };
        for kind in [RecordType::A, RecordType::AAAA] {
            let error = Names::new(Arc::new(down(kind))).resolve("acme.example").await.unwrap_err();
            assert_eq!(error.to_string(), ForwardError::NoUpstream.to_string());
        }
        let half = Script {
            silent: Some(RecordType::AAAA),
            ..Script::of([(CA, RecordType::A, vec![a(CA, [192, 0, 2, 7])])])
        };
        assert_eq!(Names::new(Arc::new(half)).resolve("acme.example").await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn hostile_answers_and_names_cost_little() {
        let many = (0..=255).map(|last| a(CA, [192, 0, 2, last])).collect();
        let found = Names::new(Script::new([(CA, RecordType::A, many)])).resolve(CA).await.unwrap();
        assert_eq!(found.len(), MOST);

        let nowhere = vec![a(CA, [0, 0, 0, 0]), a(CA, [224, 0, 0, 1]), txt(CA, &["192.0.2.7"])];
        let script = Script::new([(CA, RecordType::A, nowhere)]);
        assert_eq!(Names::new(script).resolve(CA).await.unwrap(), Vec::<IpAddr>::new());

        for octets in [&b""[..], b"no message", &[255; 600]] {
            let script = Arc::new(Script { instead: Some(octets.to_vec()), ..Script::of([]) });
            let found = Names::new(script.clone()).resolve(CA).await.unwrap();
            assert_eq!(found, Vec::<IpAddr>::new());
            assert!(!lookout(vec![script.clone()], script).sees(&record()).await);
        }

        let script = Script::new([]);
        for name in ["a..example", &"x".repeat(64), &"x.".repeat(200)] {
            assert_eq!(Names::new(script.clone()).resolve(name).await.ok(), None, "{name}");
        }
        assert_eq!(script.asked(), []);
    }

    #[tokio::test]
    async fn a_record_is_seen_once_both_operators_have_it() {
        let has = || Script::new([(OWNER, RecordType::TXT, vec![txt(OWNER, &[VALUE])])]);
        let lacks = || Script::new([]);
        let other = || Script::new([(OWNER, RecordType::TXT, vec![txt(OWNER, &["another"])])]);
        let down = || Arc::new(Script { silent: Some(RecordType::TXT), ..Script::of([]) });
        for (first, second, seen) in [
            (has(), has(), true),
            (has(), lacks(), false),
            (lacks(), has(), false),
            (has(), other(), false),
            // Of who is down nothing is known.
            (has(), down(), true),
            (lacks(), down(), false),
            (down(), down(), false),
        ] {
            let elsewhere = has();
            let lookout = lookout(vec![first.clone(), second.clone()], elsewhere.clone());

            assert_eq!(lookout.sees(&record()).await, seen, "{first:?} {second:?}");
            for asked in [first, second] {
                assert_eq!(asked.asked(), [(OWNER.to_owned(), RecordType::TXT)]);
            }
            assert_eq!(elsewhere.asked(), []);
        }
        // Without upstreams there is one place to ask.
        assert!(lookout(Vec::new(), has()).sees(&record()).await);
        assert!(!lookout(Vec::new(), lacks()).sees(&record()).await);
    }

    #[tokio::test]
    async fn a_value_is_seen_whole_behind_an_alias_and_beside_others() {
        let target = "d4.acme-dns.test.";
        for (answers, seen) in [
            (vec![cname(OWNER, target), txt(target, &[VALUE])], true),
            (vec![txt(OWNER, &["a second one"]), txt(OWNER, &[VALUE])], true),
            (vec![txt(OWNER, &["a di", "gest"])], true),
            (vec![txt(OWNER, &[VALUE, "s"])], false),
            (vec![txt(OWNER, &["a"])], false),
            (vec![cname(OWNER, target)], false),
        ] {
            let script = Script::new([(OWNER, RecordType::TXT, answers.clone())]);
            let lookout = lookout(vec![script.clone(), script.clone()], script);
            assert_eq!(lookout.sees(&record()).await, seen, "{answers:?}");
        }
        let nonsense = TxtRecord { name: "a..test".into(), value: VALUE.into() };
        let script = Script::new([]);
        assert!(!lookout(vec![script.clone()], script.clone()).sees(&nonsense).await);
        assert_eq!(script.asked(), []);
    }

    #[tokio::test]
    async fn every_server_of_the_zone_that_answers_must_have_it() {
        let has = || vec![txt(OWNER, &[VALUE])];
        let [silent, has, lacks, alias] =
            [None, Some(has()), Some(Vec::new()), Some(vec![cname(OWNER, "d4.acme-dns.test.")])];
        for (servers, seen) in [
            (vec![has.clone(), has.clone()], true),
            (vec![has.clone(), lacks.clone()], false),
            (vec![has, silent], true),
            (vec![alias], true),
            (vec![], false),
        ] {
            let told = format!("{servers:?}");
            let (addresses, port) = zone(servers).await;
            let name = |nth: usize| format!("ns{nth}.home.test.");
            let all = (0..addresses.len()).map(|nth| ns("home.test.", &name(nth))).collect();
            let mut known = vec![
                ("home.test.".to_owned(), RecordType::NS, all),
                (OWNER.to_owned(), RecordType::TXT, vec![txt(OWNER, &[VALUE])]),
            ];
            known.extend(
                addresses
                    .iter()
                    .enumerate()
                    .map(|(nth, ip)| (name(nth), RecordType::A, vec![a(&name(nth), ip.octets())])),
            );
            let script = Arc::new(Script { known, ..Script::of([]) });
            let upstreams = vec![script.clone()];
            let lookout =
                Lookout { authoritative: Some(Arc::default()), port, ..lookout(upstreams, script) };

            assert_eq!(lookout.sees(&record()).await, seen, "{told}");
        }
    }

    #[test]
    fn upstreams_of_one_operator_are_asked_as_one() {
        let endpoint = |operator: &str| Endpoint {
            name: "dns.example".into(),
            operator: operator.into(),
            address: (Ipv4Addr::LOCALHOST, 853).into(),
        };
        let endpoints = ["quad9", "quad9", "cloudflare", "google"].map(endpoint);
        let order = [1, 0, 3, 2, 9].map(EndpointId);

        assert_eq!(first_of_two(&endpoints, &order), [1, 3].map(EndpointId));
        assert_eq!(first_of_two(&endpoints[..2], &order[..2]), [EndpointId(1)]);
        assert_eq!(first_of_two(&endpoints, &[]), []);
    }

    fn record() -> TxtRecord {
        TxtRecord { name: OWNER.into(), value: VALUE.into() }
    }

    fn lookout(upstreams: Vec<Arc<Script>>, origin: Arc<Script>) -> Lookout {
        let upstreams = move || upstreams.iter().map(|it| it.clone() as Arc<dyn Forward>).collect();
        Lookout { upstreams: Box::new(upstreams), origin, authoritative: None, port: DNS }
    }

    /// Servers over TCP, each with these answers; without any it takes questions and says nothing.
    /// Gives their addresses, and the port of them all.
    async fn zone(servers: Vec<Option<Vec<Record>>>) -> (Vec<Ipv4Addr>, u16) {
        let (mut addresses, mut port) = (Vec::new(), 0);
        for (nth, answers) in (1..).zip(servers) {
            let ip = Ipv4Addr::new(127, 53, 0, nth);
            let listener = TcpListener::bind((ip, port)).await.unwrap();
            port = listener.local_addr().unwrap().port();
            addresses.push(ip);
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut query = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut query).await.unwrap();
                let Some(answers) = answers else { return std::future::pending().await };
                let reply = answer(&Message::from_vec(&query).unwrap(), answers);
                stream.write_u16(reply.len().try_into().unwrap()).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            });
        }
        (addresses, port)
    }

    fn answer(question: &Message, answers: Vec<Record>) -> Vec<u8> {
        let mut message = Message::response(question.metadata.id, OpCode::Query);
        message.add_query(question.queries[0].clone());
        message.add_answers(answers);
        message.to_vec().unwrap()
    }

    fn name(text: &str) -> HickoryName {
        HickoryName::from_ascii(text).unwrap()
    }

    fn a(owner: &str, [a, b, c, d]: [u8; 4]) -> Record {
        Record::from_rdata(name(owner), 60, RData::A(A(Ipv4Addr::new(a, b, c, d))))
    }

    fn cname(owner: &str, target: &str) -> Record {
        Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(target))))
    }

    fn ns(owner: &str, server: &str) -> Record {
        Record::from_rdata(name(owner), 60, RData::NS(NS(name(server))))
    }

    fn txt(owner: &str, strings: &[&str]) -> Record {
        let strings = strings.iter().map(ToString::to_string).collect();
        Record::from_rdata(name(owner), 60, RData::TXT(TXT::new(strings)))
    }

    type Known = (String, RecordType, Vec<Record>);

    /// Answers what it knows, and writes down what it is asked.
    #[derive(Debug, Default)]
    struct Script {
        known: Vec<Known>,
        relaxed: bool,
        undated: bool,
        /// It fails for this type.
        silent: Option<RecordType>,
        /// What it says instead of any answer.
        instead: Option<Vec<u8>>,
        asked: Mutex<Vec<(String, RecordType)>>,
    }

    impl Script {
        fn new<const N: usize>(known: [(&str, RecordType, Vec<Record>); N]) -> Arc<Self> {
            Arc::new(Self::of(known))
        }

        fn of<const N: usize>(known: [(&str, RecordType, Vec<Record>); N]) -> Self {
            let known = known.map(|(owner, kind, answers)| (owner.to_owned(), kind, answers));
            Self { known: known.into(), ..Self::default() }
        }

        fn asked(&self) -> Vec<(String, RecordType)> {
            self.asked.lock().unwrap().clone()
        }
    }

    impl Forward for Script {
        fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
            let question = Message::from_vec(&query).unwrap();
            let (owner, kind) = (question.queries[0].name(), question.queries[0].query_type());
            let asked = (owner.to_ascii(), kind);
            let found = self.known.iter().find(|(name, of, _)| (name, of) == (&asked.0, &asked.1));
            let found = found.map_or_else(Vec::new, |(.., answers)| answers.clone());
            self.asked.lock().unwrap().push(asked);
            let message = self.instead.clone().unwrap_or_else(|| answer(&question, found));
            let answered = Forwarded {
                undated: self.undated,
                ..Forwarded::unchecked(message, self.relaxed.then_some(ChainId(1)))
            };
            let answered = if self.silent == Some(kind) {
                Err(ForwardError::NoUpstream)
            } else {
                Ok(answered)
            };
            Box::pin(std::future::ready(answered))
        }
    }
}
