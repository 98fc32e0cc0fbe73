//! Files that outlive a power cut: always the old version or the next one, whatever the moment.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::node::ports::Shelf;

/// The first word of every state file, and the version of the framing.
const MAGIC: &str = "firstlight-state 1";
/// The end of a file name while it is being written.
const UNFINISHED: &str = ".tmp";
/// Tries whether the directory can be written.
const PROBE: &str = "probe";

/// Files written by this process to state directories that are not held in memory.
static FILES_WRITTEN: AtomicU64 = AtomicU64::new(0);
/// The octets in them.
static OCTETS_WRITTEN: AtomicU64 = AtomicU64::new(0);

/// How many files this process has written to state directories that are not held in memory, and the
/// octets in them. What a disk writes besides (names, its journal) is not counted.
#[must_use]
pub fn written() -> (u64, u64) {
    (FILES_WRITTEN.load(Ordering::Relaxed), OCTETS_WRITTEN.load(Ordering::Relaxed))
}

/// The state directory.
///
/// A value that cannot be written is kept in memory and read from there, until
/// a later write of it succeeds. So the daemon goes on without a disk, and
/// recovers when the disk does. Several processes may use one directory: writes
/// exclude each other, and reads see a whole version.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    unwritten: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl StateDir {
    /// Opens the directory at `path`, creates it (0700) if need be, and removes
    /// what interrupted writes left behind.
    ///
    /// The error says why nothing can be written; values then live in memory.
    pub fn open(path: impl Into<PathBuf>) -> (Self, Option<StateError>) {
        let directory = Self::untouched(path);
        let failure = directory.prepare().err();
        (directory, failure)
    }

    /// The directory at `path` as it stands, for a look: it is neither created nor cleaned.
    pub fn untouched(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), unwritten: Mutex::default() }
    }

    /// Where the files are.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory is held in memory: it ends with the boot, and writing costs nothing.
    #[must_use]
    pub fn is_volatile(&self) -> bool {
        statfs(&self.path).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
    }

    /// Reads the value `name`; `None` if it was never written.
    ///
    /// # Errors
    ///
    /// [`StateError::Corrupt`] if the file is not what was written: it is then
    /// set aside as `NAME.bad`, and a further read gives `None`.
    /// [`StateError::Io`] if it cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        if let Some(value) = self.unwritten().get(name) {
            return Ok(Some(value.clone()));
        }
        let path = self.file(name)?;
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::io("read", &path, error)),
        };
        match unframe(&content) {
            Some(value) => Ok(Some(value.to_vec())),
            None => Err(self.corrupt(name, "it is truncated or damaged")),
        }
    }

    /// Replaces the value `name`, in one step as seen from any moment of power loss.
    ///
    /// # Errors
    ///
    /// If it could not be written. The version on disk is then the old one, and
    /// reads give this one, from memory.
    pub fn write(&self, name: &str, value: &[u8]) -> Result<(), StateError> {
        let content = frame(value);
        let written =
            self.file(name).and_then(|path| self.replace(&path, |file| file.write_all(&content)));
        let mut unwritten = self.unwritten();
        match &written {
            Ok(()) => unwritten.remove(name),
            Err(_) => unwritten.insert(name.to_owned(), value.to_vec()),
        };
        written
    }

    /// Replaces the file `name` by what `fill` writes, in one step as [`StateDir::write`] does. It
    /// has no frame, and is not kept in memory.
    ///
    /// # Errors
    ///
    /// If it could not be written; the version on disk is then the old one.
    pub fn write_with<T>(
        &self,
        name: &str,
        fill: impl FnOnce(&mut File) -> io::Result<T>,
    ) -> Result<T, StateError> {
        self.replace(&self.file(name)?, fill)
    }

    /// Reads the file `name` in pieces of `length` octets, of which the last may be shorter.
    /// False if there is no such file.
    ///
    /// # Errors
    ///
    /// If it cannot be read to its end.
    pub fn read_pieces(
        &self,
        name: &str,
        length: usize,
        mut take: impl FnMut(&[u8]),
    ) -> Result<bool, StateError> {
        let path = self.file(name)?;
        let failed = |error| StateError::io("read", &path, error);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        let mut piece = Vec::with_capacity(length);
        loop {
            piece.clear();
            let limit = u64::try_from(length).unwrap_or(u64::MAX);
            if Read::by_ref(&mut file).take(limit).read_to_end(&mut piece).map_err(failed)? == 0 {
                return Ok(true);
            }
            take(&piece);
        }
    }

    /// Reads the value `name` from JSON; see [`StateDir::read`].
    ///
    /// # Errors
    ///
    /// As [`StateDir::read`]; JSON that is not a `T` counts as corrupt.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let Some(value) = self.read(name)? else { return Ok(None) };
        serde_json::from_slice(&value)
            .map(Some)
            .map_err(|error| self.corrupt(name, &error.to_string()))
    }

    /// Replaces the value `name` with `value` as JSON; see [`StateDir::write`].
    ///
    /// # Errors
    ///
    /// As [`StateDir::write`], or if `value` has no JSON form.
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let json = serde_json::to_vec(value)
            .map_err(|source| StateError::Json { name: name.to_owned(), source })?;
        self.write(name, &json)
    }

    /// Renames the file of `name` to `NAME.bad`, for a person to look at, and gives its path.
    ///
    /// # Errors
    ///
    /// If there is no such file, or it cannot be renamed.
    pub fn set_aside(&self, name: &str) -> Result<PathBuf, StateError> {
        let path = self.file(name)?;
        let aside = self.file(&format!("{name}.bad"))?;
        self.unwritten().remove(name);
        fs::rename(&path, &aside).map_err(|error| StateError::io("set aside", &path, error))?;
        Ok(aside)
    }

    fn corrupt(&self, name: &str, reason: &str) -> StateError {
        StateError::Corrupt {
            path: self.path.join(name),
            reason: reason.to_owned(),
            aside: self.set_aside(name).ok(),
        }
    }

    fn prepare(&self) -> Result<(), StateError> {
        let failed = |doing, error| StateError::io(doing, &self.path, error);
        self.create()?;
        let _lock = self.lock()?;
        for entry in fs::read_dir(&self.path).map_err(|error| failed("list", error))? {
            let entry = entry.map_err(|error| failed("list", error))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // Whoever wrote it is gone: writers hold the lock.
            if name.starts_with('.') && name.ends_with(UNFINISHED) {
                fs::remove_file(entry.path())
                    .map_err(|error| StateError::io("remove", &entry.path(), error))?;
            }
        }
        // Not flushed: a boot need not wait for the disk to learn whether it may be written.
        let probe = self.path.join(PROBE);
        fs::write(&probe, frame(b"")).map_err(|error| StateError::io("write", &probe, error))?;
        fs::remove_file(&probe).map_err(|error| StateError::io("remove", &probe, error))
    }

    fn create(&self) -> Result<(), StateError> {
        if self.path.is_dir() {
            return Ok(());
        }
        let created = DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        created.map_err(|error| StateError::io("create", &self.path, error))?;
        if let Some(parent) = self.path.parent() {
            // Not every parent may be opened by us; then its own flushing must do.
            drop(File::open(parent).and_then(|parent| parent.sync_all()));
        }
        Ok(())
    }

    fn replace<T>(
        &self,
        path: &Path,
        fill: impl FnOnce(&mut File) -> io::Result<T>,
    ) -> Result<T, StateError> {
        // There may have been no space for it at the start.
        self.create()?;
        let directory = self.lock()?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = self.path.join(format!(".{name}{UNFINISHED}"));
        let written = self.write_durably(&unfinished, fill, &directory).and_then(|written| {
            fs::rename(&unfinished, path)
                .map_err(|error| StateError::io("replace", path, error))?;
            // Without this the rename itself may be lost with the power.
            directory.sync_all().map_err(|error| StateError::io("flush", &self.path, error))?;
            Ok(written)
        });
        if written.is_err() {
            // It may not exist, and would be removed at the next start anyway.
            drop(fs::remove_file(&unfinished));
        }
        written
    }

    fn write_durably<T>(
        &self,
        path: &Path,
        content: impl FnOnce(&mut File) -> io::Result<T>,
        directory: &File,
    ) -> Result<T, StateError> {
        let failed = |doing: &'static str| move |error| StateError::io(doing, path, error);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        // One left behind by another user could not be opened.
        drop(fs::remove_file(path));
        let mut file = options.open(path).map_err(failed("create"))?;
        let owner = directory.metadata().map_err(|e| StateError::io("read", &self.path, e))?;
        let ours = file.metadata().map_err(failed("read"))?;
        if (owner.uid(), owner.gid()) != (ours.uid(), ours.gid())
            && nix::unistd::geteuid().is_root()
        {
            // A command run by root must not lock out the daemon's own user.
            fchown(&file, Some(owner.uid()), Some(owner.gid())).map_err(failed("give away"))?;
        }
        let written = content(&mut file).map_err(failed("write"))?;
        file.sync_all().map_err(failed("flush"))?;
        let octets = file.metadata().map_or(0, |file| file.len());
        if !self.is_volatile() {
            FILES_WRITTEN.fetch_add(1, Ordering::Relaxed);
            OCTETS_WRITTEN.fetch_add(octets, Ordering::Relaxed);
        }
        Ok(written)
    }

    /// Excludes every other writer, in this process or another, until it is dropped.
    fn lock(&self) -> Result<Flock<File>, StateError> {
        let directory =
            File::open(&self.path).map_err(|error| StateError::io("open", &self.path, error))?;
        Flock::lock(directory, FlockArg::LockExclusive)
            .map_err(|(_, errno)| StateError::io("lock", &self.path, errno.into()))
    }

    fn file(&self, name: &str) -> Result<PathBuf, StateError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(StateError::Name(name.to_owned()));
        }
        Ok(self.path.join(name))
    }

    fn unwritten(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        // A map is whole between any two of its operations.
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf for StateDir {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Self::read(self, name).map_err(io::Error::other)
    }

    fn write(&self, name: &str, value: &[u8]) -> io::Result<()> {
        Self::write(self, name, value).map_err(io::Error::other)
    }

    fn set_aside(&self, name: &str) -> io::Result<String> {
        let aside = Self::set_aside(self, name).map_err(io::Error::other)?;
        Ok(aside.display().to_string())
    }
}

