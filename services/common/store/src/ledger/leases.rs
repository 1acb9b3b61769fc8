//! Leases outside of ingest: what users get to begin with on a node, and the spreading of what is
//! free after a limit has changed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use uuid::Uuid;
use vpnpanel_domain::{LeaseId, NodeId, PeriodId, TenantId, UserId};
use vpnpanel_link::collector::lease;
use vpnpanel_link::collector::{LeaseFacts, PeriodFacts, Policy, Terms};
use vpnpanel_link::{Generation, Grant};

use super::streams::{generations, unanswered};
use super::{fenced, load, write};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::restore::{self, Lock};
use crate::row_set::{Cell, Column, RowSet};
use crate::transaction::Write;
use crate::{amount, fresh_id, sql};

/// Most leases that one transaction opens.
const CHUNK: i64 = 4_096;

/// How long before it begins a period's leases are opened: a node that is cut off for a long weekend
/// still rolls over on time. Users of longer periods hold two leases in these days only.
pub const LEASES_AHEAD_MS: i64 = 3 * 24 * 3_600_000;

impl Store {
    /// For tests: the first step of [`Store::allowances`], for one node.
    ///
    /// # Errors
    /// [`StoreError::StreamSuperseded`]; a node that is quarantined or has to report gets none, and
    /// while the restore barrier is up nobody does.
    #[cfg(feature = "testing")]
    pub async fn open_leases(
        &self,
        node: NodeId,
        generation: Generation,
        policy: &Policy,
    ) -> Result<Vec<Grant>> {
        let opened = self.open_together(&[(node, generation)], policy).await?;
        if opened.superseded.contains(&node) {
            return Err(StoreError::StreamSuperseded);
        }
        Ok(opened.grants.into_iter().map(|(_, grant)| grant).collect())
    }

