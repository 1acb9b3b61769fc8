//! Devices of users: each has credentials of its own, and a peer on each inbound of the user's groups.

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, EntityTrait, QueryResult};
use vpnpanel_domain::{DeviceId, GroupId, TenantId, UserId};

use crate::audit::Event;
use crate::changes::Entry;
use crate::connect::Store;
use crate::entity::device::Entity;
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::peers::{self, Scope};
use crate::plans;
use crate::user_change::{self, Locked};
use crate::user_create::{self, NewDevice};
use crate::{groups, sql, users};

/// Most devices of a user.
pub const MAX_DEVICES: u32 = 100;

/// A device of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// The user's tenant.
    pub tenant_id: TenantId,
    /// The user.
    pub user_id: UserId,
    /// Its name.
    pub name: String,
    /// WireGuard's public key.
    pub public_key: Vec<u8>,
    /// The private key is known to the user alone.
    pub key_is_users: bool,
    /// When it was made.
    pub created_at_ms: i64,
}

impl Store {
    /// Gives a user another device.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::LimitReached`], [`StoreError::AlreadyExists`] for the
    /// public key, [`StoreError::PoolExhausted`], [`StoreError::StaleVersion`] when the user's groups
    /// change meanwhile.
    pub async fn create_user_device(
        &self,
        tenant: TenantId,
        user: UserId,
        new: NewDevice,
        request: Option<&RequestKey>,
    ) -> Result<Device> {
        let mut tx = self.begin_in(tenant).await?;
        if let Some(existing) = idempotency::claim(&tx, request, new.id).await? {
            let device = one(&*tx, tenant, user, DeviceId::new(existing)).await;
            drop(tx);
            return device;
        }
        // Groups before the user, as everybody locks them.
        let held: BTreeSet<GroupId> = users::load(&*tx, tenant, user, tx.now).await?.group_ids;
        groups::hold(&tx, tenant, &held).await?;
        let locked = user_change::lock(&tx, tenant, user).await?;
        let now = users::load(&*tx, tenant, user, tx.now).await?;
        if !now.group_ids.is_subset(&held) {
            return Err(StoreError::StaleVersion);
        }
        has_room(&*tx, &locked, tenant, user).await?;
        Entity::insert(user_create::device_row(&new, tenant, user, tx.now))
            .exec_without_returning(&*tx)
            .await
            .map_err(StoreError::unique("public_key"))?;
        peers::sync(&mut tx, tenant, Scope::Users(vec![user])).await?;
        tx.changed(Entry::user(tenant, user));
        let device = one(&*tx, tenant, user, new.id).await?;
        tx.audit(Event::created(&device));
        tx.commit().await?;
        Ok(device)
    }

    /// Devices of a user in the order they were made.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the user.
    pub async fn user_devices(&self, tenant: TenantId, user: UserId) -> Result<Vec<Device>> {
        let db = &self.read_in(tenant).await?;
        sql::one(
            db,
            "SELECT 1 FROM users WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL",
            vec![tenant.uuid().into(), user.uuid().into()],
        )
        .await?
        .ok_or(StoreError::NotFound("user"))?;
        let text = format!("{SELECT} ORDER BY id");
        sql::all(db, text, vec![tenant.uuid().into(), user.uuid().into()])
            .await?
            .iter()
            .map(|row| device(row, tenant, user))
            .collect()
    }

    /// Takes a device from a user: its peers go, what it has used stays.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_user_device(
        &self,
        tenant: TenantId,
        user: UserId,
        id: DeviceId,
    ) -> Result<()> {
        let mut tx = self.begin_in(tenant).await?;
        user_change::lock(&tx, tenant, user).await?;
        let was = one(&*tx, tenant, user, id).await?;
        peers::remove_of_device(&mut tx, tenant, user, id).await?;
        Entity::delete_by_id((tenant.uuid(), id.uuid()))
            .exec(&*tx)
            .await?;
        tx.changed(Entry::user(tenant, user));
        tx.audit(Event::deleted(&was));
        tx.commit().await
    }
}

/// The devices of a user of a tenant.
pub(crate) const SELECT: &str =
    "SELECT id, name, public_key, sealed_private_key IS NULL, created_at
    FROM devices WHERE tenant_id = $1 AND user_id = $2";

/// Refuses a device more than the user may have.
async fn has_room(
    db: &impl ConnectionTrait,
    locked: &Locked,
    tenant: TenantId,
    user: UserId,
) -> Result<()> {
    let most = match plans::devices(locked.row.device_limit) {
        0 => MAX_DEVICES,
        limit => limit.min(MAX_DEVICES),
    };
    let count = sql::one(
        db,
        "SELECT COUNT(*) FROM devices WHERE tenant_id = $1 AND user_id = $2",
        vec![tenant.uuid().into(), user.uuid().into()],
    )
    .await?
    .map_or(Ok(0), |row| sql::get::<i64>(&row, 0))?;
    if count >= i64::from(most) {
        return Err(StoreError::LimitReached { what: "devices" });
    }
    Ok(())
}

async fn one(
    db: &impl ConnectionTrait,
    tenant: TenantId,
    user: UserId,
    id: DeviceId,
) -> Result<Device> {
    let values = vec![tenant.uuid().into(), user.uuid().into(), id.uuid().into()];
    let row = sql::one(db, format!("{SELECT} AND id = $3"), values)
        .await?
        .ok_or(StoreError::NotFound("device"))?;
    device(&row, tenant, user)
}

fn device(row: &QueryResult, tenant: TenantId, user: UserId) -> Result<Device> {
    Ok(Device {
        id: DeviceId::new(sql::get(row, 0)?),
        tenant_id: tenant,
        user_id: user,
        name: sql::get(row, 1)?,
        public_key: sql::get(row, 2)?,
        key_is_users: sql::get(row, 3)?,
        created_at_ms: sql::get(row, 4)?,
    })
}
