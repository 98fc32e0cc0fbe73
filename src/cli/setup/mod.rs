//! `firstlight setup`: looks at the machine, asks at most five questions, and writes a configuration.

mod answers;
mod conflict;
mod facts;
mod gather;
mod identity;
mod place;
mod plan;
mod sockets;
mod text;
mod time_files;

#[cfg(test)]
mod machines;

use std::fmt::{Display, Write as _};
use std::io::{self, BufRead, IsTerminal, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use self::answers::{Answers, TOPICS};
use self::facts::{Address, Facts};
use self::place::{Placed, place};
use self::plan::{Plan, plan};
use super::exit::{self, Failure};
use super::output;
use crate::host::config_file::DEFAULT_FILE;

/// How often a question is asked before it is given up.
const TRIES: usize = 3;
/// The longest answer that is read.
const ANSWER: u64 = 4096;

/// How it is set up.
#[derive(Args, Debug)]
pub(super) struct Setup {
    /// Ask nothing: take the default of each question. Nothing is stopped then.
    #[arg(long, conflicts_with = "ask")]
    yes: bool,
    /// Ask also where standard input is no terminal: a line for each answer, empty for the default.
    #[arg(long)]
    ask: bool,
    /// Print the plan and the configuration, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Where the configuration is to be; by default /etc/firstlight/firstlight.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Look at the machine whose files are below this folder, and write there.
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
    /// An address in place of those of this machine, like `eth0=192.168.1.2`.
    #[arg(long, value_name = "INTERFACE=ADDRESS", hide = true, value_parser = address)]
    address: Vec<Address>,
}

/// Looks, asks, writes, and says what was done and how to undo it.
pub(super) fn run(how: &Setup) -> Result<u8, Failure> {
    if !how.yes && !how.ask && !io::stdin().is_terminal() {
        return Err(Failure::Unanswered);
    }
    let root = how.root.as_deref().unwrap_or(Path::new("/"));
    let file = how.config.clone().unwrap_or_else(|| gather::below(root, Path::new(DEFAULT_FILE)));
    let addresses = match (&how.address[..], &how.root) {
        ([], None) => gather::interfaces(),
        (given, _) => given.to_vec(),
    };
    let facts = gather::gather(root, &addresses, &file);
    if facts.nixos && how.config.is_none() && !how.dry_run {
        return Err(Failure::Wanting(NIXOS.to_owned()));
    }
    let mut answers = Answers::by_default(&facts);
    if !how.yes {
        ask(&mut answers, &facts)?;
    }
    let plan = plan(&facts, &answers, &file);
    if let Some(report) = text::fault(&plan.text, &file) {
        return Err(Failure::Wanting(format!(
            "this configuration has faults, which is a mistake of ours, and nothing was written:\n{report}"
        )));
    }
    if how.dry_run {
        output::print(rehearsal(&plan, &file))?;
        return Ok(exit::OK);
    }
    carry_out(&plan, &file, &facts, how.root.is_some())
}

/// What would be done, and the file.
fn rehearsal(plan: &Plan, file: &Path) -> String {
    let mut said = String::new();
    section(&mut said, "Found", &plan.found);
    section(&mut said, "Note", &plan.notes);
    let stops = plan.stops.iter().map(|unit| format!("systemctl disable --now {unit}"));
    section(&mut said, "Would run", &stops.collect::<Vec<_>>());
    section(&mut said, "Next", &plan.next);
    let _ = write!(said, "Would write {}:\n\n{}", file.display(), plan.text);
    said
}

/// Writes the file, stops what a person wants stopped, and says so. `elsewhere`: the files are those of
/// another machine, on which nothing can be stopped.
fn carry_out(plan: &Plan, file: &Path, facts: &Facts, elsewhere: bool) -> Result<u8, Failure> {
    let placed = place(file, &plan.text).map_err(|(path, why)| {
        let root =
            "try as root, or name another file: --config FILE; --dry-run shows what it would hold";
        let at = path.display();
        Failure::Wanting(format!(
            "cannot write {at}: {why}; nothing was changed\n   = help: {root}"
        ))
    })?;
    let name = file.display();
    let (done, undone) = match &placed {
        Placed::Created => (format!("{name} was written"), Some(format!("rm {name}"))),
        Placed::Unchanged => (format!("{name} is as it should be: nothing was changed"), None),
        Placed::Replaced(kept) => {
            let kept = kept.display();
            (
                format!("{name} was written; what it held is in {kept}"),
                Some(format!("mv {kept} {name}")),
            )
        }
    };
    let (mut done, mut undo) = (vec![done], Vec::new());
    if facts.systemd && !facts.nixos && !facts.running {
        undo.push("systemctl disable --now firstlight".to_owned());
    }
    undo.extend(undone);
    if facts.running && !undo.is_empty() {
        undo.push("firstlight reload".to_owned());
    }
    let mut code = exit::OK;
    for unit in &plan.stops {
        match stop(unit, elsewhere) {
            Ok(()) => {
                done.push(format!("{unit} was stopped, and stays so"));
                undo.push(format!("systemctl enable --now {unit}"));
            }
            Err(why) => {
                done.push(format!("{unit} was NOT stopped: {why}"));
                code = exit::FAILED;
            }
        }
    }
    let mut said = String::new();
    section(&mut said, "Found", &plan.found);
    section(&mut said, "Done", &done);
    section(&mut said, "Note", &plan.notes);
    section(&mut said, "Next", &plan.next);
    section(&mut said, "To undo", &undo);
    output::print(said)?;
    Ok(code)
}

const NIXOS: &str = "NixOS builds what is in /etc itself, and nothing was written\n   \
    = help: let the configuration be beside yours: firstlight setup --config /etc/nixos/firstlight.toml";

/// Asks what there is to decide. An answer that is none is asked for again.
fn ask(answers: &mut Answers, facts: &Facts) -> Result<(), Failure> {
    let mut number = 0;
    for topic in TOPICS {
        let Some(question) = answers.question(topic, facts) else { continue };
        number += 1;
        let mut decided = false;
        for _ in 0..TRIES {
            output::print(format!("{number}. {}\n   [{}]", question.text, question.default))?;
            let answer = line()?;
            let answer = if answer.trim().is_empty() { &question.default } else { &answer };
            match answers.take(topic, answer, facts) {
                Ok(()) => {
                    decided = true;
                    break;
                }
                Err(why) => output::print(format!("   {why}."))?,
            }
        }
        if !decided {
            return Err(Failure::Wanting("no answer that fits; nothing was changed".to_owned()));
        }
    }
    output::print("\n")
}

/// A line of standard input. Its end is no answer: whoever goes away has decided nothing.
fn line() -> Result<String, Failure> {
    let mut octets = Vec::new();
    let mut input = io::stdin().lock().take(ANSWER);
    match input.read_until(b'\n', &mut octets) {
        Ok(_) if octets.ends_with(b"\n") => Ok(String::from_utf8_lossy(&octets).into_owned()),
        Ok(_) | Err(_) => Err(Failure::Unanswered),
    }
}

/// Stops a unit, and keeps it from starting with the machine.
fn stop(unit: &str, elsewhere: bool) -> Result<(), String> {
    if elsewhere {
        return Err("it is not on this machine".to_owned());
    }
    let mut command = Command::new("systemctl");
    command.args(["disable", "--now", unit]).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("systemctl: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(words.lines().last().unwrap_or("systemctl failed").to_owned())
}

fn section(said: &mut String, title: &str, lines: &[impl Display]) {
    if !lines.is_empty() {
        let _ = writeln!(said, "{title}:");
        for line in lines {
            let _ = writeln!(said, "  {line}");
        }
    }
}

fn address(text: &str) -> Result<Address, String> {
    let (interface, ip) = text.split_once('=').ok_or("write INTERFACE=ADDRESS")?;
    let ip: IpAddr = ip.parse().map_err(|error| format!("`{ip}`: {error}"))?;
    Ok(Address { interface: interface.to_owned(), ip })
}
