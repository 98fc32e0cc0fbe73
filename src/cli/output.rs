//! What the commands print.

use std::fmt::Display;
use std::io::{self, Write};

use crate::cli::exit::Failure;

/// Prints the result of a command. A reader who has gone away does not matter.
///
/// # Errors
///
/// If it cannot be written, because a disk is full, say.
pub(super) fn print(text: impl Display) -> Result<(), Failure> {
    match write_to(io::stdout(), text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes octets as they are, for another program. A reader who has gone away does not matter.
///
/// # Errors
///
/// As [`print()`].
pub(super) fn octets(octets: &[u8]) -> Result<(), Failure> {
    let mut to = io::stdout();
    match to.write_all(octets).and_then(|()| to.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Says something beside the result, on standard error.
pub(super) fn note(text: impl Display) {
    // There is nowhere left to say that it could not be said.
    drop(write_to(io::stderr(), text));
}

fn write_to(mut to: impl Write, text: impl Display) -> io::Result<()> {
    let text = plain(&text.to_string());
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    to.write_all(format!("{text}{end}").as_bytes())?;
    to.flush()
}

/// Some words come from the network: they shall not drive the terminal.
fn plain(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_its_line_and_does_not_drive_the_terminal() {
        let mut written = Vec::new();

        write_to(&mut written, "up\u{1b}[2J\nd\u{9b}own").unwrap();
        write_to(&mut written, "").unwrap();

        assert_eq!(String::from_utf8(written).unwrap(), "up\u{fffd}[2J\nd\u{fffd}own\n");
    }
}
