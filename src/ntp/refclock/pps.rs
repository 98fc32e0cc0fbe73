//! Pulses per second, as the kernel stamps them (RFC 2783): read where it shows them to everybody,
//! which needs no ioctl.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Sample, Trouble};
use crate::clock::{Nanos, UnixTime};
use crate::node::ports::Wall;

/// How often the file is looked at. The kernel has stamped the pulse by then.
const LOOK_EACH: Duration = Duration::from_millis(200);

/// A source of pulses.
#[derive(Debug)]
pub(super) struct Pulses {
    file: PathBuf,
    seen: Option<u64>,
}

impl Pulses {
    /// Of `/dev/ppsN` the kernel shows the stamps in `/sys/class/pps/ppsN/assert`; any other path is
    /// that of such a file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = match path.strip_prefix("/dev") {
            Ok(device) => Path::new("/sys/class/pps").join(device).join("assert"),
            Err(_) => path.to_owned(),
        };
        File::open(&file)?;
        Ok(Self { file, seen: None })
    }

    /// The next pulse. Nothing is lost if this is dropped before it ends.
    pub(super) async fn sample(&mut self, clock: &dyn Wall) -> Result<Sample, Trouble> {
        loop {
            tokio::time::sleep(LOOK_EACH).await;
            let mut text = String::new();
            let file = File::open(&self.file).map_err(Trouble::Lost)?;
            file.take(64).read_to_string(&mut text).map_err(Trouble::Lost)?;
            if text.trim().is_empty() {
                continue;
            }
            let (stamp, sequence) = parse(&text).ok_or(Trouble::Malformed(
                "the kernel's stamp is not seconds, nanoseconds and a number",
            ))?;
            if self.seen.replace(sequence) == Some(sequence) {
                continue;
            }
            let (wall, mono) = clock.wall();
            let age = u64::try_from(wall.since(stamp)).map(Duration::from_nanos);
            let at = age.ok().and_then(|age| mono.checked_sub(age));
            let at = at.ok_or(Trouble::Malformed("the pulse is of another time"))?;
            // A pulse marks the beginning of a second; which one, our wall clock does not decide.
            let utc = UnixTime::from_secs(stamp.offset(500_000_000).secs());
            return Ok(Sample { at, utc, leap: 0 });
        }
    }
}

/// `1773468700.000001234#56`: the stamp, and the number of the pulse.
fn parse(text: &str) -> Option<(UnixTime, u64)> {
    let (stamp, sequence) = text.trim().split_once('#')?;
    let (seconds, nanos) = stamp.split_once('.')?;
    let nanos = nanos.parse::<u32>().ok().filter(|nanos| *nanos < 1_000_000_000)?;
    let stamp = UnixTime::from_secs(seconds.parse().ok()?).offset(Nanos::from(nanos));
    Some((stamp, sequence.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_stamps_are_read() {
        let stamp = UnixTime::from_secs(1_773_468_700).offset(1_234);
        assert_eq!(parse("1773468700.000001234#56\n"), Some((stamp, 56)));
        for text in ["", "1773468700", "1.2", "1.2#", "a.2#3", "1.2000000000#3"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
