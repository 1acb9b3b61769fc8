//! The schema goes up and down on both databases, and any number of processes may migrate at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use vpnpanel_store::on_each_database;
use vpnpanel_store::testing::TestStore;

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
