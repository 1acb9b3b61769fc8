//! Roles: which permissions go by which name. Those of the product are written anew at each
//! start and change in no other way; the others are the platform's.

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, QueryResult, SqlErr};

use crate::audit::Event;
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::grants::{self, Grantor};
use crate::tenants::check_version;
use crate::transaction::Write;
use crate::{bindings, sql};

/// Most roles beside those of the product.
const MAX_CUSTOM_ROLES: i64 = 200;

/// A named set of permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// What it is for, for people.
    pub description: String,
    /// `resource.verb` names.
    pub permissions: BTreeSet<String>,
    /// It comes with the product.
    pub builtin: bool,
    /// Grows with each change.
    pub version: u64,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it was last changed.
    pub updated_at_ms: i64,
}

/// A role to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRole {
    /// Its name.
    pub name: String,
    /// What it is for, for people.
    pub description: String,
    /// `resource.verb` names.
    pub permissions: BTreeSet<String>,
}

/// Fields to change; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct RolePatch {
    /// What it is for.
    pub description: Option<String>,
    /// What it permits, to everybody who holds it.
    pub permissions: Option<BTreeSet<String>>,
}

impl Store {
    /// Writes the built-in roles as they are in this version of the product; says whether that
    /// changed any.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn seed_roles(&self, roles: &[NewRole]) -> Result<bool> {
        let mut tx = self.begin().await?;
        tx.needs_no_event();
        let mut changed = 0;
        for role in roles {
            changed += sql::run(
                &*tx,
                "INSERT INTO roles (name, description, permissions, builtin, version, created_at,
                    updated_at)
                 VALUES ($1, $2, $3, $4, 1, $5, $5)
                 ON CONFLICT (name) DO UPDATE
                 SET description = excluded.description, permissions = excluded.permissions,
                     builtin = excluded.builtin, version = roles.version + 1,
                     updated_at = excluded.updated_at
                 WHERE roles.description <> excluded.description
                    OR roles.permissions <> excluded.permissions OR NOT roles.builtin",
                vec![
                    role.name.as_str().into(),
                    role.description.as_str().into(),
                    serde_json::json!(role.permissions).into(),
                    true.into(),
                    tx.now.into(),
                ],
            )
            .await?;
        }
        tx.commit().await?;
        Ok(changed > 0)
    }

    /// What a role permits; `None` when there is no such role.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn role_permissions(&self, name: &str) -> Result<Option<BTreeSet<String>>> {
        grants::permissions_of(self.read(), name).await
    }

    /// All roles, by name.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn roles(&self) -> Result<Vec<Role>> {
        let text = format!("{SELECT} ORDER BY name");
        let rows = sql::all(self.read(), text, vec![]).await?;
        rows.iter().map(role).collect()
    }

    /// One role.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn role(&self, name: &str) -> Result<Role> {
        load(self.read(), name, "").await
    }

    /// Makes a role.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] for the name, [`StoreError::GrantExceedsOwn`],
    /// [`StoreError::LimitReached`].
    pub async fn create_role(&self, grantor: &Grantor, new: NewRole) -> Result<Role> {
        let mut tx = self.begin().await?;
        grantor.covers(&tx, None, &new.permissions).await?;
        // Under the installation's lock, so that of two at once one sees the other.
        bindings::lock_owner(&tx, None).await?;
        let count = sql::one(&*tx, "SELECT COUNT(*) FROM roles WHERE NOT builtin", vec![])
            .await?
            .map_or(Ok(0), |row| sql::get::<i64>(&row, 0))?;
        if count >= MAX_CUSTOM_ROLES {
            return Err(StoreError::LimitReached { what: "roles" });
        }
        sql::run(
            &*tx,
            "INSERT INTO roles (name, description, permissions, builtin, version, created_at,
                updated_at)
             VALUES ($1, $2, $3, $4, 1, $5, $5)",
            vec![
                new.name.as_str().into(),
                new.description.into(),
                serde_json::json!(new.permissions).into(),
                false.into(),
                tx.now.into(),
            ],
        )
        .await
        .map_err(StoreError::unique("name"))?;
        let made = load(&*tx, &new.name, "").await?;
        tx.audit(Event::created(&made));
        tx.commit().await?;
        Ok(made)
    }

    /// Changes fields of a role that does not come with the product.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`], [`StoreError::RoleBuiltIn`], and
    /// [`StoreError::GrantExceedsOwn`] for what the role permits before or after.
    pub async fn update_role(
        &self,
        grantor: &Grantor,
        name: &str,
        patch: RolePatch,
        version: Option<u64>,
    ) -> Result<Role> {
        let mut tx = self.begin().await?;
        let before = lock(&tx, grantor, name, version).await?;
        let permissions = patch
            .permissions
            .unwrap_or_else(|| before.permissions.clone());
        let description = patch
            .description
            .unwrap_or_else(|| before.description.clone());
        grantor.covers(&tx, None, &permissions).await?;
        sql::run(
            &*tx,
            "UPDATE roles SET description = $2, permissions = $3, version = version + 1,
                updated_at = $4
             WHERE name = $1",
            vec![
                name.into(),
                description.into(),
                serde_json::json!(permissions).into(),
                tx.now.into(),
            ],
        )
        .await?;
        let changed = load(&*tx, name, "").await?;
        tx.audit(Event::changed(&before, &changed));
        tx.commit().await?;
        Ok(changed)
    }

    /// Deletes a role that nobody holds.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`], [`StoreError::RoleBuiltIn`],
    /// [`StoreError::RoleInUse`], [`StoreError::GrantExceedsOwn`] for what it permits.
    pub async fn delete_role(
        &self,
        grantor: &Grantor,
        name: &str,
        version: Option<u64>,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let role = lock(&tx, grantor, name, version).await?;
        tx.audit(Event::deleted(&role));
        // The foreign key of memberships decides, so that nobody is given the role meanwhile.
        sql::run(&*tx, "DELETE FROM roles WHERE name = $1", vec![name.into()])
            .await
            .map_err(|error| match error.sql_err() {
                Some(SqlErr::ForeignKeyConstraintViolation(_)) => StoreError::RoleInUse,
                _ => error.into(),
            })?;
        tx.commit().await
    }
}

/// Locks a role that may be changed by the grantor.
async fn lock(tx: &Write, grantor: &Grantor, name: &str, version: Option<u64>) -> Result<Role> {
    let role = load(&**tx, name, " {for_update}").await?;
    check_version(sql::signed(role.version), version)?;
    if role.builtin {
        return Err(StoreError::RoleBuiltIn);
    }
    grantor.covers(tx, None, &role.permissions).await?;
    Ok(role)
}

const SELECT: &str = "
    SELECT name, description, permissions, builtin, version, created_at, updated_at FROM roles";

async fn load(db: &impl ConnectionTrait, name: &str, lock: &str) -> Result<Role> {
    let text = format!("{SELECT} WHERE name = $1{lock}");
    let row = sql::one(db, text, vec![name.into()]).await?;
    role(&row.ok_or(StoreError::NotFound("role"))?)
}

fn role(row: &QueryResult) -> Result<Role> {
    Ok(Role {
        name: sql::get(row, 0)?,
        description: sql::get(row, 1)?,
        permissions: grants::permissions(row, 2)?,
        builtin: sql::get(row, 3)?,
        version: sql::unsigned(sql::get(row, 4)?),
        created_at_ms: sql::get(row, 5)?,
        updated_at_ms: sql::get(row, 6)?,
    })
}
