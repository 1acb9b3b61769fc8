//! Retention: the oldest events of a chain go, whole batches of its beginning at a time. A
//! checkpoint keeps the hash that the rest hangs on, and an event says what went.

use uuid::Uuid;

use super::{Event, chain, least_id, stored};
use crate::connect::Store;
use crate::error::Result;
use crate::jobs::{self, JobLease};
use crate::sql;

impl Store {
    /// Removes events before a time from the beginning of one chain, at most `limit`, under a
    /// job's lease; returns how many, and 0 when no chain begins so early.
    ///
    /// # Errors
    /// [`crate::StoreError::LeaseLost`], and those of the database.
    pub async fn trim_audit(&self, lease: &JobLease, before_ms: i64, limit: u32) -> Result<u64> {
        let mut tx = self.begin().await?;
        jobs::hold(&*tx, lease).await?;
        let bound = least_id(before_ms);
        let chain = sql::one(
            &*tx,
            "SELECT h.tenant_id FROM audit_heads h
             WHERE (SELECT e.id FROM audit_events e
                    WHERE e.tenant_id = h.tenant_id AND e.seq > 0 ORDER BY e.seq LIMIT 1) < $1
             LIMIT 1",
            vec![bound.into()],
        )
        .await?;
        let Some(chain) = chain else { return Ok(0) };
        let chain: Uuid = sql::get(&chain, 0)?;
        let first = sql::all(
            &*tx,
            "SELECT id, seq, hash FROM audit_events WHERE tenant_id = $1 AND seq > 0
             ORDER BY seq LIMIT $2",
            vec![chain.into(), i64::from(limit).into()],
        )
        .await?;
        let mut through: Option<(i64, Vec<u8>)> = None;
        let mut count = 0;
        for row in &first {
            if sql::get::<Uuid>(row, 0)? >= bound {
                break;
            }
            through = Some((sql::get(row, 1)?, sql::get(row, 2)?));
            count += 1;
        }
        let Some((seq, hash)) = through else {
            return Ok(0);
        };
        tx.audit(Event::on(
            chain::CHECKPOINT,
            stored::tenant_of(chain),
            chain::checkpoint_name(sql::unsigned(seq), &hash),
        ));
        sql::run(
            &*tx,
            "INSERT INTO audit_checkpoints (tenant_id, through_seq, hash, made_at)
             VALUES ($1, $2, $3, $4)",
            vec![chain.into(), seq.into(), hash.into(), tx.now.into()],
        )
        .await?;
        sql::run(
            &*tx,
            "DELETE FROM audit_events WHERE tenant_id = $1 AND seq <= $2",
            vec![chain.into(), seq.into()],
        )
        .await?;
        jobs::count(&tx, lease, count).await?;
        tx.commit().await?;
        Ok(count)
    }
}
