//! Changing accounts. Whoever changes one has to hold what it holds: who may reset a password may
//! be the account from then on. Locks: account → installation → tenants, by id.

use sea_orm::ActiveValue::Set;
use sea_orm::EntityTrait;
use vpnpanel_domain::{AccountId, SessionId, TenantId};

use crate::accounts::{self, Account};
use crate::audit::{Event, Resource};
use crate::connect::Store;
use crate::entity::account::{ActiveModel, Entity};
use crate::error::{Result, StoreError};
use crate::grants::{self, Grantor};
use crate::tenants::{check_version, name_key};
use crate::transaction::Write;
use crate::{bindings, memberships, second_factors, sessions, sql};

/// Fields to change; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct AccountPatch {
    /// The e-mail address.
    pub email: Option<String>,
    /// The name shown to others.
    pub display_name: Option<String>,
    /// The role on the platform; `Some(None)` takes it away.
    pub platform_role: Option<Option<String>>,
}

impl Store {
    /// Changes fields of an account.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`], [`StoreError::AlreadyExists`] for
    /// the e-mail address, [`StoreError::InvalidReference`] for the role,
    /// [`StoreError::GrantExceedsOwn`], [`StoreError::LastOfRole`].
    pub async fn update_account(
        &self,
        grantor: &Grantor,
        id: AccountId,
        patch: AccountPatch,
        version: Option<u64>,
    ) -> Result<Account> {
        let mut tx = self.begin().await?;
        let account = accounts::lock(&tx, id).await?;
        check_version(sql::signed(account.version), version)?;
        grantor.outranks(&tx, id).await?;
        if patch.platform_role.is_some() {
            bindings::lock_owner(&tx, None).await?;
        }
        let role_before = memberships::held(&tx, id, None).await?;
        let role = patch.platform_role.unwrap_or_else(|| role_before.clone());
        if role_before != role {
            if let Some(role) = &role {
                grantor.may_give(&tx, None, role).await?;
            }
            let (before, after) = (role_before.as_deref(), role.as_deref());
            memberships::replace_role(&tx, id, None, before, after).await?;
        }
        let mut change = ActiveModel::default();
        if let Some(email) = patch.email {
            change.email_key = Set(name_key(&email));
            change.email = Set(email);
        }
        if let Some(name) = patch.display_name {
            change.display_name = Set(name);
        }
        let changed = save(&tx, &account, change).await?;
        tx.audit(Event::changed(
            Resource::Account(&account, role_before.as_deref()),
            Resource::Account(&changed, role.as_deref()),
        ));
        tx.commit().await?;
        Ok(changed)
    }

    /// Disables an account, which ends its sessions, or takes that back; no change when it is so
    /// already.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::GrantExceedsOwn`], [`StoreError::LastOfRole`].
    pub async fn set_account_disabled(
        &self,
        grantor: &Grantor,
        id: AccountId,
        disabled: bool,
    ) -> Result<Account> {
        let mut tx = self.begin().await?;
        let account = accounts::lock(&tx, id).await?;
        grantor.outranks(&tx, id).await?;
        if account.disabled == disabled {
            note(&mut tx, &account, &account).await?;
            tx.commit().await?;
            return Ok(account);
        }
        if disabled {
            may_go(&tx, id).await?;
            end_sessions(&tx, id, "account_disabled").await?;
        }
        let change = ActiveModel {
            disabled: Set(disabled),
            ..ActiveModel::default()
        };
        let changed = save(&tx, &account, change).await?;
        note(&mut tx, &account, &changed).await?;
        tx.commit().await?;
        Ok(changed)
    }

    /// Deletes an account with its memberships and ends its sessions.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`], [`StoreError::GrantExceedsOwn`],
    /// [`StoreError::LastOfRole`].
    pub async fn delete_account(
        &self,
        grantor: &Grantor,
        id: AccountId,
        version: Option<u64>,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let account = accounts::lock(&tx, id).await?;
        check_version(sql::signed(account.version), version)?;
        grantor.outranks(&tx, id).await?;
        may_go(&tx, id).await?;
        end_sessions(&tx, id, "account_deleted").await?;
        let role = memberships::held(&tx, id, None).await?;
        tx.audit(Event::deleted(Resource::Account(&account, role.as_deref())));
        memberships::remove_all(&mut tx, id).await?;
        let change = ActiveModel {
            deleted_at: Set(Some(tx.now)),
            password_hash: Set(None),
            ..ActiveModel::default()
        };
        save(&tx, &account, change).await?;
        tx.commit().await
    }

