//! The books, added up in every way they are kept: they have to agree to the bit.

use vpnpanel_domain::TenantId;

use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::usage::Usage;
use crate::{amount, sql};

/// A tenant's usage, by each of the three books, and what is in none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerTotals {
    /// Sum over its users' buckets.
    pub users: Usage,
    /// Sum over its nodes' buckets.
    pub nodes: Usage,
    /// Sum over its users' periods.
    pub periods: Usage,
}

impl LedgerTotals {
    /// Whether the books agree.
    pub fn agree(&self) -> bool {
        self.users == self.nodes && self.users == self.periods
    }
}

impl Store {
    /// Adds up a tenant's books, at one moment.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ledger_totals(&self, tenant: TenantId) -> Result<LedgerTotals> {
        let db = self.snapshot_in(tenant).await?;
        let sum = async |table: &str| -> Result<Usage> {
            let text = format!(
                "SELECT CAST(COALESCE(SUM(up), 0) AS BIGINT), CAST(COALESCE(SUM(down), 0) AS BIGINT),
                        CAST(COALESCE(SUM(billed_bytes), 0) AS BIGINT),
                        CAST(COALESCE(SUM(billed_micro), 0) AS BIGINT)
                 FROM {table} WHERE tenant_id = $1"
            );
            let row = sql::one(&db, text, vec![tenant.uuid().into()])
                .await?
                .ok_or_else(|| StoreError::corrupt("the ledger", "no sum"))?;
            Ok(Usage {
                up: sql::unsigned(sql::get(&row, 0)?),
                down: sql::unsigned(sql::get(&row, 1)?),
                billed: amount::join(sql::get(&row, 2)?, sql::get(&row, 3)?),
            })
        };
        Ok(LedgerTotals {
            users: sum("usage_buckets").await?,
            nodes: sum("node_buckets").await?,
            periods: sum("periods").await?,
        })
    }
}
