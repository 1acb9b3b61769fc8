//! How the database would go about what the store asks of it.

use uuid::Uuid;

use super::TestStore;
use crate::connect::Backend;
use crate::sql;
use crate::usage::{self, OF_NODE, OF_NODES, OF_USER, UsageQuery};

impl TestStore {
    /// Plans of the series of a user, a tenant and a node, as the database describes them; without
    /// regard to how little there is in its tables.
    pub async fn usage_plans(&self, query: UsageQuery) -> Vec<String> {
        let (tenant, user, node) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        let mut plans = Vec::new();
        for (source, keys) in [
            (OF_USER, vec![tenant.into(), user.into()]),
            (OF_NODES, vec![tenant.into()]),
            (OF_NODE, vec![node.into()]),
        ] {
            let (text, values) = usage::statement(&source, keys, query);
            let db = self.store.snapshot().await.expect("a transaction");
            let (explain, column) = match self.store.backend() {
                Backend::Postgres => ("EXPLAIN", 0),
                Backend::Sqlite => ("EXPLAIN QUERY PLAN", 3),
            };
            if self.store.backend() == Backend::Postgres {
                let unlikely = "SET LOCAL enable_seqscan = off";
                sql::run(&db, unlikely, vec![]).await.expect("a setting");
            }
            let rows = sql::all(&db, format!("{explain} {text}"), values).await;
            let lines: Vec<String> = rows
                .expect("a plan")
                .iter()
                .map(|row| sql::get(row, column).expect("a line"))
                .collect();
            plans.push(lines.join("\n"));
        }
        plans
    }
}
