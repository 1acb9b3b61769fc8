//! What is known of each node beside its settings: how it is, its certificates and join tokens,
//! and the certificate authorities that signed them.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261123_000003_nodes"
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
CREATE TABLE node_states (
    node_id {uuid} PRIMARY KEY NOT NULL REFERENCES nodes (id),
    connected {bool} NOT NULL,
    collector TEXT NOT NULL,
    seen_at {big},
    agent_version TEXT NOT NULL,
    engines {json} NOT NULL,
    desired_revision {big} NOT NULL,
    desired_digest {bytes} NOT NULL,
    desired_at {big},
    applied_revision {big} NOT NULL,
    applied_digest {bytes} NOT NULL,
    applied_at {big},
    refused_revision {big} NOT NULL,
    refused_errors {json} NOT NULL,
    unacked_batches {big} NOT NULL,
    unacked_bytes {big} NOT NULL
) {table};

CREATE TABLE authorities (
    id {uuid} PRIMARY KEY NOT NULL,
    kind TEXT NOT NULL,
    sequence {big} NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('standby', 'staged', 'active', 'retiring', 'retired')),
    certificate_der {bytes} NOT NULL,
    sealed_private_key {bytes} NOT NULL,
    not_after {big} NOT NULL,
    created_at {big} NOT NULL
) {table};
CREATE UNIQUE INDEX authorities_active ON authorities (kind) WHERE state = 'active';
CREATE UNIQUE INDEX authorities_sequence ON authorities (kind, sequence);

CREATE TABLE node_certificates (
    serial {bytes} PRIMARY KEY NOT NULL,
    node_id {uuid} NOT NULL REFERENCES nodes (id),
    authority_id {uuid} NOT NULL REFERENCES authorities (id),
    spki_sha256 {bytes} NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('current', 'next', 'retired', 'revoked')),
    not_before {big} NOT NULL,
    not_after {big} NOT NULL,
    created_at {big} NOT NULL,
    revoked_at {big}
) {table};
CREATE INDEX node_certificates_node ON node_certificates (node_id, state);
CREATE UNIQUE INDEX node_certificates_current ON node_certificates (node_id) WHERE state = 'current';
CREATE UNIQUE INDEX node_certificates_next ON node_certificates (node_id) WHERE state = 'next';

CREATE TABLE join_tokens (
    hash {bytes} PRIMARY KEY NOT NULL,
    node_id {uuid} NOT NULL REFERENCES nodes (id),
    created_at {big} NOT NULL,
    expires_at {big} NOT NULL,
    used_at {big},
    used_by_spki {bytes},
    superseded_at {big}
) {table};
CREATE INDEX join_tokens_node ON join_tokens (node_id);
";

const DOWN: &str = r"
DROP TABLE join_tokens;
DROP TABLE node_certificates;
DROP TABLE authorities;
DROP TABLE node_states;
";
