//! Inbounds: the access endpoints that nodes open.

use std::collections::BTreeSet;
use std::fmt;

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
use crate::inbound_settings::InboundSettings;
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
    pub settings: InboundSettings,
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

/// An inbound to make.
#[derive(Clone)]
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
    pub settings: InboundSettings,
    /// Its secret that is the same on each node, sealed; WireGuard has none.
    pub sealed_secret: Option<Vec<u8>>,
}

/// Fields to change; `None` leaves a field as it is.
#[derive(Clone, Default)]
pub struct InboundPatch {
    /// The name.
    pub name: Option<String>,
    /// Which nodes open it.
    pub nodes: Option<NodeSelector>,
    /// Whether tenants may use it.
    pub offered: Option<bool>,
    /// What is opened, of the kind it was; pools have to hold every address in use.
    pub settings: Option<InboundSettings>,
    /// Another secret, sealed; `Some(None)` is none any more.
    pub sealed_secret: Option<Option<Vec<u8>>>,
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
        if let InboundSettings::WireGuard(wireguard) = &mut new.settings {
            if wireguard.ipv4_pool.prefix_len() == 0 {
                wireguard.ipv4_pool = addresses::free_pool(&tx, new.tenant_id).await?;
            }
            addresses::check_pools(wireguard)?;
        }
        let row = Model {
            id: new.id.uuid(),
            tenant_id: new.tenant_id.map(TenantId::uuid),
            name_key: name_key(&new.name),
            name: new.name,
            kind: new.settings.kind().to_owned(),
            selector: serde_json::json!(new.nodes),
            offered: new.offered && new.tenant_id.is_none(),
            settings: new.settings.to_json(),
            sealed_secret: new.sealed_secret,
            version: 1,
            created_at: tx.now,
            updated_at: tx.now,
        };
        Entity::insert(ActiveModel::from(row.clone()))
            .exec_without_returning(&*tx)
            .await
            .map_err(StoreError::unique("name"))?;
        if let Some(wireguard) = new.settings.wireguard() {
            addresses::open_pool(&tx, new.id, wireguard.ipv4_pool).await?;
        }
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
        let rebind = patch.nodes.is_some() || patch.settings.is_some();
        if let Some(nodes) = patch.nodes {
            check_nodes(&tx, tenant, &nodes).await?;
            change.selector = Set(serde_json::json!(nodes));
        }
        if let Some(offered) = patch.offered {
            change.offered = Set(offered && tenant.is_none());
        }
        if let Some(settings) = patch.settings {
            check_change(&tx, id, &before.settings, &settings).await?;
            change.settings = Set(settings.to_json());
        }
        if let Some(sealed) = patch.sealed_secret {
            change.sealed_secret = Set(sealed);
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

async fn lock(tx: &Write, tenant: Option<TenantId>, id: InboundId) -> Result<Model> {
    Entity::find_by_id(id.uuid())
        .filter(owned(tenant))
        .lock(LockType::NoKeyUpdate)
        .one(&**tx)
        .await?
        .ok_or(StoreError::NotFound("inbound"))
}

/// Refuses another kind, and pools that lack an address in use.
async fn check_change(
    tx: &Write,
    id: InboundId,
    before: &InboundSettings,
    after: &InboundSettings,
) -> Result<()> {
    if before.kind() != after.kind() {
        return Err(StoreError::InvalidArgument {
            what: after.kind(),
            reason: format!("is not what the inbound is: it stays {}", before.kind()),
        });
    }
    if let (Some(before), Some(after)) = (before.wireguard(), after.wireguard()) {
        addresses::check_pools(after)?;
        addresses::check_pool_change(tx, id, before, after).await?;
    }
    Ok(())
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
            settings: InboundSettings::from_json(&row.kind, row.settings)?,
            version: sql::unsigned(row.version),
            created_at_ms: row.created_at,
            updated_at_ms: row.updated_at,
        })
    }
}

/// Without the sealed secret.
impl fmt::Debug for NewInbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewInbound")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Without the sealed secret.
impl fmt::Debug for InboundPatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboundPatch")
            .field("name", &self.name)
            .field("nodes", &self.nodes)
            .field("offered", &self.offered)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
