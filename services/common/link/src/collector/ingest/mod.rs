//! The decision of one ingest transaction, for many nodes at once. The store asks [`needs`] what
//! to load, loads it locked, calls [`decide`], and writes the effects, all in one transaction;
//! it replies to the streams after the commit, never before.

mod allowance;
mod credit;
mod effects;
mod order;

use std::collections::HashMap;

use vpnpanel_domain::{LeaseId, MicroBytes, NodeId, PeriodId};

pub use effects::{
    BatchDigest, BucketCredit, Crossing, CursorAdvance, DeadLetter, Effects, HeldUsage, Orphan,
    OrphanReason, PeriodCredit, Reply, Skipped, Successor,
};

use super::{Loaded, Policy};
use crate::{
    Batch, BatchRef, CounterKey, Entropy, Epoch, Generation, LeaseState, Payload, Segments, Seq,
    StateEpoch,
};

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
    /// How many of them the stream has handed in before these: what is handed in again after a commit
    /// of which nobody knows what came is counted once.
    pub leases_before: u64,
    /// Batches that the agent no longer holds: the newest of each epoch.
    pub lost: Vec<BatchRef>,
    /// The agent has reported all that it holds; the reply says so when the rest is committed.
    pub reported: Option<StateEpoch>,
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
    /// Of leases that are named, for those that are not current any more.
    pub former: Vec<(NodeId, PeriodId, LeaseId)>,
}

/// What a transaction has to load.
pub fn needs(submissions: &[Submission]) -> Needs {
    let mut needs = Needs::default();
    for Submission {
        node,
        batches,
        segments,
        leases,
        lost,
        ..
    } in submissions
    {
        needs.nodes.push(*node);
        for batch in lost {
            needs.cursors.push((*node, batch.epoch));
        }
        for Decoded { batch, payload } in batches {
            needs.cursors.push((*node, batch.epoch));
            needs.digests.push((*node, batch.epoch, batch.seq));
            let Ok(payload) = payload else { continue };
            needs
                .cursors
                .extend(payload.predecessor.map(|before| (*node, before.epoch)));
            needs.rows(*node, &payload.rows);
        }
        for segments in segments {
            needs.rows(*node, &segments.rows);
            needs
                .marks
                .extend(segments.unknown.iter().map(|counter| (*node, *counter)));
        }
        for lease in leases {
            needs.periods.push(lease.period);
            needs.leases.push((*node, lease.period));
            needs.former.push((*node, lease.period, lease.lease));
        }
    }
    unique(&mut needs.nodes);
    unique(&mut needs.cursors);
    unique(&mut needs.digests);
    unique(&mut needs.periods);
    unique(&mut needs.marks);
    unique(&mut needs.leases);
    unique(&mut needs.former);
    needs
}

/// Decides a transaction. Pure: the same input gives the same effects, but for the ids that are
/// drawn. `now_ms` is the server's time. Takes time linear in the rows, up to sorting.
pub fn decide(
    loaded: Loaded,
    submissions: Vec<Submission>,
    policy: &Policy,
    now_ms: i64,
    entropy: &mut dyn Entropy,
) -> Effects {
    let mut ledger = Ledger::new(loaded, policy, now_ms);
    for submission in submissions {
        ledger.submit(submission);
    }
    ledger.settle_leases(entropy);
    ledger.finish()
}

/// The working state of one transaction: the loaded rows as they become, and what was touched.
struct Ledger<'a> {
    loaded: Loaded,
    policy: &'a Policy,
    now_ms: i64,
    effects: Effects,
    /// Cursors as they were, of those that moved.
    moved: HashMap<(NodeId, Epoch), (Generation, Option<Seq>)>,
    /// Marks that changed, with repetition.
    marked: Vec<(NodeId, CounterKey)>,
    /// Periods that changed.
    credits: HashMap<PeriodId, credit::Credit>,
    /// Billed to each period from each node.
    flows: HashMap<(NodeId, PeriodId), MicroBytes>,
    /// What the agents said of their leases, and on which stream.
    reports: Vec<(NodeId, Generation, LeaseState)>,
}

