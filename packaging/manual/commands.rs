//! Section 8: the daemon and its commands, a page for each.

use std::io;

use clap::Command;
use clap::builder::Resettable;
use clap_mangen::Man;
use firstlight::cli;
use roff::{Roff, bold, roman};

use super::source;

/// What the daemon does, for `firstlight(8)`.
const DAEMON: &str = "\
firstlight is one daemon that serves DNS over UDP, TCP, TLS, HTTPS and QUIC, and NTP, from the first \
second after power-on of a machine that does not know the time. \"firstlight run\" is the daemon; the \
other commands ask it over its control socket, or work without it.

It asks upstreams encrypted and by address. While the time is unknown, certificates are verified but for \
their dates, which are judged by the earliest time that is possible. The clock is set once a majority of \
the configured sources agrees; NTP clients are told \"not synchronised\" until then.

Without /etc/firstlight/firstlight.toml a built-in configuration is used, with public operators. What can \
be set is in firstlight.toml(5).";

/// What the daemon reads and writes.
const FILES: [(&str, &str); 4] = [
    (firstlight::host::config_file::DEFAULT_FILE, "The configuration, if there is one."),
    (
        "/var/lib/firstlight",
        "What outlives a power cut: the floor of time, certificates, the cache.",
    ),
    ("/run/firstlight/control.sock", "Where the daemon is asked and told."),
    ("/usr/share/doc/firstlight/examples/firstlight.toml", "Every setting, explained."),
];

const ENVIRONMENT: [(&str, &str); 1] = [(
    "FIRSTLIGHT_LOG",
    "What is logged: a level like \"debug\", or levels by module like \"info,firstlight::ntp=debug\".",
)];

const SIGNALS: [(&str, &str); 2] = [
    ("SIGHUP", "Reads the configuration again. A bad one changes nothing."),
    ("SIGTERM, SIGINT", "Answers what is being asked, writes its state, and stops."),
];

/// The pages by file name.
pub(super) fn pages(date: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut root = cli::command()
        .disable_help_subcommand(true)
        .long_about(DAEMON)
        .subcommand_value_name("COMMAND")
        .subcommand_help_heading("COMMANDS");
    root.build();
    let mut pages = vec![overview(root.clone(), date)?];
    for command in root.get_subcommands() {
        pages.extend(of_command(command, &["firstlight".to_owned()], date)?);
    }
    Ok(pages)
}

fn overview(root: Command, date: &str) -> io::Result<(String, Vec<u8>)> {
    let codes = root.get_after_help().map(ToString::to_string).unwrap_or_default();
    let below: Vec<_> = root.get_subcommands().map(page_name).collect();
    let mut tail = Roff::new();
    tail.control("SH", ["EXIT STATUS"]);
    let codes = codes.trim_start_matches("Exit codes: ").trim_end_matches('.');
    for (code, meaning) in codes.split(", ").filter_map(|entry| entry.split_once(' ')) {
        entry(&mut tail, code, meaning);
    }
    for (title, entries) in
        [("FILES", &FILES[..]), ("ENVIRONMENT", &ENVIRONMENT[..]), ("SIGNALS", &SIGNALS[..])]
    {
        tail.control("SH", [title]);
        for (tag, text) in entries {
            entry(&mut tail, tag, text);
        }
    }
    see_also(&mut tail, &["firstlight.toml(5)".to_owned()], &below);
    page(root.after_help(Resettable::Reset), &tail, date)
}

/// The page of `command` and those of the commands in it; `above` are the pages it belongs to.
fn of_command(
    command: &Command,
    above: &[String],
    date: &str,
) -> io::Result<Vec<(String, Vec<u8>)>> {
    if command.is_hide_set() {
        return Ok(Vec::new());
    }
    let below: Vec<_> = command.get_subcommands().map(page_name).collect();
    let mut tail = Roff::new();
    tail.control("SH", ["EXIT STATUS"]);
    tail.text([roman("As for every command, see "), bold("firstlight"), roman("(8).")]);
    let mut see: Vec<_> = above.iter().map(|name| format!("{name}(8)")).collect();
    see.push("firstlight.toml(5)".to_owned());
    see_also(&mut tail, &see, &below);
    let mut pages = vec![page(command.clone(), &tail, date)?];
    let above: Vec<_> = above.iter().cloned().chain([display_name(command)]).collect();
    for inner in command.get_subcommands() {
        pages.extend(of_command(inner, &above, date)?);
    }
    Ok(pages)
}

fn page(command: Command, tail: &Roff, date: &str) -> io::Result<(String, Vec<u8>)> {
    let name = display_name(&command);
    let man = Man::new(command.disable_help_subcommand(true))
        .section("8")
        .title(name.to_uppercase())
        .date(date)
        .source(source())
        .manual("firstlight");
    let mut text = Vec::new();
    man.render(&mut text)?;
    // clap_mangen breaks lines around the blank ones before possible values; they are blank without.
    let text = String::from_utf8_lossy(&text).replace(".br\n\n.br\n", "\n");
    let mut text = text.into_bytes();
    text.extend(tail.to_roff().into_bytes());
    Ok((format!("{name}.8"), text))
}

fn display_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn page_name(command: &Command) -> String {
    format!("{}(8)", display_name(command))
}

fn entry(roff: &mut Roff, tag: &str, text: &str) {
    roff.control("TP", []);
    roff.text([bold(tag)]);
    roff.text([roman(text)]);
}

fn see_also(roff: &mut Roff, first: &[String], more: &[String]) {
    roff.control("SH", ["SEE ALSO"]);
    let pages: Vec<_> = first.iter().chain(more).collect();
    for (number, page) in pages.iter().enumerate() {
        let (name, section) = page.split_once('(').unwrap_or((page, ""));
        let comma = if number + 1 < pages.len() { "," } else { "" };
        roff.text([bold(name), roman(format!("({section}{comma}"))]);
    }
}
