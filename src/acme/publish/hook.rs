//! A program that publishes, called as lego calls its own: `HOOK present|cleanup NAME VALUE`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use caps::CapSet;
use futures_util::future::BoxFuture;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::{PublishError, Publisher, TxtRecord};
use crate::acme::fault::words;

/// Octets of what it says that are kept.
const SAID: usize = 2048;
/// Where it finds programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What it started may hold its output open for so long after it has ended.
const LINGER: Duration = Duration::from_millis(200);

/// Runs a program of the administrator's: without a shell, with an empty environment but for `PATH`,
/// without capabilities to hand on, and in a process group of its own, which is killed when its time is up.
#[derive(Clone, Debug)]
pub struct Hook {
    program: PathBuf,
    limit: Duration,
}

impl Hook {
    /// Runs `program`, for at most `limit` each time.
    #[must_use]
    pub const fn new(program: PathBuf, limit: Duration) -> Self {
        Self { program, limit }
    }

    /// The file that is run, links followed.
    ///
    /// # Errors
    ///
    /// It is not there, is no program, or others could put words into our mouth: it, or a folder that
    /// it is in, belongs neither to root nor to us, or anybody may write it.
    pub fn check(&self) -> Result<PathBuf, PublishError> {
        let told = |reason: &dyn std::fmt::Display| {
            PublishError::Configured(format!("{}: {reason}", self.program.display()))
        };
        if !self.program.is_absolute() {
            return Err(told(&"not an absolute path"));
        }
        let file = fs::canonicalize(&self.program).map_err(|error| told(&error))?;
        let facts = fs::metadata(&file).map_err(|error| told(&error))?;
        if !facts.is_file() || facts.mode() & 0o111 == 0 {
            return Err(told(&"not a file that can be run; see `chmod +x`"));
        }
        if facts.uid() != 0 && facts.uid() != geteuid().as_raw() {
            return Err(told(&format_args!(
                "belongs to user {}, not to root or to the service's user",
                facts.uid()
            )));
        }
        if facts.mode() & 0o022 != 0 {
            return Err(told(&"others may write it; see `chmod go-w`"));
        }
        // Whoever may write a folder on the way puts another program in its place.
        for folder in file.ancestors().skip(1) {
            let facts = fs::metadata(folder).map_err(|error| told(&error))?;
            let strange = facts.uid() != 0 && facts.uid() != geteuid().as_raw();
            if strange || facts.mode() & 0o1002 == 0o002 {
                return Err(told(&format_args!(
                    "others may replace it, for {} is theirs to write",
                    folder.display()
                )));
            }
        }
        Ok(file)
    }

    async fn run(&self, what: &str, record: &TxtRecord) -> Result<(), PublishError> {
        let file = self.check()?;
        let told = |reason: &dyn std::fmt::Display| {
            PublishError::Refused(format!("{} {what}: {reason}", self.program.display()))
        };
        let mut group = Group(start(&file, what, record).map_err(|error| told(&error))?);
        let output = (group.0.stdout.take(), group.0.stderr.take());
        let mut said = (Vec::new(), Vec::new());
        let ended = {
            let reading = async {
                tokio::join!(read(output.0, &mut said.0), read(output.1, &mut said.1));
            };
            let waiting = async {
                tokio::pin!(reading);
                tokio::select! {
                    status = group.0.wait() => {
                        // What it left in the pipes.
                        let _whole = timeout(LINGER, reading).await.is_ok();
                        status
                    }
                    () = &mut reading => group.0.wait().await,
                }
            };
            timeout(self.limit, waiting).await
        };
        let said = [said.0, said.1].concat();
        let said = words(&String::from_utf8_lossy(&said));
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(told(&format_args!("{status}: {said}"))),
            Ok(Err(error)) => Err(told(&error)),
            Err(_) => Err(told(&format_args!(
                "not done within {} s, and killed: {said}",
                self.limit.as_secs()
            ))),
        }
    }
}

impl Publisher for Hook {
    fn present<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(self.run("present", record))
    }

    fn withdraw<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(self.run("cleanup", record))
    }
}

/// The program, and with it all that it started, unless it has ended by itself.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // It has an id until it is waited for, so nobody else can have it.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id {
            // It may have ended a moment ago.
            let _gone = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

fn start(file: &Path, what: &str, record: &TxtRecord) -> io::Result<Child> {
    // Ours close by themselves; whoever started us may have left others open.
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
    let mut command = Command::new(file);
    command
        .args([what, &record.name, &record.value])
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    // Capabilities are a thread's, and the program gets those of the thread that starts it.
    let runtime = Handle::current();
    let thread = thread::Builder::new().name("hook".to_owned()).spawn(move || {
        let _guard = runtime.enter();
        for set in [CapSet::Ambient, CapSet::Inheritable] {
            caps::clear(None, set).map_err(io::Error::other)?;
        }
        command.spawn()
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it failed")))
}

/// Reads all of `from`, so that whoever writes does not stand still, and keeps the beginning.
async fn read(from: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let room = SAID.saturating_sub(kept.len()).min(length);
        kept.extend_from_slice(&buffer[..room]);
    }
}
