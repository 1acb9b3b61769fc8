//! Restores of older databases: whether the barrier is up, what has opened each, and how far each
//! node has come with its report.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000020_restore"
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
ALTER TABLE installation ADD COLUMN restore_held {bool} NOT NULL DEFAULT {false};

CREATE TABLE restores (
    state_epoch {big} PRIMARY KEY NOT NULL,
    opened_at {big} NOT NULL,
    closed_at {big},
    node_id {uuid},
    evidence TEXT NOT NULL
) {table};

ALTER TABLE node_links ADD COLUMN reported_epoch {big} NOT NULL DEFAULT 1;
ALTER TABLE node_links ADD COLUMN reported_itself {bool} NOT NULL DEFAULT {false};
ALTER TABLE node_links ADD COLUMN spoke_epoch {big} NOT NULL DEFAULT 0;
ALTER TABLE node_links ADD COLUMN suspicion TEXT;
ALTER TABLE node_links ADD COLUMN written_off_epoch {big} NOT NULL DEFAULT 0;
ALTER TABLE node_links ADD COLUMN settled_epoch {big} NOT NULL DEFAULT 1;

CREATE INDEX node_links_spoke ON node_links (spoke_epoch) WHERE spoke_epoch > 0;

ALTER TABLE leases ADD COLUMN named_generation {big} NOT NULL DEFAULT 0;

ALTER TABLE node_states ADD COLUMN applied_unknown {bool} NOT NULL DEFAULT {false};
";

const DOWN: &str = r"
ALTER TABLE node_states DROP COLUMN applied_unknown;
ALTER TABLE leases DROP COLUMN named_generation;
DROP INDEX node_links_spoke;
ALTER TABLE node_links DROP COLUMN settled_epoch;
ALTER TABLE node_links DROP COLUMN written_off_epoch;
ALTER TABLE node_links DROP COLUMN suspicion;
ALTER TABLE node_links DROP COLUMN spoke_epoch;
ALTER TABLE node_links DROP COLUMN reported_itself;
ALTER TABLE node_links DROP COLUMN reported_epoch;
DROP TABLE restores;
ALTER TABLE installation DROP COLUMN restore_held;
";
