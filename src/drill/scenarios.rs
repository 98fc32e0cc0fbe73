//! The stories: each plays an incident and states what firstlight promised.

use std::time::{Duration, Instant};

use super::Scenario;
use super::attacks;
use super::world::{HONEST, Setup, Source, World, years};
use crate::clock::{Level, Nanos, Resumed, SavedFloor, magnitude};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const SECONDS: Nanos = 1_000_000_000;

/// Every incident that can be replayed.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "power-cut",
        story: "Four hours without power, no battery-backed clock, and the GPS box tells the time at which it hung.",
        play: power_cut,
    },
    Scenario {
        name: "gps-years-off",
        story: "The preferred GPS box is five years ahead.",
        play: gps_years_off,
    },
    Scenario {
        name: "gps-alone",
        story: "The WAN is down; a GPS box of one's own (trust = true) is all there is, and then the WAN returns.",
        play: gps_alone,
    },
    Scenario {
        name: "poor-link",
        story: "The way to every source takes between a fifth of a second and a whole one.",
        play: poor_link,
    },
    Scenario {
        name: "late-sources",
        story: "No time source answers for the first 30 seconds.",
        play: late_sources,
    },
    Scenario {
        name: "lone-liar",
        story: "For 30 seconds a liar, five years ahead, is the only source that answers.",
        play: lone_liar,
    },
    Scenario {
        name: "ntp-blocked",
        story: "NTP is blocked for good; two HTTPS witnesses can be reached.",
        play: ntp_blocked,
    },
    Scenario {
        name: "ntp-forged",
        story: "Every NTP answer is forged five years ahead; the witnesses tell the truth.",
        play: ntp_forged,
    },
    Scenario {
        name: "ntp-forged-later",
        story: "After an hour of discipline every NTP answer is forged five years ahead.",
        play: ntp_forged_later,
    },
    Scenario {
        name: "witnesses-silenced",
        story: "Every NTP answer is forged; once the witnesses have set the clock, they are silenced for good.",
        play: witnesses_silenced,
    },
    Scenario {
        name: "one-operator-lies",
        story: "A time source and a witness of the same operator lie alike; nobody else can be heard.",
        play: one_operator_lies,
    },
    Scenario {
        name: "no-wan",
        story: "No link to the outside at boot; it comes up after a minute.",
        play: no_wan,
    },
    Scenario { name: "isp-72h", story: "The provider is down for three days.", play: isp_72h },
    Scenario {
        name: "operator-out",
        story: "One of two DNS operators falls silent for half an hour while clients ask each second.",
        play: operator_out,
    },
    Scenario {
        name: "guess-ahead",
        story: "The clock starts five years ahead of the truth.",
        play: guess_ahead,
    },
    Scenario {
        name: "floor-ahead",
        story: "The floor on disk lies five years ahead of the truth.",
        play: floor_ahead,
    },
    Scenario {
        name: "expired-upstream",
        story: "At boot one upstream's certificate had expired before the power cut, another's expires during it.",
        play: expired_upstream,
    },
    Scenario {
        name: "all-forged-far",
        story: "Every NTP answer is forged five years ahead, and no witness can be reached.",
        play: attacks::everything_forged_far_ahead,
    },
    Scenario {
        name: "all-forged-near",
        story: "The same, 80 days ahead: within the life of every certificate.",
        play: attacks::everything_forged_plausibly,
    },
    Scenario {
        name: "all-forged-back",
        story: "The same, an hour below the floor.",
        play: attacks::forged_below_the_floor,
    },
    Scenario {
        name: "slow-drag",
        story: "Every NTP answer drags the clock ahead by 500 millionths; the witnesses tell the truth.",
        play: attacks::slow_drag,
    },
    Scenario {
        name: "stepped-drag",
        story: "Every NTP answer is 0.999 s ahead of whatever the clock shows; the witnesses tell the truth.",
        play: attacks::stepped_drag,
    },
    Scenario {
        name: "silent-drag",
        story: "Every NTP answer is 0.999 s ahead of whatever the clock shows, and the witnesses are silenced.",
        play: attacks::silent_drag,
    },
    Scenario {
        name: "every-source-denies",
        story: "After hours of discipline every time source answers DENY.",
        play: attacks::every_source_denies,
    },
    Scenario {
        name: "ntp-forged-back",
        story: "After hours of discipline every NTP answer is forged five years back.",
        play: attacks::everything_forged_back_later,
    },
    Scenario {
        name: "stolen-later",
        story: "A running box is made to doubt its clock by who holds a certificate that expired an hour before.",
        play: attacks::stolen_certificate_later,
    },
    Scenario {
        name: "one-witness-lies",
        story: "To a running box every time source and one witness lie in step, by five years; the other witness is blocked.",
        play: attacks::one_witness_and_every_source,
    },
    Scenario {
        name: "floor-pulled",
        story: "Every NTP answer and witnesses with stolen, expired certificates tell a time a year ago.",
        play: attacks::floor_pulled_down,
    },
    Scenario {
        name: "restart",
        story: "The daemon is restarted within one boot, an hour after the clock was disciplined.",
        play: restart,
    },
];

