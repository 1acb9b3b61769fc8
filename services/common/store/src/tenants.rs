//! Tenants: the walls between one provider's customers.

use sea_orm::sea_query::LockType;
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;
use vpnpanel_domain::{AccountId, TenantId, Zone};

use crate::audit::Event;
use crate::changes::{ChangeKind, Entry};
use crate::connect::Store;
use crate::entity::tenant::{ActiveModel, Column, Entity, Model};
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::ledger::months;
use crate::page::Page;
use crate::sql;
use crate::transaction::Write;

/// An organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name, unique without regard to case.
    pub name: String,
    /// Where its days and months begin.
    pub time_zone: Zone,
    /// What its members cannot exceed.
    pub limits: TenantLimits,
    /// When it was suspended.
    pub suspended_at_ms: Option<i64>,
    /// Its members must have a second factor.
    pub require_second_factor: bool,
    /// Grows with each change.
    pub version: u64,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it was last changed.
    pub updated_at_ms: i64,
}

/// What a tenant cannot exceed; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TenantLimits {
    /// Users that are not deleted.
    pub users: Option<u64>,
    /// Dedicated nodes that are not deleted.
    pub nodes: Option<u64>,
    /// Billed bytes per calendar month: beyond them its users' traffic stops, as soon as that is counted
    /// and nodes are told.
    pub bytes: Option<u64>,
}

/// A tenant to make.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// Where its days and months begin.
    pub time_zone: Zone,
    /// What its members cannot exceed.
    pub limits: TenantLimits,
}

/// Fields to change; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct TenantPatch {
    /// The name.
    pub name: Option<String>,
    /// The time zone; holds for periods that begin later.
    pub time_zone: Option<Zone>,
    /// The limits.
    pub limits: Option<TenantLimits>,
    /// Whether members must have a second factor.
    pub require_second_factor: Option<bool>,
}

impl Store {
    /// Makes a tenant.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] for the name.
    pub async fn create_tenant(
        &self,
        new: NewTenant,
        request: Option<&RequestKey>,
    ) -> Result<Tenant> {
        let mut tx = self.begin().await?;
        if let Some(existing) = idempotency::claim(&tx, request, new.id).await? {
            drop(tx);
            return self.tenant(TenantId::new(existing)).await;
        }
        let row = Model {
            id: new.id.uuid(),
            name_key: name_key(&new.name),
            name: new.name,
            time_zone: new.time_zone.name().to_owned(),
            suspended_at: None,
            max_users: new.limits.users.map(sql::signed),
            max_nodes: new.limits.nodes.map(sql::signed),
            max_bytes: new.limits.bytes.map(sql::signed),
            version: 1,
            created_at: tx.now,
            updated_at: tx.now,
            deleted_at: None,
            require_second_factor: false,
        };
        Entity::insert(ActiveModel::from(row.clone()))
            .exec_without_returning(&*tx)
            .await
            .map_err(StoreError::unique("name"))?;
        tx.changed(Entry::new(ChangeKind::Tenant, Some(new.id), new.id));
        let made = Tenant::try_from(row)?;
        if made.limits.bytes.is_some() {
            months::set_limit(&mut tx, made.id, &made.time_zone, made.limits.bytes).await?;
        }
        tx.audit(Event::created(&made).of_platform());
        tx.commit().await?;
        Ok(made)
    }

