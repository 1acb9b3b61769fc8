//! The lease is a fence: who has lost it commits nothing, however late it wakes up.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use vpnpanel_store::{JobEnd, StoreError, on_each_database, testing::TestStore};

use crate::fixture::{JOB, changes, quick, replica, settled, until, users};

const LEASE: Duration = Duration::from_secs(30);

on_each_database! {
    a_replica_that_wakes_up_after_its_lease_commits_nothing,
    of_many_replicas_one_gets_a_due_job,
    a_job_asked_for_while_it_runs_is_run_once_more,
    on_shutdown_a_lease_is_given_back,
}

async fn registered(test: &TestStore) {
    test.store
        .register_job(JOB, "expires users", Duration::from_secs(3_600))
        .await
        .unwrap();
}

async fn a_replica_that_wakes_up_after_its_lease_commits_nothing(test: TestStore) {
    registered(&test).await;
    users(&test.store, 5, Some(test.clock.now_ms() + 10_000)).await;
    let since = settled(&test.store, 5).await;
    let old = test
        .store
        .claim_job(&[JOB], "slow", LEASE)
        .await
        .unwrap()
        .expect("the lease");
    assert_eq!(
        test.store.claim_job(&[JOB], "other", LEASE).await.unwrap(),
        None
    );
    test.clock.advance(31_000);
    let new = test
        .store
        .claim_job(&[JOB], "other", LEASE)
        .await
        .unwrap()
        .expect("the lease");
    assert!(new.fence > old.fence);
    let lost = test.store.expire_users(&old, 100).await;
    assert!(matches!(lost, Err(StoreError::LeaseLost)), "{lost:?}");
    assert!(matches!(
        test.store.renew_job(&old, LEASE).await,
        Err(StoreError::LeaseLost)
    ));
    let end = JobEnd {
        error: None,
        due_in: Duration::ZERO,
    };
    assert!(matches!(
        test.store.finish_job(&old, end).await,
        Err(StoreError::LeaseLost)
    ));
    assert!(changes(&test.store, since).await.is_empty());
    assert_eq!(test.store.expire_users(&new, 100).await.unwrap(), 5);
    assert_eq!(test.store.expire_users(&new, 100).await.unwrap(), 0);
    until(async || changes(&test.store, since).await.len() == 5).await;
}

async fn of_many_replicas_one_gets_a_due_job(test: TestStore) {
    registered(&test).await;
    let mut claims = Vec::new();
    for n in 0..8 {
        let store = test.another().await;
        claims.push(tokio::spawn(async move {
            let owner = format!("replica-{n}");
            loop {
                match store.claim_job(&[JOB], &owner, LEASE).await {
                    Ok(claim) => return claim.is_some(),
                    Err(error) if error.is_transient() => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }));
    }
    let mut got = 0;
    for claim in claims {
        got += usize::from(claim.await.unwrap());
    }
    assert_eq!(got, 1);
}

async fn a_job_asked_for_while_it_runs_is_run_once_more(test: TestStore) {
    registered(&test).await;
    let first = test
        .store
        .claim_job(&[JOB], "one", LEASE)
        .await
        .unwrap()
        .expect("the lease");
    test.store.make_job_due(JOB).await.unwrap();
    let end = || JobEnd {
        error: None,
        due_in: Duration::from_secs(3_600),
    };
    test.store.finish_job(&first, end()).await.unwrap();
    test.clock.advance(2);
    let second = test
        .store
        .claim_job(&[JOB], "one", LEASE)
        .await
        .unwrap()
        .expect("the lease");
    test.store.finish_job(&second, end()).await.unwrap();
    assert_eq!(
        test.store.claim_job(&[JOB], "one", LEASE).await.unwrap(),
        None
    );
    test.store.pause_job(JOB, true).await.unwrap();
    test.clock.advance(3_600_001);
    assert_eq!(
        test.store.claim_job(&[JOB], "one", LEASE).await.unwrap(),
        None
    );
    test.store.pause_job(JOB, false).await.unwrap();
    assert!(
        test.store
            .claim_job(&[JOB], "one", LEASE)
            .await
            .unwrap()
            .is_some()
    );
}

async fn on_shutdown_a_lease_is_given_back(test: TestStore) {
    let stop = CancellationToken::new();
    let running = replica(test.store.clone(), quick(), &stop);
    until(async || {
        let job = test.store.job(JOB).await;
        job.is_ok_and(|job| job.last_run.is_some())
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    let job = test.store.job(JOB).await.unwrap();
    assert_eq!(job.lease_owner, None);
    assert!(job.last_run.expect("a run").ended_at.is_some());
}
