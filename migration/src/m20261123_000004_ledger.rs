//! The ledger: what was counted, what was billed, and to whom. Billed amounts are exact: whole
//! bytes in `…_bytes` and the millionths of a byte in `…_micro` (0 to 999 999), because raw bytes ×
//! multiplier needs more than 64 bits and SQLite has no wider integer. The hot tables carry no
//! foreign keys (users, periods and nodes are never deleted for good while they have usage), and
//! on Postgres leave room in their pages so that an update stays in its page (HOT).

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261123_000004_ledger"
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
CREATE TABLE periods (
    tenant_id {uuid} NOT NULL,
    id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    starts_at {big} NOT NULL,
    ends_at {big},
    closed_at {big},
    limit_bytes {big} NOT NULL,
    up {big} NOT NULL,
    down {big} NOT NULL,
    billed_bytes {big} NOT NULL,
    billed_micro INTEGER NOT NULL,
    reserved_bytes {big} NOT NULL,
    reserved_micro INTEGER NOT NULL,
    last_used_at {big},
    PRIMARY KEY (id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id)
{pg}) WITH (fillfactor = 70);
{lite}) STRICT, WITHOUT ROWID;
CREATE INDEX periods_user ON periods (tenant_id, user_id, starts_at);

CREATE TABLE node_links (
    node_id {uuid} PRIMARY KEY NOT NULL,
    generation {big} NOT NULL,
    collector TEXT NOT NULL,
    opened_at {big} NOT NULL,
    spool {bytes},
    boots {json} NOT NULL,
    boot_strikes INTEGER NOT NULL,
    last_written_at {big},
    quarantined_at {big},
    quarantine_reason TEXT
{pg}) WITH (fillfactor = 70);
{lite}) STRICT, WITHOUT ROWID;

CREATE TABLE node_cursors (
    node_id {uuid} NOT NULL,
    epoch {bytes} NOT NULL,
    seq {big} NOT NULL,
    digest {bytes} NOT NULL,
    successor {bytes},
    PRIMARY KEY (node_id, epoch)
{pg}) WITH (fillfactor = 70);
{lite}) STRICT, WITHOUT ROWID;

CREATE TABLE batch_digests (
    node_id {uuid} NOT NULL,
    epoch {bytes} NOT NULL,
    seq {big} NOT NULL,
    digest {bytes} NOT NULL,
    committed_at {big} NOT NULL,
    PRIMARY KEY (node_id, epoch, seq)
) {clustered};
CREATE INDEX batch_digests_age ON batch_digests (committed_at);

CREATE TABLE marks (
    node_id {uuid} NOT NULL,
    incarnation {bytes} NOT NULL,
    peer_id {uuid} NOT NULL,
    up {big} NOT NULL,
    down {big} NOT NULL,
    awaited_up {big},
    awaited_down {big},
    user_id {uuid} NOT NULL,
    period_id {uuid} NOT NULL,
    multiplier_ppm {big} NOT NULL,
    PRIMARY KEY (node_id, incarnation, peer_id)
{pg}) WITH (fillfactor = 70);
{lite}) STRICT, WITHOUT ROWID;
CREATE INDEX marks_awaited ON marks (node_id) WHERE awaited_up IS NOT NULL;

CREATE TABLE leases (
    node_id {uuid} NOT NULL,
    period_id {uuid} NOT NULL,
    id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('current', 'stranded', 'written_off')),
    version {big} NOT NULL,
    answered_version {big} NOT NULL,
    allowance_bytes {big} NOT NULL,
    allowance_micro INTEGER NOT NULL,
    asked_bytes {big},
    asked_micro INTEGER,
    billed_bytes {big} NOT NULL,
    billed_micro INTEGER NOT NULL,
    consumed_bytes {big} NOT NULL,
    consumed_micro INTEGER NOT NULL,
    moved_at {big} NOT NULL,
    PRIMARY KEY (node_id, period_id, id)
{pg}) WITH (fillfactor = 70);
{lite}) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX leases_current ON leases (node_id, period_id) WHERE state = 'current';
CREATE INDEX leases_period ON leases (period_id);

CREATE TABLE usage_buckets (
    tenant_id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    bucket_at {big} NOT NULL,
    node_id {uuid} NOT NULL,
    period_id {uuid} NOT NULL,
    up {big} NOT NULL,
    down {big} NOT NULL,
    billed_bytes {big} NOT NULL,
    billed_micro INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, user_id, bucket_at, node_id, period_id)
{pg}) PARTITION BY RANGE (bucket_at);
{lite}) STRICT, WITHOUT ROWID;
{pg}CREATE TABLE usage_buckets_other PARTITION OF usage_buckets DEFAULT WITH (fillfactor = 70);

CREATE TABLE node_buckets (
    tenant_id {uuid} NOT NULL,
    node_id {uuid} NOT NULL,
    bucket_at {big} NOT NULL,
    up {big} NOT NULL,
    down {big} NOT NULL,
    billed_bytes {big} NOT NULL,
    billed_micro INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, bucket_at, node_id)
{pg}) WITH (fillfactor = 70);
{lite}) STRICT, WITHOUT ROWID;
CREATE INDEX node_buckets_node ON node_buckets (node_id, bucket_at);

CREATE TABLE orphan_usage (
    id {identity},
    node_id {uuid} NOT NULL,
    incarnation {bytes} NOT NULL,
    peer_id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    period_id {uuid} NOT NULL,
    multiplier_ppm {big} NOT NULL,
    bucket_at {big} NOT NULL,
    up_from {big} NOT NULL,
    up_to {big} NOT NULL,
    down_from {big} NOT NULL,
    down_to {big} NOT NULL,
    recorded_at {big} NOT NULL,
    reason TEXT NOT NULL
) {table};
CREATE INDEX orphan_usage_period ON orphan_usage (period_id);

CREATE TABLE quarantine_usage (
    id {identity},
    tenant_id {uuid} NOT NULL,
    node_id {uuid} NOT NULL,
    incarnation {bytes} NOT NULL,
    peer_id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    period_id {uuid} NOT NULL,
    multiplier_ppm {big} NOT NULL,
    bucket_at {big} NOT NULL,
    up_from {big} NOT NULL,
    up_to {big} NOT NULL,
    down_from {big} NOT NULL,
    down_to {big} NOT NULL,
    recorded_at {big} NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'released', 'rejected')),
    decided_at {big},
    decided_by {uuid}
) {table};
CREATE INDEX quarantine_usage_node ON quarantine_usage (node_id, state);

CREATE TABLE dead_letters (
    id {identity},
    node_id {uuid} NOT NULL,
    epoch {bytes} NOT NULL,
    seq {big} NOT NULL,
    digest {bytes} NOT NULL,
    payload {bytes} NOT NULL,
    error TEXT NOT NULL,
    recorded_at {big} NOT NULL
) {table};
";

const DOWN: &str = r"
DROP TABLE dead_letters;
DROP TABLE quarantine_usage;
DROP TABLE orphan_usage;
DROP TABLE node_buckets;
DROP TABLE usage_buckets;
DROP TABLE leases;
DROP TABLE marks;
DROP TABLE batch_digests;
DROP TABLE node_cursors;
DROP TABLE node_links;
DROP TABLE periods;
";
