//! Signing keys rotate by themselves, once for all replicas.

use tokio_util::sync::CancellationToken;
use vpnpanel_store::{SigningKeyState, on_each_database, testing::TestStore};

use crate::fixture::{keys, quick, replica, until};

on_each_database! {
    a_key_signs_for_its_lifetime_and_two_replicas_rotate_it_once,
}

const JOB: &str = "rotate-signing-keys";
const DAY_MS: i64 = 24 * 3_600_000;

async fn count(test: &TestStore, state: SigningKeyState) -> usize {
    let keys = test.store.all_signing_keys().await.unwrap();
    keys.iter().filter(|key| key.state == state).count()
}

async fn a_key_signs_for_its_lifetime_and_two_replicas_rotate_it_once(test: TestStore) {
    let first = keys().make.make_signing_key().unwrap();
    test.store.ensure_signing_key(first.clone()).await.unwrap();
    let stop = CancellationToken::new();
    let replicas = [
        replica(test.another().await, quick(), &stop),
        replica(test.another().await, quick(), &stop),
    ];
    until(async || count(&test, SigningKeyState::Standby).await == 1).await;
    let due_after = async |ms| {
        test.clock.advance(ms);
        test.store.make_job_due(JOB).await.unwrap();
    };
    let last = async || test.store.job(JOB).await.unwrap().last_run.unwrap();
    let before = last().await.number;
    due_after(29 * DAY_MS).await;
    let later = async || {
        let run = last().await;
        run.number > before && run.ended_at.is_some()
    };
    until(later).await;
    assert_eq!(count(&test, SigningKeyState::Retiring).await, 0);
    due_after(DAY_MS + 1).await;
    until(async || count(&test, SigningKeyState::Retiring).await == 1).await;
    let active = test.store.signing_keys().await.unwrap();
    let active = active
        .iter()
        .find(|key| key.state == SigningKeyState::Active);
    assert_ne!(active.unwrap().kid, first.kid);
    due_after(DAY_MS).await;
    until(async || count(&test, SigningKeyState::Retired).await == 1).await;
    assert_eq!(count(&test, SigningKeyState::Active).await, 1);
    assert_eq!(count(&test, SigningKeyState::Standby).await, 1);
    stop.cancel();
    for replica in replicas {
        replica.await.unwrap();
    }
}
