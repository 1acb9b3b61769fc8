//! The scheduler's promises: effects commit once, whoever runs a job and whoever dies while at it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

mod api;
mod chainer;
mod expiry;
mod fixture;
mod leases;
mod pauses;
mod periods;
mod plans;
mod signing_keys;
mod usage;
