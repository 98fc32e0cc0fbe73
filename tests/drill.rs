//! `firstlight drill`, as a person runs it.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::process::Command;

#[test]
#[cfg(not(feature = "broken-quorum"))]
fn an_incident_is_told_line_by_line_and_every_promise_kept() {
    let (code, text) = drill(&["power-cut", "--seed", "7"]);

    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("power-cut: Four hours without power"), "{text}");
    assert!(text.contains("+0.00 s  power on; the truth is "), "{text}");
    assert!(text.contains("kept:   the clock is disciplined within "), "{text}");
    assert!(text.ends_with("1 played with seed 7: every promise kept\n"), "{text}");
    assert_eq!(drill(&["power-cut", "--seed", "7"]), (code, text));
}

#[test]
#[cfg(feature = "broken-quorum")]
fn a_quorum_broken_on_purpose_breaks_a_promise() {
    let (code, text) = drill(&["lone-liar"]);

    assert_eq!(code, 1, "{text}");
    assert!(text.contains("BROKEN in lone-liar: one liar does not set the clock\n"), "{text}");
    assert!(text.ends_with("1 played with seed 1: promises BROKEN in lone-liar\n"), "{text}");
}

#[test]
fn the_incidents_are_listed_and_one_misspelt_is_a_mistake() {
    let (code, list) = drill(&["--list"]);
    let (refused, nothing) = drill(&["power-cud"]);

    assert_eq!(code, 0);
    assert!(list.lines().count() >= 14 && list.contains("\nlone-liar  "), "{list}");
    assert_eq!((refused, nothing.as_str()), (2, ""));
}

/// Exit code and standard output.
fn drill(arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstlight"));
    let output = command.arg("drill").args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}
