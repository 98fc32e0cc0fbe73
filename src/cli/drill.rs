//! `firstlight drill`: the incidents, replayed.

use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::cli::exit::{self, Failure};
use crate::cli::{output, table};
use crate::drill::{SCENARIOS, Scenario, World};
use crate::host::kernel::{KernelClock, OsClock};

/// What to play.
#[derive(Args, Debug)]
pub(super) struct Drill {
    /// The incident; all of them without it.
    #[arg(hide_possible_values = true, value_parser = PossibleValuesParser::new(
        SCENARIOS.iter().map(|scenario| scenario.name)
    ))]
    scenario: Option<String>,
    /// Perturbs every delay; the same seed plays the same drill.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// List the incidents instead.
    #[arg(long)]
    list: bool,
}

/// Plays, prints what happens, and fails if a promise breaks.
pub(super) fn run(drill: &Drill) -> Result<u8, Failure> {
    let wanted = |it: &&Scenario| drill.scenario.as_ref().is_none_or(|name| name == it.name);
    let scenarios: Vec<_> = SCENARIOS.iter().filter(wanted).collect();
    if drill.list {
        let rows: Vec<_> =
            scenarios.iter().map(|it| [it.name, it.story].map(str::to_owned)).collect();
        output::print(table::aligned(&rows))?;
        return Ok(exit::OK);
    }
    let start = KernelClock.mono();
    let mut broken = Vec::new();
    for scenario in &scenarios {
        let world = (scenario.play)(drill.seed, start);
        output::print(tell(scenario, &world))?;
        if !world.broken.is_empty() {
            broken.push(scenario.name);
        }
    }
    let count = scenarios.len();
    if broken.is_empty() {
        output::print(format_args!("{count} played with seed {}: every promise kept", drill.seed))?;
        return Ok(exit::OK);
    }
    output::print(format_args!(
        "{count} played with seed {}: promises BROKEN in {}",
        drill.seed,
        broken.join(", ")
    ))?;
    Ok(exit::FAILED)
}

/// The story, what happened, and the verdict.
fn tell(scenario: &Scenario, world: &World) -> String {
    let mut lines = vec![format!("{}: {}", scenario.name, scenario.story)];
    lines.extend(world.timeline.iter().map(|(at, event)| format!("  {:>12}  {event}", after(*at))));
    let name = scenario.name;
    lines.extend(world.broken.iter().map(|promise| format!("  BROKEN in {name}: {promise}")));
    lines.join("\n") + "\n\n"
}

/// A time after power-on, fine while things happen fast.
fn after(span: Duration) -> String {
    match span.as_secs() {
        0..=119 => format!("+{:.2} s", span.as_secs_f64()),
        secs @ 120..=7_199 => format!("+{} min {:02} s", secs / 60, secs % 60),
        secs => format!("+{} h {:02} min", secs / 3600, secs / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_fine_at_first_and_coarse_later() {
        let at = |millis| after(Duration::from_millis(millis));

        assert_eq!(at(345), "+0.34 s");
        assert_eq!(at(185_000), "+3 min 05 s");
        assert_eq!(at(266_520_000), "+74 h 02 min");
    }

    #[test]
    fn a_broken_promise_is_named_with_its_incident() {
        let scenario = &SCENARIOS[0];
        let mut world = (scenario.play)(1, KernelClock.mono());
        world.broken = vec!["the clock is right".to_owned()];

        let text = tell(scenario, &world);

        assert!(text.starts_with("power-cut: Four hours without power"), "{text}");
        assert!(text.contains("\n       +0.00 s  power on; the truth is 2026-"), "{text}");
        assert!(text.ends_with("  BROKEN in power-cut: the clock is right\n\n"), "{text}");
    }
}
