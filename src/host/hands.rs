//! Who else may be moving the machine's clock.

use std::collections::BTreeSet;
use std::fs;

/// Programs that set clocks all the time, by the name of their process (cut to 15 octets by the kernel).
pub const TIME_SERVICES: [&str; 8] = [
    "chronyd",
    "ntp-daemon",
    "ntpd",
    "ntpd-rs",
    "ntpsec",
    "openntpd",
    "phc2sys",
    "systemd-timesyn",
];

/// Programs that set them now and then: each hour, or when the host of a virtual machine says so.
const OTHERS: [&str; 3] = ["fake-hwclock", "vmtoolsd", "VBoxService"];

/// The programs running here that set clocks, each with its process id.
#[must_use]
pub fn suspects() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = BTreeSet::new();
    for entry in entries.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(name) = fs::read_to_string(entry.path().join("comm")) else { continue };
        let name = name.trim();
        let sets_clocks = TIME_SERVICES.iter().chain(&OTHERS).any(|program| *program == name);
        if pid != std::process::id() && sets_clocks {
            found.insert(format!("{name} (process {pid})"));
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn ntpd_rs_is_named_by_its_process() {
        let folder = std::env::temp_dir().join(format!("firstlight-hands-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("ntp-daemon");
        // By a process of its own: a file that this one has open for writing cannot be run.
        assert!(Command::new("cp").arg("/bin/sleep").arg(&program).status().unwrap().success());
        let mut daemon = Command::new(&program).arg("60").spawn().unwrap();

        let wanted = format!("ntp-daemon (process {})", daemon.id());
        // Between fork and exec it has our name.
        let mut found = Vec::new();
        for _ in 0..500 {
            found = suspects();
            if found.contains(&wanted) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        fs::remove_dir_all(&folder).unwrap();

        assert!(found.contains(&wanted), "{found:?}");
    }
}
