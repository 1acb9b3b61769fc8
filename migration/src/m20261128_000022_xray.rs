//! Xray beside WireGuard: inbounds of its kinds with a secret that is the same on each node, TCP and
//! UDP ports apart, peers without an address, and what devices' credentials are derived from.
//! Columns that may be null from now on are made anew: SQLite changes none in place.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261128_000022_xray"
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
ALTER TABLE inbounds DROP COLUMN kind;
ALTER TABLE inbounds ADD COLUMN kind TEXT NOT NULL DEFAULT 'wireguard'
    CHECK (kind IN ('wireguard', 'vless', 'vmess', 'trojan', 'shadowsocks'));
ALTER TABLE inbounds ADD COLUMN sealed_secret {bytes};

DROP INDEX inbound_nodes_port;
ALTER TABLE inbound_nodes ADD COLUMN tcp_port INTEGER;
ALTER TABLE inbound_nodes ADD COLUMN udp_port INTEGER;
ALTER TABLE inbound_nodes ADD COLUMN node_public_key {bytes};
ALTER TABLE inbound_nodes ADD COLUMN node_private_key {bytes};
UPDATE inbound_nodes SET udp_port = port, node_public_key = public_key,
    node_private_key = sealed_private_key;
ALTER TABLE inbound_nodes DROP COLUMN port;
ALTER TABLE inbound_nodes DROP COLUMN public_key;
ALTER TABLE inbound_nodes DROP COLUMN sealed_private_key;
ALTER TABLE inbound_nodes RENAME COLUMN node_public_key TO public_key;
ALTER TABLE inbound_nodes RENAME COLUMN node_private_key TO sealed_private_key;
CREATE UNIQUE INDEX inbound_nodes_tcp_port ON inbound_nodes (node_id, tcp_port);
CREATE UNIQUE INDEX inbound_nodes_udp_port ON inbound_nodes (node_id, udp_port);

DROP INDEX peers_ipv4;
ALTER TABLE peers ADD COLUMN address {big};
UPDATE peers SET address = ipv4;
ALTER TABLE peers DROP COLUMN ipv4;
ALTER TABLE peers RENAME COLUMN address TO ipv4;
CREATE UNIQUE INDEX peers_ipv4 ON peers (inbound_id, ipv4);

ALTER TABLE devices ADD COLUMN sealed_seed {bytes};
CREATE INDEX devices_without_seed ON devices (id) WHERE sealed_seed IS NULL;
";

// What is not WireGuard's has no place in what was before.
const DOWN: &str = r"
DROP INDEX devices_without_seed;
ALTER TABLE devices DROP COLUMN sealed_seed;

DELETE FROM inbounds WHERE kind <> 'wireguard';

DROP INDEX peers_ipv4;
ALTER TABLE peers ADD COLUMN address {big} NOT NULL DEFAULT 0;
UPDATE peers SET address = ipv4;
ALTER TABLE peers DROP COLUMN ipv4;
ALTER TABLE peers RENAME COLUMN address TO ipv4;
CREATE UNIQUE INDEX peers_ipv4 ON peers (inbound_id, ipv4);

DROP INDEX inbound_nodes_udp_port;
DROP INDEX inbound_nodes_tcp_port;
ALTER TABLE inbound_nodes ADD COLUMN port INTEGER NOT NULL DEFAULT 0;
{pg}ALTER TABLE inbound_nodes ADD COLUMN node_public_key {bytes} NOT NULL DEFAULT '';
{lite}ALTER TABLE inbound_nodes ADD COLUMN node_public_key {bytes} NOT NULL DEFAULT X'';
{pg}ALTER TABLE inbound_nodes ADD COLUMN node_private_key {bytes} NOT NULL DEFAULT '';
{lite}ALTER TABLE inbound_nodes ADD COLUMN node_private_key {bytes} NOT NULL DEFAULT X'';
UPDATE inbound_nodes SET port = udp_port, node_public_key = public_key,
    node_private_key = sealed_private_key;
ALTER TABLE inbound_nodes DROP COLUMN tcp_port;
ALTER TABLE inbound_nodes DROP COLUMN udp_port;
ALTER TABLE inbound_nodes DROP COLUMN public_key;
ALTER TABLE inbound_nodes DROP COLUMN sealed_private_key;
ALTER TABLE inbound_nodes RENAME COLUMN node_public_key TO public_key;
ALTER TABLE inbound_nodes RENAME COLUMN node_private_key TO sealed_private_key;
CREATE UNIQUE INDEX inbound_nodes_port ON inbound_nodes (node_id, port);

ALTER TABLE inbounds DROP COLUMN sealed_secret;
ALTER TABLE inbounds DROP COLUMN kind;
ALTER TABLE inbounds ADD COLUMN kind TEXT NOT NULL DEFAULT 'wireguard' CHECK (kind IN ('wireguard'));
";
