//! The power cut of January 2025, in virtual time: the real state machines among simulated sources,
//! witnesses and upstreams.
//!
//! The lab had been dark for four hours. The clock woke up in 1970, the GPS box hung, no certificate
//! was "valid yet", and nothing could be resolved by name. `power_cut_live.rs` plays it over sockets.

use std::time::{Duration, Instant};

use firstlight::clock::{CertDates, Level, Resumed, SavedFloor, UnixTime, magnitude};
use firstlight::drill::{HONEST, Setup, Source, World, years};
use firstlight::host::kernel::{KernelClock, OsClock};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: i128 = 3600 * 1_000_000_000;

/// Every story is told with these perturbations of its delays.
const SEEDS: std::ops::Range<u64> = 0..12;

#[test]
fn certificates_are_relaxed_until_the_time_is_found_and_strict_from_then_on() {
    for seed in SEEDS {
        let mut world = power_cut(seed);

        assert_eq!(world.trust().level, Level::Cold);
        assert!(matches!(world.trust().dates, CertDates::RuleR { .. }));
        assert!(world.resolves(), "names never wait for time");

        let took = world.run_until(8 * SECOND, |world| world.trust().dates == CertDates::Strict);
        assert!(took.is_some(), "seed {seed}: {}", story(&world));
        assert!(magnitude(world.error()) < SECOND / 10, "off by {} ns", world.error());
        assert!(world.resolves());
        assert!(!world.accepts((world.truth().offset(HOUR), world.truth().offset(years(1)))));
    }
}

#[test]
fn an_upstream_that_expired_before_the_floor_is_refused_from_the_start() {
    for seed in SEEDS {
        let mut world = power_cut(seed);
        let expired = (long_ago(&world), world.truth().offset(-5 * HOUR));

        assert!(!world.accepts(expired));
        for _ in 0..200 {
            world.run(SECOND / 10);
            assert!(!world.accepts(expired), "seed {seed}: {}", story(&world));
        }
    }
}

#[test]
fn an_upstream_that_turns_out_expired_is_refused_once_the_time_is_known() {
    for seed in SEEDS {
        let mut world = power_cut(seed);
        let expired = (long_ago(&world), world.truth().offset(-HOUR));

        assert!(world.accepts(expired), "while it may still be four hours ago");

        let took = world.run_until(10 * SECOND, |world| !world.accepts(expired));
        assert!(took.is_some(), "seed {seed}: {}", story(&world));
        world.run(10 * MINUTE);
        assert!(!world.accepts(expired), "and for good");
    }
}

#[test]
fn while_nobody_vouches_for_the_clock_an_expired_upstream_is_better_than_none() {
    let mut world = power_cut(1);
    world.witnesses.iter_mut().for_each(|witness| witness.up = false);
    let expired = (long_ago(&world), world.truth().offset(-HOUR));

    world.run_until(10 * SECOND, |world| world.trust().level == Level::Coarse);

    assert!(matches!(world.trust().dates, CertDates::StrictElseRuleR { .. }));
    assert!(world.accepts(expired));
}

#[test]
fn the_floor_never_goes_back_and_is_kept_once_the_time_is_verified() {
    for seed in SEEDS {
        let mut world = power_cut(seed);
        let mut floor = world.trust().floor;
        let kept = world.saved.unwrap();

        for _ in 0..3600 {
            world.run(SECOND);
            assert!(world.trust().floor >= floor, "seed {seed}: {}", story(&world));
            floor = world.trust().floor;
            assert!(floor <= world.truth(), "a floor above the truth: {}", story(&world));
        }

        let saved = world.saved.unwrap();
        assert!(saved.seconds >= kept.seconds + 4 * 3600 - 5, "{saved:?}");
        assert!(world.broken.is_empty(), "{:?}", world.broken);
    }
}

