//! Accounts: who signs in. What they may do where is in `memberships`.

use std::collections::HashMap;
use std::fmt;

use sea_orm::sea_query::LockType;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use vpnpanel_domain::AccountId;

use crate::audit::{Event, Resource};
use crate::connect::Store;
use crate::entity::account::{ActiveModel, Column, Entity, Model};
use crate::error::{Result, StoreError};
use crate::grants::Grantor;
use crate::memberships::{self, Membership, set_role};
use crate::page::Page;
use crate::tenants::name_key;
use crate::transaction::Write;
use crate::{bindings, sql};

/// Most memberships of one account that are shown.
const MAX_SHOWN: i64 = 1_000;

/// Somebody who signs in.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its e-mail address, unique without regard to case.
    pub email: String,
    /// The name shown to others.
    pub display_name: String,
    /// Argon2id hash (PHC string); `None` cannot sign in by password.
    pub password_hash: Option<String>,
    /// The password was given out by somebody else.
    pub password_change_required: bool,
    /// May not sign in.
    pub disabled: bool,
    /// Grows with each change.
    pub version: u64,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it was last changed.
    pub updated_at_ms: i64,
}

/// An account to make.
#[derive(Clone)]
pub struct NewAccount {
    /// Its id.
    pub id: AccountId,
    /// Its e-mail address.
    pub email: String,
    /// The name shown to others.
    pub display_name: String,
    /// Argon2id hash (PHC string).
    pub password_hash: Option<String>,
    /// The password must be changed at the first sign-in.
    pub password_change_required: bool,
}

impl Store {
    /// Makes an account without any membership.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] for the e-mail address.
    pub async fn create_account(&self, new: NewAccount) -> Result<Account> {
        let mut tx = self.begin().await?;
        let account = insert(&tx, new).await?;
        tx.audit(Event::created(Resource::Account(&account, None)));
        tx.commit().await?;
        Ok(account)
    }

    /// Makes an account with a role on the platform, or with `None` without any.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] for the e-mail address, [`StoreError::InvalidReference`]
    /// for the role, [`StoreError::GrantExceedsOwn`].
    pub async fn create_account_with(
        &self,
        grantor: &Grantor,
        new: NewAccount,
        platform_role: Option<&str>,
    ) -> Result<Account> {
        let mut tx = self.begin().await?;
        let account = insert(&tx, new).await?;
        if let Some(role) = platform_role {
            bindings::lock_owner(&tx, None).await?;
            grantor.may_give(&tx, None, role).await?;
            set_role(&tx, account.id, None, role).await?;
        }
        tx.audit(Event::created(Resource::Account(&account, platform_role)));
        tx.commit().await?;
        Ok(account)
    }

