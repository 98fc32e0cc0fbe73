//! A list of mistakes with their places, written the way rustc writes its own.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where something stands in the text: octets from the start.
pub type Span = Range<usize>;

/// Everything that was found in one configuration, in the order of the text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    file: PathBuf,
    text: String,
    problems: Vec<Problem>,
}

/// One finding: what is wrong, where, and what to do about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Whether the configuration can be used all the same.
    pub severity: Severity,
    /// The offending piece of text; `None`: the file as a whole.
    pub span: Option<Span>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Whether a configuration with this problem can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Severity {
    /// It cannot be used.
    Error,
    /// It can, at a cost.
    Warning,
}

impl Report {
    /// An empty report about `text`, which came from `file`.
    #[must_use]
    pub fn new(file: &Path, text: &str) -> Self {
        Self { file: file.to_owned(), text: text.to_owned(), problems: Vec::new() }
    }

    /// Adds a mistake that makes the configuration unusable.
    pub fn error(&mut self, span: Option<Span>, message: impl Into<String>, remedy: &str) {
        self.add(Severity::Error, span, message.into(), remedy);
    }

    /// Adds something that may be right elsewhere, or costs something.
    pub fn warn(&mut self, span: Option<Span>, message: impl Into<String>, remedy: &str) {
        self.add(Severity::Warning, span, message.into(), remedy);
    }

    /// How many problems make the configuration unusable.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many problems merely cost something.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    /// The problems, in the order of the text.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The file the text came from.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The text itself.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Line and column of a span's start; both count from 1, columns in characters.
    #[must_use]
    pub fn position(&self, span: &Span) -> (usize, usize) {
        let (number, start, _) = self.line(span.start);
        (number, self.slice(start, span.start).chars().count() + 1)
    }

    /// Takes over what another report about the same text found.
    pub(super) fn append(&mut self, other: Self) {
        for problem in other.problems {
            self.add(problem.severity, problem.span, problem.message, &problem.remedy);
        }
    }

    /// Drops what was found on some lines.
    pub(super) fn leave_out_lines(&mut self, lines: &[usize]) {
        let mut problems = std::mem::take(&mut self.problems);
        problems.retain(|problem| {
            let line = problem.span.as_ref().map(|span| self.position(span).0);
            line.is_none_or(|line| !lines.contains(&line))
        });
        self.problems = problems;
    }

    fn add(&mut self, severity: Severity, span: Option<Span>, message: String, remedy: &str) {
        let start = |span: &Option<Span>| span.as_ref().map_or(0, |span| span.start);
        let at = self.problems.partition_point(|known| start(&known.span) <= start(&span));
        self.problems.insert(at, Problem { severity, span, message, remedy: remedy.to_owned() });
    }

    fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|problem| problem.severity == severity).count()
    }

    /// Number, start and text of the line that holds octet `at`.
    fn line(&self, at: usize) -> (usize, usize, &str) {
        let before = self.slice(0, at);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let number = before.matches('\n').count() + 1;
        let line = self.slice(start, self.text.len()).lines().next().unwrap_or_default();
        (number, start, line)
    }

    /// The text between two octets, each moved back to the start of its character.
    fn slice(&self, from: usize, to: usize) -> &str {
        let floor = |mut at: usize| {
            at = at.min(self.text.len());
            while !self.text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        self.text.get(floor(from)..floor(to)).unwrap_or_default()
    }
}

impl std::error::Error for Report {}

/// `error: MESSAGE`, ` --> FILE:LINE:COLUMN`, the line with a mark under the place, the remedy.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{}: {}", problem.severity, problem.message)?;
            let Some(span) = &problem.span else {
                writeln!(f, "  --> {}", self.file.display())?;
                writeln!(f, "   = help: {}", problem.remedy)?;
                continue;
            };
            let (number, start, line) = self.line(span.start);
            let (_, column) = self.position(span);
            let end = span.end.min(start + line.len());
            let marks = self.slice(span.start, end.max(span.start)).chars().count().max(1);
            // A tab or control character takes one column, so that the marks stay below their text.
            let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let margin = number.to_string().len().max(2);
            writeln!(f, "  --> {}:{number}:{column}", self.file.display())?;
            writeln!(f, "{number:>margin$} | {}", line.trim_end())?;
            writeln!(f, "{:margin$} | {:indent$}{:^<marks$}", "", "", "", indent = column - 1)?;
            writeln!(f, "{:margin$} = help: {}", "", problem.remedy)?;
        }
        Ok(())
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_marks_stand_below_the_place() {
        let text = "a = 1\nb = \"é\" # x\n";
        let mut report = Report::new(Path::new("f.toml"), text);
        report.error(Some(10..14), "no é here", "write e");

        assert_eq!(report.position(&(15..16)), (2, 9));
        assert_eq!(
            report.to_string(),
            "error: no é here\n  --> f.toml:2:5\n 2 | b = \"é\" # x\n   |     ^^^\n   = help: write e\n"
        );
    }

    #[test]
    fn problems_come_in_the_order_of_the_text() {
        let mut report = Report::new(Path::new("f"), "abc");
        report.warn(Some(2..3), "third", "");
        report.error(Some(1..2), "second", "");
        report.warn(None, "first", "");

        let order: Vec<_> = report.problems().iter().map(|p| p.message.as_str()).collect();
        assert_eq!(order, ["first", "second", "third"]);
        assert_eq!((report.errors(), report.warnings()), (1, 2));
    }

    #[test]
    fn spans_outside_the_text_or_inside_a_character_do_no_harm() {
        let mut report = Report::new(Path::new("f"), "é");
        report.error(Some(1..1), "inside", "");
        report.error(Some(90..95), "outside", "");

        assert!(report.to_string().contains("f:1:1"));
    }
}
