//! API tokens: long-lived credentials of an account, for one tenant or the platform. Only their
//! hashes are kept. What a token permits is what it lists and what its account holds when it is
//! used; here only its making is checked.

use std::collections::BTreeSet;

use sea_orm::{QueryResult, Value};
use uuid::Uuid;
use vpnpanel_domain::{AccountId, ApiTokenId, TenantId};

use crate::audit::Event;
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::page::Page;
use crate::sql;
use crate::transaction::Write;

/// Most tokens of an account that are in force.
const MAX_TOKENS: i64 = 100;

/// An API token, without the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// Its id.
    pub id: ApiTokenId,
    /// Whose it is.
    pub account_id: AccountId,
    /// E-mail address of that account.
    pub account_email: String,
    /// What it is for; `None` is the platform.
    pub tenant_id: Option<TenantId>,
    /// What its owner calls it.
    pub name: String,
    /// Its first characters.
    pub hint: String,
    /// `resource.verb` strings.
    pub permissions: BTreeSet<String>,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it ends by itself.
    pub expires_at_ms: i64,
    /// When it was last used, as far as that was noted.
    pub used_at_ms: Option<i64>,
}

/// An API token to make.
#[derive(Debug, Clone)]
pub struct NewApiToken {
    /// Its id.
    pub id: ApiTokenId,
    /// Whose it is.
    pub account_id: AccountId,
    /// What it is for; `None` is the platform.
    pub tenant_id: Option<TenantId>,
    /// What its owner calls it.
    pub name: String,
    /// Its first characters.
    pub hint: String,
    /// SHA-256 over the token.
    pub hash: [u8; 32],
    /// `resource.verb` strings.
    pub permissions: BTreeSet<String>,
    /// When it ends by itself.
    pub expires_at_ms: i64,
}

/// Whose tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiTokenOwner {
    /// Those of an account.
    Account(AccountId),
    /// Those for a tenant.
    Tenant(TenantId),
    /// Those for the platform.
    Platform,
}

impl ApiTokenOwner {
    fn tenant(self) -> Option<TenantId> {
        match self {
            Self::Tenant(id) => Some(id),
            Self::Account(_) | Self::Platform => None,
        }
    }

    /// The condition on `api_tokens t`, with the owner as parameter `$1`.
    fn condition(self) -> (&'static str, Value) {
        match self {
            Self::Account(id) => ("t.account_id = $1", id.uuid().into()),
            Self::Tenant(id) => ("t.tenant_id = $1", id.uuid().into()),
            // The parameter has to be used, for its number and its type.
            Self::Platform => (
                "t.tenant_id IS NULL AND t.account_id <> $1",
                Uuid::nil().into(),
            ),
        }
    }
}

impl Store {
    /// Makes a token, if its account holds there what it is to permit.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the account or the tenant, [`StoreError::GrantExceedsOwn`],
    /// [`StoreError::LimitReached`].
    pub async fn create_api_token(&self, new: NewApiToken) -> Result<ApiToken> {
        let mut tx = self.begin().await?;
        let account = sql::one(
            &*tx,
            "SELECT email FROM accounts
             WHERE id = $1 AND deleted_at IS NULL AND NOT disabled {for_update}",
            vec![new.account_id.uuid().into()],
        )
        .await?
        .ok_or(StoreError::NotFound("account"))?;
        check_tenant(&tx, new.tenant_id).await?;
        let held = held(&tx, new.account_id, new.tenant_id).await?;
        if let Some(permission) = new.permissions.difference(&held).next() {
            return Err(StoreError::GrantExceedsOwn {
                permission: permission.clone(),
            });
        }
        let in_force = sql::one(
            &*tx,
            "SELECT COUNT(*) FROM api_tokens
             WHERE account_id = $1 AND revoked_at IS NULL AND expires_at > $2",
            vec![new.account_id.uuid().into(), tx.now.into()],
        )
        .await?
        .map_or(Ok(0), |row| sql::get::<i64>(&row, 0))?;
        if in_force >= MAX_TOKENS {
            return Err(StoreError::LimitReached { what: "API tokens" });
        }
        sql::run(
            &*tx,
            "INSERT INTO api_tokens (id, account_id, tenant_id, name, hint, hash, permissions,
                created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            vec![
                new.id.uuid().into(),
                new.account_id.uuid().into(),
                new.tenant_id.map(TenantId::uuid).into(),
                new.name.as_str().into(),
                new.hint.as_str().into(),
                new.hash.as_slice().into(),
                serde_json::json!(new.permissions).into(),
                tx.now.into(),
                new.expires_at_ms.into(),
            ],
        )
        .await?;
        let made = ApiToken {
            id: new.id,
            account_id: new.account_id,
            account_email: sql::get(&account, 0)?,
            tenant_id: new.tenant_id,
            name: new.name,
            hint: new.hint,
            permissions: new.permissions,
            created_at_ms: tx.now,
            expires_at_ms: new.expires_at_ms,
            used_at_ms: None,
        };
        tx.audit(Event::created(&made));
        tx.commit().await?;
        Ok(made)
    }

    /// The token that has the hash, whether or not it is over: see [`Store::api_token_in_force`].
    ///
    /// # Errors
    /// Those of the database.
    pub async fn api_token_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiToken>> {
        let row = sql::one(
            self.read(),
            format!("{SELECT} WHERE t.hash = $1"),
            vec![hash.as_slice().into()],
        )
        .await?;
        row.as_ref().map(token).transpose()
    }

