//! What one edge needs of another, as traits; `app` hands out the implementations.

use std::fmt::Debug;
use std::io;
use std::time::Instant;

use crate::clock::{Nanos, UnixTime};

/// Reads time. Implemented by the machine's clocks, and by virtual ones in tests.
pub trait Clock: Debug + Send + Sync {
    /// The monotonic clock, for every deadline.
    fn mono(&self) -> Instant;

    /// firstlight's UTC at `at`: disciplined time, or the guess while there is none.
    fn utc_at(&self, at: Instant) -> UnixTime;

    /// When the machine's own clock showed `stamp`; `None` where that is not known, or was not
    /// just a moment ago.
    fn moment_of(&self, _stamp: UnixTime) -> Option<Instant> {
        None
    }

    /// firstlight's UTC at this moment.
    fn utc(&self) -> UnixTime {
        self.utc_at(self.mono())
    }
}

/// Reads the machine's wall clock beside ours: others stamp with it what they hand over.
pub trait Wall: Clock {
    /// The machine's wall clock and the monotonic one, as of one moment.
    fn wall(&self) -> (UnixTime, Instant);
}

/// Moves the clock. In observe mode this is the software clock, in steer mode the machine's too.
pub trait Steer: Clock {
    /// Moves the clock by `by` nanoseconds at once.
    fn step(&self, by: Nanos);

    /// Sets the frequency correction, in parts per million; positive runs faster.
    fn set_frequency(&self, ppm: f64);

    /// The frequency correction in force, in parts per million.
    fn frequency(&self) -> f64;
}

/// Named values that outlive a power cut: each is always its old version or the next one.
pub trait Shelf: Debug + Send + Sync {
    /// The value `name`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be read. One that is damaged is set aside, and a further read gives `None`.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Replaces the value `name`.
    ///
    /// # Errors
    ///
    /// If that is not on disk. Reads give it all the same, from memory.
    fn write(&self, name: &str, value: &[u8]) -> io::Result<()>;

    /// Puts the value `name` where a person can look at it, and gives the place; then there is none.
    ///
    /// # Errors
    ///
    /// If that cannot be done.
    fn set_aside(&self, name: &str) -> io::Result<String>;
}
