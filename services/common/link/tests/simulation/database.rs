//! The control plane's tables, with the operations of operators on them. What a store does in
//! SQL is done here on maps, and every write is checked against what the effects promise.

use std::collections::{BTreeMap, BTreeSet};

use vpnpanel_domain::{
    InboundId, LeaseId, Limit, MicroBytes, Multiplier, NodeId, PeerId, PeriodId, SpeedLimit,
    TenantId, UserId,
};
use vpnpanel_link::collector::ingest::{Effects, Needs, Orphan};
use vpnpanel_link::collector::{
    LeaseFacts, Loaded, NodeFacts, PeriodFacts, Policy, Standing, Terms, lease,
};
use vpnpanel_link::{
    AppliedState, CounterKey, DesiredDelta, DesiredPeer, DesiredPeriod, DesiredState, DesiredUser,
    Generation, Grant, PeerAccess, Range, Revision, StateEpoch,
};

use crate::mutation::Mutation;
use crate::random::Random;

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

    fn open_period(
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

    fn place_period(
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
        };
        self.rows.periods.insert(id, facts);
        self.ceilings.insert(id, (limit > 0).then_some(limit));
        self.ends.insert(id, ends);
    }

    fn close(&mut self, period: PeriodId) {
        if let Some(facts) = self.rows.periods.get_mut(&period) {
            facts.open = false;
        }
    }

    /// Closes a period that is over, and forgets its leases.
    fn bury(&mut self, period: PeriodId) {
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
                None => next,
                Some(end) => {
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

    fn terms(&self) -> Standing {
        let standing = self.rows.standing;
        let held = standing.held && !self.grants_early;
        Standing { held, ..standing }
    }

    /// Notes what is granted while it is not known what there is.
    fn granted(&mut self, period: PeriodId, had: MicroBytes, has: MicroBytes) {
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

    /// Takes the barrier down, when nobody is awaited any more.
    pub(crate) fn release(&mut self) {
        let epoch = self.rows.standing.epoch;
        let awaited = |facts: &NodeFacts| facts.reported < epoch && facts.quarantined.is_none();
        self.rows.standing.held &= self.rows.nodes.values().any(awaited);
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
        self.release();
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

    pub(crate) fn change(&mut self, what: Changed) {
        self.revision += 1;
        self.log.push((self.revision, what));
    }

    /// What has changed for a node, where users alone have.
    pub(crate) fn desired_since(
        &self,
        node: NodeId,
        since: Revision,
        until: Revision,
    ) -> Option<DesiredDelta> {
        let mut delta = DesiredDelta::default();
        let first = self.log.partition_point(|(at, _)| *at <= since.get());
        let mut users = BTreeSet::new();
        for (_, changed) in self.log[first..]
            .iter()
            .take_while(|(at, _)| *at <= until.get())
        {
            match changed {
                Changed::User(user) => users.insert(*user),
                Changed::Node(of) if *of == node => return None,
                Changed::Node(_) => false,
            };
        }
        for id in users {
            match self.users.get(&id) {
                Some(user) if user.nodes.contains(&node) => {
                    delta.users.push(self.desired_user(id, user));
                }
                _ => delta.removed.push(id),
            }
        }
        delta.sort();
        Some(delta)
    }

    pub(crate) fn desired(&self, node: NodeId) -> DesiredState {
        let mut state = DesiredState {
            multiplier: self.multipliers.get(&node).copied().unwrap_or_default(),
            inbounds: Vec::new(),
            users: self
                .users
                .iter()
                .filter(|(_, user)| user.nodes.contains(&node))
                .map(|(id, user)| self.desired_user(*id, user))
                .collect(),
        };
        state.sort();
        state
    }

    fn desired_user(&self, id: UserId, user: &User) -> DesiredUser {
        let facts = self.rows.periods.get(&user.period);
        let announced = |id| DesiredPeriod {
            id,
            ends_ms: self.ends.get(&id).copied().flatten(),
            spent: self
                .rows
                .periods
                .get(&id)
                .is_some_and(|facts| facts.limit.is_reached(facts.used)),
        };
        DesiredUser {
            id,
            period: announced(user.period),
            next_period: user.next.map(announced),
            blocked: user.disabled,
            limited: facts.is_some_and(|facts| facts.limit != Limit::None),
            not_after_ms: None,
            speed: SpeedLimit::NONE,
            peers: user
                .peers
                .iter()
                .map(|peer| DesiredPeer {
                    id: *peer,
                    inbound: InboundId::from_bytes([2; 16]),
                    access: PeerAccess::WireGuard {
                        public_key: [3; 32],
                        preshared_key: None,
                        ipv4: None,
                        ipv6: None,
                    },
                })
                .collect(),
        }
    }

    pub(crate) fn load(&self, needs: &Needs) -> Loaded {
        fn some<K: Copy + Eq + std::hash::Hash, V: Clone>(
            rows: &std::collections::HashMap<K, V>,
            keys: &[K],
        ) -> std::collections::HashMap<K, V> {
            keys.iter()
                .filter_map(|key| Some((*key, rows.get(key)?.clone())))
                .collect()
        }
        let named = |node: &NodeId, id: &LeaseId| {
            let mut former = self.stranded.iter();
            let found = former.find(|(of, _, lease)| of == node && lease.lease == *id);
            found.map(|(_, _, lease)| *lease)
        };
        Loaded {
            standing: self.rows.standing,
            former: needs
                .former
                .iter()
                .filter_map(|(node, _, id)| Some(((*node, *id), named(node, id)?)))
                .collect(),
            nodes: some(&self.rows.nodes, &needs.nodes),
            cursors: some(&self.rows.cursors, &needs.cursors),
            digests: some(&self.rows.digests, &needs.digests),
            marks: some(&self.rows.marks, &needs.marks),
            periods: some(&self.rows.periods, &needs.periods),
            leases: some(&self.rows.leases, &needs.leases),
        }
    }

    /// Writes what a transaction decided, and checks that it could be written by bulk
    /// statements: no key twice, every compare-and-swap as expected.
    pub(crate) fn write(
        &mut self,
        effects: &Effects,
        before: &std::collections::HashMap<(NodeId, PeriodId), LeaseFacts>,
    ) -> Result<(), String> {
        for cursor in &effects.cursors {
            let key = (cursor.node, cursor.epoch);
            let found = self.rows.cursors.get(&key).map(|known| known.seq);
            if found != cursor.expected {
                return Err(format!(
                    "cursor of {key:?} is {found:?}, not {:?}",
                    cursor.expected
                ));
            }
            let successor = self
                .rows
                .cursors
                .get(&key)
                .and_then(|known| known.successor);
            self.rows.cursors.insert(
                key,
                vpnpanel_link::collector::Cursor {
                    seq: cursor.seq,
                    digest: cursor.digest,
                    successor,
                },
            );
        }
        for successor in &effects.successors {
            if let Some(cursor) = self
                .rows
                .cursors
                .get_mut(&(successor.node, successor.epoch))
            {
                cursor.successor = Some(successor.successor);
            }
        }
        for digest in &effects.digests {
            self.rows
                .digests
                .insert((digest.node, digest.epoch, digest.seq), digest.digest);
        }
        for (node, at) in &effects.written {
            if let Some(facts) = self.rows.nodes.get_mut(node) {
                facts.last_written_at_ms = facts.last_written_at_ms.max(Some(*at));
            }
        }
        once(&effects.marks, |(key, _)| *key, "mark")?;
        for (key, mark) in &effects.marks {
            if let Some(known) = self.rows.marks.get(key)
                && !mark.totals.covers(known.totals)
            {
                return Err(format!("the mark of {key:?} went back"));
            }
            self.rows.marks.insert(*key, *mark);
        }
        for credit in &effects.buckets {
            let usage = self
                .usage
                .entry((credit.node, credit.user, credit.period))
                .or_default();
            usage.up += credit.up;
            usage.down += credit.down;
            usage.billed += credit.billed;
        }
        once(&effects.periods, |credit| credit.period, "period")?;
        for credit in &effects.periods {
            if let Some(facts) = self.rows.periods.get_mut(&credit.period) {
                facts.used += credit.billed;
                facts.reserved = credit.reserved;
            }
            let raw = self.raw.entry(credit.period).or_default();
            raw.0 += credit.up;
            raw.1 += credit.down;
        }
        for ((node, period, id), lease) in &effects.replaced {
            let current = self.rows.leases.remove(&(*node, *period));
            if current.is_none_or(|current| current.lease != *id) {
                return Err(format!("{id} is replaced on {node}, and not current"));
            }
            self.stranded.push((*node, *period, *lease));
        }
        once(&effects.leases, |(key, _)| *key, "lease")?;
        for (key, lease) in &effects.leases {
            self.rows.leases.insert(*key, *lease);
        }
        for reply in &effects.replies {
            for grant in &reply.grants {
                let key = (reply.node, grant.period);
                let has = self.rows.leases.get(&key).map(|lease| lease.allowance);
                let had = before.get(&key).map(|lease| lease.allowance);
                self.granted(
                    grant.period,
                    had.unwrap_or_default(),
                    has.unwrap_or_default(),
                );
            }
        }
        once(&effects.former, |(key, _)| *key, "former lease")?;
        for ((node, _, id), lease) in &effects.former {
            let mut former = self.stranded.iter_mut();
            match former.find(|(of, _, known)| of == node && known.lease == *id) {
                Some((_, _, known)) => *known = *lease,
                None => return Err(format!("{id} on {node} is not a former lease")),
            }
        }
        for (node, reason) in &effects.quarantined {
            if let Some(facts) = self.rows.nodes.get_mut(node) {
                facts.quarantined = Some(reason.clone());
            }
        }
        self.orphans.extend(effects.orphans.iter().copied());
        for crossing in &effects.limited {
            self.change(Changed::User(crossing.user));
        }
        Ok(())
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

fn once<T, K: Ord + std::fmt::Debug>(
    rows: &[T],
    key: impl Fn(&T) -> K,
    what: &str,
) -> Result<(), String> {
    match rows.windows(2).find(|pair| key(&pair[0]) >= key(&pair[1])) {
        Some(pair) => Err(format!(
            "{what} {:?} is not in order or comes twice",
            key(&pair[1])
        )),
        None => Ok(()),
    }
}

/// What of a range lies below a mark.
pub(crate) fn below(range: Range, mark: u64) -> u64 {
    range.to.min(mark).saturating_sub(range.from)
}
