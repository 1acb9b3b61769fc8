//! What a node should do, read at one moment by a handful of set queries: its inbounds, the peers
//! on them, and what bounds each user. Keys are sealed still; the caller opens them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use sea_orm::QueryResult;
use uuid::Uuid;
use vpnpanel_domain::{
    DeviceId, InboundId, Limit, MicroBytes, NodeId, PeerId, PeriodId, SpeedLimit, TenantId,
    UserFacts, UserId, UserStatus, XrayProtocol,
};

use crate::changes::{self, LogPosition};
use crate::connect::Store;
use crate::connections::address;
use crate::error::Result;
use crate::inbound_settings::InboundSettings;
use crate::ledger::months;
use crate::nodes::{self, Node};
use crate::removals::{self, Removals};
use crate::{amount, plans, sql, users};

/// Everything that a node should do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredFacts {
    /// Where in the change log this was read: it holds every change up to there.
    pub position: LogPosition,
    /// The node's settings.
    pub node: Node,
    /// Any number of the users that the node has may go.
    pub removals: Removals,
    /// Inbounds to open, by id.
    pub inbounds: Vec<NodeInbound>,
    /// Users that have peers on them, by id. Empty while the node is disabled.
    pub users: Vec<NodeUser>,
}

/// An inbound to open on the node.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeInbound {
    /// Its id.
    pub id: InboundId,
    /// WireGuard's private key of this node for it, sealed.
    pub sealed_private_key: Option<Vec<u8>>,
    /// Xray's secret of the inbound, sealed.
    pub sealed_secret: Option<Vec<u8>>,
    /// What is opened.
    pub settings: InboundSettings,
}

/// A user with peers on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUser {
    /// Its id.
    pub id: UserId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// What it may do now.
    pub status: UserStatus,
    /// Its tenant is suspended, or has used up its month: whatever the status says, its traffic does not pass.
    pub suspended: bool,
    /// When it ends.
    pub expires_at_ms: Option<i64>,
    /// Nothing of it passes, in whichever period.
    pub barred: bool,
    /// The period that its traffic belongs to until it ends.
    pub period: NodePeriod,
    /// The period from then on.
    pub next_period: Option<NodePeriod>,
    /// What it may use in each of them.
    pub limit: Limit,
    /// How fast it may be on the node.
    pub speed: SpeedLimit,
    /// Devices that it may have; 0 is no limit.
    pub devices: u32,
    /// Its peers, by id.
    pub peers: Vec<NodePeer>,
}

/// A period as nodes are told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePeriod {
    /// Its id.
    pub id: PeriodId,
    /// When it ends.
    pub ends_at_ms: Option<i64>,
    /// Its limit is reached.
    pub spent: bool,
}

/// A device of a user on an inbound.
#[derive(Clone, PartialEq, Eq)]
pub struct NodePeer {
    /// Its id, the key of its counters.
    pub id: PeerId,
    /// The inbound.
    pub inbound_id: InboundId,
    /// The device.
    pub device_id: DeviceId,
    /// By what it is let in.
    pub access: NodePeerAccess,
}

/// By what a device is let in.
#[derive(Clone, PartialEq, Eq)]
pub enum NodePeerAccess {
    /// To a WireGuard interface.
    WireGuard {
        /// Public key of the device.
        public_key: Vec<u8>,
        /// Preshared key, sealed.
        sealed_preshared_key: Option<Vec<u8>>,
        /// Address of the device.
        ipv4: Ipv4Addr,
        /// Address of the device, where the inbound has IPv6.
        ipv6: Option<Ipv6Addr>,
    },
    /// To a port of Xray.
    Xray {
        /// What is spoken there.
        protocol: XrayProtocol,
        /// What the device's credential is derived from, sealed.
        sealed_seed: Vec<u8>,
    },
}

impl NodeUser {
    /// Whether its traffic passes.
    pub const fn may_connect(&self) -> bool {
        self.status.may_connect(self.suspended)
    }
}

