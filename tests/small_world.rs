//! The small world, seen by firstlight's own clients through the configuration it writes.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use firstlight::clock::{CertDates, Level, Reading, TimeTrust, UnixTime, magnitude, nanos};
use firstlight::config::{ClockMode, Config, Transport};
use firstlight::dns::{Forward, ForwardError, Forwarder};
use firstlight::host::clock::MachineClock;
use firstlight::host::kernel::{KernelClock, OsClock};
use firstlight::lab::{World, Zone, household};
use firstlight::node::ports::Clock;
use firstlight::ntp::client::{AskError, Proof, ask};
use firstlight::tls::{Client, Validity};
use firstlight::upstream::Pool;
use firstlight::wire::{Header, Message, Name, Rcode, Type};
use firstlight::witness::{Testimony, WitnessError, fetch, targets};
use tokio::runtime::Handle;
use tokio::time::timeout;

const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(31_557_600);

#[tokio::test(flavor = "multi_thread")]
async fn its_configuration_has_neither_mistakes_nor_warnings() {
    let lab = Lab::new("config");

    let parsed = lab.parse(&lab.text);

    assert_eq!(parsed.warnings.to_string(), "");
    let config = parsed.config;
    assert_eq!(config.clock.mode, ClockMode::Observe);
    assert!(config.state.directory.starts_with(&lab.folder.0));
    assert!(config.control.socket.unwrap().starts_with(&lab.folder.0));
    let ports: Vec<_> =
        [config.dns.listen, config.dot.listen, config.doh.listen, config.ntp.listen]
            .into_iter()
            .map(|listen| listen[0].port())
            .collect();
    assert!(ports.iter().all(|port| *port >= 1024), "{ports:?}");
    assert!((0..4).all(|index| !ports[..index].contains(&ports[index])), "{ports:?}");
    lab.parse(&household().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_operators_know_example_com_and_nothing_else() {
    let lab = Lab::new("names");
    for transport in [Transport::Dot, Transport::Doh] {
        let upstream = lab.upstream(transport);

        for name in ["example.com", "www.example.com", "a.b.example.com"] {
            assert_eq!(resolve(&upstream, name, Type::A).await, Ok(vec![Zone::V4.octets().into()]));
            let v6 = Zone::V6.octets().into();
            assert_eq!(resolve(&upstream, name, Type::AAAA).await, Ok(vec![v6]));
        }
        let txt = resolve(&upstream, "www.example.com", Type::TXT).await.unwrap();
        assert!(txt[0].ends_with(b"firstlight"), "{txt:?}");
        assert_eq!(resolve(&upstream, "www.example.com", Type::MX).await, Ok(vec![]));
        let none = Err(Rcode::NXDOMAIN.to_string());
        assert_eq!(resolve(&upstream, "www.example.org", Type::A).await, none);
        assert_eq!(resolve(&upstream, ".", Type::A).await, none);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_sources_are_honest_and_one_is_five_years_ahead() {
    let lab = Lab::new("sources");

    for (index, ahead) in
        [Duration::ZERO, Duration::ZERO, Duration::ZERO, YEAR * 5].iter().enumerate()
    {
        let reading = lab.ask(index).await.unwrap();

        assert!(lab.is_ahead_by(&reading, *ahead), "{index}: {reading:?}");
        assert_eq!((reading.leap, reading.stratum), (0, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_witnesses_tell_the_date_and_the_resolver_does_not() {
    let lab = Lab::new("witnesses");

    let [cedar, damson, birch] = lab.witnesses().await.try_into().unwrap();

    for testimony in [&cedar, &damson] {
        let testimony = testimony.as_ref().unwrap();
        let off = magnitude(testimony.stated.since(lab.truth.utc_at(testimony.at)));
        assert!(off <= testimony.error, "{testimony:?}");
        assert!(testimony.valid_at_stated && testimony.passes_rule_r);
    }
    assert_ne!(cedar.unwrap().operator, damson.unwrap().operator);
    assert!(matches!(birch, Err(WitnessError::Date)), "{birch:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_lies_and_falls_silent_on_demand() {
    let lab = Lab::new("liar");

    lab.world.lie(0, -nanos(YEAR));
    let back = lab.ask(0).await.unwrap();
    lab.world.silence_source(1);
    let silent = lab.ask(1).await;

    assert!(magnitude(back.utc.since(lab.truth.utc_at(back.at) - YEAR)) <= back.error, "{back:?}");
    assert!(matches!(silent, Err(AskError::Silent(_))), "{silent:?}");
    lab.world.restore().unwrap();
    for index in [0, 1] {
        let reading = lab.ask(index).await.unwrap();
        assert!(lab.is_ahead_by(&reading, Duration::ZERO), "{reading:?}");
    }
    assert!(lab.is_ahead_by(&lab.ask(3).await.unwrap(), YEAR * 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_operator_answers_nothing_until_it_is_restored() {
    let lab = Lab::new("silent");
    for transport in [Transport::Dot, Transport::Doh] {
        let upstream = lab.upstream(transport);
        assert!(resolve(&upstream, "www.example.com", Type::A).await.is_ok());

        lab.world.silence_operator(transport);
        let question = resolve(&upstream, "www.example.com", Type::A);
        assert!(timeout(Duration::from_millis(200), question).await.is_err());

        lab.world.restore().unwrap();
        assert!(resolve(&upstream, "www.example.com", Type::A).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_uplink_cut_nobody_answers() {
    let lab = Lab::new("cut");
    lab.world.silence();

    let upstream = lab.upstream(Transport::Doh);
    let question = resolve(&upstream, "www.example.com", Type::A);

    assert!(timeout(Duration::from_millis(200), question).await.is_err());
    assert!(timeout(Duration::from_millis(200), lab.witnesses()).await.is_err());
    assert!(matches!(lab.ask(0).await, Err(AskError::Silent(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_by_one_of_other_dates() {
    let lab = Lab::new("certificate");
    let today = lab.truth.utc();
    let expired = Validity { not_before: today - DAY * 100, not_after: today - DAY * 10 };
    for transport in [Transport::Dot, Transport::Doh] {
        lab.world.replace_certificate(transport, expired).unwrap();
        let refused = resolve(&lab.upstream(transport), "www.example.com", Type::A).await;
        assert!(refused.as_ref().is_err_and(|why| why.contains("expired")), "{refused:?}");
    }

    lab.world.restore().unwrap();

    for transport in [Transport::Dot, Transport::Doh] {
        assert!(resolve(&lab.upstream(transport), "www.example.com", Type::A).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_it_ends_its_ports_are_free() {
    let lab = Lab::new("end");
    let endpoints = lab.world.endpoints();
    assert!(endpoints.to_string().contains(&endpoints.dot.to_string()));
    let Lab { world, .. } = lab;

    drop(world);

    assert!(std::net::UdpSocket::bind(endpoints.sources[0]).is_ok());
    assert!(std::net::TcpStream::connect(endpoints.dot).is_err());
}

/// The world, its configuration in a folder that goes with the test, and the true time.
struct Lab {
    world: World,
    text: String,
    folder: Folder,
    truth: Arc<dyn Clock>,
}

impl Lab {
    fn new(name: &str) -> Self {
        let truth: Arc<dyn Clock> = Arc::new(MachineClock::new(
            ClockMode::Observe,
            KernelClock.utc(),
            Arc::new(KernelClock),
        ));
        let world = World::start(Arc::clone(&truth), &Handle::current()).unwrap();
        let folder =
            std::env::temp_dir().join(format!("firstlight-lab-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let text = world.config(&folder).unwrap();
        Self { world, text, folder: Folder(folder), truth }
    }

    fn parse(&self, text: &str) -> firstlight::config::Parsed {
        Config::parse(text, &self.folder.0.join("firstlight.toml")).unwrap()
    }

    fn config(&self) -> Config {
        self.parse(&self.text).config
    }

    /// A client of the operator of `transport` alone, which knows the time.
    fn upstream(&self, transport: Transport) -> Forwarder {
        let mut upstreams = self.config().upstreams;
        upstreams.retain(|upstream| upstream.transport == transport);
        assert_eq!(upstreams.len(), 1);
        let trust = TimeTrust {
            level: Level::Disciplined,
            verified: true,
            generation: 1,
            floor: UnixTime::EPOCH,
            dates: CertDates::Strict,
        };
        let (forwarder, _) = Forwarder::new(&upstreams, self.client(), trust);
        forwarder.set_plan(Pool::new(forwarder.endpoints()).plan().clone());
        forwarder
    }

    async fn ask(&self, source: usize) -> Result<Reading, AskError> {
        let address = self.config().clock.sources[source].address;
        let floor = self.truth.utc() - YEAR * 2;
        ask(address, &*self.truth, floor, Duration::from_millis(300), Proof::None, &[]).await
    }

    async fn witnesses(&self) -> Vec<Result<Testimony, WitnessError>> {
        let config = self.config();
        let mut told = Vec::new();
        for target in targets(&config.clock.witnesses, &config.upstreams) {
            told.push(fetch(&target, &self.client(), self.truth.utc() - YEAR).await);
        }
        told
    }

    fn client(&self) -> Client {
        Client::new(Arc::clone(&self.truth)).unwrap()
    }

    fn is_ahead_by(&self, reading: &Reading, ahead: Duration) -> bool {
        magnitude(reading.utc.since(self.truth.utc_at(reading.at) + ahead)) <= reading.error
    }
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The data of the records of `qtype`, or why there are none.
async fn resolve(upstream: &Forwarder, name: &str, qtype: Type) -> Result<Vec<Vec<u8>>, String> {
    let mut query = Header { id: 7, flags: 0x0100, counts: [1, 0, 0, 0] }.to_octets().to_vec();
    query.extend(name.parse::<Name>().unwrap().as_wire());
    query.extend([qtype.0.to_be_bytes(), [0, 1]].concat());
    let answer = upstream.forward(query).await.map_err(|error: ForwardError| error.to_string())?;
    let message = Message::parse(&answer.message).unwrap();
    let rcode = Rcode(message.header().flags & 0xf);
    if rcode != Rcode::NOERROR {
        return Err(rcode.to_string());
    }
    let records = message.records().map(Result::unwrap);
    let wanted = records.filter(|record| record.rtype == qtype);
    Ok(wanted.map(|record| record.rdata.to_vec()).collect())
}
