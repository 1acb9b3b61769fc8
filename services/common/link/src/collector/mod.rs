//! The collector's end of the link: how a stream opens ([`open`]), what it does while it lives
//! ([`session`]), what a transaction of many streams' usage writes ([`ingest`]), and how much a
//! node may let through by itself ([`lease`]).

mod commands;
mod config;
mod facts;
pub mod ingest;
pub mod lease;
pub mod open;
pub mod restore;
pub mod session;

pub use config::DesiredRead;
pub use facts::{Cursor, LeaseFacts, Loaded, Mark, NodeFacts, PeriodFacts};
pub use lease::{Policy, Terms};
pub use open::BOOT_STRIKES;
pub use restore::{Evidence, Standing, Witnesses};
