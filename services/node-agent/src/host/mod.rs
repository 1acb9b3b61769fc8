//! The host that the agent runs on: its tools, privileges, interfaces and kernel settings.

mod command;
mod link;
mod preflight;

pub(crate) use command::{find, run};
pub(crate) use link::{
    InterfaceSettings, add_ifb, add_wireguard, configure, enable_forwarding, exists, interfaces,
    remove,
};
pub use preflight::preflight;
