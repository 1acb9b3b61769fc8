//! Memberships: account × tenant × role; one without a tenant is the platform's. The account is
//! locked before the tenant, so that an account which is being disabled becomes nobody's last
//! owner meanwhile.

use sea_orm::QueryResult;
use uuid::Uuid;
use vpnpanel_domain::{AccountId, MembershipId, TenantId};

use crate::accounts::{self, NewAccount};
use crate::audit::{Event, Resource};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::grants::{self, Grantor};
use crate::page::Page;
use crate::tenants::check_version;
use crate::transaction::Write;
use crate::{bindings, fresh_id, sql};

/// A role held in a tenant or on the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The tenant; `None` is the platform.
    pub tenant_id: Option<TenantId>,
    /// Name of the tenant; empty for the platform.
    pub tenant_name: String,
    /// The tenant is suspended.
    pub suspended: bool,
    /// Name of the role.
    pub role: String,
}

/// An account that holds a role in a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The tenant.
    pub tenant_id: TenantId,
    /// The account.
    pub account_id: AccountId,
    /// Its e-mail address.
    pub email: String,
    /// The name shown to others.
    pub display_name: String,
    /// The account may not sign in.
    pub disabled: bool,
    /// Name of the role.
    pub role: String,
    /// Grows with each change of the role.
    pub version: u64,
    /// When it became a member.
    pub created_at_ms: i64,
}

/// Who becomes a member.
#[derive(Debug)]
pub enum Joining {
    /// An account that is there.
    Account(AccountId),
    /// An account to make.
    Newcomer(NewAccount),
}

