//! Who may call what, seen from outside: every method of the contract, by every kind of caller,
//! over gRPC and over REST, compared with what the contract and the roles in the database say.
//! Services run in one process, as `vpnpanel up` has them, without sockets.
//!
//! `docs/permissions.md` says the same to people. A test compares it with what it would be;
//! `UPDATE_DOCS=1 cargo test --workspace --test permissions` writes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bindings;
mod callers;
mod calls;
mod credentials;
mod document;
mod expected;
mod extremes;
mod fixture;
mod masks;
mod matrix;
mod requests;
mod stage;
mod walls;

use std::process::Command;

#[test]
fn the_same_holds_on_postgres() {
    let name = "the_same_holds_on_postgres";
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.env(stage::DATABASE_VARIABLE, "postgres");
    let output = again.args(["--skip", name]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "on postgres:\n{text}");
}
