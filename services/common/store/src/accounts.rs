//! Accounts, what they may do where, and the roles that say so.

use std::collections::BTreeSet;
use std::fmt;

use sea_orm::sea_query::LockType;
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use uuid::Uuid;
use vpnpanel_domain::{AccountId, MembershipId, TenantId};

use crate::audit::Event;
use crate::connect::Store;
use crate::entity::account::{ActiveModel, Column, Entity, Model};
use crate::error::{Result, StoreError};
use crate::tenants::name_key;
use crate::transaction::Write;
use crate::{fresh_id, sql};

/// What events call it.
const ACCOUNT: &str = "account";

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

/// A role held in a tenant or on the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The tenant; `None` is the platform.
    pub tenant_id: Option<TenantId>,
    /// Name of the tenant; empty for the platform.
    pub tenant_name: String,
    /// Name of the role.
    pub role: String,
    /// What the role permits there.
    pub permissions: BTreeSet<String>,
}

/// A named set of permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// `resource.verb` strings.
    pub permissions: BTreeSet<String>,
}

impl Store {
    /// Writes the built-in roles as they are in this version of the product.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn seed_roles(&self, roles: &[Role]) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.needs_no_event();
        for role in roles {
            sql::run(
                &*tx,
                "INSERT INTO roles (name, permissions, builtin) VALUES ($1, $2, $3)
                 ON CONFLICT (name) DO UPDATE SET permissions = excluded.permissions",
                vec![
                    role.name.as_str().into(),
                    serde_json::json!(role.permissions).into(),
                    true.into(),
                ],
            )
            .await?;
        }
        tx.commit().await
    }

    /// Makes an account without any membership.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] for the e-mail address.
    pub async fn create_account(&self, new: NewAccount) -> Result<Account> {
        let mut tx = self.begin().await?;
        let account = insert(&tx, new).await?;
        tx.audit(Event::on(ACCOUNT, None, account.id));
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
        tx.audit(Event::on(ACCOUNT, None, account.id));
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

    /// Sets the password's hash.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_password(
        &self,
        id: AccountId,
        password_hash: String,
        change_required: bool,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.audit(Event::on(ACCOUNT, None, id));
        let row = live()
            .filter(Column::Id.eq(id.uuid()))
            .lock(LockType::NoKeyUpdate)
            .one(&*tx)
            .await?
            .ok_or(StoreError::NotFound("account"))?;
        Entity::update(ActiveModel {
            id: Set(row.id),
            password_hash: Set(Some(password_hash)),
            password_change_required: Set(change_required),
            version: Set(row.version + 1),
            updated_at: Set(tx.now),
            ..ActiveModel::default()
        })
        .exec(&*tx)
        .await?;
        tx.commit().await
    }

    /// Gives an account a role in a tenant or, with `None`, on the platform; replaces the one
    /// it has there.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_membership(
        &self,
        account: AccountId,
        tenant: Option<TenantId>,
        role: &str,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.audit(Event::on(ACCOUNT, tenant, account));
        set_role(&tx, account, tenant, role).await?;
        tx.commit().await
    }

    /// Where an account may act: the platform first, then tenants by name.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn memberships(&self, account: AccountId) -> Result<Vec<Membership>> {
        let rows = sql::all(
            self.read(),
            "SELECT m.tenant_id, COALESCE(t.name, ''), m.role, r.permissions
             FROM memberships m
             JOIN accounts a ON a.id = m.account_id
             JOIN roles r ON r.name = m.role
             LEFT JOIN tenants t ON t.id = m.tenant_id
             WHERE m.account_id = $1 AND a.deleted_at IS NULL AND NOT a.disabled
               AND t.deleted_at IS NULL
             ORDER BY CASE WHEN m.tenant_id IS NULL THEN 0 ELSE 1 END, t.name_key",
            vec![account.uuid().into()],
        )
        .await?;
        rows.iter()
            .map(|row| {
                let permissions: serde_json::Value = sql::get(row, 3)?;
                Ok(Membership {
                    tenant_id: sql::get::<Option<Uuid>>(row, 0)?.map(TenantId::new),
                    tenant_name: sql::get(row, 1)?,
                    role: sql::get(row, 2)?,
                    permissions: serde_json::from_value(permissions)
                        .map_err(|error| StoreError::corrupt("roles.permissions", error))?,
                })
            })
            .collect()
    }
}

async fn insert(tx: &Write, new: NewAccount) -> Result<Account> {
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

async fn set_role(
    tx: &Write,
    account: AccountId,
    tenant: Option<TenantId>,
    role: &str,
) -> Result<()> {
    let tenant_value = tenant.map(TenantId::uuid);
    let conflict = if tenant.is_some() {
        "(account_id, tenant_id) WHERE tenant_id IS NOT NULL"
    } else {
        "(account_id) WHERE tenant_id IS NULL"
    };
    sql::run(
        &**tx,
        format!(
            "INSERT INTO memberships (id, account_id, tenant_id, role, created_at)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT {conflict} DO UPDATE SET role = excluded.role"
        ),
        vec![
            fresh_id::<MembershipId>().uuid().into(),
            account.uuid().into(),
            tenant_value.into(),
            role.into(),
            tx.now.into(),
        ],
    )
    .await?;
    Ok(())
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
