//! The books, added up in every way they are kept: they have to agree to the bit.

use vpnpanel_domain::TenantId;

use super::DAY_MS;
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::usage::{self, Usage, UsageQuery};
use crate::{amount, sql};

/// A tenant's usage, by each of the three books, and what is in none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerTotals {
    /// Sum over its users' usage, rolled up or not.
    pub users: Usage,
    /// Sum over its nodes' usage, rolled up or not.
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
        let everything = UsageQuery {
            from_ms: 0,
            to_ms: i64::MAX / 2,
            step_ms: DAY_MS,
        };
        let key = || vec![tenant.uuid().into()];
        let row = sql::one(
            &db,
            "SELECT CAST(COALESCE(SUM(up), 0) AS BIGINT), CAST(COALESCE(SUM(down), 0) AS BIGINT),
                    CAST(COALESCE(SUM(billed_bytes), 0) AS BIGINT),
                    CAST(COALESCE(SUM(billed_micro), 0) AS BIGINT)
             FROM periods WHERE tenant_id = $1",
            key(),
        )
        .await?
        .ok_or_else(|| StoreError::corrupt("the ledger", "no sum"))?;
        Ok(LedgerTotals {
            users: usage::series(&db, &usage::OF_USERS, key(), everything)
                .await?
                .total,
            nodes: usage::series(&db, &usage::OF_NODES, key(), everything)
                .await?
                .total,
            periods: Usage {
                up: sql::unsigned(sql::get(&row, 0)?),
                down: sql::unsigned(sql::get(&row, 1)?),
                billed: amount::join(sql::get(&row, 2)?, sql::get(&row, 3)?),
            },
        })
    }
}
