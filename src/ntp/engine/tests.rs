use super::world::{MS, World};
use super::*;
use crate::node::ports::{Clock, Steer};

#[test]
fn the_clock_is_right_15_s_after_the_ninth_sample_and_stays_so() {
    for seed in 0..6 {
        for rtt_ms in [0.3, 2.0, 10.0] {
            let mut world = World::new(seed, &[0; 4], rtt_ms);

            world.burst();
            world.run_until(24.0);
            let error = world.run_until(3600.0);

            assert!(error < 2.0, "{error} ms off, seed {seed}, round trip {rtt_ms} ms");
            let frequency = world.clock.frequency();
            assert!((frequency + 20.0).abs() < 3.0, "{frequency} ppm");
        }
    }
}

#[test]
fn a_world_without_jitter_does_not_divide_by_zero() {
    let mut world = World::new(0, &[0; 4], 2.0);
    world.jitter = 0.0;

    world.burst();
    world.run_until(24.0);
    let error = world.run_until(3600.0);

    assert!(error < 2.0, "{error} ms off");
    assert!(world.engine.consensus().unwrap().root_dispersion < Duration::from_secs(1));
}

#[test]
fn a_reference_clock_alone_steers_to_well_below_its_error() {
    let mut world = World::new(7, &[0], 0.0);
    world.engine = Engine::new(world.clock.clone(), 1);

    for _ in 0..60 {
        world.hear_reference_clock(0);
        world.pass(1.0);
    }
    let mut worst = 0f64;
    for _ in 0..600 {
        world.hear_reference_clock(0);
        world.pass(1.0);
        worst = worst.max(world.clock.error_ms().abs());
    }

    assert!(worst < 2.0, "{worst} ms off");
    assert_eq!(world.engine.consensus().unwrap().stratum, 1);
    let frequency = world.clock.frequency();
    assert!((frequency + 20.0).abs() < 5.0, "{frequency} ppm");
}

#[test]
fn a_liar_among_five_is_not_used() {
    for lie in [400 * MS, -400 * MS, 30 * MS] {
        let mut world = World::new(7, &[0, 0, lie, 0, 0], 2.0);

        world.burst();
        world.run_until(24.0);
        let error = world.run_until(1200.0);

        let consensus = world.engine.consensus().unwrap();
        assert!(!consensus.used.contains(&2), "lie of {lie} ns used");
        assert!(consensus.used.len() >= 3, "{consensus:?}");
        assert!(error < 2.0, "{error} ms off");
        let estimate = world.engine.estimate(2).unwrap();
        assert!((estimate.offset - lie).abs() < 3 * MS, "{estimate:?}");
    }
}

#[test]
fn nobody_is_heard_before_his_ninth_sample() {
    let mut world = World::new(1, &[0; 3], 2.0);
    for _ in 1..SAMPLES_WITHHELD {
        for source in 0..3 {
            assert_eq!(world.ask(source).unwrap().consensus, None);
        }
        world.pass(1.0);
    }
    assert_eq!(world.clock.writes(), 0);

    let updates: Vec<_> = (0..3).map(|source| world.ask(source).unwrap()).collect();

    let consensus = updates[2].consensus.as_ref().unwrap();
    assert!(updates[1].consensus.is_some() && updates[0].consensus.is_none());
    assert_eq!((consensus.stratum, consensus.leap), (3, 0));
    assert!(consensus.root_delay > Duration::from_millis(2));
    assert!(consensus.root_dispersion < Duration::from_millis(20));
    assert!(world.clock.writes() > 0);
}

#[test]
fn an_offset_of_years_or_a_second_is_refused_and_changes_nothing() {
    let years = 56 * 31_557_600_000 * MS;
    let mut world = World::new(1, &[years, -years, 1100 * MS], 2.0);

    for source in 0..3 {
        let Err(Refused::TooFar { offset }) = world.ask(source) else { panic!("{source}") };
        assert!((offset - world.lies[source]).abs() < 100 * MS);
    }

    assert_eq!(world.engine.estimate(0), None);
    assert_eq!(world.clock.writes(), 0);
}

#[test]
fn a_reading_is_taken_once_and_not_late() {
    let mut world = World::new(1, &[0], 2.0);
    let reading = world.exchange(0);
    let now = world.clock.mono();

    assert!(world.engine.handle_reading(0, &reading, now).is_ok());
    assert_eq!(world.engine.handle_reading(0, &reading, now), Err(Refused::Old));
    let late = now + Duration::from_secs(6);
    assert_eq!(world.engine.handle_reading(1, &reading, late), Err(Refused::Old));
}

