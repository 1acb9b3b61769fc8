//! Expiry of users by two replicas, killed at any moment: each user changes once.

use std::{collections::BTreeSet, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio_util::sync::CancellationToken;
use vpnpanel_store::{AuditFilter, Page, on_each_database, testing::TestStore};

use crate::fixture::{
    JOB, changed_by_runs, changes, expired, quick, replica, settled, until, users,
};

const USERS: usize = 150;

on_each_database! {
    users_expire_once_with_two_replicas_that_are_killed_at_any_moment,
    users_whose_time_has_not_come_are_left_alone,
}

async fn users_expire_once_with_two_replicas_that_are_killed_at_any_moment(test: TestStore) {
    let seed = rand::rng().random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let tenant = users(&test.store, USERS, Some(test.clock.now_ms() + 60_000)).await;
    test.clock.advance(60_001);
    let since = settled(&test.store, USERS).await;
    let stop = CancellationToken::new();
    for _ in 0..6 {
        let (one, two) = (test.another().await, test.another().await);
        let replicas = [replica(one, quick(), &stop), replica(two, quick(), &stop)];
        // not a wait for something to happen: the moment of the kill is what is drawn
        tokio::time::sleep(Duration::from_millis(random.random_range(5..60))).await;
        for killed in replicas {
            killed.abort();
            let _aborted = killed.await;
        }
        // the dead hold their lease until it ends
        test.clock.advance(1_000);
    }
    let survivor = replica(test.another().await, quick(), &stop);
    until(async || expired_now(&test, tenant).await == USERS).await;
    stop.cancel();
    survivor.await.unwrap();
    // A transaction of any database of the server that is still running holds the log's end back.
    until(async || changes(&test.store, since).await.len() >= USERS).await;
    until(async || changes(&test.store, since).await.len() >= USERS).await;
    let log = changes(&test.store, since).await;
    assert_eq!(
        log.len(),
        USERS,
        "a user is in the change log twice, or not at all"
    );
    assert_eq!(log.iter().collect::<BTreeSet<_>>().len(), USERS);
    assert_eq!(changed_by_runs(&test.store).await, USERS as u64);
    let events = test
        .store
        .audit_events(Some(tenant), &AuditFilter::default(), Page::first(1_000))
        .await
        .unwrap();
    assert_eq!(events.len(), USERS, "one event of each user");
    for event in events {
        assert_eq!(event.actor, "system:scheduler/expiry");
        assert_eq!(event.before, r#"{"status":"USER_STATUS_ACTIVE"}"#);
        assert_eq!(event.after, r#"{"status":"USER_STATUS_EXPIRED"}"#);
    }
}

/// What is derived at reading counts expired users whether or not the job was there: only the log
/// and the versions tell what the job wrote.
async fn expired_now(test: &TestStore, tenant: vpnpanel_domain::TenantId) -> usize {
    assert_eq!(expired(&test.store, tenant).await, USERS);
    usize::try_from(changed_by_runs(&test.store).await).unwrap()
}

async fn users_whose_time_has_not_come_are_left_alone(test: TestStore) {
    let now = test.clock.now_ms();
    let later = users(&test.store, 3, Some(now + 3_600_000)).await;
    let since = settled(&test.store, 3).await;
    let stop = CancellationToken::new();
    let running = replica(test.store.clone(), quick(), &stop);
    until(async || {
        let job = test.store.job(JOB).await;
        job.is_ok_and(|job| job.last_run.is_some_and(|run| run.number > 2))
    })
    .await;
    assert!(changes(&test.store, since).await.is_empty());
    test.clock.advance(3_600_001);
    until(async || changed_by_runs(&test.store).await == 3).await;
    assert_eq!(expired(&test.store, later).await, 3);
    stop.cancel();
    running.await.unwrap();
}
