//! What systemd hears of the daemon (`Type=notify-reload`).
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use lab::{Daemon, Lab};
use nix::sys::signal::Signal;

#[test]
fn the_service_manager_hears_when_sockets_answer_how_the_clock_stands_and_of_reload_and_stop() {
    let lab = Lab::new();
    let (setup, _wan) = lab.honest();
    setup.write();
    let path = lab.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let socket = format!("NOTIFY_SOCKET={}", path.display());

    let mut daemon = Daemon::start_under(&lab, &["env", &socket], &["--start", "@0"]);
    hear(&manager, |message| message == "READY=1\n");
    daemon.serves(&lab).unwrap();
    hear(&manager, |message| message == "STATUS=clock disciplined, verified\n");

    daemon.signal(Signal::SIGHUP);
    hear(&manager, |message| message.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    hear(&manager, |message| message == "READY=1\n");

    daemon.signal(Signal::SIGTERM);
    hear(&manager, |message| message == "STOPPING=1\n");
    assert!(daemon.ended(Duration::from_secs(5)).unwrap().success());
}

/// Waits for a message that fits; others may come before it.
fn hear(manager: &UnixDatagram, fits: impl Fn(&str) -> bool) {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    for _ in 0..50 {
        let Ok(length) = manager.recv(&mut buffer) else { break };
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if fits(&message) {
            return;
        }
        heard.push(message);
    }
    panic!("heard only {heard:#?}");
}
