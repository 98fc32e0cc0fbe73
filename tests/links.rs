//! A change of the routes is seen without privilege, and only a change.
//!
//! It happens in a network of its own (a network namespace): the machine's is left alone.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::env;
use std::process::{Command, Stdio};
use std::time::Duration;

use firstlight::host::link::{Links, PathChanged};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::time::timeout;

/// Set for the process that runs inside the namespace.
const INSIDE: &str = "FIRSTLIGHT_TEST_INSIDE_NAMESPACE";

fn main() {
    if env::var_os(INSIDE).is_some() {
        return inside();
    }
    let name = "a_default_route_that_comes_and_goes_is_seen_once_each";
    let trial = if namespaces_work() {
        Trial::test(name, outside)
    } else {
        let name = format!("{name} (no network namespaces, or no `ip` and `unshare`)");
        Trial::test(name, || Ok(())).with_ignored_flag(true)
    };
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit();
}

fn outside() -> Result<(), Failed> {
    let output =
        Command::new("unshare").arg("-Urn").arg(env::current_exe()?).env(INSIDE, "1").output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}

#[tokio::main(flavor = "current_thread")]
async fn inside() {
    ip("link set lo up");
    let mut links = Links::open().unwrap();

    ip("route add 128.0.0.0/1 dev lo");
    let came = timeout(PATIENCE, links.changed()).await.unwrap().unwrap();

    // Two notices within the time to settle, and in the end nothing but one route less.
    ip("route del 128.0.0.0/1 dev lo");
    ip("address add 127.0.0.5/8 dev lo");
    let went = timeout(PATIENCE, links.changed()).await.unwrap().unwrap();

    ip("address del 127.0.0.5/8 dev lo");
    let nothing = timeout(Duration::from_millis(300), links.changed()).await;

    let route = "lo leads out (00000080/00000080 by 00000000, 0)".to_owned();
    assert_eq!(came, PathChanged { gained: vec![route.clone()], lost: vec![] });
    assert_eq!(went, PathChanged { gained: vec![], lost: vec![route] });
    assert!(nothing.is_err(), "{nothing:?}");
}

const PATIENCE: Duration = Duration::from_secs(2);

fn namespaces_work() -> bool {
    let tried = Command::new("unshare")
        .args(["-Urn", "ip", "link", "set", "lo", "up"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}

fn ip(what: &str) {
    assert!(Command::new("ip").args(what.split(' ')).status().unwrap().success(), "ip {what}");
}
