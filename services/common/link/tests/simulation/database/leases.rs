//! Leases outside of ingest transactions.

use vpnpanel_domain::{LeaseId, Limit, MicroBytes, NodeId, PeriodId};
use vpnpanel_link::collector::{NodeFacts, Policy, Standing, Terms, lease};
use vpnpanel_link::{Generation, Grant, StateEpoch};

use super::{AHEAD_MS, Changed, Database};
use crate::coverage::saw_if;
use crate::mutation::Mutation;
use crate::random::Random;

impl Database {
    pub(crate) fn rebalance(
        &mut self,
        period: PeriodId,
        policy: &Policy,
        now_ms: i64,
    ) -> Vec<(NodeId, Grant)> {
        let standing = self.terms();
        let Some(facts) = self.rows.periods.get_mut(&period) else {
            return Vec::new();
        };
        let terms = Terms { policy, standing };
        let nodes = &self.rows.nodes;
        let trusted = |node: &NodeId| {
            let facts = nodes.get(node);
            facts.is_some_and(|facts| facts.is_trusted(standing.epoch))
        };
        let mut leases: Vec<_> = self
            .rows
            .leases
            .iter()
            .filter(|((node, of), _)| *of == period && trusted(node))
            .map(|((node, _), lease)| (*node, *lease))
            .collect();
        leases.sort_by_key(|(node, _)| *node);
        let changed = lease::rebalance(facts, &mut leases, &terms, now_ms);
        let mut grants = Vec::new();
        for (node, lease) in leases {
            let before = self.rows.leases.insert((node, period), lease);
            let had = before.map(|before| before.allowance).unwrap_or_default();
            self.granted(period, had, lease.allowance);
            if changed.contains(&node) {
                grants.push((node, lease::grant(period, &lease)));
            }
        }
        grants
    }

    /// Leases for users with a limit that have none on the node yet; of the next period when it
    /// begins soon.
    pub(crate) fn open_leases(
        &mut self,
        node: NodeId,
        policy: &Policy,
        now_ms: i64,
        random: &mut Random,
    ) -> Vec<Grant> {
        let mut grants = Vec::new();
        let standing = self.terms();
        let terms = Terms { policy, standing };
        let facts = self.rows.nodes.get(&node);
        let trusted = facts.is_some_and(|facts| facts.is_trusted(standing.epoch));
        if standing.held || !trusted {
            return grants;
        }
        if self.is_draining(node) {
            return self.ask_back(node, policy, now_ms);
        }
        let users = self.users.values();
        let periods: Vec<_> = users
            .filter(|user| user.nodes.contains(&node))
            .flat_map(|user| {
                let ends = self.ends.get(&user.period).copied().flatten();
                let next = user
                    .next
                    .filter(|_| ends.is_some_and(|end| end <= now_ms + AHEAD_MS));
                std::iter::once(user.period).chain(next)
            })
            .collect();
        for period in periods {
            let key = (node, period);
            let Some(facts) = self.rows.periods.get_mut(&period) else {
                continue;
            };
            if facts.limit == Limit::None || self.rows.leases.contains_key(&key) {
                continue;
            }
            let lease = LeaseId::from_bytes(random.array());
            let opened = lease::open(facts, lease, &terms, now_ms);
            grants.push(lease::grant(period, &opened));
            self.rows.leases.insert(key, opened);
            self.granted(period, MicroBytes::ZERO, opened.allowance);
        }
        grants
    }

    pub(super) fn terms(&self) -> Standing {
        let standing = self.rows.standing;
        let held = standing.held && !self.grants_early;
        Standing { held, ..standing }
    }

    /// Notes what is granted while it is not known what there is.
    pub(super) fn granted(&mut self, period: PeriodId, had: MicroBytes, has: MicroBytes) {
        if !self.window.unheard.is_empty() {
            *self.window.granted.entry(period).or_default() += has.saturating_sub(had);
        }
    }

    /// The database is found to be an older one.
    pub(crate) fn bump(&mut self, epoch: StateEpoch) {
        self.window.unheard.clear();
        for facts in self.rows.nodes.values_mut() {
            facts.suspicion = None;
        }
        self.rows.standing = Standing { epoch, held: true };
        self.release();
    }

