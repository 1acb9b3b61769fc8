//! Loads what an ingest transaction decides on: one set query for each table.

use std::collections::{BTreeSet, HashMap};

use sea_orm::QueryResult;
use uuid::Uuid;
use vpnpanel_domain::{
    LeaseId, Limit, MicroBytes, Multiplier, NodeId, PeerId, PeriodId, TenantId, UserFacts, UserId,
};
use vpnpanel_link::collector::ingest::Needs;
use vpnpanel_link::collector::{Cursor, LeaseFacts, Loaded, Mark, NodeFacts, PeriodFacts};
use vpnpanel_link::{
    Attribution, BootId, CounterKey, Digest, Epoch, Generation, Incarnation, Seq, SpoolId,
    StateEpoch, Totals,
};

use super::first_use::{Clock, Clocks};
use super::months;
use crate::error::{Result, StoreError};
use crate::restore::{self, Lock};
use crate::row_set::{Cell, Column, RowSet};
use crate::transaction::Write;
use crate::{amount, sql};

/// Loads and locks, in the order of locks; and what clocks there are to begin.
pub(super) async fn load(tx: &Write, needs: &Needs) -> Result<(Loaded, Clocks)> {
    let mut clocks = Clocks::new();
    let loaded = Loaded {
        standing: restore::standing(tx, Lock::Shared).await?,
        nodes: nodes(tx, &needs.nodes).await?,
        cursors: cursors(tx, &needs.cursors).await?,
        digests: digests(tx, &needs.digests).await?,
        marks: marks(tx, &needs.marks).await?,
        periods: with_clocks(tx, &needs.periods, &mut clocks).await?,
        leases: leases(tx, &needs.leases).await?,
        former: former(tx, &needs.former).await?,
    };
    Ok((loaded, clocks))
}

/// Links of nodes that were not deleted, locked.
pub(super) async fn nodes(tx: &Write, ids: &[NodeId]) -> Result<HashMap<NodeId, NodeFacts>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let text = format!(
        "SELECT l.node_id, n.tenant_id, l.generation, l.quarantine_reason, l.spool, l.boots,
                l.boot_strikes, l.last_written_at, l.reported_epoch, l.reported_itself,
                l.spoke_epoch, l.suspicion, n.draining, l.lease_reports
         FROM node_links l JOIN nodes n ON n.id = l.node_id
         WHERE l.node_id {} AND n.deleted_at IS NULL ORDER BY l.node_id {{for_update_l}}",
        sql::in_ids(&**tx, 1)
    );
    let values = vec![sql::ids(&**tx, ids.iter().copied())];
    sql::all(&**tx, text, values)
        .await?
        .iter()
        .map(|row| Ok((NodeId::new(sql::get(row, 0)?), node(row)?)))
        .collect()
}

fn node(row: &QueryResult) -> Result<NodeFacts> {
    let boots: Vec<BootId> = serde_json::from_value(sql::get(row, 5)?)
        .map_err(|error| StoreError::corrupt("node_links.boots", error))?;
    let strikes: i32 = sql::get(row, 6)?;
    Ok(NodeFacts {
        tenant: sql::get::<Option<Uuid>>(row, 1)?.map(TenantId::new),
        generation: Generation(sql::unsigned(sql::get(row, 2)?)),
        quarantined: sql::get(row, 3)?,
        spool: sql::get::<Option<Vec<u8>>>(row, 4)?
            .map(|bytes| SpoolId::try_from(bytes.as_slice()))
            .transpose()
            .map_err(|error| StoreError::corrupt("node_links.spool", error))?,
        boots,
        boot_strikes: u32::try_from(strikes).unwrap_or(0),
        last_written_at_ms: sql::get(row, 7)?,
        reported: StateEpoch(sql::unsigned(sql::get(row, 8)?)),
        reported_itself: sql::get(row, 9)?,
        spoke: StateEpoch(sql::unsigned(sql::get(row, 10)?)),
        draining: sql::get(row, 12)?,
        suspicion: sql::get(row, 11)?,
        lease_reports: sql::unsigned(sql::get(row, 13)?),
    })
}

