//! The NixOS module, evaluated with the library of nixpkgs: what it makes of good settings, and what it
//! says to bad ones.
//!
//! `NIXPKGS_LIB` names a checkout of github.com/nix-community/nixpkgs.lib; nothing is built, and no VM boots.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::{Lab, needing};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};

const NIX: &str = "nix-instantiate";
const LIBRARY: &str = "NIXPKGS_LIB";

fn main() {
    let trials = vec![
        needing(NIX, "every_nix_file_can_be_read", parsed),
        evaluated("by_default_it_runs_with_what_is_built_in_and_takes_the_clock", defaults),
        evaluated("its_settings_are_a_configuration_that_the_program_takes", accepted),
        evaluated("what_has_no_type_is_found_by_the_program", refused_by_the_program),
        evaluated("wrong_types_and_typing_errors_are_named", wrong),
        evaluated("what_cannot_be_together_is_said_with_a_way_out", asserted),
        evaluated("too_few_voices_are_warned_of", warned),
        evaluated("beside_another_clock_program_it_only_observes", observing),
        evaluated("secrets_and_certificates_reach_it_without_the_store", secrets),
        evaluated("it_is_ordered_as_the_unit_of_packages_is", ordered),
        evaluated("the_flake_gives_the_module_a_package_and_a_check", flake),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A trial that takes the library, too.
fn evaluated(name: &str, test: impl FnOnce() + Send + 'static) -> Trial {
    let trial = needing(NIX, name, test);
    if lab::find(NIX).is_none() || env::var_os(LIBRARY).is_some() {
        return trial;
    }
    trial.with_kind(format!("{LIBRARY} is not set")).with_ignored_flag(true)
}

fn parsed() {
    let mut files = vec![root().join("flake.nix")];
    let mut folders = vec![root().join("nixos")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    assert!(files.len() > 15, "{files:?}");
    for file in files {
        let output = nix().arg("--parse").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn defaults() {
    let machine = evaluate("minimal").unwrap();

    assert_eq!(machine["failed"], json!([]));
    assert_eq!(machine["warnings"], json!([]));
    let host = &machine["host"];
    assert_eq!(host["nameservers"], json!(["127.0.0.1", "::1"]));
    assert_eq!(host["resolved"], false);
    assert_eq!(host["timesyncd"], false);
    assert_eq!(host["firewall"], json!({"allowedTCPPorts": [], "allowedUDPPorts": []}));
    assert_eq!(machine["wait"], true);
    assert_eq!(machine["undescribed"], json!([]));
    // Looked at by the program, before it is switched to.
    assert!(machine["file"].as_str().unwrap().ends_with("-checked-firstlight.toml"));
    assert!(machine["check"].as_str().unwrap().contains("/bin/firstlight check --config"));

    let package = &machine["package"];
    assert_eq!(package["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(package["license"], json!(["MIT", "Apache-2.0"]));
    assert_eq!(env!("CARGO_PKG_LICENSE"), "MIT OR Apache-2.0");

    // Where systemd-networkd's module wants resolved by default, nobody has to choose.
    assert_eq!(evaluate("networkd").unwrap()["host"]["resolved"], false);
}

fn accepted() {
    let lab = Lab::new();
    for (case, warns) in
        [("minimal", false), ("full", true), ("observe", false), ("acme-host", true)]
    {
        let machine = evaluate(case).unwrap();
        assert_eq!(machine["failed"], json!([]), "{case}");

        let (code, said) = check(&lab, &machine["settings"]);

        assert_eq!(code, Some(0), "{case}:\n{said}");
        assert!(said.contains("0 errors"), "{case}:\n{said}");
        // What is not there yet is a doubt and no mistake.
        let missing = said.contains("/run/credentials/") || said.contains("/var/lib/acme/");
        assert_eq!(missing, warns, "{case}:\n{said}");
    }
    let ports = &evaluate("full").unwrap()["host"]["firewall"];
    assert_eq!(
        *ports,
        json!({"allowedTCPPorts": [53, 853, 443], "allowedUDPPorts": [53, 853, 123]})
    );
}

fn refused_by_the_program() {
    let machine = evaluate("unknown-setting").unwrap();

    let (code, said) = check(&Lab::new(), &machine["settings"]);

    assert_ne!(code, Some(0));
    assert!(said.contains("`stail`"), "{said}");
}

fn wrong() {
    for (case, words) in [
        ("typo", "Did you mean `services.firstlight.enable'"),
        ("source-by-name", "IP address (a name cannot stand here"),
        ("no-port", "address and port, like 0.0.0.0:53"),
        ("plaintext-upstream", "one of \"doh\", \"doq\", \"dot\""),
    ] {
        let error = evaluate(case).unwrap_err();
        assert!(error.contains(words), "{case}: no `{words}` in\n{error}");
    }
}

fn asserted() {
    for (case, expected) in [
        ("two-clocks", &["services.chrony.enable = false; services.ntpd-rs.enable = false;"][..]),
        (
            "two-resolvers",
            &["services.firstlight.useAsLocalResolver = false;", "Add \"127.0.0.1:53\" to"],
        ),
        (
            "no-such-certificate",
            &[
                "security.acme.certs.\"dns.example.org\" does not exist",
                "Remove one of them",
                "below /var/lib/firstlight alone",
            ],
        ),
    ] {
        let failed = evaluate(case).unwrap()["failed"].clone();
        let failed: Vec<String> = serde_json::from_value(failed).unwrap();
        assert_eq!(failed.len(), expected.len(), "{case}: {failed:#?}");
        for (message, words) in failed.iter().zip(expected) {
            assert!(message.contains(words), "{case}: no `{words}` in\n{message}");
        }
    }
}

fn warned() {
    for (case, words) in [
        ("few-sources", "2 time sources are given by address, and three must agree"),
        ("one-operator", "all time sources are run by 192.0"),
    ] {
        let machine = evaluate(case).unwrap();
        assert_eq!(machine["failed"], json!([]), "{case}");
        let warnings = machine["warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), 1, "{case}: {warnings:#?}");
        assert!(warnings[0].as_str().unwrap().contains(words), "{case}: {warnings:#?}");
    }
}

fn observing() {
    let machine = evaluate("observe").unwrap();

    assert_eq!(machine["failed"], json!([]));
    let service = &machine["daemon"]["serviceConfig"];
    assert_eq!(service["CapabilityBoundingSet"], json!(["CAP_NET_BIND_SERVICE"]));
    assert_eq!(service["AmbientCapabilities"], json!(["CAP_NET_BIND_SERVICE"]));
    assert_eq!(service["ProtectClock"], true);
    assert_eq!(machine["daemon"]["conflicts"], json!([]));
    // The other program's to say.
    assert_eq!(machine["wait"], false);
    assert_eq!(machine["host"]["timesyncd"], true);
}

fn secrets() {
    let full = evaluate("full").unwrap();
    assert_eq!(full["daemon"]["serviceConfig"]["LoadCredential"], json!(["tsig:/run/agenix/tsig"]));

    // Read where it lies: a credential would be that of the last start for good.
    let acme = evaluate("acme-host").unwrap();
    assert_eq!(acme["daemon"]["serviceConfig"]["SupplementaryGroups"], json!(["certificates"]));
    let folder = "/var/lib/acme/dns.example.org";
    assert_eq!(
        acme["settings"]["tls"],
        json!({
            "name": "dns.example.org",
            "certificate": format!("{folder}/fullchain.pem"),
            "key": format!("{folder}/key.pem"),
        })
    );
}

fn ordered() {
    let unit = fs::read_to_string(root().join("packaging/systemd/firstlight.service")).unwrap();
    let words = |key: &str| -> Vec<&str> {
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.flat_map(str::split_whitespace).collect()
    };
    let daemon = &evaluate("minimal").unwrap()["daemon"];

    for (key, name) in [("After", "after"), ("Before", "before"), ("Wants", "wants")] {
        assert_eq!(daemon[name], json!(words(key)), "{key}");
    }
    assert_eq!(json!(words("WantedBy")), daemon["wantedBy"]);
    assert_eq!(daemon["startLimitIntervalSec"].to_string(), words("StartLimitIntervalSec")[0]);
    // A switch must not leave the house without names while it goes on.
    assert_eq!(daemon["stopIfChanged"], false);
}

fn flake() {
    let systems = ["aarch64-linux", "x86_64-linux"];
    let fake = "{ callPackage = _: _: \"package\"; testers.runNixOSTest = test: test.name; }";
    let expression = format!(
        "let outputs = (import {root}/flake.nix).outputs {{ self = {{ }}; nixpkgs = {{ \
           lib = import {library}/lib; legacyPackages = {{ aarch64-linux = {fake}; x86_64-linux = {fake}; }}; \
         }}; }}; in {{ inherit (outputs) packages checks; \
         module = builtins.isFunction outputs.nixosModules.default; }}",
        root = root().display(),
        library = library().display(),
    );
    let output = nix().args(["--eval", "--strict", "--json", "-E", &expression]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let outputs: Value = serde_json::from_slice(&output.stdout).unwrap();

    assert_eq!(outputs["module"], true);
    for system in systems {
        assert_eq!(outputs["packages"][system]["default"], "package");
        assert_eq!(outputs["checks"][system]["power-cut"], "firstlight-power-cut");
    }
}

/// The machine that a case of `nixos/tests/cases` makes, or what Nix says against it.
fn evaluate(case: &str) -> Result<Value, String> {
    let tests = root().join("nixos/tests");
    let output = nix()
        .args(["--eval", "--strict", "--json"])
        .arg(tests.join("eval.nix"))
        .args(["--arg", "nixpkgsLib"])
        .arg(library().join("lib"))
        .args(["--arg", "case"])
        .arg(tests.join("cases").join(case).with_extension("nix"))
        .output()
        .unwrap();
    // It prints the beginning of what it could not finish.
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// What `firstlight check` says to the settings, and its exit code.
fn check(lab: &Lab, settings: &Value) -> (Option<i32>, String) {
    let tables = settings.as_object().unwrap().iter();
    let lines: Vec<_> = tables.map(|(key, value)| format!("{key} = {}", toml(value))).collect();
    let file = lab.path("nixos.toml");
    fs::write(&file, lines.join("\n")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_firstlight"))
        .args(["check", "--config"])
        .arg(file)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// A value in TOML, on one line. Strings are written as in JSON.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(table) => {
            let pairs = table.iter().map(|(key, value)| format!("{key} = {}", toml(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::Array(values) => {
            format!("[{}]", values.iter().map(toml).collect::<Vec<_>>().join(", "))
        }
        Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// Nix without a store, which nothing here needs.
fn nix() -> Command {
    let mut nix = Command::new(NIX);
    nix.args(["--store", "dummy://"]);
    nix
}

fn library() -> PathBuf {
    PathBuf::from(env::var_os(LIBRARY).unwrap())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
