//! Samples in datagrams, as chrony's SOCK driver takes them; gpsd and others send them.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixDatagram;

use super::{Sample, Trouble};
use crate::clock::{Nanos, UnixTime};
use crate::node::ports::Wall;

/// "SOCK", in the sender's order of octets.
const MAGIC: i32 = 0x534f_434b;
/// A sample of a sender whose times have 64 bits, and of one whose have 32.
const LONG: usize = 40;
const SHORT: usize = 32;
/// Between two datagrams. A sender that floods is read no faster, and waits in the kernel's queue.
const REST: Duration = Duration::from_millis(5);

/// What a datagram says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Datagram {
    /// The machine's wall clock when the sample was taken.
    stamp: UnixTime,
    /// The clock's time less that.
    offset: Nanos,
    /// It tells only where the second begins.
    pulse: bool,
    leap: u8,
}

/// A socket that others send samples to.
#[derive(Debug)]
pub(super) struct Socket(UnixDatagram);

impl Socket {
    /// Opens it, for root and this user alone; what a program that has ended left there goes.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket()) {
            if StdDatagram::unbound()?.connect(path).is_ok() {
                let taken = "another program takes samples there";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, taken));
            }
            fs::remove_file(path)?;
        }
        let socket = UnixDatagram::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self(socket))
    }

    /// The next sample. Nothing is lost if this is dropped before it ends.
    pub(super) async fn sample(&self, clock: &dyn Wall, pulse: bool) -> Result<Sample, Trouble> {
        tokio::time::sleep(REST).await;
        let mut octets = [0; LONG + 1];
        let len = self.0.recv(&mut octets).await.map_err(Trouble::Lost)?;
        let said = parse(octets.get(..len).unwrap_or_default())?;
        if said.leap > 2 {
            return Err(Trouble::NoFix);
        }
        if said.pulse && !pulse {
            return Err(Trouble::Pulses);
        }
        let (wall, mono) = clock.wall();
        let age = wall.since(said.stamp);
        let behind = |by: Nanos| u64::try_from(by).ok().map(Duration::from_nanos);
        let at = match behind(age) {
            Some(age) => mono.checked_sub(age),
            None => behind(-age).and_then(|by| mono.checked_add(by)),
        };
        let at = at.ok_or(Trouble::Malformed("its time stamp is decades away"))?;
        Ok(Sample { at, utc: said.stamp.offset(said.offset), leap: said.leap })
    }
}

/// Reads a datagram in this machine's order of octets.
pub(super) fn parse(octets: &[u8]) -> Result<Datagram, Trouble> {
    let short = match octets.len() {
        LONG => false,
        SHORT => true,
        _ => return Err(Trouble::Malformed("a datagram has 40 octets, or 32 on an old system")),
    };
    let (seconds, micros, rest) = if short {
        let (seconds, rest) = i32_of(octets)?;
        let (micros, rest) = i32_of(rest)?;
        (i64::from(seconds), i64::from(micros), rest)
    } else {
        let (seconds, rest) = take(octets).map(|(it, rest)| (i64::from_ne_bytes(it), rest))?;
        let (micros, rest) = take(rest).map(|(it, rest)| (i64::from_ne_bytes(it), rest))?;
        (seconds, micros, rest)
    };
    let (offset, rest) = take(rest).map(|(it, rest)| (f64::from_ne_bytes(it), rest))?;
    let (pulse, rest) = i32_of(rest)?;
    let (leap, rest) = i32_of(rest)?;
    let (_, rest) = i32_of(rest)?;
    let (magic, _) = i32_of(rest)?;
    if magic != MAGIC {
        return Err(Trouble::Malformed("the datagram does not end with SOCK"));
    }
    if !(0..1_000_000).contains(&micros) {
        return Err(Trouble::Malformed("its microseconds are no microseconds"));
    }
    if offset.is_nan() || offset.abs() > MOST_OFFSET {
        return Err(Trouble::Malformed("its offset is no number, or centuries"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "bounded, and what is below 1 ns is noise")]
    let offset = (offset * 1e9) as Nanos;
    Ok(Datagram {
        stamp: UnixTime::from_secs(seconds).offset(Nanos::from(micros) * 1000),
        offset,
        pulse: pulse != 0,
        leap: u8::try_from(leap).unwrap_or(u8::MAX),
    })
}

/// A clock in 1970 and one of today are far apart, but not this far. In seconds.
const MOST_OFFSET: f64 = 1e10;

fn i32_of(octets: &[u8]) -> Result<(i32, &[u8]), Trouble> {
    take(octets).map(|(it, rest)| (i32::from_ne_bytes(it), rest))
}

fn take<const N: usize>(octets: &[u8]) -> Result<([u8; N], &[u8]), Trouble> {
    let (first, rest) = octets.split_first_chunk().ok_or(Trouble::Malformed("it is too short"))?;
    Ok((*first, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sample_is_read_whether_its_sender_has_64_bits_for_time_or_32() {
        let expected = Datagram {
            stamp: UnixTime::from_secs(1_800_000_000).offset(250_000_000),
            offset: -1_500_000_000,
            pulse: true,
            leap: 2,
        };
        let long = [&1_800_000_000_i64.to_ne_bytes()[..], &250_000_i64.to_ne_bytes()].concat();
        let short = [1_800_000_000_i32.to_ne_bytes(), 250_000_i32.to_ne_bytes()].concat();

        for times in [long, short] {
            assert_eq!(parse(&datagram(times, -1.5, [1, 2, 0, MAGIC])).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_sample_is_told_why() {
        let times = |micros: i64| [8_i64.to_ne_bytes(), micros.to_ne_bytes()].concat();
        let why = |octets: &[u8]| parse(octets).unwrap_err().to_string();

        assert!(why(&[0; 39]).contains("40 octets"));
        assert!(why(&datagram(times(0), 0.0, [0; 4])).contains("SOCK"));
        assert!(why(&datagram(times(-1), 0.0, [0, 0, 0, MAGIC])).contains("microseconds"));
        for offset in [f64::NAN, f64::INFINITY, 1e11] {
            assert!(why(&datagram(times(0), offset, [0, 0, 0, MAGIC])).contains("offset"));
        }
    }

    #[tokio::test]
    async fn what_a_dead_process_left_is_replaced_and_nothing_else() {
        let path = |name: &str| {
            std::env::temp_dir().join(format!("firstlight-sock-{}-{name}", std::process::id()))
        };
        let (dead, file) = (path("dead"), path("file"));
        drop(StdDatagram::bind(&dead).unwrap());
        fs::write(&file, "somebody's").unwrap();

        let socket = Socket::open(&dead).unwrap();
        assert_eq!(fs::metadata(&dead).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Socket::open(&dead).unwrap_err().to_string().contains("another program"));
        assert_eq!(Socket::open(&file).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&file).unwrap(), "somebody's");

        drop(socket);
        fs::remove_file(dead).unwrap();
        fs::remove_file(file).unwrap();
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..64)) {
            drop(parse(&octets));
            let mut octets = octets;
            octets.resize(LONG, 0);
            octets[36..].copy_from_slice(&MAGIC.to_ne_bytes());
            drop(parse(&octets));
        }
    }

    fn datagram(times: Vec<u8>, offset: f64, rest: [i32; 4]) -> Vec<u8> {
        let rest = rest.into_iter().flat_map(i32::to_ne_bytes);
        times.into_iter().chain(offset.to_ne_bytes()).chain(rest).collect()
    }
}
