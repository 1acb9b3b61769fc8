//! Sums of usage by hours and days (docs/adr/0014). Ingest notes which hours it touched; the roll
//! takes a tenant's notes of hours that are over, adds to its hours and days what they lack of
//! their 15-minute rows, and strikes the notes off. An hour is behind for as long as there is a
//! note of it, and whoever reads it meanwhile reads the 15-minute rows.
//!
//! Of hours from before the floor the 15-minute rows are gone, but for what came late: that is
//! moved, out of the 15-minute rows and into the sums.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::{QueryResult, Value};
use uuid::Uuid;
use vpnpanel_domain::MicroBytes;

use super::floors::{self, Floors};
use super::write::add_billed;
use crate::connect::Store;
use crate::error::Result;
use crate::jobs::{self, JobLease};
use crate::row_set::{Cell, Column, RowSet};
use crate::transaction::Write;
use crate::{amount, sql};

pub(crate) const HOUR_MS: i64 = 3_600_000;
pub(crate) const DAY_MS: i64 = 24 * HOUR_MS;

/// How long after its end an hour is rolled: most of what was counted in it has come by then.
pub const ROLL_AFTER_MS: i64 = 10 * 60_000;
/// Notes that one transaction takes.
const NOTES: i64 = 20_000;
/// Hours that one roll goes through.
const HOURS: usize = 168;
/// Notes of hours that are not over are joined where there are more of them than this.
const LOOSE_NOTES: i64 = 1_000;

/// The beginning of the hour that a moment is in.
pub(crate) const fn hour_of(at_ms: i64) -> i64 {
    at_ms - at_ms.rem_euclid(HOUR_MS)
}

const fn day_of(at_ms: i64) -> i64 {
    at_ms - at_ms.rem_euclid(DAY_MS)
}

/// Where a roll stands, between its transactions. Dropping it is harmless: what was added is not
/// added again, and what is left is found by its notes.
#[derive(Debug, Default)]
pub struct UsageRoll(Option<Taken>);

#[derive(Debug)]
struct Taken {
    tenant: Uuid,
    /// Under which its notes are.
    id: Uuid,
    oldest: i64,
    hours: usize,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Nodes,
    /// Behind this user.
    Users(Uuid),
}

/// The books that are kept both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Book {
    Users,
    Nodes,
}

/// What sums lack, by user (in the books of nodes, the node again), node and hour.
type Lacking = BTreeMap<(Uuid, Uuid, i64), Sum>;

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    up: i64,
    down: i64,
    billed: MicroBytes,
}

impl Store {
    /// Does the next piece of a roll, under a job's lease and in one transaction: takes notes, or
    /// adds what at most about `batch` hours of users lack. Returns how many sums it changed, and
    /// `None` when nothing is left to do.
    ///
    /// # Errors
    /// [`crate::StoreError::LeaseLost`], and those of the database: the same piece is next then.
    pub async fn roll_usage(
        &self,
        lease: &JobLease,
        roll: &mut UsageRoll,
        batch: u32,
    ) -> Result<Option<u64>> {
        let tx = self.begin().await?;
        jobs::hold(&*tx, lease).await?;
        let Some(taken) = &roll.0 else {
            roll.0 = take(&tx).await?;
            join_loose(&tx).await?;
            tx.commit().await?;
            return Ok(roll.0.as_ref().map(|_| 0));
        };
        let floors = floors::read(&tx).await?;
        let (changed, next) = match taken.stage {
            Stage::Nodes => {
                let lacking = taken.lacking(&tx, Book::Nodes, floors.nodes, &[]).await?;
                let changed = add(&tx, taken.tenant, Book::Nodes, lacking, floors).await?;
                (changed, Some(Uuid::nil()))
            }
            Stage::Users(after) => {
                let hours = u32::try_from(taken.hours).unwrap_or(u32::MAX).max(1);
                let limit = (batch / hours).max(1);
                let users = users(&tx, taken.tenant, after, limit).await?;
                let lacking = taken
                    .lacking(&tx, Book::Users, floors.users, &users)
                    .await?;
                let changed = add(&tx, taken.tenant, Book::Users, lacking, floors).await?;
                let full = users.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
                (changed, users.last().copied().filter(|_| full))
            }
        };
        if next.is_none() {
            taken.strike_off(&tx).await?;
        }
        jobs::count(&tx, lease, changed).await?;
        tx.commit().await?;
        roll.0 = match (roll.0.take(), next) {
            (Some(taken), Some(after)) => Some(Taken {
                stage: Stage::Users(after),
                ..taken
            }),
            _ => None,
        };
        Ok(Some(changed))
    }
}

