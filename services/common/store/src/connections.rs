//! The ways in which a user's devices connect: each device, on each inbound of its groups, to each
//! node that opens it, once for each endpoint template of the inbound.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use sea_orm::{ConnectionTrait, QueryResult};
use vpnpanel_domain::{DeviceId, InboundId, NodeId, PeerId, TenantId, UserId};

use crate::connect::Store;
use crate::endpoint_templates::{self, ConnectionTemplate};
use crate::error::{Result, StoreError};
use crate::inbound_settings::{InboundSettings, WireGuard, Xray};
use crate::sql;

/// The ways of a user of a tenant.
pub(crate) const SELECT: &str =
    "SELECT p.id, d.id, d.name, d.sealed_private_key, d.sealed_preshared_key, p.ipv4,
            i.id, i.name, i.settings, n.id, n.name, n.address, b.public_key,
            i.kind, i.sealed_secret, d.sealed_seed, n.region, t.id, t.name_pattern, t.settings
     FROM peers p
     JOIN devices d ON d.tenant_id = p.tenant_id AND d.id = p.device_id
     JOIN inbounds i ON i.id = p.inbound_id
     JOIN inbound_nodes b ON b.inbound_id = p.inbound_id
     JOIN nodes n ON n.id = b.node_id
     LEFT JOIN endpoint_templates t ON t.inbound_id = i.id AND NOT t.disabled
       AND (t.tenant_id = $1 OR t.tenant_id IS NULL)
     WHERE p.tenant_id = $1 AND p.user_id = $2
       AND (i.tenant_id = $1 OR i.tenant_id IS NULL)
       AND (n.tenant_id = $1 OR n.tenant_id IS NULL)
       AND n.deleted_at IS NULL AND NOT n.disabled AND NOT n.draining
     ORDER BY COALESCE(t.sort_order, 0), i.name_key, n.name_key, d.id, t.id";

/// One way for one device to connect.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    /// The peer.
    pub peer_id: PeerId,
    /// The device.
    pub device_id: DeviceId,
    /// Its name.
    pub device_name: String,
    /// The inbound.
    pub inbound_id: InboundId,
    /// Its name.
    pub inbound_name: String,
    /// By what the device is let in.
    pub access: ConnectionAccess,
    /// The node.
    pub node_id: NodeId,
    /// Its name.
    pub node_name: String,
    /// Host name or IP address at which devices reach it.
    pub node_address: String,
    /// Where the node stands, free text.
    pub node_region: String,
    /// By what the connection is presented; `None` where the inbound has no template.
    pub template: Option<ConnectionTemplate>,
}

/// By what a device is let in.
#[derive(Clone, PartialEq, Eq)]
pub enum ConnectionAccess {
    /// To a WireGuard interface.
    WireGuard {
        /// What the inbound opens.
        wireguard: WireGuard,
        /// The node's public key for the inbound.
        node_public_key: Vec<u8>,
        /// The device's private key, sealed; `None` when the user keeps it.
        sealed_private_key: Option<Vec<u8>>,
        /// Its preshared key, sealed.
        sealed_preshared_key: Option<Vec<u8>>,
        /// Its address.
        ipv4: Ipv4Addr,
        /// Its address, where the inbound has IPv6.
        ipv6: Option<Ipv6Addr>,
    },
    /// To a port of Xray.
    Xray {
        /// What the inbound opens.
        xray: Xray,
        /// The inbound's secret, sealed.
        sealed_secret: Option<Vec<u8>>,
        /// What the device's credential is derived from, sealed.
        sealed_seed: Vec<u8>,
    },
}

impl Store {
    /// A user's connections by the order of their templates (0 without one), inbound and node name; nodes that are disabled or take no new sessions
    /// are left out.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the user.
    pub async fn connections(&self, tenant: TenantId, user: UserId) -> Result<Vec<Connection>> {
        let db = self.snapshot_in(tenant).await?;
        sql::one(
            &db,
            "SELECT 1 FROM users WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL",
            vec![tenant.uuid().into(), user.uuid().into()],
        )
        .await?
        .ok_or(StoreError::NotFound("user"))?;
        load(&db, tenant, user).await
    }
}

/// The connections of a user, whether or not there is one.
pub(crate) async fn load(
    db: &impl ConnectionTrait,
    tenant: TenantId,
    user: UserId,
) -> Result<Vec<Connection>> {
    let rows = sql::all(db, SELECT, vec![tenant.uuid().into(), user.uuid().into()]).await?;
    let mut connections = Vec::with_capacity(rows.len());
    for row in &rows {
        let Some(access) = access(row)? else {
            continue;
        };
        connections.push(Connection {
            peer_id: PeerId::new(sql::get(row, 0)?),
            device_id: DeviceId::new(sql::get(row, 1)?),
            device_name: sql::get(row, 2)?,
            inbound_id: InboundId::new(sql::get(row, 6)?),
            inbound_name: sql::get(row, 7)?,
            access,
            node_id: NodeId::new(sql::get(row, 9)?),
            node_name: sql::get(row, 10)?,
            node_address: sql::get(row, 11)?,
            node_region: sql::get(row, 16)?,
            template: endpoint_templates::of_connection(row, 17)?,
        });
    }
    Ok(connections)
}

/// By what a device is let in; `None` while it has nothing to show there.
fn access(row: &QueryResult) -> Result<Option<ConnectionAccess>> {
    let settings = InboundSettings::from_json(&sql::get::<String>(row, 13)?, sql::get(row, 8)?)?;
    Ok(match settings {
        InboundSettings::WireGuard(wireguard) => {
            let ipv4 = address(sql::get(row, 5)?)?;
            Some(ConnectionAccess::WireGuard {
                ipv6: wireguard.ipv6_of(ipv4),
                ipv4,
                wireguard,
                node_public_key: sql::get(row, 12)?,
                sealed_private_key: sql::get(row, 3)?,
                sealed_preshared_key: sql::get(row, 4)?,
            })
        }
        InboundSettings::Xray(xray) => match sql::get(row, 15)? {
            Some(sealed_seed) => Some(ConnectionAccess::Xray {
                xray,
                sealed_secret: sql::get(row, 14)?,
                sealed_seed,
            }),
            None => None,
        },
    })
}

/// An address out of its column.
pub(crate) fn address(value: i64) -> Result<Ipv4Addr> {
    u32::try_from(value)
        .map(Ipv4Addr::from)
        .map_err(|error| StoreError::corrupt("peers.ipv4", error))
}

/// Without the sealed keys.
impl fmt::Debug for ConnectionAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WireGuard { ipv4, .. } => f
                .debug_struct("WireGuard")
                .field("ipv4", ipv4)
                .finish_non_exhaustive(),
            Self::Xray { xray, .. } => f
                .debug_struct("Xray")
                .field("xray", xray)
                .finish_non_exhaustive(),
        }
    }
}

/// With what of it is no secret.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer_id", &self.peer_id)
            .field("inbound_name", &self.inbound_name)
            .field("node_name", &self.node_name)
            .finish_non_exhaustive()
    }
}
