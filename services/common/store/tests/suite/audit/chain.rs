//! The chainer: each event gets one place, whoever chains and however late it was committed.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use vpnpanel_domain::TenantId;
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{Anchor, Breach, Page, StoreError, fresh_id, on_each_database};

use super::support::{chain, events, lease, platform, raw, record};

on_each_database! {
    every_tenant_has_a_chain_of_its_own_that_verifies,
    a_chainer_that_lost_its_lease_chains_nothing,
    retention_removes_the_beginning_and_what_is_left_verifies,
    a_beginning_that_retention_did_not_remove_is_missed,
}

async fn every_tenant_has_a_chain_of_its_own_that_verifies(test: TestStore) {
    let store = &test.store;
    let tenants: [Option<TenantId>; 3] = [None, Some(fresh_id()), Some(fresh_id())];
    let lease = lease(store).await;
    let others = store.audit_chains().await.unwrap();
    for round in 1..=3 {
        for (more, tenant) in tenants.iter().enumerate() {
            record(store, *tenant, 5 + more).await;
        }
        let tail = store.audit_tail().await.unwrap();
        assert_eq!(tail.count, 18);
        assert!(tail.oldest_at_ms.is_some());
        assert!(store.has_audit_work().await.unwrap());
        assert_eq!(chain(store, &lease).await, 18);
        assert!(!store.has_audit_work().await.unwrap());
        for (more, tenant) in tenants.iter().enumerate() {
            let found = store.verify_audit(*tenant, None).await.unwrap();
            assert_eq!(found.broken, None);
            assert_eq!(found.verified, round * (5 + more as u64));
            assert_eq!(found.head.unwrap().seq, found.verified);
            assert_eq!(found.tail.count, 0);
        }
    }
    let mut chains = store.audit_chains().await.unwrap();
    chains.sort();
    let mut expected = [others.as_slice(), &tenants].concat();
    expected.sort();
    assert_eq!(chains, expected);
    let first = store
        .chained_events(tenants[1], Page::first(4))
        .await
        .unwrap();
    let numbers: Vec<u64> = first
        .iter()
        .map(|it| it.link.as_ref().unwrap().seq)
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let next = store.chained_events(tenants[1], Page::after(4, 4)).await;
    assert_eq!(next.unwrap()[0].link.as_ref().unwrap().seq, 5);
}

async fn a_chainer_that_lost_its_lease_chains_nothing(test: TestStore) {
    let store = &test.store;
    let old = lease(store).await;
    record(store, None, 4).await;
    test.clock.advance(3_600_001);
    let new = store
        .claim_job(&["chain-audit"], "another", Duration::from_secs(60))
        .await
        .unwrap()
        .expect("the lease");
    let lost = store.chain_audit(&old, 100).await;
    assert!(matches!(lost, Err(StoreError::LeaseLost)), "{lost:?}");
    assert_eq!(chain(store, &new).await, 4);
    let found = store.verify_audit(None, None).await.unwrap();
    assert_eq!((found.verified, found.broken), (4, None));
}

async fn retention_removes_the_beginning_and_what_is_left_verifies(test: TestStore) {
    let store = &test.store;
    let tenant: Option<TenantId> = Some(fresh_id());
    let lease = lease(store).await;
    record(store, tenant, 10).await;
    record(store, None, 3).await;
    chain(store, &lease).await;
    let noted = store
        .verify_audit(tenant, None)
        .await
        .unwrap()
        .head
        .unwrap();
    test.clock.advance(1_000_000);
    let bound = test.clock.now_ms() - 500_000;
    record(store, tenant, 2).await;
    chain(store, &lease).await;

    let acting = store.acting(vpnpanel_store::Attribution::system(
        "scheduler/audit-retention",
        super::support::describe,
    ));
    let mut removed = 0;
    loop {
        match acting.trim_audit(&lease, bound, 4).await.unwrap() {
            0 => break,
            count => removed += count,
        }
    }
    assert_eq!(removed, 13);
    let left = events(store, tenant).await;
    assert_eq!(left.len(), 2 + 3, "two, and an event of each batch");
    let found = store.verify_audit(tenant, Some(&noted)).await.unwrap();
    assert_eq!(found.broken, None);
    assert_eq!(found.begins_after.as_ref(), Some(&noted));
    assert_eq!(found.anchored, Some(true));
    assert_eq!(found.tail.count, 3);
    chain(store, &lease).await;
    let found = store.verify_audit(tenant, None).await.unwrap();
    assert_eq!((found.verified, found.broken), (5, None));
    assert_eq!(found.head.unwrap().seq, 15);
    let platform = store.verify_audit(None, None).await.unwrap();
    assert_eq!((platform.verified, platform.broken), (1, None));
    let gone = Anchor {
        seq: 4,
        hash: vec![1; 32],
    };
    let found = store.verify_audit(tenant, Some(&gone)).await.unwrap();
    assert_eq!((found.anchored, found.broken), (None, None));
}

async fn a_beginning_that_retention_did_not_remove_is_missed(test: TestStore) {
    let store = &test.store;
    let lease = lease(store).await;
    record(store, None, 6).await;
    chain(store, &lease).await;
    // The database lets go what a checkpoint covers: the checkpoint has to be answered for.
    let platform = platform(&test);
    let text = format!(
        "INSERT INTO audit_checkpoints
         SELECT tenant_id, seq, hash, 0 FROM audit_events WHERE seq = 3;
         DELETE FROM audit_events WHERE seq <= 3 AND tenant_id = {platform}"
    );
    raw(&test, &text).await.unwrap();
    let broken = store.verify_audit(None, None).await.unwrap().broken;
    assert_eq!(
        broken.map(|it| (it.seq, it.breach)),
        Some((3, Breach::Removed))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_committed_late_comes_behind_the_head() {
    let test = TestStore::postgres().await;
    let store = &test.store;
    let lease = lease(store).await;
    record(store, None, 1).await;
    chain(store, &lease).await;
    let mut late = PgConnection::connect(&test.url).await.unwrap();
    late.execute(
        "BEGIN;
         INSERT INTO audit_events (tenant_id, id, recorded_at, actor, roles, credential, address,
            user_agent, request_id, method, resource_type, resource_id, outcome, reason, times,
            state_before, state_after)
         SELECT tenant_id, gen_random_uuid(), recorded_at, 'late', roles, credential, address,
            user_agent, request_id, method, resource_type, resource_id, outcome, reason, times,
            state_before, state_after FROM audit_events LIMIT 1",
    )
    .await
    .unwrap();
    record(store, None, 2).await;
    assert_eq!(chain(store, &lease).await, 2, "nothing waits for it");
    late.execute("COMMIT").await.unwrap();
    assert_eq!(chain(store, &lease).await, 1);
    let found = store.verify_audit(None, None).await.unwrap();
    assert_eq!((found.verified, found.broken), (4, None));
    let order = store.chained_events(None, Page::first(9)).await.unwrap();
    assert_eq!(order[3].actor, "late");
}