#[test]
fn a_restart_within_one_boot_goes_on_raising_the_floor() {
    let mut setup = Setup::power_cut();
    setup.guess = setup.truth;
    setup.resumed = Some(Resumed {
        error: SECOND / 50,
        verified: true,
        stratum: 2,
        reference_id: *b"GPS\0",
        root_delay: SECOND / 50,
    });
    let mut world = World::new(&setup, 1, start());

    world.run(MINUTE);

    let kept = world.saved.unwrap().seconds;
    assert!(kept >= setup.truth.secs() - 5, "still what was known before the cut: {kept}");
}

#[test]
fn without_witnesses_the_quorum_disciplines_and_the_floor_stays() {
    let mut world = power_cut(3);
    world.witnesses.iter_mut().for_each(|witness| witness.up = false);

    world.run(10 * MINUTE);

    assert_eq!(world.trust().level, Level::Disciplined);
    assert!(!world.trust().verified);
    assert_eq!(world.saved, Setup::power_cut().saved, "NTP alone must not raise it");
}

#[test]
fn witnesses_alone_find_the_time_and_ntp_clients_are_told_to_wait() {
    for seed in SEEDS {
        let mut world = power_cut(seed);
        world.sources.fill(Source::Silent);

        let took = world.run_until(30 * SECOND, |world| world.trust().verified);

        assert!(took.is_some(), "seed {seed}: {}", story(&world));
        assert!(magnitude(world.error()) < 2 * SECOND);
        world.run(60 * MINUTE);
        assert!(!world.ntp().synchronized);
        assert!(
            world.saved.map(|saved| saved.seconds)
                > Setup::power_cut().saved.map(|saved| saved.seconds),
            "authenticated time raises the floor"
        );
        assert!(world.longest_dark() < 2 * SECOND);
    }
}

#[test]
fn forged_ntp_neither_darkens_names_nor_sets_the_clock_for_good() {
    for seed in SEEDS {
        let mut world = power_cut(seed);
        world.sources.fill(Source::Off(years(5)));

        for _ in 0..600 {
            world.run(SECOND / 2);
            assert!(!world.ntp().synchronized, "seed {seed}: {}", story(&world));
        }

        assert!(world.trust().verified && magnitude(world.error()) < 2 * SECOND);
        assert!(world.node.health().holds("sources-contradicted"));
        assert!(world.longest_dark() < 2 * SECOND, "{}", story(&world));
    }
}

#[test]
fn one_forged_source_among_silent_ones_moves_nothing() {
    for source in 0..4 {
        let mut world = power_cut(7);
        world.sources.fill(Source::Silent);
        world.sources[source] = Source::Off(years(5));
        world.witnesses.iter_mut().for_each(|witness| witness.up = false);
        let before = world.error();

        world.run(10 * MINUTE);

        assert_eq!(world.trust().level, Level::Cold, "{}", story(&world));
        assert_eq!(world.error(), before);
        assert!(world.resolves());
    }
}

#[test]
fn a_floor_five_years_ahead_costs_ten_minutes_and_no_name() {
    for seed in SEEDS {
        let mut setup = Setup::power_cut();
        setup.guess = setup.truth.offset(years(5));
        setup.saved = Some(SavedFloor { seconds: setup.guess.secs(), overrides_build: false });
        // A certificate that a floor five years ahead calls expired is refused: that is rule R.
        let mut world = World::new(&setup, seed, start());
        world.upstreams[1].valid.1 = setup.truth.offset(years(9));

        world.run(9 * MINUTE);
        assert!(!world.ntp().synchronized, "not before the ten minutes are over");
        assert!(world.node.health().holds("floor-ahead"), "{}", story(&world));
        assert!(world.resolves(), "over the upstream whose certificate outlives that floor");

        let took = world.run_until(3 * MINUTE, |world| world.ntp().synchronized);
        assert!(took.is_some(), "seed {seed}: {}", story(&world));
        assert!(magnitude(world.error()) < SECOND / 10 && world.trust().verified);
        let saved = world.saved.unwrap();
        assert!(saved.seconds <= world.truth().secs(), "the lowered floor is kept: {saved:?}");
    }
}

