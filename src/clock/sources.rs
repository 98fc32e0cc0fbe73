//! The time sources: what each said last, and when it is asked again.

use std::time::{Duration, Instant};

use super::select::Interval;
use super::time::{Nanos, UnixTime, nanos};

/// A source, by its position in the configuration.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SourceId(pub usize);

/// How a source comes by its word.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SourceKind {
    /// An NTP server, which is asked.
    #[default]
    Server,
    /// A clock on this machine, which speaks by itself each second.
    ReferenceClock,
    /// The same, but it tells only where seconds begin: which second it is the others say, and so
    /// it has no vote.
    Pulse,
}

/// What the trust machine must know of a source.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the configuration")]
pub struct SourceSpec {
    /// Who runs it.
    pub operator: String,
    /// On the LAN, where asking more than once a second harms nobody.
    pub private: bool,
    /// The system peer while it agrees with the majority.
    pub prefer: bool,
    /// A clock of one's own.
    pub trust: bool,
    /// Asked and shown, and never counted.
    pub noselect: bool,
    /// How often it is asked once its burst is over.
    pub polls: Polls,
    /// How it comes by its word.
    pub kind: SourceKind,
    /// A place for a member of a pool, empty until one is found under the pool's name.
    pub member: bool,
}

impl SourceSpec {
    /// Whether it may have a vote.
    #[must_use]
    pub fn votes(&self) -> bool {
        !self.noselect && self.kind != SourceKind::Pulse
    }
}

/// Bounds of the interval between two questions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Polls {
    /// The shortest.
    pub min: Duration,
    /// The longest; a source that asks for fewer questions is left alone for longer.
    pub max: Duration,
}

impl Default for Polls {
    fn default() -> Self {
        Self { min: STEADY, max: SLOWEST }
    }
}

/// One answer of a source, free of the local clock: at `at` its time was `utc`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The middle of the exchange on the monotonic clock.
    pub at: Instant,
    /// The source's time at that moment.
    pub utc: UnixTime,
    /// Root distance (RFC 5905 section 11.2): the most it can be wrong, if it is honest.
    pub error: Duration,
    /// Round trip to the source.
    pub delay: Duration,
    /// Distance from the primary reference: 0 for a reference clock, 1 to 15 for servers.
    pub stratum: u8,
    /// What identifies the source as an upstream: its IPv4 address, or a hash of its IPv6 one.
    pub reference_id: [u8; 4],
    /// The source's own round trip to the primary reference.
    pub root_delay: Duration,
    /// The source's own error bound.
    pub root_dispersion: Duration,
    /// Leap indicator: 0, 1 or 2 (RFC 5905 figure 9).
    pub leap: u8,
    /// log2 of the source's precision, in seconds.
    pub precision: i8,
}

/// A kiss-o'-death code (RFC 5905 section 7.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kiss {
    /// The source refuses service (DENY, RSTR).
    Deny,
    /// Asked too often (RATE).
    Rate,
}

/// What selection makes of a source.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It said DENY or RSTR, and is left alone for an hour, then for longer.
    Denied,
    /// Its interval misses the majority's, or the witnesses'.
    Falseticker,
    /// No answer of late.
    Silent,
    /// It agrees with the majority (RFC 5905 section 11.2.1).
    Truechimer,
    /// It answers, but no majority has formed.
    Undecided,
}

/// A silent source is asked each second or two this long, then each [`STEADY`].
const PATIENCE: Duration = Duration::from_secs(600);
/// The interval after the burst, until the engine asks for another.
const STEADY: Duration = Duration::from_secs(16);
/// The longest interval, even for a source that asks for fewer questions.
const SLOWEST: Duration = Duration::from_secs(1024);
/// A source that said DENY or RSTR is left alone for so long, and twice as long each time after. It may
/// have been forged, and the attacker gone; so it is not for ever, as RFC 5905 section 7.4 would have it.
const DENIED: Duration = Duration::from_secs(3600);
/// RATE and DENY are obeyed for so long at most.
const OBEYED: Duration = Duration::from_secs(86_400);
/// Fast polls after the first answer.
const BURST: u8 = 8;
/// An answer that has not come by then was lost with the task that waited for it.
const LOST: Duration = Duration::from_secs(10);
/// A reference clock that has said nothing for so long has stopped.
const STOPPED: Duration = Duration::from_secs(5);
/// The worst drift of a crystal nothing has calibrated yet.
const DRIFT_PPM: Nanos = 100;

