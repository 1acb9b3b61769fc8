//! What the runtime promises to every service, seen from outside.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod authority;
mod bodies;
mod callers;
mod calls;
mod certificate_files;
mod edges;
mod listeners;
mod mutual_tls;
mod smuggling;
mod supervision;
mod wire;
