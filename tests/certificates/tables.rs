//! The tables of `docs/certificates.md`: outages at random moments, and faulty CAs.

use std::fmt::Write;
use std::time::Duration;

use firstlight::health::Severity;

use crate::world::{DAY, HOUR, MINUTE, Mood, Random, SECOND, World};
use crate::{TO_1970, UNREACHABLE, faults};

/// Alarms are looked at so often: a warning may be that much older than the tables say.
const LOOK: Duration = Duration::from_secs(3 * 3600);
const DOCUMENT: &str = include_str!("../../docs/certificates.md");

#[test]
fn tables_are_those_of_the_documentation() {
    let tables = [outages(), endless(), faulty()];
    let stand = tables.iter().all(|table| DOCUMENT.contains(table));
    assert!(stand, "docs/certificates.md should have\n\n{}", tables.join("\n"));
}

const LIVES: [(&str, Duration); 4] = [
    ("160 h", Duration::from_secs(160 * 3600)),
    ("45 d", Duration::from_secs(45 * 86_400)),
    ("64 d", Duration::from_secs(64 * 86_400)),
    ("90 d", Duration::from_secs(90 * 86_400)),
];

/// One outage at each of many moments of a certificate's time in service.
fn outages() -> String {
    let mut table = String::from(
        "| life | outage | certificates expired | least life left | a warning came, before expiry, at the latest |\n\
         |---|---|---|---|---|\n",
    );
    for (name, life) in LIVES {
        for (what, span, power_cut, moments) in [
            ("72 h", HOUR * 72, false, 4000),
            ("72 h, a power cut and 1970 in it", HOUR * 72, true, 1000),
            ("96 h", HOUR * 96, false, 1000),
        ] {
            let (mut expired, mut least, mut warned) = (0, life, None::<Duration>);
            for (life_left, warning) in outages_of(moments, life, span, power_cut) {
                expired += usize::from(life_left.is_zero());
                least = least.min(life_left);
                if let Some(left) = warning {
                    warned = Some(warned.map_or(left, |warned| warned.min(left)));
                }
            }
            assert!(expired == 0 || span > HOUR * 72, "{name}: {expired} expired");
            if life >= DAY * 45 {
                assert!(warned.is_none_or(|left| left >= DAY * 7), "{name}: {warned:?}");
            }
            let warned = warned.map_or_else(|| "none raised".to_owned(), days);
            let _ = writeln!(
                table,
                "| {name} | {what} | {expired} of {moments} | {} | {warned} |",
                days(least)
            );
        }
    }
    table
}

/// For each moment the least remaining life, and that at the first warning.
fn outages_of(
    moments: u64,
    life: Duration,
    span: Duration,
    power_cut: bool,
) -> Vec<(Duration, Option<Duration>)> {
    let part = |from| {
        let tell = |moment| {
            let world = outage(moment, life, span, power_cut);
            (world.least, world.warned(Severity::Warning))
        };
        (from..moments).step_by(2).map(tell).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| part(1));
        let mut all = part(0);
        all.extend(other.join().unwrap());
        all
    })
}

/// A house with a certificate of some age, and an outage an hour later.
fn outage(moment: u64, life: Duration, span: Duration, power_cut: bool) -> World {
    let mut random = Random(moment);
    let wait = if life < DAY * 10 { HOUR * 60 } else { life * 6 / 10 };
    // Of short-lived ones the last week counts: there is a bound on certificates in a week.
    let before = if life < DAY * 10 { DAY * 8 } else { HOUR };
    let age = random.below(wait);
    let mut world = World::new(moment, life, age, 1);
    world.look_each = LOOK;
    world.run(before);

    world.everybody(UNREACHABLE);
    if power_cut {
        let at = random.below(span);
        world.run(at);
        world.reboot(TO_1970);
        world.run(span.saturating_sub(at) + MINUTE);
        world.path_returns(false);
        world.set_right();
    } else {
        world.run(span);
        // Whether something notices, or only the next try does.
        world.path_returns(moment.is_multiple_of(2));
    }
    world.run(HOUR * 2);
    assert!(world.machine.next(world.now()).unwrap().due > world.utc(), "it catches up");
    world
}

/// An outage that does not end.
fn endless() -> String {
    let mut table = String::from(
        "| life | warning, before expiry | error, before expiry | tries until then |\n\
         |---|---|---|---|\n",
    );
    for (name, life) in LIVES {
        let (mut warning, mut error, mut tries) = (life, life, usize::MAX);
        for moment in 0..100 {
            let wait = if life < DAY * 10 { HOUR * 57 } else { life * 57 / 100 };
            let mut world = World::new(moment, life, wait, 1);
            world.look_each = LOOK;
            world.everybody(UNREACHABLE);
            world.run_until(life, |world| world.remaining().is_zero());
            warning = warning.min(world.warned(Severity::Warning).unwrap());
            error = error.min(world.warned(Severity::Error).unwrap());
            tries = tries.min(world.orders.len());
        }
        assert!(life < DAY * 45 || warning >= DAY * 7);
        let _ = writeln!(table, "| {name} | {} | {} | {tries} |", days(warning), days(error));
    }
    table
}

/// A CA with a fault for three weeks, whose end comes at a random moment.
fn faulty() -> String {
    let mut table = String::from(
        "| the CA's fault | most tries in 24 h | of these at the CA itself | certificate after its end, at most |\n\
         |---|---|---|---|\n",
    );
    for (name, mood, ..) in faults() {
        let (mut all, mut itself, mut back) = (0, 0, Duration::ZERO);
        for moment in 0..100 {
            let mut random = Random(moment);
            let mut world = World::new(moment, DAY * 90, DAY * 52, 1);
            world.look_each = DAY;
            world.everybody(mood);
            world.run(DAY * 23 + random.below(HOUR * 12));
            let (tries, orders) = world.most_orders(DAY);
            (all, itself) = (all.max(tries), itself.max(orders));
            world.everybody(Mood::Well);
            let end = world.mono;
            assert!(world.run_until(DAY, |world| !world.served.is_empty()), "{name}");
            back = back.max(world.mono - end);
        }
        let _ = writeln!(table, "| {name} | {all} | {itself} | {} |", days(back));
    }
    table
}

fn days(span: Duration) -> String {
    let (hours, minutes) = (span.as_secs() / 3600, span.as_secs() / 60 % 60);
    match (hours / 24, hours % 24) {
        _ if span < SECOND => "0".to_owned(),
        (0, 0) => format!("{minutes} min"),
        (0, hours) => format!("{hours} h {minutes} min"),
        (days, hours) => format!("{days} d {hours} h"),
    }
}