    /// Makes the very first account, with a role on the platform; `None` when there is an
    /// account already. Of several processes that start at once, one makes it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn create_first_account(
        &self,
        new: NewAccount,
        role: &str,
    ) -> Result<Option<Account>> {
        let mut tx = self.begin().await?;
        sql::one(&*tx, "SELECT id FROM installation {for_update}", vec![]).await?;
        if sql::one(&*tx, "SELECT 1 FROM accounts LIMIT 1", vec![])
            .await?
            .is_some()
        {
            return Ok(None);
        }
        let account = insert(&tx, new).await?;
        set_role(&tx, account.id, None, role).await?;
        tx.audit(Event::created(Resource::Account(&account, Some(role))));
        tx.commit().await?;
        Ok(Some(account))
    }

    /// The account that has the e-mail address.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn account_by_email(&self, email: &str) -> Result<Option<Account>> {
        Ok(live()
            .filter(Column::EmailKey.eq(name_key(email)))
            .one(self.read())
            .await?
            .map(Into::into))
    }

    /// One account.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn account(&self, id: AccountId) -> Result<Account> {
        live()
            .filter(Column::Id.eq(id.uuid()))
            .one(self.read())
            .await?
            .map(Into::into)
            .ok_or(StoreError::NotFound("account"))
    }

    /// Accounts in the order they were made; only those whose e-mail address begins with
    /// `email_prefix`, without regard to case.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn accounts(
        &self,
        email_prefix: &str,
        page: Page<AccountId>,
    ) -> Result<Vec<Account>> {
        let mut query = live();
        if !email_prefix.is_empty() {
            let low = name_key(email_prefix);
            // Everything that begins with the prefix lies between the two.
            let high = format!("{low}\u{10FFFF}");
            query = query
                .filter(Column::EmailKey.gte(low))
                .filter(Column::EmailKey.lt(high));
        }
        if let Some(after) = page.after {
            query = query.filter(Column::Id.gt(after.uuid()));
        }
        let rows = query
            .order_by_asc(Column::Id)
            .limit(u64::from(page.size))
            .all(self.read())
            .await?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// The roles that accounts hold on the platform; those that hold none are left out.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn platform_roles(&self, ids: &[AccountId]) -> Result<HashMap<AccountId, String>> {
        let db = self.read();
        let text = format!(
            "SELECT account_id, role FROM memberships WHERE tenant_id IS NULL AND account_id {}",
            sql::in_ids(db, 1)
        );
        let values = vec![sql::ids(db, ids.iter().copied())];
        sql::all(db, text, values)
            .await?
            .iter()
            .map(|row| Ok((AccountId::new(sql::get(row, 0)?), sql::get(row, 1)?)))
            .collect()
    }

    /// The roles that an account holds in tenants, disabled or not, by the tenants' names; at
    /// most 1,000.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tenant_roles(&self, id: AccountId) -> Result<Vec<Membership>> {
        let rows = sql::all(
            self.read(),
            "SELECT m.tenant_id, t.name, t.suspended_at, m.role
             FROM memberships m JOIN tenants t ON t.id = m.tenant_id
             WHERE m.account_id = $1 AND t.deleted_at IS NULL ORDER BY t.name_key LIMIT $2",
            vec![id.uuid().into(), MAX_SHOWN.into()],
        )
        .await?;
        rows.iter().map(memberships::membership).collect()
    }
}

/// Locks a live account.
pub(crate) async fn lock(tx: &Write, id: AccountId) -> Result<Account> {
    live()
        .filter(Column::Id.eq(id.uuid()))
        .lock(LockType::NoKeyUpdate)
        .one(&**tx)
        .await?
        .map(Into::into)
        .ok_or(StoreError::NotFound("account"))
}

pub(crate) async fn insert(tx: &Write, new: NewAccount) -> Result<Account> {
    let row = Model {
        id: new.id.uuid(),
        email_key: name_key(&new.email),
        email: new.email,
        display_name: new.display_name,
        password_hash: new.password_hash,
        password_change_required: new.password_change_required,
        disabled: false,
        version: 1,
        created_at: tx.now,
        updated_at: tx.now,
        deleted_at: None,
    };
    Entity::insert(ActiveModel::from(row.clone()))
        .exec_without_returning(&**tx)
        .await
        .map_err(StoreError::unique("email"))?;
    Ok(row.into())
}

fn live() -> sea_orm::Select<Entity> {
    Entity::find().filter(Column::DeletedAt.is_null())
}

impl From<Model> for Account {
    fn from(row: Model) -> Self {
        Self {
            id: AccountId::new(row.id),
            email: row.email,
            display_name: row.display_name,
            password_hash: row.password_hash,
            password_change_required: row.password_change_required,
            disabled: row.disabled,
            version: sql::unsigned(row.version),
            created_at_ms: row.created_at,
            updated_at_ms: row.updated_at,
        }
    }
}

/// Without the password's hash.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("id", &self.id)
            .field("email", &self.email)
            .finish_non_exhaustive()
    }
}

/// Without the password's hash.
impl fmt::Debug for NewAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewAccount")
            .field("id", &self.id)
            .field("email", &self.email)
            .finish_non_exhaustive()
    }
}
