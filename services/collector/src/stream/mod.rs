//! Node streams: who may open one, what drives it while it lives, which are open.

mod driver;
mod greeter;
mod hub;
mod outbound;
mod service;

pub(crate) use driver::Parts;
pub(crate) use greeter::Greeter;
pub(crate) use hub::Hub;
pub use service::NodeLink;
