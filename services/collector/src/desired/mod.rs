//! Desired state: which nodes a change concerns, and what a node is to be told.

mod deltas;
mod snapshot;
mod tail;
mod xray;

pub(crate) use deltas::Deltas;
pub(crate) use snapshot::{Snapshot, Snapshots};
pub(crate) use tail::Tail;