/// A source's state.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) spec: SourceSpec,
    /// Whether there is anybody to ask.
    pub(super) present: bool,
    pub(super) reading: Option<Reading>,
    pub(super) verdict: Verdict,
    /// The last eight polls, newest lowest (RFC 5905 section 9.2).
    pub(super) reach: u8,
    burst: u8,
    steady: Duration,
    /// No shorter interval since it sent RATE, and when that was.
    floor_interval: Duration,
    rated: Option<Instant>,
    /// How long it is left alone since it said DENY or RSTR.
    denied: Option<Duration>,
    asked: Option<Instant>,
    last_asked: Option<Instant>,
    silent_since: Option<Instant>,
    next: Option<Instant>,
}

impl Source {
    pub(super) fn new(spec: SourceSpec, now: Instant) -> Self {
        Self {
            present: !spec.member,
            reading: None,
            verdict: Verdict::Silent,
            reach: 0,
            burst: BURST,
            steady: spec.polls.min,
            floor_interval: Duration::ZERO,
            rated: None,
            denied: None,
            asked: None,
            last_asked: None,
            silent_since: None,
            next: (spec.kind == SourceKind::Server && !spec.member).then_some(now),
            spec,
        }
    }

    /// Puts another member into a pool's place, of whom nothing is known, or nobody.
    pub(super) fn seat(&mut self, present: bool, now: Instant) {
        *self = Self::new(self.spec.clone(), now);
        self.present = present;
        self.next = present.then_some(now);
    }

    /// Whether it helps to steer, and only the others say which second it marks.
    pub(super) fn is_pulse(&self) -> bool {
        self.spec.kind == SourceKind::Pulse && !self.spec.noselect
    }

    /// Whether it has a vote.
    pub(super) fn votes(&self) -> bool {
        self.present && self.spec.votes()
    }

    /// Whether a majority is counted with it: one of a pool only while it answers, because others
    /// take its place if it does not.
    pub(super) fn is_counted(&self, now: Instant) -> bool {
        self.votes() && (!self.spec.member || self.claim(now).is_some())
    }

    /// When it is to be asked; `None` for a clock that speaks by itself.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Marks it asked at `now`; returns how long an answer is waited for.
    pub(super) fn ask(&mut self, now: Instant) -> Duration {
        self.asked = Some(now);
        self.last_asked = Some(now);
        self.next = Some(now + LOST);
        self.patience()
    }

    pub(super) fn answered(&mut self, reading: Reading, now: Instant) {
        self.reach = self.reach << 1 | 1;
        self.reading = Some(reading);
        self.silent_since = None;
        if self.denied.take().is_some() {
            self.verdict = Verdict::Undecided;
        }
        // Whoever forged RATE once is not obeyed for ever.
        if self.rated.is_some_and(|at| now.saturating_duration_since(at) >= OBEYED) {
            (self.floor_interval, self.rated) = (Duration::ZERO, None);
        }
        let interval = if self.burst > 0 {
            self.burst -= 1;
            self.fastest()
        } else {
            self.steady
        };
        self.schedule(interval, now);
    }

    /// `urgent`: the clock is in want of this source.
    pub(super) fn silent(&mut self, urgent: bool, now: Instant) {
        self.reach <<= 1;
        let since = *self.silent_since.get_or_insert(self.asked.unwrap_or(now));
        if let Some(pause) = self.denied {
            return self.schedule(pause, now);
        }
        let retry = urgent && now.saturating_duration_since(since) < PATIENCE;
        self.schedule(if retry { Duration::from_secs(1) } else { self.steady }, now);
    }

