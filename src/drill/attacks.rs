//! What an attacker gets who forges every time source, or holds what was stolen: the figures of
//! `docs/threats.md`.

use std::time::{Duration, Instant};

use super::scenarios::{HOUR, MINUTE, SECOND, SECONDS, never_dark, wan};
use super::world::{DAY, HONEST, Setup, Source, World, years};
use crate::clock::{Level, Nanos, magnitude, nanos};

/// Seconds that a clock can be slowed down or sped up by in one.
const DRAG: f64 = 500e-6;

pub(super) fn everything_forged_far_ahead(seed: u64, start: Instant) -> World {
    let setup = Setup::power_cut();
    let mut world = World::new(&setup, seed, start);
    world.sources.fill(Source::Off(years(5)));
    world.witnesses.iter_mut().for_each(|witness| witness.up = false);

    let took = world.run_until(MINUTE, |world| world.trust().level == Level::Suspect);
    let soon = took.is_some_and(|took| took < 5 * SECOND);
    world.promise("the upstreams' certificates refute it within 5 s", soon);
    world.run(6 * HOUR);
    // `World::check` sees to it that nobody was told.
    let told = !world.ntp().synchronized;
    world.promise("NTP clients are told to wait", told);
    let unsaved = world.saved == setup.saved && !world.trust().verified;
    world.promise("nothing is saved, nothing counts as verified", unsaved);
    never_dark(&mut world);

    world.note("the attack ends");
    wan(&mut world, true);
    let took = world.run_until(HOUR, |world| world.trust().verified && world.ntp().synchronized);
    let healed = took.is_some() && magnitude(world.error()) < SECOND / 10;
    world.promise("the time is right again within the hour", healed);
    world
}

pub(super) fn everything_forged_plausibly(seed: u64, start: Instant) -> World {
    let setup = Setup::power_cut();
    let mut world = World::new(&setup, seed, start);
    let ahead = Nanos::from(80 * DAY) * SECONDS;
    world.sources.fill(Source::Off(ahead));
    world.witnesses.iter_mut().for_each(|witness| witness.up = false);
    // What the attacker gets: this time is believed, and told.
    world.expect_wrong_time();

    world.run(HOUR);
    let fooled = magnitude(world.error().abs() - ahead) < MINUTE;
    world.promise("the clock follows: no certificate speaks against 80 days", fooled);
    let unsaved = world.saved == setup.saved && !world.trust().verified;
    world.promise("nothing is saved, nothing counts as verified", unsaved);

    world.note("the witnesses can be reached again, the sources lie on");
    world.witnesses.iter_mut().for_each(|witness| witness.up = true);
    let took = world.run_until(2 * HOUR, |world| magnitude(world.error()) < 2 * SECOND);
    world.promise("their word ends it within two hours", took.is_some());
    never_dark(&mut world);
    world
}

pub(super) fn forged_below_the_floor(seed: u64, start: Instant) -> World {
    let setup = Setup::power_cut();
    let mut world = World::new(&setup, seed, start);
    world.sources.fill(Source::Off(-nanos(5 * HOUR)));
    world.witnesses.iter_mut().for_each(|witness| witness.up = false);

    world.run(50 * MINUTE);
    let cold = world.trust().level == Level::Cold && !world.ntp().synchronized;
    world.promise("a time an hour below the floor is not set", cold);
    let kept = world.now().utc >= setup.guess && world.saved == setup.saved;
    world.promise("clock and floor stay where they were", kept);
    never_dark(&mut world);

    world.note("the forged time reaches the floor");
    world.expect_wrong_time();
    let took = world.run_until(HOUR, |world| world.ntp().synchronized);
    let unsaved = took.is_some() && world.saved == setup.saved && !world.trust().verified;
    world.promise("it is believed from there on, not verified and not saved", unsaved);
    world
}

