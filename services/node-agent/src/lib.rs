//! The agent of an edge host: drives its data planes (engines), keeps usage in a durable spool,
//! and speaks the node link with the control plane.

mod clock;
pub mod control;
pub mod driver;
pub mod engine;
pub mod enrollment;
mod error;
pub mod host;
pub mod nft;
pub mod renewal;
mod service;
mod settings;
mod sockets;
pub mod spool;
mod tc;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::Error;
pub use service::{StartError, build, identity};
pub use settings::Settings;
