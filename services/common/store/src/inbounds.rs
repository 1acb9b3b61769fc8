//! Inbounds: the access endpoints that nodes open.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sea_orm::sea_query::LockType;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};
use serde::{Deserialize, Serialize};
use vpnpanel_domain::{InboundId, NodeId, TenantId};

use crate::audit::Event;
use crate::bindings::{self, MakeNodeKey};
use crate::changes::{ChangeKind, Entry};
use crate::connect::Store;
use crate::entity::inbound::{ActiveModel, Column, Entity, Model};
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::nodes::{Labels, Node};
use crate::page::Page;
use crate::tenants::{check_version, name_key};
use crate::transaction::Write;
use crate::{addresses, removals, sql};

/// An access endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// Its id.
    pub id: InboundId,
    /// The tenant that owns it; `None` is the platform.
    pub tenant_id: Option<TenantId>,
    /// Its name, unique for its owner without regard to case.
    pub name: String,
    /// Which of the owner's nodes open it.
    pub nodes: NodeSelector,
    /// Of the platform: every tenant may put it into its groups.
    pub offered: bool,
    /// What is opened.
    pub wireguard: WireGuard,
    /// Grows with each change.
    pub version: u64,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it was last changed.
    pub updated_at_ms: i64,
}

/// Selects nodes: those named, and those that carry all the labels; empty selects every one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeSelector {
    /// By id.
    #[serde(default)]
    pub node_ids: BTreeSet<NodeId>,
    /// By labels, all of which a node has to carry.
    #[serde(default)]
    pub labels: Labels,
}

/// A WireGuard interface, as every node of the inbound opens it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireGuard {
    /// UDP port.
    pub port: u16,
    /// Where devices get their IPv4 addresses; the first host address is the node's.
    pub ipv4_pool: Ipv4Net,
    /// Where devices get their IPv6 addresses: the low 32 bits are the IPv4 address.
    pub ipv6_pool: Option<Ipv6Net>,
    /// Handed to devices.
    pub dns: Vec<IpAddr>,
    /// Bytes.
    pub mtu: u16,
    /// Seconds between keepalives of devices; 0 is none.
    pub keepalive_seconds: u16,
    /// What devices route through the tunnel.
    pub client_allowed_ips: Vec<IpNet>,
}

/// An inbound to make.
#[derive(Debug, Clone)]
pub struct NewInbound {
    /// Its id.
    pub id: InboundId,
    /// The tenant that owns it; `None` is the platform.
    pub tenant_id: Option<TenantId>,
    /// Its name.
    pub name: String,
    /// Which of the owner's nodes open it.
    pub nodes: NodeSelector,
    /// Of the platform: every tenant may put it into its groups.
    pub offered: bool,
    /// What is opened. An unspecified pool (`0.0.0.0/0`) picks a free private /16.
    pub wireguard: WireGuard,
}

/// Fields to change; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct InboundPatch {
    /// The name.
    pub name: Option<String>,
    /// Which nodes open it.
    pub nodes: Option<NodeSelector>,
    /// Whether tenants may use it.
    pub offered: Option<bool>,
    /// What is opened; pools have to hold every address in use.
    pub wireguard: Option<WireGuard>,
}

impl NodeSelector {
    /// Whether a node of the inbound's owner is selected.
    pub fn selects(&self, node: &Node) -> bool {
        if self.node_ids.is_empty() && self.labels.is_empty() {
            return true;
        }
        self.node_ids.contains(&node.id)
            || (!self.labels.is_empty()
                && self
                    .labels
                    .iter()
                    .all(|(key, value)| node.labels.get(key) == Some(value)))
    }
}

impl WireGuard {
    /// The node's own addresses, with their networks.
    pub fn node_addresses(&self) -> Vec<IpNet> {
        let first = Ipv4Addr::from(u32::from(self.ipv4_pool.network()).saturating_add(1));
        let mut addresses = Vec::with_capacity(2);
        if let Ok(net) = Ipv4Net::new(first, self.ipv4_pool.prefix_len()) {
            addresses.push(IpNet::V4(net));
        }
        if let (Some(pool), Some(address)) = (self.ipv6_pool, self.ipv6_of(first))
            && let Ok(net) = Ipv6Net::new(address, pool.prefix_len())
        {
            addresses.push(IpNet::V6(net));
        }
        addresses
    }

    /// The IPv6 address that goes with an IPv4 address; `None` without an IPv6 pool.
    pub fn ipv6_of(&self, ipv4: Ipv4Addr) -> Option<Ipv6Addr> {
        let pool = self.ipv6_pool?;
        Some(Ipv6Addr::from(
            u128::from(pool.network()) | u128::from(u32::from(ipv4)),
        ))
    }

