//! What devices show to be let in: made once for each device, and anew when a user's credentials
//! are revoked.

use std::collections::BTreeSet;
use std::fmt;

use sea_orm::ActiveValue::Set;
use vpnpanel_domain::{DeviceId, GroupId, TenantId, UserId};

use crate::audit::Event;
use crate::changes::Entry;
use crate::connect::Store;
use crate::entity::user::ActiveModel;
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::peers::{self, Scope};
use crate::subscriptions::SubscriptionToken;
use crate::transaction::Write;
use crate::users::User;
use crate::{groups, sql, user_change, users};

/// Devices that one call of [`Store::seed_devices`] looks at.
const SEEDED: u64 = 1_000;

/// Devices that have nothing for Xray yet, with the number of their peers there.
pub(crate) const UNSEEDED: &str = "SELECT d.tenant_id, d.id, d.user_id,
        (SELECT COUNT(*) FROM peers p WHERE p.device_id = d.id AND p.ipv4 IS NULL)
    FROM devices d WHERE d.sealed_seed IS NULL";

/// What a device shows.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceKeys {
    /// WireGuard's public key.
    pub public_key: [u8; 32],
    /// Its private key, sealed; `None` when the user keeps it.
    pub sealed_private_key: Option<Vec<u8>>,
    /// WireGuard's preshared key, sealed.
    pub sealed_preshared_key: Option<Vec<u8>>,
    /// What its credentials for Xray are derived from, sealed.
    pub sealed_seed: Vec<u8>,
}

/// Makes what a device shows. Called inside of a transaction: it computes, and waits for nothing.
pub trait MakeDeviceKeys: Send + Sync {
    /// All of it.
    ///
    /// # Errors
    /// Whatever keeps the caller from making or sealing it.
    fn make_device_keys(
        &self,
        device: DeviceId,
    ) -> Result<DeviceKeys, Box<dyn std::error::Error + Send + Sync>>;
}

impl Store {
    /// Gives each device of a user new keys, and its subscription a new link. Its peers go and others come: what a node counts for
    /// the old keys is never taken for the new ones'.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::PoolExhausted`], [`StoreError::StaleVersion`] when
    /// the user's groups change meanwhile.
    pub async fn revoke_user_credentials(
        &self,
        tenant: TenantId,
        id: UserId,
        keys: &dyn MakeDeviceKeys,
        subscription: SubscriptionToken,
        request: Option<&RequestKey>,
    ) -> Result<User> {
        let mut tx = self.begin_in(tenant).await?;
        if idempotency::claim(&tx, request, id).await?.is_some() {
            drop(tx);
            return self.user(tenant, id).await;
        }
        // Groups before the user, as everybody locks them.
        let held: BTreeSet<GroupId> = users::load(&*tx, tenant, id, tx.now).await?.group_ids;
        groups::hold(&tx, tenant, &held).await?;
        let user = user_change::lock(&tx, tenant, id).await?;
        let before = users::load(&*tx, tenant, id, tx.now).await?;
        if !before.group_ids.is_subset(&held) {
            return Err(StoreError::StaleVersion);
        }
        renew(&tx, tenant, id, keys).await?;
        peers::remove_all(&mut tx, tenant, id).await?;
        peers::sync(&mut tx, tenant, Scope::Users(vec![id])).await?;
        let change = ActiveModel {
            credentials_version: Set(user.credentials_version() + 1),
            ..subscription.change()
        };
        user_change::save(&mut tx, tenant, &user, change).await?;
        let user = users::load(&*tx, tenant, id, tx.now).await?;
        tx.audit(Event::changed(&before, &user));
        tx.commit().await?;
        Ok(user)
    }

    /// Gives what Xray asks for to some of the devices that have none of it, because they were made
    /// before Xray was there. Answers whether there may be more. A device that got it meanwhile
    /// keeps it.
    ///
    /// # Errors
    /// Those of the database and of `seal`.
    pub async fn seed_devices(
        &self,
        seal: &(
             dyn Fn(DeviceId) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>
                 + Send
                 + Sync
         ),
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let rows = sql::all(
            &*tx,
            format!("{UNSEEDED} ORDER BY d.id LIMIT {SEEDED} {{for_update}}"),
            vec![],
        )
        .await?;
        let mut seen = BTreeSet::new();
        for row in &rows {
            let tenant = TenantId::new(sql::get(row, 0)?);
            let device = DeviceId::new(sql::get(row, 1)?);
            let user = UserId::new(sql::get(row, 2)?);
            let sealed = seal(device).map_err(StoreError::key)?;
            sql::run(
                &*tx,
                "UPDATE devices SET sealed_seed = $3
                 WHERE tenant_id = $1 AND id = $2 AND sealed_seed IS NULL",
                vec![tenant.uuid().into(), device.uuid().into(), sealed.into()],
            )
            .await?;
            // Nodes that have peers of it on Xray can be told of them now.
            if sql::get::<i64>(row, 3)? > 0 && seen.insert(user) {
                tx.changed(Entry::user(tenant, user));
            }
        }
        tx.commit().await?;
        Ok(rows.len() as u64 == SEEDED)
    }
}

/// New keys for each device of a user.
async fn renew(
    tx: &Write,
    tenant: TenantId,
    user: UserId,
    keys: &dyn MakeDeviceKeys,
) -> Result<()> {
    let rows = sql::all(
        &**tx,
        "SELECT id FROM devices WHERE tenant_id = $1 AND user_id = $2 ORDER BY id {for_update}",
        vec![tenant.uuid().into(), user.uuid().into()],
    )
    .await?;
    for row in &rows {
        let device = DeviceId::new(sql::get(row, 0)?);
        let new = keys.make_device_keys(device).map_err(StoreError::key)?;
        sql::run(
            &**tx,
            "UPDATE devices SET public_key = $3, sealed_private_key = $4,
                sealed_preshared_key = $5, sealed_seed = $6
             WHERE tenant_id = $1 AND id = $2",
            vec![
                tenant.uuid().into(),
                device.uuid().into(),
                new.public_key.to_vec().into(),
                new.sealed_private_key.into(),
                new.sealed_preshared_key.into(),
                new.sealed_seed.into(),
            ],
        )
        .await
        .map_err(StoreError::unique("public_key"))?;
    }
    Ok(())
}

/// Without the sealed keys.
impl fmt::Debug for DeviceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceKeys")
            .field("public_key", &hex::encode(self.public_key))
            .finish_non_exhaustive()
    }
}
