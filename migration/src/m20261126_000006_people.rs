//! Roles and memberships that are changed while the product runs: what they are for, when they
//! changed, and versions for etags.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261126_000006_people"
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
ALTER TABLE roles ADD COLUMN description TEXT NOT NULL DEFAULT '';
ALTER TABLE roles ADD COLUMN version {big} NOT NULL DEFAULT 1;
ALTER TABLE roles ADD COLUMN created_at {big} NOT NULL DEFAULT 0;
ALTER TABLE roles ADD COLUMN updated_at {big} NOT NULL DEFAULT 0;

ALTER TABLE memberships ADD COLUMN version {big} NOT NULL DEFAULT 1;
ALTER TABLE memberships ADD COLUMN updated_at {big} NOT NULL DEFAULT 0;
DROP INDEX memberships_of_tenant;
CREATE INDEX memberships_of_tenant ON memberships (tenant_id, account_id);
CREATE INDEX memberships_of_role ON memberships (role);
";

const DOWN: &str = r"
DROP INDEX memberships_of_role;
DROP INDEX memberships_of_tenant;
CREATE INDEX memberships_of_tenant ON memberships (tenant_id);
ALTER TABLE memberships DROP COLUMN updated_at;
ALTER TABLE memberships DROP COLUMN version;

ALTER TABLE roles DROP COLUMN updated_at;
ALTER TABLE roles DROP COLUMN created_at;
ALTER TABLE roles DROP COLUMN version;
ALTER TABLE roles DROP COLUMN description;
";
