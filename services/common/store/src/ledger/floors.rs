//! How long usage is kept in steps of which length (docs/adr/0014). A floor is raised in the
//! transaction that removes what lies below it, and not over an hour whose sums are behind: then
//! whatever lies below a floor came late, and is in no sum yet.

use super::partitions::{BUCKETS, HOURS};
use super::rollup::{HOUR_MS, hour_of};
use crate::connect::{Backend, Store};
use crate::error::Result;
use crate::jobs::{self, JobLease};
use crate::sql;
use crate::transaction::Write;

/// Rows of hours that one transaction deletes.
const ROWS: i64 = 5_000;

/// How long usage is kept in steps of which length; days are kept for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageKept {
    /// 15-minute steps; `None` for good.
    pub quarters_ms: Option<i64>,
    /// Hours; `None` for good. Never shorter than the former.
    pub hours_ms: Option<i64>,
}

/// From where on there are 15-minute rows of users and of nodes, and hours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floors {
    pub(super) users: i64,
    pub(super) nodes: i64,
    pub(super) hours: i64,
}

/// The floors, which stay where they are until the transaction ends.
pub(super) async fn read(tx: &Write) -> Result<Floors> {
    locked(tx, "{for_share}").await
}

async fn locked(tx: &Write, lock: &str) -> Result<Floors> {
    let text = format!("SELECT users_from, nodes_from, hours_from FROM usage_floors {lock}");
    let row = sql::one(&**tx, text, vec![])
        .await?
        .ok_or_else(|| crate::StoreError::corrupt("usage_floors", "no row"))?;
    Ok(Floors {
        users: sql::get(&row, 0)?,
        nodes: sql::get(&row, 1)?,
        hours: sql::get(&row, 2)?,
    })
}

impl Store {
    /// Removes a piece of what is no longer kept, under a job's lease and in one transaction.
    /// Returns how many rows and partitions it was, and `None` when nothing is left to do, or what
    /// is has to be rolled before.
    ///
    /// # Errors
    /// [`crate::StoreError::LeaseLost`], [`crate::StoreError::Contention`] where ingest or readers
    /// were in the way for too long, and those of the database.
    pub async fn retain_usage(&self, lease: &JobLease, keep: UsageKept) -> Result<Option<u64>> {
        let tx = self.begin().await?;
        jobs::hold(&*tx, lease).await?;
        let floors = locked(&tx, "{for_update}").await?;
        let before = |kept: Option<i64>| kept.map_or(0, |ms| hour_of(tx.now.saturating_sub(ms)));
        let quarters = before(keep.quarters_ms);
        // A sum of an hour is needed for as long as its 15-minute rows are there.
        let hours = before(keep.hours_ms).min(quarters);
        let removed = match self.backend() {
            Backend::Postgres => {
                let week = BUCKETS.length_ms;
                let weeks = quarters.div_euclid(week) * week;
                match drop_weeks(&tx, floors, weeks).await? {
                    None => drop_quarters(&tx, floors, quarters).await?,
                    some => some,
                }
            }
            Backend::Sqlite => drop_quarters(&tx, floors, quarters).await?,
        };
        let removed = match removed {
            None => drop_hours(&tx, floors, hours).await?,
            some => some,
        };
        jobs::count(&tx, lease, removed.unwrap_or(0)).await?;
        tx.commit().await?;
        Ok(removed)
    }
}

/// Whether sums of hours before this one are behind.
async fn behind(tx: &Write, before: i64) -> Result<bool> {
    let note = sql::one(
        &**tx,
        "SELECT 1 FROM usage_touched WHERE hour_at < $1 LIMIT 1",
        vec![before.into()],
    )
    .await?;
    Ok(note.is_some())
}

/// Waits for the transactions that write the table, and lets no other begin; for a short time
/// alone, because ingest waits meanwhile.
async fn lock(tx: &Write, table: &str, mode: &str) -> Result<()> {
    if tx.backend() == Backend::Postgres {
        sql::run(&**tx, "SET LOCAL lock_timeout = '2s'", vec![]).await?;
        sql::run(&**tx, format!("LOCK TABLE {table} IN {mode} MODE"), vec![]).await?;
    }
    Ok(())
}

