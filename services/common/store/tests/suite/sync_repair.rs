//! Connected nodes that leave what they were told unanswered.

use std::time::Duration;

use vpnpanel_link::{AppliedState, Digest, Revision};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Answered, Attribution, AuditFilter, CommandKind, CommandState, Described, JobLease,
    NodeCommand, Page, Progress, ResourceError, Store, SyncRepair, on_each_database,
};

use crate::fixture::{Agent, World, new_node};

on_each_database!(
    a_node_that_answers_nothing_is_asked_for_the_whole_state_and_not_again_at_once,
    a_node_that_answers_late_and_is_told_more_is_not_behind,
    nodes_that_hold_removals_or_are_not_connected_are_left_alone,
);

const LEASE: Duration = Duration::from_secs(86_400);
const MINUTE: i64 = 60_000;

async fn lease(store: &Store) -> JobLease {
    store.register_job("repair", "", LEASE).await.unwrap();
    let lease = store.claim_job(&["repair"], "test", LEASE).await.unwrap();
    lease.expect("the lease")
}

async fn repair(store: &Store, lease: &JobLease) -> SyncRepair {
    let who = Attribution::system("test", |_, _| Described::default());
    store.acting(who).repair_sync(lease, 10).await.unwrap()
}

async fn told(store: &Store, agent: &Agent, revision: u64) {
    progress(store, agent, Some(revision), None).await;
}

async fn answers(store: &Store, agent: &Agent, revision: u64, errors: Vec<ResourceError>) {
    let answer = Answered {
        state: AppliedState {
            revision: Revision(revision),
            digest: Digest([7; 32]),
        },
        settled: errors.is_empty(),
        errors: Some(errors),
    };
    progress(store, agent, None, Some(answer)).await;
}

async fn progress(store: &Store, agent: &Agent, told: Option<u64>, applied: Option<Answered>) {
    let progress = Progress {
        node_id: agent.node,
        generation: agent.generation,
        told: told.map(Revision),
        applied,
    };
    store.record_progress(&[progress]).await.unwrap();
}

async fn commands(world: &World, agent: &Agent) -> Vec<NodeCommand> {
    let listed = world.store.node_commands(None, agent.node, Page::first(10));
    listed.await.unwrap()
}

async fn a_node_that_answers_nothing_is_asked_for_the_whole_state_and_not_again_at_once(
    test: TestStore,
) {
    let world = World::new(test).await;
    let store = &world.store;
    let lease = lease(store).await;
    let mut agent = Agent::connect(store, world.node).await;
    answers(store, &agent, 1_000_000, Vec::new()).await;
    told(store, &agent, 1_000_005).await;
    let since = store.now_ms();
    world.test.clock.advance(3 * MINUTE);
    // Its stream was cut for it, and it is told again on the next.
    agent.reconnect(store).await;
    told(store, &agent, 1_000_006).await;
    assert_eq!(repair(store, &lease).await, SyncRepair::default());
    assert_eq!(store.fleet_figures().await.unwrap().behind, 0);

    world.test.clock.advance(2 * MINUTE + 1);
    assert_eq!(store.fleet_figures().await.unwrap().behind, 1);
    let done = repair(store, &lease).await;
    let [(node, behind_since)] = done.asked[..] else {
        panic!("{done:?}")
    };
    assert_eq!(node, agent.node);
    assert!(
        (since - 5_000..=since).contains(&behind_since),
        "since it was told first"
    );
    let [command] = &commands(&world, &agent).await[..] else {
        panic!("one command")
    };
    assert_eq!(
        (command.kind, command.state),
        (CommandKind::Resync, CommandState::Pending)
    );
    let sent = store.commands_to_send(agent.node, agent.generation).await;
    assert_eq!(sent.unwrap().len(), 1, "the stream has it to carry");
    let filter = AuditFilter::default();
    let events = store.audit_events(None, &filter, Page::first(100)).await;
    let ours = |actor: &str| actor == "system:test";
    assert_eq!(
        events
            .unwrap()
            .iter()
            .filter(|event| ours(&event.actor))
            .count(),
        1
    );

    assert_eq!(repair(store, &lease).await, SyncRepair::default());
    world.test.clock.advance(30 * MINUTE + 1);
    assert_eq!(
        repair(store, &lease).await.asked.len(),
        1,
        "half an hour later"
    );
    answers(store, &agent, 1_000_006, Vec::new()).await;
    world.test.clock.advance(60 * MINUTE);
    assert_eq!(repair(store, &lease).await, SyncRepair::default());
    assert_eq!(store.fleet_figures().await.unwrap().behind, 0);
}

async fn a_node_that_answers_late_and_is_told_more_is_not_behind(test: TestStore) {
    let world = World::new(test).await;
    let store = &world.store;
    let lease = lease(store).await;
    let agent = Agent::connect(store, world.node).await;
    told(store, &agent, 1_000_000).await;
    for revision in 1_000_001..1_000_008 {
        world.test.clock.advance(MINUTE);
        // The answer to what was told before, and the next, in one write.
        let answer = Answered {
            state: AppliedState {
                revision: Revision(revision - 1),
                digest: Digest([7; 32]),
            },
            settled: true,
            errors: Some(Vec::new()),
        };
        progress(store, &agent, Some(revision), Some(answer)).await;
        assert_eq!(repair(store, &lease).await, SyncRepair::default());
    }
}

async fn nodes_that_hold_removals_or_are_not_connected_are_left_alone(test: TestStore) {
    let world = World::new(test).await;
    let store = &world.store;
    let lease = lease(store).await;
    let holds = Agent::connect(store, world.node).await;
    answers(store, &holds, 1_000_000, Vec::new()).await;
    told(store, &holds, 1_000_005).await;
    let held = ResourceError {
        kind: "state".to_owned(),
        id: String::new(),
        message: "the change would take away 40 of this node's users".to_owned(),
    };
    answers(store, &holds, 1_000_000, vec![held]).await;
    let away = Agent::connect(store, new_node(store, None, "paris").await).await;
    told(store, &away, 1_000_005).await;
    let ended = [(away.node, away.generation)];
    store.record_disconnected(&ended).await.unwrap();
    world.test.clock.advance(10 * MINUTE);
    let done = repair(store, &lease).await;
    assert_eq!((done.asked.len(), done.looked_at), (0, 1));
    assert_eq!(repair(store, &lease).await.looked_at, 0, "it was looked at");
    assert_eq!(commands(&world, &holds).await, []);
    assert_eq!(commands(&world, &away).await, []);
}
