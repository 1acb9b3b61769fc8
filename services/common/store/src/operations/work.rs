//! Working on operations: a batch at a time, under a lease with a fence.

use std::time::Duration;

use uuid::Uuid;
use vpnpanel_domain::{OperationId, PlanId, TenantId, UserId};

use super::{ItemFailure, ItemState, OperationItem, OperationLease, items};
use crate::audit::{Attribution, Describe, Event};
use crate::connect::{Backend, Store};
use crate::error::{Result, StoreError};
use crate::jobs::{self, JobLease};
use crate::page::Page;
use crate::row_set::{Cell, Column, RowSet};
use crate::transaction::Write;
use crate::user_create::{self, NewUser};
use crate::{sql, users};

impl Store {
    /// Takes the operation that has waited the longest, of any tenant, for one batch; `None` when none
    /// waits.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim_operation(
        &self,
        lease: Duration,
        describe: Describe,
    ) -> Result<Option<OperationLease>> {
        // Most looks find nothing: they must not take SQLite's only writer.
        let waits = sql::one(
            self.read(),
            "SELECT 1 FROM operations WHERE state = 'running' AND lease_until <= $1 LIMIT 1",
            vec![self.now_ms().into()],
        );
        if waits.await?.is_none() {
            return Ok(None);
        }
        let tx = self.begin().await?;
        let skip = match self.backend() {
            Backend::Postgres => "FOR NO KEY UPDATE SKIP LOCKED",
            Backend::Sqlite => "",
        };
        let until = tx
            .now
            .saturating_add(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX));
        let row = sql::one(
            &*tx,
            format!(
                "UPDATE operations SET fence = fence + 1, lease_until = $2
                 WHERE id = (SELECT id FROM operations
                    WHERE state = 'running' AND lease_until <= $1
                    ORDER BY lease_until, id LIMIT 1 {skip})
                 RETURNING tenant_id, id, plan_id, fence, attribution"
            ),
            vec![tx.now.into(), until.into()],
        )
        .await?;
        let Some(row) = row else { return Ok(None) };
        let lease = OperationLease {
            tenant: TenantId::new(sql::get(&row, 0)?),
            id: OperationId::new(sql::get(&row, 1)?),
            plan_id: PlanId::new(sql::get(&row, 2)?),
            fence: sql::get(&row, 3)?,
            who: Attribution::from_json(&sql::get(&row, 4)?, describe)?,
        };
        tx.commit().await?;
        Ok(Some(lease))
    }

    /// The next items of an operation, at most `limit`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn waiting_items(
        &self,
        lease: &OperationLease,
        limit: u32,
    ) -> Result<Vec<OperationItem>> {
        let db = &self.read_in(lease.tenant).await?;
        let waiting = Some(ItemState::Waiting);
        items(db, lease.tenant, lease.id, waiting, Page::first(limit)).await
    }

    /// Makes users of an operation, all or none, and notes that they are made.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], also when the operation has ended; those of
    /// [`Store::create_user`].
    pub async fn make_operation_users(
        &self,
        lease: &OperationLease,
        new: Vec<(u32, NewUser)>,
    ) -> Result<()> {
        let store = self.acting(lease.who.clone());
        let mut tx = store.begin_in(lease.tenant).await?;
        hold(&tx, lease).await?;
        let (numbers, new): (Vec<u32>, Vec<NewUser>) = new.into_iter().unzip();
        let ids: Vec<UserId> = new.iter().map(|user| user.id).collect();
        user_create::create(&mut tx, lease.tenant, new).await?;
        for user in users::load_all(&*tx, lease.tenant, &ids, tx.now).await? {
            tx.audit(Event::created(&user));
        }
        let mut rows = RowSet::new(&*tx, &[("number", Column::Big)]);
        for number in &numbers {
            rows.push([Cell::Big(i64::from(*number))]);
        }
        let text = format!(
            "UPDATE operation_items SET state = 'done' FROM {}
             WHERE operation_items.tenant_id = $1 AND operation_items.operation_id = $2
               AND operation_items.number = s.number AND operation_items.state = 'waiting'",
            rows.source(3)
        );
        let mut values = vec![lease.tenant.uuid().into(), lease.id.uuid().into()];
        values.extend(rows.into_values());
        let done = sql::run(&*tx, text, values).await?;
        count(&tx, lease, done, 0).await?;
        tx.commit().await
    }

    /// Notes why items could not be done.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], also when the operation has ended.
    pub async fn fail_operation_items(
        &self,
        lease: &OperationLease,
        failures: &[ItemFailure],
    ) -> Result<()> {
        let tx = self.begin_in(lease.tenant).await?;
        hold(&tx, lease).await?;
        let mut rows = RowSet::new(
            &*tx,
            &[
                ("number", Column::Big),
                ("reason", Column::Text),
                ("message", Column::Text),
            ],
        );
        for failure in failures {
            rows.push([
                Cell::Big(i64::from(failure.number)),
                Cell::Text(&failure.reason),
                Cell::Text(&failure.message),
            ]);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let text = format!(
            "UPDATE operation_items SET state = 'failed', error_reason = s.reason,
                error_message = s.message
             FROM {}
             WHERE operation_items.tenant_id = $1 AND operation_items.operation_id = $2
               AND operation_items.number = s.number AND operation_items.state = 'waiting'",
            rows.source(3)
        );
        let mut values = vec![lease.tenant.uuid().into(), lease.id.uuid().into()];
        values.extend(rows.into_values());
        let failed = sql::run(&*tx, text, values).await?;
        count(&tx, lease, 0, failed).await?;
        tx.commit().await
    }

    /// Gives a lease back, so that the operation has its next turn behind those that wait; not before
    /// some time, where it has to wait for a reason.
    ///
    /// # Errors
    /// Those of the database. A lease that was lost is not given back.
    pub async fn release_operation(
        &self,
        lease: &OperationLease,
        waiting: Option<(&str, Duration)>,
    ) -> Result<()> {
        let tx = self.begin_in(lease.tenant).await?;
        let (reason, wait) = waiting.unwrap_or_default();
        let due = tx
            .now
            .saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
        sql::run(
            &*tx,
            "UPDATE operations SET lease_until = $4, waiting = $5
             WHERE tenant_id = $1 AND id = $2 AND fence = $3 AND state = 'running'",
            vec![
                lease.tenant.uuid().into(),
                lease.id.uuid().into(),
                lease.fence.into(),
                due.into(),
                reason.into(),
            ],
        )
        .await?;
        tx.commit().await
    }

    /// Deletes the next piece of the operations that ended before an instant, under a job's lease: at
    /// most `limit` items of the oldest, and with its last items the operation. Returns how many rows
    /// went; 0 when none is left.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], and those of the database.
    pub async fn forget_operations(
        &self,
        lease: &JobLease,
        before_ms: i64,
        limit: u32,
    ) -> Result<u64> {
        let tx = self.begin().await?;
        jobs::hold(&*tx, lease).await?;
        let oldest = sql::one(
            &*tx,
            "SELECT tenant_id, id FROM operations WHERE ended_at < $1 ORDER BY ended_at LIMIT 1",
            vec![before_ms.into()],
        )
        .await?;
        let Some(oldest) = oldest else { return Ok(0) };
        let of_it: [sea_orm::Value; 2] = [
            sql::get::<Uuid>(&oldest, 0)?.into(),
            sql::get::<Uuid>(&oldest, 1)?.into(),
        ];
        let mut values = of_it.to_vec();
        values.push(i64::from(limit).into());
        let mut gone = sql::run(
            &*tx,
            "DELETE FROM operation_items WHERE tenant_id = $1 AND operation_id = $2 AND number IN (
                SELECT number FROM operation_items WHERE tenant_id = $1 AND operation_id = $2
                ORDER BY number LIMIT $3)",
            values,
        )
        .await?;
        if gone < u64::from(limit) {
            gone += sql::run(
                &*tx,
                "DELETE FROM operations WHERE tenant_id = $1 AND id = $2",
                of_it.to_vec(),
            )
            .await?;
        }
        jobs::count(&tx, lease, gone).await?;
        tx.commit().await?;
        Ok(gone)
    }
}

