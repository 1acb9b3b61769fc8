//! What this service knows of WireGuard: keys, the settings of an inbound, and the text that a
//! device is configured with.

pub(crate) mod config;
pub(crate) mod keys;
pub(crate) mod settings;