fn power_cut(seed: u64, start: Instant) -> World {
    let setup = Setup::power_cut();
    let mut world = World::new(&setup, seed, start);
    world.sources[0] = Source::Frozen(setup.truth.offset(-4 * 3600 * SECONDS));

    heals(&mut world, 8);
    world
}

fn gps_years_off(seed: u64, start: Instant) -> World {
    let mut world = World::new(&Setup::power_cut(), seed, start);
    world.sources[0] = Source::Off(years(5));

    heals(&mut world, 8);
    world
}

fn gps_alone(seed: u64, start: Instant) -> World {
    let mut setup = Setup::power_cut();
    setup.sources[0] = ("gps", true, true);
    setup.private = true;
    let mut world = World::new(&setup, seed, start);
    wan(&mut world, false);
    world.sources[0] = HONEST;

    let took = world.run_until(40 * SECOND, |world| world.ntp().synchronized);
    world.promise("a clock of one's own disciplines within 30 s", within(took, 30));
    let honest = world.ntp().root_dispersion_at(world.now().mono) >= SECOND;
    world.promise("its error is stated as no less than a second", honest);
    let unsaved = world.saved == setup.saved && !world.trust().verified;
    world.promise("nothing of it is saved or counts as verified", unsaved);

    world.note("the WAN returns");
    wan(&mut world, true);
    world.path_changes();
    world.run(MINUTE);
    let right = magnitude(world.error()) < SECOND / 10 && world.trust().verified;
    world.promise("the majority takes over, verified", right);
    world
}

fn poor_link(seed: u64, start: Instant) -> World {
    let mut setup = Setup::power_cut();
    setup.trip = (200, 1000);
    let mut world = World::new(&setup, seed, start);

    let took = world.run_until(2 * MINUTE, |world| world.ntp().synchronized);
    world.promise("the clock is disciplined within 15 s", within(took, 15));
    let right = magnitude(world.error()) < SECOND / 2;
    world.promise("it is right to half a second, and says so", right);
    never_dark(&mut world);
    world
}

fn late_sources(seed: u64, start: Instant) -> World {
    let mut world = World::new(&Setup::power_cut(), seed, start);
    world.sources.fill(Source::Silent);
    world.witnesses.iter_mut().for_each(|witness| witness.up = false);
    world.run(30 * SECOND);

    world.note("the sources answer");
    world.sources.fill(HONEST);
    world.witnesses.iter_mut().for_each(|witness| witness.up = true);
    heals(&mut world, 10);
    world
}

fn lone_liar(seed: u64, start: Instant) -> World {
    let mut world = World::new(&Setup::power_cut(), seed, start);
    world.sources.fill(Source::Silent);
    world.sources[0] = Source::Off(years(5));
    world.witnesses.iter_mut().for_each(|witness| witness.up = false);
    world.run(30 * SECOND);
    let still = world.trust().level == Level::Cold;
    world.promise("one liar does not set the clock", still);

    world.note("honest sources answer");
    world.sources[1..].fill(HONEST);
    world.witnesses.iter_mut().for_each(|witness| witness.up = true);
    heals(&mut world, 10);
    world
}

fn ntp_blocked(seed: u64, start: Instant) -> World {
    let mut world = World::new(&Setup::power_cut(), seed, start);
    world.sources.fill(Source::Silent);

    found_by_witnesses(&mut world);
    world
}

fn ntp_forged(seed: u64, start: Instant) -> World {
    let mut world = World::new(&Setup::power_cut(), seed, start);
    world.sources.fill(Source::Off(years(5)));

    found_by_witnesses(&mut world);
    let told = world.node.health().holds("sources-contradicted");
    world.promise("the forgery is reported", told);
    world
}

fn ntp_forged_later(seed: u64, start: Instant) -> World {
    let mut world = World::new(&Setup::power_cut(), seed, start);
    world.run(HOUR);
    let disciplined = world.trust().level == Level::Disciplined;
    world.promise("disciplined before the forgery", disciplined);

    world.note("the forgery begins");
    world.sources.fill(Source::Off(years(5)));
    world.run(6 * HOUR);
    let kept = magnitude(world.error()) < SECOND;
    world.promise("the clock is kept", kept);
    let told = world.node.health().holds("sources-contradicted");
    world.promise("the forgery is reported", told);
    never_dark(&mut world);
    world
}

