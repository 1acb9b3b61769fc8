//! Leases within an ingest transaction: usage moves from reserved to used, reports are taken,
//! and where traffic flows more is granted. What is granted is written by the transaction that
//! decides it.

use std::collections::{BTreeMap, HashMap};

use vpnpanel_domain::{LeaseId, MicroBytes, NodeId, PeriodId};

use super::Ledger;
use crate::collector::LeaseFacts;
use crate::collector::lease::{self, Growth};
use crate::{Entropy, Grant, LeaseState, entropy};

impl Ledger<'_> {
    pub(super) fn settle_leases(&mut self, entropy: &mut dyn Entropy) {
        // In order, so that a run can be replayed.
        let mut touched: BTreeMap<(NodeId, PeriodId), u64> = BTreeMap::new();
        for ((node, period), billed) in std::mem::take(&mut self.flows) {
            if let Some(rate) = self.bill_lease(node, period, billed) {
                touched.insert((node, period), rate);
            }
        }
        for (node, state) in std::mem::take(&mut self.reports) {
            if self.answer(node, &state) {
                touched.entry((node, state.period)).or_insert(0);
            }
        }
        let replies: HashMap<NodeId, usize> = self
            .effects
            .replies
            .iter()
            .enumerate()
            .filter(|(_, reply)| !reply.superseded)
            .map(|(place, reply)| (reply.node, place))
            .collect();
        for ((node, period), rate) in touched {
            let grant = self.grow(node, period, rate, entropy);
            let reply = replies
                .get(&node)
                .and_then(|place| self.effects.replies.get_mut(*place));
            if let (Some(grant), Some(reply)) = (grant, reply) {
                reply.grants.push(grant);
            }
        }
    }

    /// Returns the user's rate on the node, billable bytes per second, where the period has a
    /// limit.
    fn bill_lease(&mut self, node: NodeId, period: PeriodId, billed: MicroBytes) -> Option<u64> {
        let facts = self.loaded.periods.get_mut(&period)?;
        let Some(current) = self.loaded.leases.get_mut(&(node, period)) else {
            return facts.limit.micro().map(|_| 0);
        };
        let elapsed = self
            .now_ms
            .saturating_sub(current.moved_at_ms)
            .max(1_000)
            .unsigned_abs();
        lease::bill(facts, current, billed, self.now_ms);
        let rate = u128::from(billed.floor_bytes()) * 1_000 / u128::from(elapsed);
        Some(u64::try_from(rate).unwrap_or(u64::MAX))
    }

    /// Takes a report; says whether it concerns a lease that is current.
    fn answer(&mut self, node: NodeId, state: &LeaseState) -> bool {
        let Some(facts) = self.loaded.periods.get_mut(&state.period) else {
            return false;
        };
        if facts.user != state.user {
            return false;
        }
        if let Some(current) = self.loaded.leases.get_mut(&(node, state.period)) {
            lease::answer(facts, current, state, self.now_ms);
            return current.lease == state.lease;
        }
        if !facts.open {
            return false;
        }
        // The agent holds what this database does not know of: it is an older one.
        let mut unknown = LeaseFacts {
            lease: state.lease,
            user: state.user,
            version: state.version,
            answered: 0,
            allowance: MicroBytes::ZERO,
            asked: None,
            billed: MicroBytes::ZERO,
            consumed: MicroBytes::ZERO,
            moved_at_ms: self.now_ms,
        };
        lease::answer(facts, &mut unknown, state, self.now_ms);
        self.loaded.leases.insert((node, state.period), unknown);
        true
    }

    /// Raises or opens a lease where there is need; returns what the node is told.
    fn grow(
        &mut self,
        node: NodeId,
        period: PeriodId,
        rate: u64,
        entropy: &mut dyn Entropy,
    ) -> Option<Grant> {
        let key = (node, period);
        let trusted = self
            .loaded
            .nodes
            .get(&node)
            .is_some_and(|node| node.quarantined.is_none());
        let facts = self.loaded.periods.get_mut(&period)?;
        let mut grant = None;
        match self.loaded.leases.get_mut(&key) {
            Some(current) if trusted => match lease::grow(facts, current, self.policy, rate) {
                Growth::Grown => grant = Some(lease::grant(period, current)),
                Growth::Starved => self.effects.starved.push(period),
                Growth::Enough => {}
            },
            None if trusted && facts.open && facts.limit.micro().is_some() => {
                let id = LeaseId::from_parts(self.now_ms, entropy::draw(entropy));
                let opened = lease::open(facts, id, self.policy, self.now_ms);
                grant = Some(lease::grant(period, &opened));
                self.loaded.leases.insert(key, opened);
            }
            Some(_) | None => {}
        }
        if let Some(current) = self.loaded.leases.get(&key) {
            self.effects.leases.push((key, *current));
        }
        self.touch_period(period);
        grant
    }
}
