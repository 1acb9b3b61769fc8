//! Periods that follow each other: by what a period's end was found, which one comes next, and when
//! that is (docs/adr/0016).

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000019_periods"
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

// `users.period_ends_at` is the end of the current period once more: what is due is found by it,
// whatever else there is.
pub(crate) const UP: &str = r"
ALTER TABLE periods ADD COLUMN reset_strategy TEXT NOT NULL DEFAULT 'none';
ALTER TABLE periods ADD COLUMN anchor_at {big} NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN next_period_id {uuid};
ALTER TABLE users ADD COLUMN period_ends_at {big};
UPDATE periods SET anchor_at = starts_at, reset_strategy = (
    SELECT u.reset_strategy FROM users u
    WHERE u.tenant_id = periods.tenant_id AND u.id = periods.user_id);
UPDATE users SET period_ends_at = (
    SELECT p.ends_at FROM periods p WHERE p.id = users.period_id);
CREATE INDEX users_period_end ON users (period_ends_at, id)
    WHERE deleted_at IS NULL AND period_ends_at IS NOT NULL;
";

const DOWN: &str = r"
DROP INDEX users_period_end;
ALTER TABLE users DROP COLUMN period_ends_at;
ALTER TABLE users DROP COLUMN next_period_id;
ALTER TABLE periods DROP COLUMN anchor_at;
ALTER TABLE periods DROP COLUMN reset_strategy;
";
