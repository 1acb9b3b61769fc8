//! How inbounds are presented to subscribers: each template belongs to the owner of its inbound.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000029_endpoint_templates"
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

// As inbounds: a row without a tenant is the platform's, and tenants read it.
pub(crate) const UP: &str = r"
CREATE TABLE endpoint_templates (
    id {uuid} PRIMARY KEY NOT NULL,
    tenant_id {uuid} REFERENCES tenants (id),
    inbound_id {uuid} NOT NULL REFERENCES inbounds (id) ON DELETE CASCADE,
    name_pattern TEXT NOT NULL,
    sort_order INTEGER NOT NULL,
    disabled {bool} NOT NULL,
    settings {json} NOT NULL,
    version {big} NOT NULL,
    created_at {big} NOT NULL,
    updated_at {big} NOT NULL
) {table};
CREATE UNIQUE INDEX endpoint_templates_owner ON endpoint_templates (tenant_id, id);
CREATE INDEX endpoint_templates_inbound ON endpoint_templates (inbound_id, id);
{pg}ALTER TABLE endpoint_templates ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON endpoint_templates USING (in_tenant(tenant_id));
{pg}CREATE POLICY shared ON endpoint_templates FOR SELECT USING (tenant_id IS NULL);
";

const DOWN: &str = r"
DROP TABLE endpoint_templates;
";
