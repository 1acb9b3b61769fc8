//! The whole agent as a process, with real engines, clients and traffic, and a control plane that
//! does as a test says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod engines;
mod panel;
mod support;
