//! What holds whatever sources, witnesses and links do.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::SourceKind::{Pulse, ReferenceClock, Server};
use super::*;

/// Something that happens to the machine.
#[derive(Clone, Debug)]
enum Happening {
    Kiss(usize, bool),
    Path,
    Pass(u64),
    /// Source, offset of its time from the truth in milliseconds, error in milliseconds.
    Reading(usize, i64, u64),
    Refutation(bool),
    Silence(usize),
    /// Witness, offset in milliseconds, and the three verdicts on its chain.
    Testimony(usize, i64, bool, bool, bool),
    WitnessFailure(usize),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_input_sets_the_clock_and_trusts_it_at_once(
        happenings in prop::collection::vec(happening(), 1..120)
    ) {
        let mut world = World::new();
        for happening in happenings {
            let set = world.happen(&happening);
            let level = world.trust.trust(world.now).level;

            // A step grants no trust.
            prop_assert!(!set || level <= Level::Coarse, "{happening:?} set the clock at {level:?}");
            // NTP clients are told of nothing less than a disciplined clock.
            let status = world.trust.ntp_status(world.now());
            prop_assert!(
                !status.synchronized || matches!(level, Level::Disciplined | Level::Holdover | Level::Suspect)
            );
            // Nothing stays due: whoever sleeps until then would spin.
            let due = (0..4).all(|_| {
                world.trust.handle_timeout(world.now());
                world.obey();
                world.trust.poll_timeout().is_some_and(|(at, _)| at <= world.now)
            });
            prop_assert!(!due, "due for ever: {:?}", world.trust.poll_timeout());
        }
    }

    #[test]
    fn unauthenticated_time_never_moves_the_floor(
        happenings in prop::collection::vec(happening(), 1..120)
    ) {
        let mut world = World::new();
        let floor = world.trust.floor(world.now);
        for happening in happenings {
            if !matches!(happening, Happening::Testimony(..)) {
                world.happen(&happening);
            }
        }
        prop_assert_eq!(world.trust.floor(world.now), floor);
    }

    #[test]
    fn sources_lead_a_confirmed_clock_no_farther_than_its_witnesses_allow(
        lies in prop::collection::vec((0usize..4, -6_000i64..6_000, 1u64..2_000, 1u64..40_000), 1..200)
    ) {
        let mut world = World::new();
        world.discipline();
        let begin = world.now;
        for (source, ahead, error, pause) in lies {
            // All of them know what the clock shows, and are ahead of that, or behind it.
            let ahead = world.clock.since(world.truth) + Nanos::from(ahead) * 1_000_000;
            let reading = world.reading(ahead, error);
            world.trust.handle_reading(SourceId(source), reading, world.now());
            world.follow();
            world.happen(&Happening::Pass(pause));
            world.follow();

            let allowed = Duration::from_secs(5) + world.now.duration_since(begin) / 10_000;
            prop_assert!(world.error() < allowed, "{:?} after {source} {ahead}", world.error());
        }
    }
}

#[test]
fn a_source_that_is_not_selected_is_judged_and_never_counts() {
    let mut world = World::new();
    let mut policy = Policy { witnesses: Vec::new(), ..world.trust.policy.clone() };
    for source in &mut policy.sources {
        source.trust = false;
    }
    policy.sources[0].noselect = true;
    world.trust = Trust::new(policy, Floor::new(world.clock, None), None, world.now());

    assert_eq!((world.trust.voters(world.now), world.trust.need(world.now)), (3, 3));

    // Two that count agree with one that does not.
    for source in [0, 1, 2] {
        world.happen(&Happening::Reading(source, 0, 5));
    }
    assert_eq!(world.trust.trust(world.now).level, Level::Cold);
    world.happen(&Happening::Reading(3, 0, 5));
    assert_eq!(world.trust.trust(world.now).level, Level::Coarse);
    let fed = |world: &mut World| {
        std::iter::from_fn(|| world.trust.poll_event())
            .filter_map(|event| if let Event::Feed(id, _) = event { Some(id) } else { None })
            .collect::<Vec<_>>()
    };
    fed(&mut world);
    for source in [1, 0] {
        let reading = world.reading(0, 5);
        world.trust.handle_reading(SourceId(source), reading, world.now());
    }
    assert_eq!(fed(&mut world), [SourceId(1)], "it steers");
    world.happen(&Happening::Reading(0, 5_000, 5));
    let offset = world.trust.sources(world.now()).next().unwrap().last.unwrap().offset;
    assert!((offset - 5_000_000_000).abs() < 100_000_000, "{offset}");
    let verdicts: Vec<_> = world.trust.sources(world.now()).map(|seen| seen.verdict).collect();
    assert_eq!(verdicts[0], Verdict::Falseticker);
}