    /// What lies idle on a node that takes no new sessions is wanted back.
    fn ask_back(&mut self, node: NodeId, policy: &Policy, now_ms: i64) -> Vec<Grant> {
        let standing = self.terms();
        let terms = Terms { policy, standing };
        let idle_since = now_ms - policy.horizon_ms as i64;
        let of_node = self.rows.leases.iter_mut();
        let of_node =
            of_node.filter(|((of, _), lease)| *of == node && lease.moved_at_ms <= idle_since);
        let mut grants: Vec<_> = of_node
            .filter_map(|((_, period), lease)| {
                let asked = lease::ask_back(lease, &terms);
                asked.then(|| lease::grant(*period, lease))
            })
            .collect();
        grants.sort_by_key(|grant| grant.lease);
        saw_if(
            !grants.is_empty(),
            "state: idle leases of a draining node asked back",
        );
        grants
    }

    /// Takes the barrier down, when nobody is awaited any more; says whether it came down.
    pub(crate) fn release(&mut self) -> bool {
        let epoch = self.rows.standing.epoch;
        let awaited = |(node, facts): (&NodeId, &NodeFacts)| {
            let given_up = self.written_off.get(node).is_some_and(|at| *at >= epoch);
            facts.reported < epoch && facts.quarantined.is_none() && !given_up
        };
        let held = self.rows.nodes.iter().any(awaited);
        let was_held = self.rows.standing.held;
        self.rows.standing.held = was_held && held;
        was_held && !held
    }

    /// A person gives a node up: what its leases reserve is free for others, and nobody waits for it.
    pub(crate) fn write_off(&mut self, node: NodeId, mutation: Option<Mutation>) {
        let epoch = self.rows.standing.epoch;
        let current = self.rows.leases.iter_mut();
        let current = current.filter(|((of, _), _)| *of == node);
        let former = self.stranded.iter_mut().filter(|(of, _, _)| *of == node);
        let all = current
            .map(|((_, period), lease)| (*period, lease))
            .chain(former.map(|(_, period, lease)| (*period, lease)));
        for (period, lease) in all.filter(|(_, lease)| !lease.reserved().is_zero()) {
            if let Some(period) = self.rows.periods.get_mut(&period) {
                lease::write_off(period, lease, epoch);
                self.given_up.insert(lease.lease, lease.version);
            }
        }
        if mutation == Some(Mutation::WriteOffForgets) {
            self.rows.leases.retain(|(of, _), _| *of != node);
        }
        self.written_off.insert(node, epoch);
        let down = self.release();
        saw_if(
            down,
            "state: restore barrier down because a node was written off",
        );
        self.change(Changed::Node(node));
    }

    /// A node has reported all that it holds, on its newest stream: the rest is freed.
    pub(crate) fn report(&mut self, node: NodeId, generation: Generation) {
        let epoch = self.rows.standing.epoch;
        let unnamed: Vec<_> = self
            .rows
            .leases
            .iter()
            .filter(|((of, _), lease)| *of == node && lease.named < generation)
            .map(|(key, _)| *key)
            .collect();
        for key in unnamed {
            if let Some(mut lease) = self.rows.leases.remove(&key) {
                if let Some(period) = self.rows.periods.get_mut(&key.1) {
                    lease::write_off(period, &mut lease, epoch);
                }
                self.stranded.push((key.0, key.1, lease));
            }
        }
        if let Some(facts) = self.rows.nodes.get_mut(&node) {
            facts.reported = epoch;
            facts.reported_itself = true;
            facts.suspicion = None;
        }
        self.window.unheard.remove(&node);
        let given_up = self.written_off.get(&node).is_some_and(|at| *at >= epoch);
        saw_if(given_up, "state: a node was written off and reports later");
        let down = self.release();
        saw_if(down, "state: restore barrier down by reports");
    }

    /// The newest versions of leases on record.
    pub(crate) fn versions(&self, node: NodeId) -> std::collections::HashMap<LeaseId, u64> {
        let current = self.rows.leases.iter().filter(|((of, _), _)| *of == node);
        let former = self.stranded.iter().filter(|(of, _, _)| *of == node);
        current
            .map(|(_, lease)| lease)
            .chain(former.map(|(_, _, lease)| lease))
            .map(|lease| (lease.lease, lease.version))
            .collect()
    }

    pub(crate) fn strand(&mut self, node: NodeId) {
        let lost: Vec<_> = self
            .rows
            .leases
            .keys()
            .filter(|(of, _)| *of == node)
            .copied()
            .collect();
        for key in lost {
            if let Some(lease) = self.rows.leases.remove(&key) {
                self.stranded.push((key.0, key.1, lease));
            }
        }
    }

    pub(crate) fn unanswered(&self, node: NodeId) -> Vec<Grant> {
        let mut grants: Vec<_> = self
            .rows
            .leases
            .iter()
            .filter(|((of, _), lease)| *of == node && lease.version > lease.answered)
            .map(|((_, period), lease)| lease::grant(*period, lease))
            .collect();
        grants.sort_by_key(|grant| grant.lease);
        grants
    }
}