/// Takes the notes of the tenant that has waited longest, of hours that are over: they become one
/// of each hour, under an id of the roll's. Notes that come from here on are not among them.
async fn take(tx: &Write) -> Result<Option<Taken>> {
    let before = hour_of(tx.now - ROLL_AFTER_MS);
    let first = sql::one(
        &**tx,
        "SELECT tenant_id FROM usage_touched WHERE hour_at < $1
         ORDER BY hour_at, tenant_id LIMIT 1",
        vec![before.into()],
    )
    .await?;
    let Some(first) = first else { return Ok(None) };
    let tenant: Uuid = sql::get(&first, 0)?;
    let notes = sql::all(
        &**tx,
        "DELETE FROM usage_touched WHERE (hour_at, tenant_id, id) IN (
            SELECT hour_at, tenant_id, id FROM usage_touched
            WHERE hour_at < $1 AND tenant_id = $2 ORDER BY hour_at LIMIT $3)
         RETURNING hour_at",
        vec![before.into(), tenant.into(), NOTES.into()],
    )
    .await?;
    let mut hours = BTreeSet::new();
    for row in &notes {
        hours.insert(sql::get::<i64>(row, 0)?);
    }
    let rolled: Vec<i64> = hours.iter().copied().take(HOURS).collect();
    let left: Vec<i64> = hours.iter().copied().skip(HOURS).collect();
    let id = Uuid::now_v7();
    note(tx, id, rolled.iter().map(|&hour| (hour, tenant))).await?;
    note(
        tx,
        Uuid::now_v7(),
        left.into_iter().map(|hour| (hour, tenant)),
    )
    .await?;
    Ok(rolled.first().map(|&oldest| Taken {
        tenant,
        id,
        oldest,
        hours: rolled.len(),
        stage: Stage::Nodes,
    }))
}

/// Joins notes of hours that are not over, where there are many: every ingest transaction leaves
/// some, and whoever reads these hours goes through them.
async fn join_loose(tx: &Write) -> Result<()> {
    let from = hour_of(tx.now - ROLL_AFTER_MS);
    let many = sql::one(
        &**tx,
        "SELECT 1 FROM usage_touched WHERE hour_at >= $1 ORDER BY hour_at LIMIT 1 OFFSET $2",
        vec![from.into(), LOOSE_NOTES.into()],
    )
    .await?;
    if many.is_none() {
        return Ok(());
    }
    let notes = sql::all(
        &**tx,
        "DELETE FROM usage_touched WHERE (hour_at, tenant_id, id) IN (
            SELECT hour_at, tenant_id, id FROM usage_touched
            WHERE hour_at >= $1 ORDER BY hour_at LIMIT $2)
         RETURNING hour_at, tenant_id",
        vec![from.into(), NOTES.into()],
    )
    .await?;
    let mut joined = BTreeSet::new();
    for row in &notes {
        joined.insert((sql::get(row, 0)?, sql::get(row, 1)?));
    }
    note(tx, Uuid::now_v7(), joined).await
}

/// Notes hours whose sums are behind their 15-minute rows, under an id of the transaction's, so that
/// none waits for another's.
pub(super) async fn note(
    tx: &Write,
    id: Uuid,
    hours: impl IntoIterator<Item = (i64, Uuid)>,
) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[("hour_at", Column::Big), ("tenant_id", Column::Id)],
    );
    for (hour, tenant) in hours {
        rows.push([Cell::Big(hour), Cell::Id(tenant)]);
    }
    super::write::run(tx, rows, vec![id.into()], |source| {
        format!(
            "INSERT INTO usage_touched (hour_at, tenant_id, id)
             SELECT hour_at, tenant_id, $1 FROM {source}"
        )
    })
    .await?;
    Ok(())
}