#[test]
fn a_step_by_another_hand_is_mended_if_small_and_refused_if_great() {
    for step in [50 * MS, -300 * MS, 900 * MS] {
        let mut world = World::new(3, &[0; 4], 2.0);
        world.burst();
        world.run_until(300.0);

        world.clock.step(step);
        let repair = 16.0 * f64::from(SURPRISES + SAMPLES_WITHHELD + 1);
        world.run_until(300.0 + repair);
        let error = world.run_until(1200.0);

        assert!(error < 2.0, "{error} ms off after a step of {step} ns");
    }
    for step in [3_600_000 * MS, -3_600_000 * MS] {
        let mut world = World::new(3, &[0; 4], 2.0);
        world.burst();

        world.clock.step(step);

        for source in 0..4 {
            assert!(matches!(world.ask(source), Err(Refused::TooFar { .. })));
        }
    }
}

#[test]
fn one_stray_reading_is_kept_out_and_one_that_waited_in_a_queue_is_no_surprise() {
    let mut world = World::new(3, &[0; 3], 2.0);
    world.burst();
    world.run_until(100.0);
    let before = world.engine.estimate(0).unwrap();
    let mut stray = world.exchange(0);
    stray.utc = stray.utc.offset(40 * MS);

    let outcome = world.engine.handle_reading(0, &stray, world.clock.mono());

    assert!(matches!(outcome, Err(Refused::Surprising { .. })), "{outcome:?}");
    assert_eq!(world.engine.estimate(0), Some(before));
    let mut queued = world.exchange(0);
    queued.utc = queued.utc.offset(40 * MS);
    queued.delay += Duration::from_millis(80);
    for _ in 0..=SURPRISES {
        let outcome = world.engine.handle_reading(0, &queued, world.clock.mono());
        assert!(matches!(outcome, Err(Refused::Queued { .. })), "{outcome:?}");
        queued.at += Duration::from_millis(1);
    }
    assert_eq!(world.engine.estimate(0).unwrap().samples, before.samples);
}

#[test]
fn a_removed_source_has_no_voice_and_starts_over() {
    let mut world = World::new(3, &[0; 3], 2.0);
    world.burst();

    world.engine.remove(0);

    assert_eq!(world.engine.estimate(0), None);
    let consensus = world.ask(1).unwrap().consensus.unwrap();
    assert!(!consensus.used.contains(&0));
    assert_eq!(world.ask(0).unwrap().estimate.samples, 1);
}

#[test]
fn an_offset_within_the_noise_is_steered_out() {
    let mut squares = 0.0;
    for seed in 0..5 {
        let mut world = World::new(seed, &[0; 4], 10.0);
        world.burst();
        world.run_until(600.0);
        for _ in 0..180 {
            world.run_until(world.clock.truth_secs() + 10.0);
            squares += world.clock.error_ms().powi(2);
        }
    }

    let rms = (squares / 900.0).sqrt();
    assert!(rms < 0.03, "{rms} ms");
}

#[test]
fn a_silent_source_is_remembered_for_an_hour_and_a_liar_not_at_all() {
    let mut world = World::new(3, &[0; 3], 2.0);
    world.burst();
    let now = world.clock.mono();
    let minute = now + Duration::from_secs(60);

    world.engine.handle_verdict(0, Verdict::Falseticker, now);
    world.engine.handle_verdict(1, Verdict::Silent, minute);
    world.engine.handle_verdict(2, Verdict::Undecided, minute);

    assert_eq!(world.engine.estimate(0), None);
    assert!(world.engine.estimate(1).is_some() && world.engine.estimate(2).is_some());
    world.engine.handle_verdict(1, Verdict::Silent, now + REMEMBERED);
    world.engine.handle_verdict(2, Verdict::Denied, minute);
    assert!(world.engine.estimate(1).is_none() && world.engine.estimate(2).is_none());
}

#[test]
fn after_ten_minutes_of_silence_the_first_answer_steers_again() {
    for seed in 0..3 {
        let mut world = World::new(seed, &[0; 4], 10.0);
        world.burst();
        world.run_until(3600.0);
        let mut worst = 0f64;

        for _ in 0..600 {
            for source in 0..4 {
                world.engine.handle_verdict(source, Verdict::Silent, world.clock.mono());
            }
            world.pass(1.0);
            worst = worst.max(world.clock.error_ms().abs());
        }

        assert!(worst < 0.6, "{worst} ms off without answers, seed {seed}");
        assert!(world.ask(0).unwrap().consensus.is_some(), "seed {seed}");
        let error = world.run_until(4800.0);
        assert!(error < 0.6, "{error} ms off after them, seed {seed}");
    }
}

#[test]
fn a_spurious_timeout_does_nothing() {
    let mut world = World::new(3, &[0; 3], 2.0);

    world.engine.handle_timeout(world.clock.mono());

    assert_eq!(world.clock.writes(), 0);
    assert_eq!(world.engine.poll_timeout(), None);
}
