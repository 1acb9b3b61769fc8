//! How fast a user may be on a node: bits per second, 0 is as fast as the node is.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000018_speed_limits"
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
ALTER TABLE users ADD COLUMN speed_up_bps {big} NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN speed_down_bps {big} NOT NULL DEFAULT 0;
";

const DOWN: &str = r"
ALTER TABLE users DROP COLUMN speed_down_bps;
ALTER TABLE users DROP COLUMN speed_up_bps;
";
