//! The audit log between the wire and the store: who acts, out of a request, for
//! [`Store::acting`](vpnpanel_store::Store::acting); and how resources are shown in events.

mod event;
mod shown;
mod who;

pub use event::{event, verification};
pub use shown::described;
pub use who::{attribution, network};
