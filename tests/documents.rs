//! What the documents tell people to do can be done.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use firstlight::config::Config;
use lab::{Daemon, Lab};

#[test]
fn every_command_in_the_documents_is_one() {
    let mut found = 0;
    for (file, text) in documents() {
        for line in commands(&text) {
            let words: Vec<_> = line.split_whitespace().collect();
            // Where a page leaves a word out, or has a placeholder, it is prose.
            if words.iter().any(|word| word.contains("..") || word.contains('[')) {
                continue;
            }
            found += 1;
            let parsed = firstlight::cli::command().try_get_matches_from(&words);
            if let Err(error) = parsed {
                assert!(!error.use_stderr(), "{}: `{line}`: {error}", file.display());
            }
        }
    }
    assert!(found > 50, "{found}");
}

#[test]
fn every_configuration_in_the_documents_is_one() {
    let mut found = 0;
    for (file, text) in documents() {
        for block in blocks(&text, "toml") {
            found += 1;
            if let Err(report) = Config::parse(&block, Path::new("firstlight.toml")) {
                panic!("{}: {report}\n{block}", file.display());
            }
        }
    }
    assert!(found > 0);
}

#[test]
fn every_condition_has_its_place_in_the_runbook() {
    let read = |name: &str| fs::read_to_string(root().join("docs").join(name)).unwrap();
    let (monitoring, operation) = (read("monitoring.md"), read("operation.md"));
    let table = monitoring.split("## Conditions").nth(1).unwrap();
    let named = table.lines().filter_map(|line| line.strip_prefix("| <a id=\"")?.split('"').next());
    let headings: Vec<_> = operation.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let mut count = 0;
    for name in named {
        count += 1;
        let has = |heading: &&str| heading.split(", ").any(|word| word == name);
        assert!(headings.iter().any(has), "{name} is not in docs/operation.md");
    }
    assert!(count > 25, "{count}");
    assert_eq!(headings.iter().flat_map(|heading| heading.split(", ")).count(), count);
}

#[test]
fn the_commands_of_the_runbook_do_what_they_should_on_a_daemon() {
    let lab = Lab::new();
    lab.configure().write();
    let mut daemon = Daemon::start(&lab, &["--start", "@0"]);
    daemon.serves(&lab).unwrap();
    daemon.wait_for("commands are heard", 5, |_| true);

    let text = fs::read_to_string(root().join("docs/operation.md")).unwrap();
    let lines: Vec<_> = blocks(&text, "sh").concat().lines().map(str::to_owned).collect();
    let mut run = 0;
    for line in lines.iter().filter(|line| line.starts_with("firstlight")) {
        let line = line.split('#').next().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstlight"));
        command.args(line.split_whitespace().skip(1));
        command.arg("--config").arg(lab.path("firstlight.toml"));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
        assert!(!output.stdout.is_empty(), "{line}: {said}");
        run += 1;
    }
    assert!(run >= 6, "{run}");
}

/// The pages for people, with what they say.
fn documents() -> Vec<(PathBuf, String)> {
    let mut files = vec![root().join("README.md")];
    for folder in ["docs", "docs/incidents"] {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.retain(|file| file.extension().is_some_and(|end| end == "md"));
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect()
}

/// What begins with the program's name in blocks of `sh` and between backticks.
fn commands(text: &str) -> Vec<String> {
    let of_block = |line: &str| {
        let line = line.split('#').next().unwrap_or_default().trim().to_owned();
        line.strip_prefix("sudo ").map_or(line.clone(), str::to_owned)
    };
    let lines: Vec<_> = blocks(text, "sh")
        .iter()
        .flat_map(|block| block.lines().map(of_block).collect::<Vec<_>>())
        .collect();
    let inline = text.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " "));
    let begins = |line: &String| line.starts_with("firstlight ");
    lines.into_iter().chain(inline).filter(begins).collect()
}

/// The blocks of code in `language`.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match (&mut block, line.strip_prefix("```")) {
            (None, Some(begin)) if begin == language => block = Some(String::new()),
            (Some(_), Some(_)) => found.extend(block.take()),
            (Some(block), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