#[test]
fn a_machine_that_slept_asks_its_witnesses_anew() {
    let mut world = World::new();
    world.discipline();
    let trust = world.trust.trust(world.now);
    assert_eq!((trust.level, trust.verified), (Level::Disciplined, true));

    // Ten minutes that the monotonic clock did not see.
    world.truth = world.truth + Duration::from_secs(600);
    for source in 0..4 {
        world.happen(&Happening::Reading(source, 0, 5));
    }

    world.trust.handle_timeout(world.now());
    let asked = std::iter::from_fn(|| world.trust.poll_event())
        .filter(|event| matches!(event, Event::AskWitness(_)));
    assert_eq!(asked.count(), 3);
    world.everybody_answers();
    assert!(world.clock.since(world.truth).abs() < 1_000_000_000, "the clock is set at once");
}

#[test]
fn a_clock_under_suspicion_is_neither_steered_nor_handed_on() {
    let mut world = World::new();
    world.discipline();
    // The witnesses' words grow too old to count, the sources find the clock right as before.
    for span in [8_000_000, 1000] {
        world.happen(&Happening::Pass(span));
        for source in 0..4 {
            world.happen(&Happening::Reading(source, 0, 5));
        }
    }
    assert!(world.trust.to_resume(world.now()).is_some());

    world.happen(&Happening::Refutation(true));
    world.happen(&Happening::Refutation(false));
    let suspected = world.trust.ntp_status(world.now());
    world.happen(&Happening::Pass(1000));
    for source in 0..4 {
        world.happen(&Happening::Reading(source, 0, 5));
    }

    assert_eq!(world.trust.trust(world.now).level, Level::Suspect);
    assert!(suspected.synchronized, "the last good time is told");
    assert_eq!(world.trust.ntp_status(world.now()).since, suspected.since, "its error grows");
    assert_eq!(world.trust.to_resume(world.now()), None);
}

#[test]
fn a_gps_alone_disciplines_at_once_and_runs_on_when_it_stops() {
    let mut world = World::of(&[("gps", ReferenceClock, false)]);

    let (level, ntp) = world.hear(6, &[(0, 0)]);
    assert_eq!((level, ntp.stratum), (Level::Disciplined, 1));
    assert!(world.error() < Duration::from_millis(1));
    assert!(ntp.root_dispersion >= Duration::from_secs(1), "nothing confirms it");
    assert!(!world.trust.trust(world.now).verified);
    assert_eq!(world.trust.to_resume(world.now()), None);

    world.happen(&Happening::Pass(4000));
    world.happen(&Happening::Silence(0));
    assert_eq!(world.trust.sources(world.now()).next().unwrap().verdict, Verdict::Silent);
    let (level, ntp) = world.hear(30, &[]);
    assert_eq!(level, Level::Holdover);
    assert!(ntp.synchronized);
}

