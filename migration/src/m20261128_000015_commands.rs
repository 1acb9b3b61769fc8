//! What nodes' agents are to do once. The tenant is the node's, NULL where the node is shared.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000015_commands"
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

// A command is found by its node; `open` ones are those that wait for a result. The spool is the
// life of the agent's disk that a command was given to: another one knows nothing of it.
pub(crate) const UP: &str = r"
CREATE TABLE node_commands (
    tenant_id {uuid} REFERENCES tenants (id),
    node_id {uuid} NOT NULL,
    id {uuid} NOT NULL,
    request_id {uuid} NOT NULL,
    kind TEXT NOT NULL,
    ttl_ms {big} NOT NULL,
    state TEXT NOT NULL,
    created_at {big} NOT NULL,
    expires_at {big} NOT NULL,
    sent_at {big},
    sent_generation {big},
    sent_spool {bytes},
    ended_at {big},
    message TEXT NOT NULL,
    output TEXT NOT NULL,
    PRIMARY KEY (node_id, id)
) {table};
CREATE UNIQUE INDEX node_commands_tenant ON node_commands (tenant_id, node_id, id);
CREATE UNIQUE INDEX node_commands_request ON node_commands (node_id, request_id);
CREATE INDEX node_commands_open ON node_commands (expires_at) WHERE state IN ('pending', 'sent');
CREATE INDEX node_commands_ended ON node_commands (ended_at);

{pg}ALTER TABLE node_commands ENABLE ROW LEVEL SECURITY;
{pg}CREATE POLICY tenant ON node_commands USING (in_tenant(tenant_id));
";

const DOWN: &str = r"
DROP TABLE node_commands;
";
