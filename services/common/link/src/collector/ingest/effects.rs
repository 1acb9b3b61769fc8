//! What one ingest transaction writes and answers, in the vocabulary of bulk statements: every
//! list is aggregated (a key comes once) and sorted by key, so that locks are taken in one order.

use vpnpanel_domain::{LeaseId, MicroBytes, NodeId, PeriodId, TenantId, UserId};

use crate::collector::{LeaseFacts, Mark};
use crate::{
    BatchRef, Bucket, CounterKey, CounterMark, Digest, Epoch, Generation, Grant, Row, Seq,
    StateEpoch,
};

/// Everything that follows from a group of submissions.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    /// One for each submission, in their order: what its stream is told **after** the commit.
    pub replies: Vec<Reply>,
    /// Cursors that advance.
    pub cursors: Vec<CursorAdvance>,
    /// Digests to keep for 48 hours.
    pub digests: Vec<BatchDigest>,
    /// Epochs that named another as their predecessor.
    pub successors: Vec<Successor>,
    /// When each node's newest batch was written.
    pub written: Vec<(NodeId, i64)>,
    /// How many lease reports of its newest stream are on record of each node that has to report.
    pub lease_reports: Vec<(NodeId, u64)>,
    /// New values of marks, whole rows.
    pub marks: Vec<((NodeId, CounterKey), Mark)>,
    /// Usage to add to buckets.
    pub buckets: Vec<BucketCredit>,
    /// Usage to add to periods.
    pub periods: Vec<PeriodCredit>,
    /// Leases that a node holds another in the place of, whole rows: they are written off, before
    /// any other is written.
    pub replaced: Vec<((NodeId, PeriodId, LeaseId), LeaseFacts)>,
    /// New values of current leases, whole rows.
    pub leases: Vec<((NodeId, PeriodId), LeaseFacts)>,
    /// New values of leases that are not current, whole rows.
    pub former: Vec<((NodeId, PeriodId, LeaseId), LeaseFacts)>,
    /// Users that crossed their limit with this transaction: their status and the change log.
    pub limited: Vec<Crossing>,
    /// Periods whose limit leaves too little to grant while other nodes may hold idle
    /// allowance: `lease::rebalance` them, in a transaction of their own.
    pub starved: Vec<PeriodId>,
    /// Usage that no period could be billed for; kept, visible.
    pub orphans: Vec<Orphan>,
    /// Usage that is not plausible; kept for a person to release or reject.
    pub held: Vec<HeldUsage>,
    /// Batches that were taken out of the stream; kept as they came.
    pub dead_letters: Vec<DeadLetter>,
    /// Cursors that moved over batches that nobody holds any more: alarm.
    pub skipped: Vec<Skipped>,
    /// Nodes to quarantine.
    pub quarantined: Vec<(NodeId, String)>,
}

/// What a stream is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The node.
    pub node: NodeId,
    /// The stream.
    pub generation: Generation,
    /// Newest batch committed, of each epoch that came.
    pub committed: Vec<BatchRef>,
    /// Where to send again from.
    pub resend_from: Option<(Epoch, Seq)>,
    /// Why the node is quarantined.
    pub quarantined: Option<String>,
    /// Counters whose segments are asked for.
    pub missing_segments: Vec<CounterMark>,
    /// Allowances, new or changed.
    pub grants: Vec<Grant>,
    /// The node has reported all that it holds, under this epoch; what it did not name is to be
    /// freed now.
    pub reported: Option<StateEpoch>,
    /// A newer stream of the node exists: this one ends with ABORTED, STREAM_SUPERSEDED, and
    /// nothing of it was written.
    pub superseded: bool,
}

/// A cursor's compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorAdvance {
    /// The node.
    pub node: NodeId,
    /// The stream's; the update applies only while the node's row still has it.
    pub generation: Generation,
    /// The epoch.
    pub epoch: Epoch,
    /// What the cursor was; `None` when the row did not exist.
    pub expected: Option<Seq>,
    /// What it becomes.
    pub seq: Seq,
    /// Of that batch.
    pub digest: Digest,
}

/// Batches that were never committed and are past retention on the node: what they said comes as
/// segments, as far as those reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    /// The node.
    pub node: NodeId,
    /// The epoch.
    pub epoch: Epoch,
    /// The first.
    pub from: Seq,
    /// The last.
    pub to: Seq,
}

/// A digest to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchDigest {
    /// The node.
    pub node: NodeId,
    /// The epoch.
    pub epoch: Epoch,
    /// The batch.
    pub seq: Seq,
    /// Of its payload.
    pub digest: Digest,
}

/// An epoch that follows another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Successor {
    /// The node.
    pub node: NodeId,
    /// The epoch that was named.
    pub epoch: Epoch,
    /// The one that named it.
    pub successor: Epoch,
}

/// Usage of a user on a node in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketCredit {
    /// The user's tenant, never taken from a message.
    pub tenant: TenantId,
    /// The user.
    pub user: UserId,
    /// The period.
    pub period: PeriodId,
    /// The node.
    pub node: NodeId,
    /// When.
    pub bucket: Bucket,
    /// Raw bytes from the subscriber.
    pub up: u64,
    /// Raw bytes to the subscriber.
    pub down: u64,
    /// What they cost.
    pub billed: MicroBytes,
}

/// Usage of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeriodCredit {
    /// The tenant.
    pub tenant: TenantId,
    /// The user.
    pub user: UserId,
    /// The period.
    pub period: PeriodId,
    /// Raw bytes to add.
    pub up: u64,
    /// Raw bytes to add.
    pub down: u64,
    /// Billed micro-bytes to add.
    pub billed: MicroBytes,
    /// The new value of `reserved`, which this transaction has read under lock.
    pub reserved: MicroBytes,
    /// Newest time of traffic, milliseconds of the Unix epoch; 0 when only `reserved` changed.
    pub seen_at_ms: i64,
}

/// A user that crossed its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crossing {
    /// The tenant.
    pub tenant: TenantId,
    /// The user.
    pub user: UserId,
    /// The period that is used up.
    pub period: PeriodId,
}

/// Usage that no period could be billed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orphan {
    /// The node that counted it.
    pub node: NodeId,
    /// The row, its ranges cut to what was not yet taken.
    pub row: Row,
    /// Why.
    pub reason: OrphanReason,
}

/// Why usage is an orphan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrphanReason {
    /// The period does not exist (any more).
    UnknownPeriod,
    /// The period is another user's.
    OtherUser,
    /// The node belongs to another tenant than the user.
    OtherTenant,
    /// Rows began beyond the mark, and the agent no longer knows what lay between; or its disk never
    /// knew whose it was.
    SegmentsLost,
}

/// Usage beyond what the node's line can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldUsage {
    /// The node that counted it.
    pub node: NodeId,
    /// The tenant.
    pub tenant: TenantId,
    /// The row, its ranges cut to what was not yet taken.
    pub row: Row,
}

/// A batch that was taken out of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The node.
    pub node: NodeId,
    /// The batch, as it came.
    pub batch: crate::Batch,
    /// Why.
    pub reason: String,
}
