//! The commands' side of the control socket: blocking, so that it needs no runtime.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::admin::{DEADLINE, Refusal, Request, Response};

/// A little more than the daemon gives itself, so that its own word on the matter arrives.
const PATIENCE: Duration = DEADLINE.saturating_add(Duration::from_secs(1));
/// The longest answer that is read, in octets.
const MAX_RESPONSE: u64 = 16 * 1024 * 1024;

/// Asks the daemon that listens on `socket`.
///
/// # Errors
///
/// If none does, it refuses, or it does not answer in time.
pub fn call(socket: &Path, request: &Request) -> Result<Value, CallError> {
    let at = || socket.to_owned();
    let answer = exchange(socket, request).map_err(|source| {
        use io::ErrorKind as Kind;
        let is = |kinds: &[Kind]| kinds.contains(&source.kind());
        if is(&[Kind::NotFound, Kind::ConnectionRefused]) {
            CallError::Absent(at())
        } else if is(&[Kind::PermissionDenied]) {
            CallError::Closed(at())
        } else if is(&[Kind::TimedOut, Kind::WouldBlock]) {
            CallError::Silent(at())
        } else {
            CallError::Io { socket: at(), source }
        }
    })?;
    match serde_json::from_slice(&answer) {
        Ok(Response::Ok(value)) => Ok(value),
        Ok(Response::Refused(refusal)) => Err(CallError::Refused(refusal)),
        Err(error) => Err(CallError::Garbled { socket: at(), reason: error.to_string() }),
    }
}

fn exchange(socket: &Path, request: &Request) -> io::Result<Vec<u8>> {
    let connection = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    connection.connect_timeout(&SockAddr::unix(socket)?, PATIENCE)?;
    let mut stream = UnixStream::from(connection);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;

    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    // A daemon with too many clients answers without listening.
    let written = stream.write_all(&line);
    let mut answer = Vec::new();
    BufReader::new(stream.take(MAX_RESPONSE)).read_until(b'\n', &mut answer)?;
    if answer.is_empty() {
        written?;
    }
    Ok(answer)
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nobody listens.
    #[error(
        "no daemon listens on {}: is firstlight running? (systemctl status firstlight; with \
         another socket, name its configuration with --config)",
        .0.display()
    )]
    Absent(PathBuf),
    /// The socket may not be opened.
    #[error("this user may not open {}; try as root, or as the daemon's user", .0.display())]
    Closed(PathBuf),
    /// What came is no answer.
    #[error("what listens on {} does not speak as firstlight does: {reason}", socket.display())]
    Garbled {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The system refused.
    #[error("cannot ask the daemon on {}: {source}", socket.display())]
    Io {
        /// The socket.
        socket: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The daemon refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nothing came in time.
    #[error("the daemon on {} does not answer; its log may say why", .0.display())]
    Silent(PathBuf),
}
