//! Reference clocks: samples that another program takes, from a GPS receiver above all, come by a
//! socket in the form that gpsd has for chrony ("SOCK").
//!
//! A sample says how far the machine's clock was off at a moment by that same clock. What is kept of
//! it is the true time at a moment of the monotonic clock, which no step disturbs.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::net::UnixDatagram;

use crate::clock::{Nanos, Reading, UnixTime, nanos};

/// "SOCK" in the last field of a sample.
const MAGIC: i32 = 0x534f_434b;
/// A sample that took longer to arrive is too old to be placed.
const LATE: Duration = Duration::from_secs(2);
/// Two samples may disagree by so much on how long it was from one to the other.
const SCATTER: Nanos = 250_000_000;
/// Samples that must agree with each other before they are followed elsewhere.
const AGREEING: usize = 4;
/// What reading and passing on a sample takes, as the round trip of other sources.
const DELAY: Duration = Duration::from_micros(20);
/// log2 of what one sample is worth, in seconds.
const PRECISION: i8 = -20;

/// A sample as it comes by the socket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The machine's clock when it was taken.
    pub taken: UnixTime,
    /// How far that clock was behind the truth, in nanoseconds.
    pub offset: Nanos,
    /// Leap indicator: 0, 1 or 2 (RFC 5905 figure 9).
    pub leap: u8,
}

/// Why a datagram is no sample.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// It took too long, or the clock was moved meanwhile.
    #[error("it was taken {} ms ago by the machine's clock", .0 / 1_000_000)]
    Late(Nanos),
    /// Its length is neither of the two that there are.
    #[error("{0} octets are no sample")]
    Length(usize),
    /// Another program's.
    #[error("it does not end in \"SOCK\"")]
    Magic,
    /// The offset is not a number of seconds that there can be.
    #[error("its offset is no time")]
    Offset,
    /// A pulse at a second that nobody has numbered.
    #[error("it marks a second without saying which")]
    Pulse,
    /// It stands still, or runs at another speed than time does.
    #[error("it differs by {} ms from what the one before it foretold", .0 / 1_000_000)]
    Strays(Nanos),
    /// The receiver does not know the time.
    #[error("the receiver says that it is not synchronized")]
    Unsynchronized,
}

impl Sample {
    /// Reads a datagram: `struct timeval`, a double, four ints, in the machine's own order.
    ///
    /// # Errors
    ///
    /// [`Unfit`] says what it is instead.
    pub fn parse(datagram: &[u8]) -> Result<Self, Unfit> {
        let unfit = Unfit::Length(datagram.len());
        let (seconds, micros, rest) = match datagram.len() {
            40 => {
                let (seconds, rest) = datagram.split_first_chunk().ok_or(unfit)?;
                let (micros, rest) = rest.split_first_chunk().ok_or(unfit)?;
                (i64::from_ne_bytes(*seconds), i64::from_ne_bytes(*micros), rest)
            }
            // Of a program whose time has 32 bits.
            32 => {
                let (seconds, rest) = datagram.split_first_chunk().ok_or(unfit)?;
                let (micros, rest) = rest.split_first_chunk().ok_or(unfit)?;
                (i32::from_ne_bytes(*seconds).into(), i32::from_ne_bytes(*micros).into(), rest)
            }
            _ => return Err(unfit),
        };
        let (offset, rest) = rest.split_first_chunk().ok_or(unfit)?;
        let mut ints = rest
            .chunks_exact(4)
            .map(|int| int.first_chunk().map_or(0, |octets: &[u8; 4]| i32::from_ne_bytes(*octets)));
        let [pulse, leap, _, magic] = [(); 4].map(|()| ints.next().unwrap_or_default());
        if magic != MAGIC {
            return Err(Unfit::Magic);
        }
        if pulse != 0 {
            return Err(Unfit::Pulse);
        }
        let leap = u8::try_from(leap).ok().filter(|leap| *leap < 3).ok_or(Unfit::Unsynchronized)?;
        let offset = f64::from_ne_bytes(*offset);
        // A century is more than a clock can be off.
        if !offset.is_finite() || offset.abs() > 3.2e9 || !(0..1_000_000).contains(&micros) {
            return Err(Unfit::Offset);
        }
        #[expect(clippy::cast_possible_truncation, reason = "it was just bounded")]
        let offset = (offset * 1e9) as Nanos;
        let taken = UnixTime::from_secs(seconds).offset(Nanos::from(micros) * 1000);
        Ok(Self { taken, offset, leap })
    }
}