#[test]
fn a_build_epoch_five_years_ahead_is_found_out_the_same_way() {
    let mut setup = Setup::power_cut();
    setup.build = setup.truth.offset(years(5));
    setup.guess = setup.build;
    let mut world = World::new(&setup, 1, start());

    let took = world.run_until(12 * MINUTE, |world| world.ntp().synchronized);

    assert!(took.is_some(), "{}", story(&world));
    assert!(magnitude(world.error()) < SECOND / 10 && world.trust().verified);
    assert!(world.saved.unwrap().overrides_build, "it must hold below the build epoch too");
}

#[test]
fn a_hung_gps_box_is_outvoted_at_once() {
    for seed in SEEDS {
        let setup = Setup::power_cut();
        let mut world = World::new(&setup, seed, start());
        world.sources[0] = Source::Frozen(setup.truth.offset(-4 * HOUR));

        heals(&mut world, seed);
    }
}

#[test]
fn a_gps_box_five_years_off_is_outvoted_at_once() {
    for seed in SEEDS {
        for off in [years(5), -years(5), years(-20), 1024 * 7 * 86_400_000_000_000] {
            let mut world = power_cut(seed);
            world.sources[0] = Source::Off(off);

            heals(&mut world, seed);
        }
    }
}

#[test]
fn a_gps_box_alone_gives_time_but_no_trust() {
    for seed in SEEDS {
        let mut setup = Setup::power_cut();
        setup.sources[0] = ("gps", true, true);
        let mut world = World::new(&setup, seed, start());
        wan(&mut world, false);
        world.sources[0] = HONEST;

        let took = world.run_until(40 * SECOND, |world| world.ntp().synchronized);

        assert!(took.is_some(), "seed {seed}: {}", story(&world));
        assert!(world.ntp().root_dispersion_at(world.now().mono) >= SECOND);
        assert!(!world.trust().verified);
        assert_eq!(world.saved, setup.saved, "nothing of it is kept");

        wan(&mut world, true);
        world.path_changes();
        world.run(MINUTE);
        assert!(world.trust().verified && magnitude(world.error()) < SECOND / 10);
    }
}

#[test]
fn a_lone_gps_box_years_off_is_not_believed() {
    for off in [years(5), -years(5)] {
        let mut setup = Setup::power_cut();
        setup.sources[0] = ("gps", true, true);
        let mut world = World::new(&setup, 5, start());
        wan(&mut world, false);
        world.sources[0] = Source::Off(off);

        world.run(10 * MINUTE);

        assert_eq!(world.trust().level, Level::Cold, "{}", story(&world));
    }
}

#[test]
fn each_source_of_the_guess_five_years_ahead_costs_nothing() {
    for seed in SEEDS {
        let mut setup = Setup::power_cut();
        setup.guess = setup.truth.offset(years(5));
        let mut world = World::new(&setup, seed, start());

        heals(&mut world, seed);
    }
}

/// The clock is right, disciplined and verified within eight seconds, and names never failed.
fn heals(world: &mut World, seed: u64) {
    let took = world.run_until(8 * SECOND, |world| world.ntp().synchronized);
    assert!(took.is_some(), "seed {seed}: {}", story(world));
    world.run(30 * SECOND);
    assert!(world.trust().verified, "seed {seed}: {}", story(world));
    assert!(magnitude(world.error()) < SECOND / 10, "off by {} ns", world.error());
    assert!(world.longest_dark() < 2 * SECOND, "{}", story(world));
    assert!(world.broken.is_empty(), "{:?}", world.broken);
}

/// Four hours without power; the clock starts at the floor.
fn power_cut(seed: u64) -> World {
    World::new(&Setup::power_cut(), seed, start())
}

fn wan(world: &mut World, up: bool) {
    world.sources.fill(if up { HONEST } else { Source::Silent });
    world.witnesses.iter_mut().for_each(|witness| witness.up = up);
    world.upstreams.iter_mut().for_each(|upstream| upstream.up = up);
}

fn long_ago(world: &World) -> UnixTime {
    world.truth().offset(-years(1))
}

fn story(world: &World) -> String {
    let lines = world.timeline.iter().map(|(at, text)| format!("{at:?} {text}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn start() -> Instant {
    KernelClock.mono()
}
