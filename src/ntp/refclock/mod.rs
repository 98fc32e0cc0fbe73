//! Reference clocks: receivers of GPS and the like on this machine (RFC 5905 section 7.3: stratum 0).
//!
//! A device gives samples; the judge makes readings of them, or says what is wrong.

mod judge;
mod nmea;
mod pps;
mod serial;
mod sock;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use judge::Judge;
use pps::Pulses;
use serial::Line;
use sock::Socket;

use crate::clock::{Nanos, Reading, UnixTime, describe, nanos};
use crate::config::{self, RefClockKind};
use crate::node::ports::Wall;

/// A device that cannot be opened is tried again after this pause.
const RETRY: Duration = Duration::from_secs(1);

/// At `at` the clock's time was `utc`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    at: std::time::Instant,
    utc: UnixTime,
    /// 0, 1 or 2 (RFC 5905 figure 9).
    leap: u8,
}

/// What the judge must know of a clock.
#[derive(Clone, Copy, Debug)]
struct Spec {
    /// The most it can be wrong.
    error: Duration,
    /// What is added to its time.
    offset: Nanos,
    /// Its samples tell only where seconds begin.
    pulse: bool,
    reference_id: [u8; 4],
}

/// Why a clock gives no reading.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Its time goes on, but not with ours.
    #[error("its time jumps, last by {}", describe(*.0))]
    Jumps(Nanos),
    /// The device is gone.
    #[error("it cannot be read: {0}")]
    Lost(io::Error),
    /// What it sends is no sample.
    #[error("{0}")]
    Malformed(&'static str),
    /// The receiver says so itself.
    #[error("the receiver has no fix: it does not know the time itself")]
    NoFix,
    /// Samples that were taken at another time than they came.
    #[error("its samples are {} {}", describe(nanos(*.age)).trim_start_matches('+'), if *.ahead { "too early" } else { "old" })]
    Old {
        /// How old they are.
        age: Duration,
        /// They come from the future.
        ahead: bool,
    },
    /// It marks seconds, and is configured to number them.
    #[error("it sends pulses, which do not say which second begins: write pulse = true for it")]
    Pulses,
    /// Nothing comes.
    #[error("nothing comes from it")]
    Silent,
    /// It repeats one time.
    #[error("it hangs: its time stands still at {0}")]
    StandsStill(UnixTime),
    /// It cannot be opened.
    #[error("{} cannot be opened: {error}", path.display())]
    Unopened {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// One reference clock, with its device once that is open.
#[derive(Debug)]
pub struct RefClock {
    config: config::RefClock,
    floor: UnixTime,
    clock: Arc<dyn Wall>,
    device: Option<Device>,
    judge: Judge,
}

#[derive(Debug)]
enum Device {
    Line(Line),
    Pulses(Pulses),
    Socket(Socket),
}

impl RefClock {
    /// The clock that `config` describes. It is opened at its first use. `floor` tells a receiver's
    /// eras apart.
    #[must_use]
    pub fn new(config: config::RefClock, floor: UnixTime, clock: Arc<dyn Wall>) -> Self {
        let spec = Spec {
            error: Duration::from_millis(config.error.into()),
            offset: Nanos::from(config.offset) * 1_000_000,
            pulse: config.pulse,
            reference_id: reference_id(&config.name),
        };
        let judge = Judge::new(spec, clock.mono());
        Self { config, floor, clock, device: None, judge }
    }

    /// What the clock says next.
    ///
    /// # Errors
    ///
    /// Why it has said nothing for some seconds. It is listened to all the same.
    pub async fn next(&mut self) -> Result<Reading, Trouble> {
        loop {
            let due = self.judge.poll_timeout();
            let wait = due.saturating_duration_since(self.clock.mono());
            let sample = tokio::time::timeout(wait, self.sample()).await;
            let now = self.clock.mono();
            match sample {
                Ok(Ok(sample)) => {
                    if let Some(reading) = self.judge.handle_sample(sample, now) {
                        return Ok(reading);
                    }
                }
                Ok(Err(trouble)) => {
                    if matches!(trouble, Trouble::Lost(_)) {
                        self.device = None;
                    }
                    self.judge.handle_trouble(trouble);
                }
                Err(_) => {}
            }
            if let Some(trouble) = self.judge.handle_timeout(now) {
                return Err(trouble);
            }
        }
    }

    async fn sample(&mut self) -> Result<Sample, Trouble> {
        let device = match &mut self.device {
            Some(device) => device,
            none => match Device::open(&self.config) {
                Ok(device) => none.insert(device),
                Err(error) => {
                    let path = self.config.path.clone();
                    self.judge.handle_trouble(Trouble::Unopened { path, error });
                    tokio::time::sleep(RETRY).await;
                    return Box::pin(self.sample()).await;
                }
            },
        };
        match device {
            Device::Line(line) => line.sample(&*self.clock, self.floor).await,
            Device::Pulses(pulses) => pulses.sample(&*self.clock).await,
            Device::Socket(socket) => socket.sample(&*self.clock, self.config.pulse).await,
        }
    }
}

impl Device {
    fn open(config: &config::RefClock) -> io::Result<Self> {
        let path: &Path = &config.path;
        match config.kind {
            RefClockKind::Nmea => Line::open(path, config.speed).map(Self::Line),
            RefClockKind::Pps => Pulses::open(path).map(Self::Pulses),
            RefClockKind::Sock => Socket::open(path).map(Self::Socket),
        }
    }
}

/// The name in four capitals, as NTP clients know the primary sources (RFC 5905 figure 12).
fn reference_id(name: &str) -> [u8; 4] {
    let mut id = [0; 4];
    for (to, from) in id.iter_mut().zip(name.bytes()) {
        *to = from.to_ascii_uppercase();
    }
    id
}