/// What is made of the samples of one clock.
#[derive(Debug)]
pub struct RefClock {
    name: [u8; 4],
    error: Duration,
    /// The last sample that was followed: a moment, and the true time then.
    last: Option<(Instant, UnixTime)>,
    /// Samples since that stray from it.
    stray: VecDeque<(Instant, UnixTime)>,
}

impl RefClock {
    /// `name` is told to clients as reference id, up to four letters of it; `error` is what its
    /// samples may be off.
    #[must_use]
    pub fn new(name: &str, error: Duration) -> Self {
        let mut letters = name.bytes();
        let name = [(); 4].map(|()| letters.next().unwrap_or_default());
        Self { name, error, last: None, stray: VecDeque::new() }
    }

    /// Takes a sample that arrived at `now`, when the machine's clock showed `machine`.
    ///
    /// # Errors
    ///
    /// [`Unfit`], if nothing can be made of it, or not yet.
    pub fn take(
        &mut self,
        sample: &Sample,
        now: Instant,
        machine: UnixTime,
    ) -> Result<Reading, Unfit> {
        let age = machine.since(sample.taken);
        let late = Unfit::Late(age);
        let passed = u64::try_from(age).map(Duration::from_nanos).map_err(|_| late)?;
        let at = now.checked_sub(passed).filter(|_| passed <= LATE).ok_or(late)?;
        let utc = sample.taken.offset(sample.offset);
        self.follow(at, utc)?;
        Ok(Reading {
            at,
            utc,
            error: self.error,
            delay: DELAY,
            stratum: 0,
            reference_id: self.name,
            root_delay: Duration::ZERO,
            root_dispersion: self.error,
            leap: sample.leap,
            precision: PRECISION,
        })
    }

    /// Whether the time goes on as it did. Where it does not, several samples have to agree on how
    /// it goes instead: a receiver that hangs repeats itself, and one that finds the sky jumps once.
    fn follow(&mut self, at: Instant, utc: UnixTime) -> Result<(), Unfit> {
        let strays = |(before, then): (Instant, UnixTime)| {
            utc.since(then) - nanos(at.saturating_duration_since(before))
        };
        let off = self.last.map_or(0, strays);
        if off.abs() <= SCATTER && self.last.is_none_or(|(before, _)| at > before) {
            self.stray.clear();
            self.last = Some((at, utc));
            return Ok(());
        }
        if self.stray.back().is_some_and(|back| strays(*back).abs() > SCATTER || at <= back.0) {
            self.stray.clear();
        }
        self.stray.push_back((at, utc));
        if self.stray.len() < AGREEING {
            return Err(Unfit::Strays(off));
        }
        self.stray.clear();
        self.last = Some((at, utc));
        Ok(())
    }
}

/// Opens the socket at `path`, in place of what an earlier run left there.
///
/// # Errors
///
/// What the system says; something else than a socket stands there and is left alone.
pub fn open(path: &Path) -> io::Result<UnixDatagram> {
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(io::Error::other("something else than a socket stands there"));
        }
        fs::remove_file(path)?;
    }
    let socket = UnixDatagram::bind(path)?;
    // Whoever can write here can set the clock.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// Waits for the next datagram.
