//! Where the socket is, and how it is opened.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use tokio::net::{UnixListener, UnixStream};

use crate::config::Config;

const RUNTIME_FOLDER: &str = "/run/firstlight";
const NAME: &str = "control.sock";

/// Where the daemon listens: as configured, else in /run/firstlight if it may write there, else in
/// the state directory.
#[must_use]
pub fn path_to_serve(config: &Config) -> PathBuf {
    config.control.socket.clone().unwrap_or_else(|| {
        let runtime = Path::new(RUNTIME_FOLDER);
        let ours = make_folder(runtime).is_ok() && access(runtime, AccessFlags::W_OK).is_ok();
        let folder = if ours { runtime } else { &config.state.directory };
        folder.join(NAME)
    })
}

/// Where a client finds the daemon: as configured, else where there is a socket.
#[must_use]
pub fn path_to_call(config: &Config) -> PathBuf {
    config.control.socket.clone().unwrap_or_else(|| {
        let runtime = Path::new(RUNTIME_FOLDER).join(NAME);
        let state = config.state.directory.join(NAME);
        if !runtime.exists() && state.exists() { state } else { runtime }
    })
}

/// Opens the socket for every local user, in place of one that nobody listens on.
///
/// # Errors
///
/// If a daemon listens there already, something else is there, or the system refuses.
pub async fn bind(path: &Path) -> Result<UnixListener, BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NoSocket(path.to_owned()));
        }
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed)?;
            }
            // A full queue of clients is somebody listening, too.
            Ok(_) | Err(_) => return Err(BindError::InUse(path.to_owned())),
        },
    }
    if let Some(folder) = path.parent() {
        make_folder(folder).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Who may do what is decided by the peer's credentials.
    fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(folder)
}

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody listens there.
    #[error("a daemon listens on {} already; stop it, or set another control.socket", .0.display())]
    InUse(PathBuf),
    /// The system refused.
    #[error("cannot open the control socket {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There is a file of another kind.
    #[error("{} is no socket; move it away, or set another control.socket", .0.display())]
    NoSocket(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_is_replaced_and_a_living_one_is_not() {
        let folder = std::env::temp_dir().join(format!("firstlight-bind-{}", std::process::id()));
        let path = folder.join("run").join(NAME);

        let first = bind(&path).await.unwrap();
        let second = bind(&path).await;
        drop(first);
        let third = bind(&path).await;
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        fs::write(folder.join("file"), b"").unwrap();
        let file = bind(&folder.join("file")).await;
        fs::remove_dir_all(&folder).unwrap();

        assert!(matches!(second, Err(BindError::InUse(_))), "{second:?}");
        assert!(third.is_ok(), "{third:?}");
        assert_eq!(mode, 0o666);
        assert!(matches!(file, Err(BindError::NoSocket(_))), "{file:?}");
    }

    #[test]
    fn the_configured_path_is_used_on_both_sides() {
        let text = "[control]\nsocket = \"/tmp/c.sock\"";
        let config = Config::parse(text, Path::new("f.toml")).unwrap().config;

        assert_eq!(path_to_serve(&config), Path::new("/tmp/c.sock"));
        assert_eq!(path_to_call(&config), Path::new("/tmp/c.sock"));
    }
}
