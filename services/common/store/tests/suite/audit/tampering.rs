//! What somebody with the database's password can do to the log, and where it shows.

use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{Anchor, Backend, Breach, Verification, on_each_database};

use super::support::{chain, drop_guards, events, lease, platform, raw, record};

on_each_database! {
    a_changed_event_is_found,
    a_removed_event_is_found,
    a_reordered_event_is_found,
    an_inserted_event_is_found,
    a_removed_end_is_found,
    a_chain_that_was_made_anew_is_found_by_a_noted_link,
}

const EVENTS: u64 = 9;

/// A chain of events whose guards are gone.
async fn chained(test: &TestStore) {
    record(&test.store, None, EVENTS as usize).await;
    let lease = lease(&test.store).await;
    chain(&test.store, &lease).await;
    let whole = verify(test, None).await;
    assert_eq!((whole.verified, whole.broken), (EVENTS, None));
    drop_guards(test).await;
}

async fn verify(test: &TestStore, anchor: Option<&Anchor>) -> Verification {
    test.store.verify_audit(None, anchor).await.unwrap()
}

#[track_caller]
fn assert_broken(found: &Verification, seq: u64, breach: Breach) {
    let broken = found.broken.map(|it| (it.seq, it.breach));
    assert_eq!(broken, Some((seq, breach)));
}

async fn a_changed_event_is_found(test: TestStore) {
    chained(&test).await;
    for change in [
        "actor = 'account:me'",
        "state_after = '{}'",
        "times = 2",
        "recorded_at = recorded_at + 1",
    ] {
        raw(
            &test,
            &format!("UPDATE audit_events SET {change} WHERE seq = 5"),
        )
        .await
        .unwrap();
        let found = verify(&test, None).await;
        assert_eq!(found.verified, 4, "{change}");
        assert_broken(&found, 5, Breach::Tampered);
        assert!(found.broken.unwrap().event_id.is_some());
    }
    let other = "UPDATE audit_events SET hash = prev_hash WHERE seq = 2";
    raw(&test, other).await.unwrap();
    assert_broken(&verify(&test, None).await, 2, Breach::Tampered);
}

async fn a_removed_event_is_found(test: TestStore) {
    chained(&test).await;
    raw(&test, "DELETE FROM audit_events WHERE seq = 4")
        .await
        .unwrap();
    let found = verify(&test, None).await;
    assert_eq!(found.verified, 3);
    assert_broken(&found, 4, Breach::Removed);
    // To close the gap does not help.
    raw(&test, "UPDATE audit_events SET seq = -seq WHERE seq > 4")
        .await
        .unwrap();
    raw(
        &test,
        "UPDATE audit_events SET seq = -seq - 1 WHERE seq < 0",
    )
    .await
    .unwrap();
    assert_broken(&verify(&test, None).await, 4, Breach::Reordered);
}

async fn a_reordered_event_is_found(test: TestStore) {
    chained(&test).await;
    // Two events change their numbers, and keep their hashes …
    raw(
        &test,
        "UPDATE audit_events SET seq = 100 WHERE seq = 3;
         UPDATE audit_events SET seq = 3 WHERE seq = 4;
         UPDATE audit_events SET seq = 4 WHERE seq = 100",
    )
    .await
    .unwrap();
    let found = verify(&test, None).await;
    assert_eq!(found.verified, 2);
    assert_broken(&found, 3, Breach::Reordered);
    // … or take the hashes of their places.
    raw(
        &test,
        "CREATE TABLE places AS SELECT id, seq, prev_hash, hash FROM audit_events;
         UPDATE audit_events SET
            prev_hash = (SELECT p.prev_hash FROM places p WHERE p.seq = 7 - audit_events.seq),
            hash = (SELECT p.hash FROM places p WHERE p.seq = 7 - audit_events.seq)
         WHERE seq IN (3, 4)",
    )
    .await
    .unwrap();
    assert_broken(&verify(&test, None).await, 3, Breach::Reordered);
}

