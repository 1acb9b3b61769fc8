//! Usage as it is shown: series over time, and shares by node. Times are those at which the nodes
//! counted the bytes.

use sea_orm::{ConnectionTrait, QueryResult, Value};
use vpnpanel_domain::{MicroBytes, NodeId, TenantId, UserId};

use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::{amount, sql};

/// Which stretch of time, in steps of what length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageQuery {
    /// First millisecond; rounded down to a step.
    pub from_ms: i64,
    /// First millisecond after.
    pub to_ms: i64,
    /// Length of a step; a multiple of 15 minutes, counted from the Unix epoch.
    pub step_ms: i64,
}

/// An amount of usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Raw bytes from subscribers.
    pub up: u64,
    /// Raw bytes to subscribers.
    pub down: u64,
    /// What they cost.
    pub billed: MicroBytes,
}

/// Usage over time and by node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageSeries {
    /// Beginning of each step and its usage, by time; steps without usage are left out.
    pub points: Vec<(i64, Usage)>,
    /// Everything.
    pub total: Usage,
    /// By node, the largest bill first.
    pub nodes: Vec<(NodeId, Usage)>,
}

impl Store {
    /// Usage of a user, whether or not it was deleted.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a user that the tenant never had.
    pub async fn user_usage(
        &self,
        tenant: TenantId,
        user: UserId,
        query: UsageQuery,
    ) -> Result<UsageSeries> {
        let db = &self.read_in(tenant).await?;
        sql::one(
            db,
            "SELECT 1 FROM users WHERE tenant_id = $1 AND id = $2",
            vec![tenant.uuid().into(), user.uuid().into()],
        )
        .await?
        .ok_or(StoreError::NotFound("user"))?;
        series(
            db,
            "usage_buckets WHERE tenant_id = $4 AND user_id = $5",
            vec![tenant.uuid().into(), user.uuid().into()],
            query,
        )
        .await
    }

    /// Usage of all users of a tenant.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tenant_usage(&self, tenant: TenantId, query: UsageQuery) -> Result<UsageSeries> {
        series(
            &self.read_in(tenant).await?,
            "node_buckets WHERE tenant_id = $4",
            vec![tenant.uuid().into()],
            query,
        )
        .await
    }

    /// Usage that went through a node, of all tenants.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn node_usage(&self, node: NodeId, query: UsageQuery) -> Result<UsageSeries> {
        series(
            self.read(),
            "node_buckets WHERE node_id = $4",
            vec![node.uuid().into()],
            query,
        )
        .await
    }
}

async fn series(
    db: &impl ConnectionTrait,
    source: &str,
    keys: Vec<Value>,
    query: UsageQuery,
) -> Result<UsageSeries> {
    if query.step_ms <= 0 {
        return Err(StoreError::InvalidArgument {
            what: "step_ms",
            reason: "has to be positive".to_owned(),
        });
    }
    let from = query.from_ms - query.from_ms.rem_euclid(query.step_ms);
    let mut values: Vec<Value> = vec![from.into(), query.to_ms.into(), query.step_ms.into()];
    values.extend(keys);
    // One pass: by step and node; the rest is added up here.
    let text = format!(
        "SELECT bucket_at - bucket_at % $3, node_id, CAST(SUM(up) AS BIGINT),
                CAST(SUM(down) AS BIGINT), CAST(SUM(billed_bytes) AS BIGINT),
                CAST(SUM(billed_micro) AS BIGINT)
         FROM {source} AND bucket_at >= $1 AND bucket_at < $2
         GROUP BY 1, 2 ORDER BY 1, 2"
    );
    let mut series = UsageSeries::default();
    for row in &sql::all(db, text, values).await? {
        let step: i64 = sql::get(row, 0)?;
        let node = NodeId::new(sql::get(row, 1)?);
        let usage = usage(row)?;
        match series.points.last_mut() {
            Some((at, sum)) if *at == step => sum.add(usage),
            _ => series.points.push((step, usage)),
        }
        match series.nodes.iter_mut().find(|(id, _)| *id == node) {
            Some((_, sum)) => sum.add(usage),
            None => series.nodes.push((node, usage)),
        }
        series.total.add(usage);
    }
    series
        .nodes
        .sort_by(|(one, a), (two, b)| b.billed.cmp(&a.billed).then(one.cmp(two)));
    Ok(series)
}

impl Usage {
    fn add(&mut self, other: Self) {
        self.up = self.up.saturating_add(other.up);
        self.down = self.down.saturating_add(other.down);
        self.billed += other.billed;
    }
}

fn usage(row: &QueryResult) -> Result<Usage> {
    Ok(Usage {
        up: sql::unsigned(sql::get(row, 2)?),
        down: sql::unsigned(sql::get(row, 3)?),
        billed: amount::join(sql::get(row, 4)?, sql::get(row, 5)?),
    })
}
