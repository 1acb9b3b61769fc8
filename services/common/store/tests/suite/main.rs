//! What the store promises, on SQLite and on PostgreSQL.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests: a failure is a panic, and a seed is printed"
)]

mod access;
mod addresses;
mod audit;
mod catalog;
mod changes;
mod clones;
mod commands;
mod credentials;
mod draining;
mod endpoint_templates;
mod figures;
mod first_use;
mod fixture;
mod greetings;
mod identity;
mod leases;
mod ledger;
mod lists;
mod lives;
mod months;
mod node_watch;
mod operations;
mod people;
mod periods;
mod plans;
mod reconciliation;
mod renewal;
mod restore;
mod rollups;
mod schema;
mod signing_keys;
mod statuses;
mod subscriptions;
mod suspension;
mod sync_repair;
mod users;
mod walls;
mod xray;