    /// Everything that nodes are to be told of allowances, in the order of their streams: leases that
    /// their users lack are opened first, then come the grants whose newest version they have not
    /// answered.
    ///
    /// # Errors
    /// Those of the database, for all of them; [`StoreError::StreamSuperseded`] for one.
    pub async fn allowances(
        &self,
        streams: &[(NodeId, Generation)],
        policy: &Policy,
    ) -> Result<Vec<Result<Vec<Grant>>>> {
        let nodes: Vec<_> = streams.iter().map(|(node, _)| *node).collect();
        let mut superseded = BTreeSet::new();
        let lack = self.nodes_that_lack_leases(&nodes).await?;
        let mut lacking: Vec<_> = streams.to_vec();
        lacking.retain(|(node, _)| lack.contains(node));
        while !lacking.is_empty() {
            let opened = self.open_together(&lacking, policy).await?;
            superseded.extend(opened.superseded);
            if !opened.more {
                break;
            }
        }
        let draining = self.draining(&nodes).await?;
        for &(node, generation) in streams {
            while draining.contains(&node) {
                match self.ask_back_leases(node, generation, policy).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(StoreError::StreamSuperseded) => {
                        superseded.insert(node);
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let mut grants = unanswered(self.read(), &nodes).await?;
        let newest = generations(self.read(), &nodes).await?;
        Ok(streams
            .iter()
            .map(|(node, generation)| {
                let is_newest = newest.get(node) == Some(generation);
                if !is_newest || superseded.contains(node) {
                    return Err(StoreError::StreamSuperseded);
                }
                Ok(grants.remove(node).unwrap_or_default())
            })
            .collect())
    }

    /// Which of the nodes have users that lack a lease there.
    pub(super) async fn nodes_that_lack_leases(&self, nodes: &[NodeId]) -> Result<HashSet<NodeId>> {
        let db = self.read();
        let now = self.now_ms();
        let (current, next) = (lacking_now("= n.id", 2), lacking_next("= n.id", 2, 3));
        let text = format!(
            "SELECT n.id FROM nodes n WHERE n.id {} AND (EXISTS ({current}) OR EXISTS ({next}))",
            sql::in_ids(db, 1)
        );
        let ids = sql::ids(db, nodes.iter().copied());
        let values = vec![ids, now.into(), (now + LEASES_AHEAD_MS).into()];
        sql::all(db, text, values)
            .await?
            .iter()
            .map(|row| Ok(NodeId::new(sql::get(row, 0)?)))
            .collect()
    }

    /// Which of the nodes take no new sessions.
    async fn draining(&self, nodes: &[NodeId]) -> Result<HashSet<NodeId>> {
        let db = self.read();
        let text = format!(
            "SELECT id FROM nodes WHERE id {} AND draining",
            sql::in_ids(db, 1)
        );
        sql::all(db, text, vec![sql::ids(db, nodes.iter().copied())])
            .await?
            .iter()
            .map(|row| Ok(NodeId::new(sql::get(row, 0)?)))
            .collect()
    }

    /// Opens leases for the users of nodes who have a limit, may connect, and have none there: of the
    /// current period, and of the next where it begins within [`LEASES_AHEAD_MS`]. At most 4,096. A node
    /// that is quarantined or has to report gets none, and while the restore barrier is up nobody does.
    async fn open_together(
        &self,
        streams: &[(NodeId, Generation)],
        policy: &Policy,
    ) -> Result<Opened> {
        let tx = self.begin().await?;
        let standing = restore::standing(&tx, Lock::Shared).await?;
        let terms = Terms { policy, standing };
        let mut ids: Vec<_> = streams.iter().map(|(node, _)| *node).collect();
        ids.sort_unstable();
        ids.dedup();
        let facts = load::nodes(&tx, &ids).await?;
        let mut opened = Opened::default();
        let mut trusted = BTreeSet::new();
        for (node, generation) in streams {
            let facts = facts.get(node);
            let of_this_life = generation.get() >= standing.epoch.floor();
            if !of_this_life || facts.is_some_and(|facts| facts.generation != *generation) {
                opened.superseded.insert(*node);
            } else if facts.is_some_and(|facts| !standing.held && facts.is_trusted(standing.epoch))
            {
                trusted.insert(*node);
            }
        }
        let pairs = without_lease(&tx, &trusted).await?;
        opened.more = pairs.len() >= usize::try_from(CHUNK).unwrap_or(usize::MAX);
        let ids: BTreeSet<_> = pairs.iter().map(|(_, period)| *period).collect();
        let ids: Vec<_> = ids.into_iter().collect();
        let mut periods = load::periods(&tx, &ids).await?;
        let mut rows = Vec::new();
        for (node, id) in pairs {
            let Some(period) = periods.get_mut(&id).filter(|period| period.open) else {
                continue;
            };
            let facts = lease::open(period, fresh_id::<LeaseId>(), &terms, tx.now);
            opened.grants.push((node, lease::grant(id, &facts)));
            rows.push(((node, id), facts));
        }
        let changed: Vec<_> = ids
            .iter()
            .filter_map(|id| Some((*id, *periods.get(id).filter(|period| period.open)?)))
            .collect();
        // What cannot be opened is not there to be opened the next time either.
        opened.more &= !rows.is_empty();
        write::leases(&tx, &rows).await?;
        reserve(&tx, &changed).await?;
        tx.commit().await?;
        Ok(opened)
    }

    /// Asks back what idle leases hold of a node that takes no new sessions: it is free once the node
    /// has answered. At most 4,096; says whether there may be more.
    ///
    /// # Errors
    /// [`StoreError::StreamSuperseded`]; of a node that is not drained, is quarantined or has to report
    /// nothing is asked, and while the restore barrier is up of nobody.
    pub async fn ask_back_leases(
        &self,
        node: NodeId,
        generation: Generation,
        policy: &Policy,
    ) -> Result<bool> {
        let tx = self.begin().await?;
        let standing = restore::standing(&tx, Lock::Shared).await?;
        let terms = Terms { policy, standing };
        match fenced(&tx, node, generation).await? {
            Some(facts) if facts.draining && !standing.held && facts.is_trusted(standing.epoch) => {
            }
            _ => return Ok(false),
        }
        let idle_since = tx.now.saturating_sub(policy.horizon_ms as i64);
        let values = vec![node.uuid().into(), idle_since.into(), CHUNK.into()];
        let rows = sql::all(&*tx, idle(), values).await?;
        let mut asked = Vec::with_capacity(rows.len());
        for row in &rows {
            let (key, mut facts) = load::lease(row)?;
            if lease::ask_back(&mut facts, &terms) {
                asked.push((key, facts));
            }
        }
        // Nothing is free before the node has answered: periods stay as they are.
        write::leases(&tx, &asked).await?;
        tx.commit().await?;
        Ok(rows.len() == CHUNK as usize && !asked.is_empty())
    }

    /// Spreads what is free of periods among their leases, and asks idle ones back for those
    /// that have run dry. Returns what nodes are to be told.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rebalance_leases(
        &self,
        periods: &[PeriodId],
        policy: &Policy,
    ) -> Result<Vec<(NodeId, Grant)>> {
        let mut ids = periods.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let tx = self.begin().await?;
        let standing = restore::standing(&tx, Lock::Shared).await?;
        if standing.held {
            return Ok(Vec::new());
        }
        let terms = Terms { policy, standing };
        let mut facts = load::periods(&tx, &ids).await?;
        let mut leases = current(&tx, &ids).await?;
        let (mut grants, mut rows, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        for id in ids {
            let (Some(period), Some(leases)) = (facts.get_mut(&id), leases.get_mut(&id)) else {
                continue;
            };
            let nodes = lease::rebalance(period, leases, &terms, tx.now);
            for (node, facts) in leases.iter().filter(|(node, _)| nodes.contains(node)) {
                grants.push((*node, lease::grant(id, facts)));
                rows.push(((*node, id), *facts));
            }
            changed.push((id, *period));
        }
        if rows.is_empty() {
            return Ok(grants);
        }
        write::leases(&tx, &rows).await?;
        reserve(&tx, &changed).await?;
        tx.commit().await?;
        Ok(grants)
    }

    /// As [`Store::rebalance_leases`], for the current and next periods of users: after their
    /// limits have changed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rebalance_users(
        &self,
        users: &[(TenantId, UserId)],
        policy: &Policy,
    ) -> Result<Vec<(NodeId, Grant)>> {
        let db = self.read();
        let mut rows = RowSet::new(db, &[("tenant_id", Column::Id), ("id", Column::Id)]);
        for (tenant, user) in users {
            rows.push([Cell::Id(tenant.uuid()), Cell::Id(user.uuid())]);
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let text = format!(
            "SELECT u.period_id, u.next_period_id FROM {}
             JOIN users u ON u.tenant_id = s.tenant_id AND u.id = s.id
             WHERE u.deleted_at IS NULL AND u.limit_bytes > 0",
            rows.source(1)
        );
        let mut periods = Vec::new();
        for row in &sql::all(db, text, rows.into_values()).await? {
            periods.push(PeriodId::new(sql::get(row, 0)?));
            periods.extend(sql::get::<Option<Uuid>>(row, 1)?.map(PeriodId::new));
        }
        if periods.is_empty() {
            return Ok(Vec::new());
        }
        self.rebalance_leases(&periods, policy).await
    }
}

/// What came of opening leases.
#[derive(Debug, Default)]
struct Opened {
    grants: Vec<(NodeId, Grant)>,
    /// Nodes whose streams are not their newest.
    superseded: BTreeSet<NodeId>,
    /// There may be more to open.
    more: bool,
}

/// Current and next periods of users with peers on the nodes, with a limit and without a lease there,
/// in order.
async fn without_lease(tx: &Write, nodes: &BTreeSet<NodeId>) -> Result<Vec<(NodeId, PeriodId)>> {
    if nodes.is_empty() {
        return Ok(Vec::new());
    }
    let values = vec![
        sql::ids(&**tx, nodes.iter().copied()),
        tx.now.into(),
        CHUNK.into(),
        (tx.now + LEASES_AHEAD_MS).into(),
    ];
    sql::all(&**tx, lacking(&sql::in_ids(&**tx, 1)), values)
        .await?
        .iter()
        .map(|row| {
            Ok((
                NodeId::new(sql::get(row, 0)?),
                PeriodId::new(sql::get(row, 1)?),
            ))
        })
        .collect()
}

/// Current leases of a node that have something left, are not asked back and did not move lately.
pub(crate) fn idle() -> String {
    format!(
        "SELECT {} FROM leases l
         WHERE l.node_id = $1 AND l.state = 'current' AND l.moved_at <= $2
            AND l.asked_bytes IS NULL
            AND (l.allowance_bytes > l.billed_bytes OR (l.allowance_bytes = l.billed_bytes
                AND l.allowance_micro > l.billed_micro))
            AND (l.allowance_bytes > l.consumed_bytes OR (l.allowance_bytes = l.consumed_bytes
                AND l.allowance_micro > l.consumed_micro))
         ORDER BY l.period_id LIMIT $3",
        load::LEASE
    )
}

/// The statement of [`without_lease`], by a condition on the node. On a node that takes no new sessions
/// only who has used something there in the current period is held to have one.
pub(crate) fn lacking(of_nodes: &str) -> String {
    format!(
        "SELECT node_id, period FROM ({} UNION {}) s ORDER BY period, node_id LIMIT $3",
        lacking_now(of_nodes, 2),
        lacking_next(of_nodes, 2, 4),
    )
}

fn lacking_now(of_nodes: &str, now: usize) -> String {
    lacking_of(of_nodes, now, "u.period_id", "")
}

fn lacking_next(of_nodes: &str, now: usize, until: usize) -> String {
    let condition = format!("AND u.next_period_id IS NOT NULL AND u.period_ends_at <= ${until}");
    lacking_of(of_nodes, now, "u.next_period_id", &condition)
}

fn lacking_of(of_nodes: &str, now: usize, period: &str, condition: &str) -> String {
    format!(
        "SELECT b.node_id, {period} AS period
         FROM inbound_nodes b
         JOIN peers p ON p.inbound_id = b.inbound_id
         JOIN users u ON u.tenant_id = p.tenant_id AND u.id = p.user_id
         JOIN tenants t ON t.id = p.tenant_id
         WHERE b.node_id {of_nodes} AND t.suspended_at IS NULL AND u.deleted_at IS NULL
           AND NOT u.disabled AND u.limit_bytes > 0
           AND (u.expires_at IS NULL OR u.expires_at > ${now}) {condition}
           AND NOT EXISTS (SELECT 1 FROM tenant_months m WHERE m.tenant_id = t.id
                AND m.over_at IS NOT NULL AND m.ends_at > ${now})
           AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.node_id = b.node_id
                AND l.period_id = {period} AND l.state = 'current')
           AND (NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = b.node_id AND n.draining)
                OR EXISTS (SELECT 1 FROM leases l WHERE l.node_id = b.node_id
                    AND l.period_id = u.period_id AND l.state = 'current'
                    AND l.billed_bytes > 0))"
    )
}

type NodeLeases = Vec<(NodeId, LeaseFacts)>;

/// Current leases of nodes that may be granted something.
async fn current(tx: &Write, periods: &[PeriodId]) -> Result<BTreeMap<PeriodId, NodeLeases>> {
    let text = format!(
        "SELECT {} FROM leases l
         JOIN node_links k ON k.node_id = l.node_id
         JOIN installation i ON i.state_epoch <= k.reported_epoch
         WHERE l.period_id {} AND l.state = 'current'
            AND k.suspicion IS NULL AND k.quarantine_reason IS NULL
         ORDER BY l.period_id, l.node_id",
        load::LEASE,
        sql::in_ids(&**tx, 1)
    );
    let ids = sql::ids(&**tx, periods.iter().copied());
    let mut leases: BTreeMap<PeriodId, NodeLeases> = BTreeMap::new();
    for row in &sql::all(&**tx, text, vec![ids]).await? {
        let ((node, period), facts) = load::lease(row)?;
        leases.entry(period).or_default().push((node, facts));
    }
    Ok(leases)
}

/// Writes what of periods is reserved.
pub(crate) async fn reserve(tx: &Write, periods: &[(PeriodId, PeriodFacts)]) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("id", Column::Id),
            ("bytes", Column::Big),
            ("micro", Column::Big),
        ],
    );
    for (id, facts) in periods {
        let (bytes, micro) = amount::split(facts.reserved)?;
        rows.push([Cell::Id(id.uuid()), Cell::Big(bytes), Cell::Big(micro)]);
    }
    if rows.is_empty() {
        return Ok(());
    }
    let text = format!(
        "UPDATE periods SET reserved_bytes = s.bytes, reserved_micro = s.micro
         FROM {} WHERE periods.id = s.id",
        rows.source(1)
    );
    sql::run(&**tx, text, rows.into_values()).await?;
    Ok(())
}
