//! How many of the leases that a node names on its newest stream are on record: a database that fails
//! over to a replica that lagged has lost some of them, and nothing may be concluded from the rest.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000024_reports"
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
ALTER TABLE node_links ADD COLUMN lease_reports {big} NOT NULL DEFAULT 0;
";

const DOWN: &str = r"
ALTER TABLE node_links DROP COLUMN lease_reports;
";