    pub(super) fn kissed(&mut self, kiss: Kiss, now: Instant) {
        match kiss {
            Kiss::Deny => {
                let pause = self.denied.map_or(DENIED, |pause| (pause * 2).min(OBEYED));
                self.denied = Some(pause);
                self.verdict = Verdict::Denied;
                self.reading = None;
                self.burst = 0;
                self.schedule(pause, now);
            }
            Kiss::Rate => {
                self.rated = Some(now);
                let slower = (self.floor_interval * 2).max(self.steady * 2);
                self.floor_interval = slower.min(SLOWEST);
                self.burst = 0;
                self.schedule(self.steady, now);
            }
        }
    }

    /// A link, a route or the clock has changed: asks at once, and a burst again.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.next.is_none() || self.denied.is_some() {
            return;
        }
        self.burst = BURST;
        self.silent_since = None;
        // A question under way is an early one already.
        if self.floor_interval.is_zero() && self.asked.is_none() {
            let earliest = self.last_asked.map_or(now, |last| last + self.fastest());
            self.next = Some(earliest.max(now));
        }
    }

    /// The polling interval the engine asks for.
    pub(super) fn pace(&mut self, interval: Duration) {
        self.steady = interval.clamp(self.spec.polls.min, self.spec.polls.max);
    }

    /// The interval in which it claims the truth at `now`; `None` if its last answer is too old.
    pub(super) fn claim(&self, now: Instant) -> Option<Interval> {
        let reading = self.reading.as_ref()?;
        let age = now.saturating_duration_since(reading.at);
        if self.spec.kind != SourceKind::Server {
            // What tells of itself each second, and has ceased to, has stopped.
            if self.reach & 1 == 0 || age > STOPPED {
                return None;
            }
        } else if age > (self.steady.max(self.floor_interval) * 3).max(Duration::from_secs(20)) {
            return None;
        }
        let error = nanos(reading.error) + nanos(age) * DRIFT_PPM / 1_000_000;
        Some(Interval::around(reading.utc + age, error))
    }

    /// The interval in force between two polls.
    pub(super) fn interval(&self) -> Duration {
        if self.spec.kind != SourceKind::Server {
            return Duration::from_secs(1);
        }
        let interval = if self.burst > 0 { self.fastest() } else { self.steady };
        interval.max(self.floor_interval)
    }

    fn fastest(&self) -> Duration {
        Duration::from_millis(if self.spec.private { 300 } else { 1000 })
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(if self.spec.private { 950 } else { 1800 })
    }

    fn schedule(&mut self, interval: Duration, now: Instant) {
        if self.spec.kind != SourceKind::Server {
            return;
        }
        let from = self.asked.take().unwrap_or(now);
        self.next = Some((from + interval.max(self.floor_interval)).max(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_source_is_asked_each_second_or_two_for_ten_minutes_then_each_16_s() {
        let mut world = World::new(false);

        let asked = world.silence_for(Duration::from_secs(600));
        assert!((300..=601).contains(&asked), "{asked}");

        let asked = world.silence_for(Duration::from_secs(160));
        assert!((8..=12).contains(&asked), "{asked}");
    }

    #[test]
    fn an_answering_source_is_asked_eight_times_a_second_apart_then_each_16_s() {
        let mut world = World::new(false);

        let gaps: Vec<_> = (0..11).map(|_| world.answer().as_millis()).collect();

        assert_eq!(gaps[0], 0);
        assert!(gaps[1..9].iter().all(|gap| *gap == 1000), "{gaps:?}");
        assert!(gaps[9..].iter().all(|gap| *gap == 16_000), "{gaps:?}");
    }

    #[test]
    fn it_is_asked_as_often_as_its_administrator_wants() {
        let mut world = World::new(true);
        world.source.spec.polls =
            Polls { min: Duration::from_secs(64), max: Duration::from_secs(256) };
        world.source.steady = Duration::from_secs(64);
        let gaps: Vec<_> = (0..11).map(|_| world.answer().as_secs()).collect();
        assert_eq!(gaps[9..], [64, 64]);

        for (wish, granted) in [(16, 64), (128, 128), (1024, 256)] {
            world.source.pace(Duration::from_secs(wish));
            assert_eq!(world.source.interval(), Duration::from_secs(granted));
        }
    }

    #[test]
    fn rate_slows_it_at_every_level_and_deny_keeps_it_away_for_hours() {
        let mut world = World::new(true);
        world.answer();
        world.source.ask(world.now);
        world.source.kissed(Kiss::Rate, world.now);
        world.source.hurry(world.now);

        assert!(world.answer() >= Duration::from_secs(32));
        assert!(world.answer() >= Duration::from_secs(32));

        for hours in [1, 2, 4, 8, 16, 24, 24] {
            world.source.kissed(Kiss::Deny, world.now);
            world.source.hurry(world.now);
            assert_eq!(world.source.verdict, Verdict::Denied);
            let next = world.source.next().unwrap();
            assert_eq!(next - world.now, Duration::from_secs(3600 * hours));
            world.now = next;
        }
        world.source.silent(true, world.now);
        assert!(world.source.next().unwrap() - world.now >= Duration::from_secs(86_400));
    }

    #[test]
    fn kisses_that_were_forged_once_are_forgotten_after_a_day() {
        let mut world = World::new(true);
        world.source.kissed(Kiss::Rate, world.now);
        let rated = world.now;
        while world.now - rated < OBEYED {
            world.answer();
        }
        world.answer();
        assert!(world.answer() < Duration::from_secs(20), "RATE is obeyed for a day");

        world.source.kissed(Kiss::Deny, world.now);
        world.answer();
        assert_ne!(world.source.verdict, Verdict::Denied);
        assert!(world.answer() < Duration::from_secs(20));
    }

    #[test]
    fn a_public_source_is_never_hurried_below_a_second() {
        let mut world = World::new(false);
        world.answer();

        world.source.hurry(world.now);
        assert!(world.answer() >= Duration::from_secs(1));

        let next = world.source.next().unwrap();
        world.source.ask(next);
        world.source.hurry(next);
        assert_eq!(world.source.next(), Some(next + LOST), "one question is under way");
    }

    #[test]
    fn a_lost_task_does_not_silence_a_source_for_good() {
        let mut world = World::new(true);

        world.source.ask(world.now);

        assert_eq!(world.source.next(), Some(world.now + LOST));
    }

    struct World {
        source: Source,
        now: Instant,
        asked: Option<Instant>,
    }

    impl World {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        fn new(private: bool) -> Self {
            let now = Instant::now();
            let spec = SourceSpec { private, ..SourceSpec::default() };
            Self { source: Source::new(spec, now), now, asked: None }
        }

        fn silence_for(&mut self, span: Duration) -> usize {
            let end = self.now + span;
            let mut asked = 0;
            while let Some(next) = self.source.next().filter(|next| *next < end) {
                self.now = self.now.max(next);
                self.now += self.source.ask(self.now);
                self.source.silent(true, self.now);
                asked += 1;
            }
            asked
        }

        /// Asks when due, answers 10 ms later; returns how long after the last question that was.
        fn answer(&mut self) -> Duration {
            let asked = self.source.next().unwrap();
            let since = self.asked.replace(asked).map_or(Duration::ZERO, |last| asked - last);
            self.source.ask(asked);
            self.now = asked + Duration::from_millis(10);
            self.source.answered(reading(self.now), self.now);
            since
        }
    }

    fn reading(at: Instant) -> Reading {
        Reading {
            at,
            utc: UnixTime::from_secs(1_800_000_000),
            error: Duration::from_millis(5),
            delay: Duration::from_millis(10),
            stratum: 1,
            reference_id: *b"GPS\0",
            root_delay: Duration::ZERO,
            root_dispersion: Duration::ZERO,
            leap: 0,
            precision: -20,
        }
    }
}