#[test]
fn a_gps_alone_brings_a_box_back_from_years_on_a_shelf_but_not_below_the_floor() {
    const YEARS: i64 = 31_557_600_000;
    let mut shelf = World::of(&[("gps", ReferenceClock, false)]);
    assert_eq!(shelf.hear(6, &[(0, 9 * YEARS)]).0, Level::Disciplined);

    let mut below = World::of(&[("gps", ReferenceClock, true)]);
    assert_eq!(below.hear(60, &[(0, -86_400_000)]).0, Level::Cold);
    // One whose count of weeks started over, and one farther ahead than any floor can be old.
    assert_eq!(below.hear(60, &[(0, -20 * YEARS)]).0, Level::Cold);
    assert_eq!(below.hear(60, &[(0, 41 * YEARS)]).0, Level::Cold);
}

#[test]
fn a_gps_beside_silent_servers_is_one_vote_and_sets_nothing() {
    let sources = [("gps", ReferenceClock, false), ("a", Server, false), ("b", Server, false)];
    let mut world = World::of(&sources);

    assert_eq!(world.hear(120, &[(0, 0)]).0, Level::Cold);
    assert_eq!(world.hear(3, &[(0, 0), (1, 3), (2, -3)]).0, Level::Coarse);
}

#[test]
fn two_reference_clocks_that_contradict_each_other_set_nothing() {
    let mut world = World::of(&[("gps", ReferenceClock, false), ("dcf", ReferenceClock, false)]);

    assert_eq!(world.hear(60, &[(0, 0), (1, 5000)]).0, Level::Cold);
    assert_eq!(world.hear(6, &[(0, 0), (1, 5)]).0, Level::Disciplined);
}

#[test]
fn pulses_have_no_vote_and_are_the_peer_once_others_number_them() {
    let sources =
        [("pps", Pulse, false), ("a", Server, false), ("b", Server, false), ("c", Server, false)];
    let mut world = World::of(&sources);

    assert_eq!(world.hear(30, &[(0, -7_000)]).0, Level::Cold);
    assert_eq!(world.hear(30, &[(0, -7_000), (1, 4), (2, 4)]).0, Level::Cold, "two are no quorum");

    // The servers are late by 4 ms, the pulse is on the second; which second it has no idea.
    let (level, _) = world.hear(10, &[(0, 21_000), (1, -4), (2, -4), (3, -4)]);
    assert_eq!(level, Level::Disciplined);
    let verdicts: Vec<_> = world.trust.sources(world.now()).map(|it| it.verdict).collect();
    assert_eq!(verdicts, [Verdict::Truechimer; 4]);
    let pulse = world.trust.sources(world.now()).next().unwrap().last.unwrap();
    assert!(magnitude(pulse.offset) < Duration::from_millis(10), "{pulse:?}");

    // A noisy line: in step with itself, and not with them.
    world.hear(3, &[(0, 300), (1, 0), (2, 0), (3, 0)]);
    let pulse = world.trust.sources(world.now()).next().unwrap();
    assert_eq!(pulse.verdict, Verdict::Falseticker);
}

#[test]
fn a_reference_clock_far_worse_than_the_servers_votes_and_does_not_steer() {
    let sources = [
        ("gps", ReferenceClock, false),
        ("a", Server, false),
        ("b", Server, false),
        ("c", Server, false),
    ];
    for (error, steers) in [(15, true), (250, false)] {
        let mut world = World::of(&sources);
        world.hear(10, &[(0, 0), (1, 0), (2, 0), (3, 0)]);

        let reading = Reading { stratum: 0, ..world.reading(0, error) };
        world.trust.handle_reading(SourceId(0), reading, world.now());

        let fed = std::iter::from_fn(|| world.trust.poll_event())
            .any(|event| matches!(event, Event::Feed(SourceId(0), _)));
        assert_eq!(fed, steers, "{error} ms");
        let gps = world.trust.sources(world.now()).next().unwrap();
        assert_eq!(gps.verdict, Verdict::Truechimer);
    }
}

