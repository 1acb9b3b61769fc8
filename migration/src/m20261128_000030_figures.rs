//! What figures are counted from: days by when they were, periods by whether they go on, and what was
//! counted and not billed by whose it is.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000030_figures"
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
CREATE INDEX periods_end ON periods (tenant_id, ends_at);
{pg}CREATE INDEX usage_days_day ON usage_days USING brin (day_at);
{lite}CREATE INDEX usage_days_day ON usage_days (tenant_id, day_at);
";

const DOWN: &str = r"
DROP INDEX usage_days_day;
DROP INDEX periods_end;
DROP INDEX quarantine_usage_user;
DROP INDEX orphan_usage_user;
";
