//! Request ids: a repeated request finds the resource that the first one made. The claim is a row
//! in the transaction that makes the resource, so that of two at once exactly one makes it.

use uuid::Uuid;
use vpnpanel_domain::{AccountId, TenantId};

use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::sql;
use crate::transaction::Write;

/// How long a request id is remembered: 24 hours.
const REMEMBERED_MS: i64 = 24 * 3_600_000;

/// What makes a request "the same request".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// Who asks.
    pub account_id: AccountId,
    /// In which tenant; `None` is the platform.
    pub tenant_id: Option<TenantId>,
    /// Name of the method.
    pub method: &'static str,
    /// What the caller gave as `request_id`.
    pub request_id: String,
    /// A hash over the request, so that another request under the same id is refused.
    pub digest: [u8; 32],
}

/// Claims the key for `resource`; `Some` is the resource that an earlier request made.
pub(crate) async fn claim(
    tx: &Write,
    key: Option<&RequestKey>,
    resource: impl Into<Uuid>,
) -> Result<Option<Uuid>> {
    let Some(key) = key else { return Ok(None) };
    let tenant = key.tenant_id.map_or(Uuid::nil(), TenantId::uuid);
    let name = vec![
        key.account_id.uuid().into(),
        tenant.into(),
        key.method.into(),
        key.request_id.as_str().into(),
    ];
    let mut claim = name.clone();
    claim.extend([
        key.digest.to_vec().into(),
        resource.into().into(),
        (tx.now + REMEMBERED_MS).into(),
        tx.now.into(),
    ]);
    let claimed = sql::run(
        &**tx,
        "INSERT INTO idempotency
            (account_id, tenant_id, method, request_id, request_digest, resource_id, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (account_id, tenant_id, method, request_id) DO UPDATE
         SET request_digest = excluded.request_digest, resource_id = excluded.resource_id,
             expires_at = excluded.expires_at
         WHERE idempotency.expires_at <= $8",
        claim,
    )
    .await?;
    if claimed == 1 {
        return Ok(None);
    }
    let row = sql::one(
        &**tx,
        "SELECT request_digest, resource_id FROM idempotency
         WHERE account_id = $1 AND tenant_id = $2 AND method = $3 AND request_id = $4",
        name,
    )
    .await?
    .ok_or(StoreError::NotFound("request"))?;
    if sql::get::<Vec<u8>>(&row, 0)? != key.digest {
        return Err(StoreError::RequestIdReused);
    }
    Ok(Some(sql::get(&row, 1)?))
}

impl Store {
    /// Forgets request ids that are past their time; returns how many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_requests(&self) -> Result<u64> {
        Ok(sql::run(
            &self.inner.write,
            "DELETE FROM idempotency WHERE expires_at <= $1",
            vec![self.now_ms().into()],
        )
        .await?)
    }
}
