//! What was counted lately on each node, as it grows with every commit of usage: two looks and the time
//! between them are a rate.

use std::collections::HashMap;

use vpnpanel_domain::{NodeId, TenantId};

use crate::connect::Store;
use crate::error::Result;
use crate::ledger::HOUR_MS;
use crate::sql;

/// How far back a look goes. Usage that was counted earlier and comes now belongs to no rate of now.
const BACK_MS: i64 = HOUR_MS / 4;

/// What a node counted for a tenant in 15 minutes, so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Raw bytes from subscribers.
    pub up: u64,
    /// Raw bytes to subscribers.
    pub down: u64,
}

/// One look at the usage of the last 15 to 30 minutes, by tenant, node and when 15 minutes began.
pub type RecentUsage = HashMap<(TenantId, NodeId, i64), Counted>;

impl Store {
    /// Looks at what was counted lately, of all tenants.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn recent_usage(&self) -> Result<RecentUsage> {
        let from = self.now_ms().saturating_sub(2 * BACK_MS);
        let rows = sql::all(
            self.read(),
            "SELECT tenant_id, node_id, bucket_at, up, down FROM node_buckets WHERE bucket_at >= $1",
            vec![from.into()],
        )
        .await?;
        let mut recent = HashMap::with_capacity(rows.len());
        for row in &rows {
            let key = (
                TenantId::new(sql::get(row, 0)?),
                NodeId::new(sql::get(row, 1)?),
                sql::get(row, 2)?,
            );
            let counted = Counted {
                up: sql::unsigned(sql::get(row, 3)?),
                down: sql::unsigned(sql::get(row, 4)?),
            };
            recent.insert(key, counted);
        }
        Ok(recent)
    }
}
