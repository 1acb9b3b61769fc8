//! Somebody who acts, a lease on the chainer's job, and SQL as somebody with the database's
//! password would write it.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use vpnpanel_domain::{AccountId, TenantId};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Attribution, AuditEvent, AuditFilter, Backend, Described, Event, JobLease, Page, Resource,
    Store, fresh_id,
};

/// Shows that there is a resource, and nothing of it.
pub(crate) fn describe(before: Option<Resource<'_>>, after: Option<Resource<'_>>) -> Described {
    let shown =
        |resource: Resource<'_>| serde_json::json!({"shown": format!("{resource:?}").len()});
    Described {
        before: before.map(shown),
        after: after.map(shown),
    }
}

/// An account that acts.
pub(crate) fn somebody() -> Attribution {
    let account: AccountId = fresh_id();
    Attribution {
        credential: "session:1".to_owned(),
        address: "203.0.113.7".to_owned(),
        user_agent: "curl".to_owned(),
        request_id: "request-1".to_owned(),
        method: "/test.v1.Service/Do".into(),
        describe,
        ..Attribution::anonymous().by_account(account, Vec::new())
    }
}

/// Events of a tenant, the newest first.
pub(crate) async fn events(store: &Store, tenant: Option<TenantId>) -> Vec<AuditEvent> {
    let all = AuditFilter::default();
    store
        .audit_events(tenant, &all, Page::first(10_000))
        .await
        .unwrap()
}

/// Records `count` events about made-up resources.
pub(crate) async fn record(store: &Store, tenant: Option<TenantId>, count: usize) {
    let acting = store.acting(somebody());
    for number in 0..count {
        let event = Event::on("thing", tenant, number);
        acting.record(event).await.unwrap();
    }
}

/// The lease on the chainer's job.
pub(crate) async fn lease(store: &Store) -> JobLease {
    store
        .register_job("chain-audit", "chains", Duration::from_secs(3_600))
        .await
        .unwrap();
    store
        .claim_job(&["chain-audit"], "test", Duration::from_secs(3_600))
        .await
        .unwrap()
        .expect("the lease")
}

/// Chains everything there is.
pub(crate) async fn chain(store: &Store, lease: &JobLease) -> u64 {
    let mut chained = 0;
    loop {
        match store.chain_audit(lease, 7).await.unwrap() {
            0 => return chained,
            count => chained += count,
        }
    }
}

/// Runs statements past the store, on a connection of their own.
pub(crate) async fn raw(test: &TestStore, text: &str) -> Result<(), sqlx::Error> {
    let text = AssertSqlSafe(text.to_owned());
    match test.store.backend() {
        Backend::Postgres => {
            let mut db = PgConnection::connect(&test.url).await?;
            db.execute(text).await?;
            db.close().await
        }
        Backend::Sqlite => {
            let mut db = SqliteConnection::connect(&test.url).await?;
            db.execute(text).await?;
            db.close().await
        }
    }
}

/// What an attacker who owns the database does first.
pub(crate) async fn drop_guards(test: &TestStore) {
    let tables = ["audit_events", "audit_heads", "audit_checkpoints"];
    let text = match test.store.backend() {
        Backend::Postgres => tables
            .map(|table| format!("ALTER TABLE {table} DISABLE TRIGGER ALL;"))
            .concat(),
        Backend::Sqlite => tables
            .map(|table| {
                ["insert", "update", "delete"]
                    .map(|what| format!("DROP TRIGGER IF EXISTS {table}_{what};"))
                    .concat()
            })
            .concat(),
    };
    raw(test, &text).await.unwrap();
}

/// The nil UUID, as a literal of the database.
pub(crate) fn platform(test: &TestStore) -> &'static str {
    match test.store.backend() {
        Backend::Postgres => "'00000000-0000-0000-0000-000000000000'",
        Backend::Sqlite => "x'00000000000000000000000000000000'",
    }
}