/// Holds an operation until the commit; nothing is written once its lease was lost or it has ended.
async fn hold(tx: &Write, lease: &OperationLease) -> Result<()> {
    sql::one(
        &**tx,
        "SELECT id FROM operations
         WHERE tenant_id = $1 AND id = $2 AND fence = $3 AND state = 'running' {for_update}",
        vec![
            lease.tenant.uuid().into(),
            lease.id.uuid().into(),
            lease.fence.into(),
        ],
    )
    .await?
    .map(|_| ())
    .ok_or(StoreError::LeaseLost)
}

/// Adds to the figures, and ends an operation of which nothing is left.
async fn count(tx: &Write, lease: &OperationLease, done: u64, failed: u64) -> Result<()> {
    sql::run(
        &**tx,
        "UPDATE operations SET done = done + $3, failed = failed + $4, waiting = '',
            state = CASE WHEN done + failed + $3 + $4 >= total THEN 'ended' ELSE state END,
            ended_at = CASE WHEN done + failed + $3 + $4 >= total THEN $5 ELSE ended_at END
         WHERE tenant_id = $1 AND id = $2",
        vec![
            lease.tenant.uuid().into(),
            lease.id.uuid().into(),
            sql::signed(done).into(),
            sql::signed(failed).into(),
            tx.now.into(),
        ],
    )
    .await?;
    Ok(())
}
