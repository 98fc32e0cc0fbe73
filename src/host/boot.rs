//! What the machine remembers of this boot and of time before it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::clock::{UnixTime, nanos};

/// The clock's least possible reading: no release of firstlight runs before it was made.
///
/// `SOURCE_DATE_EPOCH` of the build, if that is a date at all, else a constant raised at each release; never the
/// build machine's clock, which nobody vouches for.
#[must_use]
pub fn build_epoch() -> UnixTime {
    option_env!("SOURCE_DATE_EPOCH")
        .and_then(|seconds| seconds.trim().parse().ok())
        .filter(|seconds| *seconds >= PLACEHOLDERS)
        .map_or(RELEASE_EPOCH, UnixTime::from_secs)
}

/// Tells this boot of the machine from every other.
///
/// # Errors
///
/// `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Time since boot, suspend included (`CLOCK_BOOTTIME`); the same for every process of a boot.
///
/// # Errors
///
/// The kernel does not have that clock (Linux before 2.6.39).
pub fn since_boot() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

/// A file whose time of change is a moment that has passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark {
    /// Who sets it, and when, for people.
    pub origin: &'static str,
    /// The moment.
    pub time: UnixTime,
}

/// The marks other programs left on this machine: candidates for the guess, never for the floor.
#[must_use]
pub fn marks() -> Vec<Mark> {
    marks_below(Path::new("/"))
}

fn marks_below(root: &Path) -> Vec<Mark> {
    MARKS
        .iter()
        .filter_map(|(path, origin)| {
            let changed = fs::metadata(root.join(path)).ok()?.modified().ok()?;
            let time = match changed.duration_since(UNIX_EPOCH) {
                Ok(after) => nanos(after),
                Err(before) => -nanos(before.duration()),
            };
            Some(Mark { origin, time: UnixTime::from_nanos(time) })
        })
        .collect()
}

/// 2026-11-01T00:00:00Z. Raise it at each release.
const RELEASE_EPOCH: UnixTime = UnixTime::from_secs(1_793_491_200);
/// 2020-01-01. Earlier dates come from tools that have none, like 1980-01-01 from nixpkgs.
const PLACEHOLDERS: i64 = 1_577_836_800;

const MARKS: &[(&str, &str)] = &[
    ("usr/lib/clock-epoch", "the distribution's build (/usr/lib/clock-epoch)"),
    (
        "var/lib/systemd/timesync/clock",
        "systemd-timesyncd's last word (/var/lib/systemd/timesync/clock)",
    ),
    (
        "var/lib/private/systemd/timesync/clock",
        "systemd-timesyncd's last word (/var/lib/private/systemd/timesync/clock)",
    ),
];

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn the_release_constant_is_the_date_it_claims() {
        assert_eq!(RELEASE_EPOCH.to_string(), "2026-11-01T00:00:00Z");
        assert!(build_epoch() > UnixTime::EPOCH);
    }

    #[test]
    fn this_boot_has_an_id_and_an_age() {
        assert_eq!(boot_id().unwrap().len(), 36);
        let earlier = since_boot().unwrap();
        assert!(since_boot().unwrap() >= earlier);
    }

    #[test]
    fn marks_are_the_files_times_and_a_missing_file_is_none() {
        let root = std::env::temp_dir().join(format!("firstlight-marks-{}", std::process::id()));
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        let file = File::create(root.join("usr/lib/clock-epoch")).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_773_468_700)).unwrap();

        let marks = marks_below(&root);
        fs::remove_dir_all(&root).unwrap();

        let [mark] = marks.as_slice() else { panic!("{marks:?}") };
        assert_eq!(mark.time.to_string(), "2026-03-14T06:11:40Z");
        assert!(mark.origin.contains("/usr/lib/clock-epoch"));
    }
}
