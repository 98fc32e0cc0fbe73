//! People elsewhere are told of conditions, in the words of `status`, and late rather than never.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::fs;
use std::time::Duration;

use firstlight::admin::report::Status;
use lab::hook::Hook;
use lab::{Lab, eventually};

#[test]
fn a_condition_that_lasts_is_told_in_the_words_of_status_and_kept_while_nobody_takes_it() {
    let lab = Lab::new();
    let server = Hook::start(&lab);
    lab.keep_secret("token", "of-this-machine\n");
    let (setup, _wan) = lab.honest();
    let file = setup.certificate("missing.pem", "missing.key").write();
    let text = fs::read_to_string(&file).unwrap();
    let url = format!("https://{}", server.address);
    let recipients = format!(
        "[[notify]]\nkind = \"webhook\"\nurl = \"{url}/hook\"\nca = \"ca.pem\"\ntoken_file = \"token\"\n\
         [[notify]]\nkind = \"ping\"\nurl = \"{url}/alive\"\nca = \"ca.pem\"\nevery = 10\n"
    );
    fs::write(&file, text + &recipients).unwrap();
    let mut daemon = lab::Daemon::start(&lab, &["--start", "@0"]);
    daemon.serves(&lab).unwrap();

    // Whoever does not take it is tried again.
    let told = eventually(Duration::from_secs(90), || {
        let told = server.requests("POST /hook");
        (told.len() >= 2).then_some(told)
    });
    let told = told.unwrap_or_else(|| panic!("{:?}\n{}", server.requests(""), daemon.log()));
    let message = &server.messages()[0];
    assert_eq!(message["condition"], "certificate-files");
    assert_eq!(message["severity"], "error");
    assert_eq!(message["holds"], true);
    assert_eq!(message["host"], "dns.home.lan");
    assert!(told[1].to_lowercase().contains("authorization: bearer of-this-machine\r\n"));
    let status = daemon.status();
    let held = status.conditions.iter().find(|held| held.name == "certificate-files").unwrap();
    assert_eq!(message["text"], held.text);
    let untold =
        |status: &Status| status.conditions.iter().any(|held| held.name == "notifications-unsent");
    daemon.wait_for("nobody waits for a message", 5, |status| !untold(status));

    assert!(server.requests("GET /alive").len() >= 3, "{:?}", server.requests(""));
}