    /// Whether a token of an account was neither revoked nor has run out.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn api_token_in_force(&self, account: AccountId, id: ApiTokenId) -> Result<bool> {
        let row = sql::one(
            self.read(),
            "SELECT 1 FROM api_tokens
             WHERE id = $1 AND account_id = $2 AND revoked_at IS NULL AND expires_at > $3",
            vec![
                id.uuid().into(),
                account.uuid().into(),
                self.now_ms().into(),
            ],
        )
        .await?;
        Ok(row.is_some())
    }

    /// Tokens in force, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn api_tokens(
        &self,
        of: ApiTokenOwner,
        page: Page<ApiTokenId>,
    ) -> Result<Vec<ApiToken>> {
        let (condition, owner) = of.condition();
        let after = page.after.map_or(Uuid::nil(), ApiTokenId::uuid);
        let rows = sql::all(
            &self.read_in(of.tenant()).await?,
            format!(
                "{SELECT} WHERE {condition} AND t.id > $2 AND t.revoked_at IS NULL
                   AND t.expires_at > $3 ORDER BY t.id LIMIT $4"
            ),
            vec![
                owner,
                after.into(),
                self.now_ms().into(),
                i64::from(page.size).into(),
            ],
        )
        .await?;
        rows.iter().map(token).collect()
    }

    /// Ends a token; returns whose it was.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the owner has no such token in force.
    pub async fn revoke_api_token(&self, of: ApiTokenOwner, id: ApiTokenId) -> Result<AccountId> {
        let mut tx = self.begin_in(of.tenant()).await?;
        let (condition, owner) = of.condition();
        let row = sql::one(
            &*tx,
            format!(
                "UPDATE api_tokens AS t SET revoked_at = $3
                 WHERE {condition} AND t.id = $2 AND t.revoked_at IS NULL AND t.expires_at > $3
                 RETURNING account_id, tenant_id"
            ),
            vec![owner, id.uuid().into(), tx.now.into()],
        )
        .await?
        .ok_or(StoreError::NotFound("API token"))?;
        let account = AccountId::new(sql::get(&row, 0)?);
        let tenant = sql::get::<Option<Uuid>>(&row, 1)?.map(TenantId::new);
        tx.audit(Event::on("apiToken", tenant, id));
        tx.commit().await?;
        Ok(account)
    }

    /// Tokens that were revoked at or after a time, and when: the latest first, at most 100,000.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn api_tokens_ended_since(&self, since_ms: i64) -> Result<Vec<(ApiTokenId, i64)>> {
        let rows = sql::all(
            self.read(),
            "SELECT id, revoked_at FROM api_tokens
             WHERE revoked_at >= $1 ORDER BY revoked_at DESC LIMIT 100000",
            vec![since_ms.into()],
        )
        .await?;
        rows.iter()
            .map(|row| Ok((ApiTokenId::new(sql::get(row, 0)?), sql::get(row, 1)?)))
            .collect()
    }

    /// Notes that tokens were used, at `at_ms` or a little before.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn note_api_token_uses(&self, used: &[ApiTokenId], at_ms: i64) -> Result<()> {
        let db = &self.inner.write;
        let ids = sql::ids(db, used.iter().copied());
        sql::run(
            db,
            format!(
                "UPDATE api_tokens SET used_at = $2
                 WHERE id {} AND (used_at IS NULL OR used_at < $2)",
                sql::in_ids(db, 1)
            ),
            vec![ids, at_ms.into()],
        )
        .await?;
        Ok(())
    }
}

async fn check_tenant(tx: &Write, tenant: Option<TenantId>) -> Result<()> {
    let Some(tenant) = tenant else { return Ok(()) };
    sql::one(
        &**tx,
        "SELECT 1 FROM tenants WHERE id = $1 AND deleted_at IS NULL",
        vec![tenant.uuid().into()],
    )
    .await?
    .map(|_| ())
    .ok_or(StoreError::NotFound("tenant"))
}

/// What an account may do in a tenant, or on the platform.
async fn held(
    tx: &Write,
    account: AccountId,
    tenant: Option<TenantId>,
) -> Result<BTreeSet<String>> {
    let rows = sql::all(
        &**tx,
        "SELECT r.permissions FROM memberships m JOIN roles r ON r.name = m.role
         WHERE m.account_id = $1 AND (m.tenant_id IS NULL OR m.tenant_id = $2)",
        vec![account.uuid().into(), tenant.map(TenantId::uuid).into()],
    )
    .await?;
    let mut held = BTreeSet::new();
    for row in &rows {
        held.extend(permissions(row, 0)?);
    }
    Ok(held)
}

const SELECT: &str = "
    SELECT t.id, t.account_id, a.email, t.tenant_id, t.name, t.hint, t.permissions,
           t.created_at, t.expires_at, t.used_at
    FROM api_tokens t JOIN accounts a ON a.id = t.account_id";

fn token(row: &QueryResult) -> Result<ApiToken> {
    Ok(ApiToken {
        id: ApiTokenId::new(sql::get(row, 0)?),
        account_id: AccountId::new(sql::get(row, 1)?),
        account_email: sql::get(row, 2)?,
        tenant_id: sql::get::<Option<Uuid>>(row, 3)?.map(TenantId::new),
        name: sql::get(row, 4)?,
        hint: sql::get(row, 5)?,
        permissions: permissions(row, 6)?,
        created_at_ms: sql::get(row, 7)?,
        expires_at_ms: sql::get(row, 8)?,
        used_at_ms: sql::get(row, 9)?,
    })
}

fn permissions(row: &QueryResult, column: usize) -> Result<BTreeSet<String>> {
    let value: serde_json::Value = sql::get(row, column)?;
    serde_json::from_value(value).map_err(|error| StoreError::corrupt("permissions", error))
}
