//! What tenants have used of the bytes that they may use in a calendar month: counted with each commit
//! of usage, for those that have such a limit and no others, because one row per tenant would have
//! collectors wait for each other. The limit is soft: what came in by then is billed.

use std::collections::BTreeMap;

use sea_orm::QueryResult;
use uuid::Uuid;
use vpnpanel_domain::{MicroBytes, TenantId, Window, Zone, month_of};
use vpnpanel_link::collector::ingest::BucketCredit;

use super::write::run;
use crate::changes::{ChangeKind, Entry};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::jobs::{self, JobLease};
use crate::row_set::{Cell, Column, RowSet};
use crate::transaction::Write;
use crate::usage::{self, OF_NODES, UsageQuery};
use crate::{amount, sql};

/// Joins `tenant_months m` of tenants `t` that have used up their month, at the moment that is parameter
/// `now`.
pub(crate) fn join_over(now: usize) -> String {
    format!(
        "LEFT JOIN tenant_months m ON m.tenant_id = t.id AND m.over_at IS NOT NULL
            AND m.ends_at > ${now}"
    )
}

/// What a tenant has used of its month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantMonth {
    /// When the month began.
    pub starts_at_ms: i64,
    /// When it ends.
    pub ends_at_ms: i64,
    /// Billed in it.
    pub used: MicroBytes,
    /// When the limit was reached: no traffic of its users passes until the month ends.
    pub over_at_ms: Option<i64>,
}

/// A tenant's month, locked.
struct Month {
    tenant: TenantId,
    now: TenantMonth,
    most: Option<u64>,
    zone: Zone,
}

impl Month {
    /// The month that holds now, where the one that is written is over.
    fn turn(&mut self, now: i64) -> Result<()> {
        if now >= self.now.ends_at_ms {
            self.now = begun(&self.zone, now)?;
        }
        Ok(())
    }

    /// Whether the tenant is over its limit, by what is counted.
    fn judge(&mut self, now: i64) {
        let most = self.most.map(MicroBytes::from_bytes);
        self.now.over_at_ms = match most {
            Some(most) if self.now.used >= most => self.now.over_at_ms.or(Some(now)),
            _ => None,
        };
    }
}

/// Counts usage, and says of tenants that came over their limits that they have changed.
pub(crate) async fn count(tx: &mut Write, credits: &[BucketCredit]) -> Result<()> {
    let mut used: BTreeMap<TenantId, BTreeMap<i64, MicroBytes>> = BTreeMap::new();
    for credit in credits {
        let buckets = used.entry(credit.tenant).or_default();
        *buckets.entry(credit.bucket.starts_ms()).or_default() += credit.billed;
    }
    if used.is_empty() {
        return Ok(());
    }
    let mut months = lock(tx, used.keys().copied()).await?;
    for month in &mut months {
        let was = month.now.over_at_ms;
        month.turn(tx.now)?;
        let from = month.now.starts_at_ms;
        for billed in used
            .get(&month.tenant)
            .into_iter()
            .flat_map(|buckets| buckets.range(from..).map(|it| it.1))
        {
            month.now.used += *billed;
        }
        month.judge(tx.now);
        if was.is_some() != month.now.over_at_ms.is_some() {
            tx.changed(changed(month.tenant));
        }
    }
    write(tx, &months).await
}

/// A tenant may use so much, from now on: with what it has used of the month already.
pub(crate) async fn set_limit(
    tx: &mut Write,
    tenant: TenantId,
    zone: &Zone,
    most: Option<u64>,
) -> Result<()> {
    let known = lock(tx, [tenant]).await?.pop();
    let was_over = known
        .as_ref()
        .is_some_and(|month| month.now.over_at_ms.is_some() && month.now.ends_at_ms > tx.now);
    if most.is_none() {
        sql::run(
            &**tx,
            "DELETE FROM tenant_months WHERE tenant_id = $1",
            vec![tenant.uuid().into()],
        )
        .await?;
        if was_over {
            tx.changed(changed(tenant));
        }
        return Ok(());
    }
    let is_new = known.is_none();
    let mut month = match known {
        Some(month) => month,
        None => counted(tx, tenant, zone).await?,
    };
    month.most = most;
    month.turn(tx.now)?;
    month.judge(tx.now);
    if was_over != month.now.over_at_ms.is_some() {
        tx.changed(changed(tenant));
    }
    if is_new {
        insert(tx, &month).await
    } else {
        write(tx, &[month]).await
    }
}

impl Store {
    /// What a tenant has used of its month; `None` where it has no limit of bytes.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tenant_month(&self, tenant: TenantId) -> Result<Option<TenantMonth>> {
        let now = self.now_ms();
        let row = sql::one(
            &self.read_in(tenant).await?,
            "SELECT m.starts_at, m.ends_at, m.billed_bytes, m.billed_micro, m.over_at, t.time_zone
             FROM tenant_months m JOIN tenants t ON t.id = m.tenant_id WHERE m.tenant_id = $1",
            vec![tenant.uuid().into()],
        )
        .await?;
        let Some(row) = row else { return Ok(None) };
        let month = month(&row, 0)?;
        if now < month.ends_at_ms {
            return Ok(Some(month));
        }
        begun(&zone(sql::get(&row, 5)?)?, now).map(Some)
    }

    /// Begins the month of tenants that had used up the one before, at most `limit`, under a job's
    /// lease: their users' traffic passes again. Returns how many there were.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], and those of the database.
    pub async fn begin_months(&self, lease: &JobLease, limit: u32) -> Result<u64> {
        let mut tx = self.begin().await?;
        jobs::hold(&*tx, lease).await?;
        let rows = sql::all(
            &*tx,
            "SELECT tenant_id FROM tenant_months WHERE over_at IS NOT NULL AND ends_at <= $1
             ORDER BY ends_at LIMIT $2",
            vec![tx.now.into(), i64::from(limit).into()],
        )
        .await?;
        let mut due = Vec::with_capacity(rows.len());
        for row in &rows {
            due.push(TenantId::new(sql::get(row, 0)?));
        }
        if due.is_empty() {
            return Ok(0);
        }
        let mut months = lock(&tx, due).await?;
        for month in &mut months {
            month.turn(tx.now)?;
            tx.changed(changed(month.tenant));
        }
        write(&tx, &months).await?;
        let count = months.len() as u64;
        jobs::count(&tx, lease, count).await?;
        tx.commit().await?;
        Ok(count)
    }
}