#[test]
fn members_of_a_pool_count_while_they_answer_and_once_the_clock_was_set() {
    let source = |operator: &str, member| SourceSpec {
        operator: operator.to_owned(),
        private: true,
        member,
        ..SourceSpec::default()
    };
    let mut sources: Vec<_> = ["a", "b", "c"].map(|operator| source(operator, false)).into();
    sources.extend([source("pool", true), source("pool", true)]);
    let mut world = World::with(Policy { quorum: 2, sources, ..Policy::default() });
    let verdict = |world: &World, at| world.trust.sources(world.now()).nth(at).unwrap();
    let join = |world: &mut World, at, present| {
        world.trust.handle_member(SourceId(at), present, world.now());
    };

    join(&mut world, 3, true);
    assert_eq!(world.hear(30, &[(0, 0), (3, 0)]).0, Level::Cold, "a name decides about nothing");
    assert!(!verdict(&world, 3).present);
    assert_eq!(world.hear(10, &[(0, 0), (1, 0), (2, 0)]).0, Level::Disciplined);

    // Those who do not answer cost no majority; those who lie cannot have one.
    join(&mut world, 3, true);
    join(&mut world, 4, true);
    assert_eq!(world.trust.need(world.now), 2);
    let (level, ntp) = world.hear(10, &[(0, 0), (1, 0), (2, 0), (3, 9_000), (4, 9_000)]);
    assert_eq!(
        (level, ntp.synchronized, world.trust.need(world.now)),
        (Level::Disciplined, true, 3)
    );
    assert_eq!(verdict(&world, 3).verdict, Verdict::Falseticker);
    assert_eq!(verdict(&world, 0).verdict, Verdict::Truechimer);

    // Whoever takes the place begins with nothing on record.
    join(&mut world, 3, true);
    assert_eq!((verdict(&world, 3).reach, verdict(&world, 3).last), (0, None));
    world.hear(3, &[(0, 0), (1, 0), (2, 0), (3, 0)]);
    assert_eq!(verdict(&world, 3).verdict, Verdict::Truechimer);

    // What it says after it was let go is not heard, and nobody is asked in its place.
    join(&mut world, 3, false);
    world.hear(3, &[(3, 0)]);
    world.happen(&Happening::Path);
    assert_eq!(verdict(&world, 3).last, None);
    world.trust.handle_timeout(world.now());
    let asked = std::iter::from_fn(|| world.trust.poll_event());
    assert!(
        !asked.into_iter().any(|it| matches!(it, Event::AskSource { source: SourceId(3), .. }))
    );
}

#[test]
fn leap_seconds_are_announced_by_the_majority_on_the_last_day_of_a_month_alone() {
    let sources = [("a", Server, false), ("b", Server, false), ("c", Server, false)];
    let mut world = World::of(&sources);
    let announced = |world: &mut World, leaps: [u8; 3]| {
        world.happen(&Happening::Pass(1000));
        for (source, leap) in leaps.into_iter().enumerate() {
            let reading = Reading { leap, ..world.reading(0, 5) };
            world.trust.handle_reading(SourceId(source), reading, world.now());
            world.obey();
        }
        world.trust.ntp_status(world.now()).leap
    };
    for _ in 0..6 {
        announced(&mut world, [1, 1, 1]);
    }
    // 15 January 2027.
    assert_eq!(announced(&mut world, [1, 1, 1]), 0, "not on this day");
    world.happen(&Happening::Pass(16 * 86_400_000));
    assert_eq!(announced(&mut world, [1, 1, 0]), 1);
    assert_eq!(announced(&mut world, [1, 0, 0]), 0, "one of three");
    assert_eq!(announced(&mut world, [2, 2, 2]), 2);
}

