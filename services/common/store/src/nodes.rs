//! Nodes: the settings of edge hosts. How a node is stands in `node_states`.

use std::collections::BTreeMap;

use sea_orm::sea_query::LockType;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};
use vpnpanel_domain::{Multiplier, NodeId, TenantId};

use crate::audit::Event;
use crate::bindings::{self, MakeNodeKey};
use crate::certificates;
use crate::changes::{ChangeKind, Entry};
use crate::connect::Store;
use crate::entity::node::{ActiveModel, Column, Entity, Model};
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::page::Page;
use crate::sql;
use crate::tenants::{check_version, name_key};
use crate::transaction::Write;

/// Labels of a node, or those that a selector asks for.
pub type Labels = BTreeMap<String, String>;

/// An edge host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// The tenant it is dedicated to; `None` is shared.
    pub tenant_id: Option<TenantId>,
    /// Its name, unique for its owner without regard to case.
    pub name: String,
    /// Where it stands.
    pub region: String,
    /// Host name or IP address at which devices reach it.
    pub address: String,
    /// What inbounds select it by.
    pub labels: Labels,
    /// Billed bytes for each raw byte.
    pub multiplier: Multiplier,
    /// Its agent is refused and is sent no users.
    pub disabled: bool,
    /// It takes no new sessions; those that live go on.
    pub draining: bool,
    /// Where the control plane reaches its agent directly, `host:port`; empty where it does not.
    pub control_address: String,
    /// Grows with each change.
    pub version: u64,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it was last changed.
    pub updated_at_ms: i64,
}

/// A node to make.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// Its id.
    pub id: NodeId,
    /// The tenant it is dedicated to; `None` is shared.
    pub tenant_id: Option<TenantId>,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub region: String,
    /// Host name or IP address at which devices reach it.
    pub address: String,
    /// What inbounds select it by.
    pub labels: Labels,
    /// Billed bytes for each raw byte.
    pub multiplier: Multiplier,
    /// Refuse its agent and send it no users.
    pub disabled: bool,
}

/// Fields to change; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct NodePatch {
    /// The name.
    pub name: Option<String>,
    /// Where it stands.
    pub region: Option<String>,
    /// Host name or IP address.
    pub address: Option<String>,
    /// The labels.
    pub labels: Option<Labels>,
    /// Billed bytes for each raw byte, of traffic that is counted after the node has applied it.
    pub multiplier: Option<Multiplier>,
    /// Refuse its agent and send it no users.
    pub disabled: Option<bool>,
}

impl Store {
    /// Makes a node and binds it to the inbounds that select it.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] for the name, [`StoreError::PortInUse`],
    /// [`StoreError::LimitReached`], [`StoreError::NotFound`] for the tenant.
    pub async fn create_node(
        &self,
        new: NewNode,
        keys: &dyn MakeNodeKey,
        request: Option<&RequestKey>,
    ) -> Result<Node> {
        let mut tx = self.begin_in(new.tenant_id).await?;
        if let Some(existing) = idempotency::claim(&tx, request, new.id).await? {
            drop(tx);
            return self.node(new.tenant_id, NodeId::new(existing)).await;
        }
        if let Some(tenant) = new.tenant_id {
            check_limit(&tx, tenant).await?;
        }
        let row = Model {
            id: new.id.uuid(),
            tenant_id: new.tenant_id.map(TenantId::uuid),
            name_key: name_key(&new.name),
            name: new.name,
            region: new.region,
            address: new.address,
            labels: serde_json::json!(new.labels),
            multiplier_ppm: i64::from(new.multiplier.ppm()),
            disabled: new.disabled,
            version: 1,
            created_at: tx.now,
            updated_at: tx.now,
            deleted_at: None,
            control_address: String::new(),
            draining: false,
        };
        Entity::insert(ActiveModel::from(row.clone()))
            .exec_without_returning(&*tx)
            .await
            .map_err(StoreError::unique("name"))?;
        tx.changed(Entry::new(ChangeKind::Node, new.tenant_id, new.id).on_node(new.id));
        bindings::rebind_owner(&mut tx, new.tenant_id, keys).await?;
        let made = Node::try_from(row)?;
        tx.audit(Event::created(&made));
        tx.commit().await?;
        Ok(made)
    }