impl Store {
    /// Where an account may act: the platform first, then tenants by name. Nowhere, while it is
    /// disabled.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn memberships(&self, account: AccountId) -> Result<Vec<Membership>> {
        let rows = sql::all(
            self.read(),
            "SELECT m.tenant_id, COALESCE(t.name, ''), t.suspended_at, m.role
             FROM memberships m
             JOIN accounts a ON a.id = m.account_id
             LEFT JOIN tenants t ON t.id = m.tenant_id
             WHERE m.account_id = $1 AND a.deleted_at IS NULL AND NOT a.disabled
               AND t.deleted_at IS NULL
             ORDER BY CASE WHEN m.tenant_id IS NULL THEN 0 ELSE 1 END, t.name_key",
            vec![account.uuid().into()],
        )
        .await?;
        rows.iter().map(membership).collect()
    }

    /// Members of a tenant by account, that is in the order their accounts were made.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the tenant.
    pub async fn members(&self, tenant: TenantId, page: Page<AccountId>) -> Result<Vec<Member>> {
        self.tenant(tenant).await?;
        let after = page.after.map_or(Uuid::nil(), AccountId::uuid);
        let rows = sql::all(
            &self.read_in(tenant).await?,
            format!(
                "{MEMBER} WHERE m.tenant_id = $1 AND m.account_id > $2 AND a.deleted_at IS NULL
                 ORDER BY m.account_id LIMIT $3"
            ),
            vec![
                tenant.uuid().into(),
                after.into(),
                i64::from(page.size).into(),
            ],
        )
        .await?;
        rows.iter().map(member).collect()
    }

    /// Gives an account, which may have to be made, a role in a tenant where it has none.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the tenant or the account, [`StoreError::AlreadyExists`] for
    /// the member, or for the e-mail address of an account to make,
    /// [`StoreError::InvalidReference`] for the role, [`StoreError::GrantExceedsOwn`].
    pub async fn add_member(
        &self,
        grantor: &Grantor,
        tenant: TenantId,
        joining: Joining,
        role: &str,
    ) -> Result<Member> {
        let mut tx = self.begin_in(tenant).await?;
        let account = match joining {
            Joining::Account(id) => accounts::lock(&tx, id).await?,
            Joining::Newcomer(new) => {
                let made = accounts::insert(&tx, new).await?;
                tx.audit(Event::created(Resource::Account(&made, None)));
                made
            }
        };
        bindings::lock_owner(&tx, Some(tenant)).await?;
        if held(&tx, account.id, Some(tenant)).await?.is_some() {
            return Err(StoreError::AlreadyExists { what: "member" });
        }
        grantor.may_give(&tx, Some(tenant), role).await?;
        set_role(&tx, account.id, Some(tenant), role).await?;
        let member = load(&tx, tenant, account.id).await?;
        tx.audit(Event::created(&member));
        tx.commit().await?;
        Ok(member)
    }

    /// Gives a member another role; no change when it has it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the tenant or the member, [`StoreError::StaleVersion`],
    /// [`StoreError::InvalidReference`] for the role, [`StoreError::GrantExceedsOwn`] for the
    /// role before or after, [`StoreError::LastOfRole`].
    pub async fn update_member(
        &self,
        grantor: &Grantor,
        tenant: TenantId,
        account: AccountId,
        role: &str,
        version: Option<u64>,
    ) -> Result<Member> {
        let mut tx = self.begin_in(tenant).await?;
        let before = lock(&tx, tenant, account).await?;
        check_version(sql::signed(before.version), version)?;
        if before.role == role {
            tx.audit(Event::changed(&before, &before));
            tx.commit().await?;
            return Ok(before);
        }
        grantor.may_give(&tx, Some(tenant), &before.role).await?;
        grantor.may_give(&tx, Some(tenant), role).await?;
        replace_role(&tx, account, Some(tenant), Some(&before.role), Some(role)).await?;
        let member = load(&tx, tenant, account).await?;
        tx.audit(Event::changed(&before, &member));
        tx.commit().await?;
        Ok(member)
    }

    /// Takes an account's role in a tenant away.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the tenant or the member, [`StoreError::GrantExceedsOwn`]
    /// for its role, [`StoreError::LastOfRole`].
    pub async fn remove_member(
        &self,
        grantor: &Grantor,
        tenant: TenantId,
        account: AccountId,
    ) -> Result<()> {
        let mut tx = self.begin_in(tenant).await?;
        let before = lock(&tx, tenant, account).await?;
        grantor.may_give(&tx, Some(tenant), &before.role).await?;
        replace_role(&tx, account, Some(tenant), Some(&before.role), None).await?;
        tx.audit(Event::deleted(&before));
        tx.commit().await
    }

    /// Gives an account a role in a tenant or, with `None`, on the platform, whoever asks;
    /// replaces the one it has there.
    ///
    /// # Errors
    /// Those of the database.
    #[cfg(feature = "testing")]
    pub async fn set_membership(
        &self,
        account: AccountId,
        tenant: Option<TenantId>,
        role: &str,
    ) -> Result<()> {
        let mut tx = self.begin_in(tenant).await?;
        set_role(&tx, account, tenant, role).await?;
        tx.audit(Event::on("member", tenant, account));
        tx.commit().await
    }
}

/// Locks a member's account and then the tenant.
async fn lock(tx: &Write, tenant: TenantId, account: AccountId) -> Result<Member> {
    match accounts::lock(tx, account).await {
        Err(StoreError::NotFound(_)) => return Err(StoreError::NotFound("member")),
        other => other?,
    };
    bindings::lock_owner(tx, Some(tenant)).await?;
    load(tx, tenant, account).await
}

/// Puts one role into the place of another, in a tenant or on the platform, unless that leaves
/// it without an owner or administrator. The caller has locked the account, and the tenant or
/// the installation.
pub(crate) async fn replace_role(
    tx: &Write,
    account: AccountId,
    scope: Option<TenantId>,
    before: Option<&str>,
    after: Option<&str>,
) -> Result<()> {
    let kept = scope.map_or(grants::ADMIN, |_| grants::OWNER);
    if before == Some(kept) && after != Some(kept) {
        grants::keep_one(tx, scope, account).await?;
    }
    match after {
        Some(role) => set_role(tx, account, scope, role).await,
        None => {
            let mut values = vec![account.uuid().into()];
            let condition = match scope {
                Some(tenant) => {
                    values.push(tenant.uuid().into());
                    "tenant_id = $2"
                }
                None => "tenant_id IS NULL",
            };
            let text = format!("DELETE FROM memberships WHERE account_id = $1 AND {condition}");
            sql::run(&**tx, text, values).await?;
            Ok(())
        }
    }
}

