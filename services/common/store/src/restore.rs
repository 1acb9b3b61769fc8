//! Where the installation stands with restores of older databases (docs/adr/0015): the epoch that all
//! numbers are drawn under, whether the barrier is up, and whom it waits for. Every transaction that
//! grants or frees holds the installation's row, so that nothing of it overtakes a barrier.
//!
//! Locks: the installation's row comes first, before nodes' links.

mod report;
mod status;

use std::collections::HashMap;

use uuid::Uuid;
use vpnpanel_domain::{LeaseId, NodeId, PeriodId, TenantId};
use vpnpanel_link::collector::{Evidence, Standing, Witnesses};
use vpnpanel_link::{LeaseState, StateEpoch};

use crate::audit::Event;
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::row_set::{Cell, Column, RowSet};
use crate::sql;
use crate::transaction::Write;

pub use report::WrittenOff;
pub use status::{AwaitedNode, Restore, RestoreLook};

/// How the installation's row is held until the transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Nobody changes it meanwhile.
    Shared,
    /// Nobody else grants anything meanwhile either.
    Exclusive,
}

/// Nodes that the barrier of the epoch in parameter 1 waits for; `l` is their link, `n` the node.
const AWAITED: &str = "node_links l JOIN nodes n ON n.id = l.node_id
    WHERE n.deleted_at IS NULL AND NOT n.disabled AND l.quarantine_reason IS NULL
        AND l.reported_epoch < $1 AND l.written_off_epoch < $1";

/// Distinct owners of nodes that are enough to weigh a word.
const WITNESSES: i64 = 3;

impl Store {
    /// Somebody says that the database was restored from a backup: the barrier goes up, whether or not
    /// it is, and every node is asked for what it holds.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn declare_restore(&self) -> Result<StateEpoch> {
        let mut tx = self.begin_in(None::<TenantId>).await?;
        let standing = standing(&tx, Lock::Exclusive).await?;
        let epoch = standing.epoch.restored(StateEpoch::default(), tx.now);
        bump(&tx, standing, epoch, None, "declared").await?;
        tx.audit(Event::on("restore", None, epoch));
        tx.commit().await?;
        Ok(epoch)
    }
}

/// Where the installation stands, until the transaction ends.
pub(crate) async fn standing(tx: &Write, lock: Lock) -> Result<Standing> {
    let lock = match lock {
        Lock::Shared => "{for_share}",
        Lock::Exclusive => "{for_update}",
    };
    let text = format!("SELECT state_epoch, restore_held FROM installation {lock}");
    let row = sql::one(&**tx, text, vec![])
        .await?
        .ok_or(StoreError::NotFound("installation"))?;
    Ok(Standing {
        epoch: StateEpoch(sql::unsigned(sql::get(&row, 0)?)),
        held: sql::get(&row, 1)?,
    })
}

/// Evidence of a node carries: the barrier goes up.
pub(crate) async fn restored(
    tx: &Write,
    standing: Standing,
    epoch: StateEpoch,
    node: NodeId,
    evidence: Evidence,
) -> Result<()> {
    tracing::error!(
        event = "restore.found",
        node_id = %node,
        state_epoch = epoch.get(),
        %evidence,
        "the database is an older one than before: nothing is granted until every node has reported \
         or was written off (GetRestore)"
    );
    bump(tx, standing, epoch, Some(node), &evidence.to_string()).await
}

/// Opens an epoch. Under the exclusive lock.
async fn bump(
    tx: &Write,
    standing: Standing,
    epoch: StateEpoch,
    node: Option<NodeId>,
    evidence: &str,
) -> Result<()> {
    let swapped = sql::run(
        &**tx,
        "UPDATE installation SET state_epoch = $2, restore_held = $3 WHERE state_epoch = $1",
        vec![
            sql::signed(standing.epoch.get()).into(),
            sql::signed(epoch.get()).into(),
            true.into(),
        ],
    )
    .await?;
    if swapped != 1 {
        return Err(StoreError::corrupt("installation", "another state epoch"));
    }
    sql::run(
        &**tx,
        "UPDATE restores SET closed_at = $1 WHERE closed_at IS NULL",
        vec![tx.now.into()],
    )
    .await?;
    sql::run(
        &**tx,
        "INSERT INTO restores (state_epoch, opened_at, node_id, evidence) VALUES ($1, $2, $3, $4)",
        vec![
            sql::signed(epoch.get()).into(),
            tx.now.into(),
            node.map(NodeId::uuid).into(),
            evidence.into(),
        ],
    )
    .await?;
    // What a node alone has said is everybody's matter now, and a word of the former life about
    // removals was not about what the node has.
    for text in [
        "UPDATE node_links SET suspicion = NULL WHERE suspicion IS NOT NULL",
        "UPDATE nodes SET removals_confirmed_until = NULL WHERE removals_confirmed_until IS NOT NULL",
    ] {
        sql::run(&**tx, text, vec![]).await?;
    }
    Ok(())
}

