//! Groups: named sets of inbounds that users belong to.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::sea_query::LockType;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};
use vpnpanel_domain::{GroupId, InboundId, TenantId};

use crate::audit::Event;
use crate::changes::{ChangeKind, Entry};
use crate::connect::Store;
use crate::entity::group::{ActiveModel, Column, Entity, Model};
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::page::Page;
use crate::peers::{self, Scope};
use crate::sql;
use crate::tenants::{check_version, name_key};
use crate::transaction::Write;

/// A named set of inbounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// The tenant it belongs to.
    pub tenant_id: TenantId,
    /// Its name, unique in the tenant without regard to case.
    pub name: String,
    /// Inbounds that its users may use.
    pub inbound_ids: BTreeSet<InboundId>,
    /// Grows with each change.
    pub version: u64,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it was last changed.
    pub updated_at_ms: i64,
}

/// A group to make.
#[derive(Debug, Clone)]
pub struct NewGroup {
    /// Its id.
    pub id: GroupId,
    /// The tenant it belongs to.
    pub tenant_id: TenantId,
    /// Its name.
    pub name: String,
    /// The tenant's own inbounds, or such as the platform offers.
    pub inbound_ids: BTreeSet<InboundId>,
}

/// Fields to change; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct GroupPatch {
    /// The name.
    pub name: Option<String>,
    /// The inbounds; members gain and lose peers at once.
    pub inbound_ids: Option<BTreeSet<InboundId>>,
}

impl Store {
    /// Makes a group.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] for the name, [`StoreError::InvalidReference`] for an
    /// inbound, [`StoreError::NotFound`] for the tenant.
    pub async fn create_group(&self, new: NewGroup, request: Option<&RequestKey>) -> Result<Group> {
        let mut tx = self.begin_in(new.tenant_id).await?;
        if let Some(existing) = idempotency::claim(&tx, request, new.id).await? {
            drop(tx);
            return self.group(new.tenant_id, GroupId::new(existing)).await;
        }
        sql::one(
            &*tx,
            "SELECT id FROM tenants WHERE id = $1 AND deleted_at IS NULL",
            vec![new.tenant_id.uuid().into()],
        )
        .await?
        .ok_or(StoreError::NotFound("tenant"))?;
        let row = Model {
            tenant_id: new.tenant_id.uuid(),
            id: new.id.uuid(),
            name_key: name_key(&new.name),
            name: new.name,
            version: 1,
            created_at: tx.now,
            updated_at: tx.now,
        };
        Entity::insert(ActiveModel::from(row.clone()))
            .exec_without_returning(&*tx)
            .await
            .map_err(StoreError::unique("name"))?;
        set_inbounds(&tx, new.tenant_id, new.id, &new.inbound_ids).await?;
        tx.changed(Entry::new(ChangeKind::Group, Some(new.tenant_id), new.id));
        let made = group(row, new.inbound_ids);
        tx.audit(Event::created(&made));
        tx.commit().await?;
        Ok(made)
    }

    /// One group.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn group(&self, tenant: TenantId, id: GroupId) -> Result<Group> {
        let db = &self.read_in(tenant).await?;
        let row = Entity::find_by_id((tenant.uuid(), id.uuid()))
            .one(db)
            .await?
            .ok_or(StoreError::NotFound("group"))?;
        shown(db, tenant, row).await
    }

    /// Groups of a tenant in the order they were made.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn groups(&self, tenant: TenantId, page: Page<GroupId>) -> Result<Vec<Group>> {
        let db = &self.read_in(tenant).await?;
        let mut query = Entity::find().filter(Column::TenantId.eq(tenant.uuid()));
        if let Some(after) = page.after {
            query = query.filter(Column::Id.gt(after.uuid()));
        }
        let rows = query
            .order_by_asc(Column::Id)
            .limit(u64::from(page.size))
            .all(db)
            .await?;
        with_inbounds(db, tenant, rows).await
    }

    /// Changes fields of a group; its members gain and lose peers with its inbounds.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`], [`StoreError::AlreadyExists`],
    /// [`StoreError::InvalidReference`], [`StoreError::PoolExhausted`].
    pub async fn update_group(
        &self,
        tenant: TenantId,
        id: GroupId,
        patch: GroupPatch,
        version: Option<u64>,
    ) -> Result<Group> {
        let mut tx = self.begin_in(tenant).await?;
        let row = lock(&tx, tenant, id).await?;
        check_version(row.version, version)?;
        let before = shown(&*tx, tenant, row.clone()).await?;
        let mut change = ActiveModel {
            tenant_id: Set(row.tenant_id),
            id: Set(row.id),
            version: Set(row.version + 1),
            updated_at: Set(tx.now),
            ..ActiveModel::default()
        };
        if let Some(name) = patch.name {
            change.name_key = Set(name_key(&name));
            change.name = Set(name);
        }
        let row = Entity::update(change)
            .exec(&*tx)
            .await
            .map_err(StoreError::unique("name"))?;
        if let Some(inbounds) = patch.inbound_ids {
            set_inbounds(&tx, tenant, id, &inbounds).await?;
            peers::sync(&mut tx, tenant, Scope::Group(id)).await?;
        }
        tx.changed(Entry::new(ChangeKind::Group, Some(tenant), id));
        let changed = shown(&*tx, tenant, row).await?;
        tx.audit(Event::changed(&before, &changed));
        tx.commit().await?;
        Ok(changed)
    }

    /// Deletes a group; its members lose the peers that no other group gives them.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`].
    pub async fn delete_group(
        &self,
        tenant: TenantId,
        id: GroupId,
        version: Option<u64>,
    ) -> Result<()> {
        let mut tx = self.begin_in(tenant).await?;
        let row = lock(&tx, tenant, id).await?;
        check_version(row.version, version)?;
        tx.audit(Event::deleted(&shown(&*tx, tenant, row).await?));
        set_inbounds(&tx, tenant, id, &BTreeSet::new()).await?;
        peers::sync(&mut tx, tenant, Scope::Group(id)).await?;
        Entity::delete_by_id((tenant.uuid(), id.uuid()))
            .exec(&*tx)
            .await?;
        tx.changed(Entry::new(ChangeKind::Group, Some(tenant), id));
        tx.commit().await
    }
}

