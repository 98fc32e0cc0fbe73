//! `[[notify]]`: who is told of conditions.

use std::path::PathBuf;
use std::time::Duration;

use super::tree::{Table, Wrong};
use super::value;
use crate::health::Severity;

/// `[[notify]]`: somebody who is told of conditions, or that this machine lives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notify {
    /// In which words.
    pub kind: NotifyKind,
    /// Where, over HTTPS.
    pub url: String,
    /// A file with what shows that it is us.
    pub token: Option<PathBuf>,
    /// A PEM file of further roots for the server.
    pub ca: Option<PathBuf>,
}

/// How somebody is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotifyKind {
    /// By Gotify.
    Gotify(Severity),
    /// By ntfy; the URL is the topic's.
    Ntfy(Severity),
    /// By a request again and again, whose absence says that this machine is dead.
    Ping(Duration),
    /// By JSON.
    Webhook(Severity),
}

pub(super) fn read(
    table: &mut Table<'_, '_>,
    file: impl Copy + Fn(&str) -> Result<PathBuf, Wrong>,
) -> Option<Notify> {
    let kinds = [("gotify", 0), ("ntfy", 1), ("ping", 2), ("webhook", 3)];
    if table.lacks("kind") {
        table.error(
            "kind",
            "`notify` without `kind`",
            "add kind = \"ntfy\", or \"gotify\", \"webhook\", \"ping\"",
        );
    }
    let kind = table.choice("kind", &kinds);
    let url = table.required_text("url", "url = \"https://ntfy.example.org/topic\"", value::https);
    let token = table.text("token_file", file);
    let ca = table.text("ca", file);
    let severities =
        [("notice", Severity::Notice), ("warning", Severity::Warning), ("error", Severity::Error)];
    let least = table.choice("least", &severities);
    let every = table.number("every", 10..=86_400);
    let misplaced = match kind {
        Some(2) => ("least", "a ping tells of no condition"),
        _ => ("every", "only a ping comes again and again"),
    };
    if kind.is_some() && table.holds(misplaced.0) {
        let remedy = format!("leave `{}` out, or give another `kind`", misplaced.0);
        table.error(misplaced.0, misplaced.1, &remedy);
    }
    let least = least.unwrap_or(Severity::Warning);
    let kind = match kind? {
        0 => NotifyKind::Gotify(least),
        1 => NotifyKind::Ntfy(least),
        2 => NotifyKind::Ping(Duration::from_secs(every.unwrap_or(60).into())),
        _ => NotifyKind::Webhook(least),
    };
    if matches!(kind, NotifyKind::Gotify(_)) && token.is_none() {
        let remedy = "add token_file = \"..\" with the token of an application";
        table.error("kind", "Gotify takes no message without a token", remedy);
    }
    Some(Notify { kind, url: url?, token, ca })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn each_kind_has_its_keys() {
        let text = "
            [[notify]]
            kind = \"ntfy\"
            url = \"https://ntfy.example.org/home\"
            [[notify]]
            kind = \"gotify\"
            url = \"https://gotify.example.org\"
            token_file = \"token\"
            least = \"error\"
            [[notify]]
            kind = \"ping\"
            url = \"https://ping.example.org/abc\"
            every = 30
        ";
        let config = Config::parse(text, Path::new("/etc/firstlight.toml")).unwrap().config;

        let kinds: Vec<_> = config.notify.iter().map(|notify| notify.kind).collect();
        let ping = NotifyKind::Ping(Duration::from_secs(30));
        let expected =
            [NotifyKind::Ntfy(Severity::Warning), NotifyKind::Gotify(Severity::Error), ping];
        assert_eq!(kinds, expected);
        assert_eq!(config.notify[1].token.as_deref(), Some(Path::new("/etc/token")));
    }

    #[test]
    fn what_cannot_work_is_told() {
        for (keys, told) in [
            ("url = \"https://a.test/b\"", "`notify` without `kind`"),
            ("kind = \"ntfy\"", "`notify` without `url`"),
            ("kind = \"ntfy\"\nurl = \"http://a.test/b\"", "does not begin with https://"),
            ("kind = \"gotify\"\nurl = \"https://a.test\"", "without a token"),
            (
                "kind = \"ping\"\nurl = \"https://a.test\"\nleast = \"error\"",
                "tells of no condition",
            ),
            ("kind = \"ntfy\"\nurl = \"https://a.test/b\"\nevery = 60", "only a ping"),
        ] {
            let text = format!("[[notify]]\n{keys}\n");
            let report = Config::parse(&text, Path::new("x.toml")).unwrap_err();
            assert!(report.to_string().contains(told), "{keys}: {report}");
            assert_eq!(report.errors(), 1, "{keys}: {report}");
        }
    }
}