pub(super) fn slow_drag(seed: u64, start: Instant) -> World {
    let mut world = World::new(&Setup::power_cut(), seed, start);
    world.run(HOUR);
    world.note("every source drags the clock along, as fast as it can be steered");
    world.expect_wrong_time();

    let (mut off, mut most, mut set_back) = (0.0, Duration::ZERO, false);
    for minute in 0..48 * 60 {
        // The engine follows what is less than a second off.
        let before = magnitude(world.error());
        #[expect(clippy::cast_possible_truncation, reason = "minutes")]
        let dragged = (off * 1e9) as Nanos;
        world.sources.fill(Source::Off(dragged));
        if !set_back && minute > 0 {
            world.steer(dragged);
        }
        world.run(MINUTE);
        off += 60.0 * DRAG;
        most = most.max(magnitude(world.error()));
        set_back |= before > 30 * SECOND && magnitude(world.error()) < 2 * SECOND;
    }

    world.promise("the witnesses set the clock back", set_back);
    let bounded = most > 50 * SECOND && most < 65 * SECOND;
    world.promise(&format!("it was dragged by no more than 65 s ({most:.1?})"), bounded);
    let told = world.node.health().holds("sources-contradicted") && !world.ntp().synchronized;
    world.promise("the sources are named, NTP clients are told to wait", told);
    never_dark(&mut world);
    world
}

pub(super) fn stolen_certificate_later(seed: u64, start: Instant) -> World {
    let setup = Setup::power_cut();
    let mut world = World::new(&setup, seed, start);
    world.run(6 * HOUR);
    let stolen = (setup.truth.offset(-years(1)), world.truth().offset(-nanos(HOUR)));
    let before = !world.accepts(stolen);

    world.note("a witness is taken over, the others are blocked: doubt");
    world.witnesses[0].off = years(5);
    world.witnesses[0].valid.1 = world.truth().offset(years(6));
    world.witnesses[1].up = false;
    world.sources.fill(Source::Silent);
    let took = world.run_until(3 * HOUR, |world| world.trust().level == Level::Suspect);
    world.promise("certificates are judged by rule R", took.is_some());

    let refused = before && !world.accepts(stolen);
    world.promise("one that expired an hour before is refused by the floor, as ever", refused);
    never_dark(&mut world);
    world
}

pub(super) fn floor_pulled_down(seed: u64, start: Instant) -> World {
    let setup = Setup::power_cut();
    let mut world = World::new(&setup, seed, start);
    let old = -years(1);
    let attack = |world: &mut World, stolen: usize| {
        world.sources.fill(Source::Off(old));
        for witness in world.witnesses.iter_mut().take(stolen) {
            witness.off = old;
            witness.valid = (setup.truth.offset(2 * old), setup.truth.offset(old / 2));
        }
    };
    attack(&mut world, 1);
    world.witnesses[1].up = false;
    world.run(HOUR);
    let kept = world.trust().floor.secs() >= setup.guess.secs();
    world.promise("one stolen certificate and every source do not lower it", kept);

    attack(&mut world, 2);
    world.witnesses[1].up = true;
    world.path_changes();
    world.run(9 * MINUTE);
    let kept = world.trust().floor.secs() >= setup.guess.secs();
    world.promise("nor do two within nine minutes", kept);
    let told = world.node.health().holds("floor-ahead");
    world.promise("the attempt is a condition", told);
    world.sources[0] = HONEST;
    world.sources[1] = HONEST;
    world.run(2 * MINUTE);
    let kept = world.trust().floor.secs() >= setup.guess.secs();
    world.promise("nor without a break: two honest sources end it", kept);

    attack(&mut world, 2);
    world.expect_wrong_time();
    let took = world.run_until(2 * HOUR, |world| world.trust().floor.secs() < setup.guess.secs());
    let long = took.is_some_and(|took| took >= 9 * MINUTE);
    world.promise("two, and every source for ten minutes, do: the floor is a year old", long);
    world
}