/// Cursors; the lock on the node's link guards them.
pub(super) async fn cursors(
    tx: &Write,
    keys: &[(NodeId, Epoch)],
) -> Result<HashMap<(NodeId, Epoch), Cursor>> {
    let mut rows = RowSet::new(&**tx, &[("node_id", Column::Id), ("epoch", Column::Key)]);
    for (node, epoch) in keys {
        rows.push([Cell::Id(node.uuid()), Cell::Key(epoch.as_bytes())]);
    }
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let text = format!(
        "SELECT c.node_id, c.epoch, c.seq, c.digest, c.successor
         FROM {} JOIN node_cursors c ON c.node_id = s.node_id AND c.epoch = s.epoch",
        rows.source(1)
    );
    let mut cursors = HashMap::with_capacity(keys.len());
    for row in &sql::all(&**tx, text, rows.into_values()).await? {
        let cursor = Cursor {
            seq: Seq(sql::unsigned(sql::get(row, 2)?)),
            digest: digest(&sql::get::<Vec<u8>>(row, 3)?)?,
            successor: sql::get::<Option<Vec<u8>>>(row, 4)?
                .map(|bytes| epoch(&bytes))
                .transpose()?,
        };
        let key = (
            NodeId::new(sql::get(row, 0)?),
            epoch(&sql::get::<Vec<u8>>(row, 1)?)?,
        );
        cursors.insert(key, cursor);
    }
    Ok(cursors)
}

async fn digests(
    tx: &Write,
    keys: &[(NodeId, Epoch, Seq)],
) -> Result<HashMap<(NodeId, Epoch, Seq), Digest>> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("node_id", Column::Id),
            ("epoch", Column::Key),
            ("seq", Column::Big),
        ],
    );
    for (node, epoch, seq) in keys {
        rows.push([
            Cell::Id(node.uuid()),
            Cell::Key(epoch.as_bytes()),
            Cell::Big(sql::signed(seq.get())),
        ]);
    }
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let text = format!(
        "SELECT d.node_id, d.epoch, d.seq, d.digest FROM {}
         JOIN batch_digests d ON d.node_id = s.node_id AND d.epoch = s.epoch AND d.seq = s.seq",
        rows.source(1)
    );
    let mut digests = HashMap::with_capacity(keys.len());
    for row in &sql::all(&**tx, text, rows.into_values()).await? {
        let key = (
            NodeId::new(sql::get(row, 0)?),
            epoch(&sql::get::<Vec<u8>>(row, 1)?)?,
            Seq(sql::unsigned(sql::get(row, 2)?)),
        );
        digests.insert(key, digest(&sql::get::<Vec<u8>>(row, 3)?)?);
    }
    Ok(digests)
}

/// Marks; the lock on the node's link guards them.
pub(super) async fn marks(
    tx: &Write,
    keys: &[(NodeId, CounterKey)],
) -> Result<HashMap<(NodeId, CounterKey), Mark>> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("node_id", Column::Id),
            ("incarnation", Column::Key),
            ("peer_id", Column::Id),
        ],
    );
    for (node, counter) in keys {
        rows.push([
            Cell::Id(node.uuid()),
            Cell::Key(counter.incarnation.as_bytes()),
            Cell::Id(counter.peer.uuid()),
        ]);
    }
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let text = format!(
        "SELECT {MARK} FROM {}
         JOIN marks m ON m.node_id = s.node_id AND m.incarnation = s.incarnation
            AND m.peer_id = s.peer_id",
        rows.source(1)
    );
    let mut marks = HashMap::with_capacity(keys.len());
    for row in &sql::all(&**tx, text, rows.into_values()).await? {
        let (node, counter, mark) = mark(row)?;
        marks.insert((node, counter), mark);
    }
    Ok(marks)
}

/// What [`mark`] reads, of `marks m`.
pub(super) const MARK: &str = "m.node_id, m.incarnation, m.peer_id, m.up, m.down, m.awaited_up,
    m.awaited_down, m.user_id, m.period_id, m.multiplier_ppm";

pub(super) fn mark(row: &QueryResult) -> Result<(NodeId, CounterKey, Mark)> {
    let awaited: (Option<i64>, Option<i64>) = (sql::get(row, 5)?, sql::get(row, 6)?);
    let mark = Mark {
        totals: Totals {
            up: sql::unsigned(sql::get(row, 3)?),
            down: sql::unsigned(sql::get(row, 4)?),
        },
        awaited: awaited.0.zip(awaited.1).map(|(up, down)| Totals {
            up: sql::unsigned(up),
            down: sql::unsigned(down),
        }),
        attribution: Attribution {
            user: UserId::new(sql::get(row, 7)?),
            period: PeriodId::new(sql::get(row, 8)?),
            multiplier: multiplier(sql::get(row, 9)?)?,
            // Not kept with a mark: what matters is in the row that moves it.
            leased: false,
        },
    };
    let incarnation: Vec<u8> = sql::get(row, 1)?;
    let counter = CounterKey {
        incarnation: Incarnation::try_from(incarnation.as_slice())
            .map_err(|error| StoreError::corrupt("marks.incarnation", error))?,
        peer: PeerId::new(sql::get(row, 2)?),
    };
    Ok((NodeId::new(sql::get(row, 0)?), counter, mark))
}

