//! Section 5: the configuration file, from the file that shows every setting.

use std::collections::BTreeSet;

use roff::{Inline, Roff, bold, roman};

use super::source;

/// The page `firstlight.toml(5)`, from `commented`, a file that shows every setting.
pub(crate) fn page(commented: &str, date: &str) -> String {
    let mut roff = Roff::new();
    roff.control("TH", ["FIRSTLIGHT.TOML", "5", date, &source(), "firstlight"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("firstlight.toml - configuration of the firstlight daemon")]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold(firstlight::host::config_file::DEFAULT_FILE)]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "The file is TOML. Without it a built-in configuration is used, with public operators. Settings \
         are shown with their defaults. Where the text names another default, and in tables that \
         describe something of yours, an example stands.",
    )]);
    let document = Document::read(commented);
    for block in blocks(&document.preface) {
        roff.control("PP", []);
        block.print(&mut roff);
    }
    for table in &document.tables {
        roff.control("SH", [table.header.as_str()]);
        for (number, item) in table.items.iter().enumerate() {
            item.print(&mut roff, number == 0);
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("firstlight"), roman("(8), "), bold("firstlight-check"), roman("(8)")]);
    roff.to_roff()
}

/// The commented file, by tables.
#[derive(Default)]
struct Document {
    /// What precedes the first table.
    preface: Vec<String>,
    tables: Vec<Table>,
}

/// Everything about the tables of one header.
struct Table {
    /// Like `[[clock.source]]`.
    header: String,
    items: Vec<Item>,
}

enum Item {
    /// Settings, each `key = value`, that share an explanation.
    Settings { settings: Vec<(String, String)>, text: Vec<String> },
    /// Explanation of the table.
    Text(Vec<String>),
}

impl Document {
    /// Reads the file: `# prose`, `[table]` and `key = value`, the latter two with or without a `#`
    /// right before them. Prose explains what follows it; settings without any share that of the line
    /// above. Of tables that come again only what is told of for the first time is taken.
    fn read(text: &str) -> Self {
        let mut document = Self::default();
        let mut prose = Vec::new();
        // What was said about a table that comes again.
        let mut aside = Vec::new();
        let mut told = BTreeSet::new();
        let mut at = None;
        // Whether the line above is a setting that was taken.
        let mut adjoins = false;
        for line in text.lines() {
            if line == "#" {
                prose.push(String::new());
                adjoins = false;
            } else if let Some(words) = line.strip_prefix("# ") {
                prose.push(words.to_owned());
                adjoins = false;
            } else if let Some((key, value)) = setting(line) {
                let Some(table) = at.and_then(|at: usize| document.tables.get_mut(at)) else {
                    continue;
                };
                let known = !told.insert((table.header.clone(), key.to_owned()));
                let setting = (key.to_owned(), value.to_owned());
                if known && prose.is_empty() {
                    continue;
                }
                if prose.is_empty()
                    && aside.is_empty()
                    && adjoins
                    && let Some(Item::Settings { settings, .. }) = table.items.last_mut()
                {
                    settings.push(setting);
                    continue;
                }
                if !prose.is_empty() && !aside.is_empty() {
                    table.items.push(Item::Text(std::mem::take(&mut aside)));
                }
                let text = std::mem::take(if prose.is_empty() { &mut aside } else { &mut prose });
                table.items.push(Item::Settings { settings: vec![setting], text });
                adjoins = true;
            } else if let Some(header) = header(line) {
                adjoins = false;
                let text = std::mem::take(&mut prose);
                at = document.tables.iter().position(|table| table.header == header);
                if at.is_some() {
                    aside = text;
                    continue;
                }
                aside.clear();
                let items = if text.is_empty() { Vec::new() } else { vec![Item::Text(text)] };
                at = Some(document.tables.len());
                document.tables.push(Table { header: header.to_owned(), items });
            } else if !prose.is_empty() {
                adjoins = false;
                let text = std::mem::take(&mut prose);
                match at.and_then(|at| document.tables.get_mut(at)) {
                    None => document.preface.extend(text),
                    Some(table) => table.items.push(Item::Text(text)),
                }
            }
        }
        document
    }
}

/// `key = value`, whether switched on or not.
fn setting(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix('#').unwrap_or(line).split_once(" = ")?;
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!key.is_empty() && key.chars().all(word)).then_some((key, value))
}

/// `[table]` or `[[table]]`, whether switched on or not.
fn header(line: &str) -> Option<&str> {
    let line = line.strip_prefix('#').unwrap_or(line);
    (line.starts_with('[') && line.ends_with(']')).then_some(line)
}

impl Item {
    /// `first` under a heading, nothing has to be set apart.
    fn print(&self, roff: &mut Roff, first: bool) {
        let text = match self {
            Self::Settings { settings, text } => {
                for (number, (key, value)) in settings.iter().enumerate() {
                    roff.control(if number == 0 { "TP" } else { "TQ" }, []);
                    roff.text([bold(key), roman(format!(" = {value}"))]);
                }
                text
            }
            Self::Text(text) => {
                if !first {
                    roff.control("PP", []);
                }
                text
            }
        };
        for block in blocks(text) {
            block.print(roff);
        }
    }
}

/// A piece of an explanation.
#[derive(PartialEq)]
enum Block {
    /// What is to be typed.
    Code(String),
    /// A possible value and what it does.
    Value(String, String),
    Words(String),
}

/// Prose is flush; values stand two columns in, with what they do two columns or more behind; what is to
/// be typed stands further in.
fn blocks(text: &[String]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for line in text {
        let words = line.trim_start();
        let depth = line.len() - words.len();
        let value = words.split_once("  ").filter(|_| depth == 2 && words.starts_with('"'));
        match (value, blocks.last_mut()) {
            (Some((value, does)), _) => {
                blocks.push(Block::Value(value.to_owned(), does.trim().to_owned()));
            }
            (None, _) if words.is_empty() => blocks.push(Block::Words(String::new())),
            (None, Some(Block::Value(_, does))) if depth > 2 => {
                does.push(' ');
                does.push_str(words);
            }
            (None, _) if depth > 2 => blocks.push(Block::Code(words.to_owned())),
            (None, Some(Block::Words(sentence))) => {
                if !sentence.is_empty() {
                    sentence.push(' ');
                }
                sentence.push_str(words);
            }
            (None, _) => blocks.push(Block::Words(words.to_owned())),
        }
    }
    blocks.retain(|block| *block != Block::Words(String::new()));
    blocks
}

impl Block {
    fn print(&self, roff: &mut Roff) {
        match self {
            Self::Code(line) => {
                roff.control("RS", ["4"]);
                roff.control("EX", []);
                roff.text([bold(line)]);
                roff.control("EE", []);
                roff.control("RE", []);
            }
            Self::Value(value, does) => {
                roff.control("RS", []);
                roff.control("TP", []);
                roff.text([bold(value)]);
                roff.text(marked(does));
                roff.control("RE", []);
            }
            Self::Words(words) => {
                roff.text(marked(words));
            }
        }
    }
}

/// With what stands in backticks emphasised.
fn marked(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate();
    parts.map(|(n, part)| if n % 2 == 1 { bold(part) } else { roman(part) }).collect()
}
