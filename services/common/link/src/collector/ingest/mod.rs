//! The decision of one ingest transaction, for many nodes at once. The store asks [`needs`] what
//! to load, loads it locked, calls [`decide`], and writes the effects, all in one transaction;
//! it replies to the streams after the commit, never before.

mod effects;

use std::collections::BTreeSet;

use vpnpanel_domain::{NodeId, PeriodId};

pub use effects::{
    BatchDigest, BucketCredit, Crossing, CursorAdvance, DeadLetter, Effects, HeldUsage, Orphan,
    OrphanReason, PeriodCredit, Reply, Successor,
};

use super::{Loaded, Policy};
use crate::{Batch, CounterKey, Entropy, Epoch, Generation, LeaseState, Payload, Segments, Seq};

/// What one stream has for a transaction, in the order it came.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The node, by its certificate.
    pub node: NodeId,
    /// The stream.
    pub generation: Generation,
    /// Batches, decoded and validated.
    pub batches: Vec<Decoded>,
    /// Segments that were asked for.
    pub segments: Vec<Segments>,
    /// Leases that the agent reported.
    pub leases: Vec<LeaseState>,
}

/// A batch with what it says.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// As it came.
    pub batch: Batch,
    /// What it says, or why that cannot be taken: the batch becomes a dead letter then, and its
    /// cursor advances.
    pub payload: Result<Payload, String>,
}

/// Keys of the rows that [`decide`] reads, each sorted and without repetition. Load them in this
/// order: it is the lock order.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Of nodes.
    pub nodes: Vec<NodeId>,
    /// Of cursors, predecessors included.
    pub cursors: Vec<(NodeId, Epoch)>,
    /// Of digests. Those beyond a cursor do not exist.
    pub digests: Vec<(NodeId, Epoch, Seq)>,
    /// Of periods.
    pub periods: Vec<PeriodId>,
    /// Of marks.
    pub marks: Vec<(NodeId, CounterKey)>,
    /// Of current leases.
    pub leases: Vec<(NodeId, PeriodId)>,
}

/// What a transaction has to load.
pub fn needs(submissions: &[Submission]) -> Needs {
    let _ = submissions;
    let _: BTreeSet<u8> = BTreeSet::new();
    Needs::default()
}

/// Decides a transaction. Pure: the same input gives the same effects, but for the ids that are
/// drawn. `now_ms` is the server's time.
pub fn decide(
    loaded: Loaded,
    submissions: Vec<Submission>,
    policy: &Policy,
    now_ms: i64,
    entropy: &mut dyn Entropy,
) -> Effects {
    let _ = (loaded, submissions, policy, now_ms, entropy);
    Effects::default()
}