    /// Whether an address could belong to either.
    pub fn overlaps(&self, other: &Self) -> bool {
        let ipv6 = self.ipv6_pool.zip(other.ipv6_pool);
        overlap_v4(self.ipv4_pool, other.ipv4_pool)
            || ipv6.is_some_and(|(one, two)| {
                one.contains(&two.network()) || two.contains(&one.network())
            })
    }
}

impl Store {
    /// Makes an inbound and binds it to the nodes it selects.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] for the name, [`StoreError::PortInUse`],
    /// [`StoreError::InvalidArgument`] for a pool, [`StoreError::InvalidReference`] for a node,
    /// [`StoreError::NotFound`] for the tenant.
    pub async fn create_inbound(
        &self,
        mut new: NewInbound,
        keys: &dyn MakeNodeKey,
        request: Option<&RequestKey>,
    ) -> Result<Inbound> {
        let mut tx = self.begin_in(new.tenant_id).await?;
        if let Some(existing) = idempotency::claim(&tx, request, new.id).await? {
            drop(tx);
            return self.inbound(new.tenant_id, InboundId::new(existing)).await;
        }
        // There has to be one, before a row refers to it.
        bindings::lock_owner(&tx, new.tenant_id).await?;
        if new.wireguard.ipv4_pool.prefix_len() == 0 {
            new.wireguard.ipv4_pool = addresses::free_pool(&tx, new.tenant_id).await?;
        }
        addresses::check_pools(&new.wireguard)?;
        let row = Model {
            id: new.id.uuid(),
            tenant_id: new.tenant_id.map(TenantId::uuid),
            name_key: name_key(&new.name),
            name: new.name,
            kind: "wireguard".to_owned(),
            selector: serde_json::json!(new.nodes),
            offered: new.offered && new.tenant_id.is_none(),
            settings: serde_json::json!(new.wireguard),
            version: 1,
            created_at: tx.now,
            updated_at: tx.now,
        };
        Entity::insert(ActiveModel::from(row.clone()))
            .exec_without_returning(&*tx)
            .await
            .map_err(StoreError::unique("name"))?;
        addresses::open_pool(&tx, new.id, new.wireguard.ipv4_pool).await?;
        check_nodes(&tx, new.tenant_id, &new.nodes).await?;
        tx.changed(Entry::new(ChangeKind::Inbound, new.tenant_id, new.id).on_inbound(new.id));
        bindings::rebind_owner(&mut tx, new.tenant_id, keys).await?;
        let made = Inbound::try_from(row)?;
        tx.audit(Event::created(&made));
        tx.commit().await?;
        Ok(made)
    }

    /// One inbound that an owner has; for a tenant, also one that the platform offers.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn inbound(&self, tenant: Option<TenantId>, id: InboundId) -> Result<Inbound> {
        visible(tenant)
            .filter(Column::Id.eq(id.uuid()))
            .one(&self.read_in(tenant).await?)
            .await?
            .ok_or(StoreError::NotFound("inbound"))?
            .try_into()
    }

    /// Inbounds of an owner in the order they were made; for a tenant, also those that the
    /// platform offers.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn inbounds(
        &self,
        tenant: Option<TenantId>,
        page: Page<InboundId>,
    ) -> Result<Vec<Inbound>> {
        let mut query = visible(tenant);
        if let Some(after) = page.after {
            query = query.filter(Column::Id.gt(after.uuid()));
        }
        query
            .order_by_asc(Column::Id)
            .limit(u64::from(page.size))
            .all(&self.read_in(tenant).await?)
            .await?
            .into_iter()
            .map(TryInto::try_into)
            .collect()
    }

    /// Changes fields of an inbound that the owner itself has.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`], [`StoreError::AlreadyExists`],
    /// [`StoreError::PortInUse`], [`StoreError::PoolInUse`], and as for create.
    pub async fn update_inbound(
        &self,
        tenant: Option<TenantId>,
        id: InboundId,
        patch: InboundPatch,
        version: Option<u64>,
        keys: &dyn MakeNodeKey,
    ) -> Result<Inbound> {
        let mut tx = self.begin_in(tenant).await?;
        let row = lock(&tx, tenant, id).await?;
        check_version(row.version, version)?;
        let before: Inbound = row.clone().try_into()?;
        let mut change = ActiveModel {
            id: Set(row.id),
            version: Set(row.version + 1),
            updated_at: Set(tx.now),
            ..ActiveModel::default()
        };
        if let Some(name) = patch.name {
            change.name_key = Set(name_key(&name));
            change.name = Set(name);
        }
        let rebind = patch.nodes.is_some() || patch.wireguard.is_some();
        if let Some(nodes) = patch.nodes {
            check_nodes(&tx, tenant, &nodes).await?;
            change.selector = Set(serde_json::json!(nodes));
        }
        if let Some(offered) = patch.offered {
            change.offered = Set(offered && tenant.is_none());
        }
        if let Some(wireguard) = patch.wireguard {
            addresses::check_pools(&wireguard)?;
            addresses::check_pool_change(&tx, id, &before.wireguard, &wireguard).await?;
            if wireguard.port != before.wireguard.port {
                bindings::set_port(&tx, id, wireguard.port).await?;
            }
            change.settings = Set(serde_json::json!(wireguard));
        }
        let row = Entity::update(change)
            .exec(&*tx)
            .await
            .map_err(StoreError::unique("name"))?;
        tx.changed(Entry::new(ChangeKind::Inbound, tenant, id).on_inbound(id));
        if rebind {
            bindings::rebind_owner(&mut tx, tenant, keys).await?;
        }
        let changed = Inbound::try_from(row)?;
        tx.audit(Event::changed(&before, &changed));
        tx.commit().await?;
        Ok(changed)
    }

    /// Deletes an inbound with its bindings and peers.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`].
    pub async fn delete_inbound(
        &self,
        tenant: Option<TenantId>,
        id: InboundId,
        version: Option<u64>,
    ) -> Result<()> {
        let mut tx = self.begin_in(tenant).await?;
        let row = lock(&tx, tenant, id).await?;
        check_version(row.version, version)?;
        tx.audit(Event::deleted(&Inbound::try_from(row)?));
        let nodes = sql::all(
            &*tx,
            "SELECT node_id FROM inbound_nodes WHERE inbound_id = $1 ORDER BY node_id",
            vec![id.uuid().into()],
        )
        .await?;
        for node in &nodes {
            let node = NodeId::new(sql::get(node, 0)?);
            removals::confirm_implied(&tx, node).await?;
            tx.changed(Entry::new(ChangeKind::Binding, tenant, id).on_node(node));
        }
        Entity::delete_by_id(id.uuid()).exec(&*tx).await?;
        tx.changed(Entry::new(ChangeKind::Inbound, tenant, id));
        tx.commit().await
    }
}

