//! Nodes that say nothing themselves: their collector is gone, or their certificate comes to its end.

use std::time::Duration;

use vpnpanel_link::{Generation, Pace};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    FleetFigures, JobLease, Liveness, NodePatch, NodeState, Store, StoreError, good_for_ms,
    on_each_database,
};

use crate::fixture::{Agent, Keys, World, new_node};
use crate::renewal::{WEEK_MS, enrolled, renew, shown};

on_each_database!(
    a_node_whose_collector_was_killed_is_offline_since_it_was_last_heard_of,
    a_node_that_is_heard_of_stays_online,
    a_stream_that_ends_is_offline_from_then_on,
    what_a_lost_lease_finds_changes_nothing,
    a_certificate_that_is_not_renewed_is_warned_of_once,
);

const LEASE: Duration = Duration::from_secs(3_600);

async fn lease(store: &Store, job: &str) -> JobLease {
    store.register_job(job, "", LEASE).await.unwrap();
    let lease = store.claim_job(&[job], "test", LEASE).await.unwrap();
    lease.expect("the lease")
}

async fn how_is(world: &World, agent: &Agent) -> NodeState {
    let states = world.store.node_states(&[agent.node]).await.unwrap();
    states[&agent.node].clone()
}

async fn heard(world: &World, agent: &Agent, generation: Generation) {
    let now = world.store.now_ms();
    let sign = Liveness {
        node_id: agent.node,
        generation,
        seen_at_ms: now,
        good_until_ms: now + good_for_ms(Pace::default()),
        agent_version: "test".to_owned(),
        engines: Vec::new(),
        unacked_batches: 0,
        unacked_bytes: 0,
    };
    world.store.record_liveness(&[sign]).await.unwrap();
}

async fn a_node_whose_collector_was_killed_is_offline_since_it_was_last_heard_of(test: TestStore) {
    let world = World::new(test).await;
    let agent = Agent::connect(&world.store, world.node).await;
    heard(&world, &agent, agent.generation).await;
    let seen = how_is(&world, &agent).await.seen_at_ms.unwrap();
    let job = lease(&world.store, "silent").await;
    let mark = || world.store.mark_silent_nodes(&job, 10);
    world
        .test
        .clock
        .advance(good_for_ms(Pace::default()) - 10_000);
    assert_eq!(mark().await.unwrap(), []);
    assert!(how_is(&world, &agent).await.connected);

    world.test.clock.advance(10_001);
    let silent = mark().await.unwrap();
    let [node] = &silent[..] else {
        panic!("{silent:?}")
    };
    assert_eq!(
        (node.node_id, node.collector.as_str(), node.seen_at_ms),
        (world.node, "test", Some(seen))
    );
    let state = how_is(&world, &agent).await;
    assert_eq!((state.connected, state.offline_at_ms), (false, Some(seen)));
    assert_eq!(mark().await.unwrap(), [], "once");

    // It was heard of after all: its collector had no database.
    heard(&world, &agent, agent.generation).await;
    let state = how_is(&world, &agent).await;
    assert_eq!((state.connected, state.offline_at_ms), (true, None));
}

async fn a_node_that_is_heard_of_stays_online(test: TestStore) {
    let world = World::new(test).await;
    let mut agent = Agent::connect(&world.store, world.node).await;
    let old = agent.generation;
    let job = lease(&world.store, "silent").await;
    for _ in 0..4 {
        world.test.clock.advance(30_000);
        heard(&world, &agent, agent.generation).await;
        let silent = world.store.mark_silent_nodes(&job, 10).await;
        assert_eq!(silent.unwrap(), []);
    }
    // What an older stream says is no sign of life of this one.
    agent.reconnect(&world.store).await;
    world.test.clock.advance(good_for_ms(Pace::default()) + 1);
    heard(&world, &agent, old).await;
    let silent = world.store.mark_silent_nodes(&job, 10).await;
    assert_eq!(silent.unwrap().len(), 1);
    agent.reconnect(&world.store).await;
    assert!(how_is(&world, &agent).await.connected);
}

