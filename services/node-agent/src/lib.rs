//! The agent of an edge host: drives its data planes (engines), keeps usage in a durable spool,
//! and speaks the node link with the control plane.

pub mod control;
pub mod enrollment;
mod settings;
pub mod spool;
#[cfg(feature = "testing")]
pub mod testing;

pub use settings::Settings;
