//! The floor plan of `src/`: who may import whom, and where clocks, sockets and files may be touched.
//!
//! `docs/architecture.md` draws it; this holds it.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::fs;
use std::path::{Path, PathBuf};

/// The pure modules: no sockets, no files, no clock, no tasks.
const PURE: &[&str] = &[
    "cache", "cert", "clock", "config", "drill", "filter", "health", "metered", "names", "node",
    "upstream", "wire",
];

/// The leaves, which `node` joins and every edge may use.
const LEAVES: &[&str] = &[
    "cache", "cert", "clock", "config", "filter", "health", "metered", "names", "node", "upstream",
    "wire",
];

/// A module and what it may import of ours; edges may import [`LEAVES`] besides.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // Pure.
    ("wire", &[]),
    ("clock", &[]),
    ("health", &[]),
    ("metered", &[]),
    ("upstream", &["clock"]),
    ("cert", &["clock", "health"]),
    ("cache", &["wire"]),
    ("filter", &["wire"]),
    ("names", &["wire"]),
    ("config", &["cert", "clock", "health", "names", "upstream", "wire"]),
    ("node", &["cache", "cert", "clock", "filter", "health", "names", "upstream", "wire"]),
    ("drill", &["clock", "health", "node", "upstream"]),
    // Edges. `net` holds the sockets that dns and ntp both serve on.
    ("net", &[]),
    ("host", &[]),
    ("tls", &[]),
    ("dns", &["net", "tls"]),
    ("ntp", &["net", "tls"]),
    ("witness", &["net", "tls"]),
    ("fetch", &["net", "tls"]),
    ("acme", &["fetch", "net", "tls"]),
    ("admin", &["fetch", "net", "tls"]),
    // `lab` is the small world of `firstlight try`.
    ("lab", &["dns", "net", "ntp", "tls"]),
    ("app", &["acme", "admin", "dns", "fetch", "host", "net", "ntp", "tls", "witness"]),
    ("cli", &["acme", "admin", "app", "dns", "drill", "host", "lab", "ntp", "tls"]),
    ("main", &["cli"]),
];

/// Words that would make a pure module impure.
const IMPURE: &[&str] = &[
    "tokio",
    "std::net::Udp",
    "std::net::Tcp",
    "std::fs",
    "File::",
    "::now()",
    ".elapsed()",
    "async fn",
    ".await",
    "std::thread",
    "std::env",
];

#[test]
fn modules_import_only_what_the_floor_plan_allows() {
    for (module, file, text) in sources() {
        let (_, extra) = MAY_IMPORT
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{}: `{module}` is not in the floor plan", file.display()));
        let pure = PURE.contains(&module.as_str());
        for (number, line) in text.lines().enumerate() {
            for part in line.split("crate::").skip(1) {
                let target: String =
                    part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                let allowed = target == module
                    || extra.contains(&target.as_str())
                    || (!pure && LEAVES.contains(&target.as_str()));
                assert!(
                    allowed,
                    "{}:{}: `{module}` may not import `{target}`",
                    file.display(),
                    number + 1
                );
            }
            assert!(
                !line.contains("super::super::"),
                "{}:{}: write the path from `crate::`",
                file.display(),
                number + 1
            );
        }
    }
}

#[test]
fn pure_modules_do_no_io_and_read_no_clock() {
    for (module, file, text) in sources() {
        if !PURE.contains(&module.as_str()) || file.ends_with("tests.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for word in IMPURE {
                assert!(
                    !line.contains(word),
                    "{}:{}: `{word}` in the pure module `{module}`",
                    file.display(),
                    number + 1
                );
            }
        }
    }
}

/// Rule R is for upstream DNS, witnesses and NTS key exchange alone (architecture, invariant 4).
#[test]
fn only_upstreams_witnesses_and_time_may_relax_certificate_dates() {
    const MAY_NAME_RULE_R: &[&str] =
        &["clock", "dns", "drill", "node", "ntp", "tls", "witness", "app", "admin"];
    for (module, file, text) in sources() {
        if MAY_NAME_RULE_R.contains(&module.as_str()) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            assert!(
                !line.contains("RuleR"),
                "{}:{}: `{module}` may not relax certificate dates",
                file.display(),
                number + 1
            );
        }
    }
}

/// Module (first path component), path and text of every source file but `lib.rs`.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inner = path.strip_prefix(&root).unwrap();
            let module = inner.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
            if module != "lib" {
                let text = fs::read_to_string(&path).unwrap();
                found.push((module.to_owned(), path, text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 5, "no sources found");
    found
}
