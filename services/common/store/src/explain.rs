//! What a user's usage is made of, as finely as it is kept: by 15 minutes, node and period; what was
//! counted and not billed, and why; and up to which batch each node has been billed.

use std::collections::BTreeSet;

use sea_orm::QueryResult;
use vpnpanel_domain::{NodeId, PeriodId, TenantId, UserId};
use vpnpanel_link::{Epoch, Seq};

use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::usage::Usage;
use crate::{amount, sql};

/// What was counted in 15 minutes, on one node, for one period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsagePiece {
    /// When the 15 minutes begin.
    pub at_ms: i64,
    /// The node that counted.
    pub node: NodeId,
    /// The period that was billed.
    pub period: PeriodId,
    /// How much.
    pub usage: Usage,
}

/// Why counted bytes were not billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnbilledReason {
    /// The node is quarantined.
    Quarantined,
    /// Nobody knows the period that the node named.
    UnknownPeriod,
    /// The period is another user's.
    OtherUser,
    /// The period is another tenant's.
    OtherTenant,
    /// The node lost its records of which counters they were.
    SegmentsLost,
}

/// What was counted and not billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnbilledPiece {
    /// When the 15 minutes begin in which it was counted.
    pub at_ms: i64,
    /// When that was put on record.
    pub recorded_at_ms: i64,
    /// The node that counted.
    pub node: NodeId,
    /// Raw bytes from the user.
    pub up: u64,
    /// Raw bytes to the user.
    pub down: u64,
    /// The multiplier that the node named, in parts per million.
    pub multiplier_ppm: u64,
    /// Why.
    pub reason: UnbilledReason,
}

/// The last batch of a node that was billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BilledBatch {
    /// The node.
    pub node: NodeId,
    /// Which run of its spool.
    pub epoch: Epoch,
    /// Its number.
    pub seq: Seq,
    /// When it was committed; `None` where that is no longer kept.
    pub committed_at_ms: Option<i64>,
}

/// What a user's usage is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explained {
    /// What was billed, newest first.
    pub pieces: Vec<UsagePiece>,
    /// What was not, newest first.
    pub unbilled: Vec<UnbilledPiece>,
    /// How far the nodes of the pieces have been billed.
    pub batches: Vec<BilledBatch>,
}

impl Store {
    /// What was counted of a user between two moments, at most so many pieces, and as many that were
    /// not billed.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a user that the tenant never had.
    pub async fn explain_usage(
        &self,
        tenant: TenantId,
        user: UserId,
        (from_ms, to_ms): (i64, i64),
        most: u32,
    ) -> Result<Explained> {
        let db = self.snapshot_in(tenant).await?;
        sql::one(
            &db,
            "SELECT 1 FROM users WHERE tenant_id = $1 AND id = $2",
            vec![tenant.uuid().into(), user.uuid().into()],
        )
        .await?
        .ok_or(StoreError::NotFound("user"))?;
        let values = || {
            let most = i64::from(most);
            let (tenant, user) = (tenant.uuid(), user.uuid());
            vec![
                tenant.into(),
                user.into(),
                from_ms.into(),
                to_ms.into(),
                most.into(),
            ]
        };
        let pieces = sql::all(
            &db,
            "SELECT bucket_at, node_id, period_id, up, down, billed_bytes, billed_micro
             FROM usage_buckets
             WHERE tenant_id = $1 AND user_id = $2 AND bucket_at >= $3 AND bucket_at < $4
               AND bucket_at >= (SELECT users_from FROM usage_floors)
             ORDER BY bucket_at DESC, node_id, period_id LIMIT $5",
            values(),
        )
        .await?;
        // Nodes of the platform count for tenants, and are behind their walls.
        let unbilled = sql::all(
            self.read(),
            "SELECT bucket_at, recorded_at, node_id, up_to - up_from, down_to - down_from,
                    multiplier_ppm, 'quarantined'
             FROM quarantine_usage WHERE tenant_id = $1 AND user_id = $2 AND state = 'waiting'
               AND bucket_at >= $3 AND bucket_at < $4
             UNION ALL
             SELECT o.bucket_at, o.recorded_at, o.node_id, o.up_to - o.up_from,
                    o.down_to - o.down_from, o.multiplier_ppm, o.reason
             FROM orphan_usage o JOIN nodes n ON n.id = o.node_id
             WHERE o.user_id = $2 AND (n.tenant_id IS NULL OR n.tenant_id = $1)
               AND o.bucket_at >= $3 AND o.bucket_at < $4
             ORDER BY 1 DESC, 2 DESC LIMIT $5",
            values(),
        )
        .await?;
        let pieces: Vec<UsagePiece> = pieces.iter().map(piece).collect::<Result<_>>()?;
        let nodes: BTreeSet<NodeId> = pieces.iter().map(|piece| piece.node).collect();
        Ok(Explained {
            pieces,
            unbilled: unbilled.iter().map(unbilled_piece).collect::<Result<_>>()?,
            batches: self.billed_batches(nodes).await?,
        })
    }

