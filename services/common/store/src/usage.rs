//! Usage as it is shown: series over time, and shares by node. Times are those at which the nodes
//! counted the bytes. Steps of days and hours are read from the sums of days and hours, put right
//! by the 15-minute rows of those hours whose sums are behind (docs/adr/0014): whatever is read is
//! what one sum over everything would be.

use sea_orm::{ConnectionTrait, QueryResult, Value};
use uuid::Uuid;
use vpnpanel_domain::{MicroBytes, NodeId, TenantId, UserId};

use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::ledger::{DAY_MS, HOUR_MS};
use crate::{amount, sql};

/// Which stretch of time, in steps of what length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageQuery {
    /// First millisecond; rounded down to a step.
    pub from_ms: i64,
    /// First millisecond after; rounded up to a step.
    pub to_ms: i64,
    /// Length of a step; a multiple of 15 minutes, counted from the Unix epoch. Steps of days are
    /// kept for good, whole hours and other multiples of 15 minutes as long as [`crate::UsageKept`]
    /// says: what is older is left out.
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
            &OF_USER,
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
            &OF_NODES,
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
        series(self.read(), &OF_NODE, vec![node.uuid().into()], query).await
    }
}

/// Where a series is read from.
pub(crate) struct Source {
    buckets: &'static str,
    hours: &'static str,
    days: &'static str,
    /// From where on there are 15-minute rows.
    floor: &'static str,
    /// Whose each row is shown to be.
    whose: &'static str,
    /// The condition on each of them, as `x`.
    key: &'static str,
    /// The condition on the notes of hours that are behind.
    notes: &'static str,
}

/// The users of the tenant that is the first key.
pub(crate) const OF_USERS: Source = Source {
    buckets: "usage_buckets",
    hours: "usage_hours",
    days: "usage_days",
    floor: "users_from",
    whose: "node_id",
    key: "x.tenant_id = $4",
    notes: "tenant_id = $4",
};

/// The nodes, as far as the tenant used them that is the first key.
pub(crate) const OF_NODES: Source = Source {
    buckets: "node_buckets",
    hours: "node_hours",
    days: "node_days",
    floor: "nodes_from",
    ..OF_USERS
};

/// The user of the tenant that are the keys.
pub(crate) const OF_USER: Source = Source {
    key: "x.tenant_id = $4 AND x.user_id = $5",
    ..OF_USERS
};

/// The node that is the key, of all tenants.
pub(crate) const OF_NODE: Source = Source {
    key: "x.node_id = $4",
    notes: "TRUE",
    ..OF_NODES
};

/// The nodes, of all tenants.
pub(crate) const OF_ALL_NODES: Source = Source {
    key: OF_ANY_TENANT,
    ..OF_NODE
};

/// The condition that lets days be read by their keys, which begin with the tenant.
const OF_ANY_TENANT: &str = "x.tenant_id IN (SELECT id FROM tenants)";

/// Users themselves, of the tenant that is the first key.
pub(crate) const BY_USER: Source = Source {
    whose: "user_id",
    ..OF_USERS
};

/// Users themselves, of all tenants.
pub(crate) const BY_USER_OF_ALL: Source = Source {
    key: OF_ANY_TENANT,
    notes: "TRUE",
    ..BY_USER
};

impl Source {
    /// Rows of a step's length or shorter between `$1` and `$2`, which add up to the series.
    fn rows(&self, step_ms: i64) -> String {
        if step_ms % HOUR_MS != 0 {
            let Self {
                buckets,
                floor,
                key,
                whose,
                ..
            } = self;
            return format!(
                "SELECT x.bucket_at AS at, x.{whose} AS whose, {COLUMNS} FROM {buckets} x
                 WHERE {key} AND x.bucket_at >= $1 AND x.bucket_at < $2
                   AND x.bucket_at >= (SELECT {floor} FROM usage_floors)"
            );
        }
        if step_ms % DAY_MS == 0 {
            return self.corrected(self.days, "day_at", "0");
        }
        self.corrected(
            self.hours,
            "hour_at",
            "(SELECT hours_from FROM usage_floors)",
        )
    }