/// Postgres: drops partitions of users' 15-minute rows.
async fn drop_weeks(tx: &Write, floors: Floors, upto: i64) -> Result<Option<u64>> {
    if floors.users >= upto || behind(tx, upto).await? {
        return Ok(None);
    }
    lock(tx, BUCKETS.table, "ACCESS EXCLUSIVE").await?;
    if behind(tx, upto).await? {
        return Ok(None);
    }
    let mut removed = BUCKETS.drop_before(tx, upto).await?;
    removed += sql::run(
        &**tx,
        "DELETE FROM usage_buckets_other WHERE bucket_at < $1",
        vec![upto.into()],
    )
    .await?;
    raise(tx, "users_from", upto).await?;
    Ok(Some(removed))
}

/// Deletes the 15-minute rows of one hour: those of nodes, and on SQLite those of users.
async fn drop_quarters(tx: &Write, floors: Floors, upto: i64) -> Result<Option<u64>> {
    if floors.nodes >= upto {
        return Ok(None);
    }
    lock(tx, "node_buckets", "SHARE ROW EXCLUSIVE").await?;
    let oldest = sql::one(
        &**tx,
        "SELECT bucket_at FROM node_buckets WHERE bucket_at < $1 ORDER BY bucket_at LIMIT 1",
        vec![upto.into()],
    )
    .await?;
    let upto = match oldest {
        Some(row) => hour_of(sql::get(&row, 0)?) + HOUR_MS,
        None => upto,
    };
    if behind(tx, upto).await? {
        return Ok(None);
    }
    let mut removed = sql::run(
        &**tx,
        "DELETE FROM node_buckets WHERE bucket_at < $1",
        vec![upto.into()],
    )
    .await?;
    raise(tx, "nodes_from", upto).await?;
    if tx.backend() == Backend::Sqlite {
        // Rows of usage lie under their users.
        removed += sql::run(
            &**tx,
            "DELETE FROM usage_buckets WHERE (tenant_id, user_id, bucket_at, node_id, period_id) IN (
                SELECT x.tenant_id, x.user_id, x.bucket_at, x.node_id, x.period_id
                FROM users u CROSS JOIN usage_buckets x
                ON x.tenant_id = u.tenant_id AND x.user_id = u.id AND x.bucket_at < $1)",
            vec![upto.into()],
        )
        .await?;
        raise(tx, "users_from", upto).await?;
    }
    Ok(Some(removed))
}

/// Hours: nobody reads those below their floor, so that they may go after it was raised.
async fn drop_hours(tx: &Write, floors: Floors, upto: i64) -> Result<Option<u64>> {
    let raised = floors.hours < upto;
    if raised {
        raise(tx, "hours_from", upto).await?;
    }
    let mut removed = 0;
    let of_users = if tx.backend() == Backend::Postgres {
        if HOURS.has_before(tx, upto).await? {
            lock(tx, HOURS.table, "ACCESS EXCLUSIVE").await?;
            removed += HOURS.drop_before(tx, upto).await?;
        }
        "usage_hours_other"
    } else {
        "usage_hours"
    };
    for (table, key) in [(of_users, "user_id, "), ("node_hours", "")] {
        removed += sql::run(
            &**tx,
            format!(
                "DELETE FROM {table} WHERE (tenant_id, {key}hour_at, node_id) IN (
                    SELECT tenant_id, {key}hour_at, node_id FROM {table}
                    WHERE hour_at < $1 LIMIT $2)"
            ),
            vec![upto.into(), ROWS.into()],
        )
        .await?;
    }
    Ok((raised || removed > 0).then_some(removed))
}

async fn raise(tx: &Write, floor: &str, upto: i64) -> Result<()> {
    sql::run(
        &**tx,
        format!("UPDATE usage_floors SET {floor} = $1"),
        vec![upto.into()],
    )
    .await?;
    Ok(())
}
