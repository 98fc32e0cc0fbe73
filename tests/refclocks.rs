//! The daemon with reference clocks: datagrams as gpsd sends them, a receiver on a serial line, and
//! what goes wrong with both.
//!
//! Nothing here sets a clock: the daemon observes, and the samples tell it of the lab's time.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use firstlight::admin::report::{Source, Status};
use firstlight::clock::{Nanos, UnixTime};
use firstlight::host::kernel::{KernelClock, OsClock};
use jiff::Timestamp;
use lab::clients::ask_ntp;
use lab::{DAY, Daemon, HOUR, Lab, YEAR, chrony, needing, truth};
use libtest_mimic::{Arguments, Trial};
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};

fn main() {
    let passes = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let chronyd = "chronyd_sees_a_stratum_1_behind_a_gps_alone_until_it_hangs";
    let trials = vec![
        needing("chronyd", chronyd, gps_alone),
        passes("a_gps_that_hangs_is_outvoted_named_and_dropped_and_preferred_again", gps_hangs),
        passes("a_gps_five_years_off_is_outvoted", gps_years_off),
        passes("a_receiver_on_a_serial_line_is_read_and_its_weeks_are_counted_on", receiver),
        passes("a_leap_second_on_the_list_is_announced_on_its_day", leap_second),
        passes("pulses_are_numbered_by_the_others_and_steer", pulses),
    ];
    let mut arguments = Arguments::from_args();
    // They wait for seconds to pass, mostly.
    arguments.test_threads.get_or_insert(trials.len());
    libtest_mimic::run(&arguments, trials).exit();
}

/// The box in the garage: GPS, and nothing else that knows the time.
fn gps_alone() {
    let lab = Lab::new();
    let setup = lab.configure().refclock(GPS);
    let daemon = setup.boot();
    let gps = Gps::start(&lab, Says::Truth);

    let status = daemon.wait_for("synchronised", 20, |status| status.time.ntp.synchronized);
    let ntp = status.time.ntp;
    assert_eq!((ntp.stratum, &*ntp.reference_id), (1, "GPS"));
    assert!(ntp.root_dispersion >= 1.0, "nothing confirms it: {ntp:?}");
    assert!(!status.time.verified);
    assert_right(&lab, 100);
    let said = chronyd(&lab);
    assert!(said.contains("clock wrong by"), "{said}");

    gps.says(Says::Frozen(truth()));
    let hung = lab::now();
    daemon.wait_for("it is named", 10, |status| names(status, "stands still"));
    assert!(lab::now() - hung < Duration::from_secs(8));
    assert_eq!(source(&daemon, "GPS").verdict, "silent");
}

/// The incident: the one GPS that everybody preferred hangs, and goes on answering.
fn gps_hangs() {
    let lab = Lab::new();
    let (setup, _wan) = lab.honest();
    let daemon = setup.refclock(PREFERRED).boot();
    let gps = Gps::start(&lab, Says::Frozen(truth().offset(-4 * HOUR)));

    daemon.wait_for("without it", 15, |status| status.time.ntp.synchronized);
    assert_right(&lab, 100);
    daemon.wait_for("it is named", 10, |status| names(status, "stands still"));
    assert_eq!(source(&daemon, "GPS").verdict, "silent");

    // Somebody pulls its plug and puts it in again.
    gps.says(Says::Truth);
    daemon.wait_for("preferred again", 15, |status| status.time.ntp.reference_id == "GPS");
    assert_eq!(daemon.status().time.ntp.stratum, 1);
    assert_eq!(source(&daemon, "GPS").verdict, "truechimer");
    assert!(!daemon.status().conditions.iter().any(|it| it.name == "reference-clock"));
    assert_right(&lab, 100);
}

fn gps_years_off() {
    let lab = Lab::new();
    let _gps = Gps::start(&lab, Says::Off(5 * YEAR));
    let (setup, _wan) = lab.honest();
    let daemon = setup.refclock(PREFERRED).boot();

    daemon.wait_for("without it", 15, |status| status.time.ntp.synchronized);
    daemon.wait_for("it is named", 10, |status| names(status, "contradict"));
    assert_eq!(source(&daemon, "GPS").verdict, "falseticker");
    assert_right(&lab, 100);
}