    /// Sums, and of the hours that are behind the 15-minute rows instead of what the sums hold.
    /// Below the floor there are such rows only of what is in no sum.
    fn corrected(&self, sums: &str, at: &str, from: &str) -> String {
        let Self {
            buckets,
            hours,
            floor,
            whose,
            key,
            notes,
            ..
        } = self;
        let behind = format!(
            "(SELECT DISTINCT tenant_id, hour_at, hour_at + {HOUR_MS} AS ends_at
              FROM usage_touched WHERE {notes} AND hour_at >= $1 AND hour_at < $2
                AND hour_at >= {from})"
        );
        format!(
            "SELECT x.{at} AS at, x.{whose} AS whose, {COLUMNS} FROM {sums} x
             WHERE {key} AND x.{at} >= $1 AND x.{at} < $2 AND x.{at} >= {from}
             UNION ALL
             SELECT x.bucket_at, x.{whose}, {COLUMNS} FROM {behind} AS t JOIN {buckets} x
             ON {key} AND x.tenant_id = t.tenant_id AND x.bucket_at >= t.hour_at
                AND x.bucket_at < t.ends_at
             UNION ALL
             SELECT x.hour_at, x.{whose}, -x.up, -x.down, -x.billed_bytes, -x.billed_micro
             FROM {behind} AS t JOIN {hours} x
             ON {key} AND x.tenant_id = t.tenant_id AND x.hour_at = t.hour_at
             WHERE t.hour_at >= (SELECT {floor} FROM usage_floors)"
        )
    }
}

const COLUMNS: &str = "x.up, x.down, x.billed_bytes, x.billed_micro";

/// Reads a series, in one statement and so at one moment.
pub(crate) async fn series(
    db: &impl ConnectionTrait,
    source: &Source,
    keys: Vec<Value>,
    query: UsageQuery,
) -> Result<UsageSeries> {
    if query.step_ms <= 0 {
        return Err(StoreError::InvalidArgument {
            what: "step_ms",
            reason: "has to be positive".to_owned(),
        });
    }
    let (text, values) = statement(source, keys, query);
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

/// By step and node; the rest is added up by whoever reads it.
pub(crate) fn statement(
    source: &Source,
    keys: Vec<Value>,
    query: UsageQuery,
) -> (String, Vec<Value>) {
    let from = query.from_ms - query.from_ms.rem_euclid(query.step_ms);
    let to = query.to_ms + (-query.to_ms).rem_euclid(query.step_ms);
    let mut values: Vec<Value> = vec![from.into(), to.into(), query.step_ms.into()];
    values.extend(keys);
    let text = format!(
        "SELECT at - at % $3, whose, {SUMS} FROM ({}) AS s GROUP BY 1, 2 ORDER BY 1, 2",
        source.rows(query.step_ms)
    );
    (text, values)
}

const SUMS: &str = "CAST(SUM(up) AS BIGINT), CAST(SUM(down) AS BIGINT),
    CAST(SUM(billed_bytes) AS BIGINT), CAST(SUM(billed_micro) AS BIGINT)";

/// Sums over a whole stretch of time, which begins and ends with a step: of the `most` of whom most was
/// billed, the largest bill first.
pub(crate) async fn largest(
    db: &impl ConnectionTrait,
    source: &Source,
    keys: Vec<Value>,
    query: UsageQuery,
    most: u32,
) -> Result<Vec<(Uuid, Usage)>> {
    let (text, values) = largest_statement(source, keys, query, most);
    let rows = sql::all(db, text, values).await?;
    let sum = |row: &QueryResult| Ok((sql::get(row, 0)?, usage(row)?));
    rows.iter().map(sum).collect()
}

pub(crate) fn largest_statement(
    source: &Source,
    keys: Vec<Value>,
    query: UsageQuery,
    most: u32,
) -> (String, Vec<Value>) {
    let mut values: Vec<Value> = vec![query.from_ms.into(), query.to_ms.into()];
    values.push(i64::from(most).into());
    values.extend(keys);
    let text = format!(
        "SELECT whose, whose, {SUMS} FROM ({}) AS s GROUP BY whose
         ORDER BY SUM(billed_bytes) DESC, whose LIMIT $3",
        source.rows(query.step_ms)
    );
    (text, values)
}

impl Usage {
    pub(crate) fn add(&mut self, other: Self) {
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