///
/// # Errors
///
/// What the system says.
pub async fn receive(socket: &UnixDatagram) -> io::Result<Result<Sample, Unfit>> {
    let mut datagram = [0; 64];
    let length = socket.recv(&mut datagram).await?;
    Ok(Sample::parse(datagram.get(..length).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sample_of_either_size_is_read() {
        let long = [&1_800_000_000_i64.to_ne_bytes()[..], &250_000_i64.to_ne_bytes(), &tail(-1.5)];
        let short = [&1_800_000_000_i32.to_ne_bytes()[..], &250_000_i32.to_ne_bytes(), &tail(-1.5)];

        let sample = Sample::parse(&long.concat()).unwrap();

        assert_eq!(sample, Sample::parse(&short.concat()).unwrap());
        assert_eq!(sample.taken, UnixTime::from_nanos(1_800_000_000_250_000_000));
        assert_eq!((sample.offset, sample.leap), (-1_500_000_000, 0));
    }

    #[test]
    fn what_is_no_sample_says_why() {
        let with = |offset: f64, ints: [i32; 4]| {
            let ints: Vec<u8> = ints.iter().flat_map(|int| int.to_ne_bytes()).collect();
            Sample::parse(&[&[0; 16][..], &offset.to_ne_bytes(), &ints].concat()).unwrap_err()
        };

        assert_eq!(Sample::parse(&[0; 39]), Err(Unfit::Length(39)));
        assert_eq!(with(0.0, [0, 0, 0, 7]), Unfit::Magic);
        assert_eq!(with(0.0, [1, 0, 0, MAGIC]), Unfit::Pulse);
        assert_eq!(with(0.0, [0, 3, 0, MAGIC]), Unfit::Unsynchronized);
        assert_eq!(with(f64::NAN, [0, 0, 0, MAGIC]), Unfit::Offset);
        assert_eq!(with(1e12, [0, 0, 0, MAGIC]), Unfit::Offset);
    }

    #[test]
    fn a_sample_is_placed_where_it_was_taken_whatever_the_machine_s_clock_shows() {
        let mut world = World::new();

        let reading = world.sample(Duration::from_millis(300)).unwrap();

        assert_eq!(reading.at + Duration::from_millis(300), world.now);
        assert_eq!(reading.utc, world.truth() - Duration::from_millis(300));
        assert_eq!((reading.stratum, reading.reference_id), (0, *b"GPS\0"));
        assert!(matches!(world.sample(Duration::from_secs(3)), Err(Unfit::Late(_))));
    }

    /// The power cut of January 2025: the GPS box answered, and always the same.
    #[test]
    fn a_receiver_that_hangs_is_believed_no_longer() {
        let mut world = World::new();
        world.pass(1000);
        assert!(world.sample(Duration::ZERO).is_ok());
        let frozen = world.truth();

        let taken = (0..60).filter(|_| {
            world.pass(1000);
            let sample =
                Sample { taken: world.machine, offset: frozen.since(world.machine), leap: 0 };
            world.clock.take(&sample, world.now, world.machine).is_ok()
        });

        assert_eq!(taken.count(), 0);
    }

    #[test]
    fn one_that_finds_its_time_late_is_followed_once_its_samples_agree() {
        let mut world = World::new();
        for _ in 0..5 {
            world.pass(1000);
            world.sample(Duration::ZERO).unwrap();
        }
        world.ahead = 7_000_000_000;

        let taken: Vec<_> = (0..6)
            .map(|_| {
                world.pass(1000);
                world.sample(Duration::ZERO).is_ok()
            })
            .collect();

        assert_eq!(taken, [false, false, false, true, true, true]);
    }

    proptest! {
        #[test]
        fn no_octets_make_reading_panic(octets in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut world = World::new();
            if let Ok(sample) = Sample::parse(&octets) {
                let _ = world.clock.take(&sample, world.now, world.machine);
            }
        }
    }

    fn tail(offset: f64) -> Vec<u8> {
        let ints = [0, 0, 0, MAGIC].map(i32::to_ne_bytes);
        [&offset.to_ne_bytes()[..], ints.as_flattened()].concat()
    }

    /// A machine whose clock stands decades behind.
    struct World {
        clock: RefClock,
        now: Instant,
        machine: UnixTime,
        ahead: Nanos,
    }

    impl World {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        fn new() -> Self {
            let clock = RefClock::new("GPS", Duration::from_millis(100));
            let now = Instant::now() + Duration::from_secs(10);
            Self { clock, now, machine: UnixTime::from_secs(1000), ahead: 0 }
        }

        fn pass(&mut self, millis: u64) {
            let span = Duration::from_millis(millis);
            self.now += span;
            self.machine = self.machine + span;
        }

        fn truth(&self) -> UnixTime {
            self.machine.offset(1_800_000_000_000_000_000 + self.ahead)
        }

        fn sample(&mut self, ago: Duration) -> Result<Reading, Unfit> {
            let offset = self.truth().since(self.machine);
            let sample = Sample { taken: self.machine - ago, offset, leap: 0 };
            self.clock.take(&sample, self.now, self.machine)
        }
    }
}