/// A receiver whose count of weeks started over in 2019, and that loses its fix.
fn receiver() {
    let lab = Lab::new();
    let terminal = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let path = ptsname_r(&terminal).unwrap();
    let setup = lab
        .configure()
        .refclock(&format!("kind = \"nmea\"\npath = \"{path}\"\nspeed = 4800\noffset = -100"));
    let daemon = setup.boot();
    let fix = Arc::new(AtomicBool::new(true));
    let has_fix = Arc::clone(&fix);
    let _talker = Talker::start(Duration::from_secs(1), move || {
        // As a slow line does it: a tenth of a second late, in pieces.
        let shown = truth().offset(100_000_000 - 1024 * 7 * DAY);
        let time = Timestamp::from_nanosecond(shown.nanos()).unwrap();
        let status = if has_fix.load(Ordering::Relaxed) { 'A' } else { 'V' };
        let body =
            time.strftime(&format!("GPRMC,%H%M%S%.3f,{status},,,,,,,%d%m%y,,,A")).to_string();
        let sum = body.bytes().fold(0, |sum, octet| sum ^ octet);
        let text = format!("$GPGSV,3,1,11*79\r\n${body}*{sum:02X}\r\n");
        let (first, second) = text.split_at(30);
        (&terminal).write_all(first.as_bytes()).unwrap();
        (&terminal).write_all(second.as_bytes()).unwrap();
    });

    daemon.wait_for("synchronised", 20, |status| status.time.ntp.synchronized);
    assert_right(&lab, 100);

    fix.store(false, Ordering::Relaxed);
    daemon.wait_for("it says so", 10, |status| names(status, "no fix"));
}

/// Pulses alone say nothing; with servers that number them they are the best clock.
fn pulses() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    wan.down();
    let file = lab.path("assert");
    fs::write(&file, "").unwrap();
    let setup = setup
        .refclock("kind = \"pps\"\npath = \"assert\"\nprefer = true")
        .refclock("kind = \"sock\"\npulse = true\nname = \"edge\"\npath = \"gps.sock\"");
    let daemon = setup.boot();
    let _gps = Gps::start(&lab, Says::Pulse);
    let number = Mutex::new(0);
    let _kernel = Talker::start(Duration::from_secs(1), move || {
        // The machine's clock, at the moment at which a second of the lab's time began.
        let into = truth().nanos().rem_euclid(1_000_000_000);
        let stamp = KernelClock.utc().offset(-into);
        let mut number = number.lock().unwrap();
        *number += 1;
        let nanos = stamp.nanos().rem_euclid(1_000_000_000);
        fs::write(&file, format!("{}.{nanos:09}#{number}\n", stamp.secs())).unwrap();
    });

    thread::sleep(Duration::from_secs(4));
    let status = daemon.status();
    assert_eq!(status.time.level, "cold", "pulses have no vote");
    assert_eq!(source(&daemon, "PPS").verdict, "silent");

    wan.up();
    daemon.wait_for("by pulses", 20, |status| status.time.ntp.reference_id == "PPS");
    for name in ["PPS", "edge"] {
        assert_eq!(source(&daemon, name).verdict, "truechimer", "{}", daemon.log());
    }
    assert_right(&lab, 20);
}

