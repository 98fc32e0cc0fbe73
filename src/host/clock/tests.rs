use super::*;
use crate::host::kernel::KernelClock;

#[test]
fn observing_moves_our_clock_and_leaves_the_machines_alone() {
    let (os, clock) = machine(ClockMode::Observe);

    clock.step(GUESS_AHEAD);
    clock.set_frequency(100.0);
    os.pass(Duration::from_secs(10_000));
    clock.set_frequency(0.0);
    os.pass(Duration::from_secs(10));

    assert_eq!(clock.utc().since(GUESS), GUESS_AHEAD + 10_011 * PER_SECOND);
    assert_eq!(os.moves(), []);
    assert_eq!(clock.os_utc().secs(), 10_010);
}

#[test]
fn steering_puts_the_os_clock_where_ours_is_in_one_step() {
    let (os, clock) = machine(ClockMode::Steer);

    clock.step(3 * PER_SECOND);
    os.pass(Duration::from_secs(60));

    assert_eq!(clock.utc().since(GUESS), 63 * PER_SECOND);
    assert_eq!(clock.os_utc(), clock.utc());
    assert_eq!(os.moves(), [Move::TakeControl, Move::Step(GUESS.nanos() + 3 * PER_SECOND)]);
    assert_eq!(clock.foreign_step(), None);
}

#[test]
fn a_stamp_of_the_machines_clock_is_a_moment_unless_the_clock_was_moved() {
    let (os, clock) = machine(ClockMode::Observe);
    os.pass(Duration::from_secs(5));
    let (stamp, at) = (clock.os_utc(), clock.mono());
    os.pass(Duration::from_millis(30));

    assert_eq!(clock.moment_of(stamp), Some(at));

    os.pass(Duration::from_millis(71));
    assert_eq!(clock.moment_of(stamp), None);
    os.with(|os| os.utc = UnixTime::EPOCH);
    assert_eq!(clock.moment_of(stamp), None);
}

#[test]
fn without_the_capability_it_observes_and_says_why() {
    let os = Arc::new(FakeOs::default());
    os.with(|os| os.refuses = true);

    let clock = MachineClock::new(ClockMode::Steer, GUESS, os.clone());
    clock.step(PER_SECOND);
    clock.set_frequency(10.0);

    assert_eq!(clock.mode(), ClockMode::Observe);
    assert_eq!(
        clock.refusal().map(|error| error.to_string()),
        Some(
            "the kernel refuses to hand its clock over: Insufficient permissions to \
             interact with the clock."
                .to_owned()
        )
    );
    assert_eq!(clock.utc().since(GUESS), PER_SECOND);
    assert!((clock.frequency() - 10.0).abs() < f64::EPSILON);
    assert_eq!(os.moves(), []);
}

#[test]
fn a_clock_in_1970_is_moved_forward_to_the_guess_and_one_in_2040_is_left() {
    let (os, clock) = machine(ClockMode::Steer);

    assert_eq!(clock.move_os_forward_to(GUESS), Some(GUESS.nanos()));
    assert_eq!(clock.os_utc(), GUESS);
    assert_eq!(clock.move_os_forward_to(GUESS), None);

    os.with(|os| os.utc = UnixTime::from_secs(2_208_988_800));
    assert_eq!(clock.move_os_forward_to(GUESS), None);
    assert_eq!(clock.utc(), GUESS);
}

#[test]
fn another_hand_on_the_clock_is_seen_and_undone() {
    let (os, clock) = machine(ClockMode::Steer);
    clock.step(0);

    os.with(|os| os.utc = os.utc.offset(-200_000_000));
    assert_eq!(clock.foreign_step(), Some(-200_000_000));
    clock.resync_os();

    assert_eq!(clock.foreign_step(), None);
    assert_eq!(clock.os_utc(), clock.utc());
}

#[test]
fn another_hand_is_seen_before_the_clock_was_ever_set() {
    let (os, clock) = machine(ClockMode::Steer);
    assert_eq!(clock.foreign_step(), None);

    os.with(|os| os.utc = UnixTime::from_secs(2_208_988_800));

    assert_eq!(clock.foreign_step(), Some(2_208_988_800 * PER_SECOND));
}

#[test]
fn another_hand_on_the_frequency_is_seen() {
    let (os, clock) = machine(ClockMode::Steer);
    clock.set_frequency(12.5);
    assert_eq!(clock.foreign_frequency(), None);

    os.with(|os| os.ppm = -40.0);

    assert_eq!(clock.foreign_frequency(), Some(-40.0));
    clock.resync_os();
    assert_eq!(clock.foreign_frequency(), None);
}

#[test]
fn a_leap_second_the_kernel_took_on_our_word_is_followed() {
    let (os, clock) = machine(ClockMode::Steer);
    clock.step(0);
    clock.set_status(KernelStatus { leap: 1, ..SYNCHRONIZED });
    let before = clock.utc();

    os.with(|os| os.utc = os.utc.offset(-PER_SECOND));

    assert_eq!(clock.foreign_step(), None);
    assert_eq!(clock.utc().since(before), -PER_SECOND);
    os.with(|os| os.utc = os.utc.offset(-PER_SECOND));
    assert_eq!(clock.foreign_step(), Some(-PER_SECOND));
}