impl Store {
    /// What a node should do.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn desired_state(&self, node: NodeId) -> Result<DesiredFacts> {
        let now = self.now_ms();
        let db = self.snapshot().await?;
        let position = changes::tail(&db).await?;
        let node = nodes::load(&db, node).await?;
        let inbounds = opened(&db, node.id).await?;
        let removals = removals::allowed(&db, node.id, now).await?;
        let users = if node.disabled || inbounds.is_empty() {
            Vec::new()
        } else {
            users(&db, &inbounds, None, now).await?
        };
        db.commit().await?;
        Ok(DesiredFacts {
            position,
            node,
            removals,
            inbounds,
            users,
        })
    }
}

/// The inbounds that a node opens, by id.
pub(crate) async fn opened(
    db: &sea_orm::DatabaseTransaction,
    node: NodeId,
) -> Result<Vec<NodeInbound>> {
    let rows = sql::all(
        db,
        "SELECT i.id, b.sealed_private_key, i.settings, i.sealed_secret, i.kind
         FROM inbound_nodes b JOIN inbounds i ON i.id = b.inbound_id
         WHERE b.node_id = $1 ORDER BY i.id",
        vec![node.uuid().into()],
    )
    .await?;
    let mut inbounds = Vec::with_capacity(rows.len());
    for row in &rows {
        inbounds.push(NodeInbound {
            id: InboundId::new(sql::get(row, 0)?),
            sealed_private_key: sql::get(row, 1)?,
            sealed_secret: sql::get(row, 3)?,
            settings: InboundSettings::from_json(&sql::get::<String>(row, 4)?, sql::get(row, 2)?)?,
        });
    }
    Ok(inbounds)
}

/// Users with peers on the inbounds, by id: all, or those of `only`.
pub(crate) async fn users(
    db: &sea_orm::DatabaseTransaction,
    inbounds: &[NodeInbound],
    only: Option<&BTreeSet<UserId>>,
    now: i64,
) -> Result<Vec<NodeUser>> {
    let opened: BTreeMap<InboundId, &InboundSettings> = inbounds
        .iter()
        .map(|inbound| (inbound.id, &inbound.settings))
        .collect();
    let text = format!(
        "SELECT u.id, u.tenant_id, u.disabled, u.expires_at, u.on_hold, q.id, q.ends_at,
                q.limit_bytes, q.billed_bytes, q.billed_micro,
                p.id, p.inbound_id, p.ipv4, d.public_key, d.sealed_preshared_key, d.id,
                COALESCE(t.suspended_at, m.over_at), n.id, n.ends_at, n.limit_bytes, n.billed_bytes, n.billed_micro,
                u.speed_up_bps, u.speed_down_bps, d.sealed_seed, u.device_limit
         FROM peers p
         JOIN users u ON u.tenant_id = p.tenant_id AND u.id = p.user_id
         JOIN tenants t ON t.id = p.tenant_id {}
         JOIN periods q ON q.tenant_id = u.tenant_id AND q.id = u.period_id
         LEFT JOIN periods n ON n.tenant_id = u.tenant_id AND n.id = u.next_period_id
         JOIN devices d ON d.tenant_id = p.tenant_id AND d.id = p.device_id
         WHERE p.inbound_id {} AND u.deleted_at IS NULL {}
         ORDER BY u.id, p.id",
        months::join_over(2),
        sql::in_ids(db, 1),
        only.map_or_else(String::new, |_| {
            format!("AND p.user_id {}", sql::in_ids(db, 3))
        }),
    );
    let mut values = vec![sql::ids(db, opened.keys().copied()), now.into()];
    values.extend(only.map(|only| sql::ids(db, only.iter().copied())));
    let mut users: Vec<NodeUser> = Vec::new();
    for row in &sql::all(db, text, values).await? {
        let inbound_id = InboundId::new(sql::get(row, 11)?);
        let Some(access) = access(row, opened.get(&inbound_id).copied())? else {
            continue;
        };
        let id = UserId::new(sql::get(row, 0)?);
        if users.last().is_none_or(|user| user.id != id) {
            users.push(user(row, now)?);
        }
        let peer = NodePeer {
            id: PeerId::new(sql::get(row, 10)?),
            inbound_id,
            device_id: DeviceId::new(sql::get(row, 15)?),
            access,
        };
        if let Some(user) = users.last_mut() {
            user.peers.push(peer);
        }
    }
    Ok(users)
}