/// Inbounds that an owner itself has, by id.
pub(crate) async fn of_owner(tx: &Write, tenant: Option<TenantId>) -> Result<Vec<Inbound>> {
    Entity::find()
        .filter(owned(tenant))
        .order_by_asc(Column::Id)
        .all(&**tx)
        .await?
        .into_iter()
        .map(TryInto::try_into)
        .collect()
}

/// Whether IPv4 networks share an address.
pub(crate) fn overlap_v4(one: Ipv4Net, two: Ipv4Net) -> bool {
    one.contains(&two.network()) || two.contains(&one.network())
}

async fn lock(tx: &Write, tenant: Option<TenantId>, id: InboundId) -> Result<Model> {
    Entity::find_by_id(id.uuid())
        .filter(owned(tenant))
        .lock(LockType::NoKeyUpdate)
        .one(&**tx)
        .await?
        .ok_or(StoreError::NotFound("inbound"))
}

/// Nodes that are selected by id have to be the owner's.
async fn check_nodes(tx: &Write, tenant: Option<TenantId>, selector: &NodeSelector) -> Result<()> {
    if selector.node_ids.is_empty() {
        return Ok(());
    }
    let present: BTreeSet<NodeId> = crate::nodes::of_owner(tx, tenant)
        .await?
        .into_iter()
        .map(|node| node.id)
        .collect();
    match selector.node_ids.difference(&present).next() {
        Some(missing) => Err(StoreError::InvalidReference {
            what: "nodes.node_ids",
            id: missing.to_string(),
        }),
        None => Ok(()),
    }
}

fn owned(tenant: Option<TenantId>) -> Condition {
    Condition::all().add(match tenant {
        Some(tenant) => Column::TenantId.eq(tenant.uuid()),
        None => Column::TenantId.is_null(),
    })
}

fn visible(tenant: Option<TenantId>) -> sea_orm::Select<Entity> {
    let mut condition = Condition::any().add(owned(tenant));
    if tenant.is_some() {
        condition = condition.add(
            Condition::all()
                .add(Column::TenantId.is_null())
                .add(Column::Offered.eq(true)),
        );
    }
    Entity::find().filter(condition)
}

impl TryFrom<Model> for Inbound {
    type Error = StoreError;

    fn try_from(row: Model) -> Result<Self> {
        Ok(Self {
            id: InboundId::new(row.id),
            tenant_id: row.tenant_id.map(TenantId::new),
            name: row.name,
            nodes: serde_json::from_value(row.selector)
                .map_err(|error| StoreError::corrupt("inbounds.selector", error))?,
            offered: row.offered,
            wireguard: serde_json::from_value(row.settings)
                .map_err(|error| StoreError::corrupt("inbounds.settings", error))?,
            version: sql::unsigned(row.version),
            created_at_ms: row.created_at,
            updated_at_ms: row.updated_at,
        })
    }
}
