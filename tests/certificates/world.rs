//! A house with one certificate, its CAs, and a clock that may be wrong, in virtual time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use firstlight::cert::{
    Ca, CaId, Ending, Event, Failure, Held, Hold, Kind, Lifecycle, Order, OrderId, Policy, Window,
};
use firstlight::clock::{CertDates, Level, Nanos, Now, TimeTrust, UnixTime, magnitude};
use firstlight::health::Severity;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
/// The start of each story.
pub(crate) const NOON: UnixTime = UnixTime::from_secs(1_773_489_600);

/// What a CA makes of an order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mood {
    /// It issues a certificate within 20 s.
    Well,
    /// It accepts the order, if `true`, and fails it after so long.
    Fails(Kind, bool, Duration),
    /// It accepts the order, and nothing follows.
    Stalls,
}

pub(crate) struct World {
    pub(crate) machine: Lifecycle,
    policy: Policy,
    pub(crate) mono: Instant,
    pub(crate) start: Instant,
    /// How far the clock is ahead, in nanoseconds.
    ahead: Nanos,
    verified: bool,
    generation: u64,
    /// The life of certificates, by CA.
    life: Duration,
    pub(crate) moods: Vec<Mood>,
    under_way: Option<(Instant, OrderId, bool, Ending)>,
    /// All orders, and after how long they were made.
    pub(crate) orders: Vec<(Duration, Order)>,
    /// All certificates put into service, and after how long.
    pub(crate) served: Vec<(Duration, Held)>,
    /// Each alarm when it was first raised, with the certificate's remaining life.
    pub(crate) raised: Vec<(&'static str, Severity, Duration)>,
    /// The least remaining life that was seen while the box was on; 0: it expired.
    pub(crate) least: Duration,
    looked: Option<Instant>,
    /// How often the alarms are looked at.
    pub(crate) look_each: Duration,
    in_service: String,
}

impl World {
    /// A house that has held a certificate of `life` for `age`, and `cas` CAs.
    pub(crate) fn new(seed: u64, life: Duration, age: Duration, cas: usize) -> Self {
        let mut world = Self::unverified(seed, life, age, cas, 0);
        world.verify(true);
        world
    }

    /// The same, with a clock that is ahead by `ahead` and not verified.
    pub(crate) fn unverified(
        seed: u64,
        life: Duration,
        age: Duration,
        cas: usize,
        ahead: Nanos,
    ) -> Self {
        let start = start();
        let ca = |place| Ca { name: format!("ca{place}"), staging: true };
        let names = vec!["dns.example.org".to_owned()];
        let cas: Vec<_> = (0..cas).map(ca).collect();
        let moods = vec![Mood::Well; cas.len()];
        let policy = Policy { names, cas, seed, ..Policy::default() };
        let first = held(0, NOON - age, life);
        let in_service = first.serial.clone();
        let now = Now { mono: start, utc: NOON.offset(ahead) };
        let mut world = Self {
            machine: Lifecycle::new(policy.clone(), vec![first], None, now),
            policy,
            mono: start,
            start,
            ahead,
            verified: false,
            generation: 0,
            life,
            moods,
            under_way: None,
            orders: Vec::new(),
            served: Vec::new(),
            raised: Vec::new(),
            least: life,
            looked: None,
            look_each: MINUTE * 30,
            in_service,
        };
        world.verify(false);
        world
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono: self.mono, utc: self.utc().offset(self.ahead) }
    }

    /// The true time.
    pub(crate) fn utc(&self) -> UnixTime {
        NOON + self.elapsed()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.mono - self.start
    }

    /// What is really left of the certificate in service.
    pub(crate) fn remaining(&self) -> Duration {
        let held = self.machine.in_service().unwrap();
        magnitude(held.not_after.since(self.utc()).max(0))
    }

    /// Witnesses confirm the clock, or cease to.
    pub(crate) fn verify(&mut self, verified: bool) {
        self.verified = verified;
        self.generation += 1;
        let trust = TimeTrust {
            level: if verified { Level::Disciplined } else { Level::Cold },
            verified,
            generation: self.generation,
            floor: UnixTime::EPOCH,
            dates: CertDates::Strict,
        };
        self.machine.handle_trust(trust, self.now());
        self.carry_out();
    }

    /// The clock is set right, and confirmed.
    pub(crate) fn set_right(&mut self) {
        self.ahead = 0;
        self.verify(true);
    }

    /// The process ends, with what was under way, and another starts at a clock ahead by `ahead`
    /// that is not verified.
    pub(crate) fn reboot(&mut self, ahead: Nanos) {
        self.ahead = ahead;
        self.under_way = None;
        let (held, saved) = (self.machine.held().to_vec(), self.machine.saved());
        self.machine = Lifecycle::new(self.policy.clone(), held, Some(saved), self.now());
        self.verify(false);
    }

    pub(crate) fn everybody(&mut self, mood: Mood) {
        self.moods.fill(mood);
    }

    /// The uplink is back; `told`: and something noticed.
    pub(crate) fn path_returns(&mut self, told: bool) {
        self.everybody(Mood::Well);
        if told {
            self.machine.handle_path_change(self.now());
            self.carry_out();
        }
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.mono + span;
        self.run_until(span, |_| false);
        self.mono = end;
    }

