//! Leases within an ingest transaction: usage moves from reserved to used, reports are taken,
//! and where traffic flows more is granted. What is granted is written by the transaction that
//! decides it.

use std::collections::{BTreeMap, HashMap};

use vpnpanel_domain::{LeaseId, MicroBytes, NodeId, PeriodId};

use super::Ledger;
use crate::collector::lease::{self, Growth, Terms};
use crate::collector::{LeaseFacts, Standing};
use crate::{Entropy, Generation, Grant, LeaseState, entropy};

impl Ledger<'_> {
    pub(super) fn settle_leases(&mut self, entropy: &mut dyn Entropy) {
        let reports = std::mem::take(&mut self.reports);
        // What an older database does not know is there before usage of it is counted. A node holds
        // one lease for each period: the one that it named last.
        let last: HashMap<_, _> = reports
            .iter()
            .map(|(node, _, state)| ((*node, state.period), state.lease))
            .collect();
        for (node, _, state) in &reports {
            if last.get(&(*node, state.period)) == Some(&state.lease) {
                self.take_up(*node, state);
            }
        }
        // In order, so that a run can be replayed.
        let mut touched: BTreeMap<(NodeId, PeriodId), u64> = BTreeMap::new();
        for ((node, period), billed) in std::mem::take(&mut self.flows) {
            if let Some(rate) = self.bill_lease(node, period, billed) {
                touched.insert((node, period), rate);
            }
        }
        for (node, stream, state) in reports {
            if self.answer(node, stream, &state) {
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

    /// Whether a node names what was never granted, and nobody expects it to: the database is an
    /// older one than when the stream was opened. Its next Hello says so.
    pub(super) fn knows_more(&self, node: NodeId, leases: &[LeaseState]) -> bool {
        let epoch = self.loaded.standing.epoch;
        let of_node = self.loaded.nodes.get(&node);
        if of_node.is_none_or(|facts| facts.must_report(epoch)) {
            return false;
        }
        let named = leases.iter().filter(|state| self.is_of_node(node, state));
        named.into_iter().any(|state| {
            let current = self.loaded.leases.get(&(node, state.period));
            let current = current.filter(|lease| lease.lease == state.lease);
            let known = current.or_else(|| self.loaded.former.get(&(node, state.lease)));
            match known {
                Some(lease) => state.version > lease.version,
                // Leases of a period that is over are forgotten here, and not yet there.
                None => !self.is_over(state.period),
            }
        })
    }

    /// A node that has to report has named so many leases on its stream.
    pub(super) fn count_reports(&mut self, node: NodeId, reports: u64) {
        let epoch = self.loaded.standing.epoch;
        let Some(facts) = self.loaded.nodes.get_mut(&node) else {
            return;
        };
        if facts.must_report(epoch) && facts.lease_reports < reports {
            facts.lease_reports = reports;
            self.effects.lease_reports.push((node, reports));
        }
    }

    /// Puts a lease that is held and not on record into the place of what is on record there.
    fn take_up(&mut self, node: NodeId, state: &LeaseState) {
        let key = (node, state.period);
        if !self.is_of_node(node, state) || self.loaded.former.contains_key(&(node, state.lease)) {
            return;
        }
        // Nothing is granted of it to anybody: nothing has to be kept back, and what is on record stays.
        if self.is_over(state.period) {
            return;
        }
        match self.loaded.leases.get_mut(&key) {
            Some(current) if current.lease == state.lease => return,
            Some(current) => {
                // It holds one for each period: this one it does not hold.
                let epoch = self.loaded.standing.epoch;
                if let Some(period) = self.loaded.periods.get_mut(&state.period) {
                    lease::write_off(period, current, epoch);
                }
                let gone = (node, state.period, current.lease);
                self.effects.replaced.push((gone, *current));
            }
            None => {}
        }
        let unknown = LeaseFacts {
            lease: state.lease,
            user: state.user,
            version: 0,
            answered: 0,
            allowance: MicroBytes::ZERO,
            asked: None,
            billed: MicroBytes::ZERO,
            consumed: MicroBytes::ZERO,
            moved_at_ms: self.now_ms,
            named: Generation(0),
        };
        self.loaded.leases.insert(key, unknown);
    }

    fn is_over(&self, period: PeriodId) -> bool {
        let facts = self.loaded.periods.get(&period);
        facts.is_some_and(|facts| facts.over)
    }

    /// The period is the user's, and the user one that the node may serve.
    fn is_of_node(&self, node: NodeId, state: &LeaseState) -> bool {
        let owner = self.loaded.nodes.get(&node).and_then(|facts| facts.tenant);
        self.loaded
            .periods
            .get(&state.period)
            .is_some_and(|period| {
                period.user == state.user && owner.is_none_or(|owner| owner == period.tenant)
            })
    }

    /// Takes a report; says whether it concerns a lease that is current.
    fn answer(&mut self, node: NodeId, stream: Generation, state: &LeaseState) -> bool {
        if !self.is_of_node(node, state) {
            return false;
        }
        let Standing { epoch, held } = self.loaded.standing;
        let of_node = self.loaded.nodes.get(&node);
        let frees = !held && of_node.is_some_and(|facts| facts.is_trusted(epoch));
        let Some(period) = self.loaded.periods.get_mut(&state.period) else {
            return false;
        };
        if let Some(former) = self.loaded.former.get_mut(&(node, state.lease)) {
            // A disk that is back may not be the only one.
            lease::answer(period, former, state, false, self.now_ms);
            former.named = former.named.max(stream);
            let former = *former;
            let key = (node, state.period, state.lease);
            self.effects.former.retain(|(known, _)| *known != key);
            self.effects.former.push((key, former));
            self.touch_period(state.period);
            return false;
        }
        let Some(current) = self.loaded.leases.get_mut(&(node, state.period)) else {
            return false;
        };
        if current.lease != state.lease {
            return false;
        }
        lease::answer(period, current, state, frees, self.now_ms);
        current.named = current.named.max(stream);
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
        let standing = self.loaded.standing;
        let terms = Terms {
            policy: self.policy,
            standing,
        };
        let of_node = self.loaded.nodes.get(&node);
        let trusted =
            !standing.held && of_node.is_some_and(|facts| facts.is_trusted(standing.epoch));
        let facts = self.loaded.periods.get_mut(&period)?;
        let mut grant = None;
        match self.loaded.leases.get_mut(&key) {
            // What lies idle there is wanted back.
            Some(_) if rate == 0 && of_node.is_some_and(|facts| facts.draining) => {}
            Some(current) if trusted => match lease::grow(facts, current, &terms, rate) {
                Growth::Grown => grant = Some(lease::grant(period, current)),
                Growth::Starved => self.effects.starved.push(period),
                Growth::Enough => {}
            },
            None if trusted && facts.open && facts.limit.micro().is_some() => {
                let id = LeaseId::from_parts(self.now_ms, entropy::draw(entropy));
                let opened = lease::open(facts, id, &terms, self.now_ms);
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