fn witnesses_silenced(seed: u64, start: Instant) -> World {
    let mut world = World::new(&Setup::power_cut(), seed, start);
    world.sources.fill(Source::Off(years(5)));
    found_by_witnesses(&mut world);

    world.note("the witnesses fall silent");
    world.witnesses.iter_mut().for_each(|witness| witness.up = false);
    world.run(12 * HOUR);
    let kept = magnitude(world.error()) < 10 * SECOND;
    world.promise("the clock is kept where the witnesses put it", kept);
    let told = !world.ntp().synchronized;
    world.promise("NTP clients are told to wait", told);
    never_dark(&mut world);
    world
}

fn one_operator_lies(seed: u64, start: Instant) -> World {
    let mut setup = Setup::power_cut();
    setup.sources[0].0 = "google";
    let mut world = World::new(&setup, seed, start);
    world.sources.fill(Source::Silent);
    world.sources[0] = Source::Off(years(5));
    world.witnesses[0].off = years(5);
    world.witnesses[0].valid.1 = world.truth().offset(years(6));
    world.witnesses[1].up = false;

    world.run(10 * MINUTE);
    let cold = world.trust().level == Level::Cold;
    world.promise("one operator does not set the clock", cold);
    never_dark(&mut world);
    world
}

fn no_wan(seed: u64, start: Instant) -> World {
    let mut world = World::new(&Setup::power_cut(), seed, start);
    wan(&mut world, false);
    world.run(MINUTE);
    let honest = !world.ntp().synchronized;
    world.promise("NTP clients are told to wait", honest);

    world.note("the WAN comes up");
    wan(&mut world, true);
    world.path_changes();
    heals(&mut world, 8);
    world
}

fn isp_72h(seed: u64, start: Instant) -> World {
    let mut world = World::new(&Setup::power_cut(), seed, start);
    world.run(2 * HOUR);

    world.note("the provider goes down");
    wan(&mut world, false);
    world.run(72 * HOUR);
    let honest = world.trust().level == Level::Holdover && world.ntp().synchronized;
    world.promise("time is served in holdover, with a growing error", honest);

    world.note("the provider is back");
    wan(&mut world, true);
    world.path_changes();
    let asked = ask_each_second(&mut world, SECOND);
    let at_once = asked.unanswered == 0 && asked.worst < SECOND;
    world.promise("the first question is answered at once", at_once);
    let took = world.run_until(MINUTE, |world| world.trust().level == Level::Disciplined);
    world.promise("disciplined again within 5 s", within(took, 5));
    never_dark(&mut world);
    world
}

fn operator_out(seed: u64, start: Instant) -> World {
    let mut world = World::new(&Setup::power_cut(), seed, start);
    ask_each_second(&mut world, 10 * MINUTE);

    world.note("an operator falls silent");
    world.upstreams[0].up = false;
    let asked = ask_each_second(&mut world, 30 * MINUTE);
    world.promise("every question is answered", asked.unanswered == 0);
    world.promise("nobody waits for longer than a hedge", asked.worst < 2 * SECOND);
    world.promise("no more than five clients wait at all", asked.slow <= 5);

    world.note("it is back, and the other one falls silent");
    world.upstreams[0].up = true;
    world.run(MINUTE);
    world.upstreams[1].up = false;
    let asked = ask_each_second(&mut world, MINUTE);
    world.promise("it is in use again: no penalty outlasts its silence", asked.unanswered == 0);
    world
}

fn guess_ahead(seed: u64, start: Instant) -> World {
    let mut setup = Setup::power_cut();
    setup.guess = setup.truth.offset(years(5));
    let mut world = World::new(&setup, seed, start);

    heals(&mut world, 8);
    world
}

fn floor_ahead(seed: u64, start: Instant) -> World {
    let mut setup = Setup::power_cut();
    setup.guess = setup.truth.offset(years(5));
    setup.saved = Some(SavedFloor { seconds: setup.guess.secs(), overrides_build: false });
    let mut world = World::new(&setup, seed, start);

    world.run(MINUTE);
    let told = world.node.health().holds("floor-ahead");
    world.promise("the contradiction is reported within a minute", told);
    let took = world.run_until(11 * MINUTE, |world| world.ntp().synchronized);
    world.promise("the floor is lowered and time found after ten minutes", took.is_some());
    let right = magnitude(world.error()) < SECOND / 10 && world.trust().verified;
    world.promise("the clock is right and verified", right);
    world.promise("names are resolved", world.resolves());
    world
}

