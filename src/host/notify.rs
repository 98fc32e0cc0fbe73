//! Tells the service manager how the daemon stands (`sd_notify`, systemd's `Type=notify-reload`).
//!
//! Without `NOTIFY_SOCKET` in the environment none of this does anything, and
//! nothing depends on it: a message that cannot be sent is logged and forgotten.

use sd_notify::NotifyState;
use tracing::debug;

/// The sockets answer.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// How the daemon stands, in one line of words; `systemctl status` shows it.
pub fn status(words: &str) {
    // A message is lines of `KEY=value`: words must not bring lines of their own.
    let words = words.replace(['\n', '\r'], " ");
    send(&[NotifyState::Status(&words)]);
}

/// The configuration is being read again. Say [`ready`] when that is done, whatever the outcome.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "the service manager was not told of the reload"),
    }
}

/// The daemon drains and ends.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, ?states, "the service manager was not told");
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_service_manager_hears_each_state() {
        let path = env::temp_dir().join(format!("firstlight-notify-{}", std::process::id()));
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(2))).unwrap();

        let child = Command::new(env::current_exe().unwrap())
            .args(["host::notify::tests::says_everything", "--exact", "--ignored"])
            .env("NOTIFY_SOCKET", &path)
            .stdout(Stdio::null())
            .status()
            .unwrap();

        let heard: Vec<_> = (0..5).map(|_| hear(&manager)).collect();
        std::fs::remove_file(&path).unwrap();
        assert!(child.success());
        assert_eq!(heard[0], "READY=1\n");
        assert_eq!(heard[1], "STATUS=time is coarse  READY=0\n");
        assert!(heard[2].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{}", heard[2]);
        assert_eq!((heard[3].as_str(), heard[4].as_str()), ("READY=1\n", "STOPPING=1\n"));
    }

    /// The environment of a process cannot safely be changed once it runs: this runs in another.
    #[test]
    #[ignore = "is run by the_service_manager_hears_each_state"]
    fn says_everything() {
        ready();
        status("time is coarse\r\nREADY=0");
        reloading();
        ready();
        stopping();
    }

    fn hear(manager: &UnixDatagram) -> String {
        let mut message = [0; 512];
        let len = manager.recv(&mut message).unwrap();
        String::from_utf8(message[..len].to_vec()).unwrap()
    }
}
