//! Partitions of usage by time (Postgres), made ahead so that no insert waits for one. Usage
//! outside of all of them lands in the default partition, and is never refused.

use crate::connect::{Backend, Store};
use crate::error::Result;
use crate::sql;
use crate::transaction::Write;

/// Length of a partition: a week, counted from the Unix epoch.
pub const PARTITION_MS: i64 = 7 * 24 * 3_600_000;

/// A table with partitions by time.
pub(super) struct Partitioned {
    pub(super) table: &'static str,
    column: &'static str,
    /// Length of a partition, counted from the Unix epoch.
    pub(super) length_ms: i64,
}

/// Users' usage by 15 minutes.
pub(super) const BUCKETS: Partitioned = Partitioned {
    table: "usage_buckets",
    column: "bucket_at",
    length_ms: PARTITION_MS,
};

/// Users' usage by hours.
pub(super) const HOURS: Partitioned = Partitioned {
    table: "usage_hours",
    column: "hour_at",
    length_ms: 4 * PARTITION_MS,
};

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
        let last = self.now_ms() - PARTITION_MS;
        let ahead = self.now_ms() + i64::from(weeks) * PARTITION_MS;
        for kind in [BUCKETS, HOURS] {
            let (first, last) = (kind.number(last), kind.number(ahead));
            for number in first..=last {
                self.ensure_partition(&kind, number).await?;
            }
        }
        Ok(())
    }

    async fn ensure_partition(&self, kind: &Partitioned, number: i64) -> Result<()> {
        let Partitioned {
            table,
            column,
            length_ms,
        } = kind;
        let (from, to) = (number * length_ms, (number + 1) * length_ms);
        let name = format!("{table}_{number}");
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
            format!(
                "SELECT to_regclass($1) IS NOT NULL OR EXISTS (
                    SELECT 1 FROM {table}_other WHERE {column} >= $2 AND {column} < $3)"
            ),
            vec![name.as_str().into(), from.into(), to.into()],
        )
        .await?;
        // Where the default partition already has rows of that time it keeps them all.
        if row.map_or(Ok(false), |row| sql::get(&row, 0))? {
            return Ok(());
        }
        sql::run(
            &*tx,
            format!(
                "CREATE TABLE {name} PARTITION OF {table}
                 FOR VALUES FROM ({from}) TO ({to}) WITH (fillfactor = 70)"
            ),
            vec![],
        )
        .await?;
        tx.commit().await
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

impl Partitioned {
    const fn number(&self, at_ms: i64) -> i64 {
        at_ms.div_euclid(self.length_ms)
    }

    /// Whether there are partitions of nothing but what was before.
    pub(super) async fn has_before(&self, tx: &Write, before_ms: i64) -> Result<bool> {
        Ok(!self.before(tx, before_ms).await?.is_empty())
    }

    /// Drops the partitions of nothing but what was before; returns how many. The default
    /// partition stays.
    pub(super) async fn drop_before(&self, tx: &Write, before_ms: i64) -> Result<u64> {
        let names = self.before(tx, before_ms).await?;
        for name in &names {
            sql::run(&**tx, format!("DROP TABLE {name}"), vec![]).await?;
        }
        Ok(names.len() as u64)
    }

    async fn before(&self, tx: &Write, before_ms: i64) -> Result<Vec<String>> {
        let rows = sql::all(
            &**tx,
            "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = to_regclass($1)",
            vec![self.table.into()],
        )
        .await?;
        let mut names = Vec::new();
        for row in &rows {
            let name: String = sql::get(row, 0)?;
            let number = name
                .rsplit_once('_')
                .and_then(|it| it.1.parse::<i64>().ok());
            if number.is_some_and(|number| (number + 1) * self.length_ms <= before_ms) {
                names.push(name);
            }
        }
        Ok(names)
    }
}
