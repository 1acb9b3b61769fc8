//! Replicas on a real Redis: what one does the others see, and what becomes of it when Redis is
//! wiped, killed, started again, or slow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod limits;
mod policy;
mod replica;
mod revocations;
mod signals;
mod tls;
