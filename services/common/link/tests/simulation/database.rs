//! The control plane's tables, with the operations of operators on them. What a store does in
//! SQL is done here on maps, and every write is checked against what the effects promise.

mod desired;
mod leases;
mod transaction;
mod users;

use std::collections::{BTreeMap, BTreeSet};

use vpnpanel_domain::{
    LeaseId, MicroBytes, Multiplier, NodeId, PeerId, PeriodId, TenantId, UserId,
};
use vpnpanel_link::collector::ingest::Orphan;
use vpnpanel_link::collector::{LeaseFacts, Loaded, NodeFacts};
use vpnpanel_link::{AppliedState, CounterKey, Range, StateEpoch};

/// How long before it begins leases of a period are opened.
const AHEAD_MS: i64 = 15_000;

#[derive(Clone, Default)]
pub(crate) struct Database {
    pub(crate) rows: Loaded,
    pub(crate) multipliers: BTreeMap<NodeId, Multiplier>,
    pub(crate) stranded: Vec<(NodeId, PeriodId, LeaseFacts)>,
    pub(crate) users: BTreeMap<UserId, User>,
    pub(crate) usage: BTreeMap<(NodeId, UserId, PeriodId), Usage>,
    pub(crate) raw: BTreeMap<PeriodId, (u64, u64)>,
    pub(crate) orphans: Vec<Orphan>,
    pub(crate) revision: u64,
    /// What changed at each revision, in order.
    pub(crate) log: Vec<(u64, Changed)>,
    /// What nodes last answered, as far as it was written.
    pub(crate) applied: BTreeMap<NodeId, AppliedState>,
    /// Under which epoch nodes last had what they should have.
    pub(crate) settled: BTreeMap<NodeId, StateEpoch>,
    /// The highest limit that each period ever had, in any life of the database; `None` once it had
    /// none.
    pub(crate) ceilings: BTreeMap<PeriodId, Option<u64>>,
    /// When each period ends.
    pub(crate) ends: BTreeMap<PeriodId, Option<i64>>,
    /// What was granted where the truth was not known.
    pub(crate) window: Window,
    /// For `Mutation::GrantsBeforeBarrier`.
    pub(crate) grants_early: bool,
    /// Under which epoch nodes were written off.
    pub(crate) written_off: BTreeMap<NodeId, StateEpoch>,
    /// Leases that were freed so, in which version: their node may hold more until it answers.
    pub(crate) given_up: BTreeMap<LeaseId, u64>,
}

/// From a restore that nobody has declared to the first evidence, more may be granted than there is.
#[derive(Clone, Default)]
pub(crate) struct Window {
    /// Nodes that have not been heard since; empty is closed.
    pub(crate) unheard: BTreeSet<NodeId>,
    pub(crate) granted: BTreeMap<PeriodId, MicroBytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changed {
    User(UserId),
    Node(NodeId),
}

#[derive(Clone)]
pub(crate) struct User {
    pub(crate) tenant: TenantId,
    pub(crate) period: PeriodId,
    /// What follows it, announced in advance.
    pub(crate) next: Option<PeriodId>,
    /// How long its periods last; `None` is for ever.
    pub(crate) length_ms: Option<i64>,
    pub(crate) disabled: bool,
    pub(crate) peers: Vec<PeerId>,
    pub(crate) nodes: BTreeSet<NodeId>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Usage {
    pub(crate) up: u64,
    pub(crate) down: u64,
    pub(crate) billed: MicroBytes,
}

impl Database {
    pub(crate) fn add_node(&mut self, node: NodeId) {
        let facts = NodeFacts {
            reported: self.rows.standing.epoch,
            ..NodeFacts::default()
        };
        self.rows.nodes.insert(node, facts);
        self.settled.insert(node, self.rows.standing.epoch);
        self.multipliers.insert(node, Multiplier::ONE);
    }

    pub(crate) fn change(&mut self, what: Changed) {
        self.revision += 1;
        self.log.push((self.revision, what));
    }

    pub(crate) fn is_draining(&self, node: NodeId) -> bool {
        self.rows
            .nodes
            .get(&node)
            .is_some_and(|facts| facts.draining)
    }

    pub(crate) fn is_quarantined(&self, node: NodeId) -> bool {
        let facts = self.rows.nodes.get(&node);
        facts.is_some_and(|facts| facts.quarantined.is_some())
    }

    /// What of a counter is billed.
    pub(crate) fn mark(&self, node: NodeId, counter: CounterKey) -> vpnpanel_link::Totals {
        self.rows
            .marks
            .get(&(node, counter))
            .map(|mark| mark.totals)
            .unwrap_or_default()
    }
}

/// What of a range lies below a mark.
pub(crate) fn below(range: Range, mark: u64) -> u64 {
    range.to.min(mark).saturating_sub(range.from)
}
