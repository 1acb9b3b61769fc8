//! Plans and what users have of them, users' clocks that begin with the first traffic, what tenants
//! have used of their month, and operations.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000025_plans"
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

// `users.on_hold_ms` stays when the clock has begun, at `started_at`, for as long as an earlier report
// may still move the beginning: not before `hold_since`. `users.next_plan_due_at` is when a period
// began whose beginning the next plan was waiting for. A tenant is in `tenant_months` while it has a
// limit of bytes. `users.plan_id` has no foreign key: SQLite adds none to a table that is there; the
// store holds plans while it names them.
pub(crate) const UP: &str = r"
CREATE TABLE plans (
    tenant_id {uuid} NOT NULL REFERENCES tenants (id),
    id {uuid} NOT NULL UNIQUE,
    name TEXT NOT NULL,
    name_key {key} NOT NULL,
    note TEXT NOT NULL,
    limit_bytes {big} NOT NULL,
    reset_strategy TEXT NOT NULL,
    duration_ms {big},
    on_first_use {bool} NOT NULL,
    speed_up_bps {big} NOT NULL,
    speed_down_bps {big} NOT NULL,
    device_limit {big} NOT NULL,
    next_plan_id {uuid},
    next_plan_start TEXT NOT NULL CHECK (next_plan_start IN ('first_end', 'plan_end')),
    archived_at {big},
    version {big} NOT NULL,
    created_at {big} NOT NULL,
    updated_at {big} NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, next_plan_id) REFERENCES plans (tenant_id, id)
) {table};
CREATE UNIQUE INDEX plans_name ON plans (tenant_id, name_key) WHERE archived_at IS NULL;
CREATE INDEX plans_next ON plans (tenant_id, next_plan_id) WHERE next_plan_id IS NOT NULL;

CREATE TABLE plan_groups (
    tenant_id {uuid} NOT NULL,
    plan_id {uuid} NOT NULL,
    group_id {uuid} NOT NULL,
    PRIMARY KEY (tenant_id, plan_id, group_id),
    FOREIGN KEY (tenant_id, plan_id) REFERENCES plans (tenant_id, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, group_id) REFERENCES groups (tenant_id, id) ON DELETE CASCADE
) {clustered};
CREATE INDEX plan_groups_group ON plan_groups (tenant_id, group_id);

ALTER TABLE users ADD COLUMN plan_id {uuid};
ALTER TABLE users ADD COLUMN next_plan_id {uuid};
ALTER TABLE users ADD COLUMN next_plan_start TEXT NOT NULL DEFAULT 'first_end'
    CHECK (next_plan_start IN ('first_end', 'plan_end'));
ALTER TABLE users ADD COLUMN next_plan_due_at {big};
ALTER TABLE users ADD COLUMN device_limit {big} NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN hold_since {big};
ALTER TABLE users ADD COLUMN started_at {big};
CREATE INDEX users_plan ON users (tenant_id, plan_id, id) WHERE plan_id IS NOT NULL;
CREATE INDEX users_next_plan ON users (tenant_id, next_plan_id) WHERE next_plan_id IS NOT NULL;
CREATE INDEX users_next_plan_due ON users (id) WHERE next_plan_id IS NOT NULL
    AND deleted_at IS NULL AND NOT disabled
    AND (next_plan_due_at IS NOT NULL OR status IN ('expired', 'limited'));
CREATE INDEX users_deleted ON users (tenant_id, id) WHERE deleted_at IS NOT NULL;

CREATE TABLE tenant_months (
    tenant_id {uuid} PRIMARY KEY NOT NULL REFERENCES tenants (id),
    starts_at {big} NOT NULL,
    ends_at {big} NOT NULL,
    billed_bytes {big} NOT NULL,
    billed_micro INTEGER NOT NULL,
    over_at {big}
{pg}) WITH (fillfactor = 70);
{lite}) STRICT, WITHOUT ROWID;
CREATE INDEX tenant_months_over ON tenant_months (ends_at) WHERE over_at IS NOT NULL;

CREATE TABLE operations (
    tenant_id {uuid} NOT NULL REFERENCES tenants (id),
    id {uuid} NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('batch_create_users')),
    state TEXT NOT NULL CHECK (state IN ('running', 'ended', 'cancelled')),
    plan_id {uuid} NOT NULL,
    attribution {json} NOT NULL,
    actor TEXT NOT NULL,
    total {big} NOT NULL,
    done {big} NOT NULL,
    failed {big} NOT NULL,
    waiting TEXT NOT NULL,
    fence {big} NOT NULL,
    lease_until {big} NOT NULL,
    created_at {big} NOT NULL,
    ended_at {big},
    PRIMARY KEY (tenant_id, id)
) {table};
CREATE INDEX operations_running ON operations (lease_until, id) WHERE state = 'running';
CREATE INDEX operations_going_on ON operations (tenant_id) WHERE state = 'running';
CREATE INDEX operations_ended ON operations (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE operation_items (
    tenant_id {uuid} NOT NULL,
    operation_id {uuid} NOT NULL,
    number {big} NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'done', 'failed')),
    name TEXT NOT NULL,
    note TEXT NOT NULL,
    resource_id {uuid} NOT NULL,
    error_reason TEXT NOT NULL,
    error_message TEXT NOT NULL,
    PRIMARY KEY (tenant_id, operation_id, number),
    FOREIGN KEY (tenant_id, operation_id) REFERENCES operations (tenant_id, id) ON DELETE CASCADE
) {clustered};
CREATE INDEX operation_items_state ON operation_items (tenant_id, operation_id, state, number);

{pg}ALTER TABLE plans ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON plans USING (in_tenant(tenant_id));
{pg}ALTER TABLE plan_groups ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON plan_groups USING (in_tenant(tenant_id));
{pg}ALTER TABLE tenant_months ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON tenant_months USING (in_tenant(tenant_id));
{pg}ALTER TABLE operations ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON operations USING (in_tenant(tenant_id));
{pg}ALTER TABLE operation_items ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON operation_items USING (in_tenant(tenant_id));
";

const DOWN: &str = r"
DROP TABLE operation_items;
DROP TABLE operations;
DROP TABLE tenant_months;
DROP INDEX users_deleted;
DROP INDEX users_next_plan_due;
DROP INDEX users_next_plan;
DROP INDEX users_plan;
ALTER TABLE users DROP COLUMN started_at;
ALTER TABLE users DROP COLUMN hold_since;
ALTER TABLE users DROP COLUMN device_limit;
ALTER TABLE users DROP COLUMN next_plan_due_at;
ALTER TABLE users DROP COLUMN next_plan_start;
ALTER TABLE users DROP COLUMN next_plan_id;
ALTER TABLE users DROP COLUMN plan_id;
DROP TABLE plan_groups;
DROP TABLE plans;
";
