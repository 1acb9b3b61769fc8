//! The collector's promises, tried by a scripted agent over real mutual TLS, on both databases where
//! the database matters.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

mod admission;
mod agent;
mod commands;
mod desired;
mod enrolment;
mod fleet;
mod forks;
mod frames;
mod leases;
mod renewal;
mod shutdown;
mod usage;
