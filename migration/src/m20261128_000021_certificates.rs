//! Certificates that were replaced and whose successor was used: who shows one of those is a second
//! agent. And rows that are over are found by their end, to be removed.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000021_certificates"
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
ALTER TABLE node_certificates ADD COLUMN superseded_at {big};
CREATE INDEX node_certificates_over ON node_certificates (not_after)
    WHERE state IN ('retired', 'revoked');
ALTER TABLE nodes ADD COLUMN control_address TEXT NOT NULL DEFAULT '';
";

const DOWN: &str = r"
ALTER TABLE nodes DROP COLUMN control_address;
DROP INDEX node_certificates_over;
ALTER TABLE node_certificates DROP COLUMN superseded_at;
";
