//! The management API through its real layers, in process: who may call what, and what each
//! resource promises. On SQLite; `the_same_holds_on_postgres` runs all of it once more there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod api_tokens;
mod audit;
mod audited;
mod commands;
mod connections;
mod dashboards;
mod direct;
mod endpoint_templates;
mod enrollment;
mod inbounds;
mod limits;
mod lists;
mod networks;
mod operations;
mod people;
mod periods;
mod plans;
mod recovery;
mod renewal;
mod replicas;
mod restores;
mod second_factor;
mod sessions;
mod sign_in;
mod signing_keys;
mod subscriptions;
mod support;
mod suspension;
mod tenants;
mod usage;
mod users;
mod xray;
mod xray_connections;

use std::process::Command;

#[test]
fn the_same_holds_on_postgres() {
    let name = "the_same_holds_on_postgres";
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.env(support::DATABASE_VARIABLE, "postgres");
    let output = again.args(["--skip", name]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "on postgres:\n{text}");
}
