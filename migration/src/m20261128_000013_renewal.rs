//! Renewal of node certificates: what was issued, so that a lost answer is given again, and the
//! newest proof by which a certificate that has ended was renewed, so that none is taken twice.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000013_renewal"
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
ALTER TABLE node_certificates ADD COLUMN certificate_der {bytes};
ALTER TABLE node_certificates ADD COLUMN proof_at {big};
";

const DOWN: &str = r"
ALTER TABLE node_certificates DROP COLUMN proof_at;
ALTER TABLE node_certificates DROP COLUMN certificate_der;
";
