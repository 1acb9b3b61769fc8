//! Nodes that take no new sessions, while those that live go on. And of a tenant's users those whose
//! period or time is over, for lists of users by what they are at that moment.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000023_draining"
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

pub(crate) const UP: &str = r"
ALTER TABLE nodes ADD COLUMN draining {bool} NOT NULL DEFAULT {false};
CREATE INDEX nodes_draining ON nodes (id) WHERE draining;
CREATE INDEX users_period_over ON users (tenant_id, period_ends_at)
    WHERE deleted_at IS NULL AND period_ends_at IS NOT NULL;
CREATE INDEX users_time_over ON users (tenant_id, expires_at)
    WHERE deleted_at IS NULL AND expires_at IS NOT NULL;
";

const DOWN: &str = r"
DROP INDEX users_time_over;
DROP INDEX users_period_over;
DROP INDEX nodes_draining;
ALTER TABLE nodes DROP COLUMN draining;
";
