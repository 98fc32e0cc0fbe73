//! The task that owns the node and the time engine: input in, actions carried out, timers kept.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::asking::Failure;
use super::boot::Boot;
use super::certs::{Certs, Told};
use super::changes::Changes;
use super::filter::Filter;
use super::inception::ASK_EACH;
use super::leap::LeapFile;
use super::notices::{Recipients, Sent};
use super::nts::{self, NtsSources};
use super::pools::Pools;
use super::refclocks::RefClocks;
use super::renumber::Addresses;
use super::self_probe::SelfProbe;
use super::services::{self, Services};
use super::uplink::Uplink;
use crate::admin::Response;
use crate::admin::report::Requests;
use crate::clock::{Level, SourceId, TimeTrust, UnixTime, describe};
use crate::config::{ClockMode, Config};
use crate::dns::ForwardEvent;
use crate::health::{Change, Severity};
use crate::host::kernel::KernelStatus;
use crate::host::notify;
use crate::node::ports::{Clock, Steer};
use crate::node::{Action, Input, Node};
use crate::ntp::engine::Engine;
use crate::upstream::{EndpointId, Outcome};
use crate::witness::{self, Target};

/// How often the machine's clock is looked after.
const TICK: Duration = Duration::from_secs(1);
/// How often the kernel is told what its clock is worth, and a later process of this boot.
const TELL_EACH: Duration = Duration::from_secs(16);
/// How often the time is kept where writing wears the disk down.
const KEEP_EACH: Duration = Duration::from_secs(1200);
/// How often names beside addresses are looked up.
const LOOK_UP_EACH: Duration = Duration::from_secs(86_400);

/// The condition that the sources would lead the clock farther than witnesses allow.
const CONTRADICTED: &str = "sources-contradicted";

/// The condition that the configuration that was read last cannot be used.
pub(super) const UNUSABLE: &str = "configuration-unusable";

/// What the steward is told.
#[derive(Debug)]
pub(super) enum Message {
    /// A question by the control socket.
    Ask(crate::admin::Request, oneshot::Sender<Response>),
    /// What a certificate authority did.
    Certs(Told),
    /// What the forwarder learnt.
    Forward(ForwardEvent),
    /// What a time source or witness did.
    Heard {
        /// Under which configuration of sources and witnesses the question was asked.
        asked: u64,
        /// The member of a pool that was asked.
        member: Option<SocketAddr>,
        /// What it did.
        input: Input,
        /// Why it was not heard.
        failure: Option<Failure>,
    },
    /// The root zone was signed then.
    Past(UnixTime),
    /// Links, addresses or routes changed.
    PathChanged,
    /// Who is found under the name of a pool.
    PoolFound {
        /// Under which configuration of sources it was looked up.
        asked: u64,
        /// Which pool.
        number: usize,
        /// Its addresses.
        found: Vec<IpAddr>,
    },
    /// Where named upstreams and sources are found.
    Found(Addresses),
    /// Shook hands with our own ports; what is wrong with them.
    Probed(Option<String>),
    /// Somebody was told of a condition, or was not.
    Sent(Sent),
    /// Read the configuration again.
    Reload(Option<oneshot::Sender<Response>>),
    /// Keep what is to be kept, and end.
    Stop,
}