#[test]
fn observing_it_takes_a_leap_second_by_itself_and_once() {
    for (leap, second) in [(1, -PER_SECOND), (2, PER_SECOND)] {
        let (os, clock) = machine(ClockMode::Observe);
        clock.step("2027-06-30T23:59:50Z".parse::<UnixTime>().unwrap().since(clock.utc()));
        assert_eq!(clock.leap_second(), None);
        clock.set_status(KernelStatus { leap, ..SYNCHRONIZED });
        let before = clock.utc();
        let due = clock.leap_second().unwrap();
        assert_eq!(due, Duration::from_secs(if leap == 1 { 10 } else { 9 }));

        os.pass(due);
        assert_eq!(clock.leap_second(), Some(Duration::ZERO));
        clock.set_status(KernelStatus { leap, ..SYNCHRONIZED });
        os.pass(Duration::from_secs(3));
        assert!(clock.leap_second().is_none_or(|left| left > Duration::from_secs(3600)));

        let passed = nanos(due) + 3 * PER_SECOND;
        assert_eq!(clock.utc().since(before), passed + second);
        assert_eq!(os.moves(), []);
    }
}

#[test]
fn the_frequency_is_clamped_to_what_the_kernel_takes() {
    for mode in [ClockMode::Observe, ClockMode::Steer] {
        let (_, clock) = machine(mode);
        for (asked, set) in [(900.0, 500.0), (-900.0, -500.0), (f64::NAN, 0.0), (7.5, 7.5)] {
            clock.set_frequency(asked);
            assert!((clock.frequency() - set).abs() < f64::EPSILON, "{mode:?} {asked}");
        }
    }
}

#[test]
fn after_giving_up_steering_the_os_clock_is_not_touched_again() {
    let (os, clock) = machine(ClockMode::Steer);
    clock.step(0);
    let moves = os.moves();

    clock.observe();
    clock.step(PER_SECOND);
    clock.set_frequency(50.0);
    clock.resync_os();
    clock.set_status(SYNCHRONIZED);

    assert_eq!(os.moves(), moves);
    assert_eq!(clock.foreign_step(), None);
    assert_eq!(clock.utc().since(GUESS), PER_SECOND);
}

#[test]
fn instants_before_a_step_are_read_on_the_line_after_it() {
    let (os, clock) = machine(ClockMode::Observe);
    let before = clock.mono();
    os.pass(Duration::from_secs(5));

    clock.step(PER_SECOND);
    clock.set_frequency(100.0);

    assert_eq!(clock.utc_at(before).since(GUESS), PER_SECOND - 500_000);
}

#[test]
fn the_kernels_clocks_can_be_read() {
    let clock = MachineClock::new(ClockMode::Observe, GUESS, Arc::new(KernelClock));

    assert!(clock.os_utc() > UnixTime::EPOCH);
    assert!(clock.utc() >= GUESS);
    assert!(clock.mono() <= clock.mono());
}

const GUESS: UnixTime = UnixTime::from_secs(1_773_468_700);
const GUESS_AHEAD: Nanos = 123 * PER_SECOND;
const SYNCHRONIZED: KernelStatus = KernelStatus {
    synchronized: true,
    est_error: Duration::from_millis(1),
    max_error: Duration::from_millis(20),
    leap: 0,
};

fn machine(mode: ClockMode) -> (Arc<FakeOs>, MachineClock) {
    let os = Arc::new(FakeOs::default());
    let clock = MachineClock::new(mode, GUESS, os.clone());
    (os, clock)
}

/// A machine that boots in 1970. The real one is never steered in a test.
#[derive(Debug)]
struct FakeOs(Mutex<FakeState>);

#[derive(Debug)]
struct FakeState {
    mono: Instant,
    utc: UnixTime,
    ppm: f64,
    refuses: bool,
    moves: Vec<Move>,
}

#[derive(Clone, Debug, PartialEq)]
enum Move {
    Frequency(f64),
    Status(KernelStatus),
    Step(Nanos),
    TakeControl,
}

impl Default for FakeOs {
    fn default() -> Self {
        Self(Mutex::new(FakeState {
            mono: KernelClock.mono(),
            utc: UnixTime::EPOCH,
            ppm: 0.0,
            refuses: false,
            moves: Vec::new(),
        }))
    }
}

impl FakeOs {
    fn with<T>(&self, read: impl FnOnce(&mut FakeState) -> T) -> T {
        read(&mut self.0.lock().unwrap())
    }

    fn pass(&self, time: Duration) {
        self.with(|os| {
            os.mono += time;
            os.utc = os.utc + time;
        });
    }

    fn moves(&self) -> Vec<Move> {
        self.with(|os| os.moves.clone())
    }

    fn moved(&self, what: Move, apply: impl FnOnce(&mut FakeState)) -> Result<(), OsClockError> {
        self.with(|os| {
            if os.refuses {
                let reason = clock_steering::unix::Error::NoPermission;
                return Err(OsClockError { what: "hand its clock over", reason });
            }
            os.moves.push(what);
            apply(os);
            Ok(())
        })
    }
}

impl OsClock for FakeOs {
    fn mono(&self) -> Instant {
        self.with(|os| os.mono)
    }

    fn utc(&self) -> UnixTime {
        self.with(|os| os.utc)
    }

    fn step(&self, by: Nanos) -> Result<(), OsClockError> {
        self.moved(Move::Step(by), |os| os.utc = os.utc.offset(by))
    }

    fn frequency(&self) -> Result<f64, OsClockError> {
        Ok(self.with(|os| os.ppm))
    }

    fn set_frequency(&self, ppm: f64) -> Result<(), OsClockError> {
        self.moved(Move::Frequency(ppm), |os| os.ppm = ppm)
    }

    fn take_control(&self) -> Result<(), OsClockError> {
        self.moved(Move::TakeControl, |_| ())
    }

    fn set_status(&self, status: KernelStatus) -> Result<(), OsClockError> {
        self.moved(Move::Status(status), |_| ())
    }
}