/// Takes the barrier down when nobody is awaited; says whether it did. Under the exclusive lock.
async fn release(tx: &Write, standing: Standing) -> Result<bool> {
    if !standing.held {
        return Ok(false);
    }
    let epoch = sql::signed(standing.epoch.get());
    let waits = sql::one(
        &**tx,
        format!("SELECT 1 FROM {AWAITED} LIMIT 1"),
        vec![epoch.into()],
    )
    .await?;
    if waits.is_some() {
        return Ok(false);
    }
    sql::run(
        &**tx,
        "UPDATE installation SET restore_held = $1",
        vec![false.into()],
    )
    .await?;
    sql::run(
        &**tx,
        "UPDATE restores SET closed_at = $2 WHERE state_epoch = $1 AND closed_at IS NULL",
        vec![epoch.into(), tx.now.into()],
    )
    .await?;
    tracing::info!(
        event = "restore.closed",
        state_epoch = standing.epoch.get(),
        "every node has reported or was written off: grants go on"
    );
    Ok(true)
}

/// What other nodes have to do with what each of these says. They belong to these tenants.
pub(crate) async fn witnesses(
    tx: &Write,
    owners: Vec<(NodeId, Option<TenantId>)>,
    epoch: StateEpoch,
) -> Result<HashMap<NodeId, Witnesses>> {
    // In most lives of a database nobody speaks, and one look says so for all.
    let anybody = sql::one(
        &**tx,
        "SELECT 1 FROM node_links WHERE spoke_epoch = $1 AND spoke_epoch > 0 LIMIT 1",
        vec![sql::signed(epoch.get()).into()],
    )
    .await?
    .is_some();
    let mut sole = HashMap::new();
    let mut witnesses = HashMap::with_capacity(owners.len());
    for (node, tenant) in owners {
        let sole_tenant = match tenant {
            None => false,
            Some(tenant) => match sole.get(&tenant) {
                Some(sole) => *sole,
                None => {
                    let is = is_sole(tx, tenant).await?;
                    sole.insert(tenant, is);
                    is
                }
            },
        };
        let others = match anybody {
            true => others(tx, node, epoch).await?,
            false => Default::default(),
        };
        witnesses.insert(
            node,
            Witnesses {
                others,
                sole_tenant,
            },
        );
    }
    Ok(witnesses)
}

/// Owners of other nodes that say the same of the database.
async fn others(tx: &Write, node: NodeId, epoch: StateEpoch) -> Result<Vec<Option<TenantId>>> {
    let spoke = sql::all(
        &**tx,
        "SELECT DISTINCT n.tenant_id FROM node_links l JOIN nodes n ON n.id = l.node_id
         WHERE l.spoke_epoch = $1 AND l.spoke_epoch > 0 AND l.node_id <> $2 AND n.deleted_at IS NULL LIMIT $3",
        vec![
            sql::signed(epoch.get()).into(),
            node.uuid().into(),
            WITNESSES.into(),
        ],
    )
    .await?;
    spoke
        .iter()
        .map(|row| Ok(sql::get::<Option<Uuid>>(row, 0)?.map(TenantId::new)))
        .collect()
}

/// Whether no node belongs to anybody else.
async fn is_sole(tx: &Write, tenant: TenantId) -> Result<bool> {
    let other = sql::one(
        &**tx,
        "SELECT 1 FROM nodes WHERE deleted_at IS NULL
            AND (tenant_id IS NULL OR tenant_id <> $1) LIMIT 1",
        vec![tenant.uuid().into()],
    )
    .await?;
    Ok(other.is_none())
}

/// The newest versions on record of nodes' leases, current or not.
pub(crate) async fn versions(
    tx: &Write,
    leases: &[(NodeId, &LeaseState)],
) -> Result<HashMap<NodeId, HashMap<LeaseId, u64>>> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("node_id", Column::Id),
            ("period_id", Column::Id),
            ("id", Column::Id),
        ],
    );
    for (node, lease) in leases {
        rows.push([
            Cell::Id(node.uuid()),
            Cell::Id(lease.period.uuid()),
            Cell::Id(lease.lease.uuid()),
        ]);
    }
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let text = format!(
        "SELECT l.node_id, l.id, l.version FROM {}
         JOIN leases l ON l.node_id = s.node_id AND l.period_id = s.period_id AND l.id = s.id",
        rows.source(1)
    );
    let mut versions: HashMap<_, HashMap<_, _>> = HashMap::new();
    for row in &sql::all(&**tx, text, rows.into_values()).await? {
        let version = sql::unsigned(sql::get(row, 2)?);
        versions
            .entry(NodeId::new(sql::get(row, 0)?))
            .or_default()
            .insert(LeaseId::new(sql::get(row, 1)?), version);
    }
    Ok(versions)
}

/// Periods of leases, as far as they are on record, and whether they are over.
pub(crate) async fn periods(
    tx: &Write,
    leases: &[(NodeId, &LeaseState)],
) -> Result<HashMap<PeriodId, bool>> {
    if leases.is_empty() {
        return Ok(HashMap::new());
    }
    let text = format!(
        "SELECT id, closed_at IS NOT NULL FROM periods WHERE id {}",
        sql::in_ids(&**tx, 1)
    );
    let mut ids: Vec<_> = leases.iter().map(|(_, lease)| lease.period).collect();
    ids.sort_unstable();
    ids.dedup();
    sql::all(&**tx, text, vec![sql::ids(&**tx, ids)])
        .await?
        .iter()
        .map(|row| Ok((PeriodId::new(sql::get(row, 0)?), sql::get(row, 1)?)))
        .collect()
}