/// Owns the node.
#[derive(Debug)]
pub(super) struct Steward {
    pub(super) boot: Arc<Boot>,
    pub(super) services: Arc<Services>,
    pub(super) node: Node,
    /// In force: as read, with the addresses that were found beside it.
    pub(super) config: Config,
    /// As read.
    pub(super) read: Config,
    pub(super) addresses: Addresses,
    next_look_up: Option<Instant>,
    /// Endpoints whose chains were refused when trust last rose, and why.
    pub(super) refused: BTreeMap<EndpointId, String>,
    /// Counts the configurations of sources and witnesses: an answer to a question of an earlier
    /// one is nobody's.
    pub(super) asked: u64,
    /// Questions asked of time sources.
    pub(super) questions: usize,
    pub(super) targets: Vec<Target>,
    /// Why each source and witness was last not heard.
    pub(super) source_failures: Vec<Option<String>>,
    pub(super) witness_failures: Vec<Option<String>>,
    pub(super) file: Option<PathBuf>,
    pub(super) sender: mpsc::Sender<Message>,
    pub(super) refclocks: Option<RefClocks>,
    pub(super) leap_file: LeapFile,
    pub(super) certs: Certs,
    pub(super) recipients: Recipients,
    pub(super) self_probe: SelfProbe,
    pub(super) nts: NtsSources,
    pub(super) pools: Pools,
    pub(super) filter: Filter,
    pub(super) uplink: Uplink,
    pub(super) trust: Option<TimeTrust>,
    pub(super) changes: Changes,
    /// Steps of the clock to a later time, and to an earlier one.
    pub(super) steps: [u64; 2],
    /// What became of requests to the upstreams of each operator.
    pub(super) requests: BTreeMap<String, Requests>,
    next_tick: Instant,
    next_tell: Instant,
    next_keep: Instant,
    pub(super) next_keep_nts: Instant,
    pub(super) next_bound: Instant,
    /// When other hands last moved the machine's clock.
    pub(super) moved: Option<Instant>,
    pub(super) clock: Arc<dyn Steer>,
}

impl Steward {
    pub(super) fn new(
        boot: Arc<Boot>,
        services: Arc<Services>,
        file: Option<PathBuf>,
        sender: mpsc::Sender<Message>,
    ) -> Self {
        let read = (**boot.in_force.load()).clone();
        let addresses = boot.addresses.clone();
        let config = addresses.extend(read.clone());
        let now = boot.now();
        let node = Node::new(boot.trust(&read), services.pool(read.dns.spread), now);
        let targets = witness::targets(&read.clock.witnesses, &read.upstreams);
        let clock: Arc<dyn Steer> = Arc::clone(&boot.clock) as Arc<dyn Steer>;
        let nts = NtsSources::new(&read, &boot.nts_sessions(), &NtsSources::default());
        let mut steward = Self {
            node,
            source_failures: vec![None; sources(&config)],
            witness_failures: vec![None; targets.len() + nts.len()],
            targets,
            nts,
            pools: Pools::new(&read, now.mono),
            file,
            sender,
            refclocks: None,
            leap_file: LeapFile::default(),
            certs: Certs::new(&read, &services, now),
            recipients: Recipients::default(),
            self_probe: SelfProbe::new(now.mono),
            filter: Filter::new(Arc::clone(&clock)),
            uplink: Uplink::new(Arc::clone(services.client.meter()), now.mono),
            trust: None,
            changes: Changes::default(),
            steps: [0; 2],
            requests: BTreeMap::new(),
            next_tick: now.mono,
            next_tell: now.mono,
            next_keep: now.mono,
            next_keep_nts: now.mono + nts::KEEP_EACH,
            next_bound: now.mono + ASK_EACH,
            moved: None,
            clock,
            config,
            read,
            addresses,
            next_look_up: None,
            refused: BTreeMap::new(),
            asked: 0,
            questions: 0,
            boot,
            services,
        };
        steward.report_start();
        steward.listen_to_refclocks();
        steward
    }