#[test]
fn in_holdover_the_error_grows_as_configured_until_the_clock_is_not_to_be_believed() {
    let sources = [("a", Server, false), ("b", Server, false), ("c", Server, false)];
    for (drift_ppm, limit) in [(2, 3), (100, 3), (100, 1)] {
        let holdover = Holdover { drift_ppm, limit: Duration::from_secs(limit) };
        let policy = Policy { holdover, ..World::of(&sources).trust.policy };
        let mut world = World::with(policy);
        let error = |world: &World| {
            let status = world.trust.ntp_status(world.now());
            (status.synchronized, status.root_dispersion_at(world.now))
        };
        // An hour and a half.
        for _ in 0..340 {
            world.hear(1, &[(0, 0), (1, 0), (2, 0)]);
            world.happen(&Happening::Pass(15_000));
        }
        let (_, before) = error(&world);
        assert!(before < Duration::from_millis(100), "{before:?}");

        let lasts = 1_000_000 * limit / u64::from(drift_ppm);
        world.happen(&Happening::Pass(lasts * 900));
        let (synchronized, after) = error(&world);
        let grown =
            (after.as_secs_f64() - before.as_secs_f64()) / Duration::from_secs(limit).as_secs_f64();
        assert!(synchronized && (0.89..0.91).contains(&grown), "{grown}");
        world.happen(&Happening::Pass(lasts * 100));
        assert!(!error(&world).0, "{:?}", error(&world));
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    // Mostly honest, so that the machine gets somewhere.
    let offset = prop_oneof![6 => -20i64..20, 1 => -3_000i64..3_000, 1 => Just(157_788_000_000)];
    let stated =
        prop_oneof![6 => -400i64..400, 1 => -90_000i64..90_000, 1 => Just(157_788_000_000)];
    prop_oneof![
        10 => (0usize..4, offset, 1u64..60).prop_map(|(s, o, e)| Happening::Reading(s, o, e)),
        6 => (1u64..40_000).prop_map(Happening::Pass),
        2 => (0usize..4).prop_map(Happening::Silence),
        3 => (0usize..3, stated, any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(w, o, a, b, c)| Happening::Testimony(w, o, a, b, c)),
        1 => (0usize..3).prop_map(Happening::WitnessFailure),
        1 => any::<bool>().prop_map(Happening::Refutation),
        1 => (0usize..4, any::<bool>()).prop_map(|(s, deny)| Happening::Kiss(s, deny)),
        1 => Just(Happening::Path),
    ]
}

struct World {
    trust: Trust,
    now: Instant,
    truth: UnixTime,
    clock: UnixTime,
}

impl World {
    fn new() -> Self {
        let source = |operator: &str, trust| SourceSpec {
            operator: operator.into(),
            trust,
            ..SourceSpec::default()
        };
        let policy = Policy {
            quorum: 3,
            sources: vec![
                source("a", true),
                source("b", false),
                source("c", false),
                source("d", false),
            ],
            witnesses: vec!["w".into(), "x".into(), "a".into()],
            upstream_operators: 2,
            holdover: Holdover::default(),
        };
        Self::with(policy)
    }

    /// Sources of these operators and kinds, and no witness.
    fn of(sources: &[(&str, SourceKind, bool)]) -> Self {
        let sources = sources.iter().map(|(operator, kind, trust)| SourceSpec {
            operator: (*operator).to_owned(),
            private: true,
            prefer: false,
            trust: *trust,
            kind: *kind,
            ..SourceSpec::default()
        });
        Self::with(Policy { quorum: 3, sources: sources.collect(), ..Policy::default() })
    }

    /// Four hours of power cut lie between what the clock shows, which is the floor, and the truth.
    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    fn with(policy: Policy) -> Self {
        let now = Instant::now();
        let truth = UnixTime::from_secs(1_800_000_000);
        let clock = truth - Duration::from_secs(4 * 3600);
        let floor = Floor::new(clock, None);
        let trust = Trust::new(policy, floor, None, Now { mono: now, utc: clock });
        Self { trust, now, truth, clock }
    }

    /// Each second, these sources say that they are so many milliseconds off; for so many seconds.
    fn hear(&mut self, seconds: u64, said: &[(usize, i64)]) -> (Level, NtpStatus) {
        for _ in 0..seconds {
            self.happen(&Happening::Pass(1000));
            for (source, off) in said {
                self.happen(&Happening::Reading(*source, *off, 10));
            }
        }
        (self.trust.trust(self.now).level, self.trust.ntp_status(self.now()))
    }

    fn error(&self) -> Duration {
        magnitude(self.clock.since(self.truth))
    }

    fn now(&self) -> Now {
        Now { mono: self.now, utc: self.clock }
    }

    /// Twelve seconds in which everybody tells the truth.
    fn discipline(&mut self) {
        for _ in 0..12 {
            self.everybody_answers();
            self.happen(&Happening::Pass(1000));
        }
    }

    /// Every source and two of the witnesses tell the truth.
    fn everybody_answers(&mut self) {
        for source in 0..4 {
            self.happen(&Happening::Reading(source, 0, 5));
        }
        for witness in 0..2 {
            self.happen(&Happening::Testimony(witness, 0, true, true, true));
        }
    }

    /// True if the clock was set.
    fn happen(&mut self, happening: &Happening) -> bool {
        let ms = |ms: i64| Nanos::from(ms) * 1_000_000;
        match *happening {
            Happening::Kiss(source, deny) => {
                let kiss = if deny { Kiss::Deny } else { Kiss::Rate };
                self.trust.handle_kiss(SourceId(source), kiss, self.now());
            }
            Happening::Path => self.trust.handle_path_change(self.now()),
            Happening::Pass(span) => {
                let span = Duration::from_millis(span);
                self.now += span;
                self.truth = self.truth + span;
                self.clock = self.clock + span;
                self.trust.handle_timeout(self.now());
            }
            Happening::Reading(source, off, error) => {
                let stratum = u8::from(self.trust.sources[source].spec.kind == Server);
                let reading = Reading { stratum, ..self.reading(ms(off), error) };
                self.trust.handle_reading(SourceId(source), reading, self.now());
            }
            Happening::Refutation(one) => {
                self.trust.handle_refutation(if one { "one" } else { "two" }, self.now());
            }
            Happening::Silence(source) => self.trust.handle_silence(SourceId(source), self.now()),
            Happening::Testimony(witness, off, passes_rule_r, valid_as_stated, valid_at_clock) => {
                let testimony = Testimony {
                    at: self.now,
                    utc: self.truth.offset(ms(off)),
                    error: Duration::from_millis(520),
                    passes_rule_r,
                    valid_as_stated,
                    valid_at_clock,
                };
                self.trust.handle_testimony(WitnessId(witness), testimony, self.now());
            }
            Happening::WitnessFailure(witness) => {
                self.trust.handle_witness_failure(WitnessId(witness), self.now());
            }
        }
        self.obey()
    }

    fn reading(&self, off: Nanos, error: u64) -> Reading {
        Reading {
            at: self.now,
            utc: self.truth.offset(off),
            error: Duration::from_millis(error),
            delay: Duration::from_millis(error),
            stratum: 1,
            reference_id: *b"GPS\0",
            root_delay: Duration::ZERO,
            root_dispersion: Duration::ZERO,
            leap: 0,
            precision: -20,
        }
    }

    /// Moves the clock as the machine wants it, and after every reading that may steer it.
    fn follow(&mut self) {
        while let Some(event) = self.trust.poll_event() {
            if let Event::Set { by, .. } = event {
                self.clock = self.clock.offset(by);
            } else if let Event::Feed(_, Reading { at, utc, .. }) = event {
                let off = (utc + (self.now - at)).since(self.clock);
                self.clock = self.clock.offset(off.clamp(-999_999_999, 999_999_999));
            }
        }
    }

    /// Moves the clock as the machine wants it; true if it did.
    fn obey(&mut self) -> bool {
        let mut set = false;
        while let Some(event) = self.trust.poll_event() {
            if let Event::Set { by, .. } = event {
                self.clock = self.clock.offset(by);
                set = true;
            }
        }
        set
    }
}
