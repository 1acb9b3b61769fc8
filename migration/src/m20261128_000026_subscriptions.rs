//! The link of each user's subscription: its token's hash, by which it is found, and the token
//! itself, sealed. When it was fetched last, and by what, is a table of its own: it is written often,
//! and changes nothing of the user.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000026_subscriptions"
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
ALTER TABLE users ADD COLUMN subscription_hash {bytes};
ALTER TABLE users ADD COLUMN sealed_subscription {bytes};
CREATE UNIQUE INDEX users_subscription ON users (subscription_hash);
CREATE INDEX users_without_subscription ON users (id)
    WHERE subscription_hash IS NULL AND deleted_at IS NULL;

CREATE TABLE subscription_fetches (
    tenant_id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    fetched_at {big} NOT NULL,
    client TEXT NOT NULL,
    PRIMARY KEY (tenant_id, user_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id) ON DELETE CASCADE
) {clustered};
{pg}ALTER TABLE subscription_fetches ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON subscription_fetches USING (in_tenant(tenant_id));
";

const DOWN: &str = r"
DROP TABLE subscription_fetches;
DROP INDEX users_without_subscription;
DROP INDEX users_subscription;
ALTER TABLE users DROP COLUMN sealed_subscription;
ALTER TABLE users DROP COLUMN subscription_hash;
";
