//! What systemd hears of the daemon (`Type=notify`, `WatchdogSec=`), and sockets that it holds for it.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use lab::clients::{ask_tcp, ask_udp};
use lab::{Daemon, LOCAL, Lab, eventually};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::close;

#[test]
fn the_service_manager_hears_when_sockets_answer_how_the_clock_stands_and_of_reload_and_stop() {
    let lab = Lab::new();
    let (setup, _wan) = lab.honest();
    setup.write();
    let (manager, socket) = manager(&lab);

    let mut daemon = start(&lab, &["env", &socket], &["--start", "@0"]);
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

#[test]
fn the_watchdog_is_fed_while_the_daemon_runs_and_not_while_it_stands_still() {
    let lab = Lab::new();
    lab.configure().write();
    let (manager, socket) = manager(&lab);

    let mut daemon = start(&lab, &["env", &socket, "WATCHDOG_USEC=2000000"], &[]);
    daemon.serves(&lab).unwrap();
    for _ in 0..3 {
        hear(&manager, |message| message == "WATCHDOG=1\n");
    }

    daemon.signal(Signal::SIGSTOP);
    assert!(is_starved(&manager));
    daemon.signal(Signal::SIGCONT);
    hear(&manager, |message| message == "WATCHDOG=1\n");
}

#[test]
fn the_watchdog_is_not_fed_by_a_daemon_that_runs_and_answers_nobody() {
    let lab = Lab::new();
    lab.configure().write();
    let (manager, socket) = manager(&lab);
    let held = Held::open(&lab);
    let mut daemon = held.serve(&lab, &[&socket, "WATCHDOG_USEC=2000000"]);
    daemon.serves(&lab).unwrap();
    hear(&manager, |message| message == "WATCHDOG=1\n");

    // The kernel gives it what comes from there, and nothing else.
    held.udp.connect(lab.place(99, 9)).unwrap();

    assert!(is_starved(&manager));
    assert!(daemon.log().contains("got no answer"), "{}", daemon.log());
    assert_eq!(daemon.status().time.task_panics, 0);
}

#[test]
fn restarts_on_held_sockets_lose_no_question() {
    let lab = Lab::new();
    lab.configure().write();
    let held = Held::open(&lab);
    let early = thread::spawn({
        let server = lab.dns();
        move || ask_udp(server, LOCAL.0)
    });
    let mut daemon = held.serve(&lab, &[]);
    assert!(early.join().unwrap().is_some(), "what was asked before the daemon came is lost");
    daemon.serves(&lab).unwrap();
    let (restarted, server) = (AtomicBool::new(false), lab.dns());
    let answered = |answer: Option<_>| {
        answer.is_some_and(|answer: lab::clients::Answer| answer.addresses == [LOCAL.1])
    };

    let (asked, lost) = thread::scope(|scope| {
        let udp = scope.spawn(|| {
            let (mut asked, mut lost) = (0, 0);
            while asked < 1000 || !restarted.load(Ordering::Relaxed) {
                asked += 1;
                lost += u32::from(!answered(ask_udp(server, LOCAL.0)));
                thread::sleep(Duration::from_millis(1));
            }
            (asked, lost)
        });
        // A connection that has asked nothing yet may be closed: then it is another one's turn.
        let tcp = scope.spawn(|| {
            while !restarted.load(Ordering::Relaxed) {
                assert!((0..2).any(|_| answered(ask_tcp(server, LOCAL.0))));
                thread::sleep(Duration::from_millis(1));
            }
        });
        for _ in 0..4 {
            thread::sleep(Duration::from_millis(300));
            assert!(daemon.terminate().success(), "{}", daemon.log());
            daemon = held.serve(&lab, &[]);
            daemon.serves(&lab).unwrap();
        }
        restarted.store(true, Ordering::Relaxed);
        tcp.join().unwrap();
        udp.join().unwrap()
    });

    assert_eq!(lost, 0, "of {asked}");
    assert!(asked >= 1000);
}

#[test]
fn a_held_socket_at_no_configured_address_is_told_of() {
    let lab = Lab::new();
    lab.configure().write();
    let held = Held { udp: UdpSocket::bind(lab.place(2, 5353)).unwrap(), ..Held::open(&lab) };

    let mut daemon = held.serve(&lab, &[]);

    // What is missing it opens by itself.
    daemon.serves(&lab).unwrap();
    let idle = lab.place(2, 5353).to_string();
    let is_told = |line: &str| line.contains("at no address of the") && line.contains(&idle);
    let told = eventually(Duration::from_secs(5), || {
        daemon.log().lines().find(|line| is_told(line)).map(drop)
    });
    assert!(told.is_some(), "{}", daemon.log());
}

/// A service manager, and the variable that tells where it listens.
fn manager(lab: &Lab) -> (UnixDatagram, String) {
    let path = lab.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    (manager, format!("NOTIFY_SOCKET={}", path.display()))
}

/// Whether nothing feeds the watchdog for longer than its 2 s, after what is under way.
fn is_starved(manager: &UnixDatagram) -> bool {
    let mut buffer = [0; 4096];
    thread::sleep(Duration::from_secs(1));
    manager.set_nonblocking(true).unwrap();
    while manager.recv(&mut buffer).is_ok() {}
    thread::sleep(Duration::from_millis(2500));
    let fed = std::iter::from_fn(|| manager.recv(&mut buffer).ok().map(|_| ())).count();
    manager.set_nonblocking(false).unwrap();
    fed == 0
}

/// The daemon's DNS sockets, held as by a socket unit.
struct Held {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Held {
    fn open(lab: &Lab) -> Self {
        let (udp, tcp) = (UdpSocket::bind(lab.dns()), TcpListener::bind(lab.dns()));
        Self { udp: udp.unwrap(), tcp: tcp.unwrap() }
    }

    /// Starts the daemon on them, with more `variables`.
    fn serve(&self, lab: &Lab, variables: &[&str]) -> Daemon {
        let _alone = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
        // Duplicates outlive exec, and high numbers are in nobody's way.
        let inherited = [self.udp.as_fd(), self.tcp.as_fd()]
            .map(|socket| fcntl(socket, FcntlArg::F_DUPFD(100)).unwrap());
        let [udp, tcp] = inherited.map(|descriptor| descriptor.to_string());
        let script = "exec 3<&$0 4<&$1; shift; LISTEN_PID=$$ LISTEN_FDS=2 exec env \"$@\"";
        let wrapper = [&["bash", "-c", script, &udp, &tcp], variables].concat();
        let daemon = Daemon::start_under(lab, &wrapper, &[]);
        for descriptor in inherited {
            close(descriptor).unwrap();
        }
        daemon
    }
}

/// Held for as long as a daemon started by another test would inherit what is not its own.
static SPAWNING: Mutex<()> = Mutex::new(());

fn start(lab: &Lab, wrapper: &[&str], arguments: &[&str]) -> Daemon {
    let _alone = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    Daemon::start_under(lab, wrapper, arguments)
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
