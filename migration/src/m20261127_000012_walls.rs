//! Walls between tenants that the database itself keeps (PostgreSQL, row-level security): whoever
//! is not the owner of the tables sees and writes rows of the tenant that the transaction names
//! in `vpnpanel.tenant`, and without a name none. The owner is not concerned. See docs/adr/0010.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261127_000012_walls"
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

// A tenant also reads what the platform shares: its nodes and inbounds, and who holds a role on
// it. It may add to the platform's audit log, where the making of an account belongs.
pub(crate) const UP: &str = r"
{pg}CREATE FUNCTION in_tenant(tenant uuid) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
{pg}RETURN tenant = NULLIF(current_setting('vpnpanel.tenant', TRUE), '')::uuid;

{pg}ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON tenants USING (in_tenant(id));
{pg}ALTER TABLE memberships ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON memberships USING (in_tenant(tenant_id));
{pg}ALTER TABLE nodes ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON nodes USING (in_tenant(tenant_id));
{pg}ALTER TABLE inbounds ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON inbounds USING (in_tenant(tenant_id));
{pg}ALTER TABLE groups ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON groups USING (in_tenant(tenant_id));
{pg}ALTER TABLE group_inbounds ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON group_inbounds USING (in_tenant(tenant_id));
{pg}ALTER TABLE users ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON users USING (in_tenant(tenant_id));
{pg}ALTER TABLE user_groups ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON user_groups USING (in_tenant(tenant_id));
{pg}ALTER TABLE devices ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON devices USING (in_tenant(tenant_id));
{pg}ALTER TABLE peers ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON peers USING (in_tenant(tenant_id));
{pg}ALTER TABLE periods ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON periods USING (in_tenant(tenant_id));
{pg}ALTER TABLE usage_buckets ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON usage_buckets USING (in_tenant(tenant_id));
{pg}ALTER TABLE node_buckets ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON node_buckets USING (in_tenant(tenant_id));
{pg}ALTER TABLE quarantine_usage ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON quarantine_usage USING (in_tenant(tenant_id));
{pg}ALTER TABLE change_log ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON change_log USING (in_tenant(tenant_id));
{pg}ALTER TABLE api_tokens ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON api_tokens USING (in_tenant(tenant_id));
{pg}ALTER TABLE idempotency ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON idempotency USING (in_tenant(tenant_id));
{pg}ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON audit_events USING (in_tenant(tenant_id));
{pg}ALTER TABLE audit_heads ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON audit_heads USING (in_tenant(tenant_id));
{pg}ALTER TABLE audit_checkpoints ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON audit_checkpoints USING (in_tenant(tenant_id));

{pg}CREATE POLICY shared ON memberships FOR SELECT USING (tenant_id IS NULL);
{pg}CREATE POLICY shared ON nodes FOR SELECT USING (tenant_id IS NULL);
{pg}CREATE POLICY shared ON inbounds FOR SELECT USING (tenant_id IS NULL);
{pg}CREATE POLICY platform ON audit_events FOR INSERT
{pg}WITH CHECK (tenant_id = '00000000-0000-0000-0000-000000000000');
";

const DOWN: &str = r"
{pg}DROP POLICY platform ON audit_events;
{pg}DROP POLICY shared ON inbounds;
{pg}DROP POLICY shared ON nodes;
{pg}DROP POLICY shared ON memberships;
{pg}DROP POLICY tenant ON audit_checkpoints;
{pg}ALTER TABLE audit_checkpoints DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON audit_heads;
{pg}ALTER TABLE audit_heads DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON audit_events;
{pg}ALTER TABLE audit_events DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON idempotency;
{pg}ALTER TABLE idempotency DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON api_tokens;
{pg}ALTER TABLE api_tokens DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON change_log;
{pg}ALTER TABLE change_log DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON quarantine_usage;
{pg}ALTER TABLE quarantine_usage DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON node_buckets;
{pg}ALTER TABLE node_buckets DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON usage_buckets;
{pg}ALTER TABLE usage_buckets DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON periods;
{pg}ALTER TABLE periods DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON peers;
{pg}ALTER TABLE peers DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON devices;
{pg}ALTER TABLE devices DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON user_groups;
{pg}ALTER TABLE user_groups DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON users;
{pg}ALTER TABLE users DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON group_inbounds;
{pg}ALTER TABLE group_inbounds DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON groups;
{pg}ALTER TABLE groups DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON inbounds;
{pg}ALTER TABLE inbounds DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON nodes;
{pg}ALTER TABLE nodes DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON memberships;
{pg}ALTER TABLE memberships DISABLE ROW LEVEL SECURITY;
{pg}DROP POLICY tenant ON tenants;
{pg}ALTER TABLE tenants DISABLE ROW LEVEL SECURITY;
{pg}DROP FUNCTION in_tenant;
";
