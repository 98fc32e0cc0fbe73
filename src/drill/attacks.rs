//! What an attacker gets who forges every time source, or holds what was stolen: the figures of
//! `docs/threats.md`.

use std::time::{Duration, Instant};

use super::scenarios::{HOUR, MINUTE, SECOND, SECONDS, never_dark, wan};
use super::world::{DAY, HONEST, Setup, Source, World, years};
use crate::clock::{Level, Nanos, magnitude, nanos};

/// How far the frequency of a clock can be steered.
const DRAG_PPM: u32 = 500;

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
    let mut world = disciplined(seed, start);
    world.note("every source drags the clock along, as fast as its frequency can be steered");
    world.drag_frequency(DRAG_PPM);
    let mut most = Duration::ZERO;
    for minutes in 0..12 * 60 {
        world.sources.fill(Source::Off(nanos(MINUTE * DRAG_PPM / 1_000_000) * minutes));
        most = most.max(most_wrong(&mut world, MINUTE));
    }
    world.promise(&format!("it is led by no more than 5 s ({most:.1?})"), most < 5 * SECOND);
    let told = said(&world, "sources-contradicted") && !world.ntp().synchronized;
    world.promise("the sources are named, NTP clients are told to wait", told);

    world.note("the sources tell the truth again, and the frequency is right");
    world.sources.fill(HONEST);
    world.drag_frequency(0);
    let took = world.run_until(HOUR, |world| world.trust().verified && world.ntp().synchronized);
    let healed = took.is_some() && magnitude(world.error()) < SECOND / 10;
    world.promise("within the hour all is well", healed);
    never_dark(&mut world);
    world
}

pub(super) fn stepped_drag(seed: u64, start: Instant) -> World {
    let mut world = disciplined(seed, start);
    world.note("every source is always just near enough to be followed without a doubt");
    world.sources.fill(Source::Leads(999_000_000));
    let most = most_wrong(&mut world, 8 * HOUR);
    world.promise(&format!("it is led by no more than 5 s ({most:.1?})"), most < 5 * SECOND);
    let verified = world.trust().verified;
    world.promise("it stays verified: certificates are renewed all the same", verified);
    let told = said(&world, "sources-contradicted") && !world.ntp().synchronized;
    world.promise("the sources are named, NTP clients are told to wait", told);
    never_dark(&mut world);
    world
}

pub(super) fn silent_drag(seed: u64, start: Instant) -> World {
    let mut world = disciplined(seed, start);
    world.note(
        "every source drags the clock in steps and its frequency, and the witnesses are silenced",
    );
    world.witnesses.iter_mut().for_each(|witness| witness.up = false);
    world.sources.fill(Source::Leads(999_000_000));
    world.drag_frequency(DRAG_PPM);
    let hours = most_wrong(&mut world, 2 * HOUR);
    world.promise(&format!("5 s in two hours at most ({hours:.1?})"), hours < 5 * SECOND);
    let most = most_wrong(&mut world, 24 * HOUR);
    let slow = most < 15 * SECOND;
    world.promise(&format!("nor more than a crystal might go astray by ({most:.1?})"), slow);
    let told = said(&world, "sources-contradicted") && !world.ntp().synchronized;
    world.promise("the sources are named, NTP clients are told to wait", told);

    world.note("the witnesses can be heard again, the sources lie on");
    world.witnesses.iter_mut().for_each(|witness| witness.up = true);
    let took = world.run_until(2 * MINUTE, |world| {
        magnitude(world.error()) < 2 * SECOND && world.trust().verified
    });
    world.promise("they set the clock right within two minutes", took.is_some());
    never_dark(&mut world);
    world
}

pub(super) fn every_source_denies(seed: u64, start: Instant) -> World {
    let mut world = disciplined(seed, start);
    world.note("every source refuses every question");
    world.sources.fill(Source::Denies);
    let took = world.run_until(10 * MINUTE, |world| world.trust().level == Level::Holdover);
    world.promise("within ten minutes it is known that nobody steers the clock", took.is_some());
    let told = world.node.health().holds("holdover");
    world.promise("and said", told);
    let before = world.ntp().root_dispersion_at(world.now().mono);
    world.run(HOUR / 2);
    let grown = world.ntp().root_dispersion_at(world.now().mono) > before;
    world.promise("the error that clients are told grows", grown && world.ntp().synchronized);

    world.note("the attack ends");
    world.sources.fill(HONEST);
    let took = world.run_until(2 * HOUR, |world| world.trust().level == Level::Disciplined);
    world.promise("the sources are asked again within two hours", took.is_some());
    never_dark(&mut world);
    world
}

pub(super) fn everything_forged_back_later(seed: u64, start: Instant) -> World {
    let mut world = disciplined(seed, start);
    world.note("every source is forged five years back");
    world.sources.fill(Source::Off(-years(5)));
    let most = most_wrong(&mut world, 6 * HOUR);
    let kept = most < SECOND && world.trust().verified;
    world.promise("the clock is kept, and verified", kept);
    let told = world.node.health().holds("sources-contradicted");
    world.promise("the sources are named", told);
    never_dark(&mut world);
    world
}

/// Four hours of honest sources and witnesses, so that the daemon knows the clock's frequency; the clock
/// follows at once what steers it.
fn disciplined(seed: u64, start: Instant) -> World {
    let mut world = World::new(&Setup::power_cut(), seed, start);
    world.run(4 * HOUR);
    world.steer_at_once();
    world.expect_wrong_time();
    world
}

/// Lets `span` pass; returns how wrong the clock was in it at most.
fn most_wrong(world: &mut World, span: Duration) -> Duration {
    let mut most = Duration::ZERO;
    for _ in 0..span.as_secs() / 20 {
        world.run(20 * SECOND);
        most = most.max(magnitude(world.error()));
    }
    most
}

/// Whether this condition was ever raised: of a clock at the edge of what is allowed, it comes and goes.
fn said(world: &World, condition: &str) -> bool {
    world.timeline.iter().any(|(_, line)| line.starts_with(&format!("[{condition}]")))
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

pub(super) fn one_witness_and_every_source(seed: u64, start: Instant) -> World {
    let mut world = disciplined(seed, start);
    world.note("a witness is taken over, the other blocked, and every source lies in step with it");
    world.witnesses[0].off = years(5);
    world.witnesses[0].valid.1 = world.truth().offset(years(6));
    world.witnesses[1].up = false;
    world.sources.fill(Source::Off(years(5)));
    let most = most_wrong(&mut world, 12 * HOUR);
    world.promise(&format!("the clock is kept ({most:.1?})"), most < 5 * SECOND);
    let suspect = world.trust().level == Level::Suspect;
    let grown = world.ntp().root_dispersion_at(world.now().mono) > SECOND / 20;
    world.promise("it is doubted; NTP clients get it with a growing error", suspect && grown);
    never_dark(&mut world);

    world.note("the attack ends");
    wan(&mut world, true);
    world.witnesses[0].off = 0;
    let took = world.run_until(HOUR, |world| world.trust().verified && world.ntp().synchronized);
    world.promise("within the hour all is well", took.is_some());
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
