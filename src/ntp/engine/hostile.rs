//! What holds whatever the sources say.

use std::time::Duration;

use ntp_proto::NtpClock;
use proptest::prelude::*;

use super::library::{SteeredClock, ntp_duration};
use super::world::World;
use super::*;
use crate::clock::Reading;
use crate::node::ports::Clock;

/// A reading as a liar may make it up.
#[derive(Clone, Debug)]
struct Lie {
    source: usize,
    ahead: Nanos,
    delay: Duration,
    root_delay: Duration,
    root_dispersion: Duration,
    stratum: u8,
    leap: u8,
    precision: i8,
    /// Seconds until the next one.
    pause: f64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn no_readings_drive_the_clock_beyond_its_limits(
        lies in prop::collection::vec(lie(), 1..300)
    ) {
        let mut world = World::new(1, &[0; 4], 2.0);
        for lie in lies {
            let reading = Reading {
                utc: world.clock.utc().offset(lie.ahead),
                delay: lie.delay,
                root_delay: lie.root_delay,
                root_dispersion: lie.root_dispersion,
                stratum: lie.stratum,
                leap: lie.leap,
                precision: lie.precision,
                ..world.exchange(lie.source)
            };
            let reading = Reading { at: world.clock.mono(), ..reading };

            let outcome = world.engine.handle_reading(lie.source, &reading, world.clock.mono());
            world.pass(lie.pause);

            let ppm = world.clock.frequency();
            prop_assert!(ppm.abs() <= 1000.0, "{ppm} ppm after {lie:?}");
            prop_assert!(world.clock.greatest_step() < MAX_OFFSET, "{lie:?}");
            if let Some(found) = outcome.ok().and_then(|update| update.consensus) {
                prop_assert!(found.leap <= 2, "{found:?}");
            }
        }
    }
}

#[test]
fn no_step_is_as_great_as_an_offset_that_is_refused() {
    let world = World::new(1, &[], 2.0);
    for seconds in [1.23, -1.23, 1e9, -1e9] {
        let before = world.clock.utc();

        let _ = SteeredClock(world.clock.clone()).step_clock(ntp_duration(seconds));

        let moved = world.clock.utc().since(before);
        assert!(moved.abs() < MAX_OFFSET && moved.abs() > MAX_OFFSET / 2, "{moved}");
    }
}

fn lie() -> impl Strategy<Value = Lie> {
    let ahead = prop_oneof![
        4 => -20_000_000i64..20_000_000,
        2 => -999_999_999i64..999_999_999,
        1 => Just(999_999_999i64),
        1 => Just(-999_999_999i64),
    ];
    let span = || {
        prop_oneof![
            6 => (0u64..100_000_000).prop_map(Duration::from_nanos),
            1 => Just(Duration::ZERO),
            1 => Just(Duration::from_secs(65_535)),
            1 => Just(Duration::MAX),
        ]
    };
    (
        (0usize..4, ahead, span(), span(), span()),
        (0u8..17, any::<u8>(), any::<i8>(), prop_oneof![0.0..2.0, Just(16.0), Just(1024.0)]),
    )
        .prop_map(|((source, ahead, delay, root_delay, root_dispersion), rest)| {
            let (stratum, leap, precision, pause) = rest;
            let ahead = Nanos::from(ahead);
            Lie {
                source,
                ahead,
                delay,
                root_delay,
                root_dispersion,
                stratum,
                leap,
                precision,
                pause,
            }
        })
}
