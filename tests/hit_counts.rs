//! What an answer from the cache costs, counted: instructions and allocations beside the committed
//! figures in `benches/hit.counts`.
//!
//! Time depends on the machine; these do not. Instructions are counted by valgrind, in the build that
//! the tests are of: a release build for them alone would cost CI minutes.
#![expect(clippy::unwrap_used, reason = "test code")]
#![expect(clippy::print_stdout, reason = "CI shows the figures")]
#![expect(clippy::cast_possible_truncation, reason = "small figures")]

#[path = "../benches/answering/mod.rs"]
mod answering;

use std::env;
use std::fs;
use std::process::Command;

use answering::Answering;
use libtest_mimic::{Arguments, Failed, Trial};

/// The committed figures.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/hit.counts");

/// Under which word: a release build takes far fewer.
const INSTRUCTIONS: &str =
    if cfg!(debug_assertions) { "instructions" } else { "instructions-of-release" };

/// How much more than committed is let pass, in percent: compilers differ.
const ALLOWANCE: u64 = 5;

/// Set for the run under valgrind: how many hits.
const HITS: &str = "FIRSTLIGHT_HITS";

/// Hits of the two runs. What both do beside them is the same, and cancels out.
const RUNS: [u64; 2] = [2_000, 6_000];

fn main() {
    if let Ok(hits) = env::var(HITS) {
        answering().hit(hits.parse().unwrap());
        return;
    }
    let missing = Command::new("valgrind").arg("--version").output().is_err();
    let kind = if missing { "valgrind is not installed (package valgrind)" } else { "" };
    let trials = vec![
        Trial::test("a_hit_allocates_no_more_than_committed", || {
            compare("allocations", allocations())
        }),
        Trial::test("a_hit_takes_no_more_instructions_than_committed", || {
            compare(INSTRUCTIONS, instructions()?)
        })
        .with_kind(kind)
        .with_ignored_flag(missing),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// An answer path on which every name has been asked a few times.
fn answering() -> Answering {
    let mut answering = Answering::new(64);
    answering.hit(1_000);
    answering
}

/// Allocations that a hit makes.
fn allocations() -> u64 {
    let mut answering = answering();
    let hits = RUNS[0];
    allocation_counter::measure(|| answering.hit(hits as usize)).count_total.div_ceil(hits)
}

/// Instructions that a hit takes. Hash tables begin with a random seed each, which has made one run in
/// many 7 % longer; so it is the middle one of three.
fn instructions() -> Result<u64, Failed> {
    let mut counted = [0; 3];
    for count in &mut counted {
        let [few, many] = RUNS.map(instructions_of);
        *count = (many? - few?) / (RUNS[1] - RUNS[0]);
    }
    counted.sort_unstable();
    Ok(counted[1])
}

/// Instructions of a whole run with so many hits.
fn instructions_of(hits: u64) -> Result<u64, Failed> {
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .env(HITS, hits.to_string())
        .output()?;
    // ==1234== I   refs:      9,876,543
    let text = String::from_utf8_lossy(&output.stderr);
    let count = text.lines().find_map(|line| line.split_once("refs:")).map(|(_, count)| count);
    let digits: String = count.unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| format!("valgrind said, {}:\n{text}", output.status).into())
}

/// Holds `counted` against the committed figure.
fn compare(what: &str, counted: u64) -> Result<(), Failed> {
    let text = fs::read_to_string(FILE)?;
    let mut words = text.lines().filter_map(|line| line.split_once(' '));
    let committed = words.find(|&(word, _)| word == what).ok_or("it is not in the file")?;
    let committed: u64 = committed.1.parse()?;
    println!("hit: {counted} {what}, committed {committed}");
    let allowance = committed * ALLOWANCE / 100;
    if counted > committed + allowance {
        let why = "if it is worth it, write the figure into benches/hit.counts";
        return Err(format!("{counted} {what}, {committed} are committed: {why}").into());
    }
    if counted + allowance < committed {
        println!("hit: fewer {what} than committed; write the figure into benches/hit.counts");
    }
    Ok(())
}
