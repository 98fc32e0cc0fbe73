//! Files that hold a secret.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

/// Octets of such a file at most.
const FILE_MAX: u64 = 64 * 1024;

/// The text in `file`. What is said about one that cannot be used never quotes it.
///
/// # Errors
///
/// It cannot be read, is no file, holds more than 64 KiB, or no text.
pub fn secret(file: &Path) -> io::Result<String> {
    // Opening a pipe would wait for somebody to write it.
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("this is no file"));
    }
    let mut octets = Vec::new();
    File::open(file)?.take(FILE_MAX + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > FILE_MAX {
        return Err(io::Error::other("longer than 64 KiB"));
    }
    String::from_utf8(octets).map_err(|_| io::Error::other("this is no text"))
}