/// By what a peer is let in; `None` while its device has nothing to show there.
fn access(row: &QueryResult, inbound: Option<&InboundSettings>) -> Result<Option<NodePeerAccess>> {
    let wireguard = match inbound {
        None => return Ok(None),
        Some(InboundSettings::WireGuard(wireguard)) => wireguard,
        Some(InboundSettings::Xray(xray)) => {
            let seed: Option<Vec<u8>> = sql::get(row, 24)?;
            return Ok(seed.map(|sealed_seed| NodePeerAccess::Xray {
                protocol: xray.protocol,
                sealed_seed,
            }));
        }
    };
    let ipv4 = address(sql::get(row, 12)?)?;
    Ok(Some(NodePeerAccess::WireGuard {
        public_key: sql::get(row, 13)?,
        sealed_preshared_key: sql::get(row, 14)?,
        ipv4,
        ipv6: wireguard.ipv6_of(ipv4),
    }))
}

/// A user without its peers yet.
fn user(row: &QueryResult, now: i64) -> Result<NodeUser> {
    let limit = Limit::from_wire(sql::unsigned(sql::get(row, 7)?));
    let used = amount::get(row, 8)?;
    let period = NodePeriod {
        id: PeriodId::new(sql::get(row, 5)?),
        ends_at_ms: sql::get(row, 6)?,
        spent: limit.is_reached(used),
    };
    let next_period = match sql::get::<Option<Uuid>>(row, 17)? {
        None => None,
        Some(id) => Some(NodePeriod {
            id: PeriodId::new(id),
            ends_at_ms: sql::get(row, 18)?,
            spent: Limit::from_wire(sql::unsigned(sql::get(row, 19)?))
                .is_reached(amount::get(row, 20)?),
        }),
    };
    let in_force = next_period
        .filter(|_| period.ends_at_ms.is_some_and(|end| end <= now))
        .unwrap_or(period);
    // But for the limit, which is of each period by itself.
    let facts = UserFacts {
        deleted: false,
        disabled: sql::get(row, 2)?,
        expires_at_ms: sql::get(row, 3)?,
        limit: Limit::None,
        used: MicroBytes::ZERO,
        on_hold: sql::get(row, 4)?,
    };
    let suspended = sql::get::<Option<i64>>(row, 16)?.is_some();
    let status = match facts.status(now) {
        UserStatus::Active | UserStatus::OnHold if in_force.spent => UserStatus::Limited,
        status => status,
    };
    Ok(NodeUser {
        id: UserId::new(sql::get(row, 0)?),
        tenant_id: TenantId::new(sql::get(row, 1)?),
        status,
        suspended,
        expires_at_ms: facts.expires_at_ms,
        barred: !facts.status(now).may_connect(suspended),
        period,
        next_period,
        limit,
        speed: users::speed(row, 22)?,
        devices: plans::devices(sql::get(row, 25)?),
        peers: Vec::new(),
    })
}

/// Without the sealed key.
impl fmt::Debug for NodeInbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeInbound")
            .field("id", &self.id)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Without the sealed key.
impl fmt::Debug for NodePeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodePeer")
            .field("id", &self.id)
            .field("inbound_id", &self.inbound_id)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// Without the sealed keys.
impl fmt::Debug for NodePeerAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WireGuard { ipv4, .. } => f
                .debug_struct("WireGuard")
                .field("ipv4", ipv4)
                .finish_non_exhaustive(),
            Self::Xray { .. } => f.debug_struct("Xray").finish_non_exhaustive(),
        }
    }
}