/// The next users of a tenant: rows of usage lie under their users.
async fn users(tx: &Write, tenant: Uuid, after: Uuid, limit: u32) -> Result<Vec<Uuid>> {
    let rows = sql::all(
        &**tx,
        "SELECT id FROM users WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
        vec![tenant.into(), after.into(), i64::from(limit).into()],
    )
    .await?;
    let ids = rows.iter().map(|row| Ok(sql::get(row, 0)?));
    ids.collect()
}

impl Taken {
    /// What the sums of the hours taken lack.
    async fn lacking(&self, tx: &Write, book: Book, floor: i64, users: &[Uuid]) -> Result<Lacking> {
        let mut lacking = Lacking::new();
        if book == Book::Users && users.is_empty() {
            return Ok(lacking);
        }
        let mut values: Vec<Value> = vec![self.tenant.into(), self.id.into(), floor.into()];
        let mut of_users = String::new();
        if book == Book::Users {
            values.push(sql::ids(&**tx, users.iter().copied()));
            of_users = format!("AND x.user_id {}", sql::in_ids(&**tx, 4));
        }
        for row in &sql::all(&**tx, book.behind(&of_users), values.clone()).await? {
            put(&mut lacking, row)?;
        }
        if self.oldest < floor {
            for row in &sql::all(&**tx, book.late(&of_users), values).await? {
                put(&mut lacking, row)?;
            }
        }
        Ok(lacking)
    }

    async fn strike_off(&self, tx: &Write) -> Result<()> {
        sql::run(
            &**tx,
            "DELETE FROM usage_touched WHERE hour_at >= $1 AND tenant_id = $2 AND id = $3",
            vec![self.oldest.into(), self.tenant.into(), self.id.into()],
        )
        .await?;
        Ok(())
    }
}

impl Book {
    const fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Users => ("usage_buckets", "usage_hours", "usage_days", "user_id, "),
            Self::Nodes => ("node_buckets", "node_hours", "node_days", ""),
        }
    }

    /// What a sum's user is read from.
    const fn user(self) -> &'static str {
        match self {
            Self::Users => "x.user_id",
            Self::Nodes => "x.node_id",
        }
    }

    /// 15-minute rows less the sums of their hours, at one moment.
    fn behind(self, of_users: &str) -> String {
        let (buckets, hours, ..) = self.names();
        let user = self.user();
        format!(
            "SELECT user_id, node_id, hour_at, CAST(SUM(up) AS BIGINT), CAST(SUM(down) AS BIGINT),
                    CAST(SUM(billed_bytes) AS BIGINT), CAST(SUM(billed_micro) AS BIGINT)
             FROM (
                SELECT {user} AS user_id, x.node_id, t.hour_at, x.up, x.down, x.billed_bytes,
                    x.billed_micro
                FROM usage_touched t JOIN {buckets} x ON x.tenant_id = $1
                    AND x.bucket_at >= t.hour_at AND x.bucket_at < t.hour_at + {HOUR_MS}
                WHERE t.tenant_id = $1 AND t.id = $2 AND t.hour_at >= $3 {of_users}
                UNION ALL
                SELECT {user}, x.node_id, t.hour_at, -x.up, -x.down, -x.billed_bytes,
                    -x.billed_micro
                FROM usage_touched t JOIN {hours} x ON x.tenant_id = $1 AND x.hour_at = t.hour_at
                WHERE t.tenant_id = $1 AND t.id = $2 AND t.hour_at >= $3 {of_users}
             ) AS s GROUP BY 1, 2, 3
             HAVING SUM(up) <> 0 OR SUM(down) <> 0 OR SUM(billed_bytes) <> 0
                 OR SUM(billed_micro) <> 0"
        )
    }

    /// Takes the 15-minute rows out that came when those of their hours were gone.
    fn late(self, of_users: &str) -> String {
        let (buckets, ..) = self.names();
        let user = self.user().trim_start_matches("x.");
        format!(
            "DELETE FROM {buckets} AS x WHERE x.tenant_id = $1 AND x.bucket_at < $3 {of_users}
                AND EXISTS (SELECT 1 FROM usage_touched t WHERE t.tenant_id = $1 AND t.id = $2
                    AND t.hour_at = x.bucket_at - x.bucket_at % {HOUR_MS})
             RETURNING {user}, node_id, bucket_at - bucket_at % {HOUR_MS}, up, down, billed_bytes,
                CAST(billed_micro AS BIGINT)"
        )
    }

    fn add_to(self, table: &str, at: &str, source: &str) -> String {
        let user = self.names().3;
        let billed = add_billed!("x", "excluded");
        format!(
            "INSERT INTO {table} AS x (tenant_id, {user}{at}, node_id, up, down, billed_bytes,
                billed_micro)
             SELECT $1, {user}at, node_id, up, down, billed_bytes, billed_micro
             FROM {source} WHERE TRUE
             ON CONFLICT (tenant_id, {user}{at}, node_id) DO UPDATE
             SET up = x.up + excluded.up, down = x.down + excluded.down, {billed}"
        )
    }
}

