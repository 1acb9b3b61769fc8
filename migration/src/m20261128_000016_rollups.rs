//! Usage by hours and by days, and the list of hours whose sums are behind their 15-minute rows
//! (docs/adr/0014). Hours are dropped by time as 15-minute rows are: on Postgres in partitions.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000016_rollups"
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

// `usage_touched` is appended to by every ingest transaction: its rows carry an id of the
// transaction, so that no two wait for each other. `usage_floors` is one row: 15-minute rows of
// users and nodes, and hours, from before it are gone.
pub(crate) const UP: &str = r"
CREATE TABLE usage_hours (
    tenant_id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    hour_at {big} NOT NULL,
    node_id {uuid} NOT NULL,
    up {big} NOT NULL,
    down {big} NOT NULL,
    billed_bytes {big} NOT NULL,
    billed_micro INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, user_id, hour_at, node_id)
{pg}) PARTITION BY RANGE (hour_at);
{lite}) STRICT, WITHOUT ROWID;
{pg}CREATE TABLE usage_hours_other PARTITION OF usage_hours DEFAULT;
{lite}CREATE INDEX usage_hours_age ON usage_hours (hour_at);

CREATE TABLE usage_days (
    tenant_id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    day_at {big} NOT NULL,
    node_id {uuid} NOT NULL,
    up {big} NOT NULL,
    down {big} NOT NULL,
    billed_bytes {big} NOT NULL,
    billed_micro INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, user_id, day_at, node_id)
{pg}) WITH (fillfactor = 70);
{lite}) STRICT, WITHOUT ROWID;

CREATE TABLE node_hours (
    tenant_id {uuid} NOT NULL,
    node_id {uuid} NOT NULL,
    hour_at {big} NOT NULL,
    up {big} NOT NULL,
    down {big} NOT NULL,
    billed_bytes {big} NOT NULL,
    billed_micro INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, hour_at, node_id)
) {clustered};
CREATE INDEX node_hours_node ON node_hours (node_id, hour_at);
CREATE INDEX node_hours_age ON node_hours (hour_at);

CREATE TABLE node_days (
    tenant_id {uuid} NOT NULL,
    node_id {uuid} NOT NULL,
    day_at {big} NOT NULL,
    up {big} NOT NULL,
    down {big} NOT NULL,
    billed_bytes {big} NOT NULL,
    billed_micro INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, day_at, node_id)
) {clustered};
CREATE INDEX node_days_node ON node_days (node_id, day_at);

CREATE INDEX node_buckets_age ON node_buckets (bucket_at);

CREATE TABLE usage_touched (
    hour_at {big} NOT NULL,
    tenant_id {uuid} NOT NULL,
    id {uuid} NOT NULL,
    PRIMARY KEY (hour_at, tenant_id, id)
) {clustered};

CREATE TABLE usage_floors (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    users_from {big} NOT NULL,
    nodes_from {big} NOT NULL,
    hours_from {big} NOT NULL
) {table};
INSERT INTO usage_floors (id, users_from, nodes_from, hours_from) VALUES (1, 0, 0, 0);

INSERT INTO usage_touched (hour_at, tenant_id, id)
{pg}SELECT bucket_at - bucket_at % 3600000, tenant_id, gen_random_uuid() FROM node_buckets
{lite}SELECT bucket_at - bucket_at % 3600000, tenant_id, randomblob(16) FROM node_buckets
GROUP BY 1, 2;

{pg}ALTER TABLE usage_hours ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON usage_hours USING (in_tenant(tenant_id));
{pg}ALTER TABLE usage_days ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON usage_days USING (in_tenant(tenant_id));
{pg}ALTER TABLE node_hours ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON node_hours USING (in_tenant(tenant_id));
{pg}ALTER TABLE node_days ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON node_days USING (in_tenant(tenant_id));
{pg}ALTER TABLE usage_touched ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON usage_touched USING (in_tenant(tenant_id));
";

// The days of what is older than 15-minute rows go with them.
const DOWN: &str = r"
DROP TABLE usage_floors;
DROP TABLE usage_touched;
DROP INDEX node_buckets_age;
DROP TABLE node_days;
DROP TABLE node_hours;
DROP TABLE usage_days;
DROP TABLE usage_hours;
";
