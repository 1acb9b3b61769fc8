//! What the database itself refuses, whoever asks.

use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{Backend, on_each_database};

use super::support::{chain, events, lease, platform, raw, record};

on_each_database! {
    nothing_in_the_log_can_be_changed_or_removed,
    an_event_cannot_come_with_a_place_or_take_one_that_is_taken,
}

async fn nothing_in_the_log_can_be_changed_or_removed(test: TestStore) {
    record(&test.store, None, 3).await;
    let lease = lease(&test.store).await;
    chain(&test.store, &lease).await;
    record(&test.store, None, 2).await;
    let before = events(&test.store, None).await;
    let mut refused = vec![
        "UPDATE audit_events SET actor = 'nobody'",
        "UPDATE audit_events SET actor = 'nobody', seq = 9, prev_hash = hash, hash = hash",
        "UPDATE audit_events SET times = times + 1 WHERE seq IS NULL",
        "UPDATE audit_events SET seq = NULL, hash = NULL, prev_hash = NULL WHERE seq = 2",
        "UPDATE audit_events SET seq = 17 WHERE seq = 2",
        "DELETE FROM audit_events",
        "DELETE FROM audit_events WHERE seq IS NULL",
        "DELETE FROM audit_events WHERE seq = 1",
        "UPDATE audit_heads SET seq = seq - 1",
        "UPDATE audit_heads SET hash = prev FROM (SELECT prev_hash AS prev FROM audit_events) AS p",
        "DELETE FROM audit_heads",
        // A checkpoint lets go what it covers, and is never taken back: the transaction is.
        "BEGIN;
         INSERT INTO audit_checkpoints SELECT tenant_id, 1, hash, 0 FROM audit_heads;
         DELETE FROM audit_events WHERE seq <= 2",
        "BEGIN;
         INSERT INTO audit_checkpoints SELECT tenant_id, 1, hash, 0 FROM audit_heads;
         UPDATE audit_checkpoints SET through_seq = 2",
        "BEGIN;
         INSERT INTO audit_checkpoints SELECT tenant_id, 1, hash, 0 FROM audit_heads;
         DELETE FROM audit_checkpoints",
    ];
    match test.store.backend() {
        Backend::Postgres => refused.extend([
            "TRUNCATE audit_events",
            "TRUNCATE audit_heads",
            "TRUNCATE audit_checkpoints",
        ]),
        Backend::Sqlite => refused.extend([
            "REPLACE INTO audit_events SELECT * FROM audit_events WHERE seq IS NULL",
            "REPLACE INTO audit_heads SELECT tenant_id, seq + 1, hash, 0 FROM audit_heads",
            "UPDATE OR REPLACE audit_events
             SET seq = 1, hash = x'00', prev_hash = x'00' WHERE seq IS NULL",
        ]),
    }
    for text in refused {
        let error = raw(&test, text).await.expect_err(text).to_string();
        assert!(error.contains("append-only"), "{text}: {error}");
    }
    assert_eq!(events(&test.store, None).await, before);
}

async fn an_event_cannot_come_with_a_place_or_take_one_that_is_taken(test: TestStore) {
    record(&test.store, None, 1).await;
    let lease = lease(&test.store).await;
    chain(&test.store, &lease).await;
    let (platform, bytes) = match test.store.backend() {
        Backend::Postgres => (platform(&test), "'\\x00'::bytea"),
        Backend::Sqlite => (platform(&test), "x'00'"),
    };
    let insert = |seq: &str, hash: &str| {
        format!(
            "INSERT INTO audit_events (tenant_id, id, recorded_at, actor, roles, credential,
                address, user_agent, request_id, method, resource_type, resource_id, outcome,
                reason, times, state_before, state_after, seq, prev_hash, hash)
             VALUES ({platform}, {platform}, 0, '', '', '', '', '', '', '', '', '', 'done', '', 1,
                '', '', {seq}, {hash}, {hash})"
        )
    };
    let error = raw(&test, &insert("2", bytes)).await.unwrap_err();
    assert!(error.to_string().contains("append-only"), "{error}");
    raw(&test, &insert("NULL", "NULL")).await.unwrap();
    let taken = format!(
        "UPDATE audit_events SET seq = 1, prev_hash = {bytes}, hash = {bytes} WHERE seq IS NULL"
    );
    raw(&test, &taken).await.expect_err("the place is taken");
    raw(&test, &insert("NULL", "NULL"))
        .await
        .expect_err("the id is taken");
}