/// Nodes are told as of a suspension: it is one, until the month ends.
fn changed(tenant: TenantId) -> Entry {
    Entry::new(ChangeKind::Suspension, Some(tenant), tenant)
}

/// A month in which nothing was used yet.
fn begun(zone: &Zone, now: i64) -> Result<TenantMonth> {
    let Window { starts_ms, ends_ms } =
        month_of(zone, now).map_err(|error| StoreError::corrupt("tenants.time_zone", error))?;
    Ok(TenantMonth {
        starts_at_ms: starts_ms,
        ends_at_ms: ends_ms.unwrap_or(i64::MAX),
        used: MicroBytes::ZERO,
        over_at_ms: None,
    })
}

/// The month of a tenant that had no limit so far: what is in its books is counted.
async fn counted(tx: &Write, tenant: TenantId, zone: &Zone) -> Result<Month> {
    let mut now = begun(zone, tx.now)?;
    let query = UsageQuery {
        from_ms: now.starts_at_ms,
        to_ms: now.ends_at_ms,
        step_ms: 900_000,
    };
    let series = usage::series(&**tx, &OF_NODES, vec![tenant.uuid().into()], query).await?;
    now.used = series.total.billed;
    Ok(Month {
        tenant,
        now,
        most: None,
        zone: zone.clone(),
    })
}

async fn lock(tx: &Write, tenants: impl IntoIterator<Item = TenantId>) -> Result<Vec<Month>> {
    let text = format!(
        "SELECT m.starts_at, m.ends_at, m.billed_bytes, m.billed_micro, m.over_at, t.time_zone,
                t.max_bytes, m.tenant_id
         FROM tenant_months m JOIN tenants t ON t.id = m.tenant_id
         WHERE m.tenant_id {} ORDER BY m.tenant_id {{for_update_m}}",
        sql::in_ids(&**tx, 1)
    );
    sql::all(&**tx, text, vec![sql::ids(&**tx, tenants)])
        .await?
        .iter()
        .map(|row| {
            Ok(Month {
                tenant: TenantId::new(sql::get::<Uuid>(row, 7)?),
                now: month(row, 0)?,
                most: sql::get::<Option<i64>>(row, 6)?.map(sql::unsigned),
                zone: zone(sql::get(row, 5)?)?,
            })
        })
        .collect()
}

fn month(row: &QueryResult, first: usize) -> Result<TenantMonth> {
    Ok(TenantMonth {
        starts_at_ms: sql::get(row, first)?,
        ends_at_ms: sql::get(row, first + 1)?,
        used: amount::get(row, first + 2)?,
        over_at_ms: sql::get(row, first + 4)?,
    })
}

fn zone(name: String) -> Result<Zone> {
    name.parse()
        .map_err(|error| StoreError::corrupt("tenants.time_zone", error))
}

async fn insert(tx: &Write, month: &Month) -> Result<()> {
    let (bytes, micro) = amount::split(month.now.used)?;
    sql::run(
        &**tx,
        "INSERT INTO tenant_months (tenant_id, starts_at, ends_at, billed_bytes, billed_micro,
            over_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
        vec![
            month.tenant.uuid().into(),
            month.now.starts_at_ms.into(),
            month.now.ends_at_ms.into(),
            bytes.into(),
            micro.into(),
            month.now.over_at_ms.into(),
        ],
    )
    .await?;
    Ok(())
}

async fn write(tx: &Write, months: &[Month]) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("tenant_id", Column::Id),
            ("starts_at", Column::Big),
            ("ends_at", Column::Big),
            ("billed_bytes", Column::Big),
            ("billed_micro", Column::Big),
            ("over_at", Column::Big),
        ],
    );
    for month in months {
        let (bytes, micro) = amount::split(month.now.used)?;
        rows.push([
            Cell::Id(month.tenant.uuid()),
            Cell::Big(month.now.starts_at_ms),
            Cell::Big(month.now.ends_at_ms),
            Cell::Big(bytes),
            Cell::Big(micro),
            // No column of a set is null: −1 stands for it.
            Cell::Big(month.now.over_at_ms.unwrap_or(-1)),
        ]);
    }
    run(tx, rows, vec![], |source| {
        format!(
            "UPDATE tenant_months SET starts_at = s.starts_at, ends_at = s.ends_at,
                billed_bytes = s.billed_bytes, billed_micro = s.billed_micro,
                over_at = NULLIF(s.over_at, -1)
             FROM {source} WHERE tenant_months.tenant_id = s.tenant_id"
        )
    })
    .await?;
    Ok(())
}
