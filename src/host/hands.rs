//! Who else may be moving the machine's clock.

use std::collections::BTreeSet;
use std::fs;

/// The programs that set clocks, by the name of their process (cut to 15 octets by the kernel).
const CLOCK_PROGRAMS: &[&str] = &[
    "chronyd",
    "fake-hwclock",
    "ntpd",
    "ntpd-rs",
    "ntpsec",
    "openntpd",
    "phc2sys",
    "systemd-timesyn",
    "vmtoolsd",
    "VBoxService",
];

/// The programs running here that set clocks, each with its process id.
#[must_use]
pub fn suspects() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = BTreeSet::new();
    for entry in entries.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(name) = fs::read_to_string(entry.path().join("comm")) else { continue };
        let name = name.trim();
        if pid != std::process::id() && CLOCK_PROGRAMS.contains(&name) {
            found.insert(format!("{name} (process {pid})"));
        }
    }
    found.into_iter().collect()
}
