//! Who may use what: nodes, inbounds and the nodes that open them, groups, users, their devices
//! and peers. A platform-owned row has no tenant; everything else has it in its keys.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261123_000002_access"
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
CREATE TABLE nodes (
    id {uuid} PRIMARY KEY NOT NULL,
    tenant_id {uuid} REFERENCES tenants (id),
    name TEXT NOT NULL,
    name_key {key} NOT NULL,
    region TEXT NOT NULL,
    address TEXT NOT NULL,
    labels {json} NOT NULL,
    multiplier_ppm {big} NOT NULL,
    disabled {bool} NOT NULL,
    version {big} NOT NULL,
    created_at {big} NOT NULL,
    updated_at {big} NOT NULL,
    deleted_at {big}
) {table};
CREATE UNIQUE INDEX nodes_shared_name ON nodes (name_key) WHERE tenant_id IS NULL AND deleted_at IS NULL;
CREATE UNIQUE INDEX nodes_tenant_name ON nodes (tenant_id, name_key) WHERE tenant_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX nodes_owner ON nodes (tenant_id, id) WHERE deleted_at IS NULL;

CREATE TABLE inbounds (
    id {uuid} PRIMARY KEY NOT NULL,
    tenant_id {uuid} REFERENCES tenants (id),
    name TEXT NOT NULL,
    name_key {key} NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('wireguard')),
    selector {json} NOT NULL,
    offered {bool} NOT NULL,
    settings {json} NOT NULL,
    version {big} NOT NULL,
    created_at {big} NOT NULL,
    updated_at {big} NOT NULL
) {table};
CREATE UNIQUE INDEX inbounds_platform_name ON inbounds (name_key) WHERE tenant_id IS NULL;
CREATE UNIQUE INDEX inbounds_tenant_name ON inbounds (tenant_id, name_key) WHERE tenant_id IS NOT NULL;
CREATE INDEX inbounds_owner ON inbounds (tenant_id, id);

CREATE TABLE address_pools (
    inbound_id {uuid} PRIMARY KEY NOT NULL REFERENCES inbounds (id) ON DELETE CASCADE,
    next_ipv4 {big} NOT NULL
) {table};

CREATE TABLE inbound_nodes (
    inbound_id {uuid} NOT NULL REFERENCES inbounds (id) ON DELETE CASCADE,
    node_id {uuid} NOT NULL REFERENCES nodes (id),
    port INTEGER NOT NULL,
    public_key {bytes} NOT NULL,
    sealed_private_key {bytes} NOT NULL,
    created_at {big} NOT NULL,
    PRIMARY KEY (inbound_id, node_id)
) {clustered};
CREATE UNIQUE INDEX inbound_nodes_port ON inbound_nodes (node_id, port);

CREATE TABLE groups (
    tenant_id {uuid} NOT NULL REFERENCES tenants (id),
    id {uuid} NOT NULL UNIQUE,
    name TEXT NOT NULL,
    name_key {key} NOT NULL,
    version {big} NOT NULL,
    created_at {big} NOT NULL,
    updated_at {big} NOT NULL,
    PRIMARY KEY (tenant_id, id)
) {table};
CREATE UNIQUE INDEX groups_name ON groups (tenant_id, name_key);

CREATE TABLE group_inbounds (
    tenant_id {uuid} NOT NULL,
    group_id {uuid} NOT NULL,
    inbound_id {uuid} NOT NULL REFERENCES inbounds (id) ON DELETE CASCADE,
    PRIMARY KEY (tenant_id, group_id, inbound_id),
    FOREIGN KEY (tenant_id, group_id) REFERENCES groups (tenant_id, id) ON DELETE CASCADE
) {clustered};
CREATE INDEX group_inbounds_inbound ON group_inbounds (inbound_id);

CREATE TABLE users (
    tenant_id {uuid} NOT NULL REFERENCES tenants (id),
    id {uuid} NOT NULL UNIQUE,
    username TEXT NOT NULL,
    username_key {key} NOT NULL,
    note TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'on_hold', 'limited', 'expired', 'disabled', 'deleted')),
    disabled {bool} NOT NULL,
    expires_at {big},
    on_hold {bool} NOT NULL,
    on_hold_ms {big},
    limit_bytes {big} NOT NULL,
    reset_strategy TEXT NOT NULL,
    period_id {uuid} NOT NULL,
    credentials_version {big} NOT NULL,
    version {big} NOT NULL,
    created_at {big} NOT NULL,
    updated_at {big} NOT NULL,
    deleted_at {big},
    PRIMARY KEY (tenant_id, id)
) {table};
CREATE UNIQUE INDEX users_name ON users (tenant_id, username_key) WHERE deleted_at IS NULL;
CREATE INDEX users_live ON users (tenant_id, id) WHERE deleted_at IS NULL;
CREATE INDEX users_status ON users (tenant_id, status, id) WHERE deleted_at IS NULL;
CREATE INDEX users_expiry ON users (expires_at) WHERE status IN ('active', 'on_hold', 'limited') AND expires_at IS NOT NULL;

CREATE TABLE user_groups (
    tenant_id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    group_id {uuid} NOT NULL,
    PRIMARY KEY (tenant_id, user_id, group_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, group_id) REFERENCES groups (tenant_id, id) ON DELETE CASCADE
) {clustered};
CREATE INDEX user_groups_group ON user_groups (tenant_id, group_id, user_id);

CREATE TABLE devices (
    tenant_id {uuid} NOT NULL,
    id {uuid} NOT NULL UNIQUE,
    user_id {uuid} NOT NULL,
    name TEXT NOT NULL,
    public_key {bytes} NOT NULL,
    sealed_private_key {bytes},
    sealed_preshared_key {bytes},
    created_at {big} NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id) ON DELETE CASCADE
) {table};
CREATE INDEX devices_user ON devices (tenant_id, user_id, id);
CREATE UNIQUE INDEX devices_public_key ON devices (public_key);

CREATE TABLE peers (
    id {uuid} PRIMARY KEY NOT NULL,
    tenant_id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    device_id {uuid} NOT NULL,
    inbound_id {uuid} NOT NULL REFERENCES inbounds (id) ON DELETE CASCADE,
    ipv4 {big} NOT NULL,
    created_at {big} NOT NULL,
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id),
    FOREIGN KEY (tenant_id, device_id) REFERENCES devices (tenant_id, id) ON DELETE CASCADE
) {table};
CREATE UNIQUE INDEX peers_ipv4 ON peers (inbound_id, ipv4);
CREATE UNIQUE INDEX peers_device ON peers (device_id, inbound_id);
CREATE INDEX peers_user ON peers (user_id);

CREATE TABLE released_addresses (
    inbound_id {uuid} NOT NULL REFERENCES inbounds (id) ON DELETE CASCADE,
    ipv4 {big} NOT NULL,
    free_at {big} NOT NULL,
    PRIMARY KEY (inbound_id, ipv4)
) {clustered};
";

const DOWN: &str = r"
DROP TABLE released_addresses;
DROP TABLE peers;
DROP TABLE devices;
DROP TABLE user_groups;
DROP TABLE users;
DROP TABLE group_inbounds;
DROP TABLE groups;
DROP TABLE inbound_nodes;
DROP TABLE address_pools;
DROP TABLE inbounds;
DROP TABLE nodes;
";
