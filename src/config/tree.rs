//! Reads a TOML tree key by key and collects every mistake with its place.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use toml::de::{DeTable, DeValue};

use crate::config::report::{Report, Severity, Span};

/// Where the values stand in the text, by path: `dns.listen[0]`, `upstream[1].ca`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Places(BTreeMap<String, Span>);

impl Places {
    /// The place of a value; that of the innermost table or list around it where it is a default.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<Span> {
        let mut path = path;
        loop {
            if let Some(span) = self.0.get(path) {
                return Some(span.clone());
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

/// Why a text is not the value that a key wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) remedy: String,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

/// What is gathered on the way through the tree.
#[derive(Debug)]
pub(super) struct Notes {
    pub(super) report: Report,
    pub(super) places: Places,
    /// The text is no TOML in places: a key that is missing may merely be unreadable.
    pub(super) torn: bool,
}

impl Notes {
    /// Whether a mistake was found in the value at `path`, so that its default stands in for it.
    pub(super) fn blames(&self, path: &str) -> bool {
        let within = |value: &Span, span: &Span| span.start >= value.start && span.end <= value.end;
        self.places.0.get(path).is_some_and(|value| {
            self.report.problems().iter().any(|problem| {
                let at = problem.span.as_ref();
                problem.severity == Severity::Error && at.is_some_and(|span| within(value, span))
            })
        })
    }
}

/// One table of the tree. Whatever key is asked for is a known one; the rest are mistakes.
pub(super) struct Table<'r, 't> {
    notes: &'r mut Notes,
    entries: &'t DeTable<'t>,
    path: String,
    asked: Vec<&'static str>,
    /// Required keys that are absent, each with an example.
    missing: Vec<(&'static str, String)>,
}

impl<'t> Table<'_, 't> {
    /// Reads the whole document with `read`, then reports the keys it did not ask for.
    pub(super) fn root<T>(
        notes: &mut Notes,
        entries: &'t DeTable<'t>,
        read: impl FnOnce(&mut Table<'_, 't>) -> T,
    ) -> T {
        Table { notes, entries, path: String::new(), asked: Vec::new(), missing: Vec::new() }
            .read(read)
    }

    /// Reads `[key]` with `read`; an absent table reads as an empty one.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Table<'_, '_>) -> T,
    ) -> T {
        let empty = DeTable::new();
        let entries = self.entries(key).unwrap_or(&empty);
        let path = self.path_of(key);
        Table { notes: self.notes, entries, path, asked: Vec::new(), missing: Vec::new() }
            .read(read)
    }

    /// Reads `[key]` with `read` if there is such a table.
    pub(super) fn table_if_any<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Table<'_, '_>) -> T,
    ) -> Option<T> {
        let entries = self.entries(key)?;
        let path = self.path_of(key);
        let table =
            Table { notes: self.notes, entries, path, asked: Vec::new(), missing: Vec::new() };
        Some(table.read(read))
    }