    /// Up to which batch nodes have been billed: of the run of a spool that no other has followed.
    async fn billed_batches(&self, nodes: BTreeSet<NodeId>) -> Result<Vec<BilledBatch>> {
        let text = format!(
            "SELECT c.node_id, c.epoch, c.seq, d.committed_at FROM node_cursors c
             LEFT JOIN batch_digests d
               ON d.node_id = c.node_id AND d.epoch = c.epoch AND d.seq = c.seq
             WHERE c.node_id {} AND c.successor IS NULL ORDER BY c.node_id, c.epoch",
            sql::in_ids(self.read(), 1)
        );
        let ids = sql::ids(self.read(), nodes);
        let batch = |row: &QueryResult| {
            let epoch: Vec<u8> = sql::get(row, 1)?;
            Ok(BilledBatch {
                node: NodeId::new(sql::get(row, 0)?),
                epoch: Epoch::try_from(epoch.as_slice())
                    .map_err(|error| StoreError::corrupt("an epoch", error))?,
                seq: Seq(sql::unsigned(sql::get(row, 2)?)),
                committed_at_ms: sql::get(row, 3)?,
            })
        };
        let rows = sql::all(self.read(), text, vec![ids]).await?;
        rows.iter().map(batch).collect()
    }
}

fn piece(row: &QueryResult) -> Result<UsagePiece> {
    Ok(UsagePiece {
        at_ms: sql::get(row, 0)?,
        node: NodeId::new(sql::get(row, 1)?),
        period: PeriodId::new(sql::get(row, 2)?),
        usage: Usage {
            up: sql::unsigned(sql::get(row, 3)?),
            down: sql::unsigned(sql::get(row, 4)?),
            billed: amount::get(row, 5)?,
        },
    })
}

fn unbilled_piece(row: &QueryResult) -> Result<UnbilledPiece> {
    let reason: String = sql::get(row, 6)?;
    Ok(UnbilledPiece {
        at_ms: sql::get(row, 0)?,
        recorded_at_ms: sql::get(row, 1)?,
        node: NodeId::new(sql::get(row, 2)?),
        up: sql::unsigned(sql::get(row, 3)?),
        down: sql::unsigned(sql::get(row, 4)?),
        multiplier_ppm: sql::unsigned(sql::get(row, 5)?),
        reason: match reason.as_str() {
            "quarantined" => UnbilledReason::Quarantined,
            "unknown_period" => UnbilledReason::UnknownPeriod,
            "other_user" => UnbilledReason::OtherUser,
            "other_tenant" => UnbilledReason::OtherTenant,
            "segments_lost" => UnbilledReason::SegmentsLost,
            other => return Err(StoreError::corrupt("orphan_usage.reason", other)),
        },
    })
}