    /// One node of a tenant or, with `None`, a shared one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn node(&self, tenant: Option<TenantId>, id: NodeId) -> Result<Node> {
        owned(tenant)
            .filter(Column::Id.eq(id.uuid()))
            .one(&self.read_in(tenant).await?)
            .await?
            .ok_or(StoreError::NotFound("node"))?
            .try_into()
    }

    /// A node, whoever owns it: for callers who are the node itself.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn any_node(&self, id: NodeId) -> Result<Node> {
        load(self.read(), id).await
    }

    /// Nodes of a tenant or, with `None`, the shared ones, in the order they were made.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn nodes(&self, tenant: Option<TenantId>, page: Page<NodeId>) -> Result<Vec<Node>> {
        let mut query = owned(tenant);
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

    /// Changes fields of a node; new labels bind it to other inbounds.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`], [`StoreError::AlreadyExists`],
    /// [`StoreError::PortInUse`].
    pub async fn update_node(
        &self,
        tenant: Option<TenantId>,
        id: NodeId,
        patch: NodePatch,
        version: Option<u64>,
        keys: &dyn MakeNodeKey,
    ) -> Result<Node> {
        let mut tx = self.begin_in(tenant).await?;
        let row = lock(&tx, tenant, id).await?;
        check_version(row.version, version)?;
        let before = Node::try_from(row.clone())?;
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
        if let Some(region) = patch.region {
            change.region = Set(region);
        }
        if let Some(address) = patch.address {
            change.address = Set(address);
        }
        let relabelled = patch.labels.is_some();
        if let Some(labels) = patch.labels {
            change.labels = Set(serde_json::json!(labels));
        }
        if let Some(multiplier) = patch.multiplier {
            change.multiplier_ppm = Set(i64::from(multiplier.ppm()));
        }
        if let Some(disabled) = patch.disabled {
            change.disabled = Set(disabled);
        }
        let row = Entity::update(change)
            .exec(&*tx)
            .await
            .map_err(StoreError::unique("name"))?;
        tx.changed(Entry::new(ChangeKind::Node, tenant, id).on_node(id));
        if relabelled {
            bindings::rebind_owner(&mut tx, tenant, keys).await?;
        }
        let changed = Node::try_from(row)?;
        tx.audit(Event::changed(&before, &changed));
        tx.commit().await?;
        Ok(changed)
    }

    /// Says where the control plane reaches a node's agent directly; empty is nowhere.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_control_address(
        &self,
        tenant: Option<TenantId>,
        id: NodeId,
        address: String,
    ) -> Result<Node> {
        let mut tx = self.begin_in(tenant).await?;
        let row = lock(&tx, tenant, id).await?;
        let before = Node::try_from(row.clone())?;
        let change = ActiveModel {
            id: Set(row.id),
            version: Set(row.version + 1),
            updated_at: Set(tx.now),
            control_address: Set(address),
            ..ActiveModel::default()
        };
        let changed = Node::try_from(Entity::update(change).exec(&*tx).await?)?;
        tx.audit(Event::changed(&before, &changed));
        tx.commit().await?;
        Ok(changed)
    }

    /// Has a node take no new sessions, or take them again; one that does already stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_draining(
        &self,
        tenant: Option<TenantId>,
        id: NodeId,
        draining: bool,
    ) -> Result<Node> {
        let mut tx = self.begin_in(tenant).await?;
        let row = lock(&tx, tenant, id).await?;
        let before = Node::try_from(row.clone())?;
        let change = ActiveModel {
            id: Set(row.id),
            version: Set(row.version + 1),
            updated_at: Set(tx.now),
            draining: Set(draining),
            ..ActiveModel::default()
        };
        let changed = Node::try_from(Entity::update(change).exec(&*tx).await?)?;
        tx.changed(Entry::new(ChangeKind::Node, tenant, id).on_node(id));
        tx.audit(Event::changed(&before, &changed));
        tx.commit().await?;
        Ok(changed)
    }

    /// Deletes a node: its certificates stop working; what it has billed stays.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`].
    pub async fn delete_node(
        &self,
        tenant: Option<TenantId>,
        id: NodeId,
        version: Option<u64>,
    ) -> Result<()> {
        let mut tx = self.begin_in(tenant).await?;
        let row = lock(&tx, tenant, id).await?;
        check_version(row.version, version)?;
        tx.audit(Event::deleted(&Node::try_from(row)?));
        certificates::revoke_all(&tx, id).await?;
        for text in [
            "DELETE FROM inbound_nodes WHERE node_id = $1",
            "UPDATE join_tokens SET superseded_at = $2 WHERE node_id = $1 AND superseded_at IS NULL",
            "UPDATE nodes SET deleted_at = $2, updated_at = $2, version = version + 1 WHERE id = $1",
        ] {
            let mut values = vec![id.uuid().into()];
            if text.contains("$2") {
                values.push(tx.now.into());
            }
            sql::run(&*tx, text, values).await?;
        }
        tx.changed(Entry::new(ChangeKind::Node, tenant, id).on_node(id));
        tx.commit().await
    }
}

