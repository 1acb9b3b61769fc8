//! Who may do what: tenants, accounts and their memberships, roles, sessions, and the keys that
//! sign access tokens. Times are milliseconds of the Unix epoch everywhere in this schema.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261123_000001_identity"
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
CREATE TABLE installation (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    state_epoch {big} NOT NULL,
    log_horizon_txn {big} NOT NULL,
    log_horizon_seq {big} NOT NULL,
    created_at {big} NOT NULL
) {table};

CREATE TABLE tenants (
    id {uuid} PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    name_key {key} NOT NULL,
    time_zone TEXT NOT NULL,
    suspended_at {big},
    max_users {big},
    max_nodes {big},
    max_bytes {big},
    version {big} NOT NULL,
    created_at {big} NOT NULL,
    updated_at {big} NOT NULL,
    deleted_at {big}
) {table};
CREATE UNIQUE INDEX tenants_name ON tenants (name_key) WHERE deleted_at IS NULL;

CREATE TABLE accounts (
    id {uuid} PRIMARY KEY NOT NULL,
    email TEXT NOT NULL,
    email_key {key} NOT NULL,
    display_name TEXT NOT NULL,
    password_hash TEXT,
    password_change_required {bool} NOT NULL,
    disabled {bool} NOT NULL DEFAULT {false},
    version {big} NOT NULL,
    created_at {big} NOT NULL,
    updated_at {big} NOT NULL,
    deleted_at {big}
) {table};
CREATE UNIQUE INDEX accounts_email ON accounts (email_key) WHERE deleted_at IS NULL;

CREATE TABLE roles (
    name TEXT PRIMARY KEY NOT NULL,
    permissions {json} NOT NULL,
    builtin {bool} NOT NULL
) {table};

CREATE TABLE memberships (
    id {uuid} PRIMARY KEY NOT NULL,
    account_id {uuid} NOT NULL REFERENCES accounts (id),
    tenant_id {uuid} REFERENCES tenants (id),
    role TEXT NOT NULL REFERENCES roles (name),
    created_at {big} NOT NULL
) {table};
CREATE UNIQUE INDEX memberships_tenant ON memberships (account_id, tenant_id) WHERE tenant_id IS NOT NULL;
CREATE UNIQUE INDEX memberships_platform ON memberships (account_id) WHERE tenant_id IS NULL;
CREATE INDEX memberships_of_tenant ON memberships (tenant_id);

CREATE TABLE sessions (
    id {uuid} PRIMARY KEY NOT NULL,
    account_id {uuid} NOT NULL REFERENCES accounts (id),
    user_agent TEXT NOT NULL,
    address TEXT NOT NULL,
    created_at {big} NOT NULL,
    used_at {big} NOT NULL,
    expires_at {big} NOT NULL,
    revoked_at {big},
    revoked_reason TEXT
) {table};
CREATE INDEX sessions_account ON sessions (account_id, id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

CREATE TABLE refresh_tokens (
    hash {bytes} PRIMARY KEY NOT NULL,
    session_id {uuid} NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    issued_at {big} NOT NULL,
    spent_at {big}
) {clustered};
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);

CREATE TABLE signing_keys (
    kid TEXT PRIMARY KEY NOT NULL,
    public_key {bytes} NOT NULL,
    sealed_private_key {bytes} NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('standby', 'active', 'retiring', 'retired')),
    created_at {big} NOT NULL,
    retire_at {big}
) {table};
CREATE UNIQUE INDEX signing_keys_active ON signing_keys (state) WHERE state = 'active';

CREATE TABLE idempotency (
    account_id {uuid} NOT NULL,
    tenant_id {uuid} NOT NULL,
    method TEXT NOT NULL,
    request_id TEXT NOT NULL,
    request_digest {bytes} NOT NULL,
    resource_id {uuid} NOT NULL,
    expires_at {big} NOT NULL,
    PRIMARY KEY (account_id, tenant_id, method, request_id)
) {clustered};
CREATE INDEX idempotency_expiry ON idempotency (expires_at);
";

const DOWN: &str = r"
DROP TABLE idempotency;
DROP TABLE signing_keys;
DROP TABLE refresh_tokens;
DROP TABLE sessions;
DROP TABLE memberships;
DROP TABLE roles;
DROP TABLE accounts;
DROP TABLE tenants;
DROP TABLE installation;
";