async fn an_inserted_event_is_found(test: TestStore) {
    chained(&test).await;
    let platform = platform(&test);
    let id = match test.store.backend() {
        Backend::Postgres => "gen_random_uuid()",
        Backend::Sqlite => "randomblob(16)",
    };
    let copy = |seq: u64, of: u64| {
        format!(
            "INSERT INTO audit_events (tenant_id, id, recorded_at, actor, roles, credential,
                address, user_agent, request_id, method, resource_type, resource_id, outcome,
                reason, times, state_before, state_after, seq, prev_hash, hash)
             SELECT {platform}, {id}, recorded_at, actor, roles, credential, address, user_agent,
                request_id, method, resource_type, resource_id, outcome, reason, times,
                state_before, state_after, {seq}, hash, hash FROM audit_events WHERE seq = {of}"
        )
    };
    // At the end, where its hash is not even looked at by whoever trusts the last event.
    raw(&test, &copy(EVENTS + 1, EVENTS)).await.unwrap();
    let found = verify(&test, None).await;
    assert_broken(&found, EVENTS + 1, Breach::Tampered);
    raw(
        &test,
        &format!("DELETE FROM audit_events WHERE seq > {EVENTS}"),
    )
    .await
    .unwrap();
    // Beside another one, once nothing keeps places unique.
    raw(&test, "DROP INDEX audit_events_seq").await.unwrap();
    raw(&test, &copy(6, 2)).await.unwrap();
    let found = verify(&test, None).await;
    assert!(found.broken.is_some_and(|it| it.seq == 6), "{found:?}");
    raw(
        &test,
        "UPDATE audit_events SET seq = 0 WHERE seq = 6 AND prev_hash = hash",
    )
    .await
    .unwrap();
    assert_broken(&verify(&test, None).await, EVENTS, Breach::Inserted);
}

async fn a_removed_end_is_found(test: TestStore) {
    chained(&test).await;
    let noted = verify(&test, None).await.head.unwrap();
    raw(&test, "DELETE FROM audit_events WHERE seq > 6")
        .await
        .unwrap();
    let found = verify(&test, None).await;
    assert_eq!(found.verified, 6);
    assert_broken(&found, 7, Breach::Removed);
    // Whoever moves the head as well is found by a link that was noted elsewhere, and not without.
    raw(
        &test,
        "UPDATE audit_heads SET seq = 6, hash = (SELECT hash FROM audit_events WHERE seq = 6)",
    )
    .await
    .unwrap();
    assert_eq!(verify(&test, None).await.broken, None);
    assert_broken(&verify(&test, Some(&noted)).await, 7, Breach::Removed);
    raw(&test, "DELETE FROM audit_events; DELETE FROM audit_heads")
        .await
        .unwrap();
    assert_broken(&verify(&test, Some(&noted)).await, 1, Breach::Removed);
}

async fn a_chain_that_was_made_anew_is_found_by_a_noted_link(test: TestStore) {
    chained(&test).await;
    let noted = verify(&test, None).await.head.unwrap();
    let before = events(&test.store, None).await;
    // Somebody who can do everything changes an event and lets the chainer do the rest.
    let platform = platform(&test);
    let text = format!(
        "UPDATE audit_events SET actor = 'account:me' WHERE seq = 2;
         UPDATE audit_events SET seq = NULL, prev_hash = NULL, hash = NULL
         WHERE tenant_id = {platform};
         DELETE FROM audit_heads WHERE tenant_id = {platform};
         DELETE FROM jobs"
    );
    raw(&test, &text).await.unwrap();
    let lease = lease(&test.store).await;
    assert_eq!(chain(&test.store, &lease).await, EVENTS);
    assert_ne!(events(&test.store, None).await, before);
    assert_eq!(verify(&test, None).await.broken, None);
    let found = verify(&test, Some(&noted)).await;
    assert_eq!(found.anchored, Some(false));
    assert_broken(&found, EVENTS, Breach::Rewritten);
}
