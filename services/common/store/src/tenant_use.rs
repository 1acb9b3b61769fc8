//! What a tenant has of what it is limited in.

use vpnpanel_domain::TenantId;

use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::ledger::TenantMonth;
use crate::sql;

/// How far a tenant is in its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantUse {
    /// Users that are not deleted.
    pub users: u64,
    /// Dedicated nodes that are not deleted.
    pub nodes: u64,
    /// What it has used of its month; `None` where it has no limit of bytes.
    pub month: Option<TenantMonth>,
}

impl Store {
    /// How far a tenant is in its limits, counted at this moment.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], and those of the database.
    pub async fn tenant_use(&self, tenant: TenantId) -> Result<TenantUse> {
        let row = sql::one(
            &self.read_in(tenant).await?,
            "SELECT
                (SELECT COUNT(*) FROM users u WHERE u.tenant_id = t.id AND u.deleted_at IS NULL),
                (SELECT COUNT(*) FROM nodes n WHERE n.tenant_id = t.id AND n.deleted_at IS NULL)
             FROM tenants t WHERE t.id = $1",
            vec![tenant.uuid().into()],
        )
        .await?
        .ok_or(StoreError::NotFound("tenant"))?;
        Ok(TenantUse {
            users: sql::unsigned(sql::get(&row, 0)?),
            nodes: sql::unsigned(sql::get(&row, 1)?),
            month: self.tenant_month(tenant).await?,
        })
    }
}