/// Holds groups as they are until the commit, and refuses such as the tenant does not have: what
/// a user's peers are derived from must not change while they are.
pub(crate) async fn hold(tx: &Write, tenant: TenantId, groups: &BTreeSet<GroupId>) -> Result<()> {
    if groups.is_empty() {
        return Ok(());
    }
    let text = format!(
        "SELECT id FROM groups WHERE tenant_id = $1 AND id {} ORDER BY id {{for_share}}",
        sql::in_ids(&**tx, 2)
    );
    let values = vec![
        tenant.uuid().into(),
        sql::ids(&**tx, groups.iter().copied()),
    ];
    let present = sql::all(&**tx, text, values)
        .await?
        .iter()
        .map(|row| sql::get(row, 0).map(GroupId::new))
        .collect::<Result<BTreeSet<_>, _>>()?;
    match groups.difference(&present).next() {
        Some(missing) => Err(StoreError::InvalidReference {
            what: "group_ids",
            id: missing.to_string(),
        }),
        None => Ok(()),
    }
}

async fn lock(tx: &Write, tenant: TenantId, id: GroupId) -> Result<Model> {
    Entity::find_by_id((tenant.uuid(), id.uuid()))
        .lock(LockType::NoKeyUpdate)
        .one(&**tx)
        .await?
        .ok_or(StoreError::NotFound("group"))
}

async fn set_inbounds(
    tx: &Write,
    tenant: TenantId,
    group: GroupId,
    inbounds: &BTreeSet<InboundId>,
) -> Result<()> {
    sql::run(
        &**tx,
        "DELETE FROM group_inbounds WHERE tenant_id = $1 AND group_id = $2",
        vec![tenant.uuid().into(), group.uuid().into()],
    )
    .await?;
    for inbound in inbounds {
        let added = sql::run(
            &**tx,
            "INSERT INTO group_inbounds (tenant_id, group_id, inbound_id)
             SELECT $1, $2, id FROM inbounds
             WHERE id = $3 AND (tenant_id = $1 OR (tenant_id IS NULL AND offered))",
            vec![
                tenant.uuid().into(),
                group.uuid().into(),
                inbound.uuid().into(),
            ],
        )
        .await?;
        if added == 0 {
            return Err(StoreError::InvalidReference {
                what: "inbound_ids",
                id: inbound.to_string(),
            });
        }
    }
    Ok(())
}

/// A group with its inbounds.
async fn shown(db: &impl ConnectionTrait, tenant: TenantId, row: Model) -> Result<Group> {
    let mut groups = with_inbounds(db, tenant, vec![row]).await?;
    groups.pop().ok_or(StoreError::NotFound("group"))
}

async fn with_inbounds(
    db: &impl ConnectionTrait,
    tenant: TenantId,
    rows: Vec<Model>,
) -> Result<Vec<Group>> {
    let text = format!(
        "SELECT group_id, inbound_id FROM group_inbounds WHERE tenant_id = $1 AND group_id {}",
        sql::in_ids(db, 2)
    );
    let ids = sql::ids(db, rows.iter().map(|row| row.id));
    let mut inbounds: BTreeMap<GroupId, BTreeSet<InboundId>> = BTreeMap::new();
    for row in sql::all(db, text, vec![tenant.uuid().into(), ids]).await? {
        inbounds
            .entry(GroupId::new(sql::get(&row, 0)?))
            .or_default()
            .insert(InboundId::new(sql::get(&row, 1)?));
    }
    Ok(rows
        .into_iter()
        .map(|row| {
            let inbounds = inbounds.remove(&GroupId::new(row.id)).unwrap_or_default();
            group(row, inbounds)
        })
        .collect())
}

fn group(row: Model, inbound_ids: BTreeSet<InboundId>) -> Group {
    Group {
        id: GroupId::new(row.id),
        tenant_id: TenantId::new(row.tenant_id),
        name: row.name,
        inbound_ids,
        version: sql::unsigned(row.version),
        created_at_ms: row.created_at,
        updated_at_ms: row.updated_at,
    }
}
