//! The secrets that the configuration names files for: keys, and accounts of acme-dns.
//!
//! What is said about a file that cannot be used never quotes it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, BASE64URL_NOPAD, DecodeError};
use serde::Deserialize;
use serde_json::error::Category;

use super::{AcmeDnsAccount, Binding};
use crate::config::AcmeBinding;
use crate::fetch::secret;

/// Bits of a file's mode by which others than its owner and its group can get at it, or the group
/// can write it.
const OTHERS: u32 = 0o037;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{}: {reason}", file.display())]
    Form {
        /// The file.
        file: PathBuf,
        /// What is wrong, without a word of what it holds.
        reason: String,
    },
}

/// The key of `[acme.update]` in `file`, which holds it in base64 (RFC 4648 section 4) and nothing
/// else, as BIND and knot write it behind `secret`.
///
/// # Errors
///
/// If the file cannot be read, or holds something else.
pub fn tsig_key(file: &Path) -> Result<Vec<u8>, SecretError> {
    let text = read(file)?;
    let key = BASE64.decode(text.trim().as_bytes());
    decoded(file, key, "a key in base64 alone, as it stands behind `secret` at the server")
}

/// What `[[acme.ca]]` says about an external account (RFC 8555 section 7.3.4), with the key from
/// its file: base64url (RFC 4648 section 5), padded or not.
///
/// # Errors
///
/// If the file cannot be read, or holds something else.
pub fn binding(given: &AcmeBinding) -> Result<Binding, SecretError> {
    let text = read(&given.key)?;
    let key = BASE64URL_NOPAD.decode(text.trim().trim_end_matches('=').as_bytes());
    let key = decoded(&given.key, key, "a key in base64url alone, as the CA gives it out")?;
    Ok(Binding { kid: given.kid.clone(), key })
}

/// The accounts of `[acme.acme_dns]` in `file`: a JSON object with what acme-dns gave out for each
/// domain, as lego and others keep it. A domain may stand there as `*.` or `_acme-challenge.`
/// before it have it, and in any letter case; it is given without these and in lower case.
///
/// # Errors
///
/// If the file cannot be read, holds something else, or two accounts for one domain.
pub fn acme_dns_accounts(file: &Path) -> Result<Vec<AcmeDnsAccount>, SecretError> {
    #[derive(Deserialize)]
    struct Entry {
        subdomain: String,
        username: String,
        password: String,
    }
    let unfit = |reason: String| SecretError::Form { file: file.to_owned(), reason };
    let text = read(file)?;
    let entries: BTreeMap<String, Entry> = serde_json::from_str(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        // Its own words would quote what it met.
        unfit(match error.classify() {
            Category::Data => format!(
                "line {line}, column {column}: for each domain there must be an object with \
                 `subdomain`, `username` and `password`, as acme-dns gives it out"
            ),
            Category::Eof | Category::Io | Category::Syntax => {
                format!("line {line}, column {column}: this is no JSON")
            }
        })
    })?;
    let mut accounts: Vec<AcmeDnsAccount> = Vec::new();
    for (key, Entry { subdomain, username, password }) in entries {
        let domain = key.trim_end_matches('.').to_ascii_lowercase();
        let domain = domain.strip_prefix("_acme-challenge.").unwrap_or(&domain);
        let domain = domain.strip_prefix("*.").unwrap_or(domain).to_owned();
        if accounts.iter().any(|known| known.domain == domain) {
            return Err(unfit(format!("two accounts for {domain}; one serves its wildcard, too")));
        }
        accounts.push(AcmeDnsAccount { domain, subdomain, username, password });
    }
    Ok(accounts)
}

/// What is to be said if others than the owner of a secret `file`, and those of its group, can read
/// it, or others than its owner can write it; `None` if it is kept well, or cannot be looked at.
#[must_use]
pub fn exposure(file: &Path) -> Option<String> {
    let mode = fs::metadata(file).ok()?.mode() & 0o7777;
    (mode & OTHERS != 0).then(|| {
        format!("{}: others can get at it (mode {mode:04o}); run: chmod 600", file.display())
    })
}

fn read(file: &Path) -> Result<String, SecretError> {
    secret(file).map_err(|source| SecretError::Read { file: file.to_owned(), source })
}

