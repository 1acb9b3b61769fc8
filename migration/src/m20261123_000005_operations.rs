//! How work reaches those who do it: the change log that collectors tail, and the job rows that
//! schedulers lease.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261123_000005_operations"
    }
}

#[async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        dialect::run(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        dialect::run(manager, DOWN).await
    }
}

// On Postgres a change carries its transaction, because sequence order is not commit order: a
// reader takes the rows of transactions below every one still running, in (txn, seq) order.
// SQLite has one writer, so that the row number alone is the commit order.
pub(crate) const UP: &str = r"
CREATE TABLE change_log (
    seq {identity},
{pg}txn xid8 NOT NULL DEFAULT pg_current_xact_id(),
    kind TEXT NOT NULL,
    tenant_id {uuid},
    resource_id {uuid} NOT NULL,
    user_id {uuid},
    inbound_id {uuid},
    node_id {uuid},
    recorded_at {big} NOT NULL
) {table};
{pg}CREATE INDEX change_log_position ON change_log (txn, seq);
CREATE INDEX change_log_age ON change_log (recorded_at);

CREATE TABLE jobs (
    name TEXT PRIMARY KEY NOT NULL,
    description TEXT NOT NULL,
    interval_ms {big} NOT NULL,
    due_at {big} NOT NULL,
    paused {bool} NOT NULL,
    attempts {big} NOT NULL,
    lease_owner TEXT,
    lease_until {big},
    fence {big} NOT NULL
) {table};

CREATE TABLE job_runs (
    job TEXT NOT NULL REFERENCES jobs (name) ON DELETE CASCADE,
    number {big} NOT NULL,
    owner TEXT NOT NULL,
    started_at {big} NOT NULL,
    ended_at {big},
    changed {big} NOT NULL,
    error TEXT,
    PRIMARY KEY (job, number)
) {clustered};
";

const DOWN: &str = r"
DROP TABLE job_runs;
DROP TABLE jobs;
DROP TABLE change_log;
";
