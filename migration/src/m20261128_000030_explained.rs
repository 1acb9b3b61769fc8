//! Bytes that were counted and not billed are found by whose they are.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000030_explained"
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
CREATE INDEX orphan_usage_user ON orphan_usage (user_id, bucket_at);
CREATE INDEX quarantine_usage_user ON quarantine_usage (tenant_id, user_id, bucket_at);
";

const DOWN: &str = r"
DROP INDEX quarantine_usage_user;
DROP INDEX orphan_usage_user;
";
