//! A serial line that a receiver talks on.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::termios::{self, BaudRate, ControlFlags, SetArg};
use tokio::net::unix::pipe::Receiver;

use super::nmea::{self, Sentence};
use super::{Sample, Trouble};
use crate::clock::UnixTime;
use crate::node::ports::Clock;

/// A line that does not end within so many octets is none.
const MOST: usize = 256;
/// ZDA says nothing of a fix: it counts unless RMC has spoken within this time.
const RMC_COUNTS: Duration = Duration::from_secs(5);

/// An open line, and what of a sentence has come over it.
#[derive(Debug)]
pub(super) struct Line {
    device: Receiver,
    octets: Vec<u8>,
    /// When the sentence under way began.
    began: Option<Instant>,
    rmc: Option<Instant>,
}

impl Line {
    /// Opens `path` and makes it a raw line of `speed` bits a second, for reading.
    pub(super) fn open(path: &Path, speed: u32) -> io::Result<Self> {
        let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let device = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
        let mut settings = termios::tcgetattr(&device)?;
        termios::cfmakeraw(&mut settings);
        termios::cfsetspeed(&mut settings, baud_rate(speed))?;
        settings.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
        termios::tcsetattr(&device, SetArg::TCSANOW, &settings)?;
        let octets = Vec::with_capacity(MOST);
        // To the runtime a serial line is a pipe: something to read, and its end.
        let device = Receiver::from_file_unchecked(device)?;
        Ok(Self { device, octets, began: None, rmc: None })
    }

    /// The next sample. Nothing is lost if this is dropped before it ends.
    pub(super) async fn sample(
        &mut self,
        clock: &dyn Clock,
        floor: UnixTime,
    ) -> Result<Sample, Trouble> {
        loop {
            let mut octets = [0; 64];
            self.device.readable().await.map_err(Trouble::Lost)?;
            let len = match self.device.try_read(&mut octets) {
                Ok(0) => return Err(Trouble::Lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(Trouble::Lost(error)),
            };
            let now = clock.mono();
            let mut found = None;
            for octet in octets.iter().take(len) {
                if let Some(sentence) = self.take(*octet, floor, now) {
                    found = Some(sentence);
                }
            }
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// Takes one octet; what the sentence says that it ends.
    fn take(
        &mut self,
        octet: u8,
        floor: UnixTime,
        now: Instant,
    ) -> Option<Result<Sample, Trouble>> {
        match octet {
            b'$' => {
                self.octets.clear();
                self.began = Some(now);
            }
            b'\n' => {
                let began = self.began.take();
                let said = nmea::parse(&self.octets, floor);
                self.octets.clear();
                return match said {
                    // A sentence whose beginning nobody heard.
                    Err(_) if began.is_none() => None,
                    Err(garbled) => Some(Err(Trouble::Malformed(garbled.as_str()))),
                    Ok(said) => self.said(said?, began?),
                };
            }
            _ if self.octets.len() == MOST => {
                self.octets.clear();
                self.began = None;
                return Some(Err(Trouble::Malformed(nmea::Garbled::Checksum.as_str())));
            }
            _ => {}
        }
        self.octets.push(octet);
        None
    }

    fn said(&mut self, said: Sentence, at: Instant) -> Option<Result<Sample, Trouble>> {
        let utc = match said {
            Sentence::Fix(utc) => {
                self.rmc = Some(at);
                utc
            }
            Sentence::NoFix => {
                self.rmc = Some(at);
                return Some(Err(Trouble::NoFix));
            }
            Sentence::Time(_)
                if self.rmc.is_some_and(|rmc| at.saturating_duration_since(rmc) < RMC_COUNTS) =>
            {
                return None;
            }
            Sentence::Time(utc) => utc,
        };
        Some(Ok(Sample { at, utc, leap: 0 }))
    }
}

fn baud_rate(speed: u32) -> BaudRate {
    match speed {
        4800 => BaudRate::B4800,
        19_200 => BaudRate::B19200,
        38_400 => BaudRate::B38400,
        57_600 => BaudRate::B57600,
        115_200 => BaudRate::B115200,
        _ => BaudRate::B9600,
    }
}
