//! The audit log: an event with every change, nothing that can be taken back, and a chain in which
//! it shows when somebody tries.

mod append_only;
mod chain;
mod events;
pub(crate) mod support;
mod tampering;
