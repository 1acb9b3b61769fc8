//! Credentials beside the password: second factors with their recovery codes, API tokens, and what
//! the rotation of signing keys has to know.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261126_000008_credentials"
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

// The key that signed until now has signed since it was made.
pub(crate) const UP: &str = r"
ALTER TABLE tenants ADD COLUMN require_second_factor {bool} NOT NULL DEFAULT {false};

ALTER TABLE signing_keys ADD COLUMN activated_at {big};
UPDATE signing_keys SET activated_at = created_at WHERE state = 'active';
CREATE UNIQUE INDEX signing_keys_standby ON signing_keys (state) WHERE state = 'standby';

CREATE TABLE second_factors (
    account_id {uuid} PRIMARY KEY NOT NULL REFERENCES accounts (id),
    sealed_secret {bytes} NOT NULL,
    created_at {big} NOT NULL,
    confirmed_at {big},
    last_step {big} NOT NULL,
    failures {big} NOT NULL,
    blocked_until {big} NOT NULL
) {clustered};

CREATE TABLE recovery_codes (
    account_id {uuid} NOT NULL REFERENCES second_factors (account_id) ON DELETE CASCADE,
    hash {bytes} NOT NULL,
    used_at {big},
    PRIMARY KEY (account_id, hash)
) {clustered};

CREATE TABLE api_tokens (
    id {uuid} PRIMARY KEY NOT NULL,
    account_id {uuid} NOT NULL REFERENCES accounts (id),
    tenant_id {uuid} REFERENCES tenants (id),
    name TEXT NOT NULL,
    hint TEXT NOT NULL,
    hash {bytes} NOT NULL,
    permissions {json} NOT NULL,
    created_at {big} NOT NULL,
    expires_at {big} NOT NULL,
    used_at {big},
    revoked_at {big}
) {table};
CREATE UNIQUE INDEX api_tokens_hash ON api_tokens (hash);
CREATE INDEX api_tokens_account ON api_tokens (account_id, id);
CREATE INDEX api_tokens_tenant ON api_tokens (tenant_id, id);
CREATE INDEX api_tokens_expiry ON api_tokens (expires_at);
";

const DOWN: &str = r"
DROP TABLE api_tokens;
DROP TABLE recovery_codes;
DROP TABLE second_factors;
DROP INDEX signing_keys_standby;
ALTER TABLE signing_keys DROP COLUMN activated_at;
ALTER TABLE tenants DROP COLUMN require_second_factor;
";
