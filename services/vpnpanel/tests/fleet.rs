//! The fleet simulator as a shell sees it: small fleets, real processes, exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::process::{Command, Output};

fn fleet(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vpnpanel"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("VPNPANEL_") {
            command.env_remove(name);
        }
    }
    command.arg("fleet").args(arguments).output().unwrap()
}

/// The lines of the report, by name.
fn report(output: &Output) -> HashMap<String, String> {
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(name, found)| (name.trim().to_owned(), found.trim().to_owned()))
        .collect()
}

fn everything(output: &Output) -> String {
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(stdout).into_owned() + &String::from_utf8_lossy(stderr)
}

#[test]
fn what_is_billed_is_what_was_counted_while_everything_breaks() {
    let output = fleet(&[
        "run",
        "--nodes=20",
        "--users-per-node=20",
        "--pools=4",
        "--for=10s",
        "--fault-every=500ms",
        "--faults=kill-agents,cut,half-open,kill-control-plane",
    ]);
    let said = everything(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report = report(&output);
    assert_eq!(report["counted"], report["billed"], "{said}");
    assert!(report["counted"].contains("MiB"), "{said}");
    for name in ["lost", "doubled"] {
        assert_eq!(report[name], "0 B", "{said}");
    }
    assert!(report["change until applied"].contains("median"), "{said}");
    assert!(report.contains_key("seed"), "{said}");
}

#[test]
fn users_stop_at_their_limits_and_what_they_used_is_billed() {
    let output = fleet(&[
        "run",
        "--nodes=5",
        "--users-per-node=5",
        "--for=8s",
        "--rate=1MiB",
        "--limit=4MiB",
        "--spools=memory",
    ]);
    let said = everything(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report = report(&output);
    assert_eq!(report["counted"], report["billed"], "{said}");
    assert_eq!(report["most over a limit"], "0 B", "{said}");
}

#[test]
fn books_that_do_not_agree_in_time_are_told_and_exit_1() {
    // Nothing is billed within no time: what was counted last is missing.
    let output = fleet(&[
        "run",
        "--nodes=3",
        "--users-per-node=3",
        "--for=1s",
        "--settle=0s",
    ]);
    let said = everything(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the books differ"), "{said}");
    assert_ne!(report(&output)["lost"], "0 B", "{said}");
}

#[test]
fn idle_streams_and_a_storm_are_measured_beside_bare_ones() {
    let size = ["--nodes=12", "--users-per-node=2"];
    let output = fleet(&[&["idle", "--for=1s"], &size[..]].concat());
    let said = everything(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let idle = report(&output);
    assert_eq!(idle["idle streams"], "12", "{said}");
    for name in ["memory of a stream", "memory of a bare stream", "ratio"] {
        assert!(idle.contains_key(name), "{said}");
    }
    let output = fleet(&[&["storm"], &size[..]].concat());
    let said = everything(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let storm = report(&output);
    assert!(storm["all nodes are back after"].contains("bare"), "{said}");
    assert!(storm.contains_key("memory at its largest"), "{said}");
}

#[test]
fn settings_that_do_not_fit_exit_2_and_help_tells_the_units() {
    for (arguments, expected) in [
        (&["run", "--nodes=0"][..], "1..=100000"),
        (&["run", "--rate=much"], "a size in bytes"),
        (&["run", "--for=long"], "a duration with a unit"),
        (&["run", "--faults=earthquake"], "kill-agents"),
        (&["run", "--users-per-node=0"], "nothing to count"),
        (&["run", "--control-api=http://127.0.0.1:1"], "--api-token"),
    ] {
        let output = fleet(arguments);
        let said = everything(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    let output = fleet(&["run", "--help"]);
    let said = everything(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for words in ["[default: 64KiB]", "[default: 30s]", "kill-control-plane"] {
        assert!(said.contains(words), "{said}");
    }
}