/// Why a value could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file is not what was written.
    #[error("{} cannot be used: {reason}{}", path.display(), kept(aside.as_deref()))]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// Where it is kept for inspection; `None` if it could not be renamed.
        aside: Option<PathBuf>,
    },
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The value has no JSON form.
    #[error("the value of {name} has no JSON form: {source}")]
    Json {
        /// The name of the value.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A name that would not be a plain file in the directory.
    #[error("`{0}` cannot name a state file")]
    Name(String),
}

impl StateError {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }
}

fn kept(aside: Option<&Path>) -> String {
    aside.map(|aside| format!("; it is kept as {}", aside.display())).unwrap_or_default()
}

/// A value with the line that tells it from its ruins: magic, length, CRC-32.
fn frame(value: &[u8]) -> Vec<u8> {
    let mut content = header(value).into_bytes();
    content.extend_from_slice(value);
    content
}

/// The value, if the line before it is exactly the one it would be given.
fn unframe(content: &[u8]) -> Option<&[u8]> {
    let end = content.iter().position(|octet| *octet == b'\n')?;
    let (line, value) = content.split_at(end + 1);
    (line == header(value).as_bytes()).then_some(value)
}

fn header(value: &[u8]) -> String {
    format!("{MAGIC} {} {:08x}\n", value.len(), crc32fast::hash(value))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_checksum_is_the_common_one() {
        assert_eq!(frame(b"hello"), b"firstlight-state 1 5 3610a686\nhello");
    }

    #[test]
    fn what_was_written_is_read_back_with_tight_permissions() {
        let folder = Folder::fresh();
        let state = folder.open();

        state.write("floor", b"one").unwrap();
        state.write("floor", b"two").unwrap();

        assert_eq!(state.read("floor").unwrap().unwrap(), b"two");
        assert_eq!(state.read("other").unwrap(), None);
        assert_eq!(folder.open().read("floor").unwrap().unwrap(), b"two");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.0.join("floor")), 0o600);
        assert_eq!(mode(&folder.0), 0o700);
        assert_eq!(folder.names(), ["floor"]);
    }

    #[test]
    fn a_file_cut_short_anywhere_is_set_aside_and_reported() {
        let folder = Folder::fresh();
        let state = folder.open();
        state.write("floor", b"1773468700").unwrap();
        let whole = fs::read(folder.0.join("floor")).unwrap();

        for length in 0..whole.len() {
            fs::write(folder.0.join("floor"), &whole[..length]).unwrap();

            let error = state.read("floor").unwrap_err();

            let StateError::Corrupt { aside: Some(aside), .. } = error else { panic!("{error}") };
            assert_eq!(fs::read(aside).unwrap(), &whole[..length]);
            assert_eq!(state.read("floor").unwrap(), None);
        }
    }

    #[test]
    fn a_file_with_any_bit_flipped_is_never_believed() {
        let folder = Folder::fresh();
        let state = folder.open();
        state.write("floor", b"1773468700\n").unwrap();
        let whole = fs::read(folder.0.join("floor")).unwrap();

        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(folder.0.join("floor"), &damaged).unwrap();

            let read = state.read("floor");

            assert!(matches!(read, Err(StateError::Corrupt { .. })), "bit {bit}: {read:?}");
        }
    }

    #[test]
    fn trailing_rubbish_and_json_of_another_shape_are_corrupt() {
        let folder = Folder::fresh();
        let state = folder.open();
        let mut content = frame(b"[1]");
        content.push(0);
        fs::write(folder.0.join("list"), content).unwrap();
        assert!(matches!(state.read("list"), Err(StateError::Corrupt { .. })));

        state.write_json("list", &[1, 2]).unwrap();
        assert_eq!(state.read_json::<Vec<u32>>("list").unwrap(), Some(vec![1, 2]));

        let error = state.read_json::<String>("list").unwrap_err();
        assert!(matches!(error, StateError::Corrupt { aside: Some(_), .. }), "{error}");
        assert_eq!(state.read_json::<String>("list").unwrap(), None);
    }

    #[test]
    fn leftovers_of_interrupted_writes_are_removed_at_open() {
        let folder = Folder::fresh();
        folder.open().write("floor", b"kept").unwrap();
        fs::write(folder.0.join(".floor.tmp"), b"half").unwrap();

        let state = folder.open();

        assert_eq!(folder.names(), ["floor"]);
        assert_eq!(state.read("floor").unwrap().unwrap(), b"kept");
    }

    #[test]
    fn without_a_disk_values_live_in_memory_until_it_returns() {
        let folder = Folder::fresh();
        fs::create_dir_all(&folder.0).unwrap();
        // A file where the directory should be: not even root can write below it.
        let path = folder.0.join("state");
        fs::write(&path, b"").unwrap();
        let (state, failure) = StateDir::open(&path);
        assert!(failure.unwrap().to_string().contains("state"));

        assert!(state.write("floor", b"one").is_err());
        assert_eq!(state.read("floor").unwrap().unwrap(), b"one");

        fs::remove_file(&path).unwrap();
        state.write("floor", b"two").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(StateDir::open(&path).0.read("floor").unwrap().unwrap(), b"two");
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_version_on_disk() {
        let folder = Folder::fresh();
        folder.open().write("floor", b"old").unwrap();
        // The unfinished file cannot be made where a directory has its name.
        let state = folder.open();
        fs::create_dir(folder.0.join(".floor.tmp")).unwrap();

        assert!(state.write("floor", b"next").is_err());

        assert_eq!(state.read("floor").unwrap().unwrap(), b"next");
        assert_eq!(unframe(&fs::read(folder.0.join("floor")).unwrap()), Some(&b"old"[..]));
    }

    #[test]
    fn what_root_writes_belongs_to_the_owner_of_the_directory() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let folder = Folder::fresh();
        let state = folder.open();
        std::os::unix::fs::chown(&folder.0, Some(65534), Some(65533)).unwrap();

        state.write("floor", b"one").unwrap();

        let owner = fs::metadata(folder.0.join("floor")).unwrap();
        assert_eq!((owner.uid(), owner.gid()), (65534, 65533));
    }

    #[test]
    fn a_file_of_pieces_is_replaced_whole_or_not_at_all() {
        let folder = Folder::fresh();
        let state = folder.open();
        let read = || {
            let mut pieces = Vec::new();
            let there = state.read_pieces("cache", 4, |piece| pieces.push(piece.to_vec()));
            (there.unwrap(), pieces.concat(), pieces.len())
        };
        assert_eq!(read(), (false, Vec::new(), 0));

        let written = state.write_with("cache", |file| {
            file.write_all(b"seven")?;
            file.write_all(b"..").map(|()| 7)
        });
        assert_eq!(written.unwrap(), 7);
        assert_eq!(read(), (true, b"seven..".to_vec(), 2));

        let failed: Result<(), _> = state.write_with("cache", |file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(failed.is_err());
        assert_eq!(read(), (true, b"seven..".to_vec(), 2));
        assert_eq!(folder.names(), ["cache"]);
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        let folder = Folder::fresh();
        let state = folder.open();

        for name in ["", ".", "..", "../floor", "a/b", ".floor.tmp"] {
            assert!(matches!(state.set_aside(name), Err(StateError::Name(_))), "{name}");
        }
    }

    #[test]
    fn writers_at_the_same_time_do_not_mix() {
        let folder = Folder::fresh();
        folder.open().write("floor", &[0; 4096]).unwrap();

        std::thread::scope(|scope| {
            for octet in 0..4 {
                let folder = &folder;
                scope.spawn(move || {
                    for _ in 0..10 {
                        folder.open().write("floor", &[octet; 4096]).unwrap();
                    }
                });
            }
            for _ in 0..100 {
                let value = folder.open().read("floor").unwrap().unwrap();
                assert!(value.iter().all(|octet| *octet == value[0]));
            }
        });
    }

    /// A folder below the system's temporary one, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn fresh() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("firstlight-state-{}-{number}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn open(&self) -> StateDir {
            let (state, failure) = StateDir::open(&self.0);
            assert!(failure.is_none(), "{failure:?}");
            state
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }
}
