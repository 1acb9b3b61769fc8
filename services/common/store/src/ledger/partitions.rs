//! Partitions of usage by time (Postgres), made ahead so that no insert waits for one. Usage
//! outside of all of them lands in the default partition, and is never refused.

use crate::connect::{Backend, Store};
use crate::error::Result;
use crate::sql;

/// Length of a partition: a week, counted from the Unix epoch.
pub const PARTITION_MS: i64 = 7 * 24 * 3_600_000;

impl Store {
    /// Makes the partitions from last week's to the one `weeks` ahead; does nothing on SQLite.
    /// To be called at start and daily.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ensure_usage_partitions(&self, weeks: u32) -> Result<()> {
        if self.backend() != Backend::Postgres {
            return Ok(());
        }
        let this = self.now_ms().div_euclid(PARTITION_MS);
        for week in this - 1..=this + i64::from(weeks) {
            let (from, to) = (week * PARTITION_MS, (week + 1) * PARTITION_MS);
            let name = format!("usage_buckets_{week}");
            let tx = self.begin().await?;
            // One process at a time; the others find it made.
            sql::one(
                &*tx,
                "SELECT pg_advisory_xact_lock(hashtext('usage_partitions'))",
                vec![],
            )
            .await?;
            let row = sql::one(
                &*tx,
                "SELECT to_regclass($1) IS NOT NULL OR EXISTS (
                    SELECT 1 FROM usage_buckets_other WHERE bucket_at >= $2 AND bucket_at < $3)",
                vec![name.as_str().into(), from.into(), to.into()],
            )
            .await?;
            // Where the default partition already has rows of that week it keeps them all.
            if row.map_or(Ok(false), |row| sql::get(&row, 0))? {
                continue;
            }
            sql::run(
                &*tx,
                format!(
                    "CREATE TABLE {name} PARTITION OF usage_buckets
                     FOR VALUES FROM ({from}) TO ({to}) WITH (fillfactor = 70)"
                ),
                vec![],
            )
            .await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Forgets digests of batches that were committed before `before_ms`; returns how many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_digests(&self, before_ms: i64) -> Result<u64> {
        let tx = self.begin().await?;
        let count = sql::run(
            &*tx,
            "DELETE FROM batch_digests WHERE committed_at < $1",
            vec![before_ms.into()],
        )
        .await?;
        tx.commit().await?;
        Ok(count)
    }
}