/// Periods, locked.
pub(crate) async fn periods(
    tx: &Write,
    ids: &[PeriodId],
) -> Result<HashMap<PeriodId, PeriodFacts>> {
    with_clocks(tx, ids, &mut Clocks::new()).await
}

/// Periods, locked, with the clocks of their users that begin with traffic. What few of them have, and
/// what many share, is read apart: this is read for every user that any node reports.
async fn with_clocks(
    tx: &Write,
    ids: &[PeriodId],
    clocks: &mut Clocks,
) -> Result<HashMap<PeriodId, PeriodFacts>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let text = format!(
        "SELECT p.id, p.user_id, p.tenant_id, p.limit_bytes, p.billed_bytes, p.billed_micro,
                p.reserved_bytes, p.reserved_micro, p.closed_at, u.disabled, u.expires_at,
                u.deleted_at, u.on_hold_ms
         FROM periods p JOIN users u ON u.tenant_id = p.tenant_id AND u.id = p.user_id
         WHERE p.id {} ORDER BY p.id {{for_update_p}}",
        sql::in_ids(&**tx, 1)
    );
    let values = vec![sql::ids(&**tx, ids.iter().copied())];
    let mut periods = HashMap::with_capacity(ids.len());
    let mut waiting = Vec::new();
    for row in &sql::all(&**tx, text, values).await? {
        let id = PeriodId::new(sql::get(row, 0)?);
        // Being over the limit is not asked here: then there is nothing to grant anyway.
        let user = UserFacts {
            deleted: sql::get::<Option<i64>>(row, 11)?.is_some(),
            disabled: sql::get(row, 9)?,
            expires_at_ms: sql::get(row, 10)?,
            limit: Limit::None,
            used: MicroBytes::ZERO,
            on_hold: false,
        };
        if sql::get::<Option<i64>>(row, 12)?.is_some() {
            waiting.push(id);
        }
        let closed = sql::get::<Option<i64>>(row, 8)?.is_some();
        let facts = PeriodFacts {
            user: UserId::new(sql::get(row, 1)?),
            tenant: TenantId::new(sql::get(row, 2)?),
            limit: Limit::from_wire(sql::unsigned(sql::get(row, 3)?)),
            used: amount::get(row, 4)?,
            reserved: amount::get(row, 6)?,
            over: closed,
            open: !closed && user.status(tx.now).may_connect(false),
        };
        periods.insert(id, facts);
    }
    let cut_off = cut_off(tx, periods.values().map(|period| period.tenant)).await?;
    if !cut_off.is_empty() {
        for period in periods.values_mut() {
            period.open &= !cut_off.contains(&period.tenant);
        }
    }
    load_clocks(tx, waiting, clocks).await?;
    Ok(periods)
}

/// Those of the tenants whose users may not connect: suspended, or over their month.
async fn cut_off(
    tx: &Write,
    tenants: impl Iterator<Item = TenantId>,
) -> Result<BTreeSet<TenantId>> {
    let tenants: BTreeSet<TenantId> = tenants.collect();
    let text = format!(
        "SELECT t.id FROM tenants t {}
         WHERE t.id {} AND COALESCE(t.suspended_at, m.over_at) IS NOT NULL",
        months::join_over(2),
        sql::in_ids(&**tx, 1)
    );
    let values = vec![sql::ids(&**tx, tenants), tx.now.into()];
    sql::all(&**tx, text, values)
        .await?
        .iter()
        .map(|row| Ok(TenantId::new(sql::get(row, 0)?)))
        .collect()
}