    /// Reads each `[[key]]` with `read`. An entry that gives `None` is left out.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Table<'_, '_>) -> Option<T>,
    ) -> Vec<T> {
        let path = self.path_of(key);
        let remedy = format!("write [[{path}]] above the keys of each");
        let entries = match self.value(key) {
            None => return Vec::new(),
            Some((DeValue::Array(entries), _)) => entries,
            Some((other, span)) => {
                let message = format!("`{path}` is {}, not a list of tables", kind(other));
                self.notes.report.error(Some(span), message, &remedy);
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for entry in entries {
            let DeValue::Table(table) = entry.get_ref() else {
                let message = format!("`{path}` holds {}, not a table", kind(entry.get_ref()));
                self.notes.report.error(Some(entry.span()), message, &remedy);
                continue;
            };
            let path = format!("{path}[{}]", found.len());
            self.notes.places.0.insert(path.clone(), entry.span());
            let place = path.clone();
            let entry = Table {
                notes: self.notes,
                entries: table,
                path,
                asked: Vec::new(),
                missing: Vec::new(),
            };
            match entry.read(&mut read) {
                Some(entry) => found.push(entry),
                None => self.notes.places.0.retain(|path, _| !path.starts_with(&place)),
            }
        }
        found
    }

    /// A text, made a value by `parse`.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let (value, span) = self.value(key)?;
        self.parse(key, value, span, parse)
    }

    /// A text that has no default.
    pub(super) fn required_text<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.require(key, example);
        self.text(key, parse)
    }

    /// A list of texts, each made a value by `parse`. Those that fail are left out.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        mut parse: impl FnMut(&str) -> Result<T, Wrong>,
    ) -> Option<Vec<T>> {
        let (value, span) = self.value(key)?;
        let DeValue::Array(items) = value else {
            self.wrong_kind(key, span, "a list of strings", "[\"..\", \"..\"]", value);
            return None;
        };
        let path = self.path_of(key);
        let mut found = Vec::new();
        for item in items {
            if let Some(one) = self.parse(key, item.get_ref(), item.span(), &mut parse) {
                self.notes.places.0.insert(format!("{path}[{}]", found.len()), item.span());
                found.push(one);
            }
        }
        Some(found)
    }

    /// A list of texts that has no default and may not be empty.
    pub(super) fn required_texts<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl FnMut(&str) -> Result<T, Wrong>,
    ) -> Option<Vec<T>> {
        self.require(key, example);
        if let Some((DeValue::Array(items), span)) = self.value(key)
            && items.is_empty()
        {
            let message = format!("`{key}` is empty");
            self.notes.report.error(Some(span), message, &format!("write {example}"));
            return None;
        }
        self.texts(key, parse)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        self.text(key, |text| {
            if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
                return Ok(*value);
            }
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            Err(Wrong::new(
                format!("`{text}` is no value of `{key}`"),
                suggest(text, &known, &format!("write one of: {}", known.join(", "))),
            ))
        })
    }

    /// A whole number within `range`.
    pub(super) fn number(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let (value, span) = self.value(key)?;
        let DeValue::Integer(number) = value else {
            let example = format!("{key} = {}", range.start());
            self.wrong_kind(key, span, "a whole number", &example, value);
            return None;
        };
        let number = i128::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number));
        if number.is_none() {
            let message = format!("`{}` is out of range", self.path_of(key));
            let remedy = format!("write a number from {} to {}", range.start(), range.end());
            self.notes.report.error(Some(span), message, &remedy);
        }
        number
    }

    /// A whole number within `range`, which reaches below zero.
    pub(super) fn signed(&mut self, key: &'static str, range: RangeInclusive<i32>) -> Option<i32> {
        let (value, span) = self.value(key)?;
        let DeValue::Integer(number) = value else {
            self.wrong_kind(key, span, "a whole number", &format!("{key} = -5"), value);
            return None;
        };
        let number = i32::from_str_radix(number.as_str(), number.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let message = format!("`{}` is out of range", self.path_of(key));
            let remedy = format!("write a number from {} to {}", range.start(), range.end());
            self.notes.report.error(Some(span), message, &remedy);
        }
        number
    }

    /// A port of UDP or TCP.
    pub(super) fn port(&mut self, key: &'static str) -> Option<u16> {
        self.number(key, 1..=u16::MAX.into()).and_then(|port| u16::try_from(port).ok())
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let (value, span) = self.value(key)?;
        let DeValue::Boolean(value) = value else {
            self.wrong_kind(key, span, "true or false", &format!("{key} = true"), value);
            return None;
        };
        Some(*value)
    }

    /// Whether the table holds `key`, fit or not.
    pub(super) fn holds(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether the table does not hold `key`, and the text is whole: it is not merely unreadable.
    pub(super) fn lacks(&self, key: &str) -> bool {
        !self.holds(key) && !self.notes.torn
    }

    /// Whether a mistake was found in the value of `key`.
    pub(super) fn blames(&self, key: &str) -> bool {
        self.notes.blames(&self.path_of(key))
    }

    /// Reports a mistake at the value of `key`, or at the table if it is absent.
    pub(super) fn error(&mut self, key: &str, message: impl Into<String>, remedy: &str) {
        let span = self.notes.places.at(&self.path_of(key));
        self.notes.report.error(span, message, remedy);
    }

    /// Reports a doubt at the value of `key`, or at the table if it is absent.
    pub(super) fn warn(&mut self, key: &str, message: impl Into<String>, remedy: &str) {
        let span = self.notes.places.at(&self.path_of(key));
        self.notes.report.warn(span, message, remedy);
    }

    /// The entries of `[key]`.
    fn entries(&mut self, key: &'static str) -> Option<&'t DeTable<'t>> {
        match self.value(key)? {
            (DeValue::Table(entries), _) => Some(entries),
            (other, span) => {
                let path = self.path_of(key);
                let message = format!("`{path}` is {}, not a table", kind(other));
                let remedy = format!("write [{path}] once, and its keys on the lines below");
                self.notes.report.error(Some(span), message, &remedy);
                None
            }
        }
    }

    /// The value of `key` and its place.
    fn value(&mut self, key: &'static str) -> Option<(&'t DeValue<'t>, Span)> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        let value = self.entries.get(key)?;
        self.notes.places.0.insert(self.path_of(key), value.span());
        Some((value.get_ref(), value.span()))
    }

    fn parse<T>(
        &mut self,
        key: &'static str,
        value: &DeValue<'_>,
        span: Span,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let DeValue::String(text) = value else {
            self.wrong_kind(key, span, "a string", "it in double quotes", value);
            return None;
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.notes.report.error(Some(span), wrong.message, &wrong.remedy);
                None
            }
        }
    }

    fn require(&mut self, key: &'static str, example: &str) {
        if self.lacks(key) {
            self.missing.push((key, example.to_owned()));
        }
    }

    fn wrong_kind(&mut self, key: &str, span: Span, want: &str, write: &str, got: &DeValue<'_>) {
        let message = format!("`{key}` is {}, not {want}", kind(got));
        self.notes.report.error(Some(span), message, &format!("write {write}"));
    }

    fn read<T>(mut self, read: impl FnOnce(&mut Table<'_, 't>) -> T) -> T {
        let value = read(&mut self);
        for (key, _) in self.entries {
            let name = key.get_ref().as_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let message = match self.name() {
                "" => format!("unknown key `{name}`"),
                table => format!("unknown key `{name}` in `{table}`"),
            };
            let known = format!("the keys here are: {}", self.asked.join(", "));
            let remedy = suggest(name, &self.asked, &known);
            self.notes.report.error(Some(key.span()), message, &remedy);
            // What is merely misspelt is not missing besides.
            self.missing.retain(|(key, _)| nearest(name, &self.asked) != Some(*key));
        }
        for (key, example) in std::mem::take(&mut self.missing) {
            let message = format!("`{}` without `{key}`", self.name());
            self.error(key, message, &format!("add {example}"));
        }
        value
    }

    /// The table's path without its index.
    fn name(&self) -> &str {
        self.path
            .strip_suffix(']')
            .and_then(|path| path.rsplit_once('['))
            .map_or(&self.path, |x| x.0)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// The kind of a value, with its article.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// `did you mean ..?` if a known word is near, else `otherwise`.
pub(super) fn suggest(word: &str, known: &[&'static str], otherwise: &str) -> String {
    nearest(word, known)
        .map_or_else(|| otherwise.to_owned(), |candidate| format!("did you mean `{candidate}`?"))
}

/// The known word that `word` may be a misspelling of.
fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    known
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance between two words; long words are simply far apart.
fn distance(a: &str, b: &str) -> usize {
    const LONG: usize = 64;
    if a.len() > LONG {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_named() {
        let keys = ["listen", "plaintext", "max_ttl"];

        assert_eq!(suggest("listn", &keys, "-"), "did you mean `listen`?");
        assert_eq!(suggest("max-ttl", &keys, "-"), "did you mean `max_ttl`?");
        assert_eq!(suggest("colour", &keys, "-"), "-");
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }

    #[test]
    fn a_default_stands_where_its_table_stands() {
        let places = Places([("dns".to_owned(), 0..5)].into());

        assert_eq!(places.at("dns.listen[0]"), Some(0..5));
        assert_eq!(places.at("ntp.listen"), None);
    }
}
