//! What the store loads, locked, for one transaction, and what the decisions read. Everything is
//! keyed as the tables are, so that a handful of set queries fills it.

use std::collections::HashMap;

use vpnpanel_domain::{LeaseId, Limit, MicroBytes, NodeId, PeriodId, TenantId, UserId};

use super::restore::Standing;
use crate::{
    Attribution, BootId, CounterKey, Digest, Epoch, Generation, Seq, SpoolId, StateEpoch, Totals,
};

/// A node's row: who may write for it and what is known of its agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeFacts {
    /// The tenant that owns the node; `None` is the platform: a shared node.
    pub tenant: Option<TenantId>,
    /// It takes no new sessions: leases grow there only where traffic flows.
    pub draining: bool,
    /// Of the newest stream; every write of a stream is fenced by it.
    pub generation: Generation,
    /// Why the node is quarantined, where it is.
    pub quarantined: Option<String>,
    /// The agent's disk.
    pub spool: Option<SpoolId>,
    /// Starts of the agent, oldest first, at most [`crate::collector::open::BOOTS_KEPT`].
    pub boots: Vec<BootId>,
    /// How often starts that had been superseded came back since the newest was first seen.
    pub boot_strikes: u32,
    /// When the newest committed batch was written, server time by the agent; `None` before the
    /// first.
    pub last_written_at_ms: Option<i64>,
    /// The state epoch under which the node last reported all that it holds, or came to be.
    pub reported: StateEpoch,
    /// It was a report, and not that the node is younger than the epoch.
    pub reported_itself: bool,
    /// The state epoch under which the node alone said that the database is an older one.
    pub spoke: StateEpoch,
    /// What it said; until it has reported.
    pub suspicion: Option<String>,
    /// How many of the lease reports that its newest stream has handed in are committed, the first
    /// ones without a gap; counted while the node has to report.
    pub lease_reports: u64,
}

/// How far an epoch of a node is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Newest batch committed.
    pub seq: Seq,
    /// Its digest.
    pub digest: Digest,
    /// The epoch that named this one as its predecessor. A second one is a fork.
    pub successor: Option<Epoch>,
}

/// Up to where a counter has been billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Billed so far.
    pub totals: Totals,
    /// Rows came that began beyond the mark and reached up to here; they wait for the agent's
    /// segments. `None` when nothing is missing.
    pub awaited: Option<Totals>,
    /// Whom the newest row was billed to.
    pub attribution: Attribution,
}

/// A period's row with what of its user matters to a bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeriodFacts {
    /// The user.
    pub user: UserId,
    /// The user's tenant.
    pub tenant: TenantId,
    /// The most that may be used in the period.
    pub limit: Limit,
    /// Billed so far.
    pub used: MicroBytes,
    /// Σ over the period's leases of `max(0, allowance − billed)`: spent by nobody yet, but not
    /// free either.
    pub reserved: MicroBytes,
    /// New allowance may be granted: the period is not over, and its user may connect.
    pub open: bool,
    /// It was closed: nothing is ever granted of it again, and its leases may be forgotten here while
    /// nodes still hold them.
    pub over: bool,
}

/// A lease's row. One is current for each (node, period); older ones, of lost disks, stay with
/// what they have reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseFacts {
    /// Its id.
    pub lease: LeaseId,
    /// The user.
    pub user: UserId,
    /// Grows with each change.
    pub version: u64,
    /// The newest version that the agent answered.
    pub answered: u64,
    /// What the node may let through in all. While a shrink is asked for and not answered, this
    /// is still the old, larger allowance.
    pub allowance: MicroBytes,
    /// The smaller allowance that was asked for with `version` and is not answered yet.
    pub asked: Option<MicroBytes>,
    /// Billed to the period from this node, of what the agent charged to the lease.
    pub billed: MicroBytes,
    /// What the agent says it consumed, billed or not, and charged for lost counters.
    pub consumed: MicroBytes,
    /// When usage or a report last moved it, server time.
    pub moved_at_ms: i64,
    /// The stream on which the agent last named it.
    pub named: Generation,
}

/// What [`super::ingest::decide`] reads: rows that exist for what `Needs` named.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The installation.
    pub standing: Standing,
    /// Nodes; one that is missing was deleted.
    pub nodes: HashMap<NodeId, NodeFacts>,
    /// Cursors.
    pub cursors: HashMap<(NodeId, Epoch), Cursor>,
    /// Digests of batches that are committed and in retention.
    pub digests: HashMap<(NodeId, Epoch, Seq), Digest>,
    /// Marks.
    pub marks: HashMap<(NodeId, CounterKey), Mark>,
    /// Periods.
    pub periods: HashMap<PeriodId, PeriodFacts>,
    /// Current leases.
    pub leases: HashMap<(NodeId, PeriodId), LeaseFacts>,
    /// Leases that were reported and are not current any more.
    pub former: HashMap<(NodeId, LeaseId), LeaseFacts>,
}

impl NodeFacts {
    /// What the node holds is not known: it gets no grants before it has reported.
    pub fn must_report(&self, epoch: StateEpoch) -> bool {
        self.reported < epoch || self.suspicion.is_some()
    }

    /// The first `reports` of its newest stream are on record. Those that are not were committed once,
    /// and the database is an older one since: nothing follows from what the node did not name.
    pub fn holds_reports(&self, epoch: StateEpoch, reports: u64) -> bool {
        !self.must_report(epoch) || self.lease_reports >= reports
    }

    /// The node may be granted something, as far as it goes.
    pub fn is_trusted(&self, epoch: StateEpoch) -> bool {
        self.quarantined.is_none() && !self.must_report(epoch)
    }
}

impl LeaseFacts {
    /// What is reserved by it: `max(0, allowance − billed)`.
    pub const fn reserved(&self) -> MicroBytes {
        self.allowance.saturating_sub(self.billed)
    }

    /// What the node can still let through, as far as is known here.
    pub fn remaining(&self) -> MicroBytes {
        self.allowance
            .saturating_sub(self.billed.max(self.consumed))
    }
}

impl PeriodFacts {
    /// What may be granted: the limit less what is billed and reserved; `None` is no limit.
    pub fn available(&self) -> Option<MicroBytes> {
        self.limit.remaining(self.used + self.reserved)
    }
}
