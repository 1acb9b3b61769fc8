//! Who may give whom what. Every change of a role, of who holds one, and of an account that holds
//! some goes through these checks, inside of the transaction that makes it: nobody gives or takes
//! away what they do not hold themselves, and the last administrator of the platform and the last
//! owner of a tenant stay.
//!
//! What the caller holds is read here, because a token may be older than the roles it was
//! issued under. Roles that count as "last" are counted under the lock of the tenant, or of the
//! installation, so that of two who leave at once the second one sees the first.

use std::collections::BTreeSet;

use sea_orm::QueryResult;
use uuid::Uuid;
use vpnpanel_domain::{AccountId, TenantId};

use crate::error::{Result, StoreError};
use crate::sql;
use crate::transaction::Write;

/// The role of which the platform keeps one holder.
pub(crate) const ADMIN: &str = "admin";
/// The role of which every tenant that has one keeps one holder.
pub(crate) const OWNER: &str = "owner";

/// Who changes what accounts may do.
#[derive(Debug, Clone)]
pub struct Grantor {
    /// Who asks.
    pub account: AccountId,
    /// What the credentials of the call permit where the change is made: a credential may be
    /// narrower than its account.
    pub credential: BTreeSet<String>,
    /// Permissions that mean nothing in a tenant, because only methods of the platform ask for
    /// them.
    pub platform_only: BTreeSet<String>,
}

impl Grantor {
    /// Refuses a role that permits more in a tenant or (`None`) on the platform than the grantor
    /// may do there.
    pub(crate) async fn may_give(
        &self,
        tx: &Write,
        scope: Option<TenantId>,
        role: &str,
    ) -> Result<()> {
        let permissions =
            permissions_of(&**tx, role)
                .await?
                .ok_or_else(|| StoreError::InvalidReference {
                    what: "role",
                    id: role.to_owned(),
                })?;
        self.covers(tx, scope, &permissions).await
    }

    /// Refuses permissions that the grantor does not hold there.
    pub(crate) async fn covers(
        &self,
        tx: &Write,
        scope: Option<TenantId>,
        permissions: &BTreeSet<String>,
    ) -> Result<()> {
        let held = self.held(tx, scope).await?;
        self.compare(&held, scope, permissions)
    }

    /// Refuses a change of an account that may do something, anywhere, that the grantor may not
    /// do everywhere. One's own account is no such thing.
    pub(crate) async fn outranks(&self, tx: &Write, account: AccountId) -> Result<()> {
        if account == self.account {
            return Ok(());
        }
        let held = self.held(tx, None).await?;
        let rows = sql::all(
            &**tx,
            "SELECT DISTINCT CASE WHEN m.tenant_id IS NULL THEN 0 ELSE 1 END, r.name, r.permissions
             FROM memberships m JOIN roles r ON r.name = m.role WHERE m.account_id = $1",
            vec![account.uuid().into()],
        )
        .await?;
        for row in &rows {
            // Which tenant it is does not matter: what is compared is held in all of them.
            let in_tenant = sql::get::<i32>(row, 0)? == 1;
            let scope = in_tenant.then(|| TenantId::new(Uuid::nil()));
            self.compare(&held, scope, &permissions(row, 2)?)?;
        }
        Ok(())
    }

    /// Refuses the grantor's own account, to which a session alone must not do what its owner is
    /// asked for a password or code for.
    pub(crate) fn is_another(&self, account: AccountId) -> Result<()> {
        if account == self.account {
            return Err(StoreError::OwnAccount);
        }
        Ok(())
    }

    fn compare(
        &self,
        held: &BTreeSet<String>,
        scope: Option<TenantId>,
        permissions: &BTreeSet<String>,
    ) -> Result<()> {
        let beyond = permissions.iter().find(|&permission| {
            let means_nothing = scope.is_some() && self.platform_only.contains(permission);
            !means_nothing && !held.contains(permission)
        });
        match beyond {
            Some(permission) => Err(StoreError::GrantExceedsOwn {
                permission: permission.clone(),
            }),
            None => Ok(()),
        }
    }

    /// What the grantor may do in a tenant or (`None`) on the platform: what its roles permit
    /// now, as far as its credential reaches.
    async fn held(&self, tx: &Write, scope: Option<TenantId>) -> Result<BTreeSet<String>> {
        let rows = sql::all(
            &**tx,
            "SELECT r.permissions FROM memberships m
             JOIN accounts a ON a.id = m.account_id
             JOIN roles r ON r.name = m.role
             WHERE m.account_id = $1 AND a.deleted_at IS NULL AND NOT a.disabled
               AND (m.tenant_id IS NULL OR m.tenant_id = $2)",
            vec![self.account.uuid().into(), scope.map(TenantId::uuid).into()],
        )
        .await?;
        let mut held = BTreeSet::new();
        for row in &rows {
            held.extend(permissions(row, 0)?);
        }
        Ok(held.intersection(&self.credential).cloned().collect())
    }
}

/// Refuses that an account ceases to be the owner of a tenant or (`None`) an administrator of
/// the platform, when no other enabled account is one. The caller has locked the tenant, or the
/// installation.
pub(crate) async fn keep_one(
    tx: &Write,
    scope: Option<TenantId>,
    leaving: AccountId,
) -> Result<()> {
    let mut values = vec![leaving.uuid().into()];
    let (role, condition) = match scope {
        Some(tenant) => {
            values.push(tenant.uuid().into());
            (OWNER, "m.tenant_id = $2")
        }
        None => (ADMIN, "m.tenant_id IS NULL"),
    };
    let rows = sql::all(
        &**tx,
        format!(
            "SELECT m.account_id FROM memberships m JOIN accounts a ON a.id = m.account_id
             WHERE m.role = '{role}' AND {condition} AND NOT a.disabled AND a.deleted_at IS NULL
             ORDER BY CASE WHEN m.account_id = $1 THEN 0 ELSE 1 END LIMIT 2"
        ),
        values,
    )
    .await?;
    match rows.as_slice() {
        [only] if sql::get::<Uuid>(only, 0)? == leaving.uuid() => Err(StoreError::LastOfRole {
            role: role.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// What a role permits; `None` when there is no such role.
pub(crate) async fn permissions_of(
    db: &impl sea_orm::ConnectionTrait,
    role: &str,
) -> Result<Option<BTreeSet<String>>> {
    let text = "SELECT permissions FROM roles WHERE name = $1";
    let row = sql::one(db, text, vec![role.into()]).await?;
    row.map(|row| permissions(&row, 0)).transpose()
}

/// A column of permissions.
pub(crate) fn permissions(row: &QueryResult, index: usize) -> Result<BTreeSet<String>> {
    serde_json::from_value(sql::get(row, index)?)
        .map_err(|error| StoreError::corrupt("roles.permissions", error))
}
