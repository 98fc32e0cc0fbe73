//! The GPS box of the power cut: a reference clock is one vote, the best while it agrees, and
//! outvoted or dropped when it does not.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use firstlight::clock::Nanos;
use firstlight::host::kernel::{KernelClock, OsClock};
use lab::clients::ask_ntp;
use lab::{Daemon, Lab, Says, TimeSource, YEAR, truth};

#[test]
fn a_receiver_is_the_best_source_until_it_hangs_and_is_outvoted_when_it_lies() {
    let lab = Lab::new();
    let sources = [10, 11, 12].map(|host| TimeSource::start(&lab, host, Says::Off(0)));
    let mut setup = lab.configure();
    for (source, operator) in sources.iter().zip(["nist", "ptb", "netnod"]) {
        setup = setup.source(source, operator, "");
    }
    let mut daemon = setup.refclock("gps.sock", "prefer = true\nerror_us = 1000").boot();
    daemon.serves(&lab).unwrap();
    let receiver = Receiver::start(&lab);
    daemon.wait_for("the clock is disciplined", 20, |status| status.time.ntp.synchronized);
    let reply = ask_ntp(lab.ntp()).unwrap();
    assert_eq!((reply.stratum, &reply.reference_id), (1, b"GPS\0"), "{:#?}", daemon.sources());
    assert_eq!(verdict(&daemon), "truechimer");

    // It answers, and always the same: the clock is not held back for a moment.
    receiver.hang(true);
    gets(&daemon, "silent");
    let reply = ask_ntp(lab.ntp()).unwrap();
    assert!(reply.is_synchronized());

    receiver.hang(false);
    gets(&daemon, "truechimer");
    receiver.off.store(i64::try_from(-5 * YEAR).unwrap(), Ordering::Relaxed);
    gets(&daemon, "falseticker");
    let status = daemon.status();
    assert_eq!(status.time.level, "disciplined");
    assert!(ask_ntp(lab.ntp()).unwrap().is_synchronized());
}

#[test]
fn a_receiver_that_is_all_there_is_sets_the_clock() {
    let lab = Lab::new();
    let mut daemon = lab.configure().refclock("gps.sock", "").boot();
    daemon.serves(&lab).unwrap();
    let receiver = Receiver::start(&lab);

    daemon.wait_for("it is followed", 40, |status| status.time.ntp.synchronized);
    let reply = ask_ntp(lab.ntp()).unwrap();
    assert_eq!(reply.stratum, 1);
    assert!(reply.off.abs() < 500_000_000, "{} ns", reply.off);
    assert!(!daemon.status().time.verified);
    drop(receiver);
}

/// What becomes of the receiver, which is the last source.
fn verdict(daemon: &Daemon) -> String {
    let sources = daemon.sources().sources;
    let last = sources.last().unwrap();
    assert!(last.reference && last.address.ends_with("gps.sock"), "{last:?}");
    last.verdict.clone()
}

fn gets(daemon: &Daemon, wanted: &str) {
    let got =
        lab::eventually(Duration::from_secs(12), || (verdict(daemon) == wanted).then_some(()));
    assert!(got.is_some(), "not {wanted}: {:#?}\n{}", daemon.sources(), daemon.log());
}

/// Sends a sample four times a second, as gpsd does once.
struct Receiver {
    off: Arc<AtomicI64>,
    hangs: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
}

impl Receiver {
    fn start(lab: &Lab) -> Self {
        let path = lab.path("gps.sock");
        let receiver = Self { off: Arc::default(), hangs: Arc::default(), ends: Arc::default() };
        let (off, hangs, ends) =
            (receiver.off.clone(), receiver.hangs.clone(), receiver.ends.clone());
        thread::spawn(move || {
            let socket = UnixDatagram::unbound().unwrap();
            let mut told = truth();
            while !ends.load(Ordering::Relaxed) {
                if !hangs.load(Ordering::Relaxed) {
                    told = truth().offset(Nanos::from(off.load(Ordering::Relaxed)));
                }
                let taken = KernelClock.utc();
                // The daemon may not be there yet.
                drop(socket.send_to(&sample(taken, told.since(taken)), &path));
                thread::sleep(Duration::from_millis(250));
            }
        });
        receiver
    }

    fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// As gpsd writes it for chrony: a timeval, a double, four ints.
#[expect(clippy::cast_precision_loss, reason = "a double it is")]
fn sample(taken: firstlight::clock::UnixTime, offset: Nanos) -> Vec<u8> {
    let (seconds, nanos) = (taken.secs(), taken.nanos().rem_euclid(1_000_000_000));
    let micros = i64::try_from(nanos / 1000).unwrap();
    let ints = [0, 0, 0, 0x534f_434b_i32].map(i32::to_ne_bytes);
    let offset = offset as f64 / 1e9;
    let head = [seconds.to_ne_bytes(), micros.to_ne_bytes(), offset.to_ne_bytes()];
    [head.as_flattened(), ints.as_flattened()].concat()
}
