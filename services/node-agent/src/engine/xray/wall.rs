//! Keeps subscribers' connections off the node itself and its private neighbourhood, in the
//! kernel: whatever a name resolved to, the address that is connected to is what counts.

use std::fmt::Write as _;

use super::config::{CLOSED, MARK};
use crate::{Error, host};

/// Puts the wall up, or as it should be.
pub(super) fn raise(table: &str) -> Result<(), Error> {
    host::run("nft", "nftables", &["-f", "-"], &rules(table)).map(drop)
}

/// Takes it down; one that is not there is no error.
pub(super) fn remove(table: &str) -> Result<(), Error> {
    let text = format!("table inet {table} {{ }}\ndelete table inet {table}\n");
    host::run("nft", "nftables", &["-f", "-"], &text).map(drop)
}

/// Made anew as a whole, so that it is right whatever was there. Answers to connections that
/// were made from outside bear no mark and pass.
fn rules(table: &str) -> String {
    let (six, four): (Vec<_>, Vec<_>) = CLOSED.iter().partition(|network| network.contains(':'));
    let mut text = format!("table inet {table} {{ }}\ndelete table inet {table}\n");
    // Writing to a string does not fail.
    let _ = writeln!(text, "table inet {table} {{");
    let _ = writeln!(text, "\tchain output {{");
    let _ = writeln!(
        text,
        "\t\ttype filter hook output priority filter; policy accept;"
    );
    let _ = writeln!(text, "\t\tmeta mark != {MARK:#x} accept");
    let _ = writeln!(text, "\t\tfib daddr type local reject");
    for (family, networks) in [("ip", four), ("ip6", six)] {
        let networks: Vec<&str> = networks.into_iter().copied().collect();
        let _ = writeln!(
            text,
            "\t\t{family} daddr {{ {} }} reject",
            networks.join(", ")
        );
    }
    let _ = writeln!(text, "\t}}\n}}");
    text
}
