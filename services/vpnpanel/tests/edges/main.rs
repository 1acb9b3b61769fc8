//! What the processes of the product let in and out, seen from outside: the real binary, its
//! listeners, its output. Needs neither root nor a network.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests: a failure is a panic, and what a failed process said is printed"
)]

mod first_start;
mod process;
mod rest;
mod schedulers;
mod secrets;
mod subscriptions;
mod tls;
