//! Users, their periods and what operators do to them.

use std::collections::{BTreeMap, BTreeSet};

use vpnpanel_domain::{Limit, MicroBytes, NodeId, PeerId, PeriodId, TenantId, UserId};
use vpnpanel_link::Grant;
use vpnpanel_link::collector::{PeriodFacts, Policy};

use super::{Changed, Database, User};
use crate::coverage::saw;
use crate::mutation::Mutation;
use crate::random::Random;

impl Database {
    pub(crate) fn create_user(
        &mut self,
        nodes: BTreeSet<NodeId>,
        limit: u64,
        length_ms: Option<i64>,
        now_ms: i64,
        random: &mut Random,
    ) -> UserId {
        let id = UserId::from_bytes(random.array());
        let tenant = TenantId::from_bytes([1; 16]);
        let peers = (0..1 + random.below(2))
            .map(|_| PeerId::from_bytes(random.array()))
            .collect();
        let ends = length_ms.map(|length| now_ms + length);
        let period = self.open_period(id, tenant, limit, ends, random);
        let next = length_ms.map(|length| {
            let ends = ends.map(|end| end + length);
            self.open_period(id, tenant, limit, ends, random)
        });
        self.users.insert(
            id,
            User {
                tenant,
                period,
                next,
                length_ms,
                disabled: false,
                peers,
                nodes,
            },
        );
        self.change(Changed::User(id));
        id
    }

    pub(super) fn open_period(
        &mut self,
        user: UserId,
        tenant: TenantId,
        limit: u64,
        ends: Option<i64>,
        random: &mut Random,
    ) -> PeriodId {
        let id = PeriodId::from_bytes(random.array());
        self.place_period(id, user, tenant, limit, ends);
        id
    }

    pub(super) fn place_period(
        &mut self,
        id: PeriodId,
        user: UserId,
        tenant: TenantId,
        limit: u64,
        ends: Option<i64>,
    ) {
        let facts = PeriodFacts {
            user,
            tenant,
            limit: Limit::from_wire(limit),
            used: MicroBytes::ZERO,
            reserved: MicroBytes::ZERO,
            open: true,
            over: false,
        };
        self.rows.periods.insert(id, facts);
        self.ceilings.insert(id, (limit > 0).then_some(limit));
        self.ends.insert(id, ends);
    }

    pub(super) fn close(&mut self, period: PeriodId) {
        if let Some(facts) = self.rows.periods.get_mut(&period) {
            facts.open = false;
            facts.over = true;
        }
    }

    /// Closes a period that is over, and forgets its leases.
    pub(super) fn bury(&mut self, period: PeriodId) {
        self.close(period);
        self.rows.leases.retain(|(_, of), _| *of != period);
        self.stranded.retain(|(_, of, _)| *of != period);
        if let Some(facts) = self.rows.periods.get_mut(&period) {
            facts.reserved = MicroBytes::ZERO;
        }
    }

    /// Rolls over the users whose period has ended; those whose next one has as well are brought to
    /// the window that holds now.
    pub(crate) fn roll(&mut self, now_ms: i64, random: &mut Random, mutation: Option<Mutation>) {
        let ended = |ends: &BTreeMap<PeriodId, Option<i64>>, period| {
            ends.get(&period)
                .copied()
                .flatten()
                .filter(|end| *end <= now_ms)
        };
        let due: Vec<_> = self
            .users
            .iter()
            .filter(|(_, user)| ended(&self.ends, user.period).is_some())
            .map(|(id, user)| (*id, user.tenant, user.period, user.next, user.length_ms))
            .collect();
        for (id, tenant, old, next, length) in due {
            let (Some(next), Some(length)) = (next, length) else {
                continue;
            };
            let limit = self.rows.periods[&next].limit.to_wire();
            let current = match ended(&self.ends, next) {
                None => {
                    saw("state: a period rolled over");
                    next
                }
                Some(end) => {
                    saw("state: a period was missed altogether");
                    self.bury(next);
                    let ends = end + ((now_ms - end) / length + 1) * length;
                    self.open_period(id, tenant, limit, Some(ends), random)
                }
            };
            let ends = self.ends[&current].map(|end| end + length);
            self.bury(old);
            let next = if mutation == Some(Mutation::PeriodIdReused) {
                self.place_period(old, id, tenant, limit, ends);
                old
            } else {
                self.open_period(id, tenant, limit, ends, random)
            };
            if let Some(user) = self.users.get_mut(&id) {
                user.period = current;
                user.next = Some(next);
            }
            self.change(Changed::User(id));
        }
    }

    pub(crate) fn reset_usage(&mut self, user: UserId, now_ms: i64, random: &mut Random) {
        let Some(row) = self.users.get(&user) else {
            return;
        };
        let (tenant, old, dropped, length) = (row.tenant, row.period, row.next, row.length_ms);
        self.close(old);
        dropped.into_iter().for_each(|next| self.close(next));
        let limit = self.rows.periods[&old].limit.to_wire();
        let ends = length.map(|length| now_ms + length);
        let new = self.open_period(user, tenant, limit, ends, random);
        let next = length.map(|length| {
            let ends = ends.map(|end| end + length);
            self.open_period(user, tenant, limit, ends, random)
        });
        if let Some(row) = self.users.get_mut(&user) {
            row.period = new;
            row.next = next;
        }
        self.change(Changed::User(user));
    }

    pub(crate) fn delete_user(&mut self, user: UserId) {
        if let Some(row) = self.users.remove(&user) {
            self.close(row.period);
            row.next.into_iter().for_each(|next| self.close(next));
            self.change(Changed::User(user));
        }
    }

    /// Returns the grants for each node.
    pub(crate) fn set_limit(
        &mut self,
        user: UserId,
        limit: u64,
        policy: &Policy,
        now_ms: i64,
    ) -> Vec<(NodeId, Grant)> {
        let Some(row) = self.users.get(&user) else {
            return Vec::new();
        };
        let periods: Vec<_> = std::iter::once(row.period).chain(row.next).collect();
        for period in &periods {
            if let Some(facts) = self.rows.periods.get_mut(period) {
                facts.limit = Limit::from_wire(limit);
            }
            if let Some(ceiling) = self.ceilings.get_mut(period) {
                *ceiling = ceiling.map(|high| high.max(limit)).filter(|_| limit > 0);
            }
        }
        self.change(Changed::User(user));
        let grants = periods
            .into_iter()
            .map(|period| self.rebalance(period, policy, now_ms));
        grants.collect::<Vec<_>>().concat()
    }
}