    pub(super) async fn run(mut self, mailbox: &mut mpsc::Receiver<Message>) {
        loop {
            self.act();
            let wait = self.next_wake().saturating_duration_since(self.boot.clock.mono());
            if wait.is_zero() {
                // However many messages wait, what is due is done; and however much is due, they are read.
                self.wake();
                match mailbox.try_recv() {
                    Ok(Message::Stop) => break,
                    Ok(message) => self.take(message),
                    Err(_) => {}
                }
                continue;
            }
            tokio::select! {
                message = mailbox.recv() => match message {
                    Some(Message::Stop) | None => break,
                    Some(message) => self.take(message),
                },
                () = tokio::time::sleep(wait) => self.wake(),
            }
        }
        self.keep_all();
        self.boot.finish();
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Ask(request, reply) => {
                let _ = reply.send(self.answer(&request));
            }
            Message::Certs(told) => self.hear_of_certs(told),
            Message::Forward(event) => {
                if let ForwardEvent::Outcome { endpoint, outcome: Outcome::Answered { .. } } = event
                    && self.refused.remove(&endpoint).is_some()
                {
                    self.report_refused();
                }
                self.count_outcome(&event);
                let input = services::input(event, self.node.pool());
                self.feed(input);
            }
            Message::Heard { asked, member, input, failure } => {
                if asked == self.asked && member.is_none_or(|member| self.pools.have(member)) {
                    self.note_failure(&input, failure);
                    self.feed(input);
                }
            }
            Message::PathChanged => {
                self.services.look_at_networks(&self.config);
                if let Some(forwarder) = self.services.forwarder.present() {
                    forwarder.path_changed();
                }
                self.services.recursion.renew();
                self.feed(Input::PathChanged);
                self.certs.lifecycle.handle_path_change(self.boot.now());
                self.retry_notices();
                self.look_at_uplink(self.boot.clock.mono());
            }
            Message::Past(bound) => self.guess_at_least(bound),
            Message::PoolFound { asked, number, found } => {
                if asked == self.asked {
                    self.fill_pool(number, &found);
                }
            }
            Message::Found(addresses) => {
                if addresses != self.addresses {
                    self.boot.keep_addresses(&addresses);
                    self.addresses = addresses;
                    self.apply(self.read.clone());
                }
            }
            Message::Probed(wrong) => self.judge_own_ports(wrong),
            Message::Reload(reply) => {
                let response = self.reload();
                if let Some(reply) = reply {
                    let _ = reply.send(response);
                }
            }
            Message::Sent(sent) => self.hear_of_notice(sent),
            Message::Stop => {}
        }
    }

    pub(super) fn feed(&mut self, input: Input) {
        let now = self.boot.now();
        self.node.handle(input, now);
    }

    fn next_wake(&self) -> Instant {
        let node = self.node.poll_timeout().map(|(at, _)| at);
        let engine = self.filter.engine().poll_timeout().map(|(at, _)| at);
        [node, engine, Some(self.next_tick)].into_iter().flatten().min().unwrap_or(self.next_tick)
    }

    fn wake(&mut self) {
        let now = self.boot.now();
        self.node.handle_timeout(now);
        self.filter.run(Engine::handle_timeout);
        if now.mono >= self.next_tick {
            self.next_tick = now.mono + TICK;
            self.tick(now.mono);
        }
    }

    fn probe(&self, endpoint: EndpointId) {
        if let Some(forwarder) = self.services.forwarder.present() {
            tokio::spawn(async move { forwarder.probe(endpoint).await });
        }
    }

    /// Carries out what the node wants.
    fn act(&mut self) {
        while let Some(action) = self.node.poll_action() {
            match action {
                Action::Announce(change) => {
                    self.changes.take(&change);
                    if matches!(&change, Change::Raised(it) if it.name == CONTRADICTED) {
                        self.put_frequency_back();
                    }
                }
                Action::AskSource { source, patience } => self.ask_source(source, patience),
                Action::AskWitness(witness) => self.ask_witness(witness),
                Action::Feed(source, reading) => self.steer_by(source, &reading),
                Action::Plan(plan) => {
                    let down = plan.all_down && !services::asked(&self.config).is_empty();
                    self.services.answerer.set_upstreams_down(down);
                    self.certs.upstreams_are_down(down, self.boot.now());
                    if let Some(forwarder) = self.services.forwarder.present() {
                        forwarder.set_plan(plan);
                    }
                }
                Action::Probe(endpoint) => self.probe(endpoint),
                Action::Publish(trust) => self.publish(trust),
                Action::SaveFloor(floor) => self.boot.keep_floor(floor),
                Action::StepClock { by, basis } => {
                    let before = self.boot.clock.utc();
                    self.clock.step(by);
                    self.steps[usize::from(by < 0)] += 1;
                    self.services.ntp_server.clock_was_set();
                    self.filter.reset();
                    self.boot.forget_time();
                    info!(
                        by = describe(by),
                        %before,
                        after = %self.boot.clock.utc(),
                        ?basis,
                        "the clock is set"
                    );
                }
                Action::TellFloorLowered { from, to } => {
                    warn!(%from, %to, "the floor was wrong and is lowered, on the word of a majority of sources and the witnesses of two operators");
                }
            }
        }
        self.services.ntp_status.store(Arc::new(self.node.trust().ntp_status(self.boot.now())));
    }

    fn publish(&mut self, trust: TimeTrust) {
        let before = self.trust.replace(trust);
        info!(level = ?trust.level, verified = trust.verified, generation = trust.generation, "trust in the clock");
        if before.is_none_or(|before| before.generation != trust.generation) {
            let refused = self.services.rise(trust);
            self.refused = refused
                .into_iter()
                .map(|refused| (refused.endpoint, refused.error.to_string()))
                .collect();
            self.report_refused();
        }
        self.judge_nts();
        if trust.level == Level::Suspect {
            self.boot.forget_time();
        }
        let newly = |held: fn(&TimeTrust) -> bool| {
            held(&trust) && !before.is_some_and(|before| held(&before))
        };
        if newly(|trust| trust.verified) || newly(|trust| trust.level >= Level::Coarse) {
            self.services.identity.renew_fallback(self.boot.clock.utc());
        }
        if newly(|trust| trust.verified) && self.next_look_up.is_none() {
            self.next_look_up = Some(self.boot.clock.mono());
        }
        self.services.snapshots.trust_is(trust);
        notify::status(&self.in_words());
        self.next_tell = self.boot.clock.mono();
        self.next_keep = self.next_tell;
        if newly(|trust| trust.verified) {
            self.keep_nts_soon(self.next_tell);
        }
    }

    /// Each second: other hands on the clock; sources that no longer count; what others are told.
    fn tick(&mut self, now: Instant) {
        if let Some(moved) = self.boot.clock.foreign_step() {
            self.meet_other_hands(moved, now);
        }
        match self.boot.clock.leap_second() {
            // The engine has seen no clock like that.
            Some(Duration::ZERO) => self.filter.reset(),
            Some(left) => self.next_tick = self.next_tick.min(now + left),
            None => {}
        }
        self.report_listeners();
        let keys = self.services.keys_trouble().map(|text| (Severity::Warning, text));
        self.feed(Input::Condition { name: "ntp-keys", held: keys });
        self.report_refclocks();
        self.look_at_leap_file(now);
        self.look_at_certificate();
        self.look_at_own_ports(now);
        self.look_at_uplink(now);
        self.look_at_notices(now);
        self.look_at_pools(now);
        let verified = self.trust.is_some_and(|trust| trust.verified);
        if verified && !self.node.health().holds(CONTRADICTED) {
            self.filter.remember(now);
        }
        self.look_for_a_bound(now);
        let verdicts: Vec<_> =
            self.node.trust().sources(self.boot.now()).map(|source| source.verdict).collect();
        for (index, verdict) in verdicts.into_iter().enumerate() {
            let id = SourceId(index);
            self.filter.run(|engine, now| engine.handle_verdict(id, verdict, now));
        }
        if self.next_look_up.is_some_and(|at| now >= at) && self.trust.is_some_and(|t| t.verified) {
            self.next_look_up = Some(now + LOOK_UP_EACH);
            self.look_up();
        }
        if now < self.next_tell {
            return;
        }
        self.next_tell = now + TELL_EACH;
        self.judge_nts();
        let status = self.node.trust().ntp_status(self.boot.now());
        let error = status.root_dispersion_at(now) + status.root_delay / 2;
        if status.synchronized {
            self.boot.clock.set_status(KernelStatus {
                synchronized: true,
                est_error: status.root_dispersion_at(now),
                max_error: error,
                leap: status.leap,
            });
        }
        if now >= self.next_keep {
            let each = if self.boot.runtime.is_volatile() { TELL_EACH } else { KEEP_EACH };
            self.next_keep = now + each;
            self.keep_time();
        }
        self.keep_nts_if_due(now);
        notify::status(&self.in_words());
    }

    /// Looks up the names that stand beside addresses.
    fn look_up(&self) {
        let (known, config) = (self.addresses.clone(), self.read.clone());
        let (answerer, sender) = (Arc::clone(&self.services.answerer), self.sender.clone());
        tokio::spawn(async move {
            let found = known.look_up(&config, &answerer).await;
            let _ = sender.send(Message::Found(found)).await;
        });
    }

    fn report_start(&mut self) {
        if let Some(report) = &self.boot.unusable {
            let text = format!(
                "the configuration cannot be used; {} runs instead; mend it and reload: {report}",
                self.boot.origin
            );
            let held = Some((Severity::Error, text));
            self.feed(Input::Condition { name: UNUSABLE, held });
        }
        if let Some(refusal) = self.boot.clock.refusal() {
            let text = format!(
                "{refusal}; a software clock serves names, certificates and NTP clients; \
                 give the service CAP_SYS_TIME, or set clock.mode = \"observe\""
            );
            let held = Some((Severity::Warning, text));
            self.feed(Input::Condition { name: "clock-not-steered", held });
        }
    }

    pub(super) fn report_refused(&mut self) {
        let words: Vec<_> = self.refused.values().map(String::as_str).collect();
        let text = format!(
            "upstreams whose certificates are refused at the known time, the others answer: {}",
            words.join("; ")
        );
        let held = (!words.is_empty()).then_some((Severity::Warning, text));
        self.feed(Input::Condition { name: "upstream-certificate", held });
    }

    fn report_listeners(&mut self) {
        let refused = self.services.refused();
        let held = (!refused.is_empty()).then(|| (Severity::Error, refused.join("; ")));
        self.feed(Input::Condition { name: "listeners-refused", held });
    }

    fn keep_time(&self) {
        if let Some(known) = self.node.trust().to_resume(self.boot.now()) {
            self.boot.keep_time(&known);
        }
    }

    fn keep_all(&self) {
        self.keep_certs();
        self.keep_nts();
        if let Some(floor) = self.node.trust().floor_to_save(self.boot.clock.mono()) {
            self.boot.keep_floor(floor);
        }
        self.keep_time();
    }

    /// The state in a line, for `systemctl status`.
    fn in_words(&self) -> String {
        let trust = self.node.trust().trust(self.boot.clock.mono());
        let time = match trust.level {
            Level::Cold => "time not known yet",
            Level::Coarse => "clock set, not confirmed",
            Level::Disciplined => "clock disciplined",
            Level::Holdover => "clock in holdover",
            Level::Suspect => "clock contradicted",
        };
        let verified = if trust.verified { ", verified" } else { "" };
        let conditions = self.node.health().conditions();
        let grave = conditions.iter().find(|condition| condition.severity > Severity::Notice);
        let grave = grave.map_or_else(String::new, |condition| format!("; {}", condition.name));
        format!("{time}{verified}{grave}")
    }

    pub(super) const fn mode(&self) -> ClockMode {
        self.config.clock.mode
    }
}

/// How many time sources there may be, with reference clocks and the places of pools.
pub(super) fn sources(config: &Config) -> usize {
    let members: usize = config.clock.pools.iter().map(|pool| pool.count).sum();
    config.clock.sources.len() + config.clock.refclocks.len() + members
}