    /// Lets time pass until `done`, or for `limit`; whether it was done.
    pub(crate) fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.mono + limit;
        loop {
            self.look();
            if done(self) {
                return true;
            }
            let timer = self.timer();
            let next = self.under_way.as_ref().map_or(timer, |(at, ..)| timer.min(*at));
            if next > end {
                return false;
            }
            self.mono = next;
            let now = self.now();
            match self.under_way.take_if(|(at, ..)| *at == next) {
                Some((_, id, accepted, ending)) => {
                    self.machine.handle_ending(id, accepted, ending, now);
                }
                None => self.machine.handle_timeout(now),
            }
            self.carry_out();
        }
    }

    /// When the machine is called next. While it only ticks, weeks would take minutes: it is then
    /// called each hour, or when it has said that something is due.
    fn timer(&self) -> Instant {
        let (at, why) = self.machine.poll_timeout();
        if why != "tick" {
            return at.max(self.mono);
        }
        let now = self.now();
        let next = self.machine.next(now).unwrap();
        let until = match next.hold {
            Some(
                Hold::Guard { until, .. } | Hold::Limited { until, .. } | Hold::Retry { until, .. },
            ) => Some(until),
            _ => None,
        };
        let moments = [Some(next.due), next.rehearsal, until].into_iter().flatten();
        let waits = moments.map(|at| at.since(now.utc)).filter(|wait| *wait > 0);
        self.mono + waits.map(magnitude).min().unwrap_or(HOUR).min(HOUR)
    }

    fn carry_out(&mut self) {
        let mut events: VecDeque<_> = std::iter::from_fn(|| self.machine.poll_event()).collect();
        while let Some(event) = events.pop_front() {
            match event {
                Event::Order(order) => {
                    assert!(self.verified && self.under_way.is_none(), "{order:?}");
                    self.orders.push((self.elapsed(), order.clone()));
                    self.answer(&order);
                }
                Event::AskWindow { ca: CaId(ca), serial } => {
                    if matches!(self.moods[ca], Mood::Well) {
                        let window = self.window();
                        self.machine.handle_window(&serial, window, Some(HOUR * 6), self.now());
                        events.extend(std::iter::from_fn(|| self.machine.poll_event()));
                    }
                }
                Event::Serve(serial) => {
                    let held = self.machine.in_service().unwrap().clone();
                    assert_eq!(held.serial, serial);
                    // A process says at its start, too, what is to be served.
                    let before = std::mem::replace(&mut self.in_service, serial);
                    if before != held.serial {
                        self.served.push((self.elapsed(), held));
                    }
                }
                Event::Save => {}
            }
        }
    }

    /// Let's Encrypt's window: around two thirds of the life, or half of a short one.
    fn window(&self) -> Window {
        let held = self.machine.in_service().unwrap();
        let life = held.life();
        let centre = if life < DAY * 10 { life / 2 } else { life * 2 / 3 };
        Window {
            start: held.not_before + centre - life / 100,
            end: held.not_before + (centre + life / 100),
            explanation: None,
        }
    }

    fn answer(&mut self, order: &Order) {
        let fails = |kind| Ending::Failed(Failure { kind, detail: "as the story has it".into() });
        let (after, accepted, ending) = match self.moods[order.ca.0] {
            Mood::Stalls => return,
            Mood::Fails(kind, accepted, after) => (after, accepted, fails(kind)),
            Mood::Well if order.staging => (SECOND * 20, true, Ending::Passed),
            Mood::Well => {
                let serial = self.orders.len() as u64;
                // As public CAs do, by an hour before.
                let fresh = Held {
                    ca: Some(self.policy.cas[order.ca.0].name.clone()),
                    ..held(serial, self.utc() - HOUR, self.life)
                };
                (SECOND * 20, true, Ending::Issued(fresh))
            }
        };
        self.under_way = Some((self.mono + after, order.id, accepted, ending));
    }

    /// Looks at the certificate, and now and then at the alarms.
    fn look(&mut self) {
        let remaining = self.remaining();
        self.least = self.least.min(remaining);
        if self.looked.is_some_and(|at| self.mono < at + self.look_each) {
            return;
        }
        self.looked = Some(self.mono);
        for alarm in self.machine.alarms(self.now()) {
            let known = |(name, severity, _): &(&str, Severity, Duration)| {
                (*name, *severity) == (alarm.name, alarm.severity)
            };
            if !self.raised.iter().any(known) {
                self.raised.push((alarm.name, alarm.severity, remaining));
            }
        }
    }

    /// How much life was left when an alarm of that severity, or a graver one, was first raised.
    pub(crate) fn warned(&self, severity: Severity) -> Option<Duration> {
        self.raised.iter().find(|(_, of, _)| *of >= severity).map(|(.., left)| *left)
    }

    /// The most orders within any such span: all, and those that were not rehearsals.
    pub(crate) fn most_orders(&self, span: Duration) -> (usize, usize) {
        let most = |orders: Vec<Duration>| {
            let from = |begin: Duration| {
                orders.iter().filter(move |at| **at >= begin && **at < begin + span).count()
            };
            orders.iter().map(|begin| from(*begin)).max().unwrap_or(0)
        };
        let real = self.orders.iter().filter(|(_, order)| !order.staging);
        (
            most(self.orders.iter().map(|(at, _)| *at).collect()),
            most(real.map(|(at, _)| *at).collect()),
        )
    }
}

fn held(serial: u64, not_before: UnixTime, life: Duration) -> Held {
    Held {
        serial: format!("{serial:04x}"),
        names: vec!["dns.example.org".to_owned()],
        not_before,
        not_after: not_before + life,
        got: not_before,
        ca: Some("ca0".to_owned()),
    }
}

/// `SplitMix64`, for stories told at random moments.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub(crate) fn below(&mut self, most: Duration) -> Duration {
        Duration::from_secs(self.next() % most.as_secs().max(1))
    }
}

#[expect(clippy::disallowed_methods, reason = "virtual time needs some instant to start from")]
fn start() -> Instant {
    Instant::now()
}