impl<'a> Ledger<'a> {
    fn new(loaded: Loaded, policy: &'a Policy, now_ms: i64) -> Self {
        Self {
            loaded,
            policy,
            now_ms,
            effects: Effects::default(),
            moved: HashMap::new(),
            marked: Vec::new(),
            credits: HashMap::new(),
            flows: HashMap::new(),
            reports: Vec::new(),
        }
    }

    /// Takes what one stream has. The fence comes first: nothing of a superseded stream, of a
    /// deleted or of a quarantined node is read any further.
    fn submit(&mut self, submission: Submission) {
        let Submission {
            node,
            generation,
            batches,
            segments,
            leases,
            leases_before,
            lost,
            reported,
        } = submission;
        let mut reply = Reply {
            node,
            generation,
            committed: Vec::new(),
            resend_from: None,
            quarantined: None,
            missing_segments: Vec::new(),
            grants: Vec::new(),
            reported: None,
            superseded: false,
        };
        // A stream of an earlier life of the database lies below the epoch.
        let epoch = self.loaded.standing.epoch;
        let current = generation.get() >= epoch.floor();
        match self.loaded.nodes.get(&node) {
            Some(_) if self.knows_more(node, &leases) => reply.superseded = true,
            Some(facts) if facts.generation == generation && current => {
                reply.quarantined.clone_from(&facts.quarantined);
                let lost = !facts.holds_reports(epoch, leases_before);
                reply.superseded = lost && reply.quarantined.is_none();
            }
            _ => reply.superseded = true,
        }
        if !reply.superseded && reply.quarantined.is_none() {
            for batch in lost {
                self.skip(batch, &mut reply);
            }
        }
        if !reply.superseded && reply.quarantined.is_none() {
            // Before batches: rows that follow a hole find it closed.
            for segments in segments {
                self.take_segments(node, segments, &mut reply);
            }
            for batch in batches {
                self.take_batch(batch, &mut reply);
                if reply.quarantined.is_some() {
                    break;
                }
            }
            if reply.quarantined.is_none() {
                self.count_reports(node, leases_before + leases.len() as u64);
                let named = leases.into_iter().map(|lease| (node, generation, lease));
                self.reports.extend(named);
                reply.reported = reported;
            }
        }
        self.effects.replies.push(reply);
    }

    /// Turns the working state into lists, each key once and in order.
    fn finish(mut self) -> Effects {
        self.finish_cursors();
        self.finish_credits();
        let mut effects = self.effects;
        for reply in &mut effects.replies {
            reply.missing_segments.sort_by_key(|mark| mark.counter);
            // The mark as it stood first is the one to send segments from.
            reply.missing_segments.dedup_by_key(|mark| mark.counter);
        }
        effects.digests.sort_unstable();
        effects.successors.sort_unstable();
        newest(&mut effects.written);
        newest(&mut effects.lease_reports);
        effects.leases.sort_unstable_by_key(|(key, _)| *key);
        effects.former.sort_unstable_by_key(|(key, _)| *key);
        effects.starved.sort_unstable();
        effects.starved.dedup();
        effects
    }
}

impl Needs {
    fn rows(&mut self, node: NodeId, rows: &[crate::Row]) {
        for row in rows {
            self.marks.push((node, row.counter));
            self.periods.push(row.attribution.period);
            self.leases.push((node, row.attribution.period));
        }
    }
}

/// The greatest value of each node.
fn newest<T: Ord>(values: &mut Vec<(NodeId, T)>) {
    values.sort_unstable();
    values.reverse();
    values.dedup_by_key(|(node, _)| *node);
    values.reverse();
}

fn unique<T: Ord>(keys: &mut Vec<T>) {
    keys.sort_unstable();
    keys.dedup();
}

#[cfg(test)]
mod tests;
