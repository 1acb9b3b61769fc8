//! The schema goes up and down on both databases, and any number of processes may migrate at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{Options, Store, StoreError, on_each_database};

on_each_database!(
    a_migrated_database_lacks_nothing,
    processes_may_migrate_at_once
);

async fn a_migrated_database_lacks_nothing(test: TestStore) {
    assert!(test.store.pending_migrations().await.unwrap().is_empty());
    test.store.ping().await.unwrap();
}

async fn processes_may_migrate_at_once(test: TestStore) {
    let (one, two) = (test.another().await, test.another().await);
    let (first, second, third) = tokio::join!(test.store.migrate(), one.migrate(), two.migrate());
    first.unwrap();
    second.unwrap();
    third.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_the_url_is_a_matter_of_settings() {
    let test = TestStore::postgres().await;
    let (server, database) = test.guarded_url().rsplit_once('/').unwrap();
    let host = server.rsplit_once('@').unwrap().1;
    let role = format!("role_{database}");
    let mut admin = PgConnection::connect(&test.url).await.unwrap();
    let made = format!("CREATE ROLE {role} NOLOGIN PASSWORD 'hunter2'");
    admin.execute(AssertSqlSafe(made)).await.unwrap();
    for (url, state) in [
        (
            format!("postgres://postgres:hunter3@{host}/{database}"),
            "28P01",
        ),
        (
            format!("postgres://nobody:hunter3@{host}/{database}"),
            "28P01",
        ),
        (
            format!("postgres://{role}:hunter2@{host}/{database}"),
            "28000",
        ),
        (format!("{server}/none_{database}"), "3D000"),
    ] {
        let refused = Store::connect(&url, Options::default()).await.unwrap_err();
        let said = format!("{refused} {refused:?}");
        assert!(matches!(refused, StoreError::Configuration(_)), "{said}");
        assert!(said.contains(state), "{said}");
        assert!(!said.contains("hunter"), "{said}");
    }
    let gone = format!("DROP ROLE {role}");
    admin.execute(AssertSqlSafe(gone)).await.unwrap();
}
