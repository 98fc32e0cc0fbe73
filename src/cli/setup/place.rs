//! Puts the configuration in its place: the old one or the next one, whatever the moment, and the old one kept.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How many earlier files are kept beside each other.
const KEPT: u32 = 100;

/// What became of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Placed {
    /// There was none.
    Created,
    /// It held this text already.
    Unchanged,
    /// What it held is in another file.
    Replaced(PathBuf),
}

/// Lets `file` hold `text`, readable by all. What it held before is kept as `FILE.before-setup`, or with a
/// number behind that if there is such a file.
///
/// # Errors
///
/// The path at which something failed, and why. The file is then what it was.
pub(super) fn place(file: &Path, text: &str) -> Result<Placed, (PathBuf, io::Error)> {
    if holds(file, text) {
        return Ok(Placed::Unchanged);
    }
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if !folder.is_dir() {
        fs::create_dir_all(folder).map_err(at(folder))?;
        // The daemon has a user of its own, and whoever runs this may have a strict umask.
        fs::set_permissions(folder, Permissions::from_mode(0o755)).map_err(at(folder))?;
    }
    let unfinished = beside(file, ".setup-unfinished");
    let written = write(&unfinished, text).map_err(at(&unfinished)).and_then(|()| {
        let kept = keep(file)?;
        fs::rename(&unfinished, file).map_err(at(file))?;
        Ok(kept.map_or(Placed::Created, Placed::Replaced))
    });
    match &written {
        // Without this the rename itself may be lost with the power. It is made, in any case.
        Ok(_) => drop(File::open(folder).and_then(|folder| folder.sync_all())),
        Err(_) => drop(fs::remove_file(&unfinished)),
    }
    written
}

fn holds(file: &Path, text: &str) -> bool {
    let Ok(opened) = File::open(file) else { return false };
    let mut held = Vec::new();
    let limit = u64::try_from(text.len()).unwrap_or(u64::MAX).saturating_add(1);
    opened.take(limit).read_to_end(&mut held).is_ok() && held == text.as_bytes()
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    // Left behind by a run that was cut short.
    drop(fs::remove_file(path));
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Gives the file a second name, and says which; `None` if there is no file.
fn keep(file: &Path) -> Result<Option<PathBuf>, (PathBuf, io::Error)> {
    if file.symlink_metadata().is_err() {
        return Ok(None);
    }
    for number in 1..=KEPT {
        let end = if number == 1 { String::new() } else { format!(".{number}") };
        let kept = beside(file, &format!(".before-setup{end}"));
        let linked = match fs::hard_link(file, &kept) {
            // Some file systems have one name for a file.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => copy(file, &kept),
            linked => linked,
        };
        match linked {
            Ok(()) => return Ok(Some(kept)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err((kept, error)),
        }
    }
    let full = io::Error::other(format!("there are {KEPT} earlier ones; remove some"));
    Err((beside(file, ".before-setup"), full))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = OpenOptions::new().write(true).create_new(true).open(to)?;
    io::copy(&mut source, &mut target)?;
    target.set_permissions(source.metadata()?.permissions())?;
    target.sync_all()
}

fn beside(file: &Path, end: &str) -> PathBuf {
    let mut name = file.file_name().map_or_else(OsString::new, ToOwned::to_owned);
    name.push(end);
    file.with_file_name(name)
}
