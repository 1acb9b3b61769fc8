//! The Xray engine under real clients and traffic: what is counted, who is cut and who is not,
//! what survives the agent and what the end of the engine costs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

mod cordons;
mod cuts;
mod devices;
mod lives;
mod protocols;
mod support;
