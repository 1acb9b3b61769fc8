//! The gateway from the outside: HTTP in, a real tonic service behind it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod bodies;
mod browsers;
mod contract;
mod errors;
mod fuzz;
mod hostile;
mod limits;
mod requests;
mod streams;
mod support;