    /// One tenant.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn tenant(&self, id: TenantId) -> Result<Tenant> {
        live()
            .filter(Column::Id.eq(id.uuid()))
            .one(&self.read_in(id).await?)
            .await?
            .ok_or(StoreError::NotFound("tenant"))?
            .try_into()
    }

    /// Tenants by id; only those that `member` belongs to, where it is given.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tenants(
        &self,
        member: Option<AccountId>,
        page: Page<TenantId>,
    ) -> Result<Vec<Tenant>> {
        let db = self.read();
        let mut query = live();
        if let Some(account) = member {
            let mine = sql::all(
                db,
                "SELECT tenant_id FROM memberships WHERE account_id = $1 AND tenant_id IS NOT NULL",
                vec![account.uuid().into()],
            )
            .await?;
            let mine = mine
                .iter()
                .map(|row| sql::get::<Uuid>(row, 0))
                .collect::<Result<Vec<_>, _>>()?;
            query = query.filter(Column::Id.is_in(mine));
        }
        if let Some(after) = page.after {
            query = query.filter(Column::Id.gt(after.uuid()));
        }
        query
            .order_by_asc(Column::Id)
            .limit(u64::from(page.size))
            .all(db)
            .await?
            .into_iter()
            .map(TryInto::try_into)
            .collect()
    }

    /// Changes fields of a tenant that has the version, where one is given.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`], [`StoreError::AlreadyExists`].
    pub async fn update_tenant(
        &self,
        id: TenantId,
        patch: TenantPatch,
        version: Option<u64>,
    ) -> Result<Tenant> {
        let mut tx = self.begin_in(id).await?;
        let row = lock(&tx, id).await?;
        check_version(row.version, version)?;
        let before = Tenant::try_from(row.clone())?;
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
        if let Some(zone) = patch.time_zone {
            change.time_zone = Set(zone.name().to_owned());
        }
        if let Some(limits) = patch.limits {
            change.max_users = Set(limits.users.map(sql::signed));
            change.max_nodes = Set(limits.nodes.map(sql::signed));
            change.max_bytes = Set(limits.bytes.map(sql::signed));
        }
        if let Some(required) = patch.require_second_factor {
            change.require_second_factor = Set(required);
        }
        let row = Entity::update(change)
            .exec(&*tx)
            .await
            .map_err(StoreError::unique("name"))?;
        tx.changed(Entry::new(ChangeKind::Tenant, Some(id), id));
        let changed = Tenant::try_from(row)?;
        if before.limits.bytes != changed.limits.bytes {
            let most = changed.limits.bytes;
            months::set_limit(&mut tx, id, &changed.time_zone, most).await?;
        }
        tx.audit(Event::changed(&before, &changed));
        tx.commit().await?;
        Ok(changed)
    }

    /// Suspends a tenant, which cuts its users off, or takes that back; no change when it is so
    /// already.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_tenant_suspended(&self, id: TenantId, suspended: bool) -> Result<Tenant> {
        let mut tx = self.begin_in(id).await?;
        let row = lock(&tx, id).await?;
        let before = Tenant::try_from(row.clone())?;
        if before.suspended_at_ms.is_some() == suspended {
            tx.audit(Event::changed(&before, &before));
            tx.commit().await?;
            return Ok(before);
        }
        let change = ActiveModel {
            id: Set(row.id),
            suspended_at: Set(suspended.then_some(tx.now)),
            version: Set(row.version + 1),
            updated_at: Set(tx.now),
            ..ActiveModel::default()
        };
        let row = Entity::update(change).exec(&*tx).await?;
        tx.changed(Entry::new(ChangeKind::Suspension, Some(id), id));
        let changed = Tenant::try_from(row)?;
        tx.audit(Event::changed(&before, &changed));
        tx.commit().await?;
        Ok(changed)
    }
}

/// Locks a live tenant.
async fn lock(tx: &Write, id: TenantId) -> Result<Model> {
    live()
        .filter(Column::Id.eq(id.uuid()))
        .lock(LockType::NoKeyUpdate)
        .one(&**tx)
        .await?
        .ok_or(StoreError::NotFound("tenant"))
}

/// How names are compared.
pub(crate) fn name_key(name: &str) -> String {
    name.to_lowercase()
}

/// Refuses a change by somebody who has not seen the last one.
pub(crate) fn check_version(is: i64, expected: Option<u64>) -> Result<()> {
    match expected {
        Some(expected) if expected != sql::unsigned(is) => Err(StoreError::StaleVersion),
        _ => Ok(()),
    }
}

fn live() -> sea_orm::Select<Entity> {
    Entity::find().filter(Column::DeletedAt.is_null())
}

impl TryFrom<Model> for Tenant {
    type Error = StoreError;

    fn try_from(row: Model) -> Result<Self> {
        Ok(Self {
            id: TenantId::new(row.id),
            name: row.name,
            time_zone: row
                .time_zone
                .parse()
                .map_err(|error| StoreError::corrupt("tenants.time_zone", error))?,
            limits: TenantLimits {
                users: row.max_users.map(sql::unsigned),
                nodes: row.max_nodes.map(sql::unsigned),
                bytes: row.max_bytes.map(sql::unsigned),
            },
            suspended_at_ms: row.suspended_at,
            require_second_factor: row.require_second_factor,
            version: sql::unsigned(row.version),
            created_at_ms: row.created_at,
            updated_at_ms: row.updated_at,
        })
    }
}