async fn a_stream_that_ends_is_offline_from_then_on(test: TestStore) {
    let world = World::new(test).await;
    let agent = Agent::connect(&world.store, world.node).await;
    world.test.clock.advance(20_000);
    let before = world.store.now_ms();
    let ended = [(agent.node, agent.generation)];
    world.store.record_disconnected(&ended).await.unwrap();
    let since = how_is(&world, &agent).await.offline_at_ms.unwrap();
    assert!(since >= before && since <= world.store.now_ms());
    world.test.clock.advance(20_000);
    world.store.record_disconnected(&ended).await.unwrap();
    assert_eq!(how_is(&world, &agent).await.offline_at_ms, Some(since));
    let job = lease(&world.store, "silent").await;
    world.test.clock.advance(600_000);
    let silent = world.store.mark_silent_nodes(&job, 10).await;
    assert_eq!(silent.unwrap(), [], "it is known already");
}

async fn what_a_lost_lease_finds_changes_nothing(test: TestStore) {
    let world = World::new(test).await;
    let agent = Agent::connect(&world.store, world.node).await;
    let lost = lease(&world.store, "watch").await;
    world.test.clock.advance(3_600_001);
    lease(&world.store, "watch").await;
    let silent = world.store.mark_silent_nodes(&lost, 10).await;
    assert!(matches!(silent, Err(StoreError::LeaseLost)), "{silent:?}");
    let overdue = world.store.overdue_certificates(&lost, 10).await;
    assert!(matches!(overdue, Err(StoreError::LeaseLost)), "{overdue:?}");
    let repair = world.store.repair_sync(&lost, 10).await;
    assert!(matches!(repair, Err(StoreError::LeaseLost)), "{repair:?}");
    assert!(how_is(&world, &agent).await.connected);
}

async fn a_certificate_that_is_not_renewed_is_warned_of_once(test: TestStore) {
    let world = enrolled(test).await;
    let store = &world.store;
    let agent = Agent::connect(store, world.node).await;
    let other = new_node(store, None, "paris").await;
    let job = lease(store, "watch").await;
    let found = async || store.overdue_certificates(&job, 10).await.unwrap();
    let figures = async || store.fleet_figures().await.unwrap();
    world.test.clock.advance(WEEK_MS / 4 * 3 - 120_000);
    assert_eq!(found().await, []);
    assert!(!how_is(&world, &agent).await.certificate_overdue);
    let online = FleetFigures {
        online: 1,
        ..FleetFigures::default()
    };
    assert_eq!(figures().await, online, "{other} is not enrolled");

    world.test.clock.advance(120_000);
    let overdue = found().await;
    assert_eq!(overdue.len(), 1);
    assert_eq!(overdue[0].node_id, world.node);
    assert_eq!(found().await, [], "once");
    assert!(how_is(&world, &agent).await.certificate_overdue);
    assert_eq!(figures().await.certificates_overdue, 1);

    // The next one is used, and comes to its end too.
    renew(&world, shown(b"first"), b"second key", b"second").await;
    assert!(
        how_is(&world, &agent).await.certificate_overdue,
        "it is not used yet"
    );
    store
        .use_next_certificate(world.node, b"second")
        .await
        .unwrap();
    assert!(!how_is(&world, &agent).await.certificate_overdue);
    assert_eq!(figures().await, online);
    world.test.clock.advance(WEEK_MS + 1);
    assert_eq!(found().await.len(), 1);
    let after = figures().await;
    assert_eq!(
        (after.certificates_overdue, after.certificates_ended),
        (0, 1)
    );

    // A node that is refused anyway is none to be warned of.
    let patch = NodePatch {
        disabled: Some(true),
        ..NodePatch::default()
    };
    let disabled = store.update_node(None, world.node, patch, None, &Keys);
    disabled.await.unwrap();
    assert_eq!(figures().await, FleetFigures::default());
}
