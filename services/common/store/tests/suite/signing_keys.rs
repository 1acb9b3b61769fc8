//! How signing keys follow each other.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    JobLease, MakeSigningKey, NewSigningKey, SigningKeyState, SigningKeyTerms, Store, StoreError,
    on_each_database,
};

on_each_database!(
    a_key_is_published_before_it_signs_and_verifies_after_it_has_signed,
    a_revoked_key_is_out_of_force_at_once_and_the_next_one_signs,
    the_job_rotates_when_a_key_has_signed_for_its_lifetime,
    rotations_at_once_leave_one_key_that_signs,
);

/// Keys by number.
#[derive(Default)]
struct Numbered(AtomicU32);

impl MakeSigningKey for Numbered {
    fn make_signing_key(&self) -> Result<NewSigningKey, Box<dyn std::error::Error + Send + Sync>> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Ok(NewSigningKey {
            kid: format!("k{number}"),
            public_key: vec![1],
            sealed_private_key: vec![2],
        })
    }
}

const OVERLAP: Duration = Duration::from_secs(1000);

async fn first(store: &Store, make: &Numbered) {
    let new = make.make_signing_key().unwrap();
    store.ensure_signing_key(new).await.unwrap();
}

/// Key ids and what they are used for: `k0 active`.
async fn states(store: &Store) -> Vec<String> {
    let keys = store.all_signing_keys().await.unwrap();
    for key in &keys {
        let signs = matches!(
            key.state,
            SigningKeyState::Standby | SigningKeyState::Active
        );
        assert_eq!(key.sealed_private_key.is_empty(), !signs, "{key:?}");
    }
    keys.iter()
        .map(|key| format!("{} {}", key.kid, key.state.as_str()))
        .collect()
}

async fn a_key_is_published_before_it_signs_and_verifies_after_it_has_signed(test: TestStore) {
    let (store, make) = (&test.store, Numbered::default());
    first(store, &make).await;
    test.clock.advance(1);
    store.rotate_signing_keys(&make, OVERLAP).await.unwrap();
    assert_eq!(
        states(store).await,
        ["k0 retiring", "k1 active", "k2 standby"]
    );
    test.clock.advance(500_000);
    let kept = store.rotate_signing_keys(&make, OVERLAP).await.unwrap();
    assert_eq!(
        states(store).await,
        ["k0 retiring", "k1 retiring", "k2 active", "k3 standby"]
    );
    assert_eq!(kept.len(), 4);
    test.clock.advance(500_001);
    let kept = store.rotate_signing_keys(&make, OVERLAP).await.unwrap();
    assert_eq!(kept.len(), 4, "the first has retired");
    assert_eq!(states(store).await[0], "k0 retired");
}

async fn a_revoked_key_is_out_of_force_at_once_and_the_next_one_signs(test: TestStore) {
    let (store, make) = (&test.store, Numbered::default());
    first(store, &make).await;
    let revoke = async |kid: &str| store.revoke_signing_key(kid, &make).await;
    test.clock.advance(1);
    revoke("k0").await.unwrap();
    assert_eq!(
        states(store).await,
        ["k0 retired", "k1 active", "k2 standby"]
    );
    test.clock.advance(1);
    revoke("k2").await.unwrap();
    assert_eq!(states(store).await[2..], ["k2 retired", "k3 standby"]);
    for kid in ["k0", "k9"] {
        let refused = revoke(kid).await;
        assert!(matches!(refused, Err(StoreError::NotFound("signing key"))));
    }
}

async fn lease(store: &Store) -> JobLease {
    let every = Duration::from_secs(1);
    store.register_job("keys", "", every).await.unwrap();
    store.make_job_due("keys").await.unwrap();
    store
        .claim_job(&["keys"], "test", Duration::from_secs(1_000_000_000))
        .await
        .unwrap()
        .unwrap()
}

async fn the_job_rotates_when_a_key_has_signed_for_its_lifetime(test: TestStore) {
    let (store, make) = (&test.store, Numbered::default());
    first(store, &make).await;
    let lease = lease(store).await;
    let terms = SigningKeyTerms {
        lifetime: Duration::from_secs(10_000),
        overlap: OVERLAP,
    };
    let tend = async || store.tend_signing_keys(&lease, &make, terms).await.unwrap();
    test.clock.advance(1);
    assert_eq!(tend().await, 1, "the next key");
    assert_eq!(tend().await, 0);
    assert_eq!(states(store).await, ["k0 active", "k1 standby"]);
    test.clock.advance(10_000_000);
    assert_eq!(tend().await, 1);
    assert_eq!(
        states(store).await,
        ["k0 retiring", "k1 active", "k2 standby"]
    );
    assert_eq!(tend().await, 0);
    test.clock.advance(1_000_000);
    assert_eq!(tend().await, 1);
    assert_eq!(states(store).await[0], "k0 retired");
    test.clock.advance(91 * 24 * 3_600_000);
    tend().await;
    assert!(!states(store).await.contains(&"k0 retired".to_owned()));
    let foreign = JobLease {
        fence: lease.fence + 1,
        ..lease.clone()
    };
    let lost = store.tend_signing_keys(&foreign, &make, terms).await;
    assert!(matches!(lost, Err(StoreError::LeaseLost)));
}

async fn rotations_at_once_leave_one_key_that_signs(test: TestStore) {
    let make = Numbered::default();
    first(&test.store, &make).await;
    let stores = [
        test.another().await,
        test.another().await,
        test.another().await,
    ];
    let all = stores
        .iter()
        .map(|store| store.rotate_signing_keys(&make, OVERLAP));
    for rotated in futures::future::join_all(all).await {
        rotated.unwrap();
    }
    let states = states(&test.store).await;
    let count = |state: &str| states.iter().filter(|it| it.ends_with(state)).count();
    assert_eq!((count(" active"), count(" standby")), (1, 1), "{states:?}");
}