    /// Takes the hash of a password that the account's owner has to change, and ends the
    /// account's sessions.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::GrantExceedsOwn`], [`StoreError::OwnAccount`].
    pub async fn reset_password(
        &self,
        grantor: &Grantor,
        id: AccountId,
        password_hash: String,
    ) -> Result<Account> {
        let mut tx = self.begin().await?;
        let account = accounts::lock(&tx, id).await?;
        grantor.is_another(id)?;
        grantor.outranks(&tx, id).await?;
        end_sessions(&tx, id, "password_reset").await?;
        let change = ActiveModel {
            password_hash: Set(Some(password_hash)),
            password_change_required: Set(true),
            ..ActiveModel::default()
        };
        let changed = save(&tx, &account, change).await?;
        note(&mut tx, &account, &changed).await?;
        tx.commit().await?;
        Ok(changed)
    }

    /// Takes the second factor of somebody away who has lost it, and ends the account's sessions.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the account or its second factor,
    /// [`StoreError::GrantExceedsOwn`], [`StoreError::OwnAccount`].
    pub async fn reset_second_factor(&self, grantor: &Grantor, id: AccountId) -> Result<()> {
        let mut tx = self.begin().await?;
        accounts::lock(&tx, id).await?;
        grantor.is_another(id)?;
        grantor.outranks(&tx, id).await?;
        if !second_factors::remove(&tx, id).await? {
            return Err(StoreError::NotFound("second factor"));
        }
        end_sessions(&tx, id, "second_factor_reset").await?;
        tx.audit(Event::on(second_factors::SECOND_FACTOR, None, id));
        tx.commit().await
    }

    /// Ends every session of somebody; returns those that it ended.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::GrantExceedsOwn`].
    pub async fn end_sessions_of(
        &self,
        grantor: &Grantor,
        id: AccountId,
    ) -> Result<Vec<SessionId>> {
        let mut tx = self.begin().await?;
        accounts::lock(&tx, id).await?;
        grantor.outranks(&tx, id).await?;
        let ended = sessions::end(&tx, id, None, "revoked").await?;
        tx.audit(Event::on("account", None, id));
        tx.commit().await?;
        Ok(ended)
    }
}

/// Refuses that an account goes which is the last administrator, or a tenant's last owner. Its
/// row is locked, so that it becomes neither meanwhile.
async fn may_go(tx: &Write, id: AccountId) -> Result<()> {
    bindings::lock_owner(tx, None).await?;
    grants::keep_one(tx, None, id).await?;
    let rows = sql::all(
        &**tx,
        "SELECT m.tenant_id FROM memberships m JOIN tenants t ON t.id = m.tenant_id
         WHERE m.account_id = $1 AND m.role = $2 AND t.deleted_at IS NULL ORDER BY m.tenant_id",
        vec![id.uuid().into(), grants::OWNER.into()],
    )
    .await?;
    for row in &rows {
        let tenant = TenantId::new(sql::get(row, 0)?);
        bindings::lock_owner(tx, Some(tenant)).await?;
        grants::keep_one(tx, Some(tenant), id).await?;
    }
    Ok(())
}

async fn end_sessions(tx: &Write, id: AccountId, reason: &str) -> Result<()> {
    sessions::end(tx, id, None, reason).await.map(drop)
}

/// Notes a change that leaves the role on the platform as it is.
async fn note(tx: &mut Write, before: &Account, after: &Account) -> Result<()> {
    let role = memberships::held(tx, after.id, None).await?;
    tx.audit(Event::changed(
        Resource::Account(before, role.as_deref()),
        Resource::Account(after, role.as_deref()),
    ));
    Ok(())
}

async fn save(tx: &Write, account: &Account, change: ActiveModel) -> Result<Account> {
    let row = Entity::update(ActiveModel {
        id: Set(account.id.uuid()),
        version: Set(sql::signed(account.version) + 1),
        updated_at: Set(tx.now),
        ..change
    })
    .exec(&**tx)
    .await
    .map_err(StoreError::unique("email"))?;
    Ok(row.into())
}