/// Clocks that begin, or have begun, with traffic.
async fn load_clocks(tx: &Write, periods: Vec<PeriodId>, clocks: &mut Clocks) -> Result<()> {
    if periods.is_empty() {
        return Ok(());
    }
    let text = format!(
        "SELECT p.id, p.starts_at, u.hold_since, u.started_at
         FROM periods p JOIN users u ON u.tenant_id = p.tenant_id AND u.id = p.user_id
         WHERE p.id {}",
        sql::in_ids(&**tx, 1)
    );
    for row in &sql::all(&**tx, text, vec![sql::ids(&**tx, periods)]).await? {
        let starts_at: i64 = sql::get(row, 1)?;
        let clock = Clock {
            since: sql::get::<Option<i64>>(row, 2)?.unwrap_or(starts_at),
            started_at: sql::get(row, 3)?,
            period_starts_at: starts_at,
        };
        clocks.insert(PeriodId::new(sql::get(row, 0)?), clock);
    }
    Ok(())
}

async fn leases(
    tx: &Write,
    keys: &[(NodeId, PeriodId)],
) -> Result<HashMap<(NodeId, PeriodId), LeaseFacts>> {
    let mut rows = RowSet::new(&**tx, &[("node_id", Column::Id), ("period_id", Column::Id)]);
    for (node, period) in keys {
        rows.push([Cell::Id(node.uuid()), Cell::Id(period.uuid())]);
    }
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let text = format!(
        "SELECT {LEASE} FROM {}
         JOIN leases l ON l.node_id = s.node_id AND l.period_id = s.period_id
         WHERE l.state = 'current'",
        rows.source(1)
    );
    sql::all(&**tx, text, rows.into_values())
        .await?
        .iter()
        .map(lease)
        .collect()
}

/// Those of the leases named that are not current any more.
async fn former(
    tx: &Write,
    keys: &[(NodeId, PeriodId, LeaseId)],
) -> Result<HashMap<(NodeId, LeaseId), LeaseFacts>> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("node_id", Column::Id),
            ("period_id", Column::Id),
            ("id", Column::Id),
        ],
    );
    for (node, period, lease) in keys {
        rows.push([
            Cell::Id(node.uuid()),
            Cell::Id(period.uuid()),
            Cell::Id(lease.uuid()),
        ]);
    }
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let text = format!(
        "SELECT {LEASE} FROM {}
         JOIN leases l ON l.node_id = s.node_id AND l.period_id = s.period_id AND l.id = s.id
         WHERE l.state <> 'current'",
        rows.source(1)
    );
    let found = sql::all(&**tx, text, rows.into_values()).await?;
    let read = |row| lease(row).map(|((node, _), facts)| ((node, facts.lease), facts));
    found.iter().map(read).collect()
}

/// What [`lease`] reads, of `leases l`.
pub(crate) const LEASE: &str = "l.node_id, l.period_id, l.id, l.user_id, l.version,
    l.answered_version, l.allowance_bytes, l.allowance_micro, l.asked_bytes, l.asked_micro,
    l.billed_bytes, l.billed_micro, l.consumed_bytes, l.consumed_micro, l.moved_at,
    l.named_generation";

pub(crate) fn lease(row: &QueryResult) -> Result<((NodeId, PeriodId), LeaseFacts)> {
    let asked: Option<i64> = sql::get(row, 8)?;
    let key = (
        NodeId::new(sql::get(row, 0)?),
        PeriodId::new(sql::get(row, 1)?),
    );
    let facts = LeaseFacts {
        lease: LeaseId::new(sql::get(row, 2)?),
        user: UserId::new(sql::get(row, 3)?),
        version: sql::unsigned(sql::get(row, 4)?),
        answered: sql::unsigned(sql::get(row, 5)?),
        allowance: amount::get(row, 6)?,
        asked: asked.map(|_| amount::get(row, 8)).transpose()?,
        billed: amount::get(row, 10)?,
        consumed: amount::get(row, 12)?,
        moved_at_ms: sql::get(row, 14)?,
        named: Generation(sql::unsigned(sql::get(row, 15)?)),
    };
    Ok((key, facts))
}

pub(super) fn multiplier(ppm: i64) -> Result<Multiplier> {
    u32::try_from(ppm)
        .ok()
        .and_then(|ppm| Multiplier::from_ppm(ppm).ok())
        .ok_or_else(|| StoreError::corrupt("a multiplier", ppm))
}

fn epoch(bytes: &[u8]) -> Result<Epoch> {
    Epoch::try_from(bytes).map_err(|error| StoreError::corrupt("an epoch", error))
}

fn digest(bytes: &[u8]) -> Result<Digest> {
    Digest::try_from(bytes).map_err(|error| StoreError::corrupt("a digest", error))
}
