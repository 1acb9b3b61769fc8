//! The audit log between the wire and the store: who acts, out of a request, for
//! [`Store::acting`](vpnpanel_store::Store::acting); and how resources are shown in events.

mod shown;
mod who;

pub use shown::described;
pub use who::{attribution, network};