/// The octets of `key`, of which there must be some; `want` says what the file should hold.
fn decoded(
    file: &Path,
    key: Result<Vec<u8>, DecodeError>,
    want: &str,
) -> Result<Vec<u8>, SecretError> {
    let unfit =
        |what: &str| SecretError::Form { file: file.to_owned(), reason: format!("{what} {want}") };
    match key {
        Ok(key) if key.is_empty() => Err(unfit("it is empty, and should hold")),
        Ok(key) => Ok(key),
        Err(_) => Err(unfit("it does not hold")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn keys_are_read_with_white_space_around_them() {
        let folder = Folder::fresh();

        assert_eq!(tsig_key(&folder.write("tsig", " c2VjcmV0IQ==\r\n")).unwrap(), b"secret!");
        for text in ["-_8\n", "\t-_8=\n\n"] {
            let key = folder.write("eab", text);
            let given = AcmeBinding { kid: "kid-1".to_owned(), key };
            let Binding { kid, key } = binding(&given).unwrap();
            assert_eq!((kid.as_str(), key.as_slice()), ("kid-1", &[0xfb, 0xff][..]));
        }
    }

    #[test]
    fn what_is_no_key_is_told_with_its_file_and_never_quoted() {
        let folder = Folder::fresh();
        let told = |text: &str| {
            let file = folder.write("tsig.key", text);
            let told = tsig_key(&file).unwrap_err().to_string();
            assert!(told.starts_with(&file.display().to_string()), "{told}");
            told
        };

        assert!(told("\n").contains("it is empty, and should hold a key in base64 alone"));
        let whole = told("key \"k\" { algorithm hmac-sha256; secret \"c2VjcmV0IQ==\"; };");
        assert!(
            whole.contains("it does not hold a key in base64 alone, as it stands behind `secret`"),
            "{whole}"
        );
        assert!(!whole.contains("c2Vj"), "{whole}");
        // The other alphabet.
        assert!(told("-_8=").contains("does not hold"));
        let given = AcmeBinding { kid: String::new(), key: folder.write("eab.key", "+/8") };
        let told = binding(&given).unwrap_err().to_string();
        assert!(told.contains("eab.key: it does not hold a key in base64url"), "{told}");
    }

    #[test]
    fn files_that_are_absent_endless_or_no_text_are_refused() {
        let folder = Folder::fresh();
        let pipe = folder.0.join("pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let long = folder.write("long", "A".repeat(65_537));
        let fits = folder.write("fits", "A".repeat(65_536));
        let octets = folder.write("octets", b"\xff\xfe");

        for (file, reason) in [
            (folder.0.join("absent"), "No such file"),
            (folder.0.clone(), "this is no file"),
            (pipe, "this is no file"),
            ("/dev/zero".into(), "this is no file"),
            (long, "longer than 64 KiB"),
            (octets, "this is no text"),
        ] {
            let told = tsig_key(&file).unwrap_err().to_string();
            assert!(told.contains(reason), "{told}");
            assert!(told.contains(&file.display().to_string()), "{told}");
        }
        assert_eq!(tsig_key(&fits).unwrap().len(), 49_152);
    }

    #[test]
    fn accounts_of_acme_dns_are_found_by_their_domain() {
        let folder = Folder::fresh();
        let file = folder.write(
            "accounts.json",
            r#"{"Example.org": {"fulldomain": "d1.auth.example.net", "subdomain": "d1", "username": "u1",
                "password": "p1", "server_url": "https://auth.example.net", "allowfrom": []},
                "_acme-challenge.a.example.org.": {"subdomain": "d2", "username": "u2", "password": "p2"},
                "*.b.example.org": {"subdomain": "d3", "username": "u3", "password": "p3"}}
            "#,
        );

        let accounts = acme_dns_accounts(&file).unwrap();

        let texts =
            accounts.iter().map(|it| [&*it.domain, &*it.subdomain, &*it.username, &*it.password]);
        let mut found: Vec<_> = texts.collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                ["a.example.org", "d2", "u2", "p2"],
                ["b.example.org", "d3", "u3", "p3"],
                ["example.org", "d1", "u1", "p1"],
            ]
        );
        assert!(acme_dns_accounts(&folder.write("none.json", "{}")).unwrap().is_empty());
    }

    #[test]
    fn files_of_accounts_that_are_none_are_told_with_the_line_and_never_quoted() {
        let folder = Folder::fresh();
        let told = |text: &str| {
            let file = folder.write("accounts.json", text);
            let told = acme_dns_accounts(&file).unwrap_err().to_string();
            assert!(told.starts_with(&file.display().to_string()), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
            told
        };

        assert!(told("{\n\"hunter2").contains("line 2, column 8: this is no JSON"));
        assert!(told("").contains("this is no JSON"));
        assert!(told("{\"a.example\": \"hunter2\"}").contains("for each domain"));
        assert!(told("[\"hunter2\"]").contains("for each domain"));
        assert!(told(r#"{"a.example": {"password": "hunter2"}}"#).contains("`subdomain`"));
        let account = r#"{"subdomain": "d", "username": "u", "password": "hunter2"}"#;
        let twice = format!("{{\"a.example\": {account}, \"*.A.example\": {account}}}");
        assert!(told(&twice).contains("two accounts for a.example"));
    }

    #[test]
    fn a_secret_may_be_read_by_its_owner_and_its_group() {
        let folder = Folder::fresh();
        let file = folder.write("key", "");
        let of = |mode| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            exposure(&file)
        };

        for kept in [0o400, 0o600, 0o640, 0o440, 0o700] {
            assert_eq!(of(kept), None, "{kept:o}");
        }
        for exposed in [0o644, 0o660, 0o604, 0o602, 0o610] {
            let told = of(exposed).unwrap();
            assert!(told.contains(&format!("(mode {exposed:04o})")), "{told}");
        }
        assert_eq!(exposure(&folder.0.join("absent")), None);
    }

    /// A folder below the system's temporary one, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn fresh() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("firstlight-secrets-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, content).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }
}