/// Adds what a row of seven columns says.
fn put(lacking: &mut Lacking, row: &QueryResult) -> Result<()> {
    let (user, node, hour) = (sql::get(row, 0)?, sql::get(row, 1)?, sql::get(row, 2)?);
    let (up, down): (i64, i64) = (sql::get(row, 3)?, sql::get(row, 4)?);
    let (bytes, micro): (i64, i64) = (sql::get(row, 5)?, sql::get(row, 6)?);
    let billed = u128::try_from(amount::difference(bytes, micro)).map(MicroBytes::new);
    match billed {
        Ok(billed) if up >= 0 && down >= 0 => {
            let sum = lacking.entry((user, node, hour)).or_default();
            sum.add(Sum { up, down, billed });
        }
        _ => tracing::error!(
            event = "usage.rollup_exceeds",
            user_id = %user,
            node_id = %node,
            hour_at = hour,
            "an hour holds more than its 15-minute rows; it is left as it is"
        ),
    }
    Ok(())
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.up = self.up.saturating_add(other.up);
        self.down = self.down.saturating_add(other.down);
        self.billed += other.billed;
    }
}

/// Adds what is lacking to the hours that are kept and to the days; returns how many sums of hours
/// it was.
async fn add(
    tx: &Write,
    tenant: Uuid,
    book: Book,
    lacking: Lacking,
    floors: Floors,
) -> Result<u64> {
    let count = lacking.len() as u64;
    let mut days = Lacking::new();
    for (&(user, node, hour), &sum) in &lacking {
        days.entry((user, node, day_of(hour))).or_default().add(sum);
    }
    let (_, hours_table, days_table, _) = book.names();
    let kept = lacking.into_iter().filter(|it| it.0.2 >= floors.hours);
    add_sums(tx, tenant, kept, |source| {
        book.add_to(hours_table, "hour_at", source)
    })
    .await?;
    add_sums(tx, tenant, days, |source| {
        book.add_to(days_table, "day_at", source)
    })
    .await?;
    Ok(count)
}

async fn add_sums(
    tx: &Write,
    tenant: Uuid,
    sums: impl IntoIterator<Item = ((Uuid, Uuid, i64), Sum)>,
    text: impl FnOnce(&str) -> String,
) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("user_id", Column::Id),
            ("node_id", Column::Id),
            ("at", Column::Big),
            ("up", Column::Big),
            ("down", Column::Big),
            ("billed_bytes", Column::Big),
            ("billed_micro", Column::Big),
        ],
    );
    for ((user, node, at), sum) in sums {
        let (bytes, micro) = amount::split(sum.billed)?;
        rows.push([
            Cell::Id(user),
            Cell::Id(node),
            Cell::Big(at),
            Cell::Big(sum.up),
            Cell::Big(sum.down),
            Cell::Big(bytes),
            Cell::Big(micro),
        ]);
    }
    super::write::run(tx, rows, vec![tenant.into()], text).await?;
    Ok(())
}