/// The list says that this day of the lab ends with a leap second; the sources say nothing of it.
fn leap_second() {
    let lab = Lab::new();
    let day = DAY / 1_000_000_000;
    let midnight = (Nanos::from(truth().secs()) / day + 1) * day + 2_208_988_800;
    let (updated, expires) = (midnight - day, midnight + 5 * day);
    let digits = format!("{updated}{expires}227206080010{midnight}11");
    let sum = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, digits.as_bytes());
    let words = sum.as_ref().chunks(4).map(|word| {
        let word = u32::from_be_bytes(word.try_into().unwrap());
        format!("{word:x}")
    });
    let seal = words.collect::<Vec<_>>().join(" ");
    let list = format!("#$ {updated}\n#@ {expires}\n2272060800 10\n{midnight} 11\n#h {seal}\n");
    fs::write(lab.path("leap-seconds.list"), list).unwrap();
    let (setup, _wan) = lab.honest();
    let daemon = setup.clock("leap_file = \"leap-seconds.list\"").boot();

    let status = daemon.wait_for("disciplined", 15, |status| status.time.ntp.synchronized);
    assert_eq!(status.time.ntp.leap, 1);
    assert_eq!(ask_ntp(lab.ntp()).unwrap().leap, 1);
    // It holds for five days more.
    let told = |status: &Status| status.conditions.iter().any(|it| it.name == "leap-seconds");
    daemon.wait_for("its end is told of", 5, told);
}

const GPS: &str = "kind = \"sock\"\npath = \"gps.sock\"";
const PREFERRED: &str = "kind = \"sock\"\npath = \"gps.sock\"\nprefer = true";

/// What gpsd says.
#[derive(Clone, Copy, Debug)]
enum Says {
    Frozen(UnixTime),
    Off(Nanos),
    /// Where the second begins, and no more.
    Pulse,
    Truth,
}

/// Sends samples as gpsd does, four times a second, from before the daemon takes them.
struct Gps {
    says: Arc<Mutex<Says>>,
    _talker: Talker,
}

impl Gps {
    fn start(lab: &Lab, says: Says) -> Self {
        let path = lab.path("gps.sock");
        let says = Arc::new(Mutex::new(says));
        let told = Arc::clone(&says);
        let socket = UnixDatagram::unbound().unwrap();
        let each = Duration::from_millis(250);
        let talker = Talker::start(each, move || {
            let said = *told.lock().unwrap();
            drop(socket.send_to(&sample(said), &path));
        });
        Self { says, _talker: talker }
    }

    fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }
}

/// timeval, offset, pulse, leap, padding and "SOCK".
fn sample(says: Says) -> Vec<u8> {
    let stamp = KernelClock.utc();
    let (seconds, micros) = (stamp.secs(), stamp.nanos().rem_euclid(1_000_000_000) / 1000);
    let stamp = UnixTime::from_secs(seconds).offset(micros * 1000);
    let said = match says {
        Says::Frozen(time) => time,
        Says::Off(off) => truth().offset(off),
        Says::Pulse | Says::Truth => truth(),
    };
    let mut ahead = said.since(stamp);
    if matches!(says, Says::Pulse) {
        ahead = ahead.rem_euclid(1_000_000_000);
    }
    #[expect(clippy::cast_precision_loss, reason = "years in nanoseconds, right to a microsecond")]
    let offset = ahead as f64 / 1e9;
    let micros = i64::try_from(micros).unwrap();
    let pulse = i32::from(matches!(says, Says::Pulse));
    let rest = [pulse, 0, 0, 0x534f_434b].into_iter().flat_map(i32::to_ne_bytes);
    let times = [seconds.to_ne_bytes(), micros.to_ne_bytes(), offset.to_ne_bytes()];
    times.into_iter().flatten().chain(rest).collect()
}

/// Does something again and again, until it is dropped.
struct Talker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Talker {
    fn start(each: Duration, talk: impl Fn() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                talk();
                thread::sleep(each);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn chronyd(lab: &Lab) -> String {
    let output = chrony::ask(lab, 8);
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

fn source(daemon: &Daemon, name: &str) -> Source {
    let sources = daemon.sources().sources;
    sources.into_iter().find(|source| source.address == name).unwrap()
}

fn names(status: &Status, why: &str) -> bool {
    let told = status.conditions.iter().find(|condition| condition.name == "reference-clock");
    told.is_some_and(|condition| condition.text.contains(why))
}

/// NTP clients are told the lab's time, to so many milliseconds.
fn assert_right(lab: &Lab, error: Nanos) {
    let told = ask_ntp(lab.ntp()).unwrap();
    assert!(told.is_synchronized() && told.off.abs() < error * 1_000_000, "{told:?}");
}
