//! How the database would go about what the store asks of it.

use uuid::Uuid;

use vpnpanel_domain::{PeriodId, TenantId, UserId, UserStatus};

use super::TestStore;
use crate::connect::Backend;
use crate::figures;
use crate::ledger::{AheadCursor, ending, idle, lacking};
use crate::page::Page;
use crate::rollover::{self, RollCursor};
use crate::sql;
use crate::usage::{self, BY_USER, BY_USER_OF_ALL, OF_NODE, OF_NODES, OF_USER, UsageQuery};
use crate::{
    connections, device_keys, devices, operations, periods, plans, subscriptions, user_plan, users,
};

impl TestStore {
    /// Plans of the lists and sweeps that go by periods, as [`TestStore::usage_plans`].
    pub async fn period_plans(&self) -> Vec<String> {
        let (tenant, user): (TenantId, UserId) = (crate::fresh_id(), crate::fresh_id());
        let (period, node): (PeriodId, Uuid) = (crate::fresh_id(), Uuid::now_v7());
        let lease = vec![node.into(), 1_i64.into(), 1_i64.into(), 1_i64.into()];
        let idle_of = vec![node.into(), 1_i64.into(), 1_i64.into()];
        let mut plans = Vec::new();
        for (text, values) in [
            rollover::due(RollCursor::default(), 1, 100),
            ending(AheadCursor::behind(1), 2),
            (lacking("= $1"), lease),
            (idle(), idle_of),
            periods::list(tenant, user, Page::first(10)),
            periods::list(tenant, user, Page::after(10, period)),
            (
                format!("{} WHERE u.tenant_id = $1 AND u.id = $3", users::select(2)),
                vec![tenant.uuid().into(), 1_i64.into(), user.uuid().into()],
            ),
        ] {
            plans.push(self.plan(text, values).await);
        }
        plans
    }

    /// Plans of what is read of devices and what they show, as [`TestStore::usage_plans`].
    pub async fn access_plans(&self) -> Vec<String> {
        let (tenant, user): (TenantId, UserId) = (crate::fresh_id(), crate::fresh_id());
        let user = vec![tenant.uuid().into(), user.uuid().into()];
        let unseeded = format!("{} ORDER BY d.id LIMIT 1000", device_keys::UNSEEDED);
        vec![
            self.plan(connections::SELECT.to_owned(), user).await,
            self.plan(unseeded, vec![]).await,
        ]
    }

    /// Plans of what is read of the plans of a tenant, of users who wait for one, of devices and of
    /// operations, as [`TestStore::usage_plans`].
    pub async fn plan_plans(&self) -> Vec<String> {
        let (tenant, id): (TenantId, Uuid) = (crate::fresh_id(), Uuid::now_v7());
        let filter = plans::PlanFilter::default();
        let named = plans::PlanFilter {
            name_prefix: Some("m".to_owned()),
            archived: true,
        };
        let of_plan = users::UserFilter {
            plan_id: Some(id.into()),
            ..users::UserFilter::default()
        };
        let deleted = users::UserFilter {
            status: Some(UserStatus::Deleted),
            ..users::UserFilter::default()
        };
        let failed = Some(operations::ItemState::Failed);
        let mut found = Vec::new();
        for (text, values) in [
            plans::list(tenant, &filter, Page::after(10, id.into())),
            plans::list(tenant, &named, Page::first(10)),
            users::list(tenant, &of_plan, Page::after(10, id.into()), 1),
            users::list(tenant, &deleted, Page::after(10, id.into()), 1),
            user_plan::over(user_plan::PlanCursor::default(), 10),
            (
                devices::SELECT.to_owned(),
                vec![tenant.uuid().into(), id.into()],
            ),
            operations::list(tenant, Page::after(10, id.into())),
            operations::list_items(tenant, id.into(), None, Page::after(10, 7)),
            operations::list_items(tenant, id.into(), failed, Page::after(10, 7)),
        ] {
            found.push(self.plan(text, values).await);
        }
        found
    }

    /// Plans of what a fetch of a subscription reads, and of the search for users without a link, as
    /// [`TestStore::usage_plans`].
    pub async fn subscription_plans(&self) -> Vec<String> {
        let (tenant, user): (TenantId, UserId) = (crate::fresh_id(), crate::fresh_id());
        let (by_hash, hash) = subscriptions::by_hash(&[1; 32], 1);
        let user = vec![tenant.uuid().into(), user.uuid().into()];
        let unlinked = format!("{} ORDER BY id LIMIT 1000", subscriptions::UNLINKED);
        vec![
            self.plan(by_hash, hash).await,
            self.plan(connections::SELECT.to_owned(), user).await,
            self.plan(unlinked, vec![]).await,
        ]
    }

    /// Plans of the list of users, as [`TestStore::usage_plans`]: of all of them, and of each status.
    pub async fn user_plans(&self) -> Vec<(Option<UserStatus>, String)> {
        let of = [
            None,
            Some(UserStatus::Active),
            Some(UserStatus::OnHold),
            Some(UserStatus::Limited),
            Some(UserStatus::Expired),
            Some(UserStatus::Disabled),
        ];
        let mut plans = Vec::new();
        for status in of {
            let filter = users::UserFilter {
                status,
                ..users::UserFilter::default()
            };
            let page = Page::after(10, crate::fresh_id());
            let (text, values) = users::list(crate::fresh_id(), &filter, page, 1);
            plans.push((status, self.plan(text, values).await));
        }
        plans
    }

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
            plans.push(self.plan(text, values).await);
        }
        plans
    }

    /// Plans of what dashboards count, as [`TestStore::usage_plans`]: of a tenant and of all, who is online
    /// and which users were billed most.
    pub async fn figure_plans(&self, query: UsageQuery) -> Vec<String> {
        let tenant: TenantId = crate::fresh_id();
        let mut plans = Vec::new();
        for tenant in [Some(tenant), None] {
            let (source, keys) = match tenant {
                Some(tenant) => (BY_USER, vec![tenant.uuid().into()]),
                None => (BY_USER_OF_ALL, Vec::new()),
            };
            let (text, values) = usage::largest_statement(&source, keys, query, 10);
            plans.push(self.plan(text, values).await);
            let (text, values) = figures::online(tenant, query.to_ms, query.from_ms, query.from_ms);
            plans.push(self.plan(text, values).await);
        }
        plans
    }

    async fn plan(&self, text: String, values: Vec<sea_orm::Value>) -> String {
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
        lines.join("\n")
    }
}
