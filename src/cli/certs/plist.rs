//! Property lists as XML, as far as a configuration profile needs them.

use std::fmt::{self, Write};

use data_encoding::BASE64;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Array(Vec<Value>),
    Data(Vec<u8>),
    Dictionary(Vec<(&'static str, Value)>),
    Integer(u32),
    Text(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A value as a document of its own.
#[derive(Debug)]
pub(super) struct Document<'v>(pub(super) &'v Value);

impl fmt::Display for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        write(f, self.0, 0)?;
        f.write_str("</plist>\n")
    }
}

const HEAD: &str = "\
<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">
<plist version=\"1.0\">
";

fn write(f: &mut fmt::Formatter<'_>, value: &Value, depth: usize) -> fmt::Result {
    let margin = "  ".repeat(depth);
    match value {
        Value::Array(items) => {
            writeln!(f, "{margin}<array>")?;
            for item in items {
                write(f, item, depth + 1)?;
            }
            writeln!(f, "{margin}</array>")
        }
        Value::Data(octets) => writeln!(f, "{margin}<data>{}</data>", BASE64.encode(octets)),
        Value::Dictionary(entries) => {
            writeln!(f, "{margin}<dict>")?;
            for (key, value) in entries {
                writeln!(f, "{margin}  <key>{key}</key>")?;
                write(f, value, depth + 1)?;
            }
            writeln!(f, "{margin}</dict>")
        }
        Value::Integer(number) => writeln!(f, "{margin}<integer>{number}</integer>"),
        Value::Text(text) => writeln!(f, "{margin}<string>{}</string>", Escaped(text)),
    }
}

/// Text that neither ends its element nor breaks the document.
struct Escaped<'t>(&'t str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                // XML 1.0 has no way to write these (section 2.2).
                '\u{fffe}' | '\u{ffff}' => f.write_char('\u{fffd}')?,
                c if c.is_control() && c != '\n' && c != '\t' => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_within_its_element() {
        let value = Value::Array(vec!["a</string>&\u{1}\"é".into(), Value::Integer(1)]);

        let text = Document(&value).to_string();

        let body = text.strip_prefix(HEAD).unwrap();
        assert_eq!(
            body,
            "<array>\n  <string>a&lt;/string&gt;&amp;\u{fffd}\"é</string>\n  \
             <integer>1</integer>\n</array>\n</plist>\n"
        );
    }
}