fn expired_upstream(seed: u64, start: Instant) -> World {
    let setup = Setup::power_cut();
    let mut world = World::new(&setup, seed, start);
    let year_ago = setup.truth.offset(-years(1));
    world.upstreams[0].valid = (year_ago, setup.truth.offset(-5 * 3600 * SECONDS));
    world.upstreams[1].valid = (year_ago, setup.truth.offset(-3600 * SECONDS));

    let refused = !world.accepts(world.upstreams[0].valid);
    world.promise("expired before the floor: refused from the start", refused);
    let relaxed = world.accepts(world.upstreams[1].valid);
    world.promise("perhaps not expired: accepted while the time is unknown", relaxed);
    world.run(20 * SECOND);
    let closed = !world.accepts(world.upstreams[1].valid);
    world.promise("expired at the true time: refused once that is known", closed);
    world
}

fn restart(seed: u64, start: Instant) -> World {
    let mut setup = Setup::power_cut();
    setup.guess = setup.truth;
    setup.resumed = Some(Resumed {
        error: SECOND / 50,
        verified: true,
        stratum: 2,
        reference_id: *b"GPS\0",
        root_delay: SECOND / 50,
    });
    let mut world = World::new(&setup, seed, start);

    let served = world.ntp().synchronized;
    world.promise("time is served at once", served);
    let strict = world.trust().dates == crate::clock::CertDates::Strict;
    world.promise("certificate dates are strict at once", strict);
    world.run(MINUTE);
    let disciplined = world.trust().level == Level::Disciplined;
    world.promise("disciplined again within a minute", disciplined);
    world
}

/// What became of a client's questions.
#[derive(Debug, Default)]
struct Asked {
    unanswered: usize,
    /// Answered after a tenth of a second, or later.
    slow: usize,
    worst: Duration,
}

fn ask_each_second(world: &mut World, span: Duration) -> Asked {
    let mut asked = Asked::default();
    for _ in 0..span.as_secs() {
        match world.ask_name() {
            Some(waited) => {
                asked.slow += usize::from(waited > SECOND / 10);
                asked.worst = asked.worst.max(waited);
            }
            None => asked.unanswered += 1,
        }
        world.run(SECOND);
    }
    asked
}

/// The promises that most incidents share.
fn heals(world: &mut World, seconds: u64) {
    let took = world.run_until(2 * MINUTE, |world| world.ntp().synchronized);
    let promise = format!("the clock is disciplined within {seconds} s");
    world.promise(&promise, within(took, seconds));
    let right = magnitude(world.error()) < SECOND / 10;
    world.promise("it is right to a tenth of a second", right);
    world.run(30 * SECOND);
    let verified = world.trust().verified && !world.node.health().holds("dates-relaxed");
    world.promise("it is verified, and the relaxed state has ended", verified);
    let saved =
        world.saved.is_some_and(|saved| (0..300).contains(&(world.truth().secs() - saved.seconds)));
    world.promise("the floor is saved", saved);
    never_dark(world);
}

fn found_by_witnesses(world: &mut World) {
    let took = world.run_until(MINUTE, |world| world.trust().verified);
    world.promise("the time is found and verified within 30 s", within(took, 30));
    let right = magnitude(world.error()) < 2 * SECOND;
    world.promise("it is right to two seconds", right);
    world.run(10 * MINUTE);
    let told = !world.ntp().synchronized;
    world.promise("NTP clients are told to wait", told);
    never_dark(world);
}

pub(super) fn never_dark(world: &mut World) {
    let dark = world.longest_dark();
    world.promise("names never went dark", dark < 2 * SECOND);
}

pub(super) fn wan(world: &mut World, up: bool) {
    world.sources.fill(if up { HONEST } else { Source::Silent });
    world.witnesses.iter_mut().for_each(|witness| witness.up = up);
    world.upstreams.iter_mut().for_each(|upstream| upstream.up = up);
}

fn within(took: Option<Duration>, seconds: u64) -> bool {
    took.is_some_and(|took| took <= Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promise_holds_whatever_the_delays() {
        every_promise_holds(0);
    }

    #[test]
    fn every_promise_holds_by_other_delays() {
        every_promise_holds(1);
    }

    fn every_promise_holds(seed: u64) {
        for scenario in SCENARIOS {
            let world = (scenario.play)(seed, start());
            let story: Vec<_> =
                world.timeline.iter().map(|(at, text)| format!("{at:?} {text}")).collect();
            assert!(
                cfg!(feature = "broken-quorum") || world.broken.is_empty(),
                "{} seed {seed} broke {:?}\n{}",
                scenario.name,
                world.broken,
                story.join("\n")
            );
        }
    }

    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }
}