/// The role that an account has in a tenant or on the platform.
pub(crate) async fn held(
    tx: &Write,
    account: AccountId,
    scope: Option<TenantId>,
) -> Result<Option<String>> {
    let mut values = vec![account.uuid().into()];
    let condition = match scope {
        Some(tenant) => {
            values.push(tenant.uuid().into());
            "tenant_id = $2"
        }
        None => "tenant_id IS NULL",
    };
    let text = format!("SELECT role FROM memberships WHERE account_id = $1 AND {condition}");
    let row = sql::one(&**tx, text, values).await?;
    Ok(row.map(|row| sql::get(&row, 0)).transpose()?)
}

pub(crate) async fn set_role(
    tx: &Write,
    account: AccountId,
    tenant: Option<TenantId>,
    role: &str,
) -> Result<()> {
    let conflict = if tenant.is_some() {
        "(account_id, tenant_id) WHERE tenant_id IS NOT NULL"
    } else {
        "(account_id) WHERE tenant_id IS NULL"
    };
    sql::run(
        &**tx,
        format!(
            "INSERT INTO memberships (id, account_id, tenant_id, role, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT {conflict} DO UPDATE
             SET role = excluded.role, version = memberships.version + 1,
                 updated_at = excluded.updated_at"
        ),
        vec![
            fresh_id::<MembershipId>().uuid().into(),
            account.uuid().into(),
            tenant.map(TenantId::uuid).into(),
            role.into(),
            tx.now.into(),
        ],
    )
    .await?;
    Ok(())
}

const MEMBER: &str = "
    SELECT m.tenant_id, m.account_id, a.email, a.display_name, a.disabled, m.role, m.version,
           m.created_at
    FROM memberships m JOIN accounts a ON a.id = m.account_id";

async fn load(tx: &Write, tenant: TenantId, account: AccountId) -> Result<Member> {
    let row = sql::one(
        &**tx,
        format!("{MEMBER} WHERE m.tenant_id = $1 AND m.account_id = $2 AND a.deleted_at IS NULL"),
        vec![tenant.uuid().into(), account.uuid().into()],
    )
    .await?;
    member(&row.ok_or(StoreError::NotFound("member"))?)
}

/// Takes every role of an account away.
pub(crate) async fn remove_all(tx: &mut Write, account: AccountId) -> Result<()> {
    if tx.is_audited() {
        let text = format!("{MEMBER} WHERE m.account_id = $1 AND m.tenant_id IS NOT NULL");
        for row in &sql::all(&**tx, text, vec![account.uuid().into()]).await? {
            tx.audit(Event::deleted(&member(row)?));
        }
    }
    let text = "DELETE FROM memberships WHERE account_id = $1";
    sql::run(&**tx, text, vec![account.uuid().into()]).await?;
    Ok(())
}

fn member(row: &QueryResult) -> Result<Member> {
    Ok(Member {
        tenant_id: TenantId::new(sql::get(row, 0)?),
        account_id: AccountId::new(sql::get(row, 1)?),
        email: sql::get(row, 2)?,
        display_name: sql::get(row, 3)?,
        disabled: sql::get(row, 4)?,
        role: sql::get(row, 5)?,
        version: sql::unsigned(sql::get(row, 6)?),
        created_at_ms: sql::get(row, 7)?,
    })
}

pub(crate) fn membership(row: &QueryResult) -> Result<Membership> {
    Ok(Membership {
        tenant_id: sql::get::<Option<Uuid>>(row, 0)?.map(TenantId::new),
        tenant_name: sql::get(row, 1)?,
        suspended: sql::get::<Option<i64>>(row, 2)?.is_some(),
        role: sql::get(row, 3)?,
    })
}
