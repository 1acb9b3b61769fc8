//! What jobs watch of nodes: until when a sign of life is good, since when a node is offline, when
//! one that is behind is looked at again, and which certificates were warned of.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000028_watches"
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
ALTER TABLE node_states ADD COLUMN connected_until {big};
ALTER TABLE node_states ADD COLUMN offline_at {big};
ALTER TABLE node_states ADD COLUMN repair_after {big};
UPDATE node_states SET connected_until = seen_at + 60000 WHERE connected;
UPDATE node_states SET offline_at = seen_at WHERE NOT connected;
ALTER TABLE node_certificates ADD COLUMN warned_at {big};
";

const DOWN: &str = r"
ALTER TABLE node_certificates DROP COLUMN warned_at;
ALTER TABLE node_states DROP COLUMN repair_after;
ALTER TABLE node_states DROP COLUMN offline_at;
ALTER TABLE node_states DROP COLUMN connected_until;
";
