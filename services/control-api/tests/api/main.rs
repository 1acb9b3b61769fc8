//! The management API through its real layers, in process, on SQLite: who may call what, and what
//! each resource promises.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod connections;
mod enrollment;
mod inbounds;
mod lists;
mod sign_in;
mod support;
mod tenants;
mod usage;
mod users;