/// A live node, whoever owns it.
pub(crate) async fn load(db: &impl ConnectionTrait, id: NodeId) -> Result<Node> {
    Entity::find_by_id(id.uuid())
        .filter(Column::DeletedAt.is_null())
        .one(db)
        .await?
        .ok_or(StoreError::NotFound("node"))?
        .try_into()
}

/// Locks a live node of an owner.
pub(crate) async fn lock(tx: &Write, tenant: Option<TenantId>, id: NodeId) -> Result<Model> {
    owned(tenant)
        .filter(Column::Id.eq(id.uuid()))
        .lock(LockType::NoKeyUpdate)
        .one(&**tx)
        .await?
        .ok_or(StoreError::NotFound("node"))
}

/// Live nodes of an owner, by id.
pub(crate) async fn of_owner(tx: &Write, tenant: Option<TenantId>) -> Result<Vec<Node>> {
    owned(tenant)
        .order_by_asc(Column::Id)
        .all(&**tx)
        .await?
        .into_iter()
        .map(TryInto::try_into)
        .collect()
}

fn owned(tenant: Option<TenantId>) -> sea_orm::Select<Entity> {
    let live = Entity::find().filter(Column::DeletedAt.is_null());
    match tenant {
        Some(tenant) => live.filter(Column::TenantId.eq(tenant.uuid())),
        None => live.filter(Column::TenantId.is_null()),
    }
}

async fn check_limit(tx: &Write, tenant: TenantId) -> Result<()> {
    let limit = sql::one(
        &**tx,
        "SELECT max_nodes FROM tenants WHERE id = $1 AND deleted_at IS NULL {for_update}",
        vec![tenant.uuid().into()],
    )
    .await?
    .ok_or(StoreError::NotFound("tenant"))?;
    let Some(limit) = sql::get::<Option<i64>>(&limit, 0)? else {
        return Ok(());
    };
    let count = sql::one(
        &**tx,
        "SELECT COUNT(*) FROM nodes WHERE tenant_id = $1 AND deleted_at IS NULL",
        vec![tenant.uuid().into()],
    )
    .await?
    .map_or(Ok(0), |row| sql::get::<i64>(&row, 0))?;
    if count >= limit {
        return Err(StoreError::LimitReached { what: "nodes" });
    }
    Ok(())
}

impl TryFrom<Model> for Node {
    type Error = StoreError;

    fn try_from(row: Model) -> Result<Self> {
        let ppm = u32::try_from(row.multiplier_ppm)
            .map_err(|error| StoreError::corrupt("nodes.multiplier_ppm", error))?;
        Ok(Self {
            id: NodeId::new(row.id),
            tenant_id: row.tenant_id.map(TenantId::new),
            name: row.name,
            region: row.region,
            address: row.address,
            labels: serde_json::from_value(row.labels)
                .map_err(|error| StoreError::corrupt("nodes.labels", error))?,
            multiplier: Multiplier::from_ppm(ppm)
                .map_err(|error| StoreError::corrupt("nodes.multiplier_ppm", error))?,
            disabled: row.disabled,
            draining: row.draining,
            control_address: row.control_address,
            version: sql::unsigned(row.version),
            created_at_ms: row.created_at,
            updated_at_ms: row.updated_at,
        })
    }
}
